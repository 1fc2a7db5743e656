import dataclasses
import hashlib
import json
import math
import re
from dataclasses import replace

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from experiments import _overrides
from mmrep.config import (
    Experiment,
    Optim,
    Phase,
    Tokenizer,
    differences,
    fingerprint,
    flatten,
    from_json,
    to_json,
    unflatten,
)
from mmrep.errors import ConfigError

leaves = st.one_of(st.integers(), st.floats(allow_nan=False), st.text())
trees = st.recursive(
    st.dictionaries(st.text("abc", min_size=1), leaves, min_size=1),
    lambda inner: st.dictionaries(st.text("abc", min_size=1), st.one_of(leaves, inner), min_size=1),
    max_leaves=8,
)


@given(trees)
def test_flatten_and_unflatten_are_inverse(tree):
    assert unflatten(flatten(tree)) == tree


@given(st.floats(1e-6, 1.0), st.integers(1, 512), st.sampled_from(["adamw", "lion", "sgd"]))
def test_overrides_are_typed_and_change_nothing_else(lr, batch, name):
    base = toy.experiment()
    changed = _overrides.override(base, ["--optim.lr", repr(lr), "--data.batch-size", str(batch), "--optim.name", name])
    assert (changed.optim.lr, changed.data.batch_size, changed.optim.name) == (lr, batch, name)
    back = dataclasses.replace(
        changed, optim=dataclasses.replace(changed.optim, lr=base.optim.lr, name=base.optim.name),
        data=dataclasses.replace(changed.data, batch_size=base.data.batch_size),
    )  # fmt: skip
    assert back == base


def test_phases_are_reached_by_number():
    changed = _overrides.override(toy.experiment(), ["--phases.0.steps", "7", "--train.ema", "0.5"])
    assert changed.phases[0].steps == 7 and changed.train.ema == 0.5


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--optim.lr", "abc"], "--optim.lr"),
        (["--optim.clipp", "1"], r"--optim.clipp is no field of this config \(did you mean 'optim.clip'\?\)"),
        (["--phases.0.steps", "1.5"], "--phases.0.steps"),
        (["--phases.0.steps", "0"], r"phases\['train'\].steps is 0: it must be at least 1"),
        (["--train.ema", "1.5"], r"train.ema is 1.5: it must be at least 0 and below 1"),
        (["--optim.lr"], "--optim.lr"),
    ],
)
def test_override_mistakes_are_one_sentence(args, sentence):
    with pytest.raises(ConfigError, match=sentence) as error:
        _overrides.override(toy.experiment(), args)
    assert "\n" not in str(error.value)


def test_json_is_plain_and_names_its_types():
    stored = json.loads(json.dumps(to_json(toy.experiment())))
    assert stored["type"] == "mmrep.config:Experiment" and stored["system"]["type"] == "toy:Line"
    assert from_json(stored) == toy.experiment()


def test_stored_configs_cannot_reach_outside_code():
    stored = to_json(toy.experiment())
    with pytest.raises(ConfigError, match="outside mmrep and configs"):
        from_json(stored | {"system": {"type": "antigravity:Config"}})
    with pytest.raises(ConfigError, match="is not a config class"):
        from_json(stored | {"system": {"type": "os:system"}})
    with pytest.raises(ConfigError, match=r"optim.momentum|Optim.momentum"):
        from_json(stored | {"optim": stored["optim"] | {"momentum": 1}})
    with pytest.raises(ConfigError, match="a config cannot hold"):
        to_json(dataclasses.replace(toy.experiment(), evals=(lambda model: {},)))


def test_fingerprints_tell_configs_apart():
    a, b = toy.experiment(), toy.experiment(21)
    assert fingerprint(a) == fingerprint(toy.experiment()) != fingerprint(b)
    assert differences(to_json(a), to_json(b)) == ["phases.0.steps: 20 -> 21"]


def test_a_later_field_keeps_the_fingerprints_of_older_configs():
    older = {k: v for k, v in to_json(Optim()).items() if k != "factors"}
    digest = hashlib.sha256(json.dumps(older, sort_keys=True).encode()).hexdigest()[:16]
    assert fingerprint(Optim()) == digest != fingerprint(Optim(factors=(("a/.*", 0.5),)))


def test_steps_and_phases():
    config = toy.experiment(phases=(Phase("a", 3), Phase("b", run=print), Phase("c", 2)))
    assert config.steps == 6
    assert [config.phase_at(s)[0] for s in range(6)] == [0, 0, 0, 1, 2, 2]
    assert config.phase_at(5) == (2, 4)
    with pytest.raises(ConfigError, match="phases is empty"):
        Experiment(toy.Line(), toy.experiment().data, phases=())


def _numbers(config, prefix=""):
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _numbers(value, f"{prefix}{f.name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{f.name}", value


def _with(config, name, value):
    head, _, rest = name.partition(".")
    return replace(config, **{head: _with(getattr(config, head), rest, value) if rest else value})


def test_every_number_is_in_its_range_or_one_sentence():
    """F24: ZeroDivisionError, OverflowError, TypeError or nothing at all, some of them after training."""
    config = replace(toy.experiment(), data=replace(toy.experiment().data, tokenizer=Tokenizer()))
    names = {n for part in ("data", "optim", "train", "mesh") for n, _ in _numbers(getattr(config, part), f"{part}.")}
    allowed_zero = {
        "data.max_bad_records", "data.workers", "data.prefetch", "train.seed", "train.ema", "train.eval_every", "train.checkpoint_every", "train.checkpoint_minutes",
        "train.spike", "optim.lr", "optim.warmup", "optim.final", "optim.weight_decay", "optim.b1", "optim.b2", "optim.eps", "optim.clip",
    }  # fmt: skip
    checked = names - {"optim.layer_decay", "data.source.n"}  # by rules of their own
    for name in checked:
        for value in (-1, 0, math.nan, math.inf):
            good = (value == 0 and name in allowed_zero) or (value == -1 and name == "mesh.data")
            if good:
                _with(config, name, value)
                continue
            with pytest.raises(ConfigError, match=rf"^{re.escape(name)} is {value}: (it must be|give)") as error:
                _with(config, name, value)
            assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"phases.0.optim.lr is nan"):
        replace(config, phases=(replace(config.phases[0], optim=replace(config.optim, lr=math.nan)),))


def _smaller(config, name):
    node, steps = config, name.split(".")

    def changed(node, steps):
        step, rest = steps[0], steps[1:]
        if step.isdigit():
            return tuple(changed(v, rest) if i == int(step) else v for i, v in enumerate(node))
        return replace(node, **{step: changed(getattr(node, step), rest) if rest else 3})

    return changed(node, steps)


@pytest.mark.parametrize(
    ("slug", "name"),
    [("align", "system.text.vocab"), ("multimae", "system.maps.2.classes"), ("fourm", "system.modalities.5.vocab_size"),
     ("symile", "system.encoders.1.1.vocab"), ("favor", "system.lm.vocab"), ("ptunifier", "system.vocab"), ("g2l", "system.text.vocab"),
     ("m3el", "system.text.vocab")],
)  # fmt: skip
def test_a_system_smaller_than_its_data_is_refused(slug, name):
    """F12: NaN steps that were skipped with exit code 0 (align), or a finite loss (fourm, multimae)."""
    from mmrep import catalogue

    config = catalogue.experiment(slug, "tiny")
    ids = {m.name: m.vocab for m in config.data.modalities if m.vocab}
    with pytest.raises(ConfigError, match=rf"{re.escape(name)} is 3, but modality '\w+' has \d+ ids") as error:
        _smaller(config, name)
    assert any(f"{k!r} has {v} ids" in str(error.value) for k, v in ids.items())


@pytest.mark.parametrize(
    ("slug", "name", "modality"),
    [("gcog", "vocab", "instruction"), ("gcog", "answers", "answer"), ("lxmert", "attributes", "attributes"), ("lxmert", "answers", "answer"),
     ("bridgetower", "answers", "answer"), ("uni_perceiver", "classes", "label"), ("cwcl", "intents", "intent")],
)  # fmt: skip
def test_a_system_that_states_its_own_tables_is_held_to_them(slug, name, modality):
    from mmrep import catalogue

    with pytest.raises(ConfigError, match=rf"system takes \d ids of modality {modality!r}, which has \d+"):
        _smaller(catalogue.experiment(slug, "tiny"), f"system.{name}")


def spelled(value):
    """The words of a command line that give a value."""
    return [w for v in value for w in spelled(v)] if isinstance(value, tuple) else [str(value)]


@pytest.mark.parametrize("slug", ["align", "fourm", "symile"])
def test_every_field_that_is_listed_can_be_given(slug):
    """F18: data.tokenizer.vocab, kind and lower were listed and refused."""
    from mmrep import catalogue

    config = catalogue.experiment(slug, "tiny")
    names = [name for name, hint in _overrides.fields(config) if _overrides.spelled(hint)]
    assert {"data.tokenizer.vocab", "data.tokenizer.kind", "data.tokenizer.lower", "optim.lr"} < {*names}
    for name in names:
        flag = f"--{name.replace('_', '-')}"
        assert _overrides.override(config, [flag, *spelled(_overrides.value_of(config, name))]) == config, name

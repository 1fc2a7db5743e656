import dataclasses
import json

import jax
import numpy as np
import pytest
import toy

from mmrep.config import Mesh, Optim, Phase, Pretrained, Train, to_json
from mmrep.errors import ConfigError, DataError
from mmrep.evals.suite import evaluate
from mmrep.system import System
from mmrep.training import cost, loop
from mmrep.training.metrics import read


def quiet(experiment, workdir=None, **kw):
    return loop.train(experiment, workdir, progress=False, evaluate=evaluate, say=lambda _: None, **kw)


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(np.asarray(x), np.asarray(y))), a, b))


def test_it_learns_and_logs_late_but_completely(tmp_path):
    done = quiet(toy.experiment(60), tmp_path / "run")
    losses = [r["train/loss"] for r in done.rows if "train/loss" in r]
    assert losses[-1] < 0.1 * losses[0]
    rows = read(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in rows if "train/loss" in r] == list(range(5, 61, 5))
    assert rows[-1]["eval/mean"] == pytest.approx(
        json.loads((tmp_path / "run" / "evaluation.json").read_text())["mean"]
    )
    assert (tmp_path / "run" / "config.json").exists() and any((tmp_path / "run" / "tensorboard").iterdir())


def test_phases_train_only_what_they_name_and_resume_across_their_border(tmp_path):
    config = toy.experiment(
        phases=(Phase("a", 7, trainable=("a/.*",)), Phase("b", 8, trainable=("b/.*",))),
        train=Train(ema=0.9, checkpoint_every=3),
    )
    first, _ = loop.initial(config)
    only_a = quiet(dataclasses.replace(config, train=Train()), stop=7)
    assert equal(only_a.params["b"], first["b"]) and not equal(only_a.params["a"], first["a"])
    straight = quiet(config)
    for stop in (5, 7, 11):
        quiet(config, tmp_path / str(stop), stop=stop)
        assert equal(quiet(config, tmp_path / str(stop)).params, straight.params), stop
    assert straight.compilations == 2


def test_a_phase_may_be_a_plain_function(tmp_path):
    config = toy.experiment(
        phases=(Phase("train", 4), Phase("zero", run=zero_b), Phase("more", 4, trainable=("a/.*",)))
    )
    done = quiet(config, tmp_path / "run")
    assert not np.any(done.params["b"]["kernel"])
    quiet(config, tmp_path / "cut", stop=5)
    assert equal(quiet(config, tmp_path / "cut").params, done.params)


def zero_b(params, extras, context):
    assert len(context.split) == 50 and len(context.open("val")) == 8
    return params | {"b": jax.tree.map(np.zeros_like, params["b"])}, extras


def test_begin_sees_the_phase_before():
    config = toy.experiment(phases=(Phase("one", 5), Phase("two", 1, begin=mark)))
    assert float(quiet(config).extras["seen"]) == 5 + 100 + 1


def mark(params, extras):
    return params, {"seen": extras["seen"] + 100.0}


def test_pretrained_parts_come_from_a_file(tmp_path):
    donor = quiet(toy.experiment(2))
    path = donor.save(tmp_path / "donor.safetensors")
    start = (Pretrained(file=str(path), parts=(("a/", "a/"),)),)
    config = toy.experiment(phases=(Phase(steps=1, trainable=("b/.*",), start=start),))
    assert equal(quiet(config).params["a"], donor.params["a"])
    for file, sentence in ((tmp_path / "none.safetensors", "no file"), (tmp_path / "none.npz", "holds no weights")):
        wrong = toy.experiment(phases=(Phase(steps=1, start=(Pretrained(file=str(file)),)),))
        with pytest.raises(DataError, match=sentence):
            quiet(wrong)
    for fields in ({}, {"experiment": toy.experiment(), "file": str(path)}):
        with pytest.raises(ConfigError, match="an experiment or a file, one of them"):
            Pretrained(**fields)


def test_pretrained_parts_are_trained_once_and_put_in_place(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path))
    donor = toy.experiment(10)
    trained = quiet(donor)
    config = toy.experiment(phases=(Phase(steps=1, trainable=("b/.*",), start=(Pretrained(donor, (("a/", "a/"),)),)),))
    assert equal(quiet(config).params["a"], trained.params["a"])
    folders = list((tmp_path / "pretrained").iterdir())
    stamp = (folders[0] / "metrics.jsonl").read_text()
    quiet(config)
    assert len(folders) == 1 and (folders[0] / "metrics.jsonl").read_text() == stamp
    wrong = toy.experiment(phases=(Phase(steps=1, start=(Pretrained(donor, (("a/", "c/"),)),)),))
    with pytest.raises(ConfigError, match=r"pretrained c/kernel .* absent"):
        quiet(wrong)


def test_accumulation_gives_the_whole_batch_gradient_of_a_mean_loss():
    # The toy's noise differs by micro-batch, so compare where it cannot matter: the first step's gradient norm, loosely.
    whole, parts = (quiet(toy.experiment(1, train=Train(log_every=1, accumulate=k))) for k in (1, 4))
    assert parts.rows[0]["train/grad_norm"] == pytest.approx(whole.rows[0]["train/grad_norm"], rel=0.05)


def test_ema_is_the_average_the_paper_way():
    steps = [quiet(toy.experiment(20), stop=s).params["b"]["kernel"] for s in (1, 2, 3)]
    start, _ = loop.initial(toy.experiment())
    average = start["b"]["kernel"]
    for value in steps:
        average = 0.8 * average + 0.2 * value
    found = quiet(toy.experiment(20, train=Train(ema=0.8)), stop=3).params["b"]["kernel"]
    np.testing.assert_allclose(found, average, rtol=1e-5)


def test_non_finite_steps_change_nothing_and_stop_the_run_in_the_end():
    config = toy.experiment(30, system=toy.Line(bad_from=3), train=Train(log_every=1, max_skips=4))
    with pytest.raises(ConfigError, match="not finite for 4 steps in a row"):
        quiet(config)
    few = dataclasses.replace(config, train=Train(log_every=1, max_skips=100), phases=(Phase(steps=6),))
    assert equal(quiet(few).params, quiet(few, stop=3).params)


def test_a_run_that_began_before_a_field_was_added_goes_on(tmp_path):
    whole = quiet(toy.experiment(4))
    quiet(toy.experiment(4), tmp_path / "run", stop=2)
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    assert config["experiment"]["optim"].pop("factors") == []
    path.write_text(json.dumps(config))
    assert equal(quiet(toy.experiment(4), tmp_path / "run").params, whole.params)


def test_a_folder_of_another_run_is_refused_and_kept(tmp_path):
    quiet(toy.experiment(4), tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(ConfigError, match=r"holds a run of another config \(optim.lr: 0.05 -> 0.1\)"):
        quiet(
            dataclasses.replace(toy.experiment(4), optim=dataclasses.replace(toy.experiment().optim, lr=0.1)),
            tmp_path / "run",
        )
    assert (tmp_path / "run" / "config.json").read_text() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        quiet(toy.experiment(4), tmp_path / "other")
    assert (tmp_path / "other" / "thesis.tex").read_text() == "years of work"


def test_nothing_left_to_do_is_said(tmp_path):
    said = []
    quiet(toy.experiment(4), tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    again = loop.train(toy.experiment(4), tmp_path / "run", evaluate=evaluate, progress=False, say=said.append)
    assert said == [f"nothing left to do: {tmp_path / 'run'} is at step 4 of 4"]
    assert again.metrics and (tmp_path / "run" / "metrics.jsonl").read_text() == rows


def test_bad_records_are_skipped_up_to_the_limit():
    source = toy.Points(broken=(3, 4))
    config = toy.experiment(8)

    def limited(n):
        return dataclasses.replace(config, data=dataclasses.replace(config.data, source=source, max_bad_records=n))

    with pytest.raises(DataError, match=r"train record 3|train record 4"):
        quiet(limited(1))
    assert np.isfinite(quiet(dataclasses.replace(limited(2), evals=())).rows[-1]["train/loss"])


def test_a_batch_that_does_not_divide_is_refused():
    config = toy.experiment(1)
    with pytest.raises(ConfigError, match=r"not a multiple of train\.accumulate 3"):
        dataclasses.replace(config, train=Train(accumulate=3))


@pytest.mark.mesh
def test_an_evaluation_batch_that_does_not_divide_over_the_mesh_is_refused():
    config = toy.experiment(1, mesh=Mesh(2, 1))
    with pytest.raises(ConfigError, match=r"data.eval_batch_size 3 does not divide over mesh.data \(x mesh.fsdp\) 2"):
        quiet(dataclasses.replace(config, data=dataclasses.replace(config.data, eval_batch_size=3)))


def test_a_factor_of_0_holds_its_parameters_and_one_that_matches_nothing_is_refused():
    held = toy.experiment(3, optim=Optim(lr=0.05, schedule="constant", factors=(("a/.*", 0.0),)))
    first, _ = loop.initial(held)
    done = quiet(held)
    assert equal(done.params["a"], first["a"]) and not equal(done.params["b"], first["b"])
    with pytest.raises(ConfigError, match=r"optim.factors\['c/.\*'\] matches no parameter"):
        quiet(toy.experiment(3, optim=Optim(factors=(("c/.*", 0.2),))))


def test_the_first_loss_is_printed_beside_that_of_guessing():
    @dataclasses.dataclass(frozen=True)
    class Guessing(toy.Line):
        def chance_loss(self, batch_size):
            return float(batch_size)

    said = []
    loop.train(toy.experiment(6, system=Guessing()), progress=False, say=said.append)
    (sentence,) = [s for s in said if s.startswith("first step: loss ")]
    assert "guessing has 8.000" in sentence and "--overfit-one-batch" in sentence
    said.clear()
    loop.train(toy.experiment(6), progress=False, say=said.append)
    assert not said


def test_alternating_phases_compile_once_each(tmp_path):
    a, b = Phase("a", 3, trainable=("a/.*",)), Phase("b", 3, trainable=("b/.*",), begin=mark)
    config = toy.experiment(phases=(a, b, dataclasses.replace(a, name="a2"), b, Phase("zero", run=zero_b)))
    done = quiet(config, tmp_path / "run")
    assert done.compilations == 2 and float(done.extras["seen"]) == 12 + 200
    quiet(config, tmp_path / "cut", stop=8)
    assert equal(quiet(config, tmp_path / "cut").params, done.params)


def test_a_system_without_a_loss_has_phases_that_are_functions(tmp_path):
    plain = toy.Line().build()
    system = System(plain.init, infer=plain.infer)
    config = toy.experiment(system=system, phases=(Phase("zero", run=zero_b),))
    done = quiet(config, tmp_path / "run")
    assert not np.any(done.params["b"]["kernel"]) and done.metrics["mean"] == 0.0 and done.name == "init"
    assert "loss" not in to_json(config)["system"]["functions"] and done.card()
    with pytest.raises(
        ConfigError, match="the system has no loss, so it takes no gradient steps: give each phase a `run`"
    ):
        quiet(toy.experiment(system=system))
    with pytest.raises(ConfigError, match="no gradient steps .*: there is nothing to compile"):
        cost.abstract_step(config, None)

"""mmE5 against the authors' pooling and loss, its masks, the simulated writer, and candidate lists."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.mme5 import get_config
from mmrep.config import flatten
from mmrep.data.pipeline import collate, open_split
from mmrep.data.synthesis import flaw, neighbours, plans
from mmrep.data.things import Things
from mmrep.data.triples import Triples
from mmrep.errors import ConfigError, DataError
from mmrep.losses.contrastive import info_nce
from mmrep.nn.pooling import last_pool
from mmrep.systems.contrastive.mme5 import mme5_loss
from mmrep.systems.contrastive.mme5.data import Synthetic, held_out
from mmrep.systems.contrastive.mme5.writer import FORMS, TASKS, ThingsJudge, ThingsWriter

GOLDEN = {
    k: jnp.asarray(v) for k, v in np.load(Path(__file__).parents[2] / "golden" / "mme5.npz").items() if k != "note"
}
TINY = get_config("tiny")
WORLD = Things(60, 10, 10, (6,) * 4, told=(1.0,) * 4)


@pytest.fixture(scope="module")
def tiny():
    """(system, parameters, a batch of the synthetic triples, compiled infer functions)."""
    words: dict[str, int] = {}

    def tokenize(text, n):
        ids = [1, *(words.setdefault(w, len(words) + 5) for w in text.split()), 2]
        return np.pad(np.array(ids, np.int32), (0, n))[:n]

    split = open_split(TINY.data, tokenize, "train")
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(24, 32)]))
    system = TINY.system.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    return system, params, batch, {n: jax.jit(lambda p, b, f=f: f(p, {}, b)) for n, f in system.infer.items()}


def test_the_authors_pooling_and_loss():
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(unit(last_pool(GOLDEN["tokens"], GOLDEN["mask"] > 0)), GOLDEN["pooled"], rtol=1e-5)
    value, _ = mme5_loss(GOLDEN["q"], GOLDEN["t"], GOLDEN["n"], 0.02)
    np.testing.assert_allclose(value.mean(), GOLDEN["loss"], rtol=1e-5)
    np.testing.assert_allclose(mme5_loss(GOLDEN["q"], GOLDEN["t"], None, 0.02)[0].mean(), GOLDEN["plain"], rtol=1e-5)


def test_values_by_hand():
    x = jnp.eye(2)
    value, right = mme5_loss(x, x, None, 0.02)
    assert value.max() < 1e-20 and right.all()
    np.testing.assert_allclose(mme5_loss(x, x, x[:, None], 0.02)[0], np.log(2), rtol=1e-6)


def test_hard_negatives_are_of_their_own_query_and_may_be_missing():
    q, t, n = GOLDEN["q"], GOLDEN["t"], GOLDEN["n"]
    here = jnp.array([[True] * 3, [True, False, False], [False] * 3, [False, True, True]])
    value, _ = mme5_loss(q, t, n, 0.5, None, here)
    np.testing.assert_allclose(value[2], info_nce(q @ t.T / 0.5)[2], rtol=1e-5)
    moved = mme5_loss(q, t, n.at[1, 1:].set(9.0).at[0].set(-n[0]), 0.5, None, here)[0]
    np.testing.assert_allclose(moved[1:], value[1:], rtol=1e-5)
    assert moved[0] != value[0]


def test_equal_targets_are_no_negatives():
    x = jnp.eye(3).at[1].set(jnp.eye(3)[0])
    assert mme5_loss(x, x, None, 0.02)[0][0] == pytest.approx(np.log(2), rel=1e-5)
    value, right = mme5_loss(x, x, None, 0.02, jnp.array([4, 4, 5]))
    assert value.max() < 1e-6 and right.all()


def test_what_a_side_lacks_has_no_effect(tiny):
    _, params, batch, infer = tiny
    has = {n: np.asarray(batch[f"{n}_has"]) for n in ("query", "target")}
    assert {(0.0, 1.0), (1.0, 0.0)} <= {tuple(r) for r in has["query"].tolist()}
    noise = {f"{n}_image": jnp.where(has[n][:, 1:, None] > 0, batch[f"{n}_image"], 7.0) for n in has}
    noise |= {f"{n}_text": jnp.where(has[n][:, :1] > 0, batch[f"{n}_text"], 9) for n in has}
    for n in has:
        np.testing.assert_allclose(infer[n](params, batch | noise), infer[n](params, batch), atol=1e-5)
    # A target of text alone is the text embedded alone; the instruction belongs to the query.
    rows = np.flatnonzero((has["target"] == [1, 0]).all(1))
    np.testing.assert_allclose(
        infer["target"](params, batch)[rows], infer["target_text"](params, batch)[rows], atol=1e-5
    )
    other = batch | {"instruction": batch["instruction"].at[:, 1].add(1)}
    assert np.abs(infer["query"](params, other) - infer["query"](params, batch)).max(1).min() > 1e-4
    assert infer["negatives"](params, batch).shape == (8, 2, 16)


def test_adapters_start_at_the_models_column_norms(tiny):
    system, params, batch, infer = tiny
    without = {k: v for k, v in params.items() if k != "lora"}
    np.testing.assert_allclose(infer["query"](params, batch), infer["query"](without, batch), atol=1e-5)
    assert any(k.endswith("magnitude") for k in flatten(params["lora"]))
    value = jax.jit(lambda p, b: system.loss(p, {}, b, jax.random.key(0))[0])
    assert np.isfinite(value(params, batch))
    absent = batch | {"negative_has": jnp.zeros_like(batch["negative_has"])}
    plain = replace(TINY.system, negatives=False).build()
    np.testing.assert_allclose(value(params, absent), plain.loss(params, {}, batch, jax.random.key(0))[0], rtol=1e-5)


def test_the_writer_errs_at_its_rates_and_the_judge_finds_it():
    records = list(WORLD.open("train"))
    near = neighbours(np.stack([r["regions"] for r in records]), 3)
    todo = plans(np.random.default_rng(0), 400, tasks=TASKS, sides=FORMS, languages=tuple("0123"), similar=near)
    truth = ThingsWriter()

    def run(writer):
        similar = lambda p: [records[i] for i in p.similar]  # noqa: E731
        pairs = [
            (p, writer(p, records[p.record], similar(p), ""), truth(p, records[p.record], similar(p), "")) for p in todo
        ]
        judge = ThingsJudge(sharp=0.9)
        differ = [
            ((d.query, d.target) != (t.query, t.target) and d.query != "") or d.target != t.target for _, d, t in pairs
        ]
        wrong = np.array([d.target != t.target if "text" in p.target else d.query != t.query for p, d, t in pairs])
        found = np.array([bool(judge(p, records[p.record], d)) for p, d, _ in pairs])
        assert differ and all(not flaw(p, d) for p, d, _ in pairs)
        return wrong, found

    wrong, found = run(truth)
    assert not wrong.any() and not found.any()
    wrong, found = run(ThingsWriter(error=0.3))
    assert 0.2 < wrong.mean() < 0.4 and not found[~wrong].any() and 0.8 < found[wrong].mean() < 1
    assert run(ThingsWriter(wrong=0.6))[0].mean() > 0.3


def test_instructions_have_no_word_of_a_target():
    source = replace(TINY.data.source, tests=2)
    for record in source.open("test"):
        assert not {*record["instruction"].split()} & {*record["target_text"].split()} - {"-"}


def test_test_cells_are_in_no_training_set():
    cells = [(t, f, k) for t in TASKS for f in FORMS for k in range(4)]
    held = [c for c in cells if held_out(*c)]
    assert len(held) == 16 and all(len({c[:2] for c in held}) == 16 for _ in held)
    broad = Synthetic(WORLD, 10, 200, error=0.2, tests=1)
    train, test = ({*broad.open(s).columns["cell"].tolist()} for s in ("train", "test"))
    assert len(test) == 16 and not train & test and len(train) > 30
    narrow = {*replace(broad, breadth="narrow").open("train").columns["cell"].tolist()}
    assert narrow == {0, 4} and len(broad.open("train")) == 210
    with pytest.raises(ConfigError, match="languages"):
        Synthetic(replace(WORLD, told=(1.0,)))


def test_eight_rows_of_a_users_own(tmp_path):
    from PIL import Image

    lines = []
    for i in range(8):
        Image.fromarray(np.full((8, 8, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(
            f'{{"instruction": "find the caption", "query_image": "{i}.png", "target_text": "grey {i}", "negative_text": ["grey {i + 1}"]}}'
        )
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    small = get_config("small", "triples")
    source = Triples(str(tmp_path / "pairs.jsonl"), size=(32, 32), fractions=(1.0, 0.0, 0.0))
    split = open_split(replace(small.data, source=source), lambda w, n: np.arange(1, n + 1, dtype=np.int32), "train")
    batch = collate([split.entry(i) for i in range(8)])
    assert (batch["query_has"] == [0, 1]).all() and (batch["negative_has"].sum((1, 2)) == 1).all()
    value = jax.eval_shape(small.system.build().init, jax.random.key(0), batch)
    assert value
    with pytest.raises(DataError, match=r"\.jsonl"):
        Triples("missing.jsonl").open("train")


@pytest.mark.parametrize("change, words", [({"temperature": 0.0}, "temperature"), ({"lora_rank": -1}, "lora_rank")])
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(TINY.system, **change).build()

"""DLCH against the authors' functions (HqiLi/DLCH), and the slips of their code that are not repeated."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.retrieval.dlch import get_config
from mmrep import modality
from mmrep.config import Data
from mmrep.data.columns import Columns
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError, DataError
from mmrep.model import Model
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.retrieval.dlch import Codes, Config, Register, Store
from mmrep.systems.retrieval.dlch.data import Stream
from mmrep.systems.retrieval.dlch.evals import Stored
from mmrep.systems.retrieval.dlch.model import (
    check_labels,
    code_loss,
    graded_similarity,
    pair_loss,
    quantisation_loss,
    solve_codes,
)
from mmrep.training.loop import Context

GOLD = np.load(Path(__file__).parents[2] / "golden" / "dlch.npz")
TINY = Config(VectorEncoder((8,)), VectorEncoder((8,)), VectorEncoder((8,)), bits=4, items=8, categories=3)


def of(name):
    return jnp.asarray(GOLD[name], jnp.float32)


def test_authors_losses():
    target = graded_similarity(of("labels_b"), of("labels_n"))
    np.testing.assert_allclose(pair_loss(of("u"), of("buffer"), target), GOLD["pair"], rtol=1e-5)
    np.testing.assert_allclose(quantisation_loss(of("u"), of("codes_q")), GOLD["quant"], rtol=1e-5)
    np.testing.assert_allclose(graded_similarity(of("labels_b"), of("labels_new")), GOLD["similar"], atol=1e-6)


def test_authors_discrete_solver():
    given = GOLD["codes"].copy()
    found = solve_codes(given, [GOLD["outputs"]], [GOLD["expanded"]], GOLD["similar"], 10.0)
    np.testing.assert_array_equal(found, GOLD["solved"])
    np.testing.assert_array_equal(given, GOLD["codes"])  # theirs changes its argument
    assert (solve_codes(given, [GOLD["outputs"] * 0], [GOLD["expanded"] * 0], GOLD["similar"], 10.0) == given).all()


def test_the_solver_lowers_its_objective():
    rng = np.random.default_rng(0)
    codes, u = np.sign(rng.standard_normal((6, 8))), [np.tanh(rng.standard_normal((5, 8))) for _ in range(2)]
    target, own = rng.random((5, 6)), [np.zeros((6, 8))] * 2
    value = lambda b: sum(((8 * target - x @ b.T) ** 2).sum() for x in u)  # noqa: E731
    found = solve_codes(codes, u, own, target, 0.0)
    assert value(found) < value(codes) and set(np.unique(found)) == {-1.0, 1.0}


def test_code_loss_by_hand():
    u, codes = jnp.array([[0.5, -0.5], [1.0, 0.0]]), jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    target, weight, own = jnp.array([[1.0, 0, 0], [0, 0.5, 0]]), jnp.array([1.0, 1.0, 0.0]), codes[:2]
    inner = [(2 - 0) ** 2 + (0 - 1) ** 2, (0 - 1) ** 2 + (1 - 1) ** 2]
    rest = [10 * (0.25 + 2.25) + 100 * 0, 10 * (0 + 1) + 100 * 1]
    expected = np.mean([(i + r) / 2 for i, r in zip(inner, rest)])
    assert float(code_loss(u, own, codes, target, weight, 10.0, 100.0)) == pytest.approx(expected)


def test_rows_without_labels_or_length():
    with pytest.raises(DataError, match="no label"):
        check_labels(np.eye(3)[:2] * [[1], [0]])
    none = jnp.zeros((2, 3))
    assert float(graded_similarity(none, jnp.eye(3)).max()) == 0
    slope = jax.grad(lambda u: pair_loss(u, jnp.ones((2, 4)), jnp.zeros((2, 2))))(jnp.zeros((2, 4)))
    assert np.isfinite(slope).all()


def test_binary_similarity():
    a = jnp.array([[1.0, 1, 0]])
    found = graded_similarity(a, jnp.eye(3), graded=False)
    assert found.tolist() == [[1, 1, 0]] and float(graded_similarity(a, jnp.eye(3))[0, 0]) == pytest.approx(0.5**0.5)


class Given:
    """12 items of 3 categories; the last comes later."""

    def open(self, split):
        labels = np.eye(3, dtype=np.float32)[np.arange(12) % 3]
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((2, 12, 5)).astype(np.float32)
        return Columns({"image": x, "text": y, "labels": labels, "kind": np.arange(12) % 3})

    def texts(self, split):
        return iter(())

    def view(self, record, rng):
        return record


def test_the_stream():
    stream = Stream(Given(), 3, (2,), sample=6)
    rows = {p: replace(stream, part=p).open("train").rows.tolist() for p in ("all", "base", "new", "sample")}
    assert rows["new"] == [2, 5, 8, 11] and sorted(rows["base"] + rows["new"]) == rows["all"]
    assert len(rows["sample"]) == 6 and len({*rows["sample"]} & {*rows["new"]}) == 3
    only = replace(stream, part="sample", only_new=True).open("train").rows
    assert {*only.tolist()} == {*rows["new"]}
    records = replace(stream, part="base", field="kind").open("train")
    shown = stream.view(records[2], None)
    assert (shown["row"], shown["new"]) == (3, 0) and shown["labels"].tolist() == [1, 0, 0]
    assert len(replace(stream, part="base").open("test")) == 12
    with pytest.raises(DataError, match="'colour'"):
        replace(stream, field="colour").open("train")
    with pytest.raises(ConfigError, match="new is"):
        replace(stream, new=(3,))


def stages(config, source, n, fields=("image", "text"), field="labels"):
    parts = (
        *(modality.vector(m, 5, field=f) for m, f in zip(("image", "text"), fields)), modality.vector("labels", config.categories),
        modality.label("row", config.items),
    )  # fmt: skip
    whole = Stream(source, config.categories, (2,), field, sample=6)
    system, data = config.build(), Data(whole, parts)

    def context(part):
        split = open_split(data, None, "train", replace(whole, part=part))
        return Context(split, system, jax.random.key(0), lambda name: split)

    split = context("all").split
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(n)]))
    params, extras = system.init(jax.random.key(0), batch)
    params, extras = Register((2,))(params, extras, context("all"))
    return system, params, *Store()(params, extras, context("all"))[1:], batch, context


def test_old_codes_stay_and_new_ones_are_solved():
    config = replace(TINY, items=12)
    _, params, extras, batch, context = stages(config, Given(), 12)
    old = np.asarray(extras["old"]) > 0.5
    assert old.tolist() == [k % 3 != 2 for k in range(12)]
    for random in (False, True):
        _, after = Codes(random=random)(params, extras, context("sample"))
        np.testing.assert_array_equal(after["codes"][old], extras["codes"][old])
        assert set(np.unique(after["codes"])) == {-1.0, 1.0}
        assert not np.array_equal(after["codes"][~old], extras["codes"][~old])
    adapt = replace(config, objective="adapt").build()
    _, (kept, _) = adapt.loss(params, extras, batch, jax.random.key(0))
    np.testing.assert_array_equal(kept["codes"], extras["codes"])
    # The loss depends on the old codes, and without their term it does not.
    moved = extras | {"codes": jnp.where(old[:, None], 1.0, extras["codes"])}
    rows = {k: v[~old] for k, v in batch.items()}
    for keep, same in ((True, False), (False, True)):
        part = replace(config, objective="adapt", old=keep).build()
        a, b = (float(part.loss(params, e, rows, jax.random.key(0))[0]) for e in (extras, moved))
        assert (a == b) == same


def test_stage_one_keeps_the_latest_outputs():
    config = replace(TINY, items=12)
    system, params, extras, batch, _ = stages(config, Given(), 12)
    rows = {k: v[:4] for k, v in batch.items()}
    (_, (after, _)), grads = jax.value_and_grad(system.loss, has_aux=True)(params, extras, rows, jax.random.key(0))
    outputs = system.infer["image_outputs"](params, extras, rows)
    np.testing.assert_allclose(after["buffers"]["image"][:4], outputs, rtol=1e-6)
    np.testing.assert_array_equal(after["buffers"]["image"][4:], extras["buffers"]["image"][4:])
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


def test_eight_rows_of_a_table(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        json.dumps({"picture": rng.random(5).tolist(), "words": rng.random(5).tolist(), "kind": i % 3, "name": str(i)})
        for i in range(8)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    table = Table(
        tmp_path / "t.jsonl", image=None, text="name", label="kind", extra=("picture", "words"), fractions=(1.0, 0.0, 0.0)
    )  # fmt: skip
    _, _, extras, _, _ = stages(TINY, table, 8, fields=("picture", "words"), field="label")
    assert extras["codes"].shape == (8, 4) and np.asarray(extras["labels"]).sum() == 8


def test_the_evaluator():
    class Seen(Model):
        def __init__(self):
            self.extras = {"codes": np.array([[1.0, 1], [1, -1], [-1, -1]]), "labels": np.eye(3)}

        def embed_split(self, name, split):
            return np.array([[1.0, 1], [-1, -1]])

        def column(self, field, split):
            return [np.eye(3)[0], np.eye(3)[2]]

    found = Stored((2,)).run(Seen())
    assert found == {
        "old mAP": 1.0,
        "new mAP": 1.0,
        "NDCG@50": 1.0,
        "chance old": pytest.approx(1 / 3),
        "chance new": pytest.approx(1 / 3),
    }


@pytest.mark.parametrize("change, words", [({"bits": 1}, "bits is 1"), ({"eta": -1.0}, "at least 0")])
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(TINY, **change).build()


def test_sizes():
    assert get_config("paper").system.bits == 64 and get_config("tiny").phases[-1].trainable == ("image/.*", "text/.*")

"""MultiModN: the authors' numbers, rows that skip their own modalities, and a table of one's own."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.config import Data, Experiment, Mesh, Phase
from mmrep.data.sources import Table
from mmrep.errors import ConfigError, DataError
from mmrep.evals.answers import Answers
from mmrep.evals.suite import evaluate
from mmrep.system import System
from mmrep.systems.fusion.multimodn import Config, Task
from mmrep.systems.fusion.multimodn.data import Grouped, TabularData
from mmrep.systems.fusion.multimodn.model import Decoder, StateEncoder, multimodn_loss, walk
from mmrep.training import loop

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "multimodn.npz")
NAMES, SIZES = ("a", "b", "c"), (3, 2, 6)
TASKS = (Task("two", 2), Task("three", 3))
HIDDEN, DECODERS = ((5,), (), (5, 4)), ((3,), ())  # of the golden numbers: each encoder has its own


def system(**options) -> System:
    return Config(NAMES, TASKS, **{"state": 4, "hidden": (5,), **options}).build()


def batch(rows: int = 6, missing: dict | None = None) -> dict:
    rng = np.random.default_rng(0)
    made = {n: rng.standard_normal((rows, size)).astype(np.float32) for n, size in zip(NAMES, SIZES)}
    for name, row in (missing or {}).items():
        made[name][row, 0] = np.nan
    return made | {"two": rng.integers(0, 2, rows, np.int32), "three": rng.integers(0, 3, rows, np.int32)}


def dense(weights: dict, prefix: str, first: int, count: int) -> dict:
    names = [f"dense{i}" for i in range(count)] + ["out"]
    return {
        n: {"kernel": weights[f"{prefix}.{first + i}.weight"].T, "bias": weights[f"{prefix}.{first + i}.bias"]}
        for i, n in enumerate(names)
    }


@pytest.mark.parametrize("kind", ["late", "early"])
def test_the_authors_numbers(kind):
    weights = {k.split("/w/")[1]: v for k, v in GOLDEN.items() if k.startswith(f"{kind}/w/")}
    first = 0 if kind == "late" else 1  # theirs counts the dropout as a layer
    params = {
        "state": weights["init_state.state_value"],
        "encoders": [dense(weights, f"encoders.{i}.layers", first, len(h)) for i, h in enumerate(HIDDEN)],
        "decoders": [dense(weights, f"decoders.{i}.layers", 0, len(h)) for i, h in enumerate(DECODERS)],
    }
    encoders = [StateEncoder(4, h, kind) for h in HIDDEN]
    decoders = [Decoder(h, t.classes) for h, t in zip(DECODERS, TASKS)]
    x, y = [jnp.asarray(GOLDEN[f"{kind}/x{i}"]) for i in range(3)], GOLDEN[f"{kind}/y"]

    def loss(params, skip):
        def encode(k, state, key):
            return encoders[k].apply({"params": params["encoders"][k]}, state, x[k]), jnp.full(6, ~skip[k])

        states, taken = walk(jnp.tile(params["state"], (6, 1)), encode, 3, None, None)
        errors = []
        for t, decoder in enumerate(decoders):
            scores = jax.nn.sigmoid(decoder.apply({"params": params["decoders"][t]}, states))
            errors.append(-jnp.take_along_axis(jax.nn.log_softmax(scores), y[None, :, t, None], -1)[..., 0])
        changes = jnp.square(states[1:] - states[:-1]).mean(-1)
        value = multimodn_loss(jnp.stack(errors, 1), changes, taken, error=0.7, change=0.5).mean()
        return value, states

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for case, skip in (("whole", [False] * 3), ("missing", [False, True, False])):
        (value, states), grads = grad(params, jnp.array(skip))
        np.testing.assert_allclose(value, GOLDEN[f"{kind}/{case}/loss"], rtol=1e-5)
        np.testing.assert_allclose(grads["state"], GOLDEN[f"{kind}/{case}/grad_state"], rtol=1e-4, atol=1e-6)
        found = grads["encoders"][0]["dense0"]["kernel"].T
        np.testing.assert_allclose(found, GOLDEN[f"{kind}/{case}/grad_enc0"], rtol=1e-4, atol=1e-6)
        if case == "whole":
            np.testing.assert_allclose(states[-1], GOLDEN[f"{kind}/state"], rtol=1e-4, atol=1e-6)


def test_a_row_skips_its_own_missing_modality_and_its_nan_reaches_no_gradient():
    made = system(change=1.0, squash=True)
    whole, holed = batch(), batch(missing={"b": 2})
    params, _ = jax.jit(made.init)(jax.random.key(0), whole)
    trace = jax.jit(made.infer["trace"])
    full, found = trace(params, {}, whole)["two"], trace(params, {}, holed)["two"]
    others = np.arange(6) != 2
    np.testing.assert_array_equal(full[others], found[others])
    np.testing.assert_array_equal(found[2, 1], found[2, 2])  # after b as before it
    assert not np.allclose(full[2, 2], found[2, 2])
    without = trace(params, {}, {k: v for k, v in whole.items() if k != "b"})["two"]
    np.testing.assert_allclose(without[2], found[2], rtol=1e-6)  # a modality that no row has
    loss = jax.jit(jax.value_and_grad(lambda p, b: made.loss(p, {}, b, jax.random.key(0))[0]))
    value, grads = loss(params, holed)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    # A batch is the mean over its rows, each with its own missing modalities: the authors' code with batches of one.
    rows = [loss(params, {k: v[i : i + 1] for k, v in holed.items()})[0] for i in range(6)]
    np.testing.assert_allclose(value, np.mean(rows), rtol=1e-5)
    nothing = {n: np.full_like(whole[n], np.nan) for n in NAMES}
    np.testing.assert_allclose(made.infer["fused"](params, {}, nothing), np.tile(params["state"], (6, 1)))


def test_the_divisors_count_skipped_steps():
    errors, changes = jnp.ones((4, 2, 1)), jnp.ones((3, 1))
    taken = jnp.array([[True], [True], [False], [True]])
    found = multimodn_loss(errors, changes, taken, error=1.0, change=1.0)
    np.testing.assert_allclose(found, [3 / 4 + 0.01 * 2 / 3], rtol=1e-6)


def test_a_random_order_is_drawn_for_the_batch_and_only_in_training():
    fixed, shuffled = system(), system(order="random")
    made = batch()
    params, _ = jax.jit(fixed.init)(jax.random.key(0), made)
    loss = jax.jit(lambda key: shuffled.loss(params, {}, made, key)[0])
    found = {round(float(loss(jax.random.key(k))), 5) for k in range(12)}
    plain = float(jax.jit(lambda: fixed.loss(params, {}, made, jax.random.key(0))[0])())
    assert 3 <= len(found) <= 6 and round(plain, 5) in found
    np.testing.assert_array_equal(fixed.infer["fused"](params, {}, made), shuffled.infer["fused"](params, {}, made))


def test_supervision_of_the_last_step_alone_leaves_out_rows_without_it():
    made, holed = system(supervised="last"), batch(missing={"c": 1})
    params, _ = jax.jit(made.init)(jax.random.key(0), holed)
    loss = jax.jit(lambda b: made.loss(params, {}, b, jax.random.key(0))[0])
    other = holed | {"two": np.where(np.arange(6) == 1, 1 - holed["two"], holed["two"])}
    assert loss(holed) == loss(other)


def test_parallel_fusion_fills_what_is_missing():
    filled, flagged = system(fusion="parallel", fill=-5.0), system(fusion="parallel", flags=True)
    whole, holed = batch(), batch(missing={"b": 2})
    by_hand = {k: v.copy() for k, v in holed.items()}
    by_hand["b"][2] = -5.0
    params, _ = jax.jit(filled.init)(jax.random.key(0), whole)
    fused = jax.jit(filled.infer["fused"])
    np.testing.assert_array_equal(fused(params, {}, holed), fused(params, {}, by_hand))
    params, _ = jax.jit(flagged.init)(jax.random.key(0), whole)
    assert params["trunk"]["dense0"]["kernel"].shape[0] == sum(SIZES) + 3


def test_digits_lose_a_quadrant_by_class():
    data = TabularData(missing=0.8, lost=1)
    train, test = data.open("train").columns, data.open("test").columns
    gone = np.isnan(train["m1"]).all(1)
    assert not gone[train["high"] == 0].any() and 0.7 < gone[train["high"] == 1].mean() < 0.9
    flipped = np.isnan(test["m1_flipped"]).all(1)
    assert not np.isnan(test["m1"]).any()
    assert not flipped[test["high"] == 1].any() and 0.7 < flipped[test["high"] == 0].mean() < 0.9
    assert len(train["m1"]) + 600 == 1797 and not np.isnan(train["m0"]).any()


def test_a_table_of_ones_own(tmp_path):
    rows = [["pulse", "pressure", "age", "died", "split"]]
    rows += [[60 + i, "" if i == 2 else 100 + i, 30 + i, i % 2, "train" if i < 6 else "test"] for i in range(8)]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    table = Table(tmp_path / "t.csv", image=None, text=None, label="died", extra=("pulse", "pressure", "age"))
    source = Grouped(table, (("vitals", ("pulse", "pressure")), ("person", ("age",))))
    record = source.open("train")[2]
    assert np.isnan(record["vitals"][1]) and abs(record["vitals"][0] + 0.2928) < 1e-3  # (62 - 62.5) / 1.708
    parts = (
        modality.vector("vitals", 2, missing=True),
        modality.vector("person", 1, missing=True),
        modality.label("label", 2),
    )
    config = Experiment(
        Config(("vitals", "person"), (Task("label"),), state=4, hidden=(4,)),
        Data(source, parts, batch_size=4, eval_batch_size=2), phases=(Phase(steps=2),), mesh=Mesh(1, 1),
        evals=(Answers("label_logits", "label", measure="auroc"),),
    )  # fmt: skip
    done = loop.train(config, progress=False, evaluate=evaluate)
    assert 0 <= done.metrics["answers auroc"] <= 1
    assert done.call("trace", vitals=[[0.0, np.nan]], person=[[1.0]])["label"].shape == (1, 3, 2)
    with pytest.raises(DataError, match="the record has no column 'puls'"):
        Grouped(table, (("vitals", ("puls",)),)).open("train")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"modalities": ()}, "name the vectors"), ({"tasks": (Task("two", 1),)}, "2 classes"),
     ({"fusion": "parallel", "order": "random"}, "which has one step"), ({"dropout": 1.0}, r"\[0, 1\)")],
)  # fmt: skip
def test_what_cannot_work_is_one_sentence(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Config(**{"modalities": NAMES, "tasks": TASKS, **options}).build()

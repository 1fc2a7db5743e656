"""gCOG: the authors' networks and answers, and tasks that have one answer each."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.config import Data, Experiment, Mesh, Phase
from mmrep.data.gcog import CONDITIONS, HALVES, LEAVES, OPERATORS, SWITCH, GcogData, depth, scene, solve, tokens
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.evals.answers import Answers
from mmrep.evals.suite import evaluate
from mmrep.modality import ids, label
from mmrep.systems.fusion.gcog import Config
from mmrep.training import loop

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "gcog.npz")


def dense(w, name):
    return {"kernel": w[f"{name}.weight"].T, "bias": w[f"{name}.bias"]}


def norm(w, name):
    return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}


def attention(w, name):
    kernels, biases = np.split(w[f"{name}.in_proj_weight"], 3), np.split(w[f"{name}.in_proj_bias"], 3)
    query, key, value = ({"kernel": k.T, "bias": b} for k, b in zip(kernels, biases))
    return {"query": query, "key": {"kernel": key["kernel"]}, "value": value, "out": dense(w, f"{name}.out_proj")}


def block(w, name):
    return {
        "attn": attention(w, f"{name}.selfattention"), "up": dense(w, f"{name}.mlp.0"), "down": dense(w, f"{name}.mlp.2"),
        "norm_attn": norm(w, f"{name}.layernorm0"), "norm_mlp": norm(w, f"{name}.layernorm1"),
    }  # fmt: skip


def streams(w):
    found = {}
    for ours, theirs in (("instruction", "rule"), ("image", "stim")):
        found[ours] = {"embed": dense(w, f"{theirs}_transformer.w_embed")}
        found[f"{ours}_block"] = block(w, f"{theirs}_transformer")
    return found


def weights(kind, w):
    if kind == "cross":
        return {
            "streams": streams(w), "attn": attention(w, "crossattention"), "norm_attn": norm(w, "layernorm_crossattn"),
            "up": dense(w, "mlp.0"), "down": dense(w, "mlp.2"), "norm_mlp": norm(w, "layernorm_mlp"),
        }  # fmt: skip
    if kind == "dual":
        return {
            "streams": streams(w), "word": dense(w, "rule_fnn.0"), "picture": dense(w, "stim_fnn.0"),
            "norm": norm(w, "fnn_layernorm"), "norm_out": norm(w, "fnnout_layernorm"),
        } | {f"dense{i}": dense(w, f"fnn.{2 * i}") for i in range(3)}  # fmt: skip
    if kind == "single":
        return {"tokens": {"embed": dense(w, "w_embed")}} | {f"block{i:02d}": block(w, f"blocks.{i}") for i in range(2)}
    if kind == "perceiver":
        found = {
            "streams": streams(w), "norm_latents": norm(w, "layernorm_latent"),
            "attn_latents": attention(w, "latent_selfattention"), "dense_latents": dense(w, "latent_ffn.0"),
        }  # fmt: skip
        for ours, theirs in (("instruction", "rule"), ("image", "stim")):
            found[f"attn_{ours}"] = attention(w, f"{theirs}_crossattention")
            found[f"norm_{ours}"] = norm(w, f"layernorm_{theirs}crossattn")
            found[f"dense_{ours}"] = dense(w, f"{theirs}_ffn.0")
        return found
    cell = {
        "i": {"kernel": w["weight_ih_l0"].T, "bias": w["bias_ih_l0"] + w["bias_hh_l0"]},
        "h": {"kernel": w["weight_hh_l0"].T},
    }
    return {"cell": cell, "norm": norm(w, "layernorm")}


@pytest.mark.parametrize("kind", ["cross", "dual", "single", "perceiver", "rnn"])
def test_the_authors_networks(kind):
    w = {k.split("/w/")[1]: v for k, v in GOLDEN.items() if k.startswith(f"{kind}/w/")}
    config = Config(kind, 7, width=8, heads=2, blocks=2 if kind == "single" else 1, ids="raw", start="zeros")
    system = config.build()
    batch = {"instruction": GOLDEN["rule"].astype(np.int32), "image": GOLDEN["stim"].astype(np.int32)}
    params = {"net": weights(kind, w), "out": dense(w, "w_out.0")}
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)[0]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, shapes)
    infer = jax.jit(system.infer["logits"])
    found = jax.nn.log_softmax(infer(params, {}, batch))
    np.testing.assert_allclose(found, GOLDEN[f"{kind}/out"], atol=2e-5)
    if kind in ("cross", "perceiver", "rnn"):  # padding on the left changes nothing
        padded = batch | {"instruction": np.pad(batch["instruction"], ((0, 0), (2, 0), (0, 0)))}
        np.testing.assert_allclose(jax.nn.log_softmax(infer(params, {}, padded)), GOLDEN[f"{kind}/out"], atol=2e-5)


def test_the_authors_answers():
    """Their cells are numbered by column; an attribute left open has the id of the first shape or colour, which no operator uses."""
    data = GcogData()
    for rule, image, target in zip(GOLDEN["rules"], GOLDEN["images"], GOLDEN["targets"]):
        operator = OPERATORS[rule[0, 0] - 1]
        leaf = (
            operator,
            -1 if operator == "getshape" else int(rule[0, 1]) - 1,
            -1 if operator == "getcolor" else int(rule[0, 2]) - 1,
        )
        answer, _ = solve((leaf,), image, data)
        if operator == "go":
            y, x = divmod(answer - 2, 10)
            answer = 2 + 10 * x + y
        assert answer == target, (leaf, target)


def test_answers_by_hand():
    data = GcogData(grid=4, shapes=5, colours=5)
    image = data.image([(2, 3), (4, 1), (2, 0)], [6, 9, 15])  # cells (1, 2), (2, 1), (3, 3)
    one = lambda *leaf: solve((leaf,), image, data)[0]  # noqa: E731
    assert (one("exist", 2, 3), one("exist", 2, 1)) == (0, 1)
    assert (
        one("go", 4, 1) == 2 + 9 and one("getcolor", 4, -1) == 2 + 16 + 5 + 1 and one("getshape", -1, 3) == 2 + 16 + 2
    )
    assert (one("sumeven", 2, 3), one("sumodd", 2, 3), one("producteven", 2, 3), one("productodd", 2, 0)) == (
        1,
        0,
        0,
        0,
    )
    with pytest.raises(ValueError, match="2 answers"):
        one("getcolor", 2, -1)
    task = (("exist", 2, 1), SWITCH, ("go", 4, 1), ("exist", 4, 1), SWITCH, ("go", 2, 0), ("go", 2, 3))
    assert depth(task) == 5 and solve(task, image, data) == (2 + 15, "go")
    assert [tokens(d) for d in (1, 3, 5, 7)] == [2, 5, 11, 23]


def test_every_task_has_one_answer_that_distractors_leave():
    data = GcogData(300, 10, 200, grid=6, shapes=6, colours=6, distractors=3, tested=(16,), split="productive")
    for i in range(60):
        record = data.record("test", i)
        task = read(data, record["instruction"])
        assert depth(task) == 5 == record["depth"]
        for name in ("image", "image_16"):
            assert solve(task, record[name], data) == (record["answer"], record["operator"])
        shown = record["image"][:-1, 1] > 0
        np.testing.assert_array_equal(record["image_16"][:-1][shown], record["image"][:-1][shown])
        assert record["image_16"][:-1].any(1).sum() >= 16
        assert record["instruction"][-1].tolist() == [0] * 7 + [1]
    assert {data.record("train", i)["depth"].item() for i in range(20)} == {1, 3}


def read(data, instruction):
    """The task of an instruction."""
    task = []
    for operator, shape, colour, *_ in instruction[(instruction > 0).any(1)][:-1]:
        leaf = OPERATORS[operator - 1] if operator != SWITCH else "", shape - 1, colour - 1
        task.append(
            SWITCH
            if operator == SWITCH
            else (leaf[0], *(-1 if v == n else int(v) for v, n in zip(leaf[1:], (data.shapes, data.colours))))
        )
    return tuple(task)


def test_exist_is_balanced_and_no_answer_is_constant():
    data = GcogData(600, grid=5, shapes=5, colours=5, distractors=3)
    records = [data.record("train", i) for i in range(600)]
    for operator in OPERATORS:
        answers = [int(r["answer"]) for r in records if r["operator"] == operator]
        assert len(answers) > 40 and np.bincount(answers).max() / len(answers) < 0.82, operator
    assert 0.35 < np.mean([r["answer"] == 0 for r in records if r["operator"] == "exist"]) < 0.65


def test_contradicting_leaves_have_no_scene():
    rng = np.random.default_rng(0)
    assert scene(rng, [("go", 1, 2), ("go", 1, 3), ("getcolor", 1, -1)], 2, None, (5, 5)) is None
    needed, others = scene(rng, [("go", 1, 2), ("getcolor", 1, -1), ("getshape", -1, 3)], 4, None, (5, 5))
    assert (1, 2) in needed and len(others) == 4 and not any(s == 1 or c == 3 for s, c in others)


def test_systematic_splits_share_no_pairing():
    data = GcogData(200, 10, 200, grid=5, shapes=6, colours=6, distractors=2, split="systematic")

    def pairings(split):
        found = set()
        for i in range(150):
            ((operator, shape, colour),) = read(data, data.record(split, i)["instruction"])
            found.add((operator in HALVES[1], max(shape // 3, colour // 3) == 1))
        return found

    assert pairings("train") == {(False, False), (True, True)} and pairings("test") == {(False, True), (True, False)}
    deep = GcogData(100, 10, 100, grid=5, shapes=6, colours=6, distractors=2, split="pairs")
    for split, same in (("train", True), ("test", False)):
        for i in range(30):
            condition, _, left, right = read(deep, deep.record(split, i)["instruction"])
            half = condition[0] in CONDITIONS[1]
            assert all((leaf[0] in LEAVES[1]) == (half == same) for leaf in (left, right))


def test_zero_latents_stay_equal_and_learned_ones_do_not():
    batch = {"instruction": GOLDEN["rule"].astype(np.int32), "image": GOLDEN["stim"].astype(np.int32)}
    for start, equal in (("zeros", True), ("learned", False)):
        results = []
        for latents in (1, 4):
            system = Config("perceiver", 7, width=8, vocab=6, latents=latents, start=start).build()
            params, _ = jax.jit(system.init)(jax.random.key(0), batch)
            if start == "learned":
                params["net"]["latents"] = jnp.arange(latents * 8.0).reshape(latents, 8)[::-1] % 5
            results.append(jax.jit(system.infer["fused"])(params, {}, batch))
        assert np.allclose(*results, atol=1e-5) == equal


def test_the_averaged_image_is_one_key():
    batch = {"instruction": GOLDEN["rule"].astype(np.int32), "image": GOLDEN["stim"].astype(np.int32)}
    system = Config("averaged", 7, width=8, vocab=6).build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    attn = params["net"]["attn"]
    other = params | {"net": params["net"] | {"attn": attn | {"query": jax.tree.map(lambda x: x + 3.0, attn["query"])}}}
    infer = jax.jit(system.infer["fused"])
    np.testing.assert_allclose(
        infer(params, {}, batch), infer(other, {}, batch), atol=1e-5
    )  # one key: queries do not matter


def test_a_table_of_ones_own(tmp_path):
    data = GcogData(8, grid=3, shapes=4, colours=4, distractors=2)
    records = [data.record("train", i) for i in range(8)]
    rows = [
        {"instruction": r["instruction"].tolist(), "cells": r["image"].tolist(), "answer": int(r["answer"]), "split": "train" if i < 6 else "test"}
        for i, r in enumerate(records)
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = Table(tmp_path / "t.jsonl", image=None, text=None, extra=("instruction", "cells"), label="answer")
    parts = (
        ids("instruction", 2, 8, vocab=data.vocab),
        ids("image", 10, 3, vocab=data.vocab, field="cells"),
        label("answer", data.answers, "label"),
    )
    config = Experiment(
        Config("cross", data.answers, data.vocab, width=8), Data(table, parts, batch_size=4, eval_batch_size=2),
        phases=(Phase(steps=2),), evals=(Answers("logits", "label"),), mesh=Mesh(1, 1),
    )  # fmt: skip
    assert 0 <= loop.train(config, progress=False, evaluate=evaluate).metrics["answers accuracy"] <= 1


def test_what_cannot_work_is_one_sentence():
    for options, sentence in (
        ({"grid": 2}, "as many cells"), ({"operators": ("exit",)}, "choose from"), ({"split": "pairs", "operators": ("exist",)}, "needs all"),
        ({"split": "productive", "deep": 4}, "an odd depth"), ({"split": "productive", "operators": ("go",)}, "a condition needs"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=sentence):
            GcogData(**options)
    for options, sentence in (({"blocks": 2}, 'only kind "single"'), ({"width": 9}, "even"), ({"heads": 3}, "divide")):
        with pytest.raises(ConfigError, match=sentence):
            Config(**options).build()
    with pytest.raises(ConfigError, match="at least 2"):
        Config(answers=1).build()

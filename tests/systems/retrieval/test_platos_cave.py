"""Plato's cave: identities of the closed forms (no code of the authors is available), the built-in shapes, the command."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.retrieval.platos_cave import get_config
from experiments import align as command
from mmrep import modality, solvers
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Arrays, Table
from mmrep.errors import ConfigError, DataError
from mmrep.evals.suite import evaluate
from mmrep.modality import FIRST_PIECE, MASK
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.system import System
from mmrep.systems.retrieval.platos_cave import Config, Fit, mask_words, view_loss
from mmrep.systems.retrieval.platos_cave.data import KINDS, ShapeData, caption, surface
from mmrep.systems.retrieval.platos_cave.evals import chances
from mmrep.systems.retrieval.platos_cave.model import (
    align,
    align_by_hold_out,
    compare,
    cosines,
    local_cka,
    matching,
    table,
    top,
)
from mmrep.training.loop import Context, train


def world(n=300, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    z, a, b = rng.standard_normal((n, 4)), *(rng.standard_normal((4, d)) for d in (12, 9))
    return z @ a + noise * rng.standard_normal((n, 12)) + 3, z @ b + noise * rng.standard_normal((n, 9)) - 1


def test_rank_one_local_cka_is_that_of_the_appended_pair():
    x, y = world(40)
    found = local_cka(x[:30], y[:30], x[30:33], y[30:35])
    for i in range(3):
        for j in range(5):
            rows = [np.concatenate([s[:30], s[30 + k][None]]) for s, k in ((x, i), (y, j))]
            assert found[i, j] == pytest.approx(solvers.linear_cka(*rows), abs=1e-9)


def test_equal_spaces_match_perfectly_for_any_k():
    x, _ = world()
    for k in (1, 3, 12):
        a = align(x[:200], x[:200], k, eps=1e-6)
        scores = cosines(a.x(x[200:]), a.y(x[200:]))
        assert k == 1 or matching(scores) == 1.0
        np.testing.assert_allclose(np.diagonal(scores), 1, atol=1e-3)


def test_the_subspace_is_found_and_shuffled_anchors_find_none():
    x, y = world(600)
    a = align_by_hold_out(x[:400], y[:400], (1, 4, 9))
    scores = cosines(a.x(x[400:]), a.y(y[400:]))
    assert a.k == 4 and matching(scores) > 0.5 > 0.05 > matching(
        cosines(*(m(s) for m, s in zip(wrong(x, y), (x[400:], y[400:]))))
    )
    assert top(scores, 5) >= top(scores, 1)


def wrong(x, y):
    a = align(np.random.default_rng(0).permutation(x[:400]), y[:400], 4)
    return a.x, a.y


def test_queries_are_centred_by_the_anchors():
    x, y = world()
    a = align(x[:200], y[:200], 4)
    np.testing.assert_allclose(a.x(x[:200]).mean(0), 0, atol=1e-9)
    assert np.abs(a.x(x[200:201])).max() > 1e-3  # one query, which its own mean would send to 0


def test_equal_captions_are_right_answers():
    scores = np.array([[0.1, 0.9, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
    assert matching(scores) == pytest.approx(1 / 3) and matching(scores, np.array([7, 7, 2])) == 1
    assert top(scores, 1, np.array([7, 7, 2])) == 1 and top(scores, 2) == 1
    with pytest.raises(DataError, match="NaN"):
        matching(scores * np.nan)


def test_the_table_has_all_methods():
    x, y = world(260)
    found, scores = compare((x[:200], y[:200]), (x[200:], y[200:]), (4, 400))
    rows = table(scores)
    assert found.k in (4, 9) and len(rows) == 6
    assert rows["CCA + affine"]["matching"] > 0.7 and all(0 <= v <= 1 for row in rows.values() for v in row.values())


def test_few_anchors():
    x, y = world(20)
    assert np.isfinite(align(x[:6], y[:6], 3).x.weight).all()
    with pytest.raises(DataError, match="3 anchors"):
        align_by_hold_out(x[:3], y[:3], (2,))
    with pytest.raises(ConfigError, match="ks is"):
        align_by_hold_out(x, y, ())


def test_shapes():
    source = ShapeData(20, n_points=40)
    record = source.open("train")[3]
    assert record["points"].shape == (40, 3) and not np.array_equal(record["points"], record["points_b"])
    assert record["text"] == caption(int(record["shape"])) == list(source.texts("train"))[3]
    assert len({caption(k) for k in range(441)}) == 441 and "with a" in record["text"]
    for kind in range(len(KINDS)):
        x = surface(kind, np.random.default_rng(0).random((2, 200)))
        assert np.isfinite(x).all() and np.abs(x).max() <= 1.11
    with pytest.raises(ConfigError, match="n_points is 1"):
        ShapeData(n_points=1)


def test_special_ids_are_never_masked():
    ids = np.tile(np.array([1, 9, 8, 7, 2, 0], np.int32), (50, 1))
    seen, hidden = mask_words(jax.random.key(0), ids, 0.5)
    assert np.asarray(hidden)[:, [0, 4, 5]].sum() == 0 and 0.4 < np.asarray(hidden)[:, 1:4].mean() < 0.6
    np.testing.assert_array_equal(seen, np.where(hidden, MASK, ids))
    assert ids[~np.asarray(hidden)].min() < FIRST_PIECE


def test_view_loss_of_one_pair_is_zero():
    x = jnp.eye(2, 4)
    assert float(view_loss(x[:1], x[:1], 0.1)) == 0 and float(view_loss(x, x, 0.1)) < 1e-3


TINY = Config((("points", VectorEncoder()), ("text", VectorEncoder())), (12, 9), k=4)


def fitted(config, data, n, fit):
    split = open_split(data, None, "train")
    system: System = config.build()
    params, extras = system.init(jax.random.key(0), collate([split.entry(0)]))
    assert system.loss is None
    _, extras = fit(params, extras, Context(split, system, jax.random.key(0), lambda name: split))
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(n)]))
    return [np.asarray(system.infer[k](params, extras, batch)) for k in ("points", "text")], extras


def test_eight_rows_of_a_table_of_vectors(tmp_path):
    x, y = world(8, noise=0.0)
    rows = [
        json.dumps({"points": a.tolist(), "text": b.tolist(), "name": str(i)}) for i, (a, b) in enumerate(zip(x, y))
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(rows) + "\n")
    source = Table(tmp_path / "t.jsonl", image=None, text="name", extra=("points", "text"), fractions=(1.0, 0.0, 0.0))
    parts = modality.vector("points", 12), modality.vector("text", 9)
    data = replace(get_config("paper").data, source=source, modalities=parts)
    (a, b), extras = fitted(TINY, data, 8, Fit((2, 9)))
    assert a.shape == b.shape == (8, 4) and np.isfinite(a).all()
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, rtol=1e-5)
    assert {k: v["weight"].shape for k, v in extras["maps"].items()} == {"points": (12, 4), "text": (9, 4)}


def test_chance_counts_equal_records():
    assert chances(None, 10) == pytest.approx({"chance": 0.1, "chance top-5": 0.5})
    # One record alone, and three that are equal; 5 of 4 candidates are all of them.
    assert chances(np.array([0, 1, 1, 1]), 4) == pytest.approx({"chance": (1 + 9) / 16, "chance top-5": 1.0})


def test_the_variant_on_emoji_compares_the_alignment_with_its_rivals():
    """On vectors in the place of the emoji's components, which share four directions."""
    config = get_config("small", "emoji")
    x, y = world(260, noise=0.1)
    x, y = (np.pad(v, ((0, 0), (0, 128 - v.shape[1]))).astype(np.float32) for v in (x, y))
    parts = [{"gradients": x[s], "words": y[s], "name": ["a"] * len(x[s])} for s in (slice(200), slice(200, 260))]
    config = replace(config, data=replace(config.data, source=Arrays(parts[0], test=parts[1])))
    found = evaluate(train(config, progress=False))
    assert found["image->text matching"] > 0.9 and found["methods affine, ridge matching"] > 0.5
    # Both are one alignment: the system's, in float32, and that of the table.
    assert found["image->text matching"] == pytest.approx(found["methods CCA + affine matching"], abs=0.05)
    for name in ("image->text chance", "methods chance", "image->text chance_R@1"):
        assert found[name] == pytest.approx(1 / 60)
    with pytest.raises(ConfigError, match="of size tiny"):
        get_config("tiny", "emoji")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"k": 13}, "k is 13"),
        ({"encoders": TINY.encoders[:1]}, "give two"),
        ({"objective": "words"}, "must be a TextEncoder"),
        ({"rate": 1.0}, "rate is 1.0"),
    ],
)
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(TINY, **change).build()


def test_the_command(tmp_path, monkeypatch, capsys):
    x, y = world(120)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "anchors.txt").write_text(" ".join(map(str, range(20, 120))))
    base = ["align", str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [*base, "--anchors", str(tmp_path / "anchors.txt"), "--k", "2,4"])
    command.run()
    assert "100 anchors, 20 queries, 4 dimensions" in capsys.readouterr().out
    found, maps = json.loads((tmp_path / "out" / "table.json").read_text()), np.load(tmp_path / "out" / "map.npz")
    assert found["methods"]["CCA + affine"]["matching"] > 0.7
    assert np.load(tmp_path / "out" / "queries.npy").tolist() == list(range(20))
    scores = cosines(x[:20] @ maps["x_weight"] + maps["x_bias"], y[:20] @ maps["y_weight"] + maps["y_bias"])
    np.testing.assert_allclose(scores, np.load(tmp_path / "out" / "scores.npy"), atol=1e-5)
    for given, words in (("120", "leave some as queries"), ("lost.txt", "record numbers")):
        monkeypatch.setattr("sys.argv", [*base, "--anchors", given])
        with pytest.raises(DataError, match=words):
            command.run()


def test_folders_are_aligned_and_searched(tmp_path, monkeypatch):
    """Two corpora of experiments.embed and a third: a query of the first space finds its own record in the others' mapped corpora."""
    from experiments import search
    from mmrep.evals import index

    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 4))
    for name, dim in (("image", 8), ("text", 6), ("sound", 5)):
        x, about = (
            z @ rng.normal(size=(4, dim)),
            {"records": 60, "shard_size": 40, "workdir": f"runs/{name}", "modality": name},
        )
        index.write(
            tmp_path / name, about, lambda low, high, x=x: (np.arange(low, high), x[low:high]), say=lambda text: None
        )
    folders = [str(tmp_path / name) for name in ("image", "text", "sound")]
    monkeypatch.setattr("sys.argv", ["align", *folders, "--anchors", "50", "--out", str(tmp_path / "out"), "--k", "4"])
    command.run()
    image = np.concatenate([x for _, x in index.Corpus(tmp_path / "image").read()])
    for other in ("text", "sound"):
        corpus = index.Corpus(tmp_path / "out" / other / "b")
        assert corpus.about["workdir"] == "runs/image" and corpus.about["modality"] == other
        hits = index.build(corpus).search(search.mapped(image[50:], corpus.about), 1)
        assert (hits.ids[:, 0] == np.arange(50, 60)).mean() >= 0.8
    assert search.mapped(image, {}) is image
    with pytest.raises(DataError, match="align again"):
        search.mapped(image, {"map": [str(tmp_path / "absent.npz"), "x"]})
    monkeypatch.setattr("sys.argv", ["align", folders[0], "--anchors", "50", "--out", str(tmp_path / "out")])
    with pytest.raises(ConfigError, match="two or more"):
        command.run()

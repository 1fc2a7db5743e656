"""G2L's map, geodesic distance and losses against the authors' numbers, SciPy and closed forms."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.csgraph import dijkstra
from scipy.stats import spearmanr

from configs.video import g2l as configs
from mmrep import api, modality
from mmrep.config import Data
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.evals.temporal import Moments
from mmrep.nn.spans import iou, nms, proposals
from mmrep.systems.video.g2l import contrast, model
from mmrep.systems.video.g2l.data import RepeatedData

GOLDEN = {k: v for k, v in np.load(Path(__file__).parents[2] / "golden" / "g2l.npz").items()}
geodesic = jax.jit(model.geodesic, static_argnames=("k", "limit", "steps"))


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


def test_map_of_maxima_is_the_authors():
    # Theirs counts lengths above 1: (3, 2) there is (4, 2) here.
    cells = proposals(8, (4, 2))
    np.testing.assert_array_equal(np.argwhere(GOLDEN["mask"]), cells)
    found = model.max_map(jnp.asarray(GOLDEN["pool_in"]).swapaxes(1, 2), cells)
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), GOLDEN["pool"], atol=1e-6)


def test_overlap_suppression_and_iou_loss_are_the_authors():
    grid = GOLDEN["iou2d"]
    at = proposals(8)
    spans = jnp.asarray(model.spans_of(8, ()))
    np.testing.assert_allclose(iou(jnp.array([3 / 24, 11 / 24]), spans), grid[tuple(at.T)], atol=1e-6)
    x = jnp.asarray(GOLDEN["nms_in"])
    index, kept = nms(x, jnp.asarray(GOLDEN["nms_scores"]), 0.5, 30)
    np.testing.assert_allclose(x[index[kept]], GOLDEN["nms"], atol=1e-6)
    p, overlap = jnp.array([[[0.2, 0.9, 0.4, 0.6]]]), jnp.array([[[0.1, 0.6, 0.8, 1.0]]])
    found = model.iou_loss(jnp.log(p / (1 - p)), overlap, jnp.ones((1, 1), bool))
    np.testing.assert_allclose(found, GOLDEN["bce"], rtol=1e-5)


def test_geodesic_is_the_authors_and_dijkstras():
    x, anchors = jnp.asarray(GOLDEN["feats"].T), jnp.asarray(GOLDEN["anchors"])
    np.testing.assert_allclose(geodesic(x, anchors, 4, 0.5, steps=19), GOLDEN["geo"], atol=1e-5)
    # Far points, so that the limit cuts: against SciPy on the same graph.
    y = np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
    square = ((y[:, None] - y[None]) ** 2).sum(-1) + np.diag(np.full(30, np.inf))
    length, graph = y / np.linalg.norm(y, axis=1, keepdims=True), np.zeros((30, 30))
    for i, row in enumerate(np.argsort(square, 1)[:, :3]):
        graph[i, row] = np.maximum(1 - length[row] @ length[i], 1e-12)
    d = dijkstra(graph, indices=[2, 5], limit=0.3)
    np.testing.assert_allclose(
        geodesic(y, jnp.array([2, 5]), 3, 0.3, steps=29), np.where(d <= 0.3, 1 - d, 0), atol=1e-5
    )


def test_geodesic_follows_a_spiral_where_cosine_does_not():
    t = np.linspace(0, 1, 60)
    radius = 1 + 3 * t
    y = np.stack([radius * np.cos(12 * t), radius * np.sin(12 * t)], 1).astype(np.float32)
    g = np.asarray(geodesic(y, jnp.array([0]), 2, 50.0, steps=59))[0]
    cosine = y @ y[0] / np.linalg.norm(y, axis=1)
    assert spearmanr(-g, t)[0] > 0.95 > 0.7 > spearmanr(-cosine, t)[0]


def test_duplicates_and_chains():
    # Two equal proposals are neighbours at distance 0; a chain adds its edges up.
    x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.9, 0.2], [0.7, 0.5], [-5.0, 0.0]])
    g = geodesic(x, jnp.array([0]), 2, 0.5)[0]
    np.testing.assert_allclose(g[:2], 1.0, atol=1e-6)
    assert g[4] == 0.0, "not reached"
    assert np.isfinite(geodesic(x, jnp.array([0]), 9, 0.5)).all(), "k above the number of proposals"
    assert not np.any(jax.grad(lambda x: model.geodesic(x, jnp.array([0]), 2).sum())(x))


def test_score_of_a_coalition_is_the_authors():
    a = jnp.asarray(GOLDEN["sent"] @ GOLDEN["moments"])
    found = model.sim_score(a, jnp.ones(3, bool), jnp.ones(9, bool))
    np.testing.assert_allclose(found, GOLDEN["sim_score"], rtol=1e-5)
    assert model.sim_score(a, jnp.zeros(3, bool), jnp.ones(9, bool)) == 0.0


def test_shapley_loss_against_a_loop():
    a, s, m = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32), 2, 3

    def v(rows, columns):
        return float(
            model.sim_score(
                jnp.asarray(a), jnp.isin(jnp.arange(s), jnp.array(rows)), jnp.isin(jnp.arange(m), jnp.array(columns))
            )
        )

    every = [*range(s)], [*range(m)]
    target = np.array([
        [
            v(*every) - v([r for r in every[0] if r != i], every[1]) - v(every[0], [c for c in every[1] if c != j])
            + v([r for r in every[0] if r != i], [c for c in every[1] if c != j])
            for j in range(m)
        ]
        for i in range(s)
    ])  # fmt: skip
    expected = -(s / m) * (target / np.linalg.norm(target) * np.asarray(jax.nn.log_softmax(jnp.asarray(a), -1))).sum()
    np.testing.assert_allclose(jax.jit(model.shapley_loss)(a, jnp.ones(2, bool)), expected, rtol=1e-4)


def test_contrast_against_a_loop():
    b, g, p = 2, 2, 3
    v, t = unit(0, b, p, 4), unit(1, b, g, 4)
    overlap = jnp.array([[[1.0, 0.6, 0.0], [0.1, 1.0, 0.2]], [[0.0, 0.2, 1.0], [0.0, 0.3, 0.9]]])
    anchors, valid = overlap.argmax(-1), jnp.array([[True, True], [True, False]])
    weights = jnp.array([[[1.0, 0.7, 0.0], [0.0, 1.0, 0.0]], [[0.5, 0.0, 1.0], [0.0, 0.0, 1.0]]])
    vid, sent = jax.jit(contrast)(v, t, anchors, weights, overlap, valid)
    rows, videos = [], []
    for i in range(b):
        for s in range(g):
            if not valid[i, s]:
                continue
            x, best = t[i, s], v[i, anchors[i, s]]
            z = np.exp((float(best @ x) - 0.3) / 0.1)
            for j in range(b):
                for r in range(g):
                    if valid[j, r] and (j, r) != (i, s) and not (j == i and overlap[i, s, anchors[i, r]] >= 0.5):
                        z += np.exp(float(best @ t[j, r]) / 0.1)
            videos.append(np.log(z) - (float(best @ x) - 0.3) / 0.1)
            positive = {
                q: float(weights[i, s, q]) * np.exp(float(x @ v[i, q]) / 0.1) for q in range(p) if weights[i, s, q] > 0
            }
            z = sum(positive.values())
            z += sum(np.exp(float(x @ v[i, q]) / 0.1) for q in range(p) if q not in positive and overlap[i, s, q] < 0.5)
            z += sum(np.exp(float(x @ v[1 - i, q]) / 0.1) for q in range(p))
            rows.append(np.mean([np.log(z / value) for value in positive.values()]))
    np.testing.assert_allclose(vid, np.mean(videos), rtol=1e-4)
    np.testing.assert_allclose(sent, np.mean(rows), rtol=1e-4)
    alone = contrast(v[:1], t[:1], anchors[:1], weights[:1], overlap[:1], valid[:1])
    assert np.isfinite(alone).all(), "no other video"


def test_synthetic_videos():
    columns = RepeatedData(n_train=40).open("train").columns
    assert columns["video"].shape == (40, 16, 32)
    np.testing.assert_allclose(columns["occurrences"][:, 0], columns["moment"][:, 0])
    chosen = RepeatedData(n_train=40, annotated="any").open("train").columns
    assert (chosen["occurrences"][:, 0] != chosen["moment"][:, 0]).any()


def test_on_eight_rows_of_a_users_table(tmp_path):
    rows = [
        {"video": np.eye(8, 5).tolist(), "sentence": ["a man runs", "he stops"], "moment": [[0.0, 0.5], [0.5, 0.75 if i else 0.5]],
         "split": "test" if i % 2 else "train"}
        for i in range(8)
    ]  # fmt: skip
    path = tmp_path / "moments.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = Table(path, image=None, text=None, extra=("video", "sentence", "moment"))
    base = configs.get_config("tiny")
    parts = (modality.vector("video", 8, 5), modality.texts("sentence", 2, 8, 300), modality.vector("moment", 2, 2))
    system = replace(base.system, text=replace(base.system.text, vocab=300))
    data = Data(source, parts, replace(base.data.tokenizer, vocab=300, kind="unigram"), batch_size=4, eval_batch_size=4)
    found = api.evaluate(api.create(replace(base, system=system, data=data, evals=(Moments(),))))
    assert 0 <= found["mIoU"] <= 1


def test_errors():
    with pytest.raises(ConfigError, match=r"in \[1, 136\]"):
        configs.codes(neighbours=137).build()
    system = configs.codes(clips=5).build()
    batch = modality.example(configs.get_config("tiny").data.modalities, 2)
    with pytest.raises(ConfigError, match="must divide the 8"):
        system.init(jax.random.key(0), batch)

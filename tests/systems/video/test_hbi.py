"""HBI's estimator, clusters and merging against the authors' numbers, its game against closed forms, and padding."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.video import hbi as configs
from mmrep import api, modality
from mmrep.config import Data
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.evals.suite import Retrieval
from mmrep.systems.video.hbi import Config, Tokens, model, wti
from mmrep.systems.video.hbi.evals import hubs

GOLDEN = {k: v for k, v in np.load(Path(__file__).parents[2] / "golden" / "hbi.npz").items()}
W = {k[2:]: v for k, v in GOLDEN.items() if k.startswith("w/")}
banzhaf = jax.jit(model.banzhaf, static_argnames="samples")


def dense(name, rows=slice(None), bias=True):
    found = {"kernel": W[f"{name}.weight"][rows].T}
    return found | ({"bias": W[f"{name}.bias"][rows]} if bias else {})


def norm(name):
    return {"scale": W[f"{name}.weight"], "bias": W[f"{name}.bias"]}


def merging():
    return {
        "conv": {"kernel": W["ctm.conv.conv.weight"].transpose(2, 1, 0)}, "norm": norm("ctm.norm"),
        "score": dense("ctm.score", bias=False), "norm_attention": norm("blk.norm1"), "query": dense("blk.attn.q"),
        "key": dense("blk.attn.kv", slice(8), bias=False), "value": dense("blk.attn.kv", slice(8, 16)), "out": dense("blk.attn.proj"),
    }  # fmt: skip


def test_estimator_is_the_authors():
    conv = lambda n: {"kernel": W[f"est.{n}.weight"].transpose(2, 3, 1, 0), "bias": W[f"est.{n}.bias"]}  # noqa: E731
    params = {"conv0": conv("cnn1"), "conv1": conv("cnn2")} | {
        n: {"kernel": W[f"est.{n[0].upper()}"]} for n in ("query", "key", "value")
    }
    found = jax.jit(model.Estimator(4).apply)({"params": params}, GOLDEN["a"][:, 0])
    np.testing.assert_allclose(found, GOLDEN["e"][:, 0], atol=1e-5)


def test_clusters_are_the_authors():
    x, valid = jnp.asarray(GOLDEN["x"]), jnp.asarray(GOLDEN["mask"]) > 0
    own, exists = jax.jit(model.cluster, static_argnums=(2, 3))(x, valid, 3, 3)
    assert exists.all()
    np.testing.assert_array_equal(np.asarray(own)[valid], GOLDEN["idx"][np.asarray(valid)])


@pytest.mark.parametrize("mask", [True, False])
def test_merged_tokens_are_the_authors(mask):
    valid = jnp.asarray(GOLDEN["mask"]) > 0 if mask else jnp.ones((3, 7), bool)
    found, exists = jax.jit(model.TokenMerge(0.5, 2).apply)({"params": merging()}, jnp.asarray(GOLDEN["x"]), valid)
    # Their convolution covers what padding holds; ours covers zeros. Row 0 has none.
    rows = slice(0, 1) if mask else slice(None)
    np.testing.assert_allclose(found[rows], GOLDEN["y" if mask else "y2"][rows], atol=2e-5)
    assert exists.all()


def test_padding_is_no_centre_and_changes_nothing():
    x, valid = jnp.asarray(GOLDEN["x"]), jnp.arange(7) < jnp.array([7, 2, 1])[:, None]
    merge = jax.jit(model.TokenMerge(0.5, 2).apply)
    a, exists = merge({"params": merging()}, x, valid)
    np.testing.assert_array_equal(exists.sum(1), [4, 2, 1])
    b, _ = merge({"params": merging()}, jnp.where(valid[..., None], x, 9.0), valid)
    np.testing.assert_allclose(np.asarray(a)[exists], np.asarray(b)[exists], atol=1e-5)


def exact(a, u, w, i, j):
    """The interaction by its definition, over all coalitions of the others."""
    n, m = a.shape

    def v(x, y):
        if not x or not y:
            return 0.0
        s, p, q = a[np.ix_(x, y)], np.exp(u[x]), np.exp(w[y])
        return 0.5 * (s.max(1) @ p / p.sum() + s.max(0) @ q / q.sum())

    total = []
    for bits in product((0, 1), repeat=n + m - 2):
        x = [k for k, b in zip([k for k in range(n) if k != i], bits) if b]
        y = [k for k, b in zip([k for k in range(m) if k != j], bits[n - 1 :]) if b]
        total.append(v(sorted([*x, i]), sorted([*y, j])) + v(x, y) - v(sorted([*x, i]), y) - v(x, sorted([*y, j])))
    return np.mean(total)


def test_interactions_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    a, u, w = (rng.normal(size=s).astype(np.float32) for s in ((3, 3), 3, 3))
    every = jnp.ones(3, bool)
    found = banzhaf(a, every, every, u, w)
    np.testing.assert_allclose(found, [[exact(a, u, w, i, j) for j in range(3)] for i in range(3)], atol=1e-5)
    np.testing.assert_allclose(banzhaf(a[:1, :1], every[:1], every[:1], u[:1], w[:1]), a[:1, :1], rtol=1e-6)
    # A padded word is no player, however similar it is.
    part = banzhaf(jnp.asarray(a).at[2].set(9.0), jnp.array([True, True, False]), every, u, w)
    np.testing.assert_allclose(
        part[:2], [[exact(a[:2], u[:2], w, i, j) for j in range(3)] for i in range(2)], atol=1e-5
    )
    np.testing.assert_array_equal(part[2], 0.0)
    drawn = banzhaf(a, every, every, u, w, samples=4000, rng=jax.random.key(0))
    np.testing.assert_allclose(drawn, found, atol=0.1)


def test_padding_does_not_win_where_all_similarities_are_negative():
    x = Tokens(jnp.array([[[1.0, 0.0], [0.0, 1.0]]]), jnp.array([[True, False]]), jnp.zeros((1, 2)))
    y = Tokens(jnp.array([[[-1.0, 0.0]]]), jnp.ones((1, 1), bool), jnp.zeros((1, 1)))
    np.testing.assert_allclose(wti(x, y), [[-1.0]], atol=1e-6)


def test_kl():
    a, b = (jnp.asarray(np.random.default_rng(i).normal(size=(2, 3, 4)), jnp.float32) for i in range(2))
    p, q = jax.nn.softmax(b, -1), jax.nn.softmax(a, -1)
    np.testing.assert_allclose(model.kl(a, b), (p * jnp.log(p / q)).sum() / 24, rtol=1e-5)
    np.testing.assert_allclose(model.interaction_loss(a, a), 0.0, atol=1e-7)


def test_hubs():
    found = hubs(200, 0.3, pairs=10, players=4)
    assert set(found) == {f"{n} AUROC" for n in ("similarity", "interaction", "dual softmax", "centring")}


def test_on_eight_rows_of_a_users_table(tmp_path):
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).integers(0, 255, (6, 8, 8, 3), np.uint8))
    rows = "\n".join(f"{i}.npy,a thing number {i},{'test' if i % 2 else 'train'}" for i in range(8))
    (tmp_path / "clips.csv").write_text(f"video,caption,split\n{rows}\n")
    source = Table(tmp_path / "clips.csv", image=None, video="video", text="caption")
    base = configs.get_config("tiny")
    video = configs.VideoEncoder(configs.ImageEncoder(configs.TransformerConfig(width=16, depth=1, heads=2), patch=4))
    system = replace(base.system, video=video, text=replace(base.system.text, vocab=300))
    parts = (modality.video("video", 6, 8), modality.text("text", configs.LENGTH, 300))
    data = Data(source, parts, replace(base.data.tokenizer, vocab=300, kind="unigram"), batch_size=4, eval_batch_size=4)
    evals = (Retrieval("text", "video", score="score"),)
    phases = (replace(base.phases[-1], system=system),)
    found = api.evaluate(api.create(replace(base, system=system, data=data, phases=phases, evals=evals)))
    assert 0 <= found["text->video R@1"] <= 1


def test_errors():
    with pytest.raises(ConfigError, match=r"system.video is None"):
        Config().build()
    with pytest.raises(ConfigError, match="must divide dim"):
        configs.coded(heads=5).build()

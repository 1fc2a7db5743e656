"""OmniBind: the authors' projectors and routers with folded statistics, hand weights, mined tuples, stored folders, its losses."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.omnibind import get_config, made, specialists
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.stored import Stored
from mmrep.errors import ConfigError, DataError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.systems.contrastive.omnibind import Config
from mmrep.systems.contrastive.omnibind.data import PseudoTuples, Specialists, mine, nearest
from mmrep.systems.contrastive.omnibind.model import (
    Expert,
    Projector,
    Router,
    alignment_loss,
    bind,
    decoupling_loss,
    projection_loss,
    route_weights,
)

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "omnibind.npz"))
X = jnp.asarray(GOLDEN["x"])


def folded(dense, norm=""):
    """A linear map of the authors with its BatchNorm's statistics."""
    weight, bias = GOLDEN[f"{dense}.weight"].T, GOLDEN[f"{dense}.bias"]
    if norm:
        g = GOLDEN[f"{norm}.weight"] / np.sqrt(GOLDEN[f"{norm}.running_var"] + 1e-5)
        weight, bias = weight * g, (bias - GOLDEN[f"{norm}.running_mean"]) * g + GOLDEN[f"{norm}.bias"]
    return {"kernel": weight, "bias": bias}


def test_the_authors_projectors_and_routers():
    params = [
        {f"dense{i}": folded(f"proj{k}/mlps.{a}", f"proj{k}/mlps.{a + 1}") for i, a in enumerate((0, 3))}
        for k in (0, 1)
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
    copies = jax.vmap(lambda p: Projector(24, 8, "none").apply({"params": p}, X))(stacked)
    np.testing.assert_allclose(copies, GOLDEN["copies"].swapaxes(0, 1), atol=2e-6)
    np.testing.assert_allclose(copies.mean(0), GOLDEN["seg_mean"][:, 0], atol=2e-6)
    names = {"dense0": ("0", "1"), "dense1": ("3", "4"), "dense2": ("6",)}
    router = {n: folded(*(f"router/router.{k}" for k in of)) for n, of in names.items()}
    found = Router((20, 10), 3, "none").apply({"params": router}, X)
    np.testing.assert_allclose(found, GOLDEN["scores"], atol=2e-6)


def test_weights_by_hand():
    scores = jax.nn.sigmoid(jnp.array([[2.0, 0.0, -2.0]]))
    np.testing.assert_allclose(route_weights(scores)[0], [0.4651, 0.3178, 0.2171], atol=1e-4)
    np.testing.assert_allclose(route_weights(scores, 10.0)[0], [0.9778, 0.0217, 0.0005], atol=1e-4)


def test_a_mean_of_copies_keeps_its_length():
    experts = jnp.array([[[1.0, 0.0], [0.0, 0.1]]])  # the second expert's copies disagree
    found = bind(experts, jnp.array([[0.5, 0.5]]))
    np.testing.assert_allclose(found, [[10 / np.sqrt(101), 1 / np.sqrt(101)]], rtol=1e-5)


def test_losses_by_hand():
    x, y, z = (
        jnp.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True))
        for v in np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    )
    one = [float(symmetric_info_nce(a, b, 10.0).mean()) for a, b in ((x, y), (x, z), (y, z))]
    assert float(alignment_loss({"a": x, "b": y, "c": z}, 0.1).mean()) == pytest.approx(sum(one), rel=1e-5)
    found = projection_loss({"a": jnp.stack([x, z])}, {"b": y}, 0.1).mean()
    assert float(found) == pytest.approx((one[0] + one[2]) / 2, rel=1e-5)
    experts = (Expert("e", 2, ("text", "audio")), Expert("f", 2, ("text", "image")))
    scores = jnp.array([[0.9, 0.2], [0.9, 0.2]])
    value = decoupling_loss(scores, jnp.array([1, 0]), experts, ("text", "audio", "image"), "text")
    np.testing.assert_allclose(value, [-(np.log(0.9) + np.log(0.8)) / 2, 0], rtol=1e-4)


def test_an_item_is_retrieved_at_most_so_often():
    queries, items = (
        np.ones((4, 2), np.float32) * np.array([[4], [3], [2], [1]], np.float32),
        np.array([[1, 1], [0.5, 0.5]], np.float32),
    )
    rows, found = nearest(queries, items, times=2, candidates=2)
    np.testing.assert_array_equal(rows, [0, 1, 2, 3])
    np.testing.assert_array_equal(found, [0, 0, 1, 1])
    rows, found = nearest(queries, items, times=1, candidates=2)
    np.testing.assert_array_equal(rows, [0, 1])
    assert len(set(found.tolist())) == 2


def test_tuples_of_paired_items_are_found_through_other_modalities():
    """Where the items of equal rows are the same, mined tuples have equal rows; sounds and points meet through texts."""
    experts, hears = specialists()
    clear = {name: (0.0, 0.0, 0.0) for name in hears}
    world = Specialists(experts, tuple(clear.items()), noise=0.0, text="none", n_train=40, n_val=40, n_test=40)
    columns = {k: v for k, v in world.open("test").columns.items() if k not in ("topic", "row")}
    rows, start = mine(columns, experts, 3, 10)
    assert len(start) == 4 * 40 and {*start.tolist()} == {0, 1, 2, 3}
    assert all(np.array_equal(rows["image"], rows[m]) for m in ("text", "audio", "points"))
    with pytest.raises(ConfigError, match="no expert connects"):
        mine({"a_x": np.eye(2), "b_y": np.eye(2)}, (Expert("x", 2, ("a",)), Expert("y", 2, ("b",))), 1, 1)


def test_held_out_items_are_not_mined():
    source = made(n=48).data.source
    train, test, own = source.open("train").columns, source.open("test").columns, source.source.open("train").columns
    assert all(len(np.unique(train[n], axis=0)) <= 48 for n in ("text_base", "audio_tones"))
    known = {row.tobytes() for row in own["text_base"]}
    assert all(row.tobytes() in known for row in train["text_base"])
    assert not any(row.tobytes() in known for row in test["text_base"])
    assert not np.array_equal(replace(source, shuffled=True).open("train").columns["text_base"], train["text_base"])


def test_folders_of_embeddings(tmp_path):
    """Eight items of each modality, embedded by two experts, are bound without their models."""
    rng, experts = np.random.default_rng(0), (Expert("base", 6, ("image", "text")), Expert("ear", 4, ("audio", "text")))
    folders = []
    for e in experts:
        for m in e.modalities:
            at = tmp_path / f"{m}_{e.name}"
            at.mkdir()
            for k, rows in enumerate((np.arange(5), np.arange(5, 8))):
                np.save(at / f"ids-{k:05d}.npy", rows)
                np.save(at / f"embeddings-{k:05d}.npy", rng.normal(size=(len(rows), e.dim)).astype(np.float32))
            folders.append((at.name, str(at)))
    config = Config(experts, copies=2, hidden=8, router=(8, 4))
    source = PseudoTuples(Stored(train=tuple(folders), test=tuple(folders), unpaired=True), experts)
    tiny = get_config("tiny")
    parts = tuple(modality.vector(name, 6 if name.endswith("base") else 4) for name, _ in folders)
    data = replace(tiny.data, source=source, modalities=(*parts, modality.label("start", 3)))
    split, system = open_split(data, None, "train"), config.build()
    batch = collate([split.entry(i) for i in range(8)])
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    assert np.isfinite(jax.jit(system.loss)(params, {}, batch, jax.random.key(0))[0])
    assert system.infer["audio"](params, {}, batch).shape == (8, 6)
    np.save(tmp_path / "short.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(DataError, match="other records"):
        Stored(test=(*folders, ("audio_more", str(tmp_path / "short.npy")))).open("test")
    with pytest.raises(DataError, match="no embeddings"):
        Stored(test=(("a", str(tmp_path / "absent.npy")),)).open("test")


def test_only_the_modality_that_is_embedded_is_needed():
    config = get_config("tiny")
    batch, system = modality.example(config.data.modalities, 4), config.system.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    alone = {k: v for k, v in batch.items() if k.startswith("audio_")}
    found = jax.jit(system.infer["audio"])(params, {}, alone)
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(system.infer["text_weights"](params, {}, batch).sum(1), 1, rtol=1e-5)
    constant = replace(config.system, routing="constant").build()
    weights = np.asarray(constant.infer["text_weights"](params, {}, batch))
    np.testing.assert_allclose(weights, weights[:1].repeat(4, 0), atol=1e-6)


@pytest.mark.parametrize(
    "change, words",
    [({"base": "other"}, "base"), ({"text": "smell"}, "text"), ({"copies": 0}, "copies"), ({"inputs": (("audio", ("base",)),)}, "inputs")],
)  # fmt: skip
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(made().system, **change).build()

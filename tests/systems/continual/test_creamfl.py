"""CreamFL: the authors' loss, hand weights, faults, row blocks, its data, a round, and what leaves a client."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.continual.creamfl import get_config, vectors
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError, DataError
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.continual.creamfl import Client, Config
from mmrep.systems.continual.creamfl.data import Federated, Filtered
from mmrep.systems.continual.creamfl.model import (
    aggregate,
    agreement,
    balanced,
    distances,
    inter_loss,
    intra_loss,
    soft_contrastive_loss,
)
from mmrep.systems.continual.creamfl.rounds import Aggregate, Broadcast, public_features

GOLDEN = {
    k: jnp.asarray(v) for k, v in np.load(Path(__file__).parents[2] / "golden" / "creamfl.npz").items() if k != "note"
}


def test_the_authors_soft_contrast():
    x, y = GOLDEN["x"], GOLDEN["y"]
    np.testing.assert_allclose(jnp.diagonal(distances(x, y)), GOLDEN["cdist"][:, 0], atol=1e-5)
    found = soft_contrastive_loss(x, y, jnp.float32(6.0), jnp.float32(4.0))
    assert float(found.sum()) == pytest.approx(float(GOLDEN["loss"]), rel=1e-4)
    np.testing.assert_allclose(jax.nn.softplus(-2 * GOLDEN["logit"] * GOLDEN["matched"]), GOLDEN["nll"], atol=1e-5)


def test_weights_by_hand():
    t = jnp.eye(2)
    np.testing.assert_allclose(agreement(t, t), [-0.3133, -0.3133], atol=1e-4)
    np.testing.assert_allclose(agreement(-t, t), [-1.3133, -1.3133], atol=1e-4)
    found, weights = aggregate({"a": t, "b": -t}, t)
    np.testing.assert_allclose(weights[:, 0], [0.731, 0.269], atol=1e-3)
    np.testing.assert_allclose(found, (0.731 - 0.269) * t, atol=1e-3)
    assert aggregate({"a": t, "b": -t}, t, 0.1)[1][0, 0] > 0.99
    np.testing.assert_allclose(aggregate({"a": -t}, t)[1], 1)  # a single client


def test_clients_that_fail_are_left_out():
    t = jnp.eye(3)
    bad = t.at[1].set(jnp.nan)
    for uniform in (False, True):
        found, weights = aggregate({"a": t, "b": bad}, t, uniform=uniform)
        np.testing.assert_allclose(weights[:, 1], [1, 0], atol=1e-6)
        np.testing.assert_allclose(weights[:, 0], 0.5, atol=1e-6)
        assert np.isfinite(found).all()
    found, weights = aggregate({"b": jnp.full((3, 3), jnp.nan)}, t)
    assert not found.any() and not weights.any()


def test_row_blocks_change_nothing():
    x, y = (jnp.asarray(v, jnp.float32) for v in np.random.default_rng(0).normal(size=(2, 7, 4)))
    whole = jnp.diagonal(jax.nn.log_softmax(x @ y.T / 0.5, axis=1))
    for block in (3, 7, 100):
        np.testing.assert_allclose(agreement(x, y, 0.5, block), whole, atol=1e-5)


def test_contrasts_by_hand():
    u, t = jnp.eye(2), jnp.eye(2)
    np.testing.assert_allclose(inter_loss(u, t, jnp.arange(2)), np.log(1 + np.exp(-2)), rtol=1e-5)
    np.testing.assert_allclose(intra_loss(u, t, t), np.log(2), rtol=1e-5)  # the first round: old features are its own
    np.testing.assert_allclose(intra_loss(u, t, -t), np.log(1 + np.exp(-4)), rtol=1e-5)
    slope = jax.grad(lambda x: balanced(3 * x, jnp.float32(6.0)))(jnp.float32(1.0))
    assert float(balanced(jnp.float32(3.0), jnp.float32(6.0))) == 12 and float(slope) == 6


@pytest.fixture(scope="module")
def small():
    config = vectors(count=1, steps=2)
    private = tuple((name, replace(source, n_train=40, n_test=8)) for name, source in config.data.source.private)
    source = replace(config.data.source, private=private)
    source = replace(source, public=replace(source.public, n_train=24), held=replace(source.held, n_test=16))
    parts = tuple(replace(m, vocab=24) if m.name == "row" else m for m in config.data.modalities)
    data = replace(config.data, source=source, modalities=parts, batch_size=8)
    config = replace(config, data=data, system=replace(config.system, public=24))
    system, batch = config.system.build(), modality.example(parts, 8)
    return config, system, *jax.jit(system.init)(jax.random.key(0), batch), batch


def context(config, system):
    split = open_split(config.data, None, "train")
    return SimpleNamespace(split=split, system=system, rng=jax.random.key(1), open=None)


def test_records_of_all_parties(small):
    source = small[0].data.source
    train, test = source.open("train"), source.open("test")
    assert len(train) == 40 and len(test) == 16 and train[25]["row"] == 1
    np.testing.assert_array_equal(train[25]["image"], train[1]["image"])
    assert not np.array_equal(train[25]["a_image"], train[1]["a_image"])
    assert {*np.unique([train[i]["a_label"] for i in range(40)])} <= {4, 5, 6, 7}
    assert {test[i]["label"] for i in range(16)} > {4} and {train[i]["label"] for i in range(24)} <= {0, 1, 2, 3}
    assert source.view(train[0], None).keys() == train[0].keys()
    part = Filtered(source.held, "label", (5,))
    assert {r["label"] for r in part.open("test")} == {5}
    with pytest.raises(DataError, match="no record"):
        Filtered(source.held, "label", (99,)).open("test")


def test_a_round(small):
    config, system, params, extras, _ = small
    here = context(config, system)
    _, sent = Broadcast(4)(params, extras, here)
    kept = {n for n, v in sent["chosen"].items() if v}
    assert len(kept) == 4
    features = public_features(params, sent, here)
    np.testing.assert_allclose(sent["image"], features["server"]["image"], atol=1e-6)
    np.testing.assert_allclose(sent["old"]["t"]["text"], features["t"]["text"], atol=1e-6)
    assert {*features["i"]} == {"image"} and {*features["t"]} == {"text"}
    _, found = Aggregate(0.1)(params, sent, here)
    for m in ("image", "text"):
        there = kept & {*found["trust"][m]}
        assert sum(float(v) for v in found["trust"][m].values()) == pytest.approx(1, abs=1e-5)
        assert all((float(v) > 0) == (n in there) for n, v in found["trust"][m].items())
    moved = 24 * 32 * 4 * (sum(2 - (n in "it") for n in kept) + 2 * len(kept)) / 2**20
    assert float(found["megabytes"]) == pytest.approx(moved, rel=1e-5)
    assert jax.tree.structure(found) == jax.tree.structure(extras)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, extras)
    # Only clients of images: the text's target is left as it was, and does not count.
    alone = {n: jnp.float32(n == "i") for n in "abcdit"}
    _, found = Aggregate()(params, sent | {"chosen": alone}, here)
    assert float(found["has"]["text"]) == 0 and float(found["trust"]["image"]["i"]) == 1
    np.testing.assert_array_equal(found["target"]["text"], sent["target"]["text"])


def test_stages_train_their_own_side(small):
    """No private record reaches the server, no client's weights leave: only features of public samples do."""
    config, _, params, extras, batch = small
    batch, extras = {k: jnp.asarray(v) for k, v in batch.items()}, extras | extras["target"]

    def touched(stage, wrt):
        system = replace(config.system, stage=stage).build()
        if wrt == "params":
            grads = jax.jit(jax.grad(lambda p: system.loss(p, extras, batch, jax.random.key(0))[0]))(params)
        else:
            floats = {k: v for k, v in batch.items() if v.dtype == np.float32}
            grads = jax.jit(jax.grad(lambda b: system.loss(params, extras, batch | b, jax.random.key(0))[0]))(floats)
        return {k for k, v in grads.items() if any(np.asarray(x).any() for x in jax.tree.leaves(v))}

    clients = {f"client_{n}" for n in "abcdit"}
    assert touched("server", "params") == touched("distil", "params") == {"server"}
    assert touched("private", "params") == touched("contrast", "params") == clients
    assert touched("contrast", "batch") == touched("distil", "batch") == {"image", "text"}
    assert touched("private", "batch") == {f"{n}_{m}" for n in "abcd" for m in ("image", "text")} | {
        "i_image",
        "t_text",
    }


def test_a_public_set_in_another_order_is_refused(small):
    config, system, params, _, batch = small
    other = replace(config.system, public=30).build()
    shapes = jax.eval_shape(other.init, jax.random.key(0), batch)[1]
    with pytest.raises(DataError, match="public"):
        Broadcast()(params, jax.tree.map(lambda x: jnp.zeros(x.shape), shapes), context(config, system))


def test_a_table_of_eight_pictures_whose_column_names_the_client(tmp_path):
    from PIL import Image

    rows = ["image,caption,client,label"]
    for i in range(8):
        Image.fromarray(np.full((40, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,grey number {i},{'xyz'[i % 3]},{i % 2}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    table, tiny = (
        Table(tmp_path / "pairs.csv", label="label", extra=("client",), fractions=(1.0, 0.0, 0.0)),
        get_config("tiny"),
    )
    private = tuple((f"c{k}", Filtered(table, "client", (name,))) for k, name in enumerate("xyz"))
    parts = tuple(
        replace(m, field=m.name.replace("picture", "image"), vocab=8 if m.name == "row" else m.vocab)
        for m in tiny.data.modalities
    )
    data = replace(tiny.data, source=Federated(table, private), modalities=parts)
    split = open_split(data, lambda words, length: np.arange(length, dtype=np.int32), "train")
    batch = collate([split.entry(i) for i in range(8)])
    system = replace(tiny.system, public=8, stage="private").build()
    params, extras = jax.jit(system.init)(jax.random.key(0), batch)
    assert np.isfinite(jax.jit(system.loss)(params, extras, batch, jax.random.key(0))[0])
    np.testing.assert_array_equal(batch["row"], np.arange(8))


@pytest.mark.parametrize(
    "change, words",
    [({"clients": ()}, "clients"), ({"clients": (Client("a", VectorEncoder()),)}, "classes"), ({"image": None}, "image"), ({"public": 0}, "public")],
)  # fmt: skip
def test_impossible_configs_are_explained(change, words):
    config = Config(VectorEncoder(), VectorEncoder(), (Client("a", VectorEncoder(), VectorEncoder()),))
    config.check()
    with pytest.raises(ConfigError, match=words):
        replace(config, **change).build()

"""OneEncoder against the authors' modules, and what its phases may change."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.oneencoder import get_config, vectors
from mmrep import modality
from mmrep.config import Data
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.regions import RegionTower
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.pooling import mean_pool
from mmrep.systems.contrastive.oneencoder import (
    AlignmentLayer,
    Config,
    ModalityToken,
    UniversalProjection,
    initial_token,
)
from mmrep.training.state import merge, split

GOLD = np.load(Path(__file__).parents[2] / "golden" / "oneencoder.npz")
SMALL = TransformerConfig(width=16, depth=1, heads=4, mlp_dim=24, norm="post", activation="relu", dropout=0.1)


def dense(name):
    return {"kernel": GOLD[f"{name}.weight"].T, "bias": GOLD[f"{name}.bias"]}


def norm(name):
    return {"scale": GOLD[f"{name}.weight"], "bias": GOLD[f"{name}.bias"]}


def test_authors_alignment_layer():
    params = {"up": dense("h/linear_layer1"), "down": dense("h/linear_layer2"), "norm": norm("h/normalization_layer")}
    found = AlignmentLayer(16).apply({"params": params}, jnp.asarray(GOLD["x"]))
    np.testing.assert_allclose(found, GOLD["head"], atol=2e-5)


def test_authors_modality_token():
    at = "t/token_projection"
    params = {f"dense{i}": dense(f"{at}.{2 * i}") for i in range(3)} | {"norm": norm(f"{at}.5")}
    for name in ("image", "text"):
        found = ModalityToken(16).apply({"params": params}, jnp.asarray(GOLD[f"t/{name}_token"]))
        np.testing.assert_allclose(found, GOLD[f"token_{name}"], atol=2e-5)


def test_authors_universal_projection():
    at = "u/transformer_encoder.layers.0"
    w, b = GOLD[f"{at}.self_attn.in_proj_weight"], GOLD[f"{at}.self_attn.in_proj_bias"]
    names = ("query", "key", "value")
    attn = {n: {"kernel": k.T, "bias": c} for n, k, c in zip(names, np.split(w, 3), np.split(b, 3))}
    del attn["key"]["bias"]  # it has no effect on softmax
    block = {
        "attn": attn | {"out": dense(f"{at}.self_attn.out_proj")}, "norm_attn": norm(f"{at}.norm1"),
        "mlp": {"up": dense(f"{at}.linear1"), "down": dense(f"{at}.linear2")}, "norm_mlp": norm(f"{at}.norm2"),
    }  # fmt: skip
    params = {"norm": norm("u/layer_normalization"), "transformer": {"block00": block}}
    h, valid = jnp.asarray(GOLD["head"] + GOLD["token_image"]), jnp.ones((3, 5), bool)
    found = UniversalProjection(SMALL).apply({"params": params}, h, valid)
    np.testing.assert_allclose(found, GOLD["hidden"], atol=5e-5)
    np.testing.assert_allclose(mean_pool(found, valid), GOLD["mean"], atol=5e-5)
    # Padding has no effect on the other tokens, whatever it holds.
    part = valid.at[:, 3:].set(False)
    a, b = (UniversalProjection(SMALL).apply({"params": params}, x, part)[:, :3] for x in (h, h.at[:, 3:].set(9.0)))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_scale_is_fixed():
    found = symmetric_info_nce(jnp.eye(2), jnp.eye(2), math.exp(2.5)).mean()
    assert float(found) == pytest.approx(5.12e-6, rel=2e-2)


def test_the_first_token_is_small_and_seeded():
    z = np.stack([initial_token(jax.random.key(i)) for i in range(60)])
    assert z.shape == (60, 1, 3) and 0.25 < z.std() < 0.5
    np.testing.assert_array_equal(initial_token(jax.random.key(1)), z[1])


@pytest.fixture(scope="module")
def tiny():
    experiment = get_config("tiny")
    data = replace(experiment.data, batch_size=8)
    part = open_split(data, None, "train")
    batch = jax.tree.map(jnp.asarray, collate([part.entry(i) for i in range(8)]))
    system = experiment.system.build()
    return experiment, batch, system, jax.jit(system.init)(jax.random.key(0), batch)[0]


def test_adding_a_modality_changes_nothing_that_was_there(tiny):
    experiment, batch, system, params = tiny
    phase = experiment.phases[1]
    later = phase.system.build()
    learnt, _ = split(params, phase.trainable)
    assert {path.split("/")[0] for path in learnt} == {"head_audio", "token_audio", "tokenmap_audio"}
    grads = jax.jit(jax.grad(lambda p: later.loss(p, {}, batch, jax.random.key(0))[0]))(params)
    moved = {k: max(float(jnp.abs(g).max()) for g in jax.tree.leaves(v)) for k, v in grads.items()}
    assert moved["head_audio"] > 0 and moved["head_image"] == 0 == moved["encoder_audio"]
    step, before = {p: v + 1.0 for p, v in learnt.items()}, system.infer["image"](params, {}, batch)
    after = merge(step, split(params, phase.trainable)[1])
    np.testing.assert_array_equal(before, system.infer["image"](after, {}, batch))
    assert not np.allclose(system.infer["audio"](params, {}, batch), system.infer["audio"](after, {}, batch))


def test_dropout_acts_where_a_side_learns(tiny):
    experiment, batch, _, params = tiny
    up = replace(experiment.system.up, dropout=0.5)
    later = replace(experiment.phases[1].system, up=up)
    losses = [float(later.build().loss(params, {}, batch, jax.random.key(k))[0]) for k in (0, 1)]
    assert losses[0] != losses[1]
    infer = later.build().infer["image"]
    np.testing.assert_array_equal(infer(params, {}, batch), experiment.system.build().infer["image"](params, {}, batch))


def test_eight_rows_of_a_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [json.dumps({"sensor": rng.random((3, 4)).tolist(), "caption": f"row number {i}"}) for i in range(8)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows) + "\n")
    source = Table(tmp_path / "t.jsonl", image=None, extra=("sensor",), fractions=(1.0, 0.0, 0.0))
    parts = modality.vector("image", 3, 4, field="sensor"), modality.text("text", 6, 32)
    shape = TransformerConfig(width=16, depth=1, heads=2)
    config = Config((("image", RegionTower(shape)), ("text", TextEncoder(shape, vocab=32, length=6))), SMALL)
    ids = lambda words, n: np.array([1, *([7] * len(words.split()))] + [0] * n, np.int32)[:n]  # noqa: E731
    part = open_split(Data(source, parts), ids, "train")
    batch, system = jax.tree.map(jnp.asarray, collate([part.entry(i) for i in range(8)])), config.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    assert np.isfinite(jax.jit(system.loss)(params, {}, batch, jax.random.key(0))[0])
    tokens, valid = system.infer["text_tokens"](params, {}, batch)
    assert tokens.shape == (8, 6, 16) and valid.sum(1).tolist() == [4] * 8
    unmasked = replace(config, mask_pads=False).build()
    assert not np.allclose(system.infer["text"](params, {}, batch), unmasked.infer["text"](params, {}, batch))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"pair": ("image", "image")}, "two of the encoders"),
        ({"learns": ("smell",)}, "one of the pair"),
        ({"base": ("smell",)}, "name encoders"),
        ({"encoders": ()}, "two of the encoders"),
    ],
)
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(vectors().system, **change).build()

"""Dual encoders of any encoder config, here one that is defined in this file."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder, dual_encoder, init_parts, inputs
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import LogitBias
from mmrep.nn.pooling import AttentionPool, layer_features

KEY = jax.random.key(0)


@dataclass(frozen=True)
class PointEncoder:
    """A new encoder: the maximum over points of a linear map."""

    width: int = 8

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> nn.Module:
        return MaxOfPoints(self, dtype, name=name)


class MaxOfPoints(nn.Module):
    config: PointEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, points, length):
        tokens = nn.Dense(self.config.width, dtype=self.dtype, name="embed")(points)
        valid = jnp.arange(points.shape[1]) < length[:, None]
        pooled = jnp.where(valid[..., None], tokens, -jnp.inf).max(1)
        return pooled, {"tokens": tokens, "valid": valid, "pooled": pooled}


TEXT = TextEncoder(TransformerConfig(width=16, depth=1, heads=2), vocab=20, length=6)
BATCH = {
    "points": np.random.default_rng(0).standard_normal((3, 5, 3)).astype(np.float32),
    "points_length": np.array([5, 2, 3]),
    "text": np.array([[1, 5, 6, 2], [1, 2, 0, 0], [1, 9, 2, 0]], np.int32),
}


def test_any_encoder_has_a_projection_into_the_shared_space():
    assert isinstance(PointEncoder(), Encoder) and isinstance(TEXT, Encoder)
    model = dual_encoder({"points": PointEncoder(), "text": TEXT}, dim=4, scale=10.0, tokens=True)
    params = model.init(KEY, BATCH)
    assert set(params) == {"points", "text", "scale"} and model.names == ("points", "text")
    np.testing.assert_allclose(model.scale(params), 10.0, rtol=1e-6)
    for name, n in (("points", 5), ("text", 4)):
        x, out = model.full(params, BATCH, name)
        np.testing.assert_allclose(model.embed(params, BATCH, name), x, atol=1e-6)
        np.testing.assert_allclose(jnp.linalg.norm(x, axis=1), 1, rtol=1e-5)
        assert out["projected"].shape == (3, n, 4)
        kernel = params[name]["projection"]["out"]["kernel"]
        want = np.asarray(out["pooled"] @ kernel)
        np.testing.assert_allclose(x, want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-6)
        infer = model.infer()
        np.testing.assert_allclose(infer[name](params, {}, BATCH), x, atol=1e-6)
        assert {"tokens", "pooled"} <= set(infer[f"{name}_layers"](params, {}, BATCH))
    assert len(inputs(BATCH, "points")) == 2 and len(inputs(BATCH, "text")) == 1


def test_dropout_acts_where_the_batch_has_a_key():
    encoder = replace(TEXT, transformer=replace(TEXT.transformer, dropout=0.3))
    model = dual_encoder({"text": encoder}, dim=4)
    params = model.init(KEY, BATCH)
    embed = jax.jit(lambda batch: model.embed(params, batch, "text"))
    plain, first, second = embed(BATCH), embed(BATCH | {"rng": KEY}), embed(BATCH | {"rng": jax.random.key(1)})
    np.testing.assert_array_equal(plain, dual_encoder({"text": TEXT}, dim=4).embed(params, BATCH, "text"))
    assert not np.allclose(plain, first, atol=1e-3) and not np.allclose(first, second, atol=1e-3)


def test_parts_without_inputs():
    params = init_parts(KEY, {"bias": LogitBias(-3.0)}, BATCH)
    assert params == {"bias": {"bias": -3.0}}


def test_errors_name_the_field():
    with pytest.raises(ConfigError, match="dim is 0"):
        dual_encoder({"text": TEXT}, 0)
    with pytest.raises(ConfigError, match="dtype"):
        dual_encoder({"text": TEXT}, 4, dtype="int8")


def test_layer_features_are_means_over_valid_tokens():
    x = jax.random.normal(KEY, (2, 4, 3))
    valid = jnp.array([[True, True, False, False], [True] * 4])
    found = layer_features(
        {"block00": x, "blocks": jnp.stack([x, 2 * x]), "tokens": x, "valid": valid, "pooled": x[:, 0]}
    )
    assert set(found) == {"block00", "block01", "tokens", "pooled"}
    np.testing.assert_allclose(found["tokens"], np.stack([x[0, :2].mean(0), x[1].mean(0)]), rtol=1e-5)
    np.testing.assert_allclose(found["block01"], 2 * found["tokens"], rtol=1e-5)
    # A feature map has its own grid, without padding.
    stage = jnp.ones((2, 2, 2, 3))
    np.testing.assert_allclose(layer_features({"stage0": stage})["stage0"], 1)


def test_attention_pool_without_a_mlp_is_a_weighted_mean():
    config = TransformerConfig(width=8, heads=2)
    tokens = jax.random.normal(KEY, (2, 5, 8))
    params = AttentionPool(config).init(KEY, tokens)["params"]
    params["mlp"] = jax.tree.map(jnp.zeros_like, params["mlp"])
    params["attn"]["query"] = jax.tree.map(jnp.zeros_like, params["attn"]["query"])
    attn = params["attn"]
    want = tokens.mean(1) @ attn["value"]["kernel"] @ attn["out"]["kernel"]
    np.testing.assert_allclose(AttentionPool(config).apply({"params": params}, tokens), want, atol=1e-5)
    mask = jnp.array([True, True, False, False, False])[None, None, None]
    masked = AttentionPool(config).apply({"params": params}, tokens, mask)
    want = tokens[:, :2].mean(1) @ attn["value"]["kernel"] @ attn["out"]["kernel"]
    np.testing.assert_allclose(masked, want, atol=1e-5)

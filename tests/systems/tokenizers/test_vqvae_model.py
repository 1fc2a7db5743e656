"""The map tokenizer's encoder and decoder against apple/ml-4m at cda590f: ViTEncoder and ViTDecoder of fourm/vq/models, of width 8."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality
from mmrep.nn.patches import unpatchify
from mmrep.nn.transformer import stack_blocks
from mmrep.systems.tokenizers.vqvae.model import map_codec

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "tokenisers.npz")
RGB = DenseModality("rgb", (16, 16), 4, 3)


def shape(width, depth, **options):
    return TransformerConfig(width=width, depth=depth, heads=2, epsilon=1e-6, **options)


def linear(weight, bias):
    return {"kernel": jnp.asarray(weight.T), "bias": jnp.asarray(bias)}


def norm(weights, name):
    return {"scale": jnp.asarray(weights[f"{name}.weight"]), "bias": jnp.asarray(weights[f"{name}.bias"])}


def theirs(prefix):
    return {k.removeprefix(f"{prefix}/w/"): GOLDEN[k] for k in GOLDEN.files if k.startswith(f"{prefix}/w/")}


def vit_weights(w, depth):
    """Their blocks and post-MLP as ours; their key biases are 0, ours are not there."""
    dense = lambda name: linear(w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
    blocks = {}
    for i in range(depth):
        block = f"blocks.{i}"
        attn = {"out": dense(f"{block}.attn.proj")}
        parts = zip(
            ("query", "key", "value"),
            np.split(w[f"{block}.attn.qkv.weight"], 3),
            np.split(w[f"{block}.attn.qkv.bias"], 3),
        )
        for name, kernel, bias in parts:
            attn[name] = linear(kernel, bias)
        del attn["key"]["bias"]
        blocks[f"block{i:02d}"] = {
            "norm_attn": norm(w, f"{block}.norm1"), "norm_mlp": norm(w, f"{block}.norm2"), "attn": attn,
            "mlp": {"up": dense(f"{block}.mlp.fc1"), "down": dense(f"{block}.mlp.fc2")},
        }  # fmt: skip
    post = {"norm": norm(w, "norm_mlp"), "up": dense("post_mlp.fc1"), "down": dense("post_mlp.fc2")}
    return {"vit": blocks, "post": post}


def test_map_encoder_is_the_authors():
    w = theirs("enc")
    embed = {
        "embed": {
            "kernel": jnp.asarray(w["proj.weight"].transpose(2, 3, 1, 0).reshape(-1, 8)),
            "bias": jnp.asarray(w["proj.bias"]),
        }
    }
    latent = {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}
    params = vit_weights(w, 2) | {"embed": embed, "latent": latent}
    codec = map_codec(RGB, 8, shape(8, 2), shape(8, 1))
    z = jax.jit(codec.encode)({"encoder": params}, jnp.asarray(GOLDEN["enc/x"]))
    np.testing.assert_allclose(z, GOLDEN["enc/y"], rtol=1e-4, atol=1e-4)
    spec = jax.eval_shape(codec.init, jax.random.key(0))["encoder"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda s: s.shape, spec)


def test_map_decoder_is_the_authors():
    w = theirs("dec")
    out = w["out_proj.weight"].reshape(3, 4, 4, 8).transpose(1, 2, 0, 3).reshape(48, 8)
    bias = w["out_proj.bias"].reshape(3, 4, 4).transpose(1, 2, 0).reshape(48)
    params = vit_weights(w, 1) | {"embed": {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}, "out": linear(out, bias)}
    codec = map_codec(RGB, 8, shape(8, 2), shape(8, 1))
    patches = jax.jit(codec.decode)({"decoder": params}, jnp.asarray(GOLDEN["dec/x"]))
    # Theirs are [B, C, H, W], stored [B, H, W, C].
    np.testing.assert_allclose(unpatchify(patches, 4, (4, 4)), GOLDEN["dec/y"], rtol=1e-4, atol=1e-4)


def test_class_maps_and_scans_go_through():
    m = DenseModality("semseg", (8, 8), 4, classes=5, class_dim=3)
    looped, scanned = (map_codec(m, 4, x, x) for x in (shape(8, 2), shape(8, 2, scan=True)))
    params = jax.jit(looped.init)(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 5, (2, 8, 8)), jnp.int32)
    z = looped.encode(params, x)
    assert z.shape == (2, 2, 2, 4) and z.dtype == jnp.float32
    np.testing.assert_allclose(z, scanned.encode(stack_blocks(params), x), atol=1e-5)
    assert looped.decode(params, z).shape == (2, 4, 16 * 5)


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="patch"):
        map_codec(DenseModality("rgb", (10, 10), 4, 3), 4, shape(8, 1), shape(8, 1))
    with pytest.raises(ConfigError, match="multiple of 4"):
        map_codec(RGB, 4, shape(8, 1), shape(6, 1))


def test_without_positions_and_layers_an_id_depends_on_its_patch_alone():
    m, rng = DenseModality("semseg", (8, 8), 4, classes=5, class_dim=3), np.random.default_rng(0)
    pictures = jnp.asarray(np.tile(rng.random((1, 4, 4, 3)), (1, 4, 4, 1)), jnp.float32)
    labels = jnp.asarray(np.tile(rng.integers(0, 5, (1, 4, 4)), (1, 2, 2)))
    for dense, x in ((RGB, pictures), (m, labels)):
        for positions in (True, False):
            codec = map_codec(dense, 8, shape(8, 0), shape(8, 1), positions=positions)
            z = codec.encode(jax.jit(codec.init)(jax.random.key(0)), x)
            assert (float(jnp.ptp(z, axis=(1, 2)).max()) < 1e-6) is not positions

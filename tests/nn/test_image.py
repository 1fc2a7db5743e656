import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.conv import ConvEncoder, ConvNet
from mmrep.nn.encoders.image import ImageEncoder, ViT
from mmrep.nn.encoders.sketch import SketchEncoder, oriented_gradients
from mmrep.nn.patches import patchify, unpatchify
from mmrep.nn.positions import sincos_2d
from mmrep.nn.transformer import stack_blocks

KEY = jax.random.key(0)


def shape(width, depth=1, heads=2, **options):
    return TransformerConfig(width=width, depth=depth, heads=heads, **options)


IMAGES = jax.random.uniform(KEY, (2, 16, 16, 3))


def test_patchify_is_reading_order_and_inverts():
    images = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 4], images[1, 2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 2, (2, 3)), images)
    square = images[:, :, :4]
    np.testing.assert_array_equal(unpatchify(patchify(square, 2), 2), square)


@pytest.mark.parametrize("pool", ["cls", "mean", "map"])
def test_vit_shapes_and_pooling(pool):
    module = ViT(ImageEncoder(shape(32, 2, 2), patch=4, pool=pool))
    params = jax.jit(module.init)(KEY, IMAGES)
    pooled, out = jax.jit(module.apply)(params, IMAGES)
    assert pooled.shape == (2, 32) and out["patches"].shape == (2, 16, 32)
    assert out["tokens"].shape == (2, 17 if pool == "cls" else 16, 32)
    np.testing.assert_array_equal(out["pooled"], pooled)
    if pool == "cls":
        np.testing.assert_array_equal(pooled, out["tokens"][:, 0])
        np.testing.assert_array_equal(out["patches"], out["tokens"][:, 1:])
    if pool == "mean":
        np.testing.assert_allclose(pooled, np.asarray(out["patches"]).mean(1), atol=1e-6)
    np.testing.assert_allclose(np.asarray(out["tokens"]).mean(-1), 0, atol=1e-5)  # the final LayerNorm
    assert not any(leaf.weak_type or leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(params))


def test_vit_centres_the_image():
    """An image of 0.5 is zero to the patch embedding: only bias (0) and positions are left."""
    module = ViT(ImageEncoder(shape(8, 1, 2), patch=8, pool="mean", pre_norm=False, positions="sincos2d"))
    params = jax.jit(module.init)(KEY, IMAGES)
    # With attention and MLP silenced the tokens are the normed positions.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf * 0 if "attn" in jax.tree_util.keystr(path) or "mlp" in jax.tree_util.keystr(path) else leaf
        ),
        params,
    )
    tokens = jax.jit(module.apply)(params, jnp.full((1, 16, 16, 3), 0.5))[1]["block00"][0]
    np.testing.assert_allclose(tokens, sincos_2d(2, 2, 8), atol=1e-6)


def test_vit_of_a_subset_of_patches():
    module = ViT(ImageEncoder(shape(32, 1, 2), patch=4, pool="cls"))
    params = jax.jit(module.init)(KEY, IMAGES)
    run = jax.jit(module.apply)
    everything = jnp.broadcast_to(jnp.arange(16), (2, 16))
    np.testing.assert_allclose(run(params, IMAGES, everything)[0], run(params, IMAGES)[0], atol=1e-6)
    some = jnp.array([[0, 5], [3, 1]])
    pooled, out = run(params, IMAGES, some)
    assert out["patches"].shape == (2, 2, 32)
    # Pixels of patches left out (row 3 of the grid) have no influence.
    np.testing.assert_array_equal(run(params, IMAGES.at[:, 12:].set(0.0), some)[0], pooled)


def test_scan_and_remat_equal_the_loop():
    params = jax.jit(ViT(ImageEncoder(shape(32, 2, 2), patch=4, pool="cls")).init)(KEY, IMAGES)
    pooled, _ = jax.jit(ViT(ImageEncoder(shape(32, 2, 2), patch=4, pool="cls")).apply)(params, IMAGES)
    scanned, _ = jax.jit(ViT(ImageEncoder(shape(32, 2, 2, scan=True, remat=True), patch=4, pool="cls")).apply)(
        stack_blocks(params), IMAGES
    )
    np.testing.assert_allclose(scanned, pooled, atol=1e-5)


def test_pooled_only_equals_pooled():
    params = jax.jit(ViT(ImageEncoder(shape(16, 2, 2), patch=4, pool="cls")).init)(KEY, IMAGES)
    pooled, out = jax.jit(ViT(ImageEncoder(shape(16, 2, 2), patch=4, pool="cls"), cls_only=True).apply)(params, IMAGES)
    np.testing.assert_allclose(
        pooled, jax.jit(ViT(ImageEncoder(shape(16, 2, 2), patch=4, pool="cls")).apply)(params, IMAGES)[0], atol=1e-5
    )
    assert set(out) == {"block00", "pooled"}
    with pytest.raises(ConfigError, match="cls_only"):
        ViT(ImageEncoder(shape(16, 2, 2), patch=4, pool="mean"), cls_only=True).init(KEY, IMAGES)


def test_examples_are_independent():
    for module in (ViT(ImageEncoder(shape(16, 1, 2), patch=4, pool="cls")), ConvNet(ConvEncoder((8,)))):
        params = jax.jit(module.init)(KEY, IMAGES)
        run = jax.jit(module.apply)
        np.testing.assert_allclose(run(params, IMAGES)[0][0], run(params, IMAGES.at[1].set(0.0))[0][0], atol=1e-6)


def test_convnet_shapes_and_stage_names():
    module = ConvNet(ConvEncoder((8, 16)))
    params = jax.jit(module.init)(KEY, IMAGES)
    pooled, out = jax.jit(module.apply)(params, IMAGES)
    assert [out[f"stage{i}"].shape for i in range(2)] == [(2, 8, 8, 8), (2, 4, 4, 16)]
    assert out["tokens"].shape == (2, 16, 16)
    np.testing.assert_allclose(pooled, np.asarray(out["tokens"]).mean(1), atol=1e-6)
    assert set(params) == {"params"}


def test_bfloat16():
    params = jax.jit(ViT(ImageEncoder(shape(32, 1, 2), patch=4, pool="cls")).init)(KEY, IMAGES)
    pooled, _ = jax.jit(ViT(ImageEncoder(shape(32, 1, 2), patch=4, pool="cls"), dtype=jnp.bfloat16).apply)(
        params, IMAGES
    )
    assert pooled.dtype == jnp.bfloat16
    exact, _ = jax.jit(ViT(ImageEncoder(shape(32, 1, 2), patch=4, pool="cls")).apply)(params, IMAGES)
    np.testing.assert_allclose(pooled.astype(jnp.float32), exact, atol=0.1)


def test_errors_name_the_field():
    with pytest.raises(ConfigError, match="patch"):
        ViT(ImageEncoder(shape(32), patch=5)).init(KEY, IMAGES)
    with pytest.raises(ConfigError, match="groups"):
        ConvEncoder((12,))
    with pytest.raises(ConfigError, match="grid"):
        unpatchify(jnp.ones((1, 6, 12)), 2)


def test_a_flat_map_keeps_positions_and_a_wide_stem_covers_every_pixel():
    image = np.zeros((2, 16, 16, 3), np.float32)
    image[0, 6, 6], image[1, 6, 7] = 1, 1
    net = ConvEncoder((8, 16), pool="flat", stem_stride=4).module(np.float32)
    params = net.init(jax.random.key(0), image)
    pooled, out = net.apply(params, image)
    np.testing.assert_array_equal(pooled, out["tokens"].reshape(2, -1))
    blank = net.apply(params, np.zeros((1, 16, 16, 3), np.float32))[0]
    for one in pooled:
        assert np.abs(one - blank[0]).max() > 1e-4


def histograms(images, cells, bins=9):
    """Dalal and Triggs 2005 in NumPy, one bin at a time."""
    x = images.astype(np.float32) / 255.0
    dy, dx = np.gradient(x, axis=(1, 2))
    strongest = (dy**2 + dx**2).argmax(-1)[..., None]  # the colour channel that changes most
    dy, dx = (np.take_along_axis(d, strongest, -1)[..., 0] for d in (dy, dx))
    strength, angle = np.hypot(dx, dy), np.mod(np.arctan2(dy, dx), np.pi) / np.pi * bins
    step = x.shape[1] // cells
    hog = np.zeros((len(x), cells, cells, bins), np.float32)
    for b in range(bins):
        near = np.maximum(0.0, 1.0 - np.minimum(np.abs(angle - b), bins - np.abs(angle - b)))
        votes = (strength * near)[:, : cells * step, : cells * step]
        hog[..., b] = votes.reshape(len(x), cells, step, cells, step).sum((2, 4))
    energy = np.pad((hog**2).sum(-1), ((0, 0), (0, 1), (0, 1)), mode="edge")
    around = energy[:, :-1, :-1] + energy[:, 1:, :-1] + energy[:, :-1, 1:] + energy[:, 1:, 1:]
    return np.minimum(hog / np.sqrt(around + 1e-3)[..., None], 0.4).reshape(len(x), -1)


def test_oriented_gradients_equal_the_numpy_form():

    images = (np.random.default_rng(0).random((3, 32, 32, 3)) * 255).astype(np.uint8)
    images[:, :16] = images[:, :1]
    for cells in (4, 8):
        found = jax.jit(lambda x, n=cells: oriented_gradients(x, n))(images / np.float32(255))
        np.testing.assert_allclose(found, histograms(images, cells), atol=1e-6)
    with pytest.raises(ConfigError, match="cells"):
        oriented_gradients(np.zeros((1, 4, 4, 3), np.float32), 8)


def test_sketch_net_concatenates_learned_and_fixed_features():
    net, images = (
        SketchEncoder((8, 16), cells=(4,)).module(np.float32),
        np.random.default_rng(1).random((2, 32, 32, 3)).astype(np.float32),
    )
    pooled, out = net.apply(net.init(jax.random.key(0), images), images)
    learnt = out["tokens"].reshape(2, -1)
    assert pooled.shape == (2, learnt.shape[1] + 4 * 4 * 9 + 8 * 8 * 3)
    np.testing.assert_allclose(pooled[:, : learnt.shape[1]], learnt, atol=1e-6)
    fixed = np.asarray(pooled[:, learnt.shape[1] :])
    np.testing.assert_allclose(fixed[:, :144].mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(fixed[:, 144:].std(1), 1, atol=1e-3)
    blank, _ = net.apply(net.init(jax.random.key(0), images), np.zeros_like(images))
    assert np.isfinite(blank).all()

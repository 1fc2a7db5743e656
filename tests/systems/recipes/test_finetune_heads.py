"""Dense heads against numbers from the authors' code (EPFL-VILAB/MultiMAE at 66910f5: ConvNeXtAdapter and DPTOutputAdapter in eval mode, random weights)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.systems.recipes.finetune.dpt import Dpt, DPTHead, resize_aligned
from mmrep.systems.recipes.finetune.heads import ConvNeXt, ConvNeXtHead, Linear, VectorHead, depthwise, resize

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "dense_heads.npz")
CONVNEXT = ConvNeXtHead(ConvNeXt(64, 2), 3, (4, 4), (32, 32))
DPT = DPTHead(Dpt((0, 1, 2, 3), (4, 6, 8, 10), 8), 1, (4, 4), (64, 64))


def dense(name):
    w = GOLDEN[f"{name}.weight"]
    return {"kernel": w.reshape(w.shape[:2]).T, "bias": GOLDEN[f"{name}.bias"]}


def conv(name, transposed=False):
    w = GOLDEN[f"{name}.weight"]
    # A transposed convolution has inputs first, and lays its kernel down unmirrored.
    kernel = w.transpose(2, 3, 0, 1)[::-1, ::-1] if transposed else w.transpose(2, 3, 1, 0)
    return {"kernel": kernel} | ({"bias": GOLDEN[f"{name}.bias"]} if f"{name}.bias" in GOLDEN.files else {})


def test_convnext_head_is_the_authors():
    params = {"spread": dense("c/proj_dec"), "out": dense("c/final_layer")}
    for i in range(2):
        at = f"c/blocks.{i}"
        norm = {"scale": GOLDEN[f"{at}.norm.weight"], "bias": GOLDEN[f"{at}.norm.bias"]}
        mlp = {"up": dense(f"{at}.pwconv1"), "down": dense(f"{at}.pwconv2")}
        params[f"block{i:02d}"] = {"depthwise": conv(f"{at}.dwconv"), "norm": norm, "mlp": mlp}
    tokens = jnp.asarray(GOLDEN["x"][3][:, :16])
    found = jax.jit(CONVNEXT.apply)({"params": params}, tokens)
    np.testing.assert_allclose(found, GOLDEN["y/c"].transpose(0, 2, 3, 1), atol=3e-5, rtol=3e-5)
    spec = jax.eval_shape(CONVNEXT.init, jax.random.key(0), tokens)["params"]
    assert jax.tree.map(lambda x: x.shape, spec) == jax.tree.map(lambda x: x.shape, params)


def test_dpt_head_is_the_authors():
    params = {"head1": conv("d/head.0"), "head2": conv("d/head.2"), "out": conv("d/head.4")}
    for i in range(4):
        params[f"project{i}"] = conv(f"d/act_{i + 1}_postprocess.0")
        if i != 2:
            params[f"lay{i}"] = conv(f"d/act_{i + 1}_postprocess.1", transposed=i < 2)
        params[f"bring{i}"] = conv(f"d/scratch.layer{i + 1}_rn")
        at = f"d/scratch.refinenet{i + 1}"
        params[f"fuse{i}"] = conv(f"{at}.out_conv")
        for name, unit in (("take", 1), ("refine", 2)):
            if name == "refine" or i < 3:
                params[f"{name}{i}"] = {c: conv(f"{at}.resConfUnit{unit}.{c}") for c in ("conv1", "conv2")}
    layers = [jnp.asarray(x[:, :16]) for x in GOLDEN["x"]]
    found = jax.jit(DPT.apply)({"params": params}, layers)
    np.testing.assert_allclose(found[:, ::2, 1::2], GOLDEN["y/d"].transpose(0, 2, 3, 1), atol=2e-4, rtol=2e-4)
    spec = jax.eval_shape(DPT.init, jax.random.key(0), layers)["params"]
    assert jax.tree.map(lambda x: x.shape, spec) == jax.tree.map(lambda x: x.shape, params)


def test_dpt_takes_odd_grids_and_other_sizes():
    head = DPTHead(Dpt((0, 1, 2, 3), (4,) * 4, 8), 2, (3, 5), (24, 40))
    layers = [jnp.ones((1, 15, 6))] * 4
    shape = jax.eval_shape(lambda: head.apply(head.init(jax.random.key(0), layers), layers)).shape
    assert shape == (1, 24, 40, 2)


def test_resizing_is_linear_between_centres_or_between_corners():
    ramp = jnp.arange(4.0).reshape(1, 1, 4, 1)
    np.testing.assert_allclose(resize_aligned(ramp, (1, 7))[0, 0, :, 0], np.linspace(0, 3, 7), atol=1e-6)
    centres = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(resize(ramp, (1, 8))[0, 0, :, 0], centres, atol=1e-6)


def test_a_linear_head_is_layer_norm_and_a_matrix():
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    head = VectorHead(Linear(scale=1.0), 3)
    params = head.init(jax.random.key(0), jnp.asarray(x))["params"]
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(
        head.apply({"params": params}, jnp.asarray(x)), normed @ params["out"]["kernel"], atol=1e-5
    )


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="17 patches"):
        CONVNEXT.init(jax.random.key(0), jnp.ones((1, 17, 6)))
    with pytest.raises(ConfigError, match="four"):
        DPT.init(jax.random.key(0), [jnp.ones((1, 16, 6))])
    with pytest.raises(ConfigError, match="multiple of 16"):
        ConvNeXtHead(ConvNeXt(40), 3, (4, 4), (8, 8)).init(jax.random.key(0), jnp.ones((1, 16, 6)))


def test_a_depthwise_convolution_and_its_twin():
    x, k = (
        jnp.asarray(np.random.default_rng(i).normal(size=size), jnp.float32)
        for i, size in enumerate([(2, 5, 8, 3), (7, 7, 1, 3)])
    )
    slow, fast = (lambda x, k, s=s: depthwise(x, k, s) for s in (False, True))
    np.testing.assert_allclose(fast(x, k), slow(x, k), atol=1e-5)
    for a, b in zip(*(jax.grad(lambda x, k, f=f: jnp.sin(f(x, k)).sum(), (0, 1))(x, k) for f in (slow, fast))):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_dpt_computes_no_larger_map_than_its_output_needs():
    # The last doubling of 16 times a grid of patches of 4 would be thrown away.
    small, whole = (DPTHead(Dpt((0, 1, 2, 3), (4,) * 4, 8), 1, (4, 4), (side, side)) for side in (16, 64))
    layers = [jnp.ones((1, 16, 6))] * 4
    params = small.init(jax.random.key(0), layers)
    flops = [jax.jit(h.apply).lower(params, layers).compile().cost_analysis()["flops"] for h in (small, whole)]
    assert small.apply(params, layers).shape == (1, 16, 16, 1) and flops[0] < 0.7 * flops[1]

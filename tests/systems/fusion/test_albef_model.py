import jax
import jax.numpy as jnp
import numpy as np

from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.fusion import FusionEncoder
from mmrep.nn.transformer import Transformer, stack_blocks

KEY = jax.random.key(0)
IDS = np.array([[1, 9, 8, 7, 2], [1, 6, 2, 0, 0]], np.int32)
IMAGE = jax.random.normal(KEY, (2, 4, 24))


def shape(depth, norm="post", **options):
    return TransformerConfig(width=16, depth=depth, heads=2, norm=norm, **options)


def test_upper_half_over_text_tokens_ignores_padding_of_both(norm="post"):
    text = TextEncoder(shape(1, norm=norm), vocab=20, length=9, pool="cls").module(np.float32)
    fusion = FusionEncoder(shape(1, norm=norm))
    text_params = jax.jit(text.init)(KEY, IDS)

    @jax.jit
    def run(params, ids, image, image_valid):
        out = text.apply(text_params, ids)[1]
        return fusion.apply(params, out["tokens"], image, out["valid"], image_valid)

    params = jax.jit(fusion.init)(KEY, jnp.ones((2, 5, 16)), IMAGE)
    pooled, out = run(params, IDS, IMAGE, jnp.ones((2, 4), bool))
    wider = jnp.pad(IMAGE, ((0, 0), (0, 3), (0, 0)), constant_values=5.0)
    valid = jnp.arange(7)[None] < jnp.array([4, 4])[:, None]
    padded, _ = run(params, np.pad(IDS, ((0, 0), (0, 4))), wider, valid)
    np.testing.assert_allclose(padded, pooled, atol=1e-6)
    np.testing.assert_array_equal(pooled, out["tokens"][:, 0])
    assert np.abs(run(params, IDS, IMAGE + 1, jnp.ones((2, 4), bool))[0] - pooled).max() > 1e-3


def test_context_of_another_width_and_the_parameter_tree():
    params = jax.jit(FusionEncoder(shape(1)).init)(KEY, jnp.ones((2, 5, 16)), IMAGE)["params"]["transformer"]["block00"]
    assert set(params) == {"attn", "cross", "mlp", "norm_attn", "norm_cross", "norm_mlp"}
    assert params["cross"]["key"]["kernel"].shape == (24, 16) and params["cross"]["query"]["kernel"].shape == (16, 16)


def test_scan_equals_loop():
    tokens = jax.random.normal(KEY, (2, 5, 16))
    params = jax.jit(FusionEncoder(shape(2)).init)(KEY, tokens, IMAGE)
    pooled, _ = jax.jit(FusionEncoder(shape(2)).apply)(params, tokens, IMAGE)
    scanned, _ = jax.jit(FusionEncoder(shape(2, scan=True)).apply)(stack_blocks(params), tokens, IMAGE)
    np.testing.assert_allclose(scanned, pooled, atol=1e-5)


def test_is_a_cross_transformer():
    """The same parameters in a plain Transformer with cross=True give the same tokens."""
    tokens = jax.random.normal(KEY, (2, 5, 16))
    params = jax.jit(FusionEncoder(shape(2)).init)(KEY, tokens, IMAGE)
    expected = jax.jit(Transformer(shape(2), cross=True).apply)(
        {"params": params["params"]["transformer"]}, tokens, None, IMAGE
    )[0]
    np.testing.assert_allclose(
        jax.jit(FusionEncoder(shape(2)).apply)(params, tokens, IMAGE)[1]["tokens"], expected, atol=1e-6
    )

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.config import flatten
from mmrep.errors import ConfigError
from mmrep.evals.arithmetic import compose
from mmrep.losses.contrastive import info_nce
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive import align
from mmrep.systems.contrastive.align import Config
from mmrep.systems.contrastive.align.data import keep_pairs

PAIR = (modality.image("image", 16), modality.text("text", 8, 32))
TINY = Config(
    ImageEncoder(TransformerConfig(width=32, depth=1, heads=4), patch=8),
    TextEncoder(TransformerConfig(width=32, depth=1, heads=4), vocab=32, length=8),
    16,
)
align_loss = jax.jit(align.align_loss, static_argnums=3)


def test_smoothed_loss_of_orthogonal_pairs():
    """S = I / 0.5 of three pairs, by hand: 0.2395448 without smoothing, 0.3728781 with eps = 0.1, in each direction."""
    eye = jnp.eye(3)
    for smoothing, direction in ((0.0, 0.2395448), (0.1, 0.3728781)):
        np.testing.assert_allclose(align_loss(eye, eye, 2.0, smoothing).mean(), 2 * direction, rtol=1e-6)


def test_directions_are_added_and_each_is_its_own():
    cosines = jnp.array([[0.9, 0.1], [0.4, 0.7]])
    # Unit rows in four dimensions with exactly these products.
    x = jnp.eye(4)[:2]
    rest = jnp.sqrt(1 - (cosines**2).sum(0))
    y = jnp.concatenate([cosines.T, jnp.diag(rest)], axis=1)
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(align_loss(x, y, 10.0).mean(), 0.0290569, rtol=1e-4)
    np.testing.assert_allclose(align_loss(x, y, 10.0, 0.1).mean(), 0.5790569, rtol=1e-5)
    forward, backward = info_nce(10 * cosines, smoothing=0.1).mean(), info_nce(10 * cosines.T, smoothing=0.1).mean()
    np.testing.assert_allclose([forward, backward], [0.2994614, 0.2795955], rtol=1e-5)


@pytest.mark.mesh
def test_smoothing_counts_the_global_batch():
    """eps / N with N of the whole batch: two half batches do not add up to the whole one's loss."""
    rows = jax.random.normal(jax.random.key(0), (2, 8, 5))
    x, y = (r / jnp.linalg.norm(r, axis=1, keepdims=True) for r in rows)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = [jax.device_put(v, jax.NamedSharding(mesh, jax.P("data"))) for v in (x, y)]
    whole = align_loss(x, y, 5.0, 0.1).mean()
    np.testing.assert_allclose(jax.jit(lambda a, b: align_loss(a, b, 5.0, 0.1).mean())(*sharded), whole, rtol=1e-6)
    halves = (align_loss(x[:4], y[:4], 5.0, 0.1).mean() + align_loss(x[4:], y[4:], 5.0, 0.1).mean()) / 2
    assert abs(float(whole - halves)) > 0.1


def test_temperature_is_bounded():
    system = TINY.build()
    batch = modality.example(PAIR, 4)
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    assert float(params["scale"]["log_scale"]) == pytest.approx(0.0)
    hot = params | {"scale": {"log_scale": jnp.float32(20.0)}}
    _, (_, metrics) = jax.jit(system.loss)(hot, {}, batch, jax.random.key(0))
    assert float(metrics["scale"]) == pytest.approx(100.0, rel=1e-5) and np.isfinite(metrics["cosine"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bf16_computes_in_bf16_and_keeps_parameters_and_loss_in_float32(dtype):
    batch = modality.example(PAIR, 4)
    system = dataclasses.replace(TINY, dtype=dtype).build()
    params, _ = jax.eval_shape(system.init, jax.random.key(0), batch)
    assert {v.dtype for v in flatten(params).values()} == {jnp.dtype("float32")}
    program = jax.make_jaxpr(system.loss)(params, {}, batch, jax.random.key(0))
    assert ("bf16" in str(program)) == (dtype == "bfloat16") and program.out_avals[0].dtype == jnp.float32


def test_queries_add_and_subtract():
    image, text = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(compose(image, text), [[0.5**0.5, 0.5**0.5]], rtol=1e-6)
    np.testing.assert_allclose(compose(image, text, -1.0), [[0.5**0.5, -(0.5**0.5)]], rtol=1e-6)
    assert not np.isnan(compose(image, image, -1.0)).any()


def test_frequency_filters():
    texts = [
        "a red cat sits",
        "a red cat sits",
        "hello",
        "a blue dog runs " * 8,
        "a red cat xylograph",
        "a red cat runs",
    ]
    images = [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(keep_pairs(texts, images), [1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(keep_pairs(texts, images, max_images=1), [0, 0, 0, 0, 1, 1])
    assert not keep_pairs(texts, images, vocabulary=12)[4]
    np.testing.assert_array_equal(keep_pairs(texts, [7] * 6, max_texts=4), [0] * 6)
    assert keep_pairs([], []).shape == (0,)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"smoothing": 1.0}, "system.smoothing"),
        ({"temperature": 0.0}, "system.temperature"),
        ({"dim": 0}, "system.dim"),
    ],
)
def test_impossible_fields_are_named(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        dataclasses.replace(TINY, **changes).build()


def test_a_single_pair_is_refused():
    with pytest.raises(ConfigError, match="at least 2 pairs"):
        align_loss(jnp.ones((1, 2)), jnp.ones((1, 2)), 1.0)

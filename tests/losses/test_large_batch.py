"""Every system with a contrast: loss and gradient of the plain batch in micro-batches, in blocks and on a ring."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mmrep import modality
from mmrep.config import fingerprint, from_json, to_json
from mmrep.errors import ConfigError
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.continual import modx
from mmrep.systems.contrastive import align, clip, cwcl, filip, symile
from mmrep.systems.fusion import albef
from mmrep.systems.retrieval import invgc

IMAGE, TEXT = (
    ImageEncoder(TransformerConfig(width=32, depth=1, heads=4), patch=8),
    TextEncoder(TransformerConfig(width=32, depth=1, heads=4), vocab=64, length=12),
)
CLIP = clip.Config(IMAGE, TEXT, 16)
FILIP = filip.Config(IMAGE, TEXT, 16, token_keep_ratio=0.5, local_batch=3)
SYMILE = symile.Config(tuple((n, VectorEncoder()) for n in "abc"), 16)
CWCL = cwcl.Config(
    TEXT,
    AudioEncoder(
        TransformerConfig(width=32, depth=1, heads=4), sample_rate=4000, n_fft=128, hop=64, n_mels=8, strides=(2,)
    ),
    16,
    weights="permuted",
)
ALBEF = albef.Config(
    replace(IMAGE, pool="cls"),
    replace(TEXT, pool="cls", transformer=replace(TEXT.transformer, norm="post")),
    1,
    16,
    queue=12,
)
PAIR = (modality.image("image", 16), modality.text("text", 12, 64))


@cache
def four() -> jax.sharding.Mesh:
    return jax.make_mesh((4, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])


def pairs(n):
    rng = np.random.default_rng(0)
    batch = {k: jnp.asarray(v) for k, v in modality.example(PAIR, n).items()}
    ids = rng.integers(5, 64, (n, 12)) * (np.arange(12) < rng.integers(4, 12, (n, 1)))
    return batch | {
        "image": jnp.asarray(rng.random((n, 16, 16, 3)), jnp.float32),
        "text": jnp.asarray(ids, jnp.int32),
    }


def spoken(n):
    speech = modality.example((modality.audio("speech", 800, 4000),), n)
    return {"text": pairs(n)["text"]} | {k: jnp.asarray(v) for k, v in speech.items()}


def triples(n):
    return {k: jnp.asarray(np.random.default_rng(i).normal(size=(n, 8)), jnp.float32) for i, k in enumerate("abc")}


def step(config, batch, start=None):
    """(loss, metrics, gradients, (parameters, extras))."""
    system = config.build()
    params, extras = jax.jit(system.init)(jax.random.key(0), batch) if start is None else start
    if "teacher" in extras:  # at the start the teacher is the student
        extras |= {"teacher": jax.tree.map(lambda x: 1.3 * x, extras["teacher"])} if start is None else {}
    loss = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    (value, (_, metrics)), grads = loss(params, extras, batch, jax.random.key(1))
    return value, metrics, grads, (params, extras)


def same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5, atol=1e-6)
    norm = np.sqrt(sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(expected[2])))
    for a, b in zip(jax.tree.leaves(found[2]), jax.tree.leaves(expected[2]), strict=True):
        assert float(jnp.linalg.norm(a - b)) < 1e-6 * norm
    if "scale" in expected[2]:
        scales = [float(of[2]["scale"]["log_scale"]) for of in (found, expected)]
        assert abs(scales[1]) > 1e-3 and abs(scales[0] - scales[1]) < 2e-6 * abs(scales[1])


@pytest.fixture(scope="module")
def whole():
    return step(CLIP, pairs(12))


def on_a_ring(config, batch, start):
    placed = jax.device_put(batch, NamedSharding(four(), P("data")))
    with jax.set_mesh(four()):
        return step(config, placed, jax.device_put(start, NamedSharding(four(), P())))


@pytest.mark.mesh
def test_micro_batches_and_the_ring_have_the_gradient_of_the_whole_batch(whole):
    same(step(replace(CLIP, large_batch=LargeBatch(micro_batches=3)), pairs(12), whole[3]), whole)
    same(on_a_ring(replace(CLIP, large_batch=LargeBatch("ring", 2, 3)), pairs(12), whole[3]), whole)


@pytest.mark.mesh
@pytest.mark.parametrize("config", [FILIP, pytest.param(ALBEF, marks=pytest.mark.slow)], ids=["filip", "albef"])
def test_selected_tokens_and_queues_on_a_ring(config):
    whole = step(config, pairs(12))
    same(on_a_ring(replace(config, large_batch=LargeBatch("ring", 2)), pairs(12), whole[3]), whole)


def test_the_loss_of_parts_is_another_loss(whole):
    loss = jax.jit(lambda batch: CLIP.build().loss(*whole[3], batch, jax.random.key(1))[0])
    parts = [loss({k: v[i::3] for k, v in pairs(12).items()}) for i in range(3)]
    assert abs(sum(parts) / 3 - whole[0]) > 0.1


def test_memory_falls_with_the_number_of_micro_batches():
    def temporary(k):
        system = replace(CLIP, large_batch=LargeBatch(micro_batches=k)).build()
        params = jax.eval_shape(lambda: system.init(jax.random.key(0), pairs(2))[0])
        batch = jax.eval_shape(lambda: pairs(64))
        step = jax.jit(jax.grad(system.loss, has_aux=True))
        return step.lower(params, {}, batch, jax.random.key(1)).compile().memory_analysis().temp_size_in_bytes

    whole, parts = temporary(1), temporary(8)
    assert whole > 3 * parts, (whole, parts)


def test_randomness_is_the_same_in_both_passes():
    x, w, rng = jax.random.normal(jax.random.key(0), (6, 4)), jnp.ones(4), jax.random.key(1)

    def rows(w, x, key):
        return x * w * jax.random.bernoulli(key, 0.5, x.shape)

    def by_hand(w):
        parts = [rows(w, x[i::3], key) for i, key in enumerate(jax.random.split(rng, 3))]
        return (jnp.stack(parts, 1).reshape(6, 4).sum(0) ** 2).sum()

    def cached(w):
        return (in_micro_batches(lambda x, key: rows(w, x, key), x, 3, rng).sum(0) ** 2).sum()

    for a, b in zip(jax.value_and_grad(cached)(w), jax.value_and_grad(by_hand)(w)):
        np.testing.assert_allclose(a, b, rtol=1e-6)


SYSTEMS = {
    "siglip": (replace(CLIP, loss="sigmoid", temperature=0.1), pairs),
    "align": (align.Config(IMAGE, TEXT, 16, temperature=0.1), pairs),
    "filip": (replace(FILIP, token_keep_ratio=1.0), pairs),
    "filip selected": (FILIP, pairs),
    "filip selected by the batch": (replace(FILIP, local_batch=None), pairs),
    "symile": (SYMILE, triples),
    "symile n_squared": (replace(SYMILE, negatives="n_squared"), triples),
    "pairwise": (replace(SYMILE, objective="pairwise", smoothing=0.1), triples),
    "sum": (replace(SYMILE, objective="sum"), triples),
    "cwcl": (CWCL, spoken),
    "albef": (ALBEF, pairs),
    "modx": (modx.Config(IMAGE, TEXT, 16, screen=False), pairs),
    "invgc": (invgc.Config(IMAGE, TEXT, 16, bank=8), pairs),
}


@pytest.mark.parametrize(
    "name",
    [n if n in ("siglip", "filip selected", "symile") else pytest.param(n, marks=pytest.mark.slow) for n in SYSTEMS],
)
def test_every_system_is_the_same_in_blocks_and_micro_batches(name):
    config, batch = SYSTEMS[name]
    whole = step(config, batch(6))
    same(step(replace(config, large_batch=LargeBatch("chunked", 4, 2)), batch(6), whole[3]), whole)


def test_a_choice_is_stored_with_the_config():
    chosen = replace(CLIP, large_batch=LargeBatch("ring", 256))
    assert from_json(to_json(chosen)) == chosen and fingerprint(chosen) != fingerprint(CLIP)


@pytest.mark.parametrize(
    "config, words",
    [
        (replace(CLIP, large_batch=LargeBatch("rings")), "did you mean|ring"),
        (replace(CLIP, large_batch=LargeBatch(chunk=0)), "large_batch.chunk is 0"),
        (replace(CLIP, large_batch=LargeBatch(micro_batches=0)), "large_batch.micro_batches is 0"),
        (replace(CLIP, loss="words", large_batch=LargeBatch("chunked")), "compares no pairs"),
        (replace(FILIP, local_batch=None, large_batch=LargeBatch("ring")), "system.local_batch is None"),
        (replace(SYMILE, negatives="n_squared", large_batch=LargeBatch("ring")), "n_squared"),
    ],
)
def test_sentences(config, words):
    with pytest.raises(ConfigError, match=words):
        config.build()


def test_a_batch_that_does_not_divide():
    with pytest.raises(ConfigError, match="data.batch_size 6 does not divide"):
        in_micro_batches(lambda x: x, jnp.ones((6, 2)), 4)

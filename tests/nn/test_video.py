"""Video encoders and the text-conditioned pool: padding, folding, tubes, order, and hand values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.video import CodesEncoder, VideoEncoder
from mmrep.nn.pooling import TextConditionedPool, conditioned_similarity

SHAPE = TransformerConfig(width=16, depth=1, heads=2)
IMAGE = ImageEncoder(SHAPE, patch=4)
VIDEO = np.random.default_rng(0).random((2, 4, 8, 8, 3), np.float32)
CODES = np.random.default_rng(1).standard_normal((2, 4, 6)).astype(np.float32)


def run(config, x, *args, **kw):
    module = config.module(jnp.float32)
    params = jax.jit(module.init)(jax.random.key(0), x, *args, **kw)
    return jax.jit(lambda *a, **k: module.apply(params, *a, **k)), params


ENCODERS = (
    (VideoEncoder(IMAGE), VIDEO),
    (VideoEncoder(IMAGE, temporal=SHAPE), VIDEO),
    (VideoEncoder(IMAGE, attention="joint", pool="map"), VIDEO),
    (VideoEncoder(IMAGE, attention="divided"), VIDEO),
    (CodesEncoder(16, SHAPE, pool="map"), CODES),
)


@pytest.mark.parametrize(("config", "x"), ENCODERS)
def test_frames_behind_the_length_have_no_effect(config, x):
    apply, _ = run(config, x)
    length = np.array([4, 2])
    pooled, out = apply(x, length)
    changed = x.copy()
    changed[1, 2:] = 0.3
    again, _ = apply(changed, length)
    np.testing.assert_allclose(pooled, again, atol=1e-6)
    assert not np.allclose(apply(x)[0][1], pooled[1], atol=1e-4)
    assert out["frames"].shape == (2, 4, 16) and out["frames_valid"].tolist() == [
        [True] * 4,
        [True, True, False, False],
    ]
    assert out["tokens"].shape[:2] == out["valid"].shape
    np.testing.assert_allclose(apply(x[:1], length[:1])[0], pooled[:1], atol=1e-5)


def test_without_temporal_attention_a_frame_is_encoded_alone_and_order_is_lost():
    apply, params = run(VideoEncoder(IMAGE), VIDEO)
    pooled, out = apply(VIDEO)
    vit = IMAGE.module(jnp.float32)
    alone, _ = vit.apply({"params": params["params"]["frames"]}, VIDEO[0])
    np.testing.assert_allclose(out["frames"][0], alone, atol=1e-6)
    np.testing.assert_allclose(pooled, out["frames"].mean(1), atol=1e-6)
    np.testing.assert_allclose(apply(VIDEO[:, ::-1])[0], pooled, atol=1e-5)
    for config in (VideoEncoder(IMAGE, temporal=SHAPE), VideoEncoder(IMAGE, "joint"), VideoEncoder(IMAGE, "divided")):
        ordered, _ = run(config, VIDEO)
        assert not np.allclose(ordered(VIDEO[:, ::-1])[0], ordered(VIDEO)[0], atol=1e-4)


def test_tubes_halve_the_tokens_and_keep_takes_some_of_them():
    config = VideoEncoder(IMAGE, "joint", tube=2)
    apply, params = run(config, VIDEO)
    _, out = apply(VIDEO)
    assert out["frames"].shape == (2, 2, 16) and out["tokens"].shape == (2, 8, 16)
    assert params["params"]["embed"]["kernel"].shape == (4 * 4 * 2 * 3, 16)
    every = np.broadcast_to(np.arange(8), (2, 8))
    np.testing.assert_allclose(apply(VIDEO, keep=every)[1]["tokens"], out["tokens"], atol=1e-5)
    some = np.array([[1, 5, 2], [7, 0, 3]])
    _, kept = apply(VIDEO, keep=some)
    assert kept["tokens"].shape == (2, 3, 16) and "frames" not in kept
    hidden = VIDEO.copy()
    hidden[0, :, :4, :4] = 0  # patch 0 of both tubes, which the first row does not keep
    np.testing.assert_allclose(apply(hidden, keep=some)[1]["tokens"][0], kept["tokens"][0], atol=1e-6)


def test_settings_that_cannot_work_are_one_sentence():
    for match, make in {
        "tube is 2": lambda: VideoEncoder(IMAGE, tube=2), "temporal.width": lambda: VideoEncoder(IMAGE, temporal=TransformerConfig()),
        "width is 8": lambda: CodesEncoder(8, SHAPE), "scan is True": lambda: VideoEncoder(ImageEncoder(TransformerConfig(scan=True)), "divided"),
        "tube is 3": lambda: run(VideoEncoder(IMAGE, "joint", tube=3), VIDEO),
        "choose 'joint'": lambda: run(VideoEncoder(IMAGE), VIDEO, keep=np.zeros((2, 1), np.int32)),
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            make()


def test_the_pool_at_its_identity_start_is_the_formula_by_hand():
    rng = np.random.default_rng(0)
    text, frames = (
        jnp.asarray(rng.standard_normal((3, 8)), jnp.float32),
        jnp.asarray(rng.standard_normal((2, 4, 8)), jnp.float32),
    )
    valid = jnp.array([[True, True, False, False], [True] * 4])
    module = TextConditionedPool(heads=2)
    params = module.init(jax.random.key(0), text, frames, valid)

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    found = np.asarray(module.apply(params, text, frames, valid))
    for v, t in np.ndindex(2, 3):
        q, k = norm(np.asarray(text)[t]), norm(np.asarray(frames)[v][np.asarray(valid)[v]])
        parts = []
        for h in (slice(0, 4), slice(4, 8)):
            logits = k[:, h] @ q[h] / 2
            w = np.exp(logits - logits.max())
            parts.append(w / w.sum() @ k[:, h])
        a = norm(np.concatenate(parts))
        np.testing.assert_allclose(found[v, t], norm(2 * a), atol=1e-4)
    changed = frames.at[0, 2:].set(9)
    np.testing.assert_allclose(module.apply(params, text, changed, valid), found, atol=1e-6)
    none = module.apply(params, text, frames, jnp.zeros((2, 4), bool))
    assert np.isfinite(none).all()
    with pytest.raises(ConfigError, match="heads is 3"):
        TextConditionedPool(heads=3).init(jax.random.key(0), text, frames)


def test_similarity_in_chunks_of_texts_is_the_whole_with_its_gradient():
    rng = np.random.default_rng(0)
    text, frames = (
        jnp.asarray(rng.standard_normal((6, 8)), jnp.float32),
        jnp.asarray(rng.standard_normal((2, 4, 8)), jnp.float32),
    )
    module = TextConditionedPool()
    params = module.init(jax.random.key(0), text, frames)

    def total(params, chunk):
        pooled = lambda t: module.apply(params, t, frames)  # noqa: E731
        return (conditioned_similarity(pooled, text, chunk) ** 2).sum()

    whole, parts = (jax.jit(jax.value_and_grad(total), static_argnums=1)(params, c) for c in (0, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parts)
    with pytest.raises(ConfigError, match="chunk is 4"):
        total(params, 4)

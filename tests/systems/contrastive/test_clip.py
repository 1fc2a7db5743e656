"""CLIP, SigLIP and the bag-of-words baseline against hand-computed losses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.clip import get_config
from mmrep import modality
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.clip import Config, bag_of_words


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    return config.system, modality.example(config.data.modalities, 6)


def started(system, batch):
    built = system.build()
    return built, *jax.jit(built.init)(jax.random.key(0), batch)


@pytest.fixture(scope="module")
def made(tiny):
    system, batch = tiny
    built, params, _ = started(system, batch)
    x, y = jax.jit(lambda p: [built.infer[n](p, {}, batch) for n in ("image", "text")])(params)
    return jax.jit(built.loss), params, batch, np.asarray(x, np.float64) @ np.asarray(y, np.float64).T


def test_softmax_is_half_of_both_directions(made):
    run, params, batch, cosines = made
    loss, (_, metrics) = run(params, {}, batch, jax.random.key(1))
    z = cosines / 0.07
    nll = lambda z: np.mean(np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - np.diag(z))  # noqa: E731
    np.testing.assert_allclose(loss, 0.5 * (nll(z) + nll(z.T)), rtol=1e-5)
    np.testing.assert_allclose(metrics["scale"], 1 / 0.07, rtol=1e-5)


def test_the_temperature_stays_above_its_floor(made):
    run, params, batch, _ = made
    cold = params | {"scale": {"log_scale": jnp.float32(9.0)}}
    assert float(run(cold, {}, batch, jax.random.key(0))[1][1]["scale"]) == pytest.approx(100.0, rel=1e-5)


def test_sigmoid_is_the_binary_cross_entropy_of_every_pair_and_learns_its_bias(tiny, made):
    system, batch = tiny
    _, params, _, cosines = made
    built = replace(system, loss="sigmoid", temperature=0.1).build()
    assert "bias" in jax.eval_shape(built.init, jax.random.key(0), batch)[0] and "bias" not in params
    params = params | {"bias": {"bias": jnp.float32(-10.0)}, "scale": {"log_scale": jnp.log(jnp.float32(10.0))}}
    run = jax.jit(jax.value_and_grad(built.loss, has_aux=True))
    (loss, (_, metrics)), grads = run(params, {}, batch, jax.random.key(1))
    signed = (10.0 * cosines - 10.0) * (2 * np.eye(6) - 1)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-signed)).sum() / 6, rtol=1e-5)
    assert float(metrics["bias"]) == -10.0 and float(grads["bias"]["bias"]) != 0.0


def test_bag_of_words_shares_one_over_distinct_pieces():
    ids = np.array([[1, 7, 9, 7, 2, 0], [1, 5, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0]], np.int32)
    bags = np.asarray(bag_of_words(ids, 12))
    assert bags[0].nonzero()[0].tolist() == [7, 9] and bags[0, 7] == 0.5
    assert bags[1, 5] == 1.0 and bags[2].sum() == 0.0


def test_words_loss_is_the_mean_log_probability_of_the_captions_words(tiny):
    system, batch = tiny
    built, params, extras = started(replace(system, loss="words"), batch)
    assert set(params) == {"image"}
    loss, (counted, _) = jax.jit(built.loss)(params, extras, batch, jax.random.key(0))
    uniform = np.log(len(extras["counts"]))  # nothing counted yet: all words are equally frequent
    log_p = np.asarray(jax.jit(built.infer["image"])(params, extras, batch)) - uniform
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1.0, rtol=1e-5)
    bags = np.asarray(bag_of_words(batch["text"], system.text.vocab))
    np.testing.assert_allclose(loss, -(log_p * bags).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(counted["counts"], 1.0 + bags.sum(0), rtol=1e-6)


def test_words_score_is_summed_information_and_common_words_rank_lower(tiny):
    system, batch = tiny
    built, params, extras = started(replace(system, loss="words"), batch)
    present = np.asarray(built.infer["text"](params, extras, batch))
    assert set(np.unique(present)) == {0.0, 1.0}
    counts = extras["counts"].at[7].set(100.0)
    plain, divided = (
        np.asarray(built.infer["image"](params, {"counts": c}, batch)) for c in (extras["counts"], counts)
    )
    share = np.asarray(counts / counts.sum())
    np.testing.assert_allclose(divided, plain - np.log(len(share)) - np.log(share), rtol=1e-4, atol=1e-5)
    assert (divided[:, 7] < plain[:, 7] - 1).all() and (divided[:, 8] > plain[:, 8]).all()


def test_bench_has_the_sizes_it_is_compared_at():
    config = get_config("bench")
    image, text = config.system.image, config.system.text
    shape = TransformerConfig(width=192, depth=6, heads=3)
    assert image == ImageEncoder(shape, patch=8, pool="cls", pre_norm=True)
    assert text == TextEncoder(shape, vocab=8192, length=32, causal=True, pool="eos")
    assert config.system.dim == 128 and config.data.batch_size == 64 and config.data.modalities[0].shape == (64, 64, 3)


@pytest.mark.parametrize("field", [{"temperature": 0.0}, {"temperature": -1.0}, {"min_temperature": 0.0}])
def test_impossible_fields_are_named(field):
    with pytest.raises(ConfigError, match=f"system.{next(iter(field))}"):
        Config(**field).build()

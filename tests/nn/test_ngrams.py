import jax
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.encoders.ngram import NgramEncoder, ngram_buckets


def ids(*rows, length=8):
    return np.array([[*r, *[0] * (length - len(r))] for r in rows], np.int32)


def grams(row, sizes):
    return {tuple(row[i : i + n]) for n in sizes for i in range(len(row) - n + 1)}


def test_every_ngram_has_a_bucket_and_padding_none():
    text = [1, 7, 8, 7, 8, 2]
    found, valid = (np.asarray(x) for x in ngram_buckets(ids(text), (1, 2, 3), 1 << 20))
    assert found.shape == valid.shape == (1, 24) and found.min() >= 0 and found.max() < 1 << 20
    # Six, five and four n-grams; as many buckets as there are different ones (a million buckets: no collision).
    assert valid.sum() == 6 + 5 + 4
    assert len(set(found[valid])) == len(grams(text, (1, 2, 3)))
    one, two = (set(np.asarray(ngram_buckets(ids(t), (3,), 1 << 20)[0])[0, :1]) for t in ([7, 8, 9], [9, 8, 7]))
    assert one != two, "the order within an n-gram counts"


def test_buckets_are_evenly_used():
    rows = np.random.default_rng(0).integers(5, 200, (200, 20)).astype(np.int32)
    found, _ = ngram_buckets(rows, (3,), 64)
    counts = np.bincount(np.asarray(found).ravel(), minlength=64)
    assert counts.min() > 0.5 * counts.mean() and counts.max() < 1.6 * counts.mean()


def test_padding_has_no_effect_and_rows_are_independent():
    model = NgramEncoder(16, 256, (1, 2, 3)).module(np.float32)
    short, long = ids([1, 7, 8, 2], [1, 9, 2], length=6), ids([1, 7, 8, 2], [1, 9, 2], length=11)
    params = model.init(jax.random.key(0), short)
    a, out = model.apply(params, short)
    b, _ = model.apply(params, long)
    np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(model.apply(params, short[1:])[0][0], a[1], atol=1e-6)
    assert out["valid"].sum(1).tolist() == [4 + 3 + 2, 3 + 2 + 1]
    assert np.isfinite(model.apply(params, np.zeros((1, 6), np.int32))[0]).all()


def test_ngrams_have_equal_weights_at_init():
    model = NgramEncoder(8, 64, (1,)).module(np.float32)
    text = ids([5, 6, 7], length=4)
    params = model.init(jax.random.key(1), text)
    table = np.asarray(params["params"]["embed"]["embedding"])
    at, _ = ngram_buckets(text, (1,), 64)
    mean = table[np.asarray(at)[0, :3]].mean(0)
    pooled, _ = model.apply(params, text)
    normed = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-6)
    rest = np.asarray(pooled)[0] - normed
    assert np.abs(rest).max() < 3, "pooled is the normed mean plus one MLP"
    params["params"]["weight"]["embedding"] = params["params"]["weight"]["embedding"].at[at[0, 0]].set(50.0)
    alone, _ = model.apply(params, text)
    only, _ = model.apply(params, ids([5], length=4))
    np.testing.assert_allclose(alone, only, atol=1e-5)


def test_errors_name_the_field():
    with pytest.raises(ConfigError, match="sizes"):
        NgramEncoder(8, 64, (1, 9)).module(np.float32).init(jax.random.key(0), ids([5, 6], length=4))
    with pytest.raises(ConfigError, match="buckets"):
        NgramEncoder(8, 0)

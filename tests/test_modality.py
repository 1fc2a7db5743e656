import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmrep import modality
from mmrep.data.augment import EachFrame, Warp
from mmrep.errors import ConfigError, DataError
from mmrep.modality import audio, check_batch, encode, example, ids, image, label, text, texts, vector, video
from mmrep.model import as_list
from mmrep.nn.maps import dense

ALL = (
    image("image", 8), text("text", 6, 20), audio("sound", 40), vector("vector", 3), label("label", 4), image("wide", (4, 8)),
    video("clip", 3, (4, 8)), texts("group", 2, 6, 20), ids("ids", 2, 3, vocab=7),
)  # fmt: skip


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]))))
def test_images_of_any_size_take_the_shape_of_the_modality(pixels):
    out = encode(image("image", 8), pixels, None)["image"]
    assert out.shape == (8, 8, 3) and out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1


@given(hnp.arrays(np.int16, st.integers(1, 60)))
def test_a_waveform_is_cut_or_padded_and_its_length_kept(wave):
    out = encode(audio("sound", 40), wave, None)
    n = min(len(wave), 40)
    assert out["sound_length"] == n and not out["sound"][n:].any()
    np.testing.assert_allclose(out["sound"][:n], wave[:n] / 32768)


@pytest.mark.parametrize(
    ("m", "value", "sentence"),
    [
        (image("x", 8), np.zeros((8, 8, 4), np.uint8), "expected 3 channels, found 4"),
        (image("x", 8), np.full((8, 8, 3), 2.0), r"within \[0, 1\]"),
        (image("x", 8), np.zeros(8), "expected an image"),
        (audio("x", 8), np.array([0.1, np.nan]), "NaN"),
        (audio("x", 8), np.zeros((2, 8)), "mono"),
        (text("x", 8, 9), "   ", "the text is empty"),
        (text("x", 8, 9), 3, "expected text, found int"),
        (label("x", 3), 3, r"ids must lie in \[0, 3\), found 3..3"),
        (vector("x", 2), np.zeros(3), r"expected shape \(2,\), found \(3,\)"),
        (vector("x", 2), np.array([np.inf, 0]), "NaN or infinite"),
        (video("x", 2, 8), np.zeros((8, 8)), r"expected a video \[T, H, W\] or \[T, H, W, C\], found shape \(8, 8\)"),
        (video("x", 2, 8), np.zeros((0, 8, 8, 3)), "the video has no frame"),
        (video("x", 2, 8), [], "the video has no frame"),
        (video("x", 2, 8), np.zeros((2, 8, 8, 4), np.uint8), "expected 3 channels, found 4"),
        (texts("x", 2, 8, 9), ["one"], "expected a list of 2 texts, found 1 of them"),
        (texts("x", 2, 8, 9), "one", "expected a list of 2 texts, found str"),
        (texts("x", 2, 8, 9), ["one", " "], "the text is empty"),
        (ids("x", 2, vocab=3), np.array([0, 3]), r"ids must lie in \[0, 3\), found 0..3"),
        (ids("x", 2, vocab=3), np.array([0, 0.5]), "ids are whole numbers"),
    ],
)
def test_wrong_values_raise_data_errors(m, value, sentence):
    with pytest.raises(DataError, match=sentence):
        encode(m, value, lambda t, n: np.zeros(n, np.int32))


def test_impossible_modalities_are_refused():
    with pytest.raises(ConfigError, match=r"shape \(8,\) does not fit kind 'image'"):
        modality.Modality("x", "image", (8,))
    with pytest.raises(ConfigError, match="needs vocab >= 1"):
        modality.Modality("x", "text", (8,))
    with pytest.raises(ConfigError, match="needs vocab >= 1"):
        ids("x", 2, vocab=0)
    with pytest.raises(ConfigError, match="patch 3 does not divide"):
        video("x", 2, 8, patch=3)
    with pytest.raises(ConfigError, match="must be positive"):
        image("x", 0)
    with pytest.raises(ConfigError, match="patch 3 does not divide"):
        image("x", 8, patch=3)
    for std in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="must be finite, and std above 0"):
            modality.image("image", 8, std=(std,))
    with pytest.raises(ConfigError, match="must have 1 or 3 values"):
        image("x", 8, mean=(0.5, 0.5))


def test_a_dense_modality_has_the_sizes_of_its_modality():
    rgb, classes = image("rgb", (8, 4), patch=2, mean=(0.1, 0.2, 0.3)), modality.label_map("semseg", 4, 5, patch=1)
    assert rgb.grid == dense(rgb).grid == (4, 2) and dense(rgb).values == 12 and dense(rgb).mean == rgb.mean
    assert classes.classes == dense(classes, class_dim=8).classes == 5 and rgb.classes == 0
    assert vector("pose", 6).grid == (1, 6)
    with pytest.raises(ConfigError, match="has kind 'text'"):
        dense(text("caption", 6, 20))


def test_a_video_is_its_evenly_spaced_frames():
    m = video("clip", 2, 4)
    clip = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    found = encode(m, clip, None)["clip"]
    assert found.shape == (2, 4, 4, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0, 0, 0] * 255, [1, 4], rtol=1e-6)  # the middles of two segments of three
    np.testing.assert_array_equal(encode(m, list(clip), None)["clip"], found)
    assert encode(m, clip[:1], None)["clip"].shape == (2, 4, 4, 3)  # a still picture stands in both
    assert m.size == (4, 4) and m.channels == 3 and video("x", 2, (8, 4), patch=2).grid == (4, 2)


def test_an_augmentation_of_a_video_is_the_same_in_all_frames():
    m = video("clip", 3, 8, augment=(EachFrame(Warp(shift=0.3, turn=40.0)),))
    clip = np.broadcast_to(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8), (3, 8, 8, 3))
    found = encode(m, clip, None, np.random.default_rng(0))["clip"]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.array_equal(found, encode(m, clip, None)["clip"])
    one = Warp(shift=0.3, turn=40.0)(np.random.default_rng(0), encode(m, clip, None)["clip"][0])
    np.testing.assert_array_equal(found[0], one)


def test_a_group_of_texts_is_tokenised_text_by_text():
    count = lambda words, n: np.full(n, len(words.split()), np.int32)  # noqa: E731
    found = encode(texts("group", 2, 5, 9), ["a b", "c"], count)["group"]
    assert found.tolist() == [[2] * 5, [1] * 5]
    assert encode(ids("x", 2, vocab=3), [0, 2], None)["x"].dtype == np.int32


def test_missing_numbers_are_nan_where_they_are_allowed():
    m = vector("x", 2, missing=True)
    assert np.isnan(encode(m, [1.0, np.nan], None)["x"]).tolist() == [False, True]
    assert np.isnan(encode(m, np.nan, None)["x"]).all() and encode(m, np.nan, None)["x"].shape == (2,)
    assert np.isnan(example([m], 64)["x"]).any()
    with pytest.raises(DataError, match="NaN or infinite"):
        encode(m, [1.0, np.inf], None)


def test_one_value_or_a_list_of_values():
    group, clip = texts("group", 2, 5, 9), video("clip", 2, 4)
    assert as_list(group, ["a", "b"]) == [["a", "b"]] and len(as_list(group, [["a", "b"], ["c", "d"]])) == 2
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    assert len(as_list(clip, frames)) == len(as_list(clip, list(frames))) == 1
    assert len(as_list(clip, frames[None])) == len(as_list(clip, [frames])) == 1


def test_examples_are_valid_batches():
    batch = example(ALL, 5, seed=1)
    check_batch(ALL, batch)
    assert (batch["text"][:, 0] == modality.BOS).all() and ((batch["text"] == modality.EOS).sum(1) == 1).all()
    hidden = np.arange(40) >= batch["sound_length"][:, None]
    assert not batch["sound"][hidden].any()
    with pytest.raises(ConfigError, match="batch has no 'text'"):
        check_batch(ALL, {"image": batch["image"]})
    with pytest.raises(ConfigError, match=r"batch\['label'\] is int64\[5\]"):
        check_batch(ALL, batch | {"label": batch["label"].astype(np.int64)})


def test_augmentation_runs_in_training_only_and_keeps_the_shape():
    flipped = image("x", 8, augment=(flip,))
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    plain = encode(flipped, pixels, None)["x"]
    np.testing.assert_array_equal(encode(flipped, pixels, None, np.random.default_rng(0))["x"], plain[:, ::-1])
    with pytest.raises(DataError, match="changed the shape"):
        encode(image("x", 8, augment=(crop,)), pixels, None, np.random.default_rng(0))


def flip(rng, x):
    return x[:, ::-1]


def crop(rng, x):
    return x[1:]


def test_finer_class_maps_are_reduced_by_a_whole_factor():
    fine = np.arange(64, dtype=np.uint8).reshape(8, 8)
    m = modality.label_map("semseg", 2, 64)
    np.testing.assert_array_equal(
        encode(m, fine, None)["semseg"], [[18, 22], [50, 54]]
    )  # pixels (2, 2), (2, 6), (6, 2), (6, 6)
    np.testing.assert_array_equal(modality.coarser(fine, (8, 8)), fine)
    for shape in ((5, 5), (8, 4), (1, 1)):
        with pytest.raises(DataError, match="expected shape"):
            encode(m, np.zeros(shape, np.uint8), None)

"""Clips as users have them, through every source: frames by time, upright, in step with their sound; a broken clip is one sentence."""

import io
import sys

import numpy as np
import pytest
from files import EVERY, film, turned, write_shard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrep import modality, raw
from mmrep.config import Data
from mmrep.data import decode, pipeline, videos
from mmrep.data.sources import Folder, Limits, Shards, Table
from mmrep.errors import DataError

SHADES = list(range(0, 240, 12))
CLIP = modality.video("video", 4, (8, 12))


def shades(frames):
    return [int(np.asarray(f)[4:-4, 4:-4].mean()) for f in frames]


def animation(values, durations, kind="GIF"):
    content, pictures = io.BytesIO(), [Image.new("RGB", (6, 4), (s, s, s)) for s in values]
    pictures[0].save(content, kind, save_all=True, append_images=pictures[1:], duration=durations)
    return content.getvalue()


# --- frames by time ---


def test_lists_and_animations_of_one_rate_share_the_rule_of_segments():
    values = [10, 60, 110, 160, 210]
    pictures = [np.full((4, 6, 3), v, np.uint8) for v in values]
    clip = videos.encoded(animation(values, 40), "a.gif")
    for number in (1, 2, 3, 5, 8):
        kept = [values[int((i + 0.5) * 5 / number)] for i in range(number)]
        assert [f[0, 0, 0] for f in raw.segments(pictures, number, "x")] == kept
        assert [int(f[0, 0, 0]) for f in raw.segments(clip, number, "x")] == pytest.approx(kept, abs=2)


def test_frames_are_taken_by_time_where_their_durations_differ():
    clip = videos.encoded(animation([10, 120, 240], [100, 100, 800]), "a.gif")
    assert [int(f[0, 0, 0]) for f in raw.segments(clip, 5, "x")] == pytest.approx([120, 240, 240, 240, 240], abs=2)
    assert [int(f[0, 0, 0]) for f in clip.frames_at([0.0, 0.05, 0.1, 0.19, 0.2])] == pytest.approx(
        [10, 10, 120, 120, 240], abs=2
    )


def test_an_animation_without_durations_and_a_still_picture_are_clips():
    still = io.BytesIO()
    Image.new("RGB", (6, 4), (90, 90, 90)).save(still, "GIF")
    assert [int(f[0, 0, 0]) for f in raw.segments(videos.encoded(still.getvalue(), "a"), 3, "x")] == [90] * 3


def test_jitter_draws_a_frame_of_each_segment_in_training_only():
    frames = [np.full((8, 12, 3), i, np.uint8) for i in range(40)]
    m = modality.video("video", 4, (8, 12), jitter=True)
    picked = lambda rng: (modality.encode(m, frames, None, rng)["video"][:, 0, 0, 0] * 255).round().astype(int)  # noqa: E731
    assert picked(None).tolist() == [5, 15, 25, 35]
    one, same, other = (picked(np.random.default_rng(s)) for s in (1, 1, 2))
    assert one.tolist() == same.tolist() != other.tolist()
    assert (one // 10 == np.arange(4)).all() and (other // 10 == np.arange(4)).all()


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_segments_are_in_order_and_within_the_clip(length, number, seed):
    frames = np.arange(length)[:, None, None]
    at = [i.item() for i in raw.segments(frames, number, "x", np.random.default_rng(seed))]
    assert len(at) == number and at == sorted(at) and at[0] >= 0 and at[-1] < length


# --- films ---

av = pytest.importorskip("av", reason="films need PyAV")


@pytest.mark.parametrize(
    "kind, codec", [("mp4", "mpeg4"), ("mp4", "libx264"), ("webm", "libvpx"), ("webm", "libvpx-vp9")]
)
def test_frames_of_a_film_are_those_of_a_list(kind, codec):
    clip = videos.encoded(film(SHADES, kind=kind, codec=codec), f"a.{kind}")
    for number in (1, 3, 4, 20, 30):
        kept = [SHADES[int((i + 0.5) * 20 / number)] for i in range(number)]
        assert shades(raw.segments(clip, number, "x")) == pytest.approx(kept, abs=5)
    backwards = clip.frames_at([0.9, 0.1, 0.5, 0.1])
    assert shades(backwards) == pytest.approx([SHADES[i] for i in (18, 2, 10, 2)], abs=5)
    assert backwards[0].dtype == np.uint8 and backwards[0].shape == (24, 32, 3)


def test_seeking_finds_the_frames_that_decoding_all_of_them_finds():
    clip = videos.encoded(film(list(range(0, 250)), keys=7), "a.mp4")
    shares = np.sort(np.random.default_rng(0).random(6))
    assert shades(clip.frames_at(shares)) == pytest.approx([int(s * 250) for s in shares], abs=4)


def test_a_film_of_variable_frame_rate_is_sampled_by_time():
    data = film([10, 120, 240, 60], kind="webm", codec="libvpx", stamps=[0, 100, 200, 990])
    assert shades(raw.segments(videos.encoded(data, "a.webm"), 5, "x")) == pytest.approx(
        [10, 240, 240, 240, 240], abs=5
    )


def test_a_film_is_upright_and_has_square_pixels():
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:12, :16] = 255  # top left
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (upright,) = videos.encoded(turned(content.getvalue()), "a.mp4").frames_at([0.5])
    corners = [int(upright[y, x, 0]) for y, x in ((3, 3), (3, -4), (-4, 3), (-4, -4))]
    assert (
        upright.shape == (32, 24, 3)
        and np.array(corners).argmax() == 1
        and sorted(corners)[2] < 60 < sorted(corners)[3]
    )


@pytest.mark.parametrize("kind, codec", [("mp4", "mpeg4"), ("webm", "libvpx")])
def test_the_sound_of_a_film_is_mono_and_in_step_with_its_pictures(kind, codec):
    data = film(SHADES, kind=kind, codec=codec, tone=0.5)
    wave = videos.audio(data, "a", 16_000)
    assert wave.dtype == np.float32 and abs(len(wave) - 32_000) < 1600
    t = np.arange(8000, 16_000) / 16_000
    np.testing.assert_allclose(np.abs(np.exp(-2j * np.pi * 440 * t) @ wave[8000:16_000]) * 2 / 8000, 0.25, atol=0.02)
    late = videos.audio(film(SHADES, kind=kind, codec=codec, tone=0.5, start=0.5), "a", 16_000)
    assert np.abs(late[:7500]).max() < 0.02 < 0.2 < np.abs(late[8500:9500]).max()


# --- faults ---


def damaged(data):
    """Bytes within the pictures turned over."""
    content = np.frombuffer(data, np.uint8).copy()
    at = data.index(b"mdat") + 4
    content[at + 200 : at + 4000 : 3] ^= 255
    return content.tobytes()


FAULTS = {
    "empty": (lambda: b"", "not a whole film"),
    "text": (lambda: b"no film at all" * 50, "not a whole film"),
    "playlist": (
        lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "not a whole film",
    ),
    "cut mp4": (lambda: film(SHADES)[:-900], "not a whole film"),
    "cut webm": (lambda: film(SHADES * 2, kind="webm", codec="libvpx")[:-9000], "cut short|not a whole film"),
    "damaged": (lambda: damaged(film(SHADES, codec="libx264")), "damaged|not a whole film|cannot be decoded"),
    "sound alone": (lambda: film([], tone=0.5), "the film has no pictures"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_film_is_one_sentence(fault):
    make, sentence = FAULTS[fault]
    with pytest.raises(DataError, match=sentence) as raised:
        videos.encoded(make(), "clip.mp4").frames_at([0.1, 0.9])
    assert str(raised.value).startswith("clip.mp4") and "\n" not in str(raised.value)


def test_limits_of_a_film():
    data = film(SHADES, tone=0.1)
    for limits, sentence in ((Limits(pixels=100), "32 x 24 pixels"), (Limits(seconds=1.0), "lasts 2 s")):
        with pytest.raises(DataError, match=sentence):
            videos.encoded(data, "a.mp4", limits).frames_at([0.5])
    with pytest.raises(DataError, match="lasts 2 s"):
        videos.sound(data, "a.mp4", 16_000, Limits(seconds=1.0))


@given(st.binary(max_size=200), st.integers(0, 3000))
@settings(max_examples=40, deadline=None)
def test_any_bytes_in_a_film_are_frames_or_one_sentence(junk, at):
    data = WHOLE[:at] + junk + WHOLE[at + len(junk) :]
    for take in (
        lambda: videos.encoded(data, "a.mp4").frames_at([0.2, 0.8]),
        lambda: videos.sound(data, "a.mp4", 8000),
    ):
        try:
            take()
        except DataError as error:
            assert "\n" not in str(error)


WHOLE = film(SHADES[:6], tone=0.2)


# --- through the sources ---


def sources(path):
    """Three ways to the same four clips: films with sound, without, a broken one, and an animation."""
    files = {
        "a.mp4": film(SHADES, tone=0.5),
        "b.webm": film(SHADES, kind="webm", codec="libvpx"),
        "c.mp4": b"broken",
        "d.gif": animation(SHADES, 50),
    }
    (path / "clips").mkdir()
    rows = ["clip,caption"]
    members = []
    for name, data in files.items():
        (path / "clips" / name).write_bytes(data)
        (path / "clips" / f"{name[0]}.txt").write_text(f"clip {name[0]}")
        rows.append(f"clips/{name},clip {name[0]}")
        members += [(name, data), (f"{name[0]}.txt", f"clip {name[0]}".encode())]
    (path / "t.csv").write_text("\n".join(rows))
    write_shard(path / "a.tar", members)
    yield Folder(path / "clips", animations=True, fractions=EVERY)
    yield Table(path / "t.csv", image=None, video="clip", audio="clip", fractions=EVERY)
    yield Shards(str(path / "a.tar"), image=(), video=("mp4", "webm", "gif"), audio=("mp4", "webm"), fractions=EVERY)


def test_every_source_gives_clips_with_their_sound(tmp_path):
    for source in sources(tmp_path):
        silent = Data(source, (CLIP,), batch_size=2, max_bad_records=4)
        if isinstance(source, Folder):
            split = pipeline.open_split(silent, None, "train")
            assert split.usable().tolist() == [0, 1, 3] and "c.mp4: not a whole film" in split.bad[2]
            frames = [split.entry(i)["video"][:, 4, 6, 0] * 255 for i in (0, 1, 3)]
            for found in frames:
                np.testing.assert_allclose(found, [SHADES[i] for i in (2, 7, 12, 17)], atol=5)
        heard = Data(source, (CLIP, modality.audio("audio", 16_000)), batch_size=1, max_bad_records=4)
        split = pipeline.open_split(heard, None, "train")
        first = split.entry(0)
        assert first["audio_length"] == 16_000 and np.abs(first["audio"]).max() > 0.2
        assert split.usable().tolist() == [0], split.bad
        assert all("\n" not in s for s in split.bad.values())
        assert any("no sound" in s or "no field 'audio'" in s for s in split.bad.values())


def test_films_and_pictures_in_one_folder(tmp_path):
    for name, data in {"a.mp4": WHOLE, "b.mp4": WHOLE, "b.wav": b"", "c.wav": b""}.items():
        (tmp_path / name).write_bytes(data)
    records = Folder(tmp_path, text="none", fractions=EVERY).open("train")
    assert [r.main[-5:] for r in records.items] == ["a.mp4", "b.mp4"]
    assert "1 .wav" in records.leftovers() and "c.wav" in records.leftovers()
    assert set(records[0]) == {"file", "video", "audio"} and len(records[0]["audio"]) > 8000
    with pytest.raises(DataError, match=r"b\.wav"):
        records[1]
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    records = Folder(tmp_path, text="none", audio=False, fractions=EVERY).open("train")
    assert set(records[0]) == {"file", "image", "video"} and "1 .mp4" in records.leftovers()


def test_without_pyav_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    from mmrep.data import folder

    (tmp_path / "a.mp4").write_bytes(WHOLE)
    (tmp_path / "t.csv").write_text("clip,caption\na.mp4,a clip\n")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    caches = (decode.film_endings, decode.audio_endings, folder.kinds)
    for cached in caches:
        cached.cache_clear()
    try:
        with pytest.raises(
            DataError, match=r"no image, clip or sound; it has 1 \.mp4, 1 \.csv; for films .*: pip install av"
        ):
            Folder(tmp_path, fractions=EVERY).open("train")
        record = Table(tmp_path / "t.csv", image=None, video="clip", fractions=EVERY).open("train")[0]
        with pytest.raises(DataError, match=r"line 2.*need PyAV: pip install av"):
            modality.encode(CLIP, record["video"], None)
    finally:
        for cached in caches:
            cached.cache_clear()

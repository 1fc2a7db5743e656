"""Pictures, waveforms and texts of every type, range and mode: the right values, or one sentence."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmrep import modality, raw
from mmrep.data import decode
from mmrep.errors import DataError

COLOUR = (200, 100, 40)
PICTURE = modality.image("image", 32)


def encoded(value, m=PICTURE):
    return modality.encode(m, value, None)[m.name]


def flat(size, value, dtype):
    return np.full((*size, 3), value).astype(dtype)


# --- pictures ---


@pytest.mark.parametrize("size", [(32, 32), (40, 30)], ids=["native", "resized"])
def test_arrays_of_pixels_are_right_or_refused_whatever_their_size(size):
    """F4: the check came after resizing, which had clipped 0..255 floats and -1..1 to white and half black."""
    right = encoded(flat(size, 200, np.uint8))
    assert right.mean() == pytest.approx(200 / 255, abs=1e-6)
    for good in (flat(size, 200 / 255, np.float32), flat(size, 200 / 255, np.float64)):
        np.testing.assert_allclose(encoded(good), right, atol=1e-6)
    np.testing.assert_allclose(encoded(flat(size, 200 / 255, np.float16)), right, atol=1e-3)
    assert encoded(flat(size, 1, bool)).min() == 1.0
    for value, dtype, sentence in [
        (200.0, np.float32, r"within \[0, 1\], found 200..200; give uint8 or scale them"),
        (-0.5, np.float32, r"within \[0, 1\], found -0.5..-0.5"),
        (np.nan, np.float32, "must be finite"),
        (200, np.int64, "int64 pixels have no stated range: give uint8"),
        (200, np.int32, "int32 pixels have no stated range"),
        (200, np.int8, "int8 pixels have no stated range"),
        (200 * 257, np.uint16, "uint16 pixels have no stated range: divide by 257 and give uint8"),
        (1, np.uint32, "uint32 pixels"),
    ]:
        with pytest.raises(DataError, match=f"image: .*{sentence}"):
            encoded(flat(size, value, dtype))


def test_channels_are_named():
    with pytest.raises(DataError, match="expected 3 channels, found 30; the channels must come last"):
        encoded(np.zeros((3, 40, 30), np.uint8))
    with pytest.raises(DataError, match="expected 1 channels, found 3"):
        encoded(np.zeros((4, 4, 3), np.uint8), modality.image("depth", 4, 1))
    assert encoded(np.zeros((9, 7, 6), np.uint8), modality.image("bands", 4, 6)).shape == (4, 4, 6)
    np.testing.assert_array_equal(encoded(np.full((9, 7), 255, np.uint8)), 1.0)


def in_mode(mode):
    image = Image.new("RGB", (8, 6), COLOUR)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    if mode == "1" or mode.startswith("I"):
        return Image.new(mode, (8, 6), 1 if mode == "1" else 123 * 257)
    through = {"PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode)
    return image.convert(through).convert(mode) if through else image.convert(mode)


@pytest.mark.parametrize(
    "mode", ["L", "P", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "LA", "La", "PA", "I", "I;16", "I;16B", "1"]
)  # fmt: skip
def test_pil_pictures_of_every_mode(mode):
    """B3: a palette picture given to infer was read as grey levels of its indices."""
    image = in_mode(mode)
    grey = mode in ("L", "LA", "La", "1") or mode.startswith("I")
    want = {"1": (255, 255, 255)}.get(mode, (123, 123, 123) if grey else COLOUR)
    slack = 60 if mode in ("P", "PA") else 4  # the web palette, dithered
    np.testing.assert_allclose(raw.rgb(image, "x")[2, 3], want, atol=slack)
    np.testing.assert_allclose(encoded(image)[5, 5] * 255, want, atol=slack)
    assert encoded(image, modality.image("grey", 8, 1)).shape == (8, 8, 1)


def test_floating_point_pictures_have_no_range():
    with pytest.raises(DataError, match="image: floating-point pixels have no stated range"):
        encoded(Image.new("F", (4, 4), 0.5))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("broken", [False, True])
def test_pictures_stand_upright_whatever_the_other_tags_say(orientation, broken):
    """F21: a text in XResolution made Pillow fail on a whole picture."""
    corner = np.zeros((4, 6, 3), np.uint8)
    corner[0, 0] = 255
    image = Image.fromarray(corner)
    exif = image.getexif()
    exif[0x0112] = orientation
    if broken:
        exif[0x010F] = "maker"
    content = io.BytesIO()
    image.save(content, "PNG", exif=exif.tobytes() if not broken else _with_text_resolution(exif.tobytes()))
    got = decode.image(content.getvalue(), "x")
    assert got.shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))
    row, column = np.argwhere(got[..., 0] == 255)[0]
    height, width = got.shape[:2]
    want = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    assert (row > 0, column > 0) == want and (row in (0, height - 1)) and (column in (0, width - 1))


def _with_text_resolution(exif):
    """The maker's tag (271, a text) renamed to XResolution (282), which is a number."""
    for order in ("big", "little"):
        old, new = (0x010F).to_bytes(2, order), (0x011A).to_bytes(2, order)
        if old in exif:
            return exif.replace(old, new, 1)
    raise AssertionError("no such tag")


def test_grey_16_bit_with_a_transparent_value_is_white_there():
    values = np.array([[0, 257 * 7, 65_535]], np.uint16)
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG", transparency=257 * 7)
    with Image.open(io.BytesIO(content.getvalue())) as opened:
        assert opened.info.get("transparency") == 257 * 7
    assert decode.image(content.getvalue(), "x")[0, :, 0].tolist() == [0, 255, 255]


# --- sounds ---

SOUND = modality.audio("sound", 400)
TONE = 0.5 * np.sin(np.arange(400) / 7)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "slack"),
    [(np.float32, 1, 0, 1e-6), (np.float64, 1, 0, 1e-6), (np.float16, 1, 0, 1e-3), (np.int16, 2**15, 0, 1e-4), (np.int32, 2**31, 0, 1e-6),
     (np.int8, 2**7, 0, 1e-2), (np.uint8, 2**7, 128, 1e-2), (np.int64, 2**15, 0, 1e-4)],
)  # fmt: skip
def test_samples_of_every_type_are_the_same_tone(dtype, scale, offset, slack):
    """F5: int32, uint8, int64 became a square wave."""
    wave = (TONE * scale + offset).astype(dtype)
    np.testing.assert_allclose(encoded(wave, SOUND), TONE, atol=slack)


def test_samples_without_a_range_are_refused():
    for value, sentence in [
        (TONE * 32768, r"must lie in \[-1, 1\], found a peak of 1.6\S+: divide by 32768"),
        ((TONE * 2**30).astype(np.int64), "int64 samples beyond 16 bits"),
        (np.ones(9, np.uint16), "uint16 samples have no stated range"),
        (np.ones(9, bool), "bool samples"),
        (np.ones((9, 2), np.float32), r"mono samples \[T\], found shape \(9, 2\); average the channels"),
        (np.array([0.0, np.nan]), "NaN or infinite"),
        (np.zeros(0, np.float32), "mono samples"),
    ]:
        with pytest.raises(DataError, match=f"sound: .*{sentence}"):
            encoded(value, SOUND)
    assert encoded(1.2 * TONE / 0.5, SOUND).max() == 1.0  # what resampling and MP3 overshoot is clipped


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_files_of_every_format_are_the_same_tone(subtype, channels):
    content = io.BytesIO()
    soundfile.write(content, np.stack([TONE] * channels, 1), 16_000, format="WAV", subtype=subtype)
    got = decode.audio(content.getvalue(), "x", 16_000)
    np.testing.assert_allclose(got, TONE, atol=0.03)


def test_a_file_of_floats_in_the_range_of_int16_is_refused():
    content = io.BytesIO()
    soundfile.write(content, TONE * 32768, 16_000, format="WAV", subtype="FLOAT")
    with pytest.raises(DataError, match=r"a.wav: float samples must lie in \[-1, 1\]"):
        decode.audio(content.getvalue(), "a.wav", 16_000)


@pytest.mark.parametrize("size", [0x7FFFF024, 0x80000024, 0xFFFFFFFF])
def test_piped_wavs_are_whole_and_cut_ones_are_not(size):
    """F21: SoX, arecord and ffmpeg cannot know the length of what they pipe."""
    content = io.BytesIO()
    soundfile.write(content, TONE, 16_000, format="WAV")
    whole = content.getvalue()
    piped = whole[:4] + size.to_bytes(4, "little") + whole[8:40] + (size - 36).to_bytes(4, "little") + whole[44:]
    np.testing.assert_allclose(decode.audio(piped, "x", 16_000), TONE, atol=1e-3)
    for kept in (60, 400, len(whole) - 2):
        with pytest.raises(DataError, match="truncated"):
            decode.audio(whole[:kept], "x", 16_000)


# --- texts ---


def test_lines_end_at_newlines_only():
    """F13: captions were cut at U+2028, U+2029, U+0085, VT, FF and FS to RS."""
    odd = "a\u2028b\u2029c\u0085d\ve\ff\x1cg\x1dh\x1ei"
    assert raw.lines(f"{odd}\nsecond\r\nthird\rfourth\n\n \u200b\n") == (odd, "second", "third", "fourth")


@pytest.mark.parametrize("text", ["", "  \n", "\u200b", "\ufeff\u200d ", "\x00"])
def test_a_text_of_which_nothing_is_visible_is_empty(text):
    with pytest.raises(DataError, match="x: the text is empty"):
        raw.text(text, "x")


def test_texts_are_utf8():
    assert raw.text("\ufeffein Hund ".encode(), "x") == "ein Hund"
    for bad in ("a\ud800b", "ä".encode("latin-1")):
        with pytest.raises(DataError, match="x: .*not UTF-8"):
            raw.text(bad, "x")
    m = modality.text("caption", 8, 20)
    with pytest.raises(DataError, match="caption: the text is not UTF-8"):  # F26: a query from a Latin-1 terminal
        modality.encode(m, "gr\udcfcn", lambda t, n: np.zeros(n, np.int32))

"""Small pictures, sounds, tables and shards, written for tests of data sources."""

import csv
import io
import tarfile
from fractions import Fraction

import numpy as np
import soundfile
from PIL import Image

EVERY = (1.0, 0.0, 0.0)


def picture(path, colour=(255, 0, 0), size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


def encoded(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def sound(rate=16_000, seconds=0.1, channels=1, kind="WAV"):
    t = np.arange(int(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * 440 * t)
    content = io.BytesIO()
    soundfile.write(content, np.stack([wave] * channels, axis=1), rate, format=kind)
    return content.getvalue()


def write_table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def film(shades, rate=10, size=(32, 24), kind="mp4", codec="mpeg4", stamps=None, keys=12, tone=None, start=0.0):
    """A film of grey frames; `stamps`: times of the frames in ms; `tone`: amplitude of a sound as long, from `start` s on. Without frames a sound of 1 s."""
    import av

    content = io.BytesIO()
    with av.open(content, "w", format=kind) as container:
        stream = None
        if len(shades):
            stream = container.add_stream(codec, rate=1000 if stamps else rate, options={"g": str(keys)})
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 10_000_000
        voice = None
        if tone is not None:
            voice = container.add_stream({"mp4": "aac", "webm": "libopus"}[kind], rate=48_000)
            voice.layout = "stereo"
        for i, shade in enumerate(shades):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), shade, np.uint8), format="rgb24")
            frame.pts, frame.time_base = (stamps[i] if stamps else i), Fraction(1, 1000 if stamps else rate)
            container.mux(stream.encode(frame))
        if stream:
            container.mux(stream.encode())
        if voice:
            t = np.arange(int(48_000 * (len(shades) or rate) / rate)) / 48_000
            wave = (tone * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(np.stack([wave, 0 * wave]), format="fltp", layout="stereo")
            sound.sample_rate, sound.pts = 48_000, int(48_000 * start)
            container.mux(voice.encode(sound))
            container.mux(voice.encode())
    return content.getvalue()


def turned(mp4):
    """An MP4 whose pictures are to be shown after a quarter turn clockwise, as a telephone held upright writes them."""
    at = mp4.index(b"tkhd") + 44
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    return mp4[:at] + b"".join(v.to_bytes(4, "big", signed=True) for v in matrix) + mp4[at + 36 :]

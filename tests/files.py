"""Small pictures, sounds, tables and shards, written for tests of data sources."""

import csv
import io
import tarfile

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

"""Cuts a folder of videos into clips, measures, filters and captions them: records that a system trains on (MMTrail's pipeline).

python -m experiments.annotate videos --out clips --experts my_experts:caption,my_experts:music
In Python: mmrep.train(configs.video.mmtrail.annotated("clips/records.jsonl"), "runs/clips") trains on the records.

videos holds films (.mp4, .webm, ...: pip install av), animations (.gif, .webp), arrays (.npy, [T, H, W, 3]) or folders of frames, and beside each,
with the same name, perhaps a .wav.
An expert is a function of a `mmrep.data.trailers.Clip` that returns some of caption, frame_caption, objects, background, music_caption and
vocal_caption. Written to --out: records.jsonl (all clips that are kept), their frames (.npy) and sounds (.wav), dropped.jsonl (the others,
with a reason, and videos that cannot be read).
"""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import _cli
from mmrep import paths
from mmrep.data.decode import FILMS
from mmrep.data.videos import ANIMATIONS
from mmrep.errors import ConfigError, DataError


@dataclass(frozen=True)
class Options:
    videos: Annotated[tyro.conf.Positional[Path], _cli.FOLDER]
    """the folder of videos"""
    out: Annotated[Path, _cli.FOLDER]
    """the folder of the records"""
    experts: str = "mmrep.data.trailers:measure"
    """module:function, several with commas; the default measures light, colour, pace and sound"""
    merge: str = "mmrep.data.trailers:merge"
    """module:function of the experts' texts {field: (text, ...)} and the number of words"""
    words: int = 24
    """of a merged caption, at most"""
    threshold: float = 30.0
    """change of hue, saturation and value (0 to 255) at a cut"""
    shortest: int = 15
    """frames of a scene, at least"""
    fps: float = 24.0
    """frames a second: of arrays and folders, and taken from films and animations"""
    rate: int = 16_000
    """samples a second of the sounds that are written"""
    seconds: str = "0,600"
    """least and greatest length of a clip"""
    motion: str = "0,255"
    """least and greatest mean change from frame to frame"""
    sharpness: str = "0,inf"
    """least and greatest variance of the Laplacian"""


def run() -> None:
    o = _cli.parse_options(Options, __doc__)
    import numpy as np
    from scipy.io import wavfile

    from mmrep.data import trailers

    if o.fps <= 0 or o.rate < 1 or o.words < 2 or o.shortest < 1:
        raise ConfigError(
            f"--fps {o.fps:g}, --rate {o.rate}, --words {o.words}, --shortest {o.shortest}: give positive numbers, and 2 words or more"
        )
    sys.path.insert(0, os.getcwd())
    experts, merge = [function("--experts", name) for name in o.experts.split(",")], function("--merge", o.merge)
    limits = trailers.Filter(*(pair(f"--{n}", getattr(o, n)) for n in ("seconds", "motion", "sharpness")))
    paths.make(o.out, "give another --out")
    kept, dropped = [], []
    for path in found_in(o.videos):
        try:
            frames, sound = read(path, o.fps, o.rate)
        except DataError as error:
            dropped.append({"video_path": str(path), "reason": str(error)})
            continue
        for i, (start, end) in enumerate(trailers.scenes(frames, o.threshold, o.shortest)):
            at = slice(round(start / o.fps * o.rate), round(end / o.fps * o.rate))
            clip = trailers.Clip(frames[start:end], None if sound is None else sound[at], o.rate, o.fps)
            r = trailers.record(path.stem, i, (start, end), clip)
            reason = limits.reason(r)
            if not reason:
                texts = trailers.annotate(clip, experts)
                r = replace(r, texts=texts, merge_caption=merge(texts, o.words))
                reason = "" if r.merge_caption else "no expert described anything"
            if reason:
                dropped.append({"video_path": str(path), "clip_id": r.clip_id, "reason": reason})
                continue
            files = {"video": f"{r.clip_id}.npy"}
            np.save(o.out / files["video"], clip.frames)
            if clip.sound is not None and len(clip.sound):
                files["audio"] = f"{r.clip_id}.wav"
                wavfile.write(o.out / files["audio"], o.rate, np.round(clip.sound * 32_767).astype(np.int16))
            kept.append(r.to_json() | {"video_path": str(path)} | files)
    for name, rows in (("records.jsonl", kept), ("dropped.jsonl", dropped)):
        paths.replace(o.out / name, "".join(json.dumps(row) + "\n" for row in rows))
    print(
        f"{len(kept):,} clips of {len({r['video_id'] for r in kept}):,} videos in {o.out / 'records.jsonl'}; {len(dropped):,} dropped"
    )


def found_in(folder: Path) -> Iterator[Path]:
    """The videos of the folder, by name: files that hold frames, and sub-folders. Raises DataError where there is none."""
    found = (
        [p for p in sorted(folder.iterdir()) if p.is_dir() or p.suffix.lower() in (".npy", *ANIMATIONS, *FILMS)]
        if folder.is_dir()
        else []
    )
    if not found:
        raise DataError(f"{folder} has no videos: put films, animations, .npy arrays or folders of frames there")
    yield from found


def read(path: Path, fps: float, rate: int) -> tuple[Any, Any]:
    """(frames uint8 [T, H, W, 3], the sound beside them or in the film, or None). Arrays and folders have `fps` frames a second, others are sampled."""
    import numpy as np

    from mmrep.data import decode, videos

    clip = videos.video(str(path))
    frames = clip
    if isinstance(clip, (videos.Film, videos.Animation)):
        n = max(1, round(clip.seconds * fps))
        frames = clip.frames_at((np.arange(n) + 0.5) / n)
    shapes = {np.shape(f) for f in frames}
    if (
        not frames
        or len(shapes) > 1
        or len(frames[0].shape) != 3
        or frames[0].shape[-1] != 3
        or frames[0].dtype != np.uint8
    ):
        raise DataError(f"{path} is no video of frames uint8 [H, W, 3] of one size: convert it")
    beside = path.with_suffix(".wav") if path.is_file() else path.parent / f"{path.name}.wav"
    sound = decode.audio(decode.read(str(beside)), str(beside), rate) if beside.is_file() else None
    if sound is None and isinstance(clip, videos.Film):
        sound = videos.sound(clip.data, str(path), rate)
    return np.stack(frames), sound


def function(option: str, name: str) -> Any:
    """The function "module:name". Raises ConfigError where it cannot be imported."""
    module, _, attribute = name.strip().partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{option} {name!r} is no module:function that can be imported ({error})") from None


def pair(option: str, given: str) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in given.split(","))
    except ValueError:
        raise ConfigError(f"{option} {given!r} is no pair of numbers like 0,10") from None
    return low, high


if __name__ == "__main__":
    _cli.main(run)

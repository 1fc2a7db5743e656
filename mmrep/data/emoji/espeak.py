"""Speech synthesis of short texts by eSpeak NG, in separate processes.

The library keeps state between utterances: a fresh process and a fixed order give equal samples every time, and a crash in C does not
end the caller.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

RATE = 16_000
_UP, _DOWN = 320, 441  # eSpeak's 22,050 Hz * 320 / 441 = 16,000 Hz


def speak(
    jobs: Sequence[tuple[str, str]], processes: int = 0, progress: Callable[[int], object] = lambda _: None
) -> list[np.ndarray]:
    """int16 samples [T] at 16 kHz of each (voice, text), in order; `progress(n)` is called after every n further clips.

    A voice is eSpeak's language and variant, "en-us+m3". One process renders all texts of a voice in their order, so equal jobs give
    equal samples, whatever the number of `processes` (0: the machine's cores, at most 8).

    Raises RuntimeError with the worker's message where a voice is unknown or the library cannot be used.
    """
    by_voice: dict[str, list[int]] = {}
    for i, (voice, _) in enumerate(jobs):
        by_voice.setdefault(voice, []).append(i)
    waves: list[np.ndarray] = [np.zeros(0, np.int16)] * len(jobs)

    def run(voice: str) -> None:
        rows = by_voice[voice]
        command = [sys.executable, "-I", str(Path(__file__).with_name("espeak_worker.py"))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
            assert worker.stdin and worker.stdout and worker.stderr
            worker.stdin.write(json.dumps([voice, [jobs[i][1] for i in rows]]).encode())
            worker.stdin.close()
            for i in rows:
                head = worker.stdout.read(4)
                if len(head) < 4:
                    raise RuntimeError(f"eSpeak NG, voice {voice!r}: {worker.stderr.read().decode().strip()}")
                (count,) = struct.unpack("=i", head)
                waves[i] = resample(np.frombuffer(worker.stdout.read(2 * count), np.int16))
                progress(1)

    with ThreadPoolExecutor(processes or min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(run, sorted(by_voice, key=lambda voice: -len(by_voice[voice]))))
    return waves


def resample(wave: np.ndarray) -> np.ndarray:
    """int16 [T] at 22,050 Hz -> int16 [ceil(T * 320 / 441)] at 16,000 Hz."""
    from scipy.signal import resample_poly

    if not len(wave):
        return np.zeros(0, np.int16)
    out = resample_poly(wave.astype(np.float32), _UP, _DOWN)
    return np.clip(np.rint(out), -32768, 32767).astype(np.int16)

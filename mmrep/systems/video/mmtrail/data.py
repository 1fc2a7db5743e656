"""Synthetic trailers whose clips share their music, and experts that err at known rates."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmrep.data import splits
from mmrep.data.clips.timeline import TIMBRES, VERBS
from mmrep.data.columns import Columns, Record
from mmrep.data.scenes.world import COLOURS, SHAPES, TINTS
from mmrep.data.trailers import joined, merge
from mmrep.errors import ConfigError

SEEN = (COLOURS[:8], SHAPES[:8], VERBS[:8], tuple(f"{t}-ground" for t in TINTS[:6]))
HEARD = (("slow", "steady", "fast"), ("major", "minor"), TIMBRES[:6])
SLOTS = (*SEEN, *HEARD)
CAPTIONS = ("merged", "joined", "visual", "shuffled")


@dataclass(frozen=True)
class TrailerData:
    """Clips as two codes, of what is seen and of the music; `per` clips make a trailer, which has one music.

    Records: video float32 [dim]; audio float32 [dim]; text; visual_query and music_query, the truth in words; seen and music, ids of these.
    captions: of the training clips, from experts that err in `visual` of the slots of a clip's caption, objects and background, in `frame`
              of those of the three key frames, in `sound` of those of three music captions.   "merged": see `mmrep.data.trailers.merge`.
              "joined": all texts, one after another.   "visual": merged without the music.   "shuffled": merged with another trailer's music.
    words:    of a merged caption.   noise: length of the codes' noise, in lengths of one attribute.
    """

    n_train: int = 2000
    n_val: int = 200
    n_test: int = 500
    seed: int = 0
    captions: Literal["merged", "joined", "visual", "shuffled"] = "merged"
    per: int = 4
    visual: float = 0.1
    frame: float = 0.15
    sound: float = 0.2
    words: int = 14
    dim: int = 48
    noise: float = 0.5

    def __post_init__(self) -> None:
        if self.captions not in CAPTIONS or self.per < 1 or not 0 <= max(self.visual, self.frame, self.sound) <= 1:
            raise ConfigError(
                f"trailers have captions {self.captions!r}, per {self.per}: choose from {', '.join(CAPTIONS)}, at least 1, and rates in [0, 1]"
            )

    def truth(self, split: str) -> np.ndarray:
        """The value of each slot, [n, 7]: of SEEN, then of HEARD, which clips of a trailer share."""
        n, rng = splits.size(self, split), np.random.default_rng((self.seed, splits.NAMES.index(split)))
        values = np.stack([rng.integers(0, len(slot), n) for slot in SLOTS], 1)
        values[:, len(SEEN) :] = values[np.arange(n) // self.per * self.per, len(SEEN) :]
        return values

    def texts_of(self, split: str) -> list[dict[str, tuple[str, ...]]]:
        """The experts' texts of each clip."""
        truth, rng = self.truth(split), np.random.default_rng((self.seed, splits.NAMES.index(split), 1))

        def said(row: np.ndarray, slots: Sequence[int], rate: float) -> list[str]:
            wrong = rng.random(len(slots)) < rate
            other = rng.random(len(slots))
            return [
                SLOTS[s][(row[s] + w * (1 + int(o * (len(SLOTS[s]) - 1)))) % len(SLOTS[s])] for s, w, o in zip(slots, wrong, other)
            ]  # fmt: skip

        return [
            {
                "caption": (" ".join(said(row, (0, 1, 2), self.visual)),), "objects": (" ".join(said(row, (0, 1), self.visual)),),
                "background": (" ".join(said(row, (3,), self.visual)),),
                "frame_caption": tuple(" ".join(said(row, (0, 1), self.frame)) for _ in range(3)),
                "music_caption": tuple(" ".join(said(row, (4, 5, 6), self.sound)) for _ in range(3)),
            }
            for row in truth
        ]  # fmt: skip

    def caption(self, texts: Mapping[str, Sequence[str]]) -> str:
        """Without punctuation, which a tokenizer of words would join to the word before it."""
        if self.captions == "joined":
            text = joined(texts)
        else:
            kept = {k: v for k, v in texts.items() if self.captions != "visual" or k != "music_caption"}
            text = merge(kept, self.words, SLOTS)
        return re.sub(r"[,.;]", "", text)

    def open(self, split: str) -> Columns:
        truth, texts = self.truth(split), self.texts_of(split)
        fixed, n = np.random.default_rng(71), len(truth)
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split), 2))
        tables = [fixed.standard_normal((len(slot), self.dim)) for slot in SLOTS]
        codes = [sum(tables[s][truth[:, s]] for s in part) for part in (range(4), range(4, 7))]
        codes = [c + self.noise * rng.standard_normal(c.shape) for c in codes]
        if self.captions == "shuffled":
            music = [t["music_caption"] for t in texts]
            texts = [t | {"music_caption": m} for t, m in zip(texts, music[self.per :] + music[: self.per])]
        phrase = lambda row, slots: " ".join(SLOTS[s][row[s]] for s in slots)  # noqa: E731
        return Columns({
            "video": codes[0].astype(np.float32), "audio": codes[1].astype(np.float32), "text": [self.caption(t) for t in texts],
            "visual_query": [phrase(row, range(4)) for row in truth], "music_query": [phrase(row, range(4, 7)) for row in truth],
            "seen": np.ravel_multi_index(truth[:, :4].T, [len(s) for s in SEEN]).astype(np.int32),
            "music": np.ravel_multi_index(truth[:, 4:].T, [len(s) for s in HEARD]).astype(np.int32), "id": np.arange(n, dtype=np.int32),
        })  # fmt: skip

    def texts(self, split: str) -> Iterator[str]:
        yield from (" ".join(slot) for slot in SLOTS)

    def view(self, record: Record, rng: np.random.Generator | None) -> dict[str, Any]:
        return record


def slot_recall(texts: Sequence[str], truth: np.ndarray) -> float:
    """Mean share of a clip's true values that its text names."""
    return float(
        np.mean(
            [[SLOTS[s][v] in t.replace(",", " ").split() for s, v in enumerate(row)] for t, row in zip(texts, truth)]
        )
    )


def contradictions(texts: Sequence[str], truth: np.ndarray) -> float:
    """Mean number of false values that a text names."""
    false = [
        len({w for w in t.replace(",", " ").split() if any(w in slot and w != slot[v] for slot, v in zip(SLOTS, row))})
        for t, row in zip(texts, truth)
    ]
    return float(np.mean(false))


def trailer(rng: np.random.Generator, fades: bool = False, size: int = 24) -> tuple[np.ndarray, list[int]]:
    """(frames uint8 [T, size, size, 3], the first frame of each scene but the first): 6 to 12 scenes of 16 to 40 frames.

    A scene is a drifting texture of one colour. fades: a scene begins by fading out of the one before over 12 frames, in the place of a cut.
    """
    frames: list[np.ndarray] = []
    cuts: list[int] = []
    before = None
    for _ in range(rng.integers(6, 13)):
        n, colour = int(rng.integers(16, 41)), rng.uniform(30, 225, 3)
        if before is not None:  # another scene differs by at least 90 in a channel
            while np.abs(colour - before).max() < 90:
                colour = rng.uniform(30, 225, 3)
        texture = rng.uniform(-25, 25, (size, size, 1))
        scene = np.stack([colour + np.roll(texture, t, 1) for t in range(n)]) + rng.normal(0, 3, (n, size, size, 3))
        if frames:
            cuts.append(sum(len(f) for f in frames))
            if fades:
                share = np.linspace(0, 1, 12)[:, None, None, None]
                scene[:12] = share * scene[:12] + (1 - share) * frames[-1][-1]
        frames.append(scene)
        before = colour
    return np.clip(np.concatenate(frames), 0, 255).astype(np.uint8), cuts


def boundary_f1(found: Sequence[int], truth: Sequence[int], tolerance: int = 2) -> float:
    """F1 of cuts, a true one found once by a cut at most `tolerance` frames away."""
    free, hits = list(truth), 0
    for cut in found:
        near = [t for t in free if abs(t - cut) <= tolerance]
        if near:
            free.remove(min(near, key=lambda t: abs(t - cut)))
            hits += 1
    return 2 * hits / (len(found) + len(truth)) if found or truth else 1.0

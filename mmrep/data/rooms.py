"""Rooms: a picture, a sound and a caption of the same things, each in its place."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class Rooms:
    """Records: image uint8 [grid * cell, .., 3], where each of `things` things is a fixed pattern of its kind in a cell of its own; caption,
    "k03 p4 k07 p1", their kinds and places, in random order or, with `ordered`, by place; sound float32 [grid^2 * slot], each kind's chord during its place's slot;
    kinds int32 [grid^2], the kind in each cell, -1 for none; other, the caption of another record; thing, "k03", the first thing told, and
    box float32 [4], left, top, right and bottom of its cell in [0, 1]; question, "which thing is at p1", of the last thing told, and reply.
    With `frames`: video uint8 [frames, grid * cell, .., 3], which shows one thing after another, in the order of the caption.

    noise: standard deviation of pixels and samples, where patterns and chords have about 1.   rate: samples a second.
    """

    n_train: int = 6000
    n_val: int = 400
    n_test: int = 400
    grid: int = 3
    cell: int = 4
    kinds: int = 12
    things: int = 2
    slot: int = 64
    rate: int = 4000
    noise: float = 0.3
    frames: int = 0
    ordered: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.things <= min(self.grid**2, self.kinds):
            raise ConfigError(f"things is {self.things}: there are {self.grid**2} cells and {self.kinds} kinds")

    def open(self, split: str) -> Columns:
        n, cells = splits.size(self, split), self.grid**2
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split)))
        fixed = np.random.default_rng((self.seed, 1000))  # kinds look and sound the same in all splits
        looks = fixed.choice((-1.0, 1.0), (self.kinds, self.cell, self.cell, 3)).astype(np.float32)
        time = np.arange(self.slot) / self.rate
        pitches = fixed.uniform(3 / time[-1], self.rate / 3, (self.kinds, 3))
        sounds = np.sin(2 * np.pi * pitches[..., None] * time).mean(1).astype(np.float32)
        place = rng.random((n, cells)).argsort(1)[:, : self.things]
        place = np.sort(place, 1) if self.ordered else place
        kind = rng.random((n, self.kinds)).argsort(1)[:, : self.things]
        kinds = np.full((n, cells), -1, np.int32)
        np.put_along_axis(kinds, place, kind.astype(np.int32), 1)
        image = self._picture(looks, kinds, rng)
        sound = (sounds[kinds] * (kinds >= 0)[..., None]).reshape(n, -1)
        sound = np.clip(0.5 * (sound + self.noise * rng.standard_normal(sound.shape, np.float32)), -1, 1)
        caption = [" ".join(f"k{k:02d} p{p}" for k, p in zip(*row)) for row in zip(kind.tolist(), place.tolist())]
        columns = {
            "image": image, "caption": caption, "sound": sound.astype(np.float32),
            "kinds": kinds, "other": [*caption[1:], caption[0]],
        }  # fmt: skip
        columns |= {"thing": [f"k{k:02d}" for k in kind[:, 0]], "reply": [f"k{k:02d}" for k in kind[:, -1]]}
        corner = np.stack([place[:, 0] % self.grid, place[:, 0] // self.grid], 1) / self.grid
        columns |= {"box": np.concatenate([corner, corner + 1 / self.grid], 1).astype(np.float32)}
        columns |= {"question": [f"which thing is at p{p}" for p in place[:, -1]]}
        if self.frames:
            shown = [
                np.where(np.arange(cells) == place[:, [t * self.things // self.frames]], kinds, -1)
                for t in range(self.frames)
            ]
            columns["video"] = np.stack([self._picture(looks, k, rng) for k in shown], axis=1)
        return Columns(columns)

    def _picture(
        self, looks: Float[np.ndarray, "K C C 3"], kinds: Int[np.ndarray, "N P"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "N H H 3"]:  # fmt: skip
        side = self.grid * self.cell
        x = looks[kinds] * (kinds >= 0)[..., None, None, None]
        x = (
            x.reshape(len(x), self.grid, self.grid, self.cell, self.cell, 3)
            .transpose(0, 1, 3, 2, 4, 5)
            .reshape(len(x), side, side, 3)
        )
        x = 0.5 + 0.2 * (x + self.noise * rng.standard_normal(x.shape, np.float32))
        return np.clip(np.rint(255 * x), 0, 255).astype(np.uint8)

    def texts(self, split: str) -> Iterator[str]:
        columns = self.open(split).columns
        yield from (*columns["caption"], *columns["question"])

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record

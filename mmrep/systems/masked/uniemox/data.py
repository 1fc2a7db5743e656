"""Person crops of a source's pictures, and a made world of moods."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class Cropped:
    """`source` with two further pictures: `scene`, its field `picture` (uint8 [H, W, 3]), and `person`, the part in the largest of `boxes`.

    boxes: a field with (left, top, right, bottom), or several of them, in [0, 1]; `<boxes>_valid` bool [K], if there is one, chooses among
    them. Without a box of at least a pixel (NaN, zeros) the person is the scene itself.
    """

    source: Any
    picture: str = "image"
    boxes: str = "boxes"

    def open(self, split: str) -> Sequence[Record]:
        return self.source.open(split)

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        record = dict(self.source.view(record, rng))
        picture = np.asarray(record[self.picture])
        boxes = np.asarray(record.get(self.boxes, ()), np.float64).reshape(-1, 4)
        valid = np.asarray(record.get(f"{self.boxes}_valid", np.ones(len(boxes), bool)), bool)
        return record | {"scene": picture, "person": crop(picture, boxes[valid])}


def crop(picture: UInt8[np.ndarray, "H W C"], boxes: Float[np.ndarray, "K 4"]) -> UInt8[np.ndarray, "h w C"]:
    """The part of the picture in its largest box; the picture itself where there is none."""
    boxes = boxes[np.isfinite(boxes).all(1)].clip(0, 1)
    if len(boxes):
        height, width = picture.shape[:2]
        left, top, right, bottom = boxes[np.argmax((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))]
        x, y = (int(left * width), int(np.ceil(right * width))), (int(top * height), int(np.ceil(bottom * height)))
        if right > left and bottom > top:
            return picture[y[0] : y[1], x[0] : x[1]]
    return picture


@dataclass(frozen=True)
class Moods:
    """Pictures of a context with a small figure in one of `states`, a close picture of it, and vectors of a teacher that knows the mood.

    scene uint8 [4 S, 4 S, 3]: S x S patches of 4 pixels with the context's pattern, and at a random patch the state's, by `faint` of its
    contrast.   person: the same size, the state's pattern in every patch.   Each picture's pattern has a random sign, so that no linear map
    of pixels names it.   label = states * context + state: of one alone it can be guessed with probability 1 / states.
    sight, text float32 [dim]: the sum of codes of the context, the state and the pair, with noise of their own.

    noise: of pixels.   clarity: the codes' length, in units of the noise's.
    """

    n_train: int = 2000
    n_val: int = 500
    n_test: int = 500
    states: int = 4
    side: int = 4
    dim: int = 32
    noise: float = 0.25
    faint: float = 0.3
    clarity: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.states < 2 or self.side < 1 or self.dim < 1 or min(self.noise, self.clarity, self.faint) < 0:
            raise ConfigError("states must be at least 2, side and dim at least 1, noise, faint and clarity at least 0")

    def open(self, split: str) -> Columns:
        n, side = splits.size(self, split), self.side
        rng = self._rng("records", split)
        context, state = rng.integers(0, self.states, (2, n))
        label = self.states * context + state
        sign = rng.choice([-1.0, 1.0], (3, n, 1, 1, 1))
        patterns = self._rng("patterns").choice([-0.2, 0.2], (2, self.states, 4, 4, 3))
        scene = np.tile(sign[0] * patterns[0][context], (1, side, side, 1)).reshape(n, side, 4, side, 4, 3)
        at = rng.integers(0, side, (2, n))
        scene[np.arange(n), at[0], :, at[1]] = self.faint * sign[1] * patterns[1][state]
        scene = scene.reshape(n, 4 * side, 4 * side, 3)
        person = np.tile(sign[2] * patterns[1][state], (1, side, side, 1))
        codes = self._rng("codes")
        known = sum(
            codes.standard_normal((size, self.dim))[of]
            for of, size in ((context, self.states), (state, self.states), (label, self.states**2))
        )
        found = {"label": label.astype(np.int32), "context": context.astype(np.int32), "state": state.astype(np.int32)}
        for name, x in (("scene", scene), ("person", person)):
            x = 0.5 + x + self.noise * self._rng(name, split).standard_normal(x.shape)
            found[name] = np.rint(255 * x.clip(0, 1)).astype(np.uint8)
        for name in ("sight", "text"):
            found[name] = (self.clarity * known + self._rng(name, split).standard_normal(known.shape)).astype(
                np.float32
            )
        return Columns(found)

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record

    def _rng(self, what: str, split: str = "") -> np.random.Generator:
        return np.random.default_rng(
            (self.seed, 1 + splits.NAMES.index(split) if split else 0, zlib.crc32(what.encode()))
        )

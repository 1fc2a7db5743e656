"""Coded maps: patches whose class shows in no mean of pixels and in no mean of their squares, seen by several sensors at once.

A picture is a grid of patches; blocks of neighbouring patches have one class. In each sensor a class is a fixed random pattern of +1 and -1,
which each patch shows with a sign of its own, common to all sensors, plus noise. A neighbour gives a patch's class and not its sign; another
sensor gives both. A linear map of the pixels of a patch sees the sign alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError

STEP = 0.125
"""A pattern's +1 and -1 in units of the pictures, whose mean is 0.5."""


@dataclass(frozen=True)
class CodedData:
    """Records: one uint8 [H, W, C] for each of `sensors`; classes int32 [grid, grid], the class of each patch; shares float32 [kinds], those of
    the patches; caption, "k03 k17 ...", the kinds shown, in random order; caption_objects, for each word its place among the shown patches;
    instances int32 [H, W], 1 + that place, 0 where nothing is shown.

    sensors: (name, channels).   patch: side in pixels.   block: side of a block of one class, in patches.   noise: its standard deviation, where
    patterns are +1 and -1.   signed: the sensors whose patterns have the sign, True: all of them; in the others it is +.
    shown:   0: all patches show their class. n: n patches show kinds, no kind twice; the others are grey, and of class `kinds`.
    """

    n_train: int = 4000
    n_val: int = 300
    n_test: int = 300
    sensors: tuple[tuple[str, int], ...] = (("rgb", 3), ("depth", 1))
    grid: int = 6
    patch: int = 4
    kinds: int = 16
    block: int = 2
    noise: float = 0.5
    signed: bool | tuple[str, ...] = True
    shown: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shown and self.block != 1:
            raise ConfigError(f"block is {self.block}: where only {self.shown} patches are shown, each is a block, 1")
        if not self.shown <= min(self.kinds, self.grid**2):
            raise ConfigError(f"shown is {self.shown}: there are {self.kinds} kinds and {self.grid**2} patches")
        known = {name for name, _ in self.sensors}
        if isinstance(self.signed, tuple) and not {*self.signed} <= known:
            raise ConfigError(
                f"signed has {', '.join({*self.signed} - known)}: name some of {', '.join(sorted(known))}"
            )
        if self.grid % self.block:
            raise ConfigError(f"block is {self.block}: it must divide the grid, {self.grid}")

    @property
    def size(self) -> int:
        return self.grid * self.patch

    def patterns(self, sensor: int) -> Float[np.ndarray, "K P P C"]:
        """Each kind's pattern of +1 and -1 in a sensor."""
        rng = np.random.default_rng((self.seed, 1000 + sensor))
        return rng.choice((-1.0, 1.0), (self.kinds, self.patch, self.patch, self.sensors[sensor][1]))

    def open(self, split: str) -> Columns:
        n = splits.size(self, split)
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split)))
        classes, place = self._layout(rng, n)
        signed = self.signed if isinstance(self.signed, tuple) else [s for s, _ in self.sensors] * self.signed
        drawn = rng.choice((-1.0, 1.0), classes.shape) if signed else np.ones(classes.shape)
        columns: dict[str, object] = {"classes": classes.astype(np.int32)}
        for i, (name, channels) in enumerate(self.sensors):
            sign = np.where(classes < self.kinds, drawn if name in signed else 1.0, 0.0)
            x = self.patterns(i)[np.minimum(classes, self.kinds - 1)] * sign[..., None, None, None]
            x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, self.size, self.size, channels)
            x = 0.5 + STEP * (x + self.noise * rng.standard_normal(x.shape, np.float32))
            columns[name] = np.clip(np.rint(255 * x), 0, 255).astype(np.uint8)
        columns["shares"] = np.stack([(classes == k).mean((1, 2)) for k in range(self.kinds)], 1).astype(np.float32)
        if self.shown:
            order = rng.random((n, self.shown)).argsort(1)
            kinds = np.take_along_axis(place[1], order, 1)
            columns["caption"] = [" ".join(f"k{k:02d}" for k in row) for row in kinds]
            columns["caption_objects"] = [tuple(row) for row in order.tolist()]
            slots = np.zeros((n, self.grid**2), np.int32)
            np.put_along_axis(slots, place[0], 1 + np.arange(self.shown, dtype=np.int32)[None], 1)
            cells = slots.reshape(n, self.grid, self.grid)
            columns["instances"] = cells.repeat(self.patch, 1).repeat(self.patch, 2)
        return Columns(columns)

    def _layout(
        self, rng: np.random.Generator, n: int
    ) -> tuple[Int[np.ndarray, "N G G"], tuple[np.ndarray, np.ndarray]]:
        """(each patch's class, (the patches shown [N, shown], their kinds [N, shown]))."""
        if not self.shown:
            side = self.grid // self.block
            coarse = rng.integers(0, self.kinds, (n, side, side))
            return coarse.repeat(self.block, 1).repeat(self.block, 2), (np.zeros((n, 0), int), np.zeros((n, 0), int))
        at = rng.random((n, self.grid**2)).argsort(1)[:, : self.shown]
        kinds = rng.random((n, self.kinds)).argsort(1)[:, : self.shown]
        classes = np.full((n, self.grid**2), self.kinds)
        np.put_along_axis(classes, at, kinds, 1)
        return classes.reshape(n, self.grid, self.grid), (at, kinds)

    def texts(self, split: str) -> Iterator[str]:
        return iter(self.open(split).columns["caption"] if self.shown else ())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record

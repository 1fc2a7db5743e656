"""Point clouds of two-part shapes with captions: a body and a top, each of seven kinds, in three heights and sizes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError

KINDS = ("ball", "box", "cylinder", "cone", "ring", "pyramid", "spring")
HEIGHTS, TOPS = {"flat": 0.5, "plain": 1.0, "tall": 2.0}, {"small": 0.5, "equal": 0.8, "big": 1.2}


@dataclass(frozen=True)
class ShapeData:
    """Records: points and points_b float32 [n_points, 3], two deformations of one shape (turned about the vertical axis, scaled, sampled anew
    with noise); text str, its caption; shape int32, an index of the 441 shapes, equal for equal captions.
    """

    n_train: int = 4000
    n_val: int = 200
    n_test: int = 500
    n_points: int = 96
    noise: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_points < 2 or self.noise < 0:
            raise ConfigError(f"n_points is {self.n_points} and noise {self.noise}: give at least 2 and 0")

    def _shapes(self, split: str) -> np.ndarray:
        n = splits.size(self, split)
        return np.random.default_rng((self.seed, splits.NAMES.index(split))).integers(0, 441, n)

    def open(self, split: str) -> Columns:
        shapes = self._shapes(split)
        rngs = [np.random.default_rng((self.seed, splits.NAMES.index(split), i)) for i in range(len(shapes))]
        points = np.stack([[self._cloud(k, rng) for _ in range(2)] for k, rng in zip(shapes.tolist(), rngs)])
        return Columns({
            "points": points[:, 0], "points_b": points[:, 1], "text": list(self.texts(split)), "shape": shapes.astype(np.int32),
        })  # fmt: skip

    def _cloud(self, shape: int, rng: np.random.Generator) -> Float[np.ndarray, "N 3"]:
        body, top, height, size = parts(shape)
        n = self.n_points // 2
        lower = surface(body, rng.random((2, self.n_points - n))) * [1, 1, list(HEIGHTS.values())[height]]
        upper = surface(top, rng.random((2, n))) * list(TOPS.values())[size]
        upper[:, 2] += lower[:, 2].max() - upper[:, 2].min()
        x = np.concatenate([lower, upper])
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        x = (x - x.mean(0)) @ turn.T * rng.uniform(0.8, 1.25, 3) + self.noise * rng.standard_normal(x.shape)
        return rng.permutation(x).astype(np.float32)

    def texts(self, split: str) -> Iterator[str]:
        return (caption(k) for k in self._shapes(split).tolist())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


def parts(shape: int) -> tuple[int, int, int, int]:
    """(body, top, height, size) of a shape's number in [0, 441)."""
    return shape % 7, shape // 7 % 7, shape // 49 % 3, shape // 147


def caption(shape: int) -> str:
    body, top, height, size = parts(shape)
    adjective, of = list(HEIGHTS)[height], list(TOPS)[size]
    return f"a {adjective} {KINDS[body]} with a {of} {KINDS[top]} on top"


def surface(kind: int, u: Float[np.ndarray, "2 N"]) -> Float[np.ndarray, "N 3"]:
    """Points within [-1, 1]^3 on the surface of a kind of part, for u in [0, 1)."""
    a, b = u
    angle, side = 2 * np.pi * a, 2 * b - 1
    round_ = np.stack([np.cos(angle), np.sin(angle)])
    square = round_ / np.abs(round_).max(0)
    level = {"ball": np.sqrt(1 - side**2), "cone": np.sqrt(b), "pyramid": np.sqrt(b)}.get(KINDS[kind], np.ones_like(b))
    z = 1 - 2 * np.sqrt(b) if KINDS[kind] in ("cone", "pyramid") else side
    if KINDS[kind] == "ring":
        level, z = 0.7 + 0.3 * np.cos(2 * np.pi * b), 0.3 * np.sin(2 * np.pi * b)
    if KINDS[kind] == "spring":
        round_, z = np.stack([np.cos(3 * angle), np.sin(3 * angle)]), 2 * a - 1 + 0.1 * side
    flat = square if KINDS[kind] in ("box", "pyramid") else round_
    return np.stack([*(flat * level), z], 1)

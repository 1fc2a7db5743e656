"""One latent vector seen by several sensors: the smallest data on which embeddings, gaps, codes and alignments have a known truth."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class View:
    """What one sensor records of the latent z: g(z A) + scale * n B + noise, A and B random and fixed, z A and n B of unit variance.

    dim, tokens: float32 [dim], or [tokens, dim] with maps of its own for each token where tokens > 0.
    noise:   standard deviation of noise in each number; of `tags` the probability that a tag is flipped.
    hears:   noise added to each group of latents before A, in units of their standard deviation: (0.2, 2, 2) hears the first group well.
    private: number of latents n that no other view has; they are the field `<name>_private`.   private_scale: their weight.
    bend:    g is tanh(bend * z A); 0: linear.
    shift:   strength of a fixed random affine map of the whole view (another domain); 0: none.
    tags:    0 or 1 for each of `dim` tags, each of one category (tag j of category j mod `categories`), in place of the maps.
    """

    name: str
    dim: int = 64
    tokens: int = 0
    noise: float = 0.5
    hears: tuple[float, ...] = ()
    private: int = 0
    private_scale: float = 1.0
    bend: float = 0.0
    shift: float = 0.0
    tags: bool = False


@dataclass(frozen=True)
class Views:
    """Records: a field for each view; z float32 [shared]; row int32; with classes label int32, with categories labels float32 [categories].

    z is standard normal; with classes a random centre plus `spread` times a normal vector; with categories the sum of 1 to `at_once`
    centres over the root of their number, plus the same.

    groups:   equal parts of z, which View.hears names.
    only:     the classes or categories that occur; empty: all.   any_of: each record has at least one of these categories.
    repeats:  probability that a record has the z and label of an earlier one: near-duplicates, views with noise of their own.
    seed, draw: the maps and centres depend on `seed` alone; `draw` numbers independent samples of records of the same world.
    A record is a function of (seed, draw, split, row) and does not change with the number of records.
    """

    views: tuple[View, ...]
    n_train: int = 4000
    n_val: int = 500
    n_test: int = 500
    shared: int = 16
    groups: int = 1
    classes: int = 0
    categories: int = 0
    at_once: int = 3
    spread: float = 1.0
    only: tuple[int, ...] = ()
    any_of: tuple[int, ...] = ()
    repeats: float = 0.0
    seed: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        names, kinds = [v.name for v in self.views], self.classes or self.categories
        if not names or len({*names}) < len(names):
            raise ConfigError(f"views names {names}: give one or more, each once")
        if self.shared < 1 or self.groups < 1 or self.shared % self.groups:
            raise ConfigError(f"shared is {self.shared}: it must be a multiple of groups, {self.groups}")
        if self.classes and self.categories:
            raise ConfigError("classes and categories are both set: records have one class, or several categories")
        if any(not 0 <= k < kinds for k in (*self.only, *self.any_of)):
            raise ConfigError(f"only {self.only} and any_of {self.any_of} must name ids in [0, {kinds})")
        if self.any_of and self.classes:
            raise ConfigError("any_of is set with classes: it is for categories; name the classes in only")
        if self.categories and not 1 <= self.at_once <= len(self.only or range(self.categories)):
            raise ConfigError(f"at_once is {self.at_once}: it must be at least 1 and at most the categories that occur")
        if not 0 <= self.repeats <= 1:
            raise ConfigError(f"repeats is {self.repeats}: it is a probability, in [0, 1]")
        for v in self.views:
            if v.hears and len(v.hears) != self.groups:
                raise ConfigError(f"view {v.name!r}: hears has {len(v.hears)} numbers, but groups is {self.groups}")
            if v.tags and (not self.categories or v.tokens or not 0 <= v.noise <= 1):
                raise ConfigError(f"view {v.name!r}: tags need categories, tokens 0 and noise in [0, 1]")
            if v.dim < 1 or min(v.tokens, v.private, v.noise, *v.hears, 0) < 0:
                raise ConfigError(
                    f"view {v.name!r}: dim must be at least 1; tokens, private, noise and hears at least 0"
                )

    def open(self, split: str) -> Columns:
        n = splits.size(self, split)
        z, labels = self._latents(split, n)
        columns: dict[str, np.ndarray] = {"z": z.astype(np.float32), "row": np.arange(n, dtype=np.int32)}
        if self.categories:
            columns["labels"] = labels.astype(np.float32)
        elif self.classes:
            columns["label"] = labels.astype(np.int32)
        for v in self.views:
            columns |= self._tags(v, labels, split) if v.tags else self._view(v, z, split)
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record

    def _rng(self, what: str, split: str = "") -> np.random.Generator:
        """Of the world, or of one split's records; a generator for each purpose, so that rows do not depend on their number."""
        records = (1 + self.draw, splits.NAMES.index(split)) if split else (0, 0)
        return np.random.default_rng((self.seed, *records, zlib.crc32(what.encode())))

    def _latents(self, split: str, n: int) -> tuple[Float[np.ndarray, "N S"], Int[np.ndarray, "N ..."]]:
        """(z, the class [N] or multi-hot categories [N, C] of each record)."""
        z = self._rng("z", split).standard_normal((n, self.shared))
        labels = np.zeros(n, np.int64)
        if kinds := self.classes or self.categories:
            centres = self._rng("centres").standard_normal((kinds, self.shared))
            occur = np.array(self.only or range(kinds))
            keys = self._rng("labels", split).random((n, kinds))
            if self.classes:
                labels = occur[keys[:, occur].argmin(1)]
                z = centres[labels] + self.spread * z
            else:
                labels = self._categories(keys, occur, self._rng("counts", split).integers(1, self.at_once + 1, n))
                z = labels @ centres / np.sqrt(labels.sum(1, keepdims=True)) + self.spread * z
        repeated, of = self._rng("repeats", split).random((n, 2)).T
        source = np.arange(n)
        for i in np.flatnonzero(repeated[1:] < self.repeats) + 1:  # in order: a repeat of a repeat is one of the first
            source[i] = source[int(of[i] * i)]
        return z[source], labels[source]

    def _categories(self, keys: np.ndarray, occur: np.ndarray, counts: np.ndarray) -> Int[np.ndarray, "N C"]:
        keys = keys.copy()
        if self.any_of:
            first = np.array(self.any_of)[keys[:, list(self.any_of)].argmin(1)]
            keys[np.arange(len(keys)), first] = -1.0
        absent = np.setdiff1d(np.arange(keys.shape[1]), [*occur, *self.any_of])
        keys[:, absent] = 2.0
        return (keys.argsort(1).argsort(1) < counts[:, None]).astype(np.int64)

    def _tags(self, v: View, labels: np.ndarray, split: str) -> dict[str, np.ndarray]:
        flipped = self._rng(f"{v.name} noise", split).random((len(labels), v.dim)) < v.noise
        return {v.name: (labels[:, np.arange(v.dim) % self.categories].astype(bool) ^ flipped).astype(np.float32)}

    def _view(self, v: View, z: np.ndarray, split: str) -> dict[str, np.ndarray]:
        n, width = len(z), max(v.tokens, 1) * v.dim
        if v.hears:
            dull = np.repeat(v.hears, self.shared // self.groups)
            z = (z + dull * self._rng(f"{v.name} hears", split).standard_normal(z.shape)) / np.sqrt(1 + dull**2)
        x = z @ (self._rng(f"{v.name} map").standard_normal((self.shared, width)) / np.sqrt(self.shared))
        x = np.tanh(v.bend * x) if v.bend else x
        found = {}
        if v.private:
            own = self._rng(f"{v.name} private", split).standard_normal((n, v.private))
            spread = self._rng(f"{v.name} private map").standard_normal((v.private, width)) / np.sqrt(v.private)
            x = x + v.private_scale * own @ spread
            found[f"{v.name}_private"] = own.astype(np.float32)
        x = x + v.noise * self._rng(f"{v.name} noise", split).standard_normal((n, width))
        if v.shift:
            moved = self._rng(f"{v.name} shift").standard_normal((width + 1, width))
            x = x + v.shift * (x @ moved[1:] / np.sqrt(width) + moved[0])
        shape = (n, v.tokens, v.dim) if v.tokens else (n, v.dim)
        return found | {v.name: x.reshape(shape).astype(np.float32)}

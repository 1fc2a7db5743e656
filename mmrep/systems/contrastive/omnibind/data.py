"""Pseudo tuples, mined from the embeddings of several experts, and a made world of specialists."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError
from mmrep.systems.contrastive.omnibind.model import Expert, field


@dataclass(frozen=True)
class Specialists:
    """Embeddings by experts that perceive some groups of latents well; items of different modalities are unpaired in the training split.

    A text tells one group (its `topic`, int32), the others are 0 for it. An expert adds noise of `hears` to each group before a map that all
    of its modalities share, and `noise` to each number after it. Fields: `<modality>_<expert>` float32 [dim], topic, row.

    hears: (expert, noise of each group).   width: latents of a group.   seed: of maps and records.
    """

    experts: tuple[Expert, ...]
    hears: tuple[tuple[str, tuple[float, ...]], ...]
    width: int = 5
    noise: float = 0.1
    text: str = "text"
    n_train: int = 3000
    n_val: int = 500
    n_test: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        groups = {len(noise) for _, noise in self.hears}
        if {name for name, _ in self.hears} != {e.name for e in self.experts} or len(groups) != 1:
            raise ConfigError("hears must give each expert one noise a group, of as many groups")

    def open(self, split: str) -> Columns:
        n, groups = splits.size(self, split), len(self.hears[0][1])
        topic = self._rng("topic", split).integers(0, groups, n)
        columns = {"topic": topic.astype(np.int32), "row": np.arange(n, dtype=np.int32)}
        for e in self.experts:
            dull = np.repeat(dict(self.hears)[e.name], self.width)
            spread = self._rng(f"{e.name} map").standard_normal((groups * self.width, e.dim)) / np.sqrt(
                groups * self.width
            )
            for m in e.modalities:
                z = self._rng(f"z {m}" if split == "train" else "z", split).standard_normal((n, groups, self.width))
                if m == self.text:
                    z = z * np.eye(groups)[topic][..., None]
                rng = self._rng(f"noise {m} {e.name}", split)
                x = z.reshape(n, -1) + dull * rng.standard_normal((n, groups * self.width))
                x = (x / np.sqrt(1 + dull**2)) @ spread + self.noise * rng.standard_normal((n, e.dim))
                columns[field(m, e.name)] = x.astype(np.float32)
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record

    def _rng(self, what: str, split: str = "") -> np.random.Generator:
        records = 1 + splits.NAMES.index(split) if split else 0
        return np.random.default_rng((self.seed, records, zlib.crc32(what.encode())))


@dataclass(frozen=True)
class PseudoTuples:
    """The training split of `source` as tuples of all modalities that were mined from its unpaired items; other splits are the source's.

    From every item of every modality the nearest item of each other one, by the mean cosine in the experts of both; where no expert has both,
    through a modality that is found already. Adds `start` int32, the number of the modality that a tuple started from (0 in other splits).

    times: an item is retrieved at most so often from one modality; tuples that find none left among its `candidates` nearest are dropped.
    shuffled: modalities of different tuples (a control).
    """

    source: Any
    experts: tuple[Expert, ...]
    times: int = 3
    candidates: int = 10
    shuffled: bool = False

    def __post_init__(self) -> None:
        if min(self.times, self.candidates) < 1:
            raise ConfigError(f"times is {self.times}, candidates {self.candidates}: give at least 1")

    def open(self, split: str) -> Columns:
        fields = [field(m, e.name) for e in self.experts for m in e.modalities]
        records = self.source.open(split)
        columns = records.columns if isinstance(records, Columns) else None
        found = {
            name: np.asarray(columns[name]) if columns else np.stack([r[name] for r in records]) for name in fields
        }
        if split != "train":
            return Columns(dict(columns or found) | {"start": np.zeros(len(records), np.int32)})
        rows, start = mine(found, self.experts, self.times, self.candidates)
        if self.shuffled:
            rng = np.random.default_rng(0)
            rows = {m: rng.permutation(at) for m, at in rows.items()}
        tuples = {field(m, e.name): found[field(m, e.name)][rows[m]] for e in self.experts for m in e.modalities}
        return Columns(tuples | {"start": start.astype(np.int32)})

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


def mine(
    columns: Mapping[str, Float[np.ndarray, "N _"]], experts: Sequence[Expert], times: int, candidates: int
) -> tuple[dict[str, Int[np.ndarray, " T"]], Int[np.ndarray, " T"]]:
    """({modality: rows}, the number of the start modality) of all tuples. Raises ConfigError where experts do not connect all modalities."""
    modalities = list(dict.fromkeys(m for e in experts for m in e.modalities))
    unit = {k: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for k, x in columns.items()}
    parts: dict[str, list[np.ndarray]] = {m: [] for m in modalities}
    starts = []
    for number, s in enumerate(modalities):
        rows = {s: np.arange(len(next(iter(columns.values()))))}
        while len(rows) < len(modalities):
            link = next(
                (
                    (a, b, both)
                    for a in rows
                    for b in modalities
                    if b not in rows and (both := [e.name for e in experts if {a, b} <= {*e.modalities}])
                ),
                None,
            )
            if link is None:
                raise ConfigError(f"no expert connects {[*rows]} with {[m for m in modalities if m not in rows]}")
            a, b, both = link
            sides = [np.concatenate([unit[field(m, e)] for e in both], 1) for m in (a, b)]
            at, found = nearest(sides[0][rows[a]], sides[1], times, candidates)
            rows = {m: r[at] for m, r in rows.items()} | {b: found}
        for m in modalities:
            parts[m].append(rows[m])
        starts.append(np.full(len(rows[s]), number))
    return {m: np.concatenate(p) for m, p in parts.items()}, np.concatenate(starts)


def nearest(
    queries: Float[np.ndarray, "Q D"], items: Float[np.ndarray, "N D"], times: int, candidates: int, block: int = 1024
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """(queries, their items): pairs of highest dot product first, an item at most `times` times; queries without an item are left out."""
    k = min(candidates, len(items))
    best, value = [], []
    for i in range(0, len(queries), block):
        scores = queries[i : i + block] @ items.T
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best.append(top)
        value.append(np.take_along_axis(scores, top, 1))
    top, score = np.concatenate(best), np.concatenate(value)
    taken, used = np.full(len(queries), -1), np.zeros(len(items), np.int64)
    for pair in np.argsort(-score, axis=None, kind="stable").tolist():
        q, item = pair // k, top.flat[pair]
        if taken[q] < 0 and used[item] < times:
            taken[q], used[item] = item, used[item] + 1
    kept = np.flatnonzero(taken >= 0)
    return kept, taken[kept]

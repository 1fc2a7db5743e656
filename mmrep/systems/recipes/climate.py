"""Aligned rasters with holes: one variable told from others on held-out tiles, against the usual weather at its latitude and against ridge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from mmrep.evals.probe import LAMBDAS, Linear, ridge_fit
from mmrep.model import Model
from mmrep.nn.maps import Map

Record = Mapping[str, Any]
Values = Float[np.ndarray, "N H W C"]
Seen = Bool[np.ndarray, "N H W"]


@dataclass(frozen=True)
class MissingVariable:
    """A map of numbers predicted from others, nothing of itself given; only cells count at which it was observed (`<map>_observed`).

    map:   what is predicted.   given: the maps that go in, of numbers or of classes.
    limit: tiles of the training split that ridge learns from.

    Records need month and row (of their first cell): the yardstick is the training split's mean of each month and row, which neither the model nor
    ridge is told. Skill is 1 - squared error / that of the yardstick. Reports "skill", "skill of ridge" (from the given maps' own patch or from
    the whole tile, whichever predicts val better), "skill over ridge" (their difference), "skill of the mean", and RMSE in the map's units.
    """

    map: Map
    given: tuple[Map, ...]
    split: str = "test"
    limit: int = 2500
    features: str = "reconstruct"
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or f"{self.map.name}|{'+'.join(g.name for g in self.given)}"

    def run(self, model: Model) -> dict[str, float]:
        records = {s: spread(model.records(s), self.limit if s == "train" else 0) for s in ("train", "val", self.split)}
        truth, seen = _truth(records[self.split], self.map.name)
        usual = Usual(model.records("train"), self.map.name)(records[self.split], truth.shape[2])
        out = model.call(self.features, **{g.name: [r[g.name] for r in records[self.split]] for g in self.given})
        predicted = np.asarray(out[self.map.name], np.float32) * np.array(self.map.std) + np.array(self.map.mean)
        fit, patch = self._ridge(records["train"], records["val"])
        ridge = unpatches(fit(patches(_inputs(records[self.split], self.given), patch)), patch, truth.shape)
        mean = np.broadcast_to(_mean(model.records("train"), self.map.name), truth.shape)
        label = self.label
        found = {"skill": skill(predicted, truth, usual, seen), "skill of ridge": skill(ridge, truth, usual, seen)}
        found["skill over ridge"] = found["skill"] - found["skill of ridge"]
        found["skill of the mean"] = skill(mean, truth, usual, seen)
        found |= {"RMSE": error(predicted, truth, seen) ** 0.5, "RMSE of the usual": error(usual, truth, seen) ** 0.5}
        return {f"{label} {k}": v for k, v in found.items()}

    def _ridge(self, train: Sequence[Record], val: Sequence[Record]) -> tuple[Linear, int]:
        """The better of two on val: from each patch to the same patch, and from the whole tile to the whole tile.

        The first learns from patches that were wholly observed; few tiles were, and the second takes what was filled in as it is.
        """
        (y, y_seen), (y_val, seen) = _truth(train, self.map.name), _truth(val, self.map.name)
        x, x_val, shape = _inputs(train, self.given), _inputs(val, self.given), y_val.shape

        def fit(patch: int) -> Linear:
            mask = patches(np.broadcast_to(seen[..., None], shape), patch)

            def score(predicted: np.ndarray, truth: np.ndarray) -> float:
                return -float(((predicted - truth) ** 2)[mask].mean())

            whole = patches(y_seen[..., None], patch).all(1) | (patch == shape[1])
            cut = [patches(v, patch) for v in (x, y, x_val, y_val)]
            return ridge_fit(cut[0][whole], cut[1][whole], cut[2], cut[3], LAMBDAS, score)

        found = [(fit(p), p) for p in (self.map.patch, self.map.size[0])]
        return max(found, key=lambda f: f[0].validation)


@dataclass(frozen=True)
class ProbedVariable:
    """A variable that may never have been seen in training, from the frozen tokens of `given`: ridge from each token to its patch of the variable.

    variable: a record field [H, W, C].   given: the maps that go in; the head reads the tokens of the first.
    labelled: tiles of the training split that the head learns from; its penalty is chosen on val.
    Reports "skill" and "skill of raw patches", the same head on the values of the first map's patch. For skill see MissingVariable.
    """

    variable: str
    given: tuple[Map, ...]
    split: str = "test"
    labelled: int = 1000
    features: str = "tokens"
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or f"{self.variable}|{'+'.join(g.name for g in self.given)} probe"

    def run(self, model: Model) -> dict[str, float]:
        first = self.given[0]
        records = {
            s: spread(model.records(s), self.labelled if s == "train" else 0) for s in ("train", "val", self.split)
        }
        y = {s: _truth(r, self.variable) for s, r in records.items()}
        usual = Usual(model.records("train"), self.variable)(records[self.split], first.size[1])
        mask = patches(np.broadcast_to(y["val"][1][..., None], y["val"][0].shape), first.patch)

        def score(predicted: np.ndarray, truth: np.ndarray) -> float:
            return -float(((predicted - truth) ** 2)[mask].mean())

        def held_out(x: Mapping[str, np.ndarray]) -> float:
            cut = {s: patches(y[s][0], first.patch) for s in ("train", "val")}
            fit = ridge_fit(x["train"], cut["train"], x["val"], cut["val"], LAMBDAS, score)
            truth, seen = y[self.split]
            return skill(unpatches(fit(x[self.split]), first.patch, truth.shape), truth, usual, seen)

        n = first.grid[0] * first.grid[1]
        tokens = {}
        for s, rows in records.items():
            out = model.call(self.features, **{g.name: [r[g.name] for r in rows] for g in self.given})
            tokens[s] = np.asarray(out, np.float32)[:, :n].reshape(len(rows) * n, -1)
        raw = {s: patches(_inputs(rows, (first,)), first.patch) for s, rows in records.items()}
        return {f"{self.label} skill": held_out(tokens), f"{self.label} skill of raw patches": held_out(raw)}


class Usual:
    """The mean of a variable for each month and row of the world, over all observed cells of square tiles; the month's mean where a row has none."""

    def __init__(self, records: Sequence[Record], name: str) -> None:
        values, seen = _truth(records, name)
        months, rows = _places(records, values.shape[1])
        count = np.zeros((months.max() + 1, rows.max() + 1))
        total = np.zeros((*count.shape, values.shape[-1]))
        np.add.at(count, (months, rows), seen.sum(2))
        np.add.at(total, (months, rows), (values * seen[..., None]).sum(2))
        self.whole = total.sum(1) / np.maximum(count.sum(1), 1)[:, None]
        self.table = np.where(count[..., None] > 0, total / np.maximum(count, 1)[..., None], self.whole[:, None])

    def __call__(self, records: Sequence[Record], width: int) -> Values:
        """For tiles of `width` cells; training must have seen their months."""
        months, rows = _places(records, width)
        known = rows < self.table.shape[1]
        found = np.where(known[..., None], self.table[months, np.where(known, rows, 0)], self.whole[months])
        return np.broadcast_to(found[:, :, None], (*rows.shape, width, found.shape[-1]))


def skill(predicted: Values, truth: Values, usual: Values, seen: Seen) -> float:
    """1 - squared error / squared error of `usual`, over observed cells: 1 is perfect, 0 no better, below 0 worse."""
    return 1.0 - error(predicted, truth, seen) / max(error(usual, truth, seen), 1e-12)


def error(predicted: Values, truth: Values, seen: Seen) -> float:
    """Mean squared error over observed cells."""
    return float(((np.asarray(predicted, np.float64) - truth) ** 2)[seen].mean())


def patches(x: Shaped[np.ndarray, "N H W C"], patch: int) -> Shaped[np.ndarray, "M P"]:
    """One row a patch: [N * (H / p) * (W / p), p * p * C], in the order of tokens."""
    n, h, w, c = x.shape
    cut = x.reshape(n, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(-1, patch * patch * c)


def unpatches(rows: Float[np.ndarray, "M P"], patch: int, shape: Sequence[int]) -> Values:
    """The inverse of `patches`, to maps of `shape`."""
    n, h, w, c = shape
    cut = rows.reshape(n, h // patch, w // patch, patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(n, h, w, c)


def spread(records: Sequence[Record], limit: int) -> list[Record]:
    """`limit` of the records at equal steps (0: all): tiles stand month after month."""
    if not limit or limit >= len(records):
        return list(records)
    return [records[i] for i in np.linspace(0, len(records) - 1, limit).astype(int)]


def _truth(records: Sequence[Record], name: str) -> tuple[Values, Seen]:
    values = np.stack([np.asarray(r[name], np.float32) for r in records])
    seen = np.stack([r.get(f"{name}_observed", np.ones(values.shape[1:3], bool)) for r in records])
    return values, seen


def _mean(records: Sequence[Record], name: str) -> np.ndarray:
    values, seen = _truth(records, name)
    return values[seen].mean(0)


def _inputs(records: Sequence[Record], given: Sequence[Map]) -> Values:
    """The given maps as channels; classes as one channel each."""
    parts = []
    for g in given:
        x = np.stack([np.asarray(r[g.name]) for r in records])
        parts.append(np.eye(g.classes, dtype=np.float32)[x] if g.classes else x.astype(np.float32))
    return np.concatenate(parts, axis=-1)


def _places(records: Sequence[Record], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Month and row of each line of each tile, [N, side]."""
    months = np.array([int(r["month"]) for r in records])[:, None]
    rows = np.array([int(r["row"]) for r in records])[:, None] + np.arange(side)
    return np.broadcast_to(months, rows.shape), rows

"""Evaluators on aligned rasters with missing values: predict one variable from others, against a zonal climatology and ridge regression.

Skill is 1 - squared error / squared error of the climatology, the training split's mean by month and row, of which neither the model nor ridge
is an input. Only observed cells count (`<variable>_observed`). Records need `month` and `row`, the row of their first cell.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from mmrep.evals.probe import LAMBDAS, Linear, ridge_fit
from mmrep.model import Model
from mmrep.nn.maps import DenseModality
from mmrep.nn.patches import patchify, unpatchify

Record = Mapping[str, Any]
Values = Float[np.ndarray, "N H W C"]
Observed = Bool[np.ndarray, "N H W"]


@dataclass(frozen=True)
class MissingVariable:
    """A variable predicted from others, without any values of its own.

    map:   the variable.   given: the inputs, maps of numbers or of classes.   limit: tiles of the training split for ridge.
    Reports "skill", "skill of ridge" (from the inputs' own patch or from the whole tile, whichever is better on val), their difference "skill over
    ridge", "skill of the mean", and RMSE of model and climatology in the map's units.
    """

    map: DenseModality
    given: tuple[DenseModality, ...]
    split: str = "test"
    limit: int = 2500
    features: str = "reconstruct"
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or f"{self.map.name}|{'+'.join(g.name for g in self.given)}"

    def run(self, model: Model) -> dict[str, float]:
        records = _records(model, self.split, self.limit)
        truth, observed = _truth(records[self.split], self.map.name)
        usual = Climatology(model.records("train"), self.map.name)(records[self.split], truth.shape[2])
        given = {g.name: [r[g.name] for r in records[self.split]] for g in self.given}
        found = np.asarray(model.call(self.features, **given)[self.map.name], np.float32)
        predicted = found * np.array(self.map.std) + np.array(self.map.mean)
        fit, patch = self._ridge(records["train"], records["val"])
        ridge = from_rows(fit(to_rows(_inputs(records[self.split], self.given), patch)), patch, truth.shape)
        values, seen = _truth(model.records("train"), self.map.name)
        mean = np.broadcast_to(values[seen].mean(0), truth.shape)
        own, other = (skill(x, truth, usual, observed) for x in (predicted, ridge))
        scores = {"skill": own, "skill of ridge": other, "skill over ridge": own - other}
        scores["skill of the mean"] = skill(mean, truth, usual, observed)
        scores |= {
            k: error(x, truth, observed) ** 0.5 for k, x in (("RMSE", predicted), ("RMSE of climatology", usual))
        }
        return {f"{self.label} {k}": v for k, v in scores.items()}

    def _ridge(self, train: Sequence[Record], val: Sequence[Record]) -> tuple[Linear, int]:
        """The better one on val of two regressions: from each patch to the same patch, and from the whole tile to the whole tile.

        The first is fitted on patches that are observed completely; few tiles are, and the second is fitted on filled values too.
        """
        (y, y_observed), (y_val, observed) = _truth(train, self.map.name), _truth(val, self.map.name)
        x, x_val, shape = _inputs(train, self.given), _inputs(val, self.given), y_val.shape

        def fit(patch: int) -> Linear:
            score = _negative_error(to_rows(np.broadcast_to(observed[..., None], shape), patch))
            whole = to_rows(y_observed[..., None], patch).all(1) | (patch == shape[1])
            cut = [to_rows(v, patch) for v in (x, y, x_val, y_val)]
            return ridge_fit(cut[0][whole], cut[1][whole], cut[2], cut[3], LAMBDAS, score)

        found = [(fit(p), p) for p in (self.map.patch, self.map.size[0])]
        return max(found, key=lambda f: f[0].validation)


@dataclass(frozen=True)
class ProbedVariable:
    """Ridge regression from frozen tokens to a variable that may be absent from training: from each token to its patch.

    variable: a record field [H, W, C].   given: the inputs; the head takes the tokens of the first.
    labelled: tiles of the training split that the head is fitted on; its penalty is chosen on val.
    Reports "skill", and "skill of raw patches": the same head on the values of the first input's patch.
    """

    variable: str
    given: tuple[DenseModality, ...]
    split: str = "test"
    labelled: int = 1000
    features: str = "fused_tokens"
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or f"{self.variable}|{'+'.join(g.name for g in self.given)} probe"

    def run(self, model: Model) -> dict[str, float]:
        first = self.given[0]
        records = _records(model, self.split, self.labelled)
        y = {s: _truth(r, self.variable) for s, r in records.items()}
        usual = Climatology(model.records("train"), self.variable)(records[self.split], first.size[1])
        score = _negative_error(to_rows(np.broadcast_to(y["val"][1][..., None], y["val"][0].shape), first.patch))

        def held_out(x: Mapping[str, np.ndarray]) -> float:
            cut = {s: to_rows(y[s][0], first.patch) for s in ("train", "val")}
            fit = ridge_fit(x["train"], cut["train"], x["val"], cut["val"], LAMBDAS, score)
            truth, observed = y[self.split]
            return skill(from_rows(fit(x[self.split]), first.patch, truth.shape), truth, usual, observed)

        n = first.grid[0] * first.grid[1]
        tokens = {}
        for s, rows in records.items():
            found, _ = model.call(self.features, **{g.name: [r[g.name] for r in rows] for g in self.given})
            tokens[s] = np.asarray(found, np.float32)[:, :n].reshape(len(rows) * n, -1)
        raw = {s: to_rows(_inputs(rows, (first,)), first.patch) for s, rows in records.items()}
        return {f"{self.label} skill": held_out(tokens), f"{self.label} skill of raw patches": held_out(raw)}


class Climatology:
    """The mean of a variable by month and row of the world, over observed cells of square tiles; the month's mean where a row has none."""

    def __init__(self, records: Sequence[Record], name: str) -> None:
        values, observed = _truth(records, name)
        months, rows = _positions(records, values.shape[1])
        count = np.zeros((months.max() + 1, rows.max() + 1))
        total = np.zeros((*count.shape, values.shape[-1]))
        np.add.at(count, (months, rows), observed.sum(2))
        np.add.at(total, (months, rows), (values * observed[..., None]).sum(2))
        self.whole = total.sum(1) / np.maximum(count.sum(1), 1)[:, None]
        self.table = np.where(count[..., None] > 0, total / np.maximum(count, 1)[..., None], self.whole[:, None])

    def __call__(self, records: Sequence[Record], width: int) -> Values:
        months, rows = _positions(records, width)
        known = rows < self.table.shape[1]
        found = np.where(known[..., None], self.table[months, np.where(known, rows, 0)], self.whole[months])
        return np.broadcast_to(found[:, :, None], (*rows.shape, width, found.shape[-1]))


def skill(predicted: Values, truth: Values, usual: Values, observed: Observed) -> float:
    """1 - squared error / squared error of `usual`, over observed cells: 1 is perfect, 0 no better than it."""
    return 1.0 - error(predicted, truth, observed) / max(error(usual, truth, observed), 1e-12)


def error(predicted: Values, truth: Values, observed: Observed) -> float:
    """Mean squared error over observed cells."""
    return float(((np.asarray(predicted, np.float64) - truth) ** 2)[observed].mean())


def _negative_error(mask: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda predicted, truth: -float(((predicted - truth) ** 2)[mask].mean())


def to_rows(x: Shaped[np.ndarray, "N H W C"], patch: int) -> Shaped[np.ndarray, "M P"]:
    """One row per patch, in the order of tokens: [N * (H / p) * (W / p), p * p * C]."""
    numbers = x.astype(np.uint8) if x.dtype == bool else x
    return np.asarray(patchify(numbers, patch)).reshape(-1, patch * patch * x.shape[-1]).astype(x.dtype)


def from_rows(rows: Float[np.ndarray, "M P"], patch: int, shape: Sequence[int]) -> Values:
    """The inverse of `to_rows`, as maps of `shape`."""
    grid = shape[1] // patch, shape[2] // patch
    patches = jnp.asarray(rows, jnp.float32).reshape(shape[0], grid[0] * grid[1], -1)
    return np.asarray(unpatchify(patches, patch, grid))


def _records(model: Model, split: str, limit: int) -> dict[str, list[Record]]:
    return {s: evenly_spaced(model.records(s), limit if s == "train" else 0) for s in ("train", "val", split)}


def evenly_spaced(records: Sequence[Record], limit: int) -> list[Record]:
    """`limit` of the records at equal steps (0: all), since tiles are ordered by month."""
    if not limit or limit >= len(records):
        return list(records)
    return [records[i] for i in np.linspace(0, len(records) - 1, limit).astype(int)]


def _truth(records: Sequence[Record], name: str) -> tuple[Values, Observed]:
    values = np.stack([np.asarray(r[name], np.float32) for r in records])
    return values, np.stack([r.get(f"{name}_observed", np.ones(values.shape[1:3], bool)) for r in records])


def _inputs(records: Sequence[Record], given: Sequence[DenseModality]) -> Values:
    """The inputs as channels; classes as one channel each."""
    parts = []
    for g in given:
        x = np.stack([np.asarray(r[g.name]) for r in records])
        parts.append(np.eye(g.classes, dtype=np.float32)[x] if g.classes else x.astype(np.float32))
    return np.concatenate(parts, axis=-1)


def _positions(records: Sequence[Record], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Month and row of each line of each tile, [N, side]."""
    months = np.array([int(r["month"]) for r in records])[:, None]
    rows = np.array([int(r["row"]) for r in records])[:, None] + np.arange(side)
    return np.broadcast_to(months, rows.shape), rows

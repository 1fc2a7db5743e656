"""What frozen tokens tell about class maps: how much of a picture each class covers, and each pixel's class in larger pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmrep.errors import DataError
from mmrep.evals.dense import mean_iou
from mmrep.evals.probe import Linear, r_squared, ridge_fit
from mmrep.model import Model
from mmrep.nn.maps import Map


@dataclass(frozen=True)
class Cover:
    """Ridge regression from the mean of the tokens to the share of the picture that each class covers; the penalty is chosen on val.

    map: the class map.   givens: the sets of sensors that go in.   labelled: examples of the training split that it learns from.
    Reports R2 for each of `givens` (the mean over the classes that occur), and their mean.
    """

    map: Map
    givens: tuple[tuple[str, ...], ...] = (("optical",), ("radar",), ("optical", "radar"))
    labelled: int = 1000
    split: str = "test"
    features: str = "tokens"
    name: str = "cover"

    def run(self, model: Model) -> dict[str, float]:
        sets = {s: model.records(s, self.labelled if s == "train" else 0) for s in ("train", "val", self.split)}
        shares = {s: self._shares(r) for s, r in sets.items()}
        found = {}
        for given in self.givens:
            x = {
                s: np.asarray(model.call(self.features, **{g: [r[g] for r in rows] for g in given})).mean(1)
                for s, rows in sets.items()
            }
            fit = ridge_fit(x["train"], shares["train"], x["val"], shares["val"], score=r_squared)
            found[f"{self.name}|{'+'.join(given)} R2"] = r_squared(fit(x[self.split]), shares[self.split])
        return found | {f"{self.name} mean R2": float(np.mean(list(found.values())))}

    def _shares(self, rows: Sequence[Any]) -> Float[np.ndarray, "N C"]:
        ids = np.stack([np.asarray(r[self.map.name]).reshape(-1) for r in rows])
        return np.stack([(ids == c).mean(1) for c in range(self.map.classes)], axis=1)


@dataclass(frozen=True)
class LargerImages:
    """A linear head on the tokens of pictures of the training size, then tried on `sources` of larger ones.

    map: the class map at the training size.   sources: data whose records have the sensors and the class map, each of any size.
    labelled: examples of the training split that the head learns from; its penalty is chosen on as many of val.
    Reports for each source mIoU at its number of times the training side ("x2"), and "kept x2", that as a share of mIoU at the training
    size. Raises DataError for a size that the patch does not divide.
    """

    map: Map
    sources: tuple[Any, ...] = ()
    given: tuple[str, ...] = ("optical", "radar")
    labelled: int = 200
    split: str = "test"
    features: str = "tokens"
    name: str = "larger"
    batch: int = 50

    def run(self, model: Model) -> dict[str, float]:
        train, val = (self._read(model, model.records(s, self.labelled)) for s in ("train", "val"))
        eye = np.eye(self.map.classes, dtype=np.float32)

        def score(predicted: np.ndarray, truth: np.ndarray) -> float:
            shape = (-1, self.map.classes)
            return mean_iou(predicted.reshape(shape).argmax(-1), truth.reshape(shape).argmax(-1))

        flat = [(x.reshape(-1, x.shape[-1]), eye[y].reshape(x.shape[0] * x.shape[1], -1)) for x, y in (train, val)]
        fit = ridge_fit(*flat[0], *flat[1], score=score)
        here = self._score(fit, *self._read(model, model.records(self.split)))
        found = {f"{self.name} x1 mIoU": here}
        for source in self.sources:
            opened = source.open(self.split)
            rows = [opened[i] for i in range(len(opened))]
            times = np.asarray(rows[0][self.map.name]).shape[0] / self.map.size[0]
            value = self._score(fit, *self._read(model, rows))
            found |= {f"{self.name} x{times:g} mIoU": value, f"{self.name} kept x{times:g}": value / max(here, 1e-9)}
        return found

    def _score(self, fit: Linear, x: np.ndarray, y: np.ndarray) -> float:
        found = fit(x.reshape(-1, x.shape[-1])).reshape(*y.shape, self.map.classes).argmax(-1)
        return mean_iou(found, y)

    def _read(self, model: Model, rows: Sequence[Any]) -> tuple[Float[np.ndarray, "B N D"], Int[np.ndarray, "B N P"]]:
        tokens = []
        for i in range(0, len(rows), self.batch):
            part = rows[i : i + self.batch]
            part = [*part, *[part[-1]] * (self.batch - len(part))]
            images = {g: np.stack([np.asarray(r[g]) for r in part]).astype(np.float32) / 255 for g in self.given}
            tokens.append(np.asarray(model.infer(self.features, images), np.float32))
        ids, p = np.stack([np.asarray(r[self.map.name]) for r in rows]).astype(np.int64), self.map.patch
        n, height, width = ids.shape
        if height % p or width % p:
            raise DataError(f"{self.map.name} is {height}x{width}: give a size that the patch {p} divides")
        ids = ids.reshape(n, height // p, p, width // p, p).transpose(0, 1, 3, 2, 4).reshape(n, -1, p * p)
        return np.concatenate(tokens)[:n], ids

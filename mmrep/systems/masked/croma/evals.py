"""Evaluators on frozen tokens: the fraction of an image that each class covers, and segmentation of images larger than in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.evals.dense import Labelled, PixelHead, mean_iou, patch_classes
from mmrep.evals.probe import r_squared, ridge_fit
from mmrep.model import Model
from mmrep.nn.maps import DenseModality


@dataclass(frozen=True)
class ClassFraction:
    """Ridge regression from the mean of frozen tokens to the fraction of the image that each class covers; the penalty is chosen on val.

    map: the class map.   givens: the sets of sensors whose tokens are used.   labelled: examples of the training split.
    Reports R2 for each of `givens` (the mean over the classes that occur), and their mean.
    """

    map: DenseModality
    givens: tuple[tuple[str, ...], ...] = (("optical",), ("radar",), ("optical", "radar"))
    labelled: int = 1000
    split: str = "test"
    name: str = "cover"

    def run(self, model: Model) -> dict[str, float]:
        sets = {s: model.records(s, self.labelled if s == "train" else 0) for s in ("train", "val", self.split)}
        fractions = {s: self._fractions(r) for s, r in sets.items()}
        found = {}
        for given in self.givens:
            features = f"{given[0]}_tokens" if len(given) == 1 else "fused_tokens"
            x = {
                s: np.asarray(model.call(features, **{g: [r[g] for r in rows] for g in given})[0]).mean(1)
                for s, rows in sets.items()
            }
            fit = ridge_fit(x["train"], fractions["train"], x["val"], fractions["val"], score=r_squared)
            found[f"{self.name}|{'+'.join(given)} R2"] = r_squared(fit(x[self.split]), fractions[self.split])
        return found | {f"{self.name} mean R2": float(np.mean(list(found.values())))}

    def _fractions(self, rows: Sequence[Any]) -> Float[np.ndarray, "N C"]:
        ids = np.stack([np.asarray(r[self.map.name]).reshape(-1) for r in rows])
        return np.stack([(ids == c).mean(1) for c in range(self.map.classes)], axis=1)


@dataclass(frozen=True)
class LargerImages:
    """A linear head on frozen tokens, fitted on images of the training size and scored on larger ones.

    map:      the class map at the training size.   sources: data with the sensors and the class map, each of any size.
    given:    the sensors whose tokens `features` returns.   labelled: examples of the training split, and as many of val for the penalty.
    Reports for each source mIoU with its side relative to training ("x2"), and "kept x2", its ratio to mIoU at the training size.
    Raises DataError for a size that the patch does not divide.
    """

    map: DenseModality
    sources: tuple[Any, ...] = ()
    given: tuple[str, ...] = ("optical", "radar")
    labelled: int = 200
    split: str = "test"
    features: str = "fused_tokens"
    name: str = "larger"
    batch: int = 50

    def run(self, model: Model) -> dict[str, float]:
        train, val = (self._read(model, model.records(s, self.labelled)) for s in ("train", "val"))
        head = PixelHead.fit(train, val, self.map.classes)

        def score(rows: Sequence[Any]) -> float:
            tokens, truth = self._read(model, rows)
            return mean_iou(head(tokens), truth)

        same = score(model.records(self.split))
        found = {f"{self.name} x1 mIoU": same}
        for source in self.sources:
            opened = source.open(self.split)
            rows = [opened[i] for i in range(len(opened))]
            times = np.asarray(rows[0][self.map.name]).shape[0] / self.map.size[0]
            value = score(rows)
            found |= {f"{self.name} x{times:g} mIoU": value, f"{self.name} kept x{times:g}": value / max(same, 1e-9)}
        return found

    def _read(self, model: Model, rows: Sequence[Any]) -> Labelled:
        tokens = []
        for i in range(0, len(rows), self.batch):
            part = rows[i : i + self.batch]
            part = [*part, *[part[-1]] * (self.batch - len(part))]
            images = {g: np.stack([np.asarray(r[g]) for r in part]).astype(np.float32) / 255 for g in self.given}
            tokens.append(np.asarray(model.infer(self.features, images)[0], np.float32))
        ids = np.stack([np.asarray(r[self.map.name]) for r in rows])
        return np.concatenate(tokens)[: len(rows)], patch_classes(ids, self.map.patch)

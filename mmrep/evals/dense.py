"""Dense prediction: class maps from frozen tokens, and modalities from one another."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Integer

from mmrep import modality
from mmrep.errors import ConfigError, DataError
from mmrep.evals.probe import LAMBDAS, Linear, ridge_fit
from mmrep.modality import coarser
from mmrep.model import Model
from mmrep.nn.maps import DenseModality


def mean_iou(predicted: Int[np.ndarray, "..."], truth: Int[np.ndarray, "..."]) -> float:
    """Intersection over union, pixels of all examples together, averaged over the classes in `truth` or `predicted`."""
    from sklearn.metrics import jaccard_score

    return float(jaccard_score(truth.reshape(-1), predicted.reshape(-1), average="macro"))


Labelled: TypeAlias = tuple[Float[np.ndarray, "B N D"], Int[np.ndarray, "B N P"]]
"""Tokens, and the class of each pixel of their patches."""


class PixelHead(NamedTuple):
    """A linear head that gives each token's patch of class ids, fitted by ridge regression: one target per pixel of a patch and class."""

    linear: Linear
    classes: int

    @classmethod
    def fit(cls, train: Labelled, val: Labelled, classes: int, penalties: Sequence[float] = LAMBDAS) -> "PixelHead":
        """The penalty (per token) with the best mIoU on val is taken."""
        eye = np.eye(classes, dtype=np.float32)
        rows = [(x.reshape(-1, x.shape[-1]), eye[y].reshape(y.shape[0] * y.shape[1], -1)) for x, y in (train, val)]

        def ids(scores: np.ndarray) -> np.ndarray:
            return scores.reshape(-1, classes).argmax(-1)

        score = lambda predicted, target: mean_iou(ids(predicted), ids(target))  # noqa: E731
        return cls(ridge_fit(*rows[0], *rows[1], penalties, score), classes)

    def __call__(self, tokens: Float[np.ndarray, "B N D"]) -> Int[np.ndarray, "B N P"]:
        scores = self.linear(tokens.reshape(-1, tokens.shape[-1]))
        return scores.reshape(*tokens.shape[:2], -1, self.classes).argmax(-1)


def patch_classes(ids: Integer[np.ndarray, "B H W"], patch: int) -> Int[np.ndarray, "B N P"]:
    """The class ids of each patch, patches row by row. Raises DataError where the patch does not divide the map."""
    n, height, width = ids.shape
    if height % patch or width % patch:
        raise DataError(f"the class map is {height}x{width}: give a size that the patch {patch} divides")
    cut = ids.astype(np.int64).reshape(n, height // patch, patch, width // patch, patch)
    return cut.transpose(0, 1, 3, 2, 4).reshape(n, -1, patch * patch)


@dataclass(frozen=True)
class Segmentation:
    """A linear head on frozen tokens, fitted in closed form on few labelled examples: the class ids of every token's patch.

    map:       the predicted class map.   given: the inputs; the head takes the tokens of the first.
    labelled:  examples of the training split for the head, and as many of val for its penalty.
    larger:    data with the inputs and the class map in other sizes, scored with the same head, `batch` images at once.
    Reports mIoU and pixel accuracy; for each of `larger` mIoU with its side relative to the map's ("x2 mIoU"), and its ratio to mIoU at
    the map's own size ("kept x2"). Raises DataError for a size that the patch does not divide.
    """

    map: DenseModality
    given: tuple[str, ...] = ("rgb",)
    labelled: int = 200
    split: str = "test"
    features: str = "fused_tokens"
    penalties: tuple[float, ...] = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
    name: str = ""
    larger: tuple[Any, ...] = ()
    batch: int = 50

    def run(self, model: Model) -> dict[str, float]:
        sets = {s: self._read(model, s, self.labelled if s != self.split else 0) for s in ("train", "val", self.split)}
        penalties = [p / (sets["train"][0].shape[0] * sets["train"][0].shape[1]) for p in self.penalties]
        head = PixelHead.fit(sets["train"], sets["val"], self.map.classes, penalties)
        found, truth = head(sets[self.split][0]), sets[self.split][1]
        scores = {"mIoU": mean_iou(found, truth), "pixel accuracy": float((found == truth).mean())}
        for source in self.larger:
            opened = source.open(self.split)
            tokens, truth = self._read_larger(model, [opened[i] for i in range(len(opened))])
            times = (truth.size / len(truth)) ** 0.5 / self.map.size[0]
            scores[f"x{times:g} mIoU"] = mean_iou(head(tokens), truth)
            scores[f"kept x{times:g}"] = scores[f"x{times:g} mIoU"] / max(scores["mIoU"], 1e-9)
        label = self.name or f"{self.map.name}|{'+'.join(self.given)}"
        return {f"{label} {k}": v for k, v in scores.items()}

    def _read(self, model: Model, split: str, limit: int) -> Labelled:
        records = model.records(split, limit)
        tokens = np.asarray(model.call(self.features, **model.values(records, self.given))[0], np.float32)
        ids = np.stack([coarser(np.asarray(r[self.map.name]), self.map.size) for r in records])
        return tokens[:, : self.map.grid[0] * self.map.grid[1]], patch_classes(ids, self.map.patch)

    def _read_larger(self, model: Model, rows: Sequence[Any]) -> Labelled:
        """Images (uint8) and class maps of another size than the model's modalities have."""
        tokens = []
        for i in range(0, len(rows), self.batch):
            part = rows[i : i + self.batch]
            part = [*part, *[part[-1]] * (self.batch - len(part))]
            images = {g: np.stack([np.asarray(r[g]) for r in part]).astype(np.float32) / 255 for g in self.given}
            tokens.append(np.asarray(model.infer(self.features, images)[0], np.float32))
        ids = np.stack([np.asarray(r[self.map.name]) for r in rows])
        return np.concatenate(tokens)[: len(rows)], patch_classes(ids, self.map.patch)


@dataclass(frozen=True)
class CrossPrediction:
    """One map predicted from other modalities, without its own patches: those of the same example, and those of another example.

    Reports the mean absolute error of both, their ratio (1: the input had no information), that of the training mean, and R2: 1 minus
    the squared error in units of the training mean's.
    """

    map: DenseModality
    given: tuple[str, ...] = ("rgb",)
    split: str = "test"
    limit: int = 300
    features: str = "reconstruct"
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        records = model.records(self.split, self.limit)
        truth = self._truth(model, records)
        own = self._predict(model, records)
        other = self._predict(model, records[1:] + records[:1])
        mean = self._truth(model, model.records("train", 2000)).mean(0)
        errors = {"L1": np.abs(own - truth).mean(), "L1 of another": np.abs(other - truth).mean()}
        errors |= {"ratio": errors["L1"] / errors["L1 of another"], "L1 of the mean": np.abs(mean - truth).mean()}
        errors["R2"] = 1 - np.square(own - truth).mean() / max(np.square(mean - truth).mean(), 1e-12)
        label = self.name or f"{self.map.name}|{'+'.join(self.given)}"
        return {f"{label} {k}": float(v) for k, v in errors.items()}

    def _truth(self, model: Model, records: Sequence[Any]) -> np.ndarray:
        return np.asarray(self.map.standard(encoded(model, self.map.name, records)))

    def _predict(self, model: Model, records: Sequence[Any]) -> np.ndarray:
        return np.asarray(model.call(self.features, **model.values(records, self.given))[self.map.name])


@dataclass(frozen=True)
class EverySubset:
    """Each target map predicted (infer "reconstruct") from every non-empty subset of the other maps: robustness to missing modalities.

    Reports "depth from rgb+semseg L1" for maps of numbers (standardised), "semseg from rgb mIoU" for class maps, and for each target the
    error without any input: of the training mean, or the mIoU of the most frequent class ("from nothing").
    """

    maps: tuple[DenseModality, ...]
    targets: tuple[str, ...] = ()
    split: str = "test"
    limit: int = 300
    features: str = "reconstruct"

    def run(self, model: Model) -> dict[str, float]:
        records, learnt = model.records(self.split, self.limit), model.records("train", self.limit)
        names, found = [m.name for m in self.maps], {}
        subsets = list(chain.from_iterable(combinations(names, n) for n in range(1, len(names) + 1)))
        truth = {m.name: np.asarray(m.standard(encoded(model, m.name, records))) for m in self.maps}
        predicted = {s: model.call(self.features, **model.values(records, s)) for s in subsets}
        for m in self.maps:
            if self.targets and m.name not in self.targets:
                continue
            before = np.asarray(m.standard(encoded(model, m.name, learnt)))
            nothing = np.eye(m.classes)[np.bincount(before.reshape(-1)).argmax()] if m.classes else before.mean(0)
            guesses = {
                "nothing": np.broadcast_to(
                    nothing, (*truth[m.name].shape, m.classes) if m.classes else truth[m.name].shape
                )
            }
            guesses |= {"+".join(s): p[m.name] for s, p in predicted.items() if m.name not in s}
            for given, guess in guesses.items():
                if m.classes:
                    iou = mean_iou(guess.argmax(-1), truth[m.name])
                    found[f"{m.name} from {given} mIoU"] = iou
                else:
                    found[f"{m.name} from {given} L1"] = float(np.abs(guess - truth[m.name]).mean())
        return found


@dataclass(frozen=True)
class Predicted:
    """The predictions of a head from the given inputs alone; `truth` is a class map, a map of numbers, or the name of a label.

    Reports accuracy (labels); mIoU and pixel accuracy (class maps; id 255 is ignored); or (numbers) L1, RMSE and delta1, the share of
    values within a factor 1.25 of the truth, in the units of the batch, values above 0 only.
    """

    truth: DenseModality | str
    given: tuple[str, ...] = ("rgb",)
    split: str = "test"
    features: str = "predict"
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        records = model.records(self.split)
        found = np.asarray(model.call(self.features, **model.values(records, self.given)))
        target = self.truth if isinstance(self.truth, str) else self.truth.name
        truth = encoded(model, target, records)
        label = self.name or f"{target}|{'+'.join(self.given)}"
        if isinstance(self.truth, str):
            return {f"{label} accuracy": float((found.argmax(-1) == truth).mean())}
        if self.truth.classes:
            return {f"{label} {k}": v for k, v in _pixel_scores(found.argmax(-1), truth).items()}
        if self.truth.truncated:
            truth = np.asarray(self.truth.standard(truth))
        return {f"{label} {k}": v for k, v in depth_scores(found, truth).items()}


def depth_scores(predicted: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."]) -> dict[str, float]:
    """L1, RMSE, and delta1 (Eigen et al. 2014): the share of positive true values with max(p / t, t / p) < 1.25."""
    away, real = np.abs(predicted - truth), truth > 0
    p, t = np.maximum(predicted[real], 1e-12), truth[real]
    delta = float((np.maximum(p / t, t / p) < 1.25).mean()) if real.any() else 0.0
    return {"L1": float(away.mean()), "RMSE": float(np.sqrt((away**2).mean())), "delta1": delta}


def _pixel_scores(predicted: np.ndarray, truth: np.ndarray, ignore: int = 255) -> dict[str, float]:
    kept = truth != ignore
    p, t = predicted[kept], truth[kept]
    return {"mIoU": mean_iou(p, t), "pixel accuracy": float((p == t).mean())}


def encoded(model: Model, name: str, records: Sequence[Any]) -> np.ndarray:
    """A modality of these records as the batch holds it. Raises ConfigError for a name that the data lacks."""
    known = {m.name: m for m in model.data.modalities}
    if name not in known:
        raise ConfigError(f"the data has no modality {name!r}; it has {', '.join(sorted(known))}")
    m = known[name]
    return np.stack([modality.encode(m, r[m.source], None)[m.name] for r in records])

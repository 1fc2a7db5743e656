"""Grounding of sentences in time: moments (recall at IoU, mean average precision) and highlights (saliency of clips)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mmrep.errors import ConfigError, DataError
from mmrep.evals import checks
from mmrep.model import Fields, Model

IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""Thresholds of the mean average precision of QVHighlights (Lei et al. 2021)."""


def ious(spans: Float[np.ndarray, "K 2"], truth: Float[np.ndarray, "E 2"]) -> Float[np.ndarray, "K E"]:
    """Intersection over union of every (start, end) with every true one."""
    a, b = np.asarray(spans, np.float64)[:, None], np.asarray(truth, np.float64)[None]
    shared = np.maximum(np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0]), 0.0)
    union = a[..., 1] - a[..., 0] + b[..., 1] - b[..., 0] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def recall_at(
    spans: Sequence[np.ndarray], truth: Sequence[np.ndarray], ks: Sequence[int], thresholds: Sequence[float]
) -> dict[str, float]:
    """{"R@k IoU m": share of queries with a span among the first k whose IoU with any true one is at least m}, and "mIoU" of the first.

    spans: [K, 2] a query, best first.   truth: [E, 2] a query.
    """
    best = [ious(s, t).max(1) for s, t in zip(spans, truth)]
    found = {
        f"R@{k} IoU {m}": float(np.mean([(b[:k] >= m - 1e-6).any() for b in best])) for k in ks for m in thresholds
    }
    return found | {"mIoU": float(np.mean([b[0] for b in best]))}


def average_precision(hits: Bool[np.ndarray, " K"], positives: int) -> float:
    """Area under the interpolated precision of a ranking: the precision at a recall is the largest at that recall or above (PASCAL VOC).

    hits: correct ones, best first.   positives: all correct ones there are.
    """
    hits = np.asarray(hits, bool)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[hits].sum() / max(positives, 1))


def moment_precision(
    spans: Float[np.ndarray, "K 2"], truth: Float[np.ndarray, "E 2"], thresholds: Sequence[float] = IOUS
) -> list[float]:
    """The average precision of a query's spans (best first) at each IoU threshold; a true span is found once, by the best span it matches."""
    table, found = ious(spans, truth), []
    for threshold in thresholds:
        free, hits = np.ones(len(truth), bool), np.zeros(len(spans), bool)
        for k, row in enumerate(table):
            for e in np.argsort(-row, kind="stable"):
                if free[e] and row[e] >= threshold - 1e-6:
                    free[e], hits[k] = False, True
                    break
        found.append(average_precision(hits, len(truth)))
    return found


@dataclass(frozen=True)
class Moments:
    """Moment retrieval: "R@k IoU m" and "mIoU" (in [0, 1]) of the infer function `spans`, [K, 2] a record, best first.

    Or [G, K, 2] for records of G sentences: each is a query, and with G > 1 the g-th row of the truth is that of the g-th sentence.
    truth: a record field with the true (start, end), one or several; rows that hold NaN or have no length are left out.
    precision: "mAP" over IoU .5 to .95 too, as on QVHighlights.
    """

    spans: str = "spans"
    truth: str = "moment"
    ks: tuple[int, ...] = (1, 5)
    thresholds: tuple[float, ...] = (0.5, 0.7)
    precision: bool = False
    split: str = "test"
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        spans: Any = np.asarray(model.embed_split(self.spans, self.split))
        rows: Any = [np.asarray(row) for row in model.column(self.truth, self.split)]
        if spans.ndim == 4 and spans.shape[1] > 1:
            rows, spans = [moment for row in rows for moment in row], spans.reshape(-1, *spans.shape[2:])
            spans, rows = (
                [v for v, row in zip(values, rows) if len(true_spans(row))] for values in (spans, rows)
            )  # a padding sentence is no query
        elif spans.ndim == 4:
            spans = spans[:, 0]
        truth = [true_spans(row) for row in rows]
        empty = [i for i, row in enumerate(truth) if not len(row)]
        if empty:
            raise DataError(f"record {empty[0]} of {self.split!r} has no moment in {self.truth!r}; leave it out")
        found = recall_at(list(spans), truth, self.ks, self.thresholds)
        if self.precision:
            found["mAP"] = float(np.mean([moment_precision(s, t) for s, t in zip(spans, truth)]))
        return {f"{self.name} {k}".strip(): v for k, v in found.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a function the system lacks, a field the records lack, k below 1, or a threshold outside (0, 1]."""
        checks.ks(self.ks)
        if not all(0 < m <= 1 for m in self.thresholds):
            raise ConfigError(f"Moments.thresholds is {self.thresholds}; they must be in (0, 1]")
        checks.functions(names, **{"Moments.spans": self.spans})
        checks.fields(split(self.split), [self.truth])


def true_spans(row: np.ndarray) -> Float[np.ndarray, "E 2"]:
    """The spans of a record's field that exist: (start, end), or several of them, without NaN and with a length."""
    spans = np.asarray(row, np.float64).reshape(-1, 2)
    return spans[spans[:, 1] > spans[:, 0]]


@dataclass(frozen=True)
class Highlights:
    """Highlight detection: "HIT@1", the share of records whose most salient clip is a highlight, and "HD mAP" over each record's clips.

    saliency: an infer function, [T] a record.   truth: a record field [T]; clips of at least `least` are highlights (QVHighlights: 4 of 4
    by an annotator). fields: other record fields for modalities. Records without any are left out. Chance level: "HD chance", the mean share of highlights.
    """

    saliency: str = "saliency"
    truth: str = "saliency"
    least: float = 1.0
    split: str = "test"
    name: str = ""
    fields: Fields = ()

    def run(self, model: Model) -> dict[str, float]:
        scores = np.asarray(model.embed_split(self.saliency, self.split, self.fields))
        labels = np.stack([np.asarray(row) >= self.least for row in model.column(self.truth, self.split)])
        some = labels.any(1)
        if not some.any():
            raise DataError(
                f"no clip of {self.split!r} has {self.truth!r} of at least {self.least}; lower Highlights.least"
            )
        scores, labels = scores[some], labels[some]
        order = np.argsort(-scores, axis=1, kind="stable")
        ranked = np.take_along_axis(labels, order, 1)
        found = {
            "HIT@1": float(ranked[:, 0].mean()),
            "HD mAP": float(np.mean([average_precision(row, int(row.sum())) for row in ranked])),
            "HD chance": float(labels.mean()),
        }
        return {f"{self.name} {k}".strip(): v for k, v in found.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a function that the system lacks or a field that the records lack."""
        checks.functions(names, **{"Highlights.saliency": self.saliency})
        checks.fields(split(self.split), [self.truth, *[f for _, f in self.fields]])

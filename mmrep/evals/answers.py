"""Answers as classes: accuracy, area under the ROC curve, or F1 of a system's logits against a record field."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mmrep.errors import ConfigError, DataError
from mmrep.evals import checks
from mmrep.model import Fields, Model

MEASURES = ("accuracy", "auroc", "f1")


@dataclass(frozen=True)
class Answers:
    """How well the infer function `infer`, logits [N, C], answers: "accuracy", "chance" or "auroc", "f1", in [0, 1].

    label:   a record field with the class number, negative where a record has no answer, which then does not count; or, for "auroc" and
             "f1", with C numbers 0 or 1 (several may be correct; a negative one is left out).
    by:      a record field; the metric is also given for each of its values: "answers accuracy [colour]".
    measure: "accuracy" of the largest logit, with the share of the commonest class as its chance;   "auroc", the mean over the classes
             that occur and do not always occur, each against the others;   "f1", the mean over classes of the largest logit, or of logits above 0 where several may be correct.
    """

    infer: str
    label: str
    by: str = ""
    measure: Literal["accuracy", "auroc", "f1"] = "accuracy"
    split: str = "test"
    fields: Fields = ()
    name: str = "answers"

    def run(self, model: Model) -> dict[str, float]:
        logits = np.asarray(model.embed_split(self.infer, self.split, self.fields), np.float64)
        labels = np.asarray(model.column(self.label, self.split))
        if len(labels) != len(logits) or (labels.ndim == 2 and labels.shape != logits.shape) or labels.ndim > 2:
            raise DataError(f"Answers.label {self.label!r} has shape {labels.shape}, the logits {logits.shape}")
        found = {f"{self.name} {k}": v for k, v in measured(logits, labels, self.measure).items()}
        if self.by:
            groups = np.asarray([str(v) for v in model.column(self.by, self.split)])
            for group in np.unique(groups):
                here = groups == group
                value = measured(logits[here], labels[here], self.measure)[self.measure]
                if not np.isnan(value):
                    found[f"{self.name} {self.measure} [{group}]"] = value
        return found

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for an unknown measure or function, or a field that the records lack."""
        if self.measure not in MEASURES:
            raise ConfigError(f"Answers.measure is {self.measure!r}; choose accuracy, auroc or f1")
        checks.functions(names, **{"Answers.infer": self.infer})
        checks.fields(split(self.split), [self.label, self.by, *[f for _, f in self.fields]])


def measured(logits: Float[np.ndarray, "N C"], labels: Any, measure: str) -> dict[str, float]:
    """{measure: value}, with "accuracy" also {"chance"}; NaN where no record has an answer or, for "auroc", no class can be ranked."""
    if labels.ndim == 1:
        kept = labels >= 0
        logits, labels = logits[kept], labels[kept].astype(int)
    if not len(labels):
        return {measure: float("nan")}
    if measure == "accuracy":
        counts = np.bincount(labels, minlength=logits.shape[1])
        return {measure: float((logits.argmax(1) == labels).mean()), "chance": float(counts.max() / len(labels))}
    several = labels.ndim == 2
    truth = labels if several else np.eye(logits.shape[1], dtype=int)[labels]
    if measure == "auroc":
        from sklearn.metrics import roc_auc_score

        areas = []
        for scores, true in zip((logits if several else _softmax(logits)).T, truth.T):
            kept = true >= 0
            if 0 < true[kept].sum() < kept.sum():
                areas.append(roc_auc_score(true[kept], scores[kept]))
        return {measure: float(np.mean(areas)) if areas else float("nan")}
    guessed = (logits > 0).astype(int) if several else np.eye(logits.shape[1], dtype=int)[logits.argmax(1)]
    guessed, truth = (np.where(truth < 0, 0, x) for x in (guessed, truth))
    hits, total = (guessed * truth).sum(0), guessed.sum(0) + truth.sum(0)
    return {measure: float((2 * hits[total > 0] / total[total > 0]).mean()) if total.any() else float("nan")}


def _softmax(logits: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)

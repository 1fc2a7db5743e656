"""Evaluators as config: each is a frozen dataclass whose run(model) -> {metric: value} composes the functions of this package."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmrep.evals import knn, probe, retrieval, zero_shot
from mmrep.model import Fields, Model


@dataclass(frozen=True)
class Retrieval:
    """Cross-modal retrieval in one direction: embeddings by dot product; ties count by their mean rank.

    query, target: infer names.   group: a record field; candidates that share its value with the query are all right.
    """

    query: str
    target: str
    split: str = "test"
    ks: tuple[int, ...] = (1, 5, 10)
    query_fields: Fields = ()
    target_fields: Fields = ()
    group: str = ""
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or f"{self.query}->{self.target}"

    def embeddings(self, model: Model) -> tuple[np.ndarray, np.ndarray]:
        return model.embed_split(self.query, self.split, self.query_fields), model.embed_split(
            self.target, self.split, self.target_fields
        )

    def run(self, model: Model) -> dict[str, float]:
        queries, targets = self.embeddings(model)
        if self.group:
            keys = np.asarray([str(v) for v in model.column(self.group, self.split)])
            positives: Any = keys[:, None] == keys[None, :]
            right = positives.sum(1)
        else:
            positives, right = np.arange(len(queries)), 1
        found = retrieval.retrieval_metrics(retrieval.ranks(queries, targets, positives), len(targets), self.ks, right)
        return {f"{self.label} {k}": float(v) for k, v in found.items()}


@dataclass(frozen=True)
class ZeroShot:
    """Classification by prompts: class embedding = renormalised mean over templates of the text embedding.

    label: a record field with class numbers.   templates hold "{}" for the class name.
    """

    classes: tuple[str, ...]
    label: str
    templates: tuple[str, ...] = ("{}",)
    query: str = "image"
    text: str = "text"
    split: str = "test"
    query_fields: Fields = ()
    name: str = "zero-shot"

    def run(self, model: Model) -> dict[str, float]:
        labels = np.asarray(model.column(self.label, self.split))
        prompts = [t.format(c) for c in self.classes for t in self.templates]
        embedded = model.call(self.text, **{self.text: prompts})
        embedded = embedded.reshape(len(self.classes), len(self.templates), -1)
        found = zero_shot.zero_shot_metrics(
            model.embed_split(self.query, self.split, self.query_fields), zero_shot.class_embeddings(embedded), labels
        )
        return {f"{self.name} {k}": float(v) for k, v in found.items()} | {f"{self.name} chance": 1 / len(self.classes)}


@dataclass(frozen=True)
class Probe:
    """Ridge probe of an infer output that returns {layer: [N, D]} or one [N, D] array; lambda is chosen on the val split."""

    features: str
    label: str
    name: str = "probe"

    def run(self, model: Model) -> dict[str, float]:
        sets = {s: model.embed_split(self.features, s) for s in ("train", "val", "test")}
        labels = {s: np.asarray(model.column(self.label, s)) for s in sets}
        layers = sets["train"] if isinstance(sets["train"], Mapping) else {"": sets["train"]}
        scores = {}
        for layer in layers:
            x = {s: np.asarray(v[layer] if layer else v) for s, v in sets.items()}
            fit = probe.ridge_probe(x["train"], labels["train"], x["val"], labels["val"], x["test"], labels["test"])
            scores[f"{self.name} {layer} accuracy".replace("  ", " ")] = float(fit.accuracy)
        return scores


@dataclass(frozen=True)
class Knn:
    """Weighted k-nearest-neighbour accuracy on test, with the training split as memory."""

    features: str
    label: str
    k: int = 20
    name: str = "kNN"

    def run(self, model: Model) -> dict[str, float]:
        train, test = (model.embed_split(self.features, s) for s in ("train", "test"))
        known, truth = (np.asarray(model.column(self.label, s)) for s in ("train", "test"))
        found = knn.knn_predict(train, known, test, k=self.k)
        return {f"{self.name} accuracy": float(np.mean(found == truth))}


def evaluate(model: Model) -> dict[str, float]:
    """All evaluators of the model's experiment: {metric: value}."""
    return run_all(model.experiment.evals, model)


def run_all(evals: tuple[Any, ...], model: Model) -> dict[str, float]:
    """Each evaluator's metrics, in order."""
    return {name: value for e in evals for name, value in e.run(model).items()}


def on_split(evals: tuple[Any, ...], split: str) -> tuple[Any, ...]:
    """The same evaluators on another split, e.g. "val" while tuning."""
    return tuple(replace(e, split=split) if hasattr(e, "split") else e for e in evals)

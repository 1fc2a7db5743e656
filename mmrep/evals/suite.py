"""Evaluators as config: frozen dataclasses whose run(model) -> {metric: value} composes the functions of this package."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.errors import ConfigError
from mmrep.evals import checks, knn, probe, retrieval, zero_shot
from mmrep.model import Fields, Model


@dataclass(frozen=True)
class Retrieval:
    """Cross-modal retrieval: "R@k", "median_rank", "candidates" and "chance_R@k" of queries among all targets of the split.

    query, target: modalities, or other infer names of one vector a row; ranked by dot product, ties by their mean rank.
    group:   a record field; candidates with the query's value are all correct.
    score:   an infer function of pairs that ranks instead ("score"); query and target are then "image" and "text".
    rerank:  with `score`, only the k best of each query by dot product are scored, the others stay behind them (ALBEF, section 4); 0: all.
    two_way: the other direction, too, and the mean over both of each metric.
    captions: a record field with several texts, which all count (the protocol of Flickr30k and COCO): an image is found by any of its
             captions, each caption has its image as target. Empty: the first caption of each record.
    """

    query: str
    target: str
    split: str = "test"
    ks: tuple[int, ...] = (1, 5, 10)
    query_fields: Fields = ()
    target_fields: Fields = ()
    group: str = ""
    name: str = ""
    score: str = ""
    rerank: int = 0
    two_way: bool = False
    captions: str = ""

    def __post_init__(self) -> None:
        if self.score and {self.query, self.target} != {"image", "text"}:
            raise ConfigError(f"Retrieval.score ranks image and text, not {self.query!r} and {self.target!r}")
        if self.captions and (self.group or self.rerank):
            raise ConfigError("Retrieval.captions names the correct pairs itself: leave out group and rerank")
        if self.rerank and not self.score:
            raise ConfigError(f"Retrieval.rerank is {self.rerank}: name the pair score in Retrieval.score")

    @property
    def label(self) -> str:
        return self.name or f"{self.query}->{self.target}"

    def embeddings(self, model: Model) -> tuple[np.ndarray, np.ndarray]:
        return model.embed_split(self.query, self.split, self.query_fields), model.embed_split(
            self.target, self.split, self.target_fields
        )

    def run(self, model: Model) -> dict[str, float]:
        forth = self._metrics(model)
        if not self.two_way:
            return {f"{self.label} {k}": v for k, v in forth.items()}
        back = self._other_way()._metrics(model)
        both = {f"{self.query}->{self.target}": forth, f"{self.target}->{self.query}": back}
        found = {f"{self.name} {way} {k}".strip(): v for way, values in both.items() for k, v in values.items()}
        return found | {f"{self.name} {k}".strip(): (v + back[k]) / 2 for k, v in forth.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.ks(self.ks)
        if self.score:
            checks.functions(names, **{"Retrieval.score": self.score})
        else:
            checks.functions(names, **{"Retrieval.query": self.query, "Retrieval.target": self.target})
        fields = [f for _, f in (*self.query_fields, *self.target_fields)]
        checks.fields(split(self.split), [self.group, self.captions, *fields])

    def _other_way(self) -> "Retrieval":
        return replace(
            self,
            query=self.target,
            target=self.query,
            query_fields=self.target_fields,
            target_fields=self.query_fields,
        )

    def _metrics(self, model: Model) -> dict[str, float]:
        if self.captions:
            return self._of_all_captions(model)
        positives: Any = None
        if self.group:
            keys = np.asarray([str(v) for v in model.column(self.group, self.split)])
            positives = keys[:, None] == keys[None, :]
        if self.score:
            scores = self.scores(model)
            positives = np.arange(len(scores)) if positives is None else positives
            ranks, count = retrieval.ranks_of_scores(scores, positives), scores.shape[1]
        else:  # block by block: the whole matrix need not fit into memory
            queries, targets = self.embeddings(model)
            positives = np.arange(len(queries)) if positives is None else positives
            ranks, count = retrieval.ranks(queries, targets, positives), len(targets)
        correct = positives.sum(1) if self.group else 1
        found = retrieval.retrieval_metrics(ranks, count, self.ks, correct)
        return {k: float(v) for k, v in found.items()}

    def _of_all_captions(self, model: Model) -> dict[str, float]:
        """The metrics where each record has several captions: any of its own is correct for it, it alone for each of them."""
        texts, owner = model.split(self.split).captions(self.captions)
        kinds = [model.modality(name).kind for name in (self.query, self.target)]
        if kinds.count("text") != 1:
            raise ConfigError(
                f"Retrieval.captions needs a text and another modality, not {self.query!r} and {self.target!r}"
            )
        forward = kinds[1] == "text"
        text, other = (self.target, self.query) if forward else (self.query, self.target)
        if self.score:
            images = model.embed_split("image_tokens", self.split, self.query_fields if forward else self.target_fields)
            scores = model.score_matrix(images, model.call("text_tokens", text=texts), name=self.score)
        else:
            rows = model.embed_split(other, self.split, self.query_fields if forward else self.target_fields)
            scores = retrieval.dot(rows, model.call(text, **{text: texts}))
        counts = np.bincount(owner, minlength=len(scores))
        own: Any = np.split(np.arange(len(owner)), np.cumsum(counts)[:-1]) if forward else owner
        scores = scores if forward else scores.T
        ranks = retrieval.ranks_of_scores(scores, own)
        found = retrieval.retrieval_metrics(ranks, scores.shape[1], self.ks, counts if forward else 1)
        return {k: float(v) for k, v in found.items()}

    def scores(self, model: Model) -> Float[np.ndarray, "Q T"]:
        """Dot products, or the pair scores of queries and targets: -inf where a candidate is not among the `rerank` best."""
        if not self.score:
            return retrieval.dot(*self.embeddings(model))
        forward = self.query == "image"
        image, text = (self.query_fields, self.target_fields) if forward else (self.target_fields, self.query_fields)
        by_dot = retrieval.dot(*self.embeddings(model)) if self.rerank else None
        if by_dot is None or self.rerank >= by_dot.shape[1]:
            whole = model.score_split(self.score, self.split, image, text)
            return whole if forward else whole.T
        sides = model.embed_split("image_tokens", self.split, image), model.embed_split("text_tokens", self.split, text)
        score = partial(model.score_pairs, *sides, name=self.score)
        rescore = score if forward else (lambda texts, images: score(images, texts))
        return retrieval.rerank(by_dot, rescore, self.rerank)


@dataclass(frozen=True)
class ZeroShot:
    """Classification by prompts: class embedding = renormalised mean over templates of the text embedding.

    label: a record field with the class number; or with several numbers, -1 for none: any of them is correct.
    templates hold "{}" for the class name.
    score: an infer function of pairs in place of the dot product; its values are averaged over templates (Yao et al. 2022, section 3.2).
    """

    classes: tuple[str, ...]
    label: str
    templates: tuple[str, ...] = ("{}",)
    query: str = "image"
    text: str = "text"
    split: str = "test"
    query_fields: Fields = ()
    name: str = "zero-shot"
    score: str = ""

    def run(self, model: Model) -> dict[str, float]:
        rows = model.column(self.label, self.split)
        scores = self._scores(model)
        if any(np.ndim(row) for row in rows):
            labels = [np.unique(row[row >= 0]) for row in map(np.atleast_1d, rows)]
            found = {"accuracy": float(np.mean(retrieval.ranks_of_scores(scores, labels) <= 1))}
            chance = float(np.mean([len(row) for row in labels])) / len(self.classes)
        else:
            found = zero_shot.classification_metrics(scores, np.asarray(rows))
            chance = 1 / len(self.classes)
        return {f"{self.name} {k}": float(v) for k, v in (found | {"chance": chance}).items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions, the split's records or its class names."""
        checks.templates(self.templates)
        opened = split(self.split)
        checks.fields(opened, [self.label, *[f for _, f in self.query_fields]])
        checks.class_order(self.classes, opened.class_names(self.label), self.label)
        if not self.score:
            checks.functions(names, **{"ZeroShot.query": self.query, "ZeroShot.text": self.text})

    def _scores(self, model: Model) -> Float[np.ndarray, "N C"]:
        prompts = [t.format(c) for c in self.classes for t in self.templates]
        if self.score:
            tokens = model.embed_split(f"{self.query}_tokens", self.split, self.query_fields)
            pairs = model.score_matrix(
                tokens, model.call(f"{self.text}_tokens", **{self.text: prompts}), name=self.score
            )
            return zero_shot.average_over_templates(pairs, len(self.templates))
        embedded = model.call(self.text, **{self.text: prompts})
        embedded = embedded.reshape(len(self.classes), len(self.templates), -1)
        queries = model.embed_split(self.query, self.split, self.query_fields)
        return retrieval.dot(queries, zero_shot.class_embeddings(embedded))


@dataclass(frozen=True)
class Probe:
    """Ridge probe of the infer function `features`, {layer: [N, D]} or [N, D], for the record field `label`; lambda is chosen on val."""

    features: str
    label: str
    name: str = "probe"

    def run(self, model: Model) -> dict[str, float]:
        sets = {s: model.embed_split(self.features, s) for s in ("train", "val", "test")}
        labels = {s: np.asarray(model.column(self.label, s)) for s in sets}
        several = isinstance(sets["train"], Mapping)
        layers = {s: x if several else {"": x} for s, x in sets.items()}
        fits = probe.probe_layers(layers, labels)
        return {f"{self.name} {layer} accuracy".replace("  ", " "): float(fit.accuracy) for layer, fit in fits.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a feature that the system lacks or a label that the records lack."""
        _check_labelled("Probe", self.features, self.label, names, map(split, ("train", "val", "test")))


@dataclass(frozen=True)
class Knn:
    """Weighted k-nearest-neighbour accuracy on test; the neighbours are those of the training split."""

    features: str
    label: str
    k: int = 20
    name: str = "kNN"

    def run(self, model: Model) -> dict[str, float]:
        train, test = (model.embed_split(self.features, s) for s in ("train", "test"))
        known, truth = (np.asarray(model.column(self.label, s)) for s in ("train", "test"))
        found = knn.knn_predict(train, known, test, k=self.k)
        return {f"{self.name} accuracy": float(np.mean(found == truth))}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a feature that the system lacks, a label that the records lack, or k below 1."""
        if self.k < 1:
            raise ConfigError(f"Knn.k is {self.k}: it must be at least 1")
        _check_labelled("Knn", self.features, self.label, names, map(split, ("train", "test")))


def _check_labelled(kind: str, features: str, label: str, names: Sequence[str], opened: Iterable[Any]) -> None:
    checks.functions(names, **{f"{kind}.features": features})
    for split in opened:
        checks.fields(split, [label])


def evaluate(model: Model) -> dict[str, float]:
    """All evaluators of the model's experiment: {metric: value}."""
    return run_all(model.experiment.evals, model)


def run_all(evals: tuple[Any, ...], model: Model) -> dict[str, float]:
    """Each evaluator's metrics, in order; and where bad records were left out of a split, how many."""
    found = {name: value for e in evals for name, value in e.run(model).items()}
    left_out = {s: model.bad_records(s) for s in dict.fromkeys(e.split for e in evals if hasattr(e, "split"))}
    return found | {f"bad records in {s}": float(n) for s, n in left_out.items() if n}


def on_split(evals: tuple[Any, ...], split: str) -> tuple[Any, ...]:
    """The same evaluators on another split, e.g. "val" while tuning."""
    return tuple(replace(e, split=split) if hasattr(e, "split") else e for e in evals)

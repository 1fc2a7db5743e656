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
    truth:   the modality, query or target, that the rows of the source's own matrix of true pairs are about (of synthetic clips:
             their texts); all of a query's true candidates are correct.
    by:      a record field; the metrics of the queries of each of its values as well, as in "text->video R@1 [heard]".
    score:   an infer function of pairs that ranks instead ("score"); the system has "<query>_tokens" and "<target>_tokens".
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
    truth: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        if self.captions and (self.group or self.rerank or self.truth or self.by):
            raise ConfigError(
                "Retrieval.captions names the correct pairs itself: leave out group, truth, by and rerank"
            )
        if self.truth and (self.group or self.truth not in (self.query, self.target)):
            raise ConfigError(
                f"Retrieval.truth is {self.truth!r}: name {self.query!r} or {self.target!r}, and leave out group"
            )
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
            checks.functions(names, **{f"Retrieval.{s}": f"{getattr(self, s)}_tokens" for s in ("query", "target")})
        if not self.score or self.rerank:
            checks.functions(names, **{"Retrieval.query": self.query, "Retrieval.target": self.target})
        if self.truth:
            split(self.split).truth()
        fields = [f for _, f in (*self.query_fields, *self.target_fields)]
        checks.fields(split(self.split), [self.group, self.captions, self.by, *fields])

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
        elif self.truth:
            positives = model.split(self.split).truth()
            positives = positives if self.truth == self.query else positives.T
        if self.score:
            scores = self.scores(model)
            positives = np.arange(len(scores)) if positives is None else positives
            ranks, count = retrieval.ranks_of_scores(scores, positives), scores.shape[1]
        else:  # block by block: the whole matrix need not fit into memory
            queries, targets = self.embeddings(model)
            positives = np.arange(len(queries)) if positives is None else positives
            ranks, count = retrieval.ranks(queries, targets, positives), len(targets)
        correct = positives.sum(1) if self.group or self.truth else np.ones(len(ranks), np.int64)
        parts = {"": slice(None)} | ({} if not self.by else by_value(model, self.by, self.split))
        found = {
            f"{k}{n}": v
            for n, at in parts.items()
            for k, v in retrieval.retrieval_metrics(ranks[at], count, self.ks, correct[at]).items()
        }
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
            rows = model.embed_split(
                f"{other}_tokens", self.split, self.query_fields if forward else self.target_fields
            )
            columns = model.call(f"{text}_tokens", **{text: texts})
            scores = model.score_matrix(rows, columns, name=self.score, names=(other, text))
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
        # One order of the two names, so that both directions share one matrix.
        forward = self.query <= self.target
        here = self if forward else self._other_way()
        names = here.query, here.target
        by_dot = retrieval.dot(*self.embeddings(model)) if self.rerank else None
        if by_dot is None or self.rerank >= by_dot.shape[1]:
            whole = model.score_split(self.score, self.split, here.query_fields, here.target_fields, names)
            return whole if forward else whole.T
        fields = here.query_fields, here.target_fields
        left, right = (model.embed_split(f"{n}_tokens", self.split, f) for n, f in zip(names, fields))
        score = partial(model.score_pairs, left, right, name=self.score, names=names)
        rescore = score if forward else (lambda queries, targets: score(targets, queries))
        return retrieval.rerank(by_dot, rescore, self.rerank)


def by_value(model: Model, field: str, split: str) -> dict[str, Any]:
    """{" [value]": rows} of a record field's values, by their names where the source has them."""
    values = np.asarray(model.column(field, split))
    known = model.split(split).class_names(field)
    return {f" [{known[v] if known else v}]": np.flatnonzero(values == v) for v in np.unique(values)}


@dataclass(frozen=True)
class Foil:
    """How often the true text scores above its foil (a record field), by the pair score and by dot product; equal scores count half.

    foil:  the field.   where: a record field; only records in which it is true count.   by: a field; its values apart, too.
    other: the modality that both are compared with.   score: an infer function of pairs; empty: dot products alone, as "accuracy".
    Metrics: "<name> accuracy" by the score and "<name> contrast accuracy" by dot product; chance is 1/2.
    """

    foil: str = "caption_hard"
    where: str = ""
    split: str = "test"
    name: str = "swap"
    other: str = "image"
    text: str = "text"
    score: str = "score"
    by: str = ""

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        sides = {"Foil.other": self.other, "Foil.text": self.text}
        checks.functions(names, **sides)
        if self.score:
            checks.functions(names, **{"Foil.score": self.score}, **{k: f"{v}_tokens" for k, v in sides.items()})
        checks.fields(split(self.split), [self.foil, self.where, self.by])

    def run(self, model: Model) -> dict[str, float]:
        other = model.embed_split(self.other, self.split)

        def by_score(fields: Fields) -> Float[np.ndarray, " n"]:
            tokens, names = model.embed_split(f"{self.other}_tokens", self.split), (self.other, self.text)
            texts = model.embed_split(f"{self.text}_tokens", self.split, fields)
            rows = np.arange(len(other))
            return model.score_pairs(tokens, texts, rows, rows, name=self.score, names=names)

        def by_dot(fields: Fields) -> Float[np.ndarray, " n"]:
            return (other * model.embed_split(self.text, self.split, fields)).sum(-1)

        scores = {"accuracy": by_score, "contrast accuracy": by_dot} if self.score else {"accuracy": by_dot}
        counted = np.asarray(model.column(self.where, self.split), bool) if self.where else np.ones(len(other), bool)
        parts = {"": np.arange(len(other))} | ({} if not self.by else by_value(model, self.by, self.split))
        found: dict[str, float] = {}
        for k, score in scores.items():
            margin = score(()) - score(((self.text, self.foil),))
            right = (margin > 0) + 0.5 * (margin == 0)
            found |= {f"{self.name} {k}{n}": float(right[at[counted[at]]].mean()) for n, at in parts.items()}
        return found


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
            texts = model.call(f"{self.text}_tokens", **{self.text: prompts})
            pairs = model.score_matrix(tokens, texts, name=self.score, names=(self.query, self.text))
            return zero_shot.average_over_templates(pairs, len(self.templates))
        embedded = model.call(self.text, **{self.text: prompts})
        embedded = embedded.reshape(len(self.classes), len(self.templates), -1)
        queries = model.embed_split(self.query, self.split, self.query_fields)
        return retrieval.dot(queries, zero_shot.class_embeddings(embedded))


@dataclass(frozen=True)
class Probe:
    """Ridge probe of the infer function `features`, {layer: [N, D]} or [N, D], for the record field `label`; lambda is chosen on val.

    "<name> <layer> accuracy", and "<name> commonest": the accuracy of the training split's most frequent label.
    """

    features: str
    label: str
    name: str = "probe"

    def run(self, model: Model) -> dict[str, float]:
        sets = {s: model.embed_split(self.features, s) for s in ("train", "val", "test")}
        labels = {s: np.asarray(model.column(self.label, s)) for s in sets}
        several = isinstance(sets["train"], Mapping)
        layers = {s: x if several else {"": x} for s, x in sets.items()}
        fits = probe.probe_layers(layers, labels)
        known, counts = np.unique(labels["train"], return_counts=True)
        found = {f"{self.name} {layer} accuracy".replace("  ", " "): float(fit.accuracy) for layer, fit in fits.items()}
        return found | {f"{self.name} commonest": float(np.mean(labels["test"] == known[counts.argmax()]))}

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

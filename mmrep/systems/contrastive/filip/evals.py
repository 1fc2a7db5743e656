"""Retrieval and zero-shot classification by late interaction: each side is a set of tokens, infer gives {"tokens", "valid"}."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mmrep.evals import retrieval, zero_shot
from mmrep.evals.view import Fields, View
from mmrep.systems.contrastive.filip.model import late_similarity

Tokens = Mapping[str, Any]
"""{"tokens": float [N, n, D] of unit length, "valid": bool [N, n]}"""

_BLOCK = 64
_similarity = jax.jit(partial(late_similarity, chunk=_BLOCK))


def late_scores(queries: Tokens, targets: Tokens) -> Float[np.ndarray, "Q T"]:
    """The mean over a query's tokens of their best match among a target's: the query's own direction of `late_similarity`."""
    return np.asarray(_similarity(queries["tokens"], queries["valid"], targets["tokens"], targets["valid"])[0])


@dataclass(frozen=True)
class LateRetrieval:
    """Retrieval in one direction, scored from the query's side: image -> text by s^I, text -> image by s^T (Yao et al. 2022)."""

    query: str
    target: str
    split: str = "test"
    ks: tuple[int, ...] = (1, 5, 10)
    query_fields: Fields = ()
    target_fields: Fields = ()
    group: str = ""
    name: str = ""

    def run(self, view: View) -> dict[str, float]:
        label = self.name or f"{self.query}->{self.target}"
        queries = view.embed(self.query, self.split, self.query_fields)
        targets = view.embed(self.target, self.split, self.target_fields)
        count = len(targets["valid"])
        positives: Any = np.arange(count)
        if self.group:
            keys = np.asarray([str(v) for v in view.column(self.group, self.split)])
            positives = keys[:, None] == keys[None, :]
        ranks = retrieval.ranks(dict(queries), dict(targets), positives, _BLOCK, late_scores)
        return {f"{label} {k}": v for k, v in retrieval.retrieval_metrics(ranks, count, self.ks).items()}


@dataclass(frozen=True)
class LateZeroShot:
    """Classification by prompts, the SIMILARITIES averaged over templates: token sets of different prompts have no mean (section 3.2).

    label: a record field with the class number, or with several, -1 for none (the objects in view): the best class has to be one of them.
    """

    classes: tuple[str, ...]
    label: str
    templates: tuple[str, ...] = ("{}",)
    query: str = "image"
    text: str = "text"
    split: str = "test"
    name: str = "zero-shot"

    def run(self, view: View) -> dict[str, float]:
        labels = [np.unique(row[row >= 0]) for row in map(np.atleast_1d, view.column(self.label, self.split))]
        prompts = view.embed_raw(self.text, {self.text: [t.format(c) for c in self.classes for t in self.templates]})
        queries = view.embed(self.query, self.split)

        def score(part: Tokens, prompts: Tokens) -> np.ndarray:
            return zero_shot.average_over_templates(late_scores(part, prompts), len(self.templates))

        ranks = retrieval.ranks(dict(queries), dict(prompts), labels, _BLOCK, score)
        chance = float(np.mean([len(row) for row in labels])) / len(self.classes)
        return {f"{self.name} accuracy": float(np.mean(ranks <= 1)), f"{self.name} chance": chance}

"""Evaluators of systems that judge image-text pairs by a fusion encoder: ranking by it, and choosing between a caption and its foil.

Such a system infers "image" and "text" (unit embeddings), "image_tokens" and "text_tokens" (dicts of arrays, encoded once), and "match",
the score [B] of aligned pairs: raw ones, or the union of two such dicts.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from mmrep.evals import retrieval
from mmrep.model import Model


@dataclass(frozen=True)
class Rerank:
    """Two-way retrieval: the `k` best of each query by dot product are ordered by "match", the others stay behind (ALBEF, section 4).

    k: 0 lets "match" order all candidates.   group: a record field; candidates that share its value with the query are all right.
    block: pairs judged at a time.   Metrics: R@1 of both directions by "match", their mean, and the mean by dot product ("contrast R@1").
    """

    k: int = 16
    split: str = "test"
    group: str = ""
    block: int = 512
    name: str = "rerank"

    def run(self, model: Model) -> dict[str, float]:
        contrast = retrieval.dot(model.embed_split("image", self.split), model.embed_split("text", self.split))
        n = len(contrast)
        keys = np.asarray([str(v) for v in model.column(self.group, self.split)]) if self.group else np.arange(n)
        right = keys[:, None] == keys[None, :]
        whole = not 0 < self.k < n
        to_text = retrieval.rerank(contrast, self._judge(model), n if whole else self.k, self.block)
        if whole:
            to_image = to_text.T
        else:
            judge = self._judge(model)
            to_image = retrieval.rerank(contrast.T, lambda t, i: judge(i, t), self.k, self.block)
        found = {"image->text": _recall(to_text, right), "text->image": _recall(to_image, right)}
        by_dot = (_recall(contrast, right) + _recall(contrast.T, right)) / 2
        named = {f"{self.name} {k} R@1": v for k, v in found.items()}
        return named | {f"{self.name} R@1": sum(found.values()) / 2, "contrast R@1": by_dot, "chance R@1": 1 / n}

    def _judge(self, model: Model):
        images, texts = model.embed_split("image_tokens", self.split), model.embed_split("text_tokens", self.split)

        def judge(i: np.ndarray, t: np.ndarray) -> Float[np.ndarray, " n"]:
            return np.asarray(
                model.infer("match", jax.tree.map(lambda x: x[i], images) | jax.tree.map(lambda x: x[t], texts))
            )

        return judge


def _recall(scores: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean(retrieval.ranks_of_scores(scores, right) <= 1))


@dataclass(frozen=True)
class Foil:
    """How often the true caption scores above its foil (a record field), by "match" and by dot product; equal scores count half.

    where: a record field; only records in which it is true count.
    """

    foil: str = "caption_hard"
    where: str = "hard_swap"
    split: str = "test"
    name: str = "swap"

    def run(self, model: Model) -> dict[str, float]:
        rows = np.asarray(model.column(self.where, self.split)).astype(bool)
        fields = (("text", self.foil),)
        image = model.embed_split("image", self.split)
        scores = {
            "accuracy": lambda f: model.embed_split("match", self.split, f),
            "contrast accuracy": lambda f: (image * model.embed_split("text", self.split, f)).sum(-1),
        }
        return {f"{self.name} {k}": _choice((score(()) - score(fields))[rows]) for k, score in scores.items()}


def _choice(margin: Float[np.ndarray, " n"]) -> float:
    return float(np.mean((margin > 0) + 0.5 * (margin == 0)))

"""Choosing between a caption and its foil by the fusion encoder's score."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mmrep.model import Fields, Model


@dataclass(frozen=True)
class Foil:
    """How often the true caption scores above its foil (a record field), by "score" and by dot product; equal scores count half.

    where: a record field; only records in which it is true count.
    """

    foil: str = "caption_hard"
    where: str = "hard_swap"
    split: str = "test"
    name: str = "swap"

    def run(self, model: Model) -> dict[str, float]:
        rows = np.flatnonzero(model.column(self.where, self.split))
        tokens, image = model.embed_split("image_tokens", self.split), model.embed_split("image", self.split)

        def by_score(fields: Fields) -> Float[np.ndarray, " n"]:
            return model.score_pairs(tokens, model.embed_split("text_tokens", self.split, fields), rows, rows)

        def by_dot(fields: Fields) -> Float[np.ndarray, " n"]:
            return (image * model.embed_split("text", self.split, fields)).sum(-1)[rows]

        scores = {"accuracy": by_score, "contrast accuracy": by_dot}
        margins = {k: score(()) - score((("text", self.foil),)) for k, score in scores.items()}
        return {f"{self.name} {k}": float(np.mean((m > 0) + 0.5 * (m == 0))) for k, m in margins.items()}

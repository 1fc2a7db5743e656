"""Judgement of pairs, and the use of the prompt pools."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks
from mmrep.model import Model


@dataclass(frozen=True)
class Judged:
    """Share of pairs that the matching head judges right, in [0, 1]: true ones, and as many of each image with another record's text.

    text: the record field of texts; another record with an equal text is passed over. The other record is the next one.
    """

    text: str = "text"
    split: str = "test"
    name: str = "judged"

    def run(self, model: Model) -> dict[str, float]:
        image, text = (model.embed_split(f"{n}_tokens", self.split) for n in ("image", "text"))
        texts = [str(v) for v in model.column(self.text, self.split)]
        rows = np.arange(len(texts))
        other = np.array([next((j for j in np.roll(rows, -i)[1:] if texts[j] != texts[i]), -1) for i in rows])
        kept = rows[other >= 0]
        true = model.score_pairs(image, text, rows, rows) > 0
        false = model.score_pairs(image, text, kept, other[kept]) <= 0
        return {f"{self.name} accuracy": float((true.mean() + false.mean()) / 2)}


@dataclass(frozen=True)
class PoolUse:
    """Share of a pool's rows that are ever chosen for an input of the split, in (0, 1]: "rows_for_image used", "rows_for_text used"."""

    pool: int
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        names = [n for n in ("rows_for_image", "rows_for_text") if n in model.names]
        return {f"{n} used": len(np.unique(model.embed_split(n, self.split))) / self.pool for n in names}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Nothing is required: a system without pools gives no metric."""

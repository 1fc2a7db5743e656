"""How much of a sound's own content its embedding keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks, probe
from mmrep.evals.retrieval import unit
from mmrep.model import Model


@dataclass(frozen=True)
class Content:
    """ "R2": of a ridge probe from the embeddings to the numbers of a record field, at most 1; "cosine": mean over pairs of different rows.

    The penalty is chosen on val; 0 is the prediction of the mean.
    """

    features: str
    field: str
    name: str = "content"

    def run(self, model: Model) -> dict[str, float]:
        x = {s: model.embed_split(self.features, s) for s in ("train", "val", "test")}
        y = {s: np.asarray(model.column(self.field, s), np.float64).reshape(len(x[s]), -1) for s in x}
        fit = probe.ridge_fit(x["train"], y["train"], x["val"], y["val"])
        rows = unit(x["test"])
        total, n = rows.sum(0), len(rows)
        cosine = float((total @ total - n) / max(n * (n - 1), 1))
        return {f"{self.name} R2": probe.r_squared(fit(x["test"]), y["test"]), f"{self.name} cosine": cosine}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a function that the system lacks or a field that the records lack."""
        checks.functions(names, **{"Content.features": self.features})
        checks.fields(split("train"), [self.field])

"""An evaluator on frozen tokens: the fraction of an image that each class covers."""

from dataclasses import dataclass

import numpy as np

from mmrep.evals.probe import r_squared, ridge_fit
from mmrep.model import Model
from mmrep.nn.maps import DenseModality


@dataclass(frozen=True)
class ClassFraction:
    """Ridge regression from the mean of frozen tokens to the fraction of the image that each class covers; the penalty is chosen on val.

    map: the class map.   givens: the sets of sensors whose tokens are used.   labelled: examples of the training split.
    Reports R2 for each of `givens` (the mean over the classes that occur), and their mean.
    """

    map: DenseModality
    givens: tuple[tuple[str, ...], ...] = (("optical",), ("radar",), ("optical", "radar"))
    labelled: int = 1000
    split: str = "test"
    name: str = "cover"

    def run(self, model: Model) -> dict[str, float]:
        sets = {s: model.records(s, self.labelled if s == "train" else 0) for s in ("train", "val", self.split)}
        ids = {s: np.stack([np.asarray(r[self.map.name]).reshape(-1) for r in rows]) for s, rows in sets.items()}
        fractions = {s: np.stack([(x == c).mean(1) for c in range(self.map.classes)], axis=1) for s, x in ids.items()}
        found = {}
        for given in self.givens:
            features = f"{given[0]}_tokens" if len(given) == 1 else "fused_tokens"
            x = {
                s: np.asarray(model.call(features, **{g: [r[g] for r in rows] for g in given})[0]).mean(1)
                for s, rows in sets.items()
            }
            fit = ridge_fit(x["train"], fractions["train"], x["val"], fractions["val"], score=r_squared)
            found[f"{self.name}|{'+'.join(given)} R2"] = r_squared(fit(x[self.split]), fractions[self.split])
        return found | {f"{self.name} mean R2": float(np.mean(list(found.values())))}

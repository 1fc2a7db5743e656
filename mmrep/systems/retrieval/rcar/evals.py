"""What RCAR's regulators change, on captions whose words describe known regions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.errors import ConfigError
from mmrep.evals import checks
from mmrep.model import Model


@dataclass(frozen=True)
class Regulation:
    """Of words that attend to their own picture's regions: "attention first", "attention last", the mean attention of a word on the region
    that it describes, in the first and the last round, in [0, 1]; "rise", their difference; "filler weight", the mean weight in the last
    aggregation of words that describe nothing, as a share of that of the others (1: the mean); "chance" is 1 / regions.

    owner: a record field, int [L]: the region of each word; -1 for none and behind the text.   text: the field of the text, one token a word.
    Raises ConfigError where the regions are the queries.
    """

    owner: str = "owner"
    text: str = "text"
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        if model.experiment.system.attend != "text":
            raise ConfigError('system.attend is "image": Regulation needs words that attend to regions, "text"')
        found = model.embed_split("regulation", self.split)
        first, last, weights = found["attention"][:, 0], found["attention"][:, -1], found["weights"][:, -1]
        owner = np.stack(model.column(self.owner, self.split))
        rows, words = np.nonzero(owner >= 0)
        at = owner[rows, words]
        lengths = np.array([len(text.split()) for text in model.column(self.text, self.split)])
        filler = np.nonzero((owner < 0) & (np.arange(owner.shape[1]) < lengths[:, None]))
        # Behind BOS.
        a, b = (float(x[rows, words + 1, at].mean()) for x in (first, last))
        result = {"attention first": a, "attention last": b, "rise": b - a, "chance": 1 / first.shape[-1]}
        if len(filler[0]):
            result["filler weight"] = float(weights[filler[0], filler[1] + 1].mean() / weights[rows, words + 1].mean())
        return result

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.functions(names, **{"Regulation needs": "regulation"})
        checks.fields(split(self.split), [self.owner, self.text])

"""Whether a sentence is near all moments that it describes, annotated or not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks
from mmrep.evals.temporal import ious, true_spans
from mmrep.model import Model


@dataclass(frozen=True)
class Alignment:
    """ "alignment": the mean cosine (in [-1, 1]) of each record's first sentence with the proposals nearest to the true spans in a field.

    truth: a record field with spans [E, 2], shares of the video.
    """

    truth: str = "others"
    split: str = "test"
    name: str = "alignment"

    def run(self, model: Model) -> dict[str, float]:
        cosines = np.asarray(model.embed_split("cosines", self.split))[:, 0]
        grid = np.asarray(model.embed_split("proposals", self.split))[0]
        rows = [true_spans(np.asarray(row)) for row in model.column(self.truth, self.split)]
        values = [c[ious(grid, row).argmax(0)].mean() for c, row in zip(cosines, rows) if len(row)]
        return {self.name: float(np.mean(values))}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a system without these functions, or a field that the records lack."""
        checks.functions(names, cosines="cosines", proposals="proposals")
        checks.fields(split(self.split), [self.truth])

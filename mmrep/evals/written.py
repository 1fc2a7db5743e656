"""Generated texts against the records' own, as sets of tokens."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mmrep.evals import checks
from mmrep.evals.tokens import held_out
from mmrep.modality import FIRST_PIECE
from mmrep.model import Model


@dataclass(frozen=True)
class Written:
    """Token F1, exact match and, with `words`, recall of what an infer function writes, ids [N, L], in [0, 1].

    text:  the modality of the true text.   words: only these words count in F1 and recall, e.g. the names of sounds; empty: all pieces.
    by:    a record field; "written exact [value]" is also given for each of its values.
    Metrics: "written F1", the mean over records of the harmonic mean of precision and recall of tokens as multisets; "written exact", the
    share of records whose pieces all agree in order; "written recall" of the words. A record without any of `words` does not count for them.
    "written commonest" is the exact match of the most frequent true text.
    """

    infer: str
    text: str = "text"
    words: tuple[str, ...] = ()
    by: str = ""
    split: str = "test"
    name: str = "written"

    def run(self, model: Model) -> dict[str, float]:
        found = np.asarray(model.embed_split(self.infer, self.split))
        truth = np.asarray(held_out(model, self.text, self.split))
        counted = np.unique(model.tokenizer(self.words)) if self.words else None
        measured = {f"{self.name} {k}": v for k, v in agreement(found, truth, counted).items()}
        measured[f"{self.name} commonest"] = commonest(truth)
        if self.by:
            groups = np.asarray([str(v) for v in model.column(self.by, self.split)])
            for group in np.unique(groups):
                here = groups == group
                measured[f"{self.name} exact [{group}]"] = agreement(found[here], truth[here])["exact"]
                measured[f"{self.name} commonest [{group}]"] = commonest(truth[here])
        return measured

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a function that the system lacks, or a field that the records lack."""
        checks.functions(names, **{"Written.infer": self.infer})
        checks.fields(split(self.split), [self.by])


def commonest(truth: Int[np.ndarray, "N M"]) -> float:
    """The share of the most frequent row, ids below FIRST_PIECE left out."""
    return max(Counter(tuple(row[row >= FIRST_PIECE].tolist()) for row in truth).values()) / len(truth)


def agreement(
    found: Int[np.ndarray, "N L"], truth: Int[np.ndarray, "N M"], counted: Int[np.ndarray, " W"] | None = None
) -> dict[str, float]:
    """{"F1", "exact", "recall"} of rows of ids; ids below FIRST_PIECE, and others than `counted` where it is given, are left out."""
    scores, recalls, exact = [], [], []
    for own, true in zip(found, truth):
        pieces = [row[row >= FIRST_PIECE] for row in (own, true)]
        exact.append(np.array_equal(*pieces))
        a, b = (row if counted is None else row[np.isin(row, counted)] for row in pieces)
        if not len(b):
            continue
        ids = np.unique(np.concatenate([a, b]))
        hits = sum(min((a == i).sum(), (b == i).sum()) for i in ids)
        recalls.append(hits / len(b))
        scores.append(2 * hits / (len(a) + len(b)))
    mean = lambda values: float(np.mean(values)) if values else float("nan")  # noqa: E731
    return {"F1": mean(scores), "exact": mean(exact), "recall": mean(recalls)}

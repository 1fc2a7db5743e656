"""Retrieval of snippets, and of pieces by the votes of their snippets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks, retrieval
from mmrep.model import Model


def _rows(model: Model, split: str, domain: str) -> dict[str, np.ndarray]:
    """{" [0]": rows with 0 in the field, ...}, or all without a field."""
    if not domain:
        return {"": np.arange(len(model.split(split)))}
    values = np.asarray(model.column(domain, split))
    return {f" [{v}]": np.flatnonzero(values == v) for v in np.unique(values)}


@dataclass(frozen=True)
class Snippets:
    """ "MRR" (the mean reciprocal rank, in (0, 1]), "R@1" and "median_rank" of snippets, each direction and the mean of both.

    domain: a record field; queries and candidates of each of its values apart, as in "MRR [1]". "chance MRR" and "chance R@1" are those of a
    random order.
    """

    domain: str = ""
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        vectors = {side: np.asarray(model.embed_split(side, self.split)) for side in ("sheet", "audio")}
        found: dict[str, float] = {}
        for name, at in _rows(model, self.split, self.domain).items():
            both = []
            for query, target in (("sheet", "audio"), ("audio", "sheet")):
                ranks = retrieval.ranks(vectors[query][at], vectors[target][at], np.arange(len(at)))
                both.append(
                    {
                        "MRR": float(np.mean(1 / ranks)),
                        "R@1": float(np.mean(ranks <= 1)),
                        "median_rank": float(np.median(ranks)),
                    }
                )
                found |= {f"{query}->{target} {k}{name}": v for k, v in both[-1].items()}
            found |= {f"{k}{name}": float(np.mean([b[k] for b in both])) for k in both[0]}
            found[f"chance MRR{name}"] = float(np.mean(1 / np.arange(1, len(at) + 1)))
            found[f"chance R@1{name}"] = 1 / len(at)
        return found

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a system without both sides, or a domain that the records lack."""
        checks.functions(names, **{"Snippets of sheet": "sheet", "Snippets of audio": "audio"})
        checks.fields(split(self.split), [self.domain] if self.domain else [])


@dataclass(frozen=True)
class PieceIdentification:
    """ "piece accuracy": each snippet of a recording retrieves its nearest snippet of a score, and most votes name the piece (section 4.3).

    piece: the record field of pieces; the scores of all pieces of the split are the candidates, of its own `domain` alone.   Ties: the
    smallest. "piece chance" is 1 over the pieces.
    """

    piece: str = "piece"
    domain: str = ""
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        audio, sheet = (np.asarray(model.embed_split(side, self.split)) for side in ("audio", "sheet"))
        pieces, found = np.asarray(model.column(self.piece, self.split)), dict[str, float]()
        for name, at in _rows(model, self.split, self.domain).items():
            ids, inverse = np.unique(pieces[at], return_inverse=True)
            votes = inverse[(audio[at] @ sheet[at].T).argmax(1)]
            counts = np.zeros((len(ids), len(ids)))
            np.add.at(counts, (inverse, votes), 1)
            found[f"piece accuracy{name}"] = float(np.mean(counts.argmax(1) == np.arange(len(ids))))
            found[f"piece chance{name}"] = 1 / len(ids)
        return found

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a system without both sides, or fields that the records lack."""
        checks.functions(names, **{"PieceIdentification of sheet": "sheet", "PieceIdentification of audio": "audio"})
        checks.fields(split(self.split), [self.piece, *([self.domain] if self.domain else [])])

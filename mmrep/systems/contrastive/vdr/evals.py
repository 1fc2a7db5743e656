"""Whether the words of a vector are those of what it embeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.errors import ConfigError
from mmrep.evals import checks
from mmrep.modality import FIRST_PIECE
from mmrep.model import Model


def words_of(model: Model, vector: np.ndarray, k: int) -> list[tuple[str, float]]:
    """The k words of the largest values of a vector [V], with these values ("disentangle"; of a product of two vectors "explain")."""
    if model.tokenize is None:
        raise ConfigError("the model has no tokenizer: its dimensions have no words")
    best = np.argsort(-vector, kind="stable")[:k]
    pieces = [int(i) + FIRST_PIECE for i in best]
    # The encoder's vocabulary may exceed the tokenizer's.
    names = [model.tokenize.piece(i).strip("\u2581") if i < model.tokenize.vocab else "" for i in pieces]
    return list(zip(names, vector[best].astype(float).tolist()))


@dataclass(frozen=True)
class Readability:
    """Share of the m words of the largest values of a vector that are true ("precision"), m being the number of true words; and "chance".

    vectors: the infer function of vectors with one dimension a word.
    fields, describe: record fields and a function of their values that returns the true words of a record.
    """

    describe: Callable[..., Sequence[str]]
    fields: tuple[str, ...]
    vectors: str = "image"
    split: str = "test"
    name: str = "readability"

    def run(self, model: Model) -> dict[str, float]:
        found = model.embed_split(self.vectors, self.split)
        columns = [model.column(f, self.split) for f in self.fields]
        right, chance = [], []
        for row, values in zip(found, zip(*columns)):
            true = {w for w in self.describe(*values)}
            named = {w for w, _ in words_of(model, row, len(true))}
            right.append(len(true & named) / len(true))
            chance.append(len(true) / found.shape[1])
        return {f"{self.name} precision": float(np.mean(right)), f"{self.name} chance": float(np.mean(chance))}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.functions(names, **{"Readability.vectors": self.vectors})
        checks.fields(split(self.split), list(self.fields))

"""Which token of one modality a token of another is most similar to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mmrep.errors import ConfigError, DataError
from mmrep.evals import checks
from mmrep.model import Model


def pointed(
    words: Float[np.ndarray, "B L D"], tokens: Float[np.ndarray, "B N D"], valid: Bool[np.ndarray, "B N"]
) -> Int[np.ndarray, "B L"]:
    """The valid token of the same record with the largest dot product, for each word."""
    scores = np.einsum("bld,bnd->bln", words, tokens)
    return np.where(valid[:, None], scores, -np.inf).argmax(-1)


def described(
    texts: Sequence[str], owners: Sequence[Int[np.ndarray, " _"]], valid: Bool[np.ndarray, "B L"]
) -> Iterator[tuple[int, int, str, int]]:
    """(record, place of the token, word, its owner) of every word that describes a token: BOS, one token a word, EOS.

    Raises ConfigError where a text has another number of tokens.
    """
    for i, (text, owner) in enumerate(zip(texts, owners)):
        words = text.split()
        if valid[i].sum() != len(words) + 2:
            raise ConfigError(
                f"{text!r} has {len(words)} words and {valid[i].sum()} tokens, BOS and EOS included: set data.tokenizer.kind to "
                "'word' and a text long enough"
            )
        for at, word in enumerate(words):
            if owner[at] >= 0:
                yield i, at + 1, word, int(owner[at])


@dataclass(frozen=True)
class Pointing:
    """Share of the words whose most similar token of the other modality is the one they describe ("accuracy"); "chance" is random choice.

    words, tokens: infer functions of tokens in one space, (tokens [B, N, D], valid [B, N]).
    owner: a record field, int [L]: the token that each word of the text describes; -1 for none and behind the text.
    text:  the record field of the text. Its tokens are BOS, one a word, EOS: set data.tokenizer.kind to "word".
    only:  words that count; empty: all that describe a token.
    Raises ConfigError where a text has another number of tokens, DataError where no word counts.
    """

    words: str = "text_tokens"
    tokens: str = "image_tokens"
    owner: str = "owner"
    text: str = "text"
    only: tuple[str, ...] = ()
    split: str = "test"
    name: str = "pointing"

    def run(self, model: Model) -> dict[str, float]:
        words, spoken = model.embed_split(self.words, self.split)
        tokens, valid = model.embed_split(self.tokens, self.split)
        best = pointed(words, tokens, valid)
        right, chance = [], []
        texts, owners = (model.column(field, self.split) for field in (self.text, self.owner))
        for i, at, word, owner in described(texts, owners, spoken):
            if not self.only or word in self.only:
                right.append(best[i, at] == owner)
                chance.append(1 / valid[i].sum())
        if not right:
            raise DataError(f"Pointing.owner is {self.owner!r}: no word of {self.split!r} describes a token")
        return {f"{self.name} accuracy": float(np.mean(right)), f"{self.name} chance": float(np.mean(chance))}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.functions(names, **{"Pointing.words": self.words, "Pointing.tokens": self.tokens})
        checks.fields(split(self.split), [self.owner, self.text])

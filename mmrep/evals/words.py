"""Masked words that a picture determines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.data import pipeline
from mmrep.errors import ConfigError, DataError
from mmrep.evals import checks
from mmrep.modality import MASK
from mmrep.model import Model


@dataclass(frozen=True)
class MaskedWords:
    """Accuracy of one masked word of each text given its own picture ("true"), and given another record's ("other"): words are told by the
    picture where they differ.

    predict: an infer function of a batch with picture and text -> logits [B, L, V] of the text's tokens.
    image, text: modalities.   only: words that may be masked, one drawn for each text; empty: any word.
    The text's tokens are BOS, one a word, EOS: set data.tokenizer.kind to "word", else ConfigError is raised.
    """

    predict: str = "words"
    image: str = "image"
    text: str = "text"
    only: tuple[str, ...] = ()
    split: str = "test"
    seed: int = 0
    name: str = "masked words"

    def run(self, model: Model) -> dict[str, float]:
        rng = np.random.default_rng(self.seed)
        texts = [t.split() for t in model.column(model.modality(self.text).source, self.split)]
        right: dict[str, list[bool]] = {"true": [], "other": []}
        start = 0
        for batch, real in pipeline.eval_batches(model.split(self.split), model.data.eval_batch_size):
            ids, pictures = np.array(batch[self.text]), np.asarray(batch[self.image])
            at, kept = np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
            for i, words in enumerate(texts[start : start + real]):
                places = [k for k, w in enumerate(words) if not self.only or w in self.only]
                if (ids[i] > 0).sum() != len(words) + 2:
                    raise ConfigError(
                        f"{' '.join(words)!r} does not have one token a word: set data.tokenizer.kind to 'word' and a text long enough"
                    )
                if places:
                    at[i], kept[i] = 1 + rng.choice(places), True
            rows = np.arange(len(ids))
            labels = ids[rows, at]
            ids[rows, at] = MASK
            other = np.concatenate([np.roll(pictures[:real], real // 2, 0), pictures[real:]])
            for kind, given in (("true", pictures), ("other", other)):
                logits = np.asarray(model.infer(self.predict, dict(batch) | {self.text: ids, self.image: given}))
                right[kind] += (logits[rows, at].argmax(-1) == labels)[kept].tolist()
            start += real
        if not right["true"]:
            raise DataError(f"MaskedWords.only is {self.only}: no text of {self.split!r} has one of these words")
        return {f"{self.name} {kind}": float(np.mean(found)) for kind, found in right.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a function that the system does not have."""
        checks.functions(names, **{"MaskedWords.predict": self.predict})

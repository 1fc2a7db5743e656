"""Tokenizers: reconstruction quality and use of the vocabulary."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmrep.evals.dense import mean_iou
from mmrep.model import Model


def code_use(ids: Int[np.ndarray, "N *place"], codes: int, heads: int = 1) -> dict[str, float]:
    """ "codes used": the share of the vocabulary that occurs; "perplexity": exp(entropy) of the ids; "perplexity share": over the vocabulary.

    heads: above 1 each entry of the last axis of `ids` has its own vocabulary, and the means over them are returned.
    """
    columns = ids.reshape(-1, heads).T
    counts = np.stack([np.bincount(column, minlength=codes) for column in columns])
    share = counts / counts.sum(1, keepdims=True)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(1)
    perplexity = float(np.exp(entropy).mean())
    return {
        "codes used": float((counts > 0).mean()),
        "perplexity": perplexity,
        "perplexity share": perplexity / codes,
    }


def errors(found: Float[np.ndarray, "N *value"], truth: Float[np.ndarray, "N *value"]) -> dict[str, float]:
    """ "MSE"; "PSNR" in dB for numbers in [0, 1]; "unexplained": MSE over the MSE of the mean example; "cosine error": the mean of 1 - cosine."""
    y, x = (a.reshape(len(a), -1).astype(np.float64) for a in (found, truth))
    mse = ((y - x) ** 2).mean()
    lengths = np.linalg.norm(y, axis=1) * np.linalg.norm(x, axis=1)
    return {
        "MSE": float(mse),
        "PSNR": float(-10 * np.log10(max(mse, 1e-12))),
        "unexplained": float(mse / max(((x - x.mean(0)) ** 2).mean(), 1e-12)),
        "cosine error": float(1 - ((y * x).sum(1) / np.maximum(lengths, 1e-12)).mean()),
    }


def detail(found: Float[np.ndarray, "N H W C"], truth: Float[np.ndarray, "N H W C"]) -> float:
    """The energy of differences between neighbouring pixels, over that of the truth: below 1 for blurred pictures."""

    def energy(x: np.ndarray) -> float:
        return sum(float((np.diff(x.astype(np.float64), axis=a) ** 2).mean()) for a in (1, 2))

    return energy(found) / max(energy(truth), 1e-12)


@dataclass(frozen=True)
class Reconstruction:
    """A tokenizer on held-out examples: `code_use` of its ids, and `errors` of the reconstruction; of images also `detail`.

    modality: a batch entry of numbers or class ids.   codes, heads: see `code_use`.
    classes:  above 0 for a class map, which has mIoU and pixel accuracy in place of the errors.
    """

    modality: str
    codes: int
    heads: int = 1
    classes: int = 0
    split: str = "test"
    tokenize: str = "tokenize"
    reconstruct: str = "reconstruct"
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        found, ids = (np.asarray(model.embed_split(f, self.split)) for f in (self.reconstruct, self.tokenize))
        truth = held_out(model, self.modality, self.split)
        label = self.name or self.modality
        scores = code_use(ids, self.codes, self.heads) | self._scores(found, truth)
        return {f"{label} {k}": v for k, v in scores.items()}

    def _scores(self, found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        if not self.classes:
            return errors(found, truth) | ({"detail": detail(found, truth)} if found.ndim == 4 else {})
        return {
            "mIoU": mean_iou(found, truth),
            "pixel accuracy": float((found == truth).mean()),
        }


def held_out(model: Model, modality: str, split: str) -> Any:
    """A modality of every usable record of the split, as batches hold it."""
    opened = model.split(split)
    return np.stack([opened.entry(int(i))[modality] for i in opened.usable()])

"""Word-patch alignment and localisation by FILIP's tokens (Yao et al. 2022, section 4.5)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from mmrep.errors import ConfigError
from mmrep.model import Model


def alignment(
    patches: Float[Array | np.ndarray, "N D"], words: Float[Array | np.ndarray, "L D"]
) -> tuple[Int[np.ndarray, " L"], Int[np.ndarray, " N"]]:
    """(each word's best patch, each patch's best word) of one pair: the word-patch alignment of section 4.5."""
    s = np.asarray(patches) @ np.asarray(words).T
    return s.argmax(0), s.argmax(1)


@dataclass(frozen=True)
class Localisation:
    """Word-patch localisation without boxes in training.

    word->patch: share of the `words` of a caption whose best patch shows at least one pixel of the object they describe.
    patch->word: share of the patches with exactly one object whose best token (BOS and EOS included) describes it.
    Needs record fields caption, caption_objects and instances, and a tokenizer of whole words. Raises ConfigError without the latter.
    """

    words: tuple[str, ...]
    patch: int
    split: str = "test"
    name: str = "localisation"

    def run(self, model: Model) -> dict[str, float]:
        patches, words = model.embed_split("image_tokens", self.split), model.embed_split("text_tokens", self.split)
        columns = [model.column(field, self.split) for field in ("caption", "caption_objects", "instances")]
        found: dict[str, list[Any]] = {"word->patch": [], "patch->word": [], "chance": []}
        for i, (caption, described, instances) in enumerate(zip(*columns)):
            split_words = caption.split(" ")
            if words[1][i].sum() < len(split_words) + 2:
                raise ConfigError(
                    f"{len(split_words)} words of {caption!r} became fewer tokens: set data.tokenizer.kind to 'word' and a text long enough"
                )
            seen = shown(instances, self.patch)
            best_patch, best_word = alignment(patches[0][i], words[0][i, : len(split_words) + 2])
            for at, (word, k) in enumerate(zip(split_words, described)):
                if k >= 0 and word.rstrip(",") in self.words:
                    found["word->patch"].append(seen[best_patch[at + 1], k])  # token 0 is BOS
                    found["chance"].append(seen[:, k].mean())
            owner = np.array([-1, *described, -1])
            alone = np.flatnonzero(seen.sum(1) == 1)
            found["patch->word"] += list(owner[best_word[alone]] == seen[alone].argmax(1))
        return {f"{self.name} {k}": float(np.mean(v)) for k, v in found.items()}


def shown(instances: Integer[np.ndarray, "H W"], patch: int, objects: int = 16) -> Bool[np.ndarray, "N K"]:
    """Which object slots have a pixel in each patch; patches row by row, instances 0 for the ground, 1 + slot for an object."""
    h, w = instances.shape[0] // patch, instances.shape[1] // patch
    pixels = instances.reshape(h, patch, w, patch).transpose(0, 2, 1, 3).reshape(h * w, -1)
    return (pixels[..., None] == 1 + np.arange(objects)).any(1)

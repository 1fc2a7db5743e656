"""Retrieval and zero-shot classification by late interaction: each side is a set of tokens, infer gives {"tokens", "valid"}."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from mmrep.errors import ConfigError
from mmrep.evals import retrieval, zero_shot
from mmrep.model import Fields, Model
from mmrep.systems.contrastive.filip.model import late_similarity

Tokens = Mapping[str, Any]
"""{"tokens": float [N, n, D] of unit length, "valid": bool [N, n]}"""

_BLOCK = 64
_similarity = jax.jit(partial(late_similarity, chunk=_BLOCK))


def late_scores(queries: Tokens, targets: Tokens) -> Float[np.ndarray, "Q T"]:
    """The mean over a query's tokens of their best match among a target's: the query's own direction of `late_similarity`."""
    return np.asarray(_similarity(queries["tokens"], queries["valid"], targets["tokens"], targets["valid"])[0])


@dataclass(frozen=True)
class LateRetrieval:
    """Retrieval in one direction, scored from the query's side: image -> text by s^I, text -> image by s^T (Yao et al. 2022)."""

    query: str
    target: str
    split: str = "test"
    ks: tuple[int, ...] = (1, 5, 10)
    query_fields: Fields = ()
    target_fields: Fields = ()
    group: str = ""
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        label = self.name or f"{self.query}->{self.target}"
        queries = model.embed_split(self.query, self.split, self.query_fields)
        targets = model.embed_split(self.target, self.split, self.target_fields)
        count = len(targets["valid"])
        positives: Any = np.arange(count)
        if self.group:
            keys = np.asarray([str(v) for v in model.column(self.group, self.split)])
            positives = keys[:, None] == keys[None, :]
        ranks = retrieval.ranks(dict(queries), dict(targets), positives, _BLOCK, late_scores)
        return {f"{label} {k}": v for k, v in retrieval.retrieval_metrics(ranks, count, self.ks).items()}


@dataclass(frozen=True)
class LateZeroShot:
    """Classification by prompts, the SIMILARITIES averaged over templates: token sets of different prompts have no mean (section 3.2).

    label: a record field with the class number, or with several, -1 for none (the objects in view): the best class has to be one of them.
    """

    classes: tuple[str, ...]
    label: str
    templates: tuple[str, ...] = ("{}",)
    query: str = "image"
    text: str = "text"
    split: str = "test"
    name: str = "zero-shot"

    def run(self, model: Model) -> dict[str, float]:
        labels = [np.unique(row[row >= 0]) for row in map(np.atleast_1d, model.column(self.label, self.split))]
        prompts = model.call(self.text, **{self.text: [t.format(c) for c in self.classes for t in self.templates]})
        queries = model.embed_split(self.query, self.split)

        def score(part: Tokens, prompts: Tokens) -> np.ndarray:
            return zero_shot.average_over_templates(late_scores(part, prompts), len(self.templates))

        ranks = retrieval.ranks(dict(queries), dict(prompts), labels, _BLOCK, score)
        chance = float(np.mean([len(row) for row in labels])) / len(self.classes)
        return {f"{self.name} accuracy": float(np.mean(ranks <= 1)), f"{self.name} chance": chance}


def alignment(
    patches: Float[Array | np.ndarray, "N D"], words: Float[Array | np.ndarray, "L D"]
) -> tuple[Int[np.ndarray, " L"], Int[np.ndarray, " N"]]:
    """(each word's best patch, each patch's best word) of one pair: the word-patch alignment of section 4.5."""
    s = np.asarray(patches) @ np.asarray(words).T
    return s.argmax(0), s.argmax(1)


@dataclass(frozen=True)
class Localisation:
    """Do words find their objects, without ever having seen a box?

    word->patch: share of the `words` of a caption whose best patch shows the object they speak of, at least one of its pixels.
    patch->word: share of the patches showing exactly one object whose best token (BOS and EOS included) speaks of it.
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
        for i, (caption, speaks_of, instances) in enumerate(zip(*columns)):
            spoken = caption.split(" ")
            if (words["tokens"][i].any(-1)).sum() < len(spoken) + 2:
                raise ConfigError(
                    f"{len(spoken)} words of {caption!r} became fewer tokens: set data.tokenizer.kind to 'word' and a text long enough"
                )
            seen = shown(instances, self.patch)
            best_patch, best_word = alignment(patches["tokens"][i], words["tokens"][i, : len(spoken) + 2])
            for at, (word, k) in enumerate(zip(spoken, speaks_of)):
                if k >= 0 and word.rstrip(",") in self.words:
                    found["word->patch"].append(seen[best_patch[at + 1], k])  # BOS stands at 0
                    found["chance"].append(seen[:, k].mean())
            owner = np.array([-1, *speaks_of, -1])
            alone = np.flatnonzero(seen.sum(1) == 1)
            found["patch->word"] += list(owner[best_word[alone]] == seen[alone].argmax(1))
        return {f"{self.name} {k}": float(np.mean(v)) for k, v in found.items()}


def shown(instances: Integer[np.ndarray, "H W"], patch: int, objects: int = 16) -> Bool[np.ndarray, "N K"]:
    """Which object slots each patch shows with at least one pixel; patches in reading order, instances 0 ground, 1 + slot."""
    h, w = instances.shape[0] // patch, instances.shape[1] // patch
    pixels = instances.reshape(h, patch, w, patch).transpose(0, 2, 1, 3).reshape(h * w, -1)
    return (pixels[..., None] == 1 + np.arange(objects)).any(1)

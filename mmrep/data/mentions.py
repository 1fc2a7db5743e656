"""A knowledge base whose names are ambiguous: the entity's text names one object, its picture shows another."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.data.scenes.rgb import rgb
from mmrep.data.scenes.source import SPLIT_START
from mmrep.data.scenes.world import COLOURS, SHAPES, WorldSpec, sample
from mmrep.errors import ConfigError

KINDS = ("text", "image", "crossed")


@dataclass(frozen=True)
class MentionData:
    """Mentions of entities; `homonyms` entities share a name, and differ in the object that their text names and in the one that they show.

    Records: mention_text, entity_text str: the name, and words of an object (colour, shape) or none; mention_image, entity_image: a picture
    uint8 [size, size, 3] of an object, or with size 0 codes float32 [4, 24], noisy vectors of its shape and of its colour, twice each;
    entity_id, name int32; kind str, how the mention can be told from its homonyms:
    "text": its words are the entity's words, its picture shows anything.   "image": it has no words, its picture is the entity's object.
    "crossed": its words name the object that the entity's picture shows, its picture shows the object that the entity's text names.
    present float32 [2]: 0 where an image is missing, each with probability `missing`, in training only; "text" mentions lose theirs alone.
    unseen: share of the names whose entities occur in val and test only.
    """

    n_train: int = 4000
    n_val: int = 400
    n_test: int = 600
    names: int = 60
    homonyms: int = 4
    unseen: float = 0.2
    size: int = 0
    noise: float = 0.5
    missing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.homonyms <= 64 or self.names < 5:
            raise ConfigError(
                f"names is {self.names} and homonyms {self.homonyms}: give 5 names or more of 2 to 64 entities"
            )
        if not 0 < self.unseen < 1 or not 0 <= self.missing < 1:
            raise ConfigError(
                f"unseen is {self.unseen} and missing {self.missing}: give shares below 1, unseen above 0"
            )

    @property
    def side(self) -> int:
        """First and second words of names, each."""
        return math.ceil(self.names**0.5)

    def objects(self) -> np.ndarray:
        """[entities, 2] objects in [0, 64): shape * 8 + colour of the one that the text names, and of the one that the picture shows."""
        rng = np.random.default_rng((self.seed, 7))
        return np.concatenate([
            np.stack([rng.permutation(64)[: self.homonyms] for _ in range(2)], 1) for _ in range(self.names)
        ])  # fmt: skip

    def _latent(self, split: str) -> dict[str, np.ndarray]:
        n = splits.size(self, split)
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split)))
        known = max(1, round(self.names * (1 - self.unseen)))
        first, last = (0, known) if split == "train" else (known, self.names)
        entity = rng.integers(first * self.homonyms, last * self.homonyms, n)
        kind = np.arange(n) % 3
        said, shown = self.objects()[entity].T
        anything = rng.integers(0, 64, n)
        words = np.choose(kind, [said, np.full(n, -1), shown])
        picture = np.choose(kind, [anything, shown, said])
        here = rng.random((n, 2)) >= (self.missing if split == "train" else 0.0)
        here[kind != 0] = True
        return {
            "entity": entity,
            "kind": kind,
            "words": words,
            "picture": picture,
            "said": said,
            "shown": shown,
            "here": here,
        }

    def open(self, split: str) -> Columns:
        latent = self._latent(split)
        texts = self._texts(latent)
        return Columns({
            "mention_text": texts[0], "entity_text": texts[1],
            "mention_image": self._images(latent["picture"], split, 0), "entity_image": self._images(latent["shown"], split, 1),
            "entity_id": latent["entity"].astype(np.int32), "name": (latent["entity"] // self.homonyms).astype(np.int32),
            "kind": [KINDS[k] for k in latent["kind"]], "present": latent["here"].astype(np.float32),
        })  # fmt: skip

    def _texts(self, latent: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
        def of(objects: np.ndarray) -> list[str]:
            # Two words a name, each of which occurs in training too.
            order = np.random.default_rng((self.seed, 3)).permutation(self.side**2)
            names = [
                f"a{order[e // self.homonyms] // self.side} b{order[e // self.homonyms] % self.side}"
                for e in latent["entity"]
            ]
            said = ["" if o < 0 else f" {COLOURS[o % 8]} {SHAPES[o // 8]}" for o in objects]
            return [f"{n}{s}" for n, s in zip(names, said)]

        return of(latent["words"]), of(latent["said"])

    def _images(self, objects: np.ndarray, split: str, side: int) -> np.ndarray:
        shape, colour = np.divmod(objects, 8)
        if self.size:
            ids = np.arange(len(objects)) * 2 + side + SPLIT_START[split]
            scenes = sample(self.seed, ids, WorldSpec(n_objects=(1, 1), shapes=SHAPES[:8], colours=COLOURS[:8]))
            return rgb(scenes._replace(shape=shape[:, None], colour=colour[:, None]), self.size, self.seed)
        codes = np.random.default_rng((self.seed, 5)).standard_normal((2, 8, 24))
        rng = np.random.default_rng((self.seed, 11, splits.NAMES.index(split), side))
        clean = np.stack([codes[0][shape], codes[1][colour]] * 2, 1)
        return (clean + self.noise * rng.standard_normal(clean.shape)).astype(np.float32)

    def texts(self, split: str) -> Iterator[str]:
        for side in self._texts(self._latent(split)):
            yield from side

    def view(self, record: Record, rng: np.random.Generator | None) -> dict[str, Any]:
        return record

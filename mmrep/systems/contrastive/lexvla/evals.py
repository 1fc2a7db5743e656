"""Which words the patches of a picture have, and how many."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mmrep.errors import DataError
from mmrep.evals import checks
from mmrep.evals.dense import mean_iou, patch_classes
from mmrep.model import Model


def named(patches: Float[np.ndarray, "B N V"], words: Float[np.ndarray, "K V"]) -> Int[np.ndarray, "B N"]:
    """The class with the largest cosine to each unit patch vector."""
    return (patches @ words.T).argmax(-1)


@dataclass(frozen=True)
class PatchDis:
    """mIoU of a class map whose patches have the class of the most similar word ("mIoU"); "commonest" of the commonest class everywhere.

    classes: names of the ids first, first + 1, ... of the record field `field`; pixels of other ids do not count.
    patch:  pixels of the class map along a side of a patch.   vectors: infer function of the words' vectors, "bag" or "text".
    """

    classes: tuple[str, ...]
    patch: int
    field: str = "semseg"
    first: int = 1
    vectors: str = "text"
    split: str = "test"
    name: str = "PatchDis"

    def run(self, model: Model) -> dict[str, float]:
        patches, _ = model.embed_split("image_tokens", self.split)
        truth = patch_classes(np.stack(model.column(self.field, self.split)), self.patch) - self.first
        words = np.asarray(model.call(self.vectors, text=list(self.classes)))
        found = np.broadcast_to(named(patches, words)[..., None], truth.shape)
        kept = (truth >= 0) & (truth < len(self.classes))
        if not kept.any():
            raise DataError(f"PatchDis.field is {self.field!r}: no pixel of {self.split!r} has one of the classes")
        commonest = np.full(truth.shape, np.bincount(truth[kept]).argmax())
        return {
            f"{self.name} mIoU": mean_iou(found[kept], truth[kept]),
            f"{self.name} commonest": mean_iou(commonest[kept], truth[kept]),
        }

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.functions(names, **{"PatchDis.vectors": self.vectors, "PatchDis needs": "image_tokens"})
        checks.fields(split(self.split), [self.field])


@dataclass(frozen=True)
class PatchWords:
    """Share of the regions that a caption describes whose largest word of the whole vocabulary is one that describes them ("accuracy").

    owner: record field, int [L]: the region of each word of `text`, -1 for none.   "chance" is a random word.
    Raises DataError where no caption of the split describes a region.
    """

    owner: str = "owner"
    text: str = "text"
    split: str = "test"
    name: str = "patch words"

    def run(self, model: Model) -> dict[str, float]:
        patches, _ = model.embed_split("image_tokens", self.split)
        texts, owners = (model.column(field, self.split) for field in (self.text, self.owner))
        known = sorted({w for text in texts for w in text.split()})
        place = dict(zip(known, np.asarray(model.call("bag", text=known)).argmax(1)))
        right, chance = [], []
        for row, text, owner in zip(patches, texts, owners):
            told: dict[int, set[int]] = {}
            for word, region in zip(text.split(), owner):
                if region >= 0:
                    told.setdefault(int(region), set()).add(place[word])
            right += [row[region].argmax() in words for region, words in told.items()]
            chance += [len(words) / row.shape[-1] for words in told.values()]
        if not right:
            raise DataError(f"PatchWords.owner is {self.owner!r}: no caption of {self.split!r} describes a region")
        return {f"{self.name} accuracy": float(np.mean(right)), f"{self.name} chance": float(np.mean(chance))}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.functions(names, **{"PatchWords needs": "image_tokens"})
        checks.fields(split(self.split), [self.owner, self.text])


@dataclass(frozen=True)
class ActiveWords:
    """The mean number of words that are not 0 in the vectors of each modality, and the share of a modality's mass on `words`, fillers say."""

    modalities: tuple[str, ...] = ("image", "text")
    words: tuple[str, ...] = ()
    split: str = "test"
    name: str = "words"

    def run(self, model: Model) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in self.modalities:
            vectors = model.embed_split(name, self.split)
            found[f"{self.name} active {name}"] = float((vectors > 0).sum(1).mean())
            if self.words:
                at = np.asarray(model.call("bag", text=list(self.words))).any(0)
                found[f"{self.name} mass {name}"] = float((vectors[:, at].sum(1) / vectors.sum(1)).mean())
        return found

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError where the system has no vectors of a modality."""
        checks.functions(names, **{f"ActiveWords.modalities {n}": n for n in self.modalities})

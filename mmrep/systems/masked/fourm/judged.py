"""4M's outputs judged on synthetic scenes: maps and captions from a picture, and pictures from a caption, each beside its floors.

Pictures are judged by classifiers of objects that were trained on real renderings; their own accuracy on held-out renderings stands
beside each result, and bounds it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mmrep.data import pipeline
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.evals.dense import mean_iou
from mmrep.model import Model
from mmrep.systems.masked.fourm.evals import generated
from mmrep.systems.masked.fourm.schedules import Target

SIDE = 12  # of an object's outline as a classifier has it
LEAST = 12  # pixels of an object


@dataclass(frozen=True)
class DecodedMaps:
    """Maps decoded from the most likely ids of all tokens at once, given other modalities, against the true maps.

    Class maps: "mIoU"; numbers: "R2", 1 minus the squared error in units of that of the training mean. Beside each: the same from
    another scene's input ("shuffled"), and of the tokenizer's reconstruction of the truth ("tokens"), which no prediction exceeds by much.
    """

    given: tuple[str, ...]
    targets: tuple[str, ...]
    limit: int = 200
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        infer, entries = model.tokens(), _entries(model, self.split, self.limit)
        batch = pipeline.collate(entries)
        given = {k: batch[k] for k in self.given}
        other = {k: np.roll(v, 1, axis=0) for k, v in given.items()}
        own, shuffled = (infer.detokenize(model.infer("predict", g)) for g in (given, other))
        truth = {k: batch[k] for k in self.targets}
        tokens = infer.detokenize(infer.tokenize(truth)[0])
        mean = pipeline.collate(_entries(model, "train", 300))
        found = {}
        for name in self.targets:
            for label, maps in (("", own), (" shuffled", shuffled), (" tokens", tokens)):
                key = f"{'+'.join(self.given)}->{name}"
                if truth[name].ndim == 3:
                    found[f"{key} mIoU{label}"] = mean_iou(np.asarray(maps[name]), truth[name])
                else:
                    error = np.square(np.asarray(maps[name]) - truth[name]).mean()
                    whole = np.square(mean[name].mean(0) - truth[name]).mean()
                    found[f"{key} R2{label}"] = float(1 - error / whole)
        return found


Object = tuple[str, str]
"""(colour, shape) by name."""


def objects(text: str) -> list[Object]:
    """The objects that a caption names, in its order: each shape with the last colour before it ("" for none)."""
    found, colour = [], ""
    for word in text.replace(",", " ").split():
        if word in COLOURS:
            colour = word
        elif word in SHAPES:
            found.append((colour, word))
            colour = ""
    return found


def agreement(found: Sequence[Sequence[Object]], asked: Sequence[Sequence[Object]]) -> dict[str, float]:
    """Shares, in [0, 1]: of scenes whose colours, shapes and objects are all right and no more ("all colours", ...), and of single ones.

    The single ones ("colours", ...) are counted over the larger number of asked and found ones of each scene: more found is not more right.
    """
    parts = {"colours": lambda o: o[0], "shapes": lambda o: o[1], "objects": lambda o: o}
    scores = {}
    for name, part in parts.items():
        pairs = [(Counter(map(part, f)), Counter(map(part, a))) for f, a in zip(found, asked)]
        scores[f"all {name}"] = float(np.mean([f == a for f, a in pairs]))
        most = sum(max(f.total(), a.total()) for f, a in pairs)
        scores[name] = sum((f & a).total() for f, a in pairs) / max(most, 1)
    return scores


@dataclass(frozen=True)
class CaptionFacts:
    """Captions generated from a picture: the objects that they name against those that the true caption names, see `agreement`.

    Beside each: the true caption of another scene ("another").
    """

    given: tuple[str, ...] = ("rgb",)
    limit: int = 200
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        infer, entries = model.tokens(), _entries(model, self.split, self.limit)
        ids, values = infer.tokenize(pipeline.collate(entries))
        texts = [model.tokenize.decode(e["caption"]) for e in entries]
        schedule = (Target("caption", "autoregressive", temperature=0.0),)
        own = {k: v for k, v in values.items() if k in self.given}
        made = generated(infer, {k: ids[k] for k in self.given}, own, schedule)["caption"]
        asked = [objects(t) for t in texts]
        written = [objects(model.tokenize.decode(row)) for row in np.asarray(made)]
        sides = {"": written, " another": asked[1:] + asked[:1]}
        key = f"{'+'.join(self.given)}->caption"
        return {f"{key} {k}{label}": v for label, side in sides.items() for k, v in agreement(side, asked).items()}


@dataclass(frozen=True)
class DrawnFacts:
    """Pictures generated from captions: the objects in them, by a `Judge`, against those that the caption names, see `agreement`.

    Beside each: real pictures of the same scenes ("real", the judge's own accuracy), and of other scenes ("another").
    """

    schedule: tuple[Target, ...]
    name: str
    limit: int = 200
    fit: int = 1500
    split: str = "test"
    seed: int = 0

    def run(self, model: Model) -> dict[str, float]:
        infer, entries = model.tokens(), _entries(model, self.split, self.limit)
        batch = pipeline.collate(entries)
        ids, values = infer.tokenize({"caption": batch["caption"]})
        made = generated(infer, ids, values, self.schedule, self.seed)["rgb"]
        pictures = np.asarray(infer.detokenize({"rgb": np.asarray(made)})["rgb"])
        asked = [objects(model.tokenize.decode(row)) for row in batch["caption"]]
        judge = Judge.fit(model.records("train", self.fit))
        drawn, real = ([judge(x) for x in side] for side in (pictures, batch["rgb"]))
        sides = {"": drawn, " real": real, " another": real[1:] + real[:1]}
        return {
            f"{self.name} {k}{label}": v for label, side in sides.items() for k, v in agreement(side, asked).items()
        }


class Part(NamedTuple):
    """One object of a picture: its mean colour, its outline as SIDE x SIDE shares, and its number of pixels."""

    colour: Float[np.ndarray, "3"]
    outline: Float[np.ndarray, " P"]
    size: int


def parts(picture: Float[np.ndarray, "H W 3"]) -> list[Part]:
    """The connected regions that differ from the ground, whose colour is the median of the picture's border."""
    from scipy import ndimage

    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    away = np.abs(picture - np.median(border, axis=0)).max(-1)
    labels, count = ndimage.label(away > 0.18)
    found = []
    for i, (rows, columns) in enumerate(ndimage.find_objects(labels, count), start=1):
        mask: Bool[np.ndarray, "h w"] = labels[rows, columns] == i
        if mask.sum() >= LEAST:
            inner = ndimage.binary_erosion(mask)
            colour = picture[rows, columns][inner if inner.any() else mask].mean(0)
            found.append(Part(colour, _outline(mask), int(mask.sum())))
    return found


def _outline(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, " P"]:
    """The mask in a square, resized to SIDE x SIDE by means."""
    from PIL import Image

    side = max(mask.shape)
    square = np.zeros((side, side), np.float32)
    top, left = (side - mask.shape[0]) // 2, (side - mask.shape[1]) // 2
    square[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1)


class Judge(NamedTuple):
    """Classifiers of an object's colour and shape, trained on real renderings."""

    colour: Any
    shape: Any

    @classmethod
    def fit(cls, records: Sequence[Mapping[str, Any]]) -> "Judge":
        """On the objects of scenes with one object, whose record names its colour and shape."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier

        rows = []
        for r in records:
            found = parts(_numbers(r["rgb"])) if int(r["n_objects"]) == 1 else []
            if len(found) == 1:
                rows.append((found[0], COLOURS[int(r["colour"])], SHAPES[int(r["shape"])]))
        colour = KNeighborsClassifier(5).fit([p.colour for p, _, _ in rows], [c for _, c, _ in rows])
        shape = LogisticRegression(C=10, max_iter=300).fit([p.outline for p, _, _ in rows], [s for _, _, s in rows])
        return cls(colour, shape)

    def __call__(self, picture: Float[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W 3"]) -> list[Object]:
        found = parts(_numbers(picture))
        if not found:
            return []
        colours = self.colour.predict([p.colour for p in found])
        return list(zip(colours, self.shape.predict([p.outline for p in found])))


def _numbers(picture: Any) -> Float[np.ndarray, "H W 3"]:
    x = np.asarray(picture)
    return x.astype(np.float32) / 255 if x.dtype == np.uint8 else x


def _entries(model: Model, split: str, limit: int) -> list[dict[str, Any]]:
    opened = model.split(split)
    return [opened.entry(i) for i in range(min(limit, len(opened)))]

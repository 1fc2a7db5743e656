"""Fixed features beside each record: gradients and colours of its picture, counts of its words. Real data at the cost of vectors."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError, DataError
from mmrep.nn.encoders.sketch import oriented_gradients

Images = Sequence[np.ndarray] | np.ndarray


@dataclass(frozen=True)
class Features:
    """`source` with two more fields: gradients float32 [D], see `gradients` (D depends on no size of the picture), and words float32 [words],
    the counts of the commonest words of the training split, by falling frequency.

    image: the field of the picture, uint8 [S, S, 3]; empty: no gradients.   text: fields whose words are counted, of the evaluation view
           or the record; a list or tuple of texts counts whole.
    cells: of the gradients' grid.   words: 0 leaves the counts out.
    Augmentation of the source does not apply: features are those of the evaluation view, computed once a process.
    """

    source: Any
    image: str = "image"
    text: tuple[str, ...] = ("text",)
    cells: int = 8
    words: int = 400

    def __post_init__(self) -> None:
        if not (self.image or self.words):
            raise ConfigError("Features: image is empty and words is 0: nothing to compute")
        if self.cells < 1 or self.words < 0 or (self.words and not self.text):
            raise ConfigError(
                f"Features: cells is {self.cells}, words {self.words}, text {self.text}: give cells of 1 or more, words of 0 or more, and text fields to count"
            )

    def open(self, split: str) -> Sequence[Record]:
        return _records(self, split)

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record

    def words_of(self, record: Any) -> list[str]:
        """The words that are counted, lower case."""
        shown, found = self.source.view(record, None), []
        for name in self.text:
            if name not in shown and name not in record:
                raise DataError(
                    f"Features.text names {name!r}, which records lack; they have {', '.join(sorted(shown))}"
                )
            value = shown[name] if name in shown else record[name]
            found += [value] if isinstance(value, str) else [str(v) for v in value]
        return " ".join(found).lower().replace(",", " ").split()


@lru_cache(maxsize=4)
def _vocabulary(source: Features) -> tuple[str, ...]:
    counts = Counter(w for record in source.source.open("train") for w in source.words_of(record))
    return tuple(w for w, _ in sorted(counts.items(), key=lambda wc: (-wc[1], wc[0]))[: source.words])


@lru_cache(maxsize=12)
def _records(source: Features, split: str) -> Columns:
    splits.check(split)
    records = source.source.open(split)
    shown = [source.source.view(record, None) for record in records]
    columns: dict[str, Any] = {name: [s[name] for s in shown] for name in shown[0]}
    if source.image:
        if source.image not in shown[0]:
            raise DataError(f"Features.image is {source.image!r}, a field that records lack")
        columns["gradients"] = gradients(columns[source.image], source.cells)
    if source.words:
        place = {w: i for i, w in enumerate(_vocabulary(source))}
        counts = np.zeros((len(shown), source.words), np.float32)
        for row, record in zip(counts, records):
            for w in source.words_of(record):
                if w in place:
                    row[place[w]] += 1
        columns["words"] = counts
    return Columns(columns)


def pixels(images: Images, side: int = 16) -> Float[np.ndarray, "N D"]:
    """Colours of the image, averaged over side x side cells."""
    x = np.stack([np.asarray(i) for i in images]).astype(np.float32) / 255.0
    step = x.shape[1] // side
    x = x[:, : side * step, : side * step].reshape(len(x), side, step, side, step, -1)
    return x.mean((2, 4)).reshape(len(x), -1)


def gradients(images: Images, cells: int = 8, bins: int = 9, colours: int = 4) -> Float[np.ndarray, "N D"]:
    """Histograms of oriented gradients in cells x cells (Dalal and Triggs 2005), 8 x 8 mean colours, and a histogram of `colours`^3 colours."""
    x = np.stack([np.asarray(i) for i in images]).astype(np.float32) / 255.0
    n, size = len(x), x.shape[1]
    hog = np.asarray(jax.jit(oriented_gradients, static_argnums=(1, 2))(x, cells, bins))
    codes = (x.reshape(n, -1, 3) * (colours - 1e-3)).astype(int) @ np.array([colours**2, colours, 1])
    histogram = np.stack([np.bincount(c, minlength=colours**3) for c in codes]).astype(np.float32) / size**2
    return np.concatenate([hog, pixels(images, 8), np.sqrt(histogram)], 1)

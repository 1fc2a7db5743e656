"""A source over embeddings that are stored already."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import DataError

Folders = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Stored:
    """Embeddings in folders of experiments.embed, or .npy arrays [N, D]: (field, path) for each field of a split.

    Rows belong together. With `unpaired` this holds in the training split for the fields `<modality>_<...>` of one modality alone; shorter
    corpora of other modalities repeat.   Raises DataError for paths without embeddings and for lengths that do not fit.
    """

    train: Folders = ()
    val: Folders = ()
    test: Folders = ()
    unpaired: bool = False

    def open(self, split: str) -> Columns:
        splits.check(split)
        read = {name: vectors(Path(path)) for name, path in getattr(self, split)}
        columns = {name: x for name, (_, x) in read.items()}
        if not columns:
            raise DataError(f"Stored.{split} is empty: name a folder for each field")
        together: dict[str, list[str]] = {}
        for name in columns:
            together.setdefault(name.partition("_")[0] if self.unpaired and split == "train" else "all", []).append(
                name
            )
        for names in together.values():
            first = read[names[0]][0]
            if other := next((name for name in names if not np.array_equal(read[name][0], first)), None):
                raise DataError(
                    f"Stored.{split}: {names[0]} and {other} hold other records, {len(first)} and {len(columns[other])}: embed the same ones"
                )
        n = max(len(x) for x in columns.values())
        return Columns({name: x[np.arange(n) % len(x)] for name, x in columns.items()})

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


def vectors(path: Path) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N D"]]:
    """(record numbers, embeddings) of a folder of experiments.embed or of an .npy array. Raises DataError where there are none."""
    parts = sorted(path.glob("embeddings-*.npy")) if path.is_dir() else [path]
    try:
        found = np.concatenate([np.load(p, allow_pickle=False) for p in parts]).astype(np.float32)
        if found.ndim != 2:
            raise ValueError(f"shape {list(found.shape)}, not [N, D]")
        numbers = [np.load(p, allow_pickle=False) for p in sorted(path.glob("ids-*.npy"))] if path.is_dir() else []
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} has no embeddings ({error}): give a folder of experiments.embed or an .npy array"
        ) from None
    return np.concatenate(numbers).astype(np.int64) if numbers else np.arange(len(found)), found

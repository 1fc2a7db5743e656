"""Triples of query, target and hard negatives as records: of a file of JSON lines."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data import cells, decode, splits
from mmrep.data.decode import Limits
from mmrep.data.synthesis import content_id
from mmrep.errors import ConfigError, DataError

Record = Mapping[str, Any]
NOTHING = "-"  # the text of a side without text; its tokens are masked
NAMED = ("instruction", "query_text", "target_text", "query_image", "target_image", "negative_text", "negative_image")


def fields(
    row: Mapping[str, Any], negatives: int, blank: np.ndarray, load: Callable[[Any], np.ndarray]
) -> dict[str, Any]:
    """The record of one row: texts and pictures of its sides and of `negatives` hard negatives, and which of them there are.

    blank: in the place of a missing picture.   load: what a row holds of a picture -> its array.
    Raises DataError for a row whose query or target has neither text nor picture, or without instruction.
    """
    if not str(row.get("instruction") or "").strip():
        raise DataError("there is no instruction")
    record: dict[str, Any] = {"instruction": row["instruction"]}
    texts, images = ([x for x in row.get(f"negative_{p}") or () if x is not None] for p in ("text", "image"))
    sides = [(name, row.get(f"{name}_text"), row.get(f"{name}_image")) for name in ("query", "target")]
    for name, text, image in sides:
        if not (text or image is not None):
            raise DataError(f"the {name} has neither text nor picture")
        record |= {f"{name}_text": text or NOTHING, f"{name}_image": blank if image is None else load(image)}
        record[f"{name}_has"] = np.array([bool(text), image is not None], np.float32)
    pairs = [(texts[k] if k < len(texts) else "", images[k] if k < len(images) else None) for k in range(negatives)]
    record["negative_text"] = [t or NOTHING for t, _ in pairs]
    record["negative_image"] = np.stack([blank if i is None else load(i) for _, i in pairs])
    record["negative_has"] = np.array([[bool(t), i is not None] for t, i in pairs], np.float32)
    record["target_id"] = content_id(sides[1][1] or "", sides[1][2])
    return record


@dataclass(frozen=True)
class Triples:
    """Rows of `path` (.jsonl, what `experiments.synthesise` writes, or .parquet): instruction, query_text, query_image, target_text,
    target_image, and lists negative_text and negative_image. A picture is a path, relative to the file, or numbers (codes, a list of lists).

    negatives: hard negatives of a record; further ones are left out, missing ones are masked.   size: height and width of pictures, to which
    they are brought.   shape: of codes, in the place of pictures.   fractions: shares of train, val and test, hashed from query and picture.
    """

    path: str
    negatives: int = 3
    size: tuple[int, int] = (32, 32)
    shape: tuple[int, ...] = ()
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        splits.check_fractions(self.fractions)
        if self.negatives < 1:
            raise ConfigError(f"Triples.negatives is {self.negatives}: give at least 1")

    def open(self, split: str) -> "TripleRecords":
        splits.check(split)
        found = cells.read(self.path, lambda columns: [c for c in NAMED if c in columns])
        rows = [{c: v[i] for c, v in found.columns.items()} for i in range(len(found.lines))]
        keys = [repr((r.get("query_text"), r.get("query_image"))) for r in rows]
        chosen = splits.choose(
            range(len(rows)),
            lambda i: splits.hashed(keys[i], self.fractions),
            split,
            self.path,
            "add rows or set fractions",
        )
        return TripleRecords(self, tuple((found.where(i), found.bad.get(i, ""), rows[i]) for i in chosen))

    def texts(self, split: str) -> Iterator[str]:
        for _, _, row in self.open(split).rows:
            yield from (row[n] for n in ("instruction", "query_text", "target_text") if row.get(n))
            yield from (t for t in row.get("negative_text") or () if t)
        yield NOTHING

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


class TripleRecords(Sequence[Record]):
    def __init__(self, source: Triples, rows: tuple[tuple[str, str, Mapping[str, Any]], ...]) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        where, bad, row = self.rows[i]
        if bad:
            raise DataError(f"{where}: {bad}")
        source = self.source
        blank = np.zeros(source.shape, np.float32) if source.shape else np.zeros((*source.size, 3), np.uint8)
        try:
            return fields(row, source.negatives, blank, self._load) | {"file": where}
        except DataError as error:
            raise DataError(f"{where}: {error}") from None

    def _load(self, image: Any) -> np.ndarray:
        source = self.source
        if source.shape:
            array = np.asarray(image, np.float32)
            if array.shape != source.shape:
                raise DataError(f"codes have the shape {list(array.shape)}, Triples.shape is {list(source.shape)}")
            return array
        if not isinstance(image, str):
            raise DataError(
                f"a picture is {type(image).__name__}: give the path of its file, or set Triples.shape for codes"
            )
        path = decode.locate(os.path.join(os.path.dirname(self.source.path), os.path.expanduser(image)))
        pixels = decode.image(decode.read(path, source.limits), path, source.limits)
        return np.asarray(_resized(pixels, source.size), np.uint8)


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC))

"""A corpus as shards of embeddings on disk, and nearest neighbours in it: exact, or approximate through faiss.

A corpus folder holds corpus.json (which data, which model) and for every shard k embeddings-KKKKK.npy [n,D] float32 and
ids-KKKKK.npy [n] int64, the record numbers. A shard is complete once its embeddings exist; every file is written whole.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from mmrep import paths
from mmrep.data.contents import Contents, difference
from mmrep.errors import ConfigError, DataError, near

KINDS = ("exact", "ivf", "ivfpq")
Embed = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


class Hits(NamedTuple):
    """ids: record numbers, best first.   scores: dot products with the query (ivfpq: with the decompressed vectors)."""

    ids: Int[np.ndarray, "Q K"]
    scores: Float[np.ndarray, "Q K"]


class Corpus:
    """The shards in `folder`. Raises DataError where there is no corpus."""

    def __init__(self, folder: paths.Place):
        self.folder = folder
        try:
            self.about = json.loads(paths.text(folder / "corpus.json"))
        except (OSError, ValueError):
            raise DataError(
                f"{folder} holds no corpus (no readable corpus.json): run experiments.embed first"
            ) from None

    @property
    def shards(self) -> int:
        return -(-self.about["records"] // self.about["shard_size"])

    def has(self, shard: int) -> bool:
        return paths.exists(_path(self.folder, "embeddings", shard))

    def whole(self) -> None:
        """Raises DataError naming the first missing shard."""
        missing = [k for k in range(self.shards) if not self.has(k)]
        if missing:
            raise DataError(
                f"{self.folder} lacks {len(missing)} of {self.shards} shards, first {missing[0]}: the same experiments.embed command goes on there"
            )

    def check(self, now: Contents) -> None:
        """Raises DataError where the split no longer holds what was embedded: record numbers would name other records."""
        before = self.about.get("contents", now)
        if told := difference(before, now):
            raise DataError(
                f"the split {self.about['split']!r} has changed since it was embedded in {self.folder} (it had {told}): embed it again, or "
                "name where it is now with --data.source.path"
            )

    def read(self) -> Iterator[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n D"]]]:
        """(record numbers, embeddings) shard by shard. Raises DataError for a missing or damaged shard."""
        self.whole()
        for k in range(self.shards):
            try:
                ids = _array(_path(self.folder, "ids", k))
                vectors = _array(_path(self.folder, "embeddings", k))
                if vectors.ndim != 2 or len(ids) != len(vectors):
                    raise ValueError(f"{len(ids)} ids and embeddings of shape {list(vectors.shape)}")
            except (OSError, ValueError, EOFError) as error:
                raise DataError(
                    f"shard {k} of {self.folder} is damaged ({error}): remove its files and embed again"
                ) from None
            yield ids, vectors


def _path(folder: paths.Place, what: str, shard: int) -> paths.Place:
    return folder / f"{what}-{shard:05d}.npy"


def _array(path: paths.Place) -> np.ndarray:
    return np.load(io.BytesIO(paths.read(path)) if paths.is_url(path) else path, allow_pickle=False)


def write(
    folder: paths.Place,
    about: dict[str, Any],
    embed: Embed,
    part: tuple[int, int] = (0, 1),
    say: Callable[[str], None] = print,
) -> int:
    """Fills `folder` with the shards that it lacks, and returns how many were written.

    about: at least {"records", "shard_size"}; all of it must equal what stands in the folder.   embed: (first, last) -> (ids, vectors).
    part:  (i, n): only shards k with k mod n = i, so that n hosts share the work.
    Raises ConfigError where the folder holds another corpus, DataError where the split changed since its first shards were written.
    """
    paths.make(folder, "give another --out")
    stored = folder / "corpus.json"
    if paths.exists(stored):
        before = Corpus(folder).about
        if "contents" in about:
            Corpus(folder).check(about["contents"])
        other = [k for k in about if before.get(k) != about[k]]
        if other:
            raise ConfigError(f"{folder} holds another corpus ({', '.join(other)} differ): give another --out")
    elif any(name.endswith(".npy") for name in paths.names(folder)):
        raise ConfigError(f"{folder} holds .npy files and no corpus.json: give another --out")
    else:
        paths.replace(stored, json.dumps(about, indent=1))
    corpus, written = Corpus(folder), 0
    for k in range(part[0], corpus.shards, part[1]):
        if corpus.has(k):
            continue
        low = k * about["shard_size"]
        ids, vectors = embed(low, min(low + about["shard_size"], about["records"]))
        for what, array in (("ids", ids.astype(np.int64)), ("embeddings", vectors.astype(np.float32))):
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            paths.replace(_path(folder, what, k), data.getvalue())
        written += 1
        say(f"shard {k + 1} of {corpus.shards}: {len(ids)} records")
    return written


class Index(NamedTuple):
    """A faiss index over a corpus whose row r is record ids[r].   bits: of codes in {-1, 1}, which are packed; 0 for other vectors."""

    kind: str
    ids: Int[np.ndarray, " N"]
    faiss: Any
    bits: int = 0

    def search(self, queries: Float[np.ndarray, "Q D"], k: int = 10) -> Hits:
        """The k nearest by dot product; fewer where the corpus is smaller. An approximate search fills up with id -1.

        Codes are ranked by Hamming distance h over packed bits; their dot product is bits - 2 h.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        dim = self.bits or self.faiss.d
        if queries.shape[1] != dim:
            raise ConfigError(f"the queries have {queries.shape[1]} dimensions and the corpus {dim}: use one space")
        if self.bits:
            if not is_code(queries):
                raise ConfigError("the corpus holds codes in {-1, 1} and the queries do not: use one space")
            distances, rows = self.faiss.search(packed(queries), min(k, len(self.ids)))
            return Hits(self.ids[rows], (self.bits - 2 * distances).astype(np.float32))
        scores, rows = self.faiss.search(queries, min(k, len(self.ids)))
        return Hits(np.where(rows < 0, -1, self.ids[rows]), scores)


def is_code(x: Float[np.ndarray, "N D"]) -> bool:
    """Whether all values are -1 or 1."""
    return bool((np.abs(x) == 1).all())


def packed(codes: Float[np.ndarray, "N D"]) -> UInt8[np.ndarray, "N W"]:
    """Codes in {-1, 1}, eight to a byte; the last byte is filled up with zeros."""
    return np.packbits(codes > 0, axis=1)


def build(corpus: Corpus, kind: str = "exact", lists: int = 0, probe: int = 0, codes: int = 0) -> Index:
    """An index of `kind` over `corpus`; an approximate one is kept in its folder.

    exact: all dot products; of codes in {-1, 1} by Hamming distance over packed bits.   ivf: those of the `probe` nearest of `lists` clusters.   ivfpq: of these, with vectors compressed to
    `codes` parts of 8 bits. Zeros choose: lists 4 sqrt(N) but 39 vectors each, an eighth of them probed (8 at least), 4 dimensions a part.
    Raises ConfigError for an unknown kind, a corpus too small to cluster, or `codes` that does not divide the dimension.
    """
    import faiss

    if kind not in KINDS:
        raise ConfigError(f"--index {kind!r} is unknown{near(kind, KINDS)}")
    ids, parts = [], []
    for i, x in corpus.read():
        ids.append(i)
        parts.append(x)
    rows, vectors = np.concatenate(ids), np.concatenate(parts)
    n, d = vectors.shape
    if kind == "exact" and is_code(vectors):
        binary = faiss.IndexBinaryFlat(8 * -(-d // 8))
        binary.add(packed(vectors))
        return Index(kind, rows, binary, d)
    if kind == "exact":
        flat = faiss.IndexFlatIP(d)
        flat.add(vectors)
        return Index(kind, rows, flat)
    if kind == "ivfpq" and n < 256:
        raise ConfigError(f"{n} vectors are too few to learn 256 codes: use --index exact")
    lists = lists or max(1, min(int(4 * n**0.5), n // 39))
    codes = codes or next(c for c in range(max(d // 4, 1), 0, -1) if d % c == 0)
    if lists > n or d % codes:
        raise ConfigError(f"lists {lists} must not exceed {n} vectors, and codes {codes} must divide the dimension {d}")
    name = f"IVF{lists},Flat" if kind == "ivf" else f"IVF{lists},PQ{codes}"
    kept = corpus.folder / f"{name.lower().replace(',', '-')}.faiss"
    index: Any = None
    if paths.exists(kept):
        with paths.fetched(kept) as copy:
            index = faiss.read_index(str(copy))
    if index is None or index.ntotal != n:
        index = faiss.index_factory(d, name, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        paths.replace(kept, faiss.serialize_index(index).tobytes())
    index.nprobe = probe or min(lists, max(8, lists // 8))
    return Index(kind, rows, index)


def recall(index: Index, exact: Index, queries: Float[np.ndarray, "Q D"], k: int = 10) -> float:
    """Share of the exact k nearest that `index` finds."""
    found, truth = index.search(queries, k).ids, exact.search(queries, k).ids
    return float(np.mean([len(np.intersect1d(f, t)) / len(t) for f, t in zip(found, truth)]))


def describe(record: Any, fields: Sequence[str] = ()) -> str:
    """What a record is, in a line: its texts, numbers and file, each cut at 80 characters, a file's path in front."""
    told = []
    for name, value in record.items():
        if (fields and name not in fields) or not isinstance(
            value, str | bytes | int | float | np.integer | np.floating
        ):
            continue
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        short = text if len(text) <= 80 else f"...{text[-77:]}" if name == "file" else f"{text[:77]}..."
        told.append(f"{name}: {short}")
    return "; ".join(told)

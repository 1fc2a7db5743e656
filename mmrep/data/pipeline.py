"""Records -> batches. Order, views and augmentation are pure functions of (seed, step), so the input has no state to save.

A batch is `{modality: array}` plus nothing else; rows of one global batch are split contiguously over processes, so any
number of processes reads the same data in the same order.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from mmrep import modality, paths
from mmrep.config import Data
from mmrep.errors import ConfigError, DataError, near
from mmrep.modality import Tokenize

Record = Mapping[str, Any]
HostBatch = dict[str, Any]


@runtime_checkable
class Records(Protocol):
    """The result of a source's open(split): random access to raw records. A record that cannot be read raises DataError."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Record: ...


@dataclass
class Split:
    """One split of a source as batch entries of `data.modalities`; bad records are counted, and left out of evaluation."""

    data: Data
    source: Any
    records: Records
    tokenize: Tokenize | None
    name: str
    bad: dict[int, str] = field(default_factory=dict)
    _usable: Any = field(default=None, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def record(self, i: int, rng: np.random.Generator | None = None) -> Record:
        """The raw record `i` as the source's training (rng) or evaluation (None) view shows it."""
        return self.source.view(self.records[i], rng)

    def entry(
        self, i: int, rng: np.random.Generator | None = None, fields: Mapping[str, str] | None = None
    ) -> HostBatch:
        """Record `i` as batch entries without batch axis. `fields`: {modality: another record field for it}.

        Raises DataError naming split and record where the record cannot be used.
        """
        file = ""
        try:
            record = self.record(i, rng)
            file = str(record.get("file", ""))
            entries: HostBatch = {}
            for m in self.data.modalities:
                source_field = (fields or {}).get(m.name, m.source)
                if source_field not in record:
                    raise DataError(
                        f"the record has no field {source_field!r} for modality {m.name!r}; it has {', '.join(sorted(record))}"
                    )
                entries |= modality.encode(m, record[source_field], self.tokenize, rng)
            return entries
        except DataError as error:
            named = f"{file}: " if file and file not in str(error) else ""
            raise DataError(f"{self.name} record {i}: {named}{error}") from None

    def entry_or_none(self, i: int, rng: np.random.Generator | None = None) -> HostBatch | None:
        """`entry(i)`, or None for a bad record, which is counted: more than `data.max_bad_records` of them stop the run."""
        if i in self.bad:
            return None
        try:
            return self.entry(i, rng)
        except DataError as error:
            self.skip(i, str(error))
            return None

    def usable(self) -> Int[np.ndarray, " U"]:
        """The records that evaluation uses: all but the bad ones, the same for embeddings, labels, groups and candidates.

        Where bad records are allowed, every record is decoded once to find them; elsewhere the first bad one stops the run when it is
        read. Raises DataError for more than `data.max_bad_records` bad records, or where none is usable.
        """
        if not self.data.max_bad_records:
            return np.arange(len(self))
        if self._usable is None:
            self._usable = np.asarray([i for i in range(len(self)) if self.entry_or_none(i) is not None], np.int64)
            if not len(self._usable):
                raise DataError(
                    f"every record of split {self.name!r} is bad; the last: {next(reversed(self.bad.values()))}"
                )
        return self._usable

    def captions(self, field: str) -> tuple[list[str], Int[np.ndarray, " C"]]:
        """All captions of the usable records, and for each the position of its record among `usable()`.

        field: a record field with a text or several; an evaluation view shows the first alone.
        Raises DataError where a record has no such field.
        """
        texts: list[str] = []
        owner: list[int] = []
        for position, i in enumerate(self.usable().tolist()):
            record = self.records[i]
            if field not in record:
                raise DataError(f"{self.name} record {i}: no field {field!r}{near(field, record)}")
            value = record[field]
            several = list(value) if isinstance(value, (tuple, list)) else [value]
            texts += several
            owner += [position] * len(several)
        return texts, np.asarray(owner, np.int64)

    def class_names(self, field: str) -> tuple[str, ...]:
        """The names of the ids of a label field in their order, from the source; empty where it has none."""
        return inner(self.records, "class_names", lambda names: names(field), ())

    def truth(self) -> Bool[np.ndarray, "U U"]:
        """[i, j]: whether the text of usable record i is true of usable record j, from the source. Raises DataError where it has none."""
        found = inner(self.records, "truth", lambda matrix: matrix(), None)
        if found is None:
            raise DataError(
                f"the source of split {self.name!r} has no matrix of true pairs: leave out `truth`, or set `group`"
            )
        return found[np.ix_(self.usable(), self.usable())]

    def leftovers(self) -> str:
        """The source's files that no record reads, in one sentence; empty where there is none."""
        return inner(self.records, "leftovers", lambda sentence: sentence(), "")

    def skip(self, i: int, why: str) -> None:
        """Counts record `i` as bad. Raises DataError where there are more than `data.max_bad_records`."""
        with self._lock:
            new = i not in self.bad
            self.bad[i] = why
            count = len(self.bad)
        if count > self.data.max_bad_records:
            raise DataError(
                f"{why} ({count} bad records, {self.data.max_bad_records} allowed: mend the record or raise data.max_bad_records)"
            )
        if new:
            print(f"skipped {why} ({count} of {self.data.max_bad_records} allowed)", file=sys.stderr)


def inner(value: Any, name: str, call: Callable[[Any], Any], default: Any) -> Any:
    """call(value.name) of the first of value, value.records, value.records.records, ... that has it: sources may wrap others."""
    while value is not None:
        if hasattr(value, name):
            return call(getattr(value, name))
        inner = getattr(value, "records", None)
        value = getattr(value, "source", None) if inner is None else inner
    return default


def open_split(data: Data, tokenize: Tokenize | None, name: str, source: Any = None) -> Split:
    """Opens a split of `source` (default `data.source`).

    Raises DataError for an unknown or empty split, ConfigError where a sound of the source has another rate than its modality.
    """
    source = data.source if source is None else source
    for m in data.modalities:
        if m.kind == "audio":
            check = inner(source, "check_sound", lambda check: check, None)
            if check is not None:
                check(m.source)
            rate = inner(source, "rate", lambda rate: rate, m.rate)
            if rate != m.rate:
                raise ConfigError(
                    f"modality {m.name!r} has rate {m.rate}, the data source gives rate {rate}: make them equal"
                )
    records = source.open(name)
    if not len(records):
        raise DataError(f"split {name!r} of {type(source).__name__} is empty")
    return Split(data, source, records, tokenize, name)


def fit_tokenizer(data: Data, sources: Sequence[Any], cache: paths.Place | None) -> bytes | None:
    """The sentencepiece model trained on the training text of all `sources` (a stream of tasks shares one vocabulary), or of the tokenizer's own.

    Raises DataError where no record has a text, with the source's explanation.
    """
    if data.tokenizer is None:
        return None
    from mmrep.data import text

    if data.tokenizer.kind == "published":
        raise ConfigError(
            "data.tokenizer.kind is 'published' and no tokenizer is given: name the folder that holds it in Pretrained(file=...) of a phase"
        )
    texts = [t for s in data.tokenizer.sources or sources for t in s.texts("train")]
    if not texts:
        raise DataError(without_text(sources[0]))
    return text.fit(texts, data.tokenizer, cache)


def without_text(source: Any) -> str:
    """Why no training record of `source` has a text, from the source where it explains it."""
    default = f"no training record of {type(source).__name__} has a text: give it captions, or leave data.tokenizer out"
    return inner(source.open("train"), "without_text", lambda sentence: sentence(), default)


def load_tokenizer(data: Data, model: bytes | None) -> Any:
    """Token function of a fitted or published tokenizer, or None where the data has no text."""
    if data.tokenizer is None or model is None:
        return None
    from mmrep.data import published, text

    if published.is_packed(model):
        return published.Published(model, data.tokenizer.vocab)
    return text.tokenizer(model, data.tokenizer)


def train_batches(
    split: Split, batch_size: int, seed: int, start: int = 0, process: tuple[int, int] = (0, 1)
) -> Iterator[HostBatch]:
    """Endless training batches from step `start`: this process's rows [batch_size / processes, ...] of every global batch.

    An epoch is a permutation of the n records, a function of (seed, epoch), cut into n // batch_size batches; the n % batch_size records
    behind them are left out of that epoch, so that no batch holds a record twice. Row r of step s is seen with the random key
    (seed, s * batch_size + r). The row of a bad record is taken by the next good record of the epoch that no row of the batch uses.

    Raises ConfigError where the batch does not divide over the processes, or has more rows than the split has records.
    """
    import grain

    index, count = process
    if batch_size % count:
        raise ConfigError(f"data.batch_size {batch_size} does not divide over {count} processes")
    if batch_size > len(split):
        raise ConfigError(
            f"data.batch_size is {batch_size}, but split {split.name!r} has {len(split)} records: "
            f"set data.batch_size to {len(split)} or less"
        )
    share = batch_size // count
    low, high = index * share, (index + 1) * share
    per_epoch = len(split) // batch_size
    shuffled = grain.MapDataset.range(len(split)).seed(seed % 2**31).shuffle()

    def entry(i: int, step: int, row: int) -> HostBatch | None:
        return split.entry_or_none(i, np.random.default_rng((seed, step * batch_size + row)))

    def load(step: int, rows: np.ndarray) -> HostBatch:
        entries = {row: entry(int(rows[row]), step, row) for row in range(low, high)}
        if any(e is None for e in entries.values()):
            # Rows of other processes come first in turn: each process finds the same records for them.
            bad = [r for r in range(high) if (entries[r] if r >= low else entry(int(rows[r]), step, r)) is None]
            epoch, part = divmod(step, per_epoch)
            others = [*range((part + 1) * batch_size, len(split)), *range(part * batch_size)]
            spare = (int(shuffled[epoch * len(split) + p]) for p in others)
            for row in bad:
                found = next((e for i in spare if (e := entry(i, step, row)) is not None), None)
                if found is None:
                    raise DataError(
                        f"data.batch_size is {batch_size}, but only {len(split) - len(split.bad)} records of split "
                        f"{split.name!r} are usable: lower it or mend the records"
                    )
                if row >= low:
                    entries[row] = found
        return collate([e for row in range(low, high) if (e := entries[row]) is not None])

    order = shuffled.batch(batch_size, drop_remainder=True).repeat().map_with_index(load)
    options = grain.ReadOptions(num_threads=split.data.workers, prefetch_buffer_size=split.data.prefetch)
    batches = iter(order.to_iter_dataset(options))
    batches.set_state(batches.get_state() | {"next_index": start})  # random access: no replay of the steps before
    return batches


def eval_batches(
    split: Split, batch_size: int, fields: Mapping[str, str] | None = None, process: tuple[int, int] = (0, 1)
) -> Iterator[tuple[HostBatch, int]]:
    """The usable records once, in order: (batch, number of real rows); the last batch repeats its last record to keep the shape.

    Each of several processes gets its contiguous rows of a batch; the number of real rows is that of the whole batch.
    Raises ConfigError where the batch does not divide over the processes, DataError for a record that is bad in `fields` alone.
    """
    index, count = process
    if batch_size % count:
        raise ConfigError(f"data.eval_batch_size {batch_size} does not divide over {count} processes")
    share = batch_size // count
    rows = split.usable().tolist()
    for start in range(0, len(rows), batch_size):
        end = min(start + batch_size, len(rows))
        low = min(start + index * share, end - 1)  # a process whose rows are behind the end repeats the last record
        mine = rows[low : min(max(start + (index + 1) * share, low + 1), end)]
        entries = []
        for i in mine:
            try:
                entries.append(split.entry(i, None, fields))
            except DataError as error:
                split.skip(i, str(error))
                raise
        yield collate(entries + [entries[-1]] * (share - len(entries))), end - start


def collate(entries: Sequence[HostBatch]) -> HostBatch:
    return {k: np.stack([e[k] for e in entries]) for k in entries[0]}


def embed_rows(function: Callable[[HostBatch], Any], split: Split, n: int, size: int = 256) -> Float[np.ndarray, "N D"]:
    """`function` of the first n records of a split, `size` at a time."""
    parts = [np.asarray(function(b))[:real] for b, real in islice(eval_batches(split, size), -(-n // size))]
    return np.concatenate(parts)[:n]

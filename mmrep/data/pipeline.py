"""Records -> batches. Order, views and augmentation are pure functions of (seed, step), so the input has no state to save.

A batch is `{modality: array}` plus nothing else; rows of one global batch are split contiguously over processes, so any
number of processes reads the same data in the same order.
"""

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmrep import modality
from mmrep.config import Data
from mmrep.errors import ConfigError, DataError
from mmrep.modality import Tokenize

Record = Mapping[str, Any]
HostBatch = dict[str, Any]


@runtime_checkable
class Records(Protocol):
    """What a source's open(split) returns: random access to raw records. A record that cannot be read raises DataError."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Record: ...


@dataclass
class Split:
    """One split of a source, read through the modalities of `data`; bad records are counted and replaced by the next good one."""

    data: Data
    source: Any
    records: Records
    tokenize: Tokenize | None
    name: str
    bad: dict[int, str] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def record(self, i: int, rng: np.random.Generator | None = None) -> Record:
        """The raw record `i` as the source's training (rng) or evaluation (None) view shows it."""
        return self.source.view(self.records[i], rng)

    def entry(
        self, i: int, rng: np.random.Generator | None = None, fields: Mapping[str, str] | None = None
    ) -> HostBatch:
        """Record `i` as batch entries without batch axis. `fields` reads a modality from another record field.

        Raises DataError naming split and record where the record cannot be used.
        """
        file = ""
        try:
            record = self.record(i, rng)
            file = f"{record['file']}: " if "file" in record else ""
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
            raise DataError(f"{self.name} record {i}: {file}{error}") from None

    def good_entry(self, i: int, rng: np.random.Generator | None, fields: Mapping[str, str] | None = None) -> HostBatch:
        """`entry(i)`, or the next good record's in its place; more than `data.max_bad_records` bad ones stop the run."""
        for step in range(len(self)):
            at = (i + step) % len(self)
            if at in self.bad:
                continue
            try:
                return self.entry(at, rng, fields)
            except DataError as error:
                self.skip(at, str(error))
        raise DataError(f"every record of split {self.name!r} is bad; the last: {next(reversed(self.bad.values()))}")

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


def open_split(data: Data, tokenize: Tokenize | None, name: str, source: Any = None) -> Split:
    """Opens a split of `source` (default `data.source`). Raises DataError for an unknown or empty split."""
    source = data.source if source is None else source
    records = source.open(name)
    if not len(records):
        raise DataError(f"split {name!r} of {type(source).__name__} is empty")
    return Split(data, source, records, tokenize, name)


def fit_tokenizer(data: Data, sources: Sequence[Any], cache: Path | None) -> bytes | None:
    """The sentencepiece model trained on the training text of all `sources` (a stream of tasks shares one vocabulary)."""
    if data.tokenizer is None:
        return None
    from mmrep.data import text

    return text.fit((t for s in sources for t in s.texts("train")), data.tokenizer, cache)


def load_tokenizer(data: Data, model: bytes | None) -> Any:
    """Token function of a fitted model, or None where the data has no text."""
    if data.tokenizer is None or model is None:
        return None
    from mmrep.data import text

    return text.tokenizer(model, data.tokenizer)


def train_batches(
    split: Split, batch_size: int, seed: int, start: int = 0, process: tuple[int, int] = (0, 1)
) -> Iterator[HostBatch]:
    """Endless training batches from step `start`: this process's rows [batch_size / processes, ...] of every global batch.

    Row r of step s is record `permutation(seed, epoch)[p % n]` with p = s * batch_size + r, seen with the key (seed, p).
    Raises ConfigError where the batch does not divide over the processes.
    """
    import grain

    index, count = process
    if batch_size % count:
        raise ConfigError(f"data.batch_size {batch_size} does not divide over {count} processes")
    share = batch_size // count
    lo = index * share

    def load(step: int, rows: np.ndarray) -> HostBatch:
        positions = step * batch_size + lo + np.arange(share)
        return collate(
            [
                split.good_entry(int(i), np.random.default_rng((seed, int(p))))
                for i, p in zip(rows[lo : lo + share], positions)
            ]
        )

    order = (
        grain.MapDataset.range(len(split)).seed(seed % 2**31).shuffle().repeat().batch(batch_size).map_with_index(load)
    )
    options = grain.ReadOptions(num_threads=split.data.workers, prefetch_buffer_size=split.data.prefetch)
    batches = iter(order.to_iter_dataset(options))
    batches.set_state(batches.get_state() | {"next_index": start})  # random access: no replay of the steps before
    return batches


def eval_batches(
    split: Split, batch_size: int, fields: Mapping[str, str] | None = None, process: tuple[int, int] = (0, 1)
) -> Iterator[tuple[HostBatch, int]]:
    """The split once, in order: (batch, number of real rows); the last batch repeats its last record to keep the shape.

    Of several processes each reads its contiguous rows of a batch; the number of real rows is that of the whole batch.
    Raises ConfigError where the batch does not divide over the processes.
    """
    index, count = process
    if batch_size % count:
        raise ConfigError(f"data.eval_batch_size {batch_size} does not divide over {count} processes")
    share = batch_size // count
    for start in range(0, len(split), batch_size):
        end = min(start + batch_size, len(split))
        low = min(start + index * share, end - 1)  # a process whose rows lie behind the end repeats the last record
        entries = [
            split.good_entry(i, None, fields) for i in range(low, min(max(start + (index + 1) * share, low + 1), end))
        ]
        yield collate(entries + [entries[-1]] * (share - len(entries))), end - start


def collate(entries: Sequence[HostBatch]) -> HostBatch:
    return {k: np.stack([e[k] for e in entries]) for k in entries[0]}

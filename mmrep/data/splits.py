"""Shared by all sources: the names of splits, the hashed split, and the choice among several captions."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from mmrep.errors import ConfigError, DataError, near

NAMES = ("train", "val", "test")
SYNONYMS = {
    "training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test",
} | {n: n for n in NAMES}  # fmt: skip

Item = TypeVar("Item")


def check(split: str) -> None:
    """Raises DataError where `split` is not train, val or test."""
    if split not in NAMES:
        raise DataError(f"no split {split!r}{near(split, NAMES)}")


def size(source: Any, split: str) -> int:
    """`source.n_<split>`, the records of a computed split. Raises DataError for an unknown or an empty split."""
    check(split)
    n = getattr(source, f"n_{split}")
    if n < 1:
        raise DataError(f"split {split!r} is empty: set n_{split} to 1 or more")
    return n


def check_fractions(fractions: tuple[float, float, float]) -> None:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"fractions is {fractions}: give the shares of train, val and test, which sum to 1")


def check_group(group: str) -> None:
    """Raises ConfigError where `group` is no regular expression, or has no parentheses around the key of records that stay in one split."""
    try:
        groups = re.compile(group).groups
    except re.error as error:
        raise ConfigError(f"group {group!r} is not a regular expression: {error}") from None
    if group and not groups:
        raise ConfigError(f"group {group!r} has no parentheses: put them around the part that is the key")


def named(name: str) -> str | None:
    """The split that a folder or a cell names ("validation" -> "val"), or None."""
    return SYNONYMS.get(name.strip().lower())


def hashed(key: str, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> str:
    """The split of a group: a function of its key alone, so that adding data never moves an item."""
    key = unicodedata.normalize("NFC", key)
    at = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
    return "train" if at < fractions[0] else "val" if at < fractions[0] + fractions[1] else "test"


def joined(keys: Iterable[Iterable[str]]) -> list[int]:
    """For each record the first one that it shares a key with, directly or through others: what has to stay on one side of a split."""
    parent: list[int] = []
    first: dict[str, int] = {}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, own in enumerate(keys):
        parent.append(i)
        for key in own:
            a, b = sorted((root(i), root(first.setdefault(key, i))))
            parent[b] = a
    return [root(i) for i in range(len(parent))]


def choose(
    items: Sequence[Item], split_of: Callable[[Item], str], split: str, where: str, fix: str
) -> tuple[Item, ...]:
    """The items of `split`. Raises DataError with the sizes of all splits where it has none; `fix` ends the sentence with the remedy."""
    splits = [split_of(item) for item in items]
    chosen = tuple(item for item, s in zip(items, splits) if s == split)
    if not chosen:
        sizes = Counter(splits)
        counts = ", ".join(f"{n} {sizes[n]}" for n in NAMES)
        raise DataError(f"{where}: split {split!r} is empty ({counts}): {fix}")
    return chosen


def select(record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
    """Every field that holds several captions (a tuple of texts) becomes one of them: a random one, or the first without `rng`."""
    return {
        name: value[0 if rng is None else int(rng.integers(len(value)))] if isinstance(value, tuple) else value
        for name, value in record.items()
    }


def pairs(mapping: Mapping[str, str] | Iterable[Sequence[str]], name: str) -> tuple[tuple[str, str], ...]:
    """A mapping as a tuple of pairs: frozen, hashable and printable, as config fields must be."""
    entries = tuple(tuple(p) for p in (mapping.items() if isinstance(mapping, Mapping) else mapping))
    if not all(len(p) == 2 and all(isinstance(v, str) for v in p) for p in entries):
        raise ConfigError(f"{name} is {mapping!r}: give a mapping of text to text")
    return entries  # type: ignore[return-value]

"""Tar shards in webdataset's layout, read at random through an index of byte offsets: nothing is extracted, nothing unpickled."""

import glob
import hashlib
import io
import itertools
import json
import os
import re
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmrep import paths, raw
from mmrep.data import decode, splits, videos
from mmrep.data.cells import whole
from mmrep.data.decode import Limits
from mmrep.errors import ConfigError, DataError, near

INDEX_VERSION = 2
_ENDINGS = tuple(e.removeprefix(".") for e in (*decode.IMAGE, ".avif", ".heic", ".heif"))
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # gzip, bzip2, xz, zstd, lz4
Paths = str | Path | list[str | Path] | tuple[str | Path, ...]
_CODE = (".pyd", ".pkl", ".pickle", ".pth", ".pt")


@dataclass(frozen=True)
class Shards:
    """Members `key.jpg`, `key.txt`, `key.json`, ... of one shard are one record; the key ends at the first dot of the file name.

    Records: image uint8 [H, W, 3], video (a clip, see `mmrep.data.videos`), text, audio float32 [T] in [-1, 1] at `rate`, label, the `extra`
    fields, file (shard and key).

    pattern:   "data-{000..007}.tar", "data-*.tar", gs:// and s3:// URLs alike (members are read by byte ranges), a list of these, or {"train": pattern, "val": pattern}; a part of the path that
               exists as written is no pattern. Without a mapping the splits are hashed.
    image, video, audio, label: endings of members, the first that a record has is used. An ending may serve twice: video=("gif",) takes
               animations for clips, and audio=("mp4",) the sound of the films. Films need PyAV.
    text:      endings whose captions are gathered; "json:caption" is the key `caption` (text or list) of the member `json`.
    lines:     each line of a .txt is one caption of several (training draws one, evaluation takes the first).
    extra:     "emb.npy" gives the array `emb`, "json:age" the value `age`.
    index:     folder for the index files; empty: beside the shards, or in the cache folder where that cannot be written.
               An index is built once and again whenever the shard's size or time of change differs.
    group:     a regular expression searched in a key; its first group keeps records in one split. Empty: the key.
    fractions: shares of train, val and test of the hashed split.
    """

    pattern: Paths | dict[str, Paths] | tuple[tuple[str, Paths], ...]
    image: tuple[str, ...] = _ENDINGS
    text: tuple[str, ...] = ("txt",)
    audio: tuple[str, ...] = tuple(e.removeprefix(".") for e in decode.AUDIO)
    label: tuple[str, ...] = ("cls",)
    extra: tuple[str, ...] = ()
    lines: bool = True
    rate: int = 16_000
    index: str = ""
    group: str = ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    limits: Limits = field(default_factory=Limits)
    video: tuple[str, ...] = tuple(e.removeprefix(".") for e in decode.FILMS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", _pattern(self.pattern))
        for name in () if self._one else dict(self.pattern):  # type: ignore[arg-type]
            if name not in splits.NAMES:
                raise ConfigError(f"pattern has no split {name!r}{near(name, splits.NAMES)}")
        for name in ("image", "video", "text", "audio", "label", "extra"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigError(f"{name} is {value!r}: give a tuple of endings, ({value!r},)")
            for ending in value:
                if f".{ending}".endswith(_CODE):
                    raise ConfigError(
                        f"{name} names {ending!r}: pickled members can run code and are never read; use .npy"
                    )
        for ending in self.extra:
            if not (ending.endswith("npy") or ":" in ending):
                raise ConfigError(f"extra names {ending!r}: it can be an .npy ending or json:key")
        splits.check_fractions(self.fractions)
        splits.check_group(self.group)

    def open(self, split: str) -> "ShardRecords":
        """The records of `split` ("train", "val", "test"). Raises DataError for missing or broken shards or an empty split."""
        splits.check(split)
        if self._one:
            pattern: Any = self.pattern
        else:
            named = dict(self.pattern)  # type: ignore[arg-type]  # pairs, by __post_init__
            if split not in named:
                raise DataError(f"pattern has no split {split!r}: it has {', '.join(named)}; add {split!r} to it")
            pattern = named[split]
        indexes = tuple(index(path, self.index) for path in expand(pattern))
        every = [(s, i) for s, shard in enumerate(indexes) for i in range(len(shard.first) - 1)]
        chosen = splits.choose(
            every,
            lambda at: splits.hashed(self._key(indexes[at[0]], at[1]), self.fractions) if self._one else split,
            split, str(pattern), "add shards, set fractions, or give a pattern for each split",
        )  # fmt: skip
        known = {e for shard in indexes for e in shard.endings}
        return ShardRecords(self, indexes, np.asarray(chosen, np.int64), self._has(self.text, known))

    def texts(self, split: str) -> Iterator[str]:
        """Every caption of `split`; captions that cannot be read are left to the records to report."""
        return self.open(split).captions()

    def view(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """One caption of several: a random one, or the first without `rng`."""
        return splits.select(record, rng)

    @property
    def _one(self) -> bool:
        """Whether the pattern is one for all splits."""
        return isinstance(self.pattern, str) or not (self.pattern and isinstance(self.pattern[0], tuple))  # type: ignore[index]

    @staticmethod
    def _has(wanted: Sequence[str], known: set[str]) -> bool:
        return any(w.split(":")[0] in known for w in wanted)

    def _key(self, shard: "Index", sample: int) -> str:
        key = shard.key(sample)
        if not self.group:
            return key
        found = re.search(self.group, key)
        if found is None or found[1] is None:
            raise DataError(f"{shard.path} record {key}: its key has no match of group {self.group!r}: change group")
        return found[1]


@dataclass(frozen=True, eq=False)
class Index:
    """The places of a shard's members. Sample i has the members first[i] .. first[i + 1]; member j is named names[ends[j-1]:ends[j]]."""

    path: str
    names: bytes
    ends: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    endings: tuple[str, ...]
    ignored: int = 0  # members that are no files of the form key.ending

    def name(self, member: int) -> str:
        start = self.ends[member - 1] if member else 0
        return self.names[start : self.ends[member]].decode("utf-8", "surrogateescape")

    def key(self, sample: int) -> str:
        return _split_name(self.name(int(self.first[sample])))[0]

    def members(self, sample: int) -> list[tuple[str, int, int]]:
        """(ending, byte offset, size) of every member of a sample."""
        span = range(int(self.first[sample]), int(self.first[sample + 1]))
        return [(_split_name(self.name(j))[1], int(self.offsets[j]), int(self.sizes[j])) for j in span]


@dataclass(frozen=True, eq=False)
class ShardRecords(Sequence):
    """One split: `at` [N, 2] holds each record's (shard, sample)."""

    source: Shards
    indexes: tuple[Index, ...] = field(repr=False)
    at: np.ndarray = field(repr=False)
    has_text: bool = False

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        source = self.source
        shard, where, members = self._locate(i)
        record: dict[str, Any] = {"file": where}
        if self.has_text:
            record["text"] = self._captions(shard, where, members)
        for ending in self._first(source.label, members):
            written = decode.text(self._read(shard, where, members, ending), f"{where}.{ending}", source.limits)
            if not whole(written):
                raise DataError(f"{where}.{ending}: expected a whole number, found {written[:40]!r}")
            record["label"] = int(whole(written))
        for ending in source.extra:
            name = ending.split(":")[1] if ":" in ending else ending.removesuffix("npy").rstrip(".") or "npy"
            record[name] = self._extra(shard, where, members, ending)
        for ending in self._first(source.image, members):
            data = self._read(shard, where, members, ending)
            record["image"] = decode.image(data, f"{where}.{ending}", source.limits)
        for ending in self._first(source.video, members):
            data = self._read(shard, where, members, ending)
            record["video"] = videos.encoded(data, f"{where}.{ending}", source.limits)
        for ending in self._first(source.audio, members):
            data = self._read(shard, where, members, ending)
            record["audio"] = videos.audio(data, f"{where}.{ending}", source.rate, source.limits)
        return record

    def leftovers(self) -> str:
        """The members that no record reads, by ending; empty where there are none."""
        source = self.source
        media = (*source.image, *source.video, *source.audio)
        read = {e.partition(":")[0] for e in (*media, *source.text, *source.label, *source.extra)}
        unread = sorted({e for shard in self.indexes for e in shard.endings} - read)
        ignored = sum(shard.ignored for shard in self.indexes)
        parts = (
            [f"members .{', .'.join(unread[:8])}{' and others' if len(unread) > 8 else ''} are not read"]
            if unread
            else []
        )
        parts += [f"{ignored} members are no files of the form key.ending"] if ignored else []
        return (
            f"{self.indexes[0].path}{' and others' if len(self.indexes) > 1 else ''}: {'; '.join(parts)}"
            if parts
            else ""
        )

    def digest(self) -> str:
        """Of the names and sizes of all members; independent of the folder."""
        found = hashlib.sha256(self.at.tobytes())
        for shard in self.indexes:
            for part in (shard.names, shard.ends.tobytes(), shard.sizes.tobytes(), shard.first.tobytes()):
                found.update(part)
        return found.hexdigest()[:16]

    def without_text(self) -> str:
        shard, where, members = self._locate(0)
        if self.has_text:
            try:
                self._captions(shard, where, members)
            except DataError as error:
                return f"none of the {len(self)} training records has a usable caption; the first: {error}"
        dotted = [
            e
            for e in members
            if e.count(".") and e.rpartition(".")[2] in (*self.source.text, *self.source.image, *self.source.video)
        ]
        if dotted:
            return (
                f"{where} has the members .{', .'.join(list(members)[:4])}: the key of a record ends at the first dot of the file "
                "name, so write other dots as _"
            )
        keys = list(self._json(shard, where, members, "json")) if "json" in members else []
        hint = (
            f"set text=('json:KEY',) with one of its keys {', '.join(keys[:8])}"
            if keys
            else f"name the ending in text={self.source.text!r}"
        )
        return f"{where} has no caption; its members end in .{', .'.join(members)}: {hint}"

    def captions(self) -> Iterator[str]:
        for i in range(len(self) if self.has_text else 0):
            try:
                yield from self._captions(*self._locate(i))
            except DataError:
                continue

    def _locate(self, i: int) -> tuple[Index, str, dict[str, tuple[int, int]]]:
        s, sample = (int(v) for v in self.at[i])
        shard = self.indexes[s]
        where = f"{shard.path} record {shard.key(sample)}"
        members: dict[str, tuple[int, int]] = {}
        for ending, offset, size in shard.members(sample):
            if ending in members:
                raise DataError(f"{where}: it has two members .{ending}: give each record its own key")
            members[ending] = (offset, size)
        return shard, where, members

    @staticmethod
    def _first(endings: Sequence[str], members: Mapping[str, Any]) -> Sequence[str]:
        return [e for e in endings if e in members][:1]

    def _read(self, shard: Index, where: str, members: Mapping[str, tuple[int, int]], ending: str) -> bytes:
        offset, size = members[ending]
        if size > self.source.limits.bytes:
            raise DataError(
                f"{where}.{ending} has {size:,} bytes, more than the limit of {self.source.limits.bytes:,}: "
                "shrink it or raise limits.bytes"
            )
        try:
            data = paths.read(shard.path, offset, offset + size)
        except OSError as error:
            raise DataError(f"{where}: {shard.path} cannot be read ({error.strerror or error})") from None
        if len(data) < size:
            raise DataError(f"{where}.{ending}: the shard was cut short while in use: copy it again")
        return data

    def _captions(self, shard: Index, where: str, members: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
        source = self.source
        found: list[str] = []
        for ending in source.text:
            member, _, key = ending.partition(":")
            if member not in members:
                continue
            place = f"{where}.{ending}"
            if key:
                value = self._json(shard, where, members, member).get(key)
                several = value if isinstance(value, list) else [] if value is None else [value]
                found += [decode.caption(v, place, source.limits) for v in several]
            else:
                if members[member][1] > 4 * source.limits.characters + 3:
                    raise DataError(
                        f"{place}: the text has {members[member][1]:,} bytes, more than {source.limits.characters:,} "
                        "characters can take: shorten it or raise limits.characters"
                    )
                whole = decode.text(self._read(shard, where, members, member), place, source.limits)
                found += raw.lines(whole) if source.lines else [whole]
        if not found:
            raise DataError(f"{where} has no caption ({', '.join(source.text)}): add one, or set text=()")
        return tuple(dict.fromkeys(found))

    def _json(self, shard: Index, where: str, members: Mapping[str, tuple[int, int]], member: str) -> dict[str, Any]:
        try:
            value = json.loads(self._read(shard, where, members, member))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}.{member}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise DataError(f"{where}.{member}: expected an object, found {type(value).__name__}")
        return value

    def _extra(self, shard: Index, where: str, members: Mapping[str, tuple[int, int]], ending: str) -> Any:
        member, _, key = ending.partition(":")
        if member not in members:
            raise DataError(f"{where} has no member .{member}{near(member, members)}")
        if key:
            value = self._json(shard, where, members, member)
            if key not in value:
                raise DataError(f"{where}.{member} has no key {key!r}{near(key, value)}")
            return np.asarray(value[key], np.float32) if isinstance(value[key], list) else value[key]
        try:
            return np.load(io.BytesIO(self._read(shard, where, members, member)), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{where}.{member}: not an array file ({error})") from None


def _pattern(given: Any) -> Any:
    """A pattern, a tuple of patterns, or pairs (split, pattern), as config fields must be: frozen and printable."""
    if isinstance(given, (str, os.PathLike)):
        return os.fspath(given)
    if isinstance(given, Mapping):
        return tuple((name, _pattern(p)) for name, p in given.items())
    several = tuple(given)
    if several and all(isinstance(p, (tuple, list)) and len(p) == 2 for p in several):
        return tuple((name, _pattern(p)) for name, p in several)
    if not several or not all(isinstance(p, (str, os.PathLike)) for p in several):
        raise ConfigError(
            f"pattern is {given!r}: give the path of a shard, a list of paths, or a mapping of splits to them"
        )
    return tuple(os.fspath(p) for p in several)


def expand(pattern: str | tuple[str, ...]) -> tuple[str, ...]:
    """The shards that a pattern names, in order: {000..007} counts, {a,b} lists, * ? and [ab] match names that exist.

    A part of the path that exists as written is taken as written. Raises DataError for a shard that does not exist, for a pattern that
    finds nothing, and for an address.
    """
    if not isinstance(pattern, str):
        return tuple(dict.fromkeys(path for one in pattern for path in expand(one)))
    if paths.is_url(pattern):
        return _in_store(pattern)
    if "://" in pattern or pattern.startswith("pipe:"):
        raise DataError(f"{pattern} is an address: download the shards and give their path")
    pattern = os.path.expanduser(pattern)
    parts = re.findall(r"(?:\{[^{}]*\}|[^/])+", pattern)
    found = [("/" if pattern.startswith("/") else "", False)]  # (path, whether a part was looked up)
    for part in parts:
        step = []
        for base, looked_up in found:
            written = decode.locate(os.path.join(base, part))
            if os.path.lexists(written):
                step.append((written, looked_up))
                continue
            for word in _words(part, pattern):
                path = decode.locate(os.path.join(base, word))
                if os.path.lexists(path) or not glob.has_magic(word):
                    step.append((path, looked_up))
                else:
                    step += [(p, True) for p in sorted(glob.glob(os.path.join(glob.escape(base), word)))]
        found = step
    shards = [path for path, looked_up in found if os.path.isfile(path) or not looked_up]
    if not shards:
        raise DataError(f"no shard matches {pattern}: check the path (it is relative to {os.getcwd()})")
    for path in shards:
        if not os.path.isfile(path):
            raise DataError(f"{path} is missing: check the pattern {pattern!r}")
    return tuple(dict.fromkeys(shards))


def _in_store(pattern: str) -> tuple[str, ...]:
    """The URLs that a pattern of URLs names. Raises DataError where it names none."""
    found: list[str] = []
    for url in _words(str(paths.at(pattern)), pattern):
        try:
            found += paths.matching(url) if glob.has_magic(url) else [url]
        except OSError as error:
            raise DataError(
                f"{url} cannot be read ({error.strerror or error}): check URL, credentials and network"
            ) from None
    if not found:
        raise DataError(f"no shard matches {pattern}: check the URL")
    return tuple(dict.fromkeys(found))


def _words(part: str, pattern: str) -> list[str]:
    """The alternatives of the braces in one part of a path."""
    pieces = re.split(r"\{([^{}]*)\}", part)
    choices = [_braces(piece, pattern) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(words) for words in itertools.product(*choices)]


def _braces(inner: str, pattern: str) -> list[str]:
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if counted is None:
        return inner.split(",")
    low, high = counted[1], counted[2]
    if int(low) > int(high):
        raise DataError(f"pattern {pattern!r} counts from {low} down to {high}: swap them")
    return [str(n).zfill(len(low)) for n in range(int(low), int(high) + 1)]


def index(path: str, folder: str = "") -> Index:
    """The index of the shard `path`: read from its index file, or built and stored there where that is missing or stale."""
    try:
        stamp = np.asarray([INDEX_VERSION, *paths.stamp(path)], np.int64)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): check the pattern") from None
    places = _places(path, folder)
    for place in places:
        stored = _load(path, place, stamp)
        if stored is not None:
            return stored
    built = _build(path)
    for place in places:
        if _store(built, place, stamp):
            break
    return built


def _places(path: str, folder: str) -> list[paths.Place]:
    whole = path if paths.is_url(path) else os.path.abspath(path)
    name = f"{hashlib.sha256(whole.encode()).hexdigest()[:16]}.index.npz"
    if folder:
        return [paths.at(folder) / name]
    return [paths.at(f"{path}.index.npz"), paths.cache() / "shards" / name]


def _load(path: str, place: paths.Place, stamp: np.ndarray) -> Index | None:
    try:
        file = io.BytesIO(paths.read(place)) if paths.is_url(place) else place
        with np.load(file, allow_pickle=False) as stored:
            if not np.array_equal(stored["stamp"], stamp):
                return None
            arrays = {k: stored[k] for k in ("ends", "offsets", "sizes", "first")}
            endings = tuple(stored["endings"].tobytes().decode("utf-8", "surrogateescape").split("\0"))
            return Index(path, stored["names"].tobytes(), endings=endings, ignored=int(stored["ignored"]), **arrays)
    except Exception:  # missing, cut short or written by something else: it is built again
        return None


def _store(built: Index, place: paths.Place, stamp: np.ndarray) -> bool:
    content = io.BytesIO()
    np.savez(
        content, stamp=stamp, names=np.frombuffer(built.names, np.uint8), ends=built.ends, offsets=built.offsets,
        sizes=built.sizes, first=built.first, ignored=built.ignored,
        endings=np.frombuffer("\0".join(built.endings).encode("utf-8", "surrogateescape"), np.uint8),
    )  # fmt: skip
    try:
        if not paths.is_url(place):
            Path(place.parent).mkdir(parents=True, exist_ok=True)
        paths.replace(place, content.getvalue())  # another process finds the old file or the whole new one
    except OSError:
        return False
    return True


def _build(path: str) -> Index:
    listed: list[tuple[str, tuple[int, int] | str]] = []  # a link holds no bytes: its target's are used
    ignored, last = 0, "its start"
    try:
        with paths.opened(path) as file:
            head = file.read(100)
        decode.fetched(head, path)
        if head.startswith(_COMPRESSED) or path.endswith((".gz", ".tgz", ".bz2", ".xz", ".zst")):
            raise DataError(f"{path} is compressed, which forbids random access: unpack it to a plain .tar")
        with paths.opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    listed.append((member.name, (member.offset_data, member.size)))
                elif member.islnk():
                    listed.append((member.name, member.linkname))
                elif member.issym():
                    listed.append((member.name, os.path.join(os.path.dirname(member.name), member.linkname)))
                elif not member.isdir():
                    ignored += 1
                last = member.name
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a whole tar file (after {last}: {error}): copy it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): check the pattern") from None
    places = {_normal(name): place for name, place in listed if not isinstance(place, str)}
    samples: dict[str, list[tuple[str, int, int]]] = {}
    for name, target in listed:
        key, ending = _split_name(name)
        place = places.get(_normal(target)) if isinstance(target, str) else target
        if os.path.basename(name).startswith("."):
            continue  # hidden, as macOS writes beside every file
        if place is None or not ending:
            ignored += 1
        else:
            samples.setdefault(key, []).append((name, *place))
    members = [m for sample in samples.values() for m in sample]
    if members and max(offset + size for _, offset, size in members) > paths.size(path):
        raise DataError(f"{path} is cut short after {last}: copy it again")
    if not members:
        raise DataError(f"{path} has no files of the form key.ending: remove it from the pattern")
    names = [name.encode("utf-8", "surrogateescape") for name, _, _ in members]
    return Index(
        path,
        b"".join(names),
        np.cumsum([len(n) for n in names], dtype=np.int64),
        np.asarray([offset for _, offset, _ in members], np.int64),
        np.asarray([size for _, _, size in members], np.int64),
        np.cumsum([0, *(len(sample) for sample in samples.values())], dtype=np.int64),
        tuple(sorted({_split_name(name)[1] for name, _, _ in members})),
        ignored,
    )


def _normal(name: str) -> str:
    return os.path.normpath(name).lstrip("/")


def _split_name(name: str) -> tuple[str, str]:
    """("a/001", "left.jpg") of "./a/001.left.JPG": webdataset's rule, in Unicode normal form C."""
    folder, _, base = unicodedata.normalize("NFC", name).removeprefix("./").rpartition("/")
    stem, _, ending = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ending.lower()

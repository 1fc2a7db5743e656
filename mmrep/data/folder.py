"""A folder of images, clips or sounds with captions in files beside them, or in the names of class folders."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmrep import paths, raw
from mmrep.data import decode, splits, videos
from mmrep.data.decode import Limits
from mmrep.errors import DataError

_SYSTEM = ("thumbs.db", "desktop.ini")


@cache
def kinds(animations: bool = False) -> dict[str, str]:
    """Ending -> image, video, audio or text, of the files that are read. Animations are images, or videos."""
    found = {e: "image" for e in decode.image_endings()} | {e: "audio" for e in decode.audio_endings()}
    clips = (*decode.film_endings(), *(videos.ANIMATIONS if animations else ()))
    return found | {e: "video" for e in clips} | {".txt": "text"}


@dataclass(frozen=True)
class Folder:
    """`a.jpg` (or `a.mp4`) with `a.txt` and, where there is one, `a.wav` beside it; or `cat/001.jpg`, where the folder is label and caption.

    Records: image uint8 [H, W, 3], video (a clip, see `mmrep.data.videos`), text, audio float32 [T] in [-1, 1] at `rate`, label (position
    of the folder's name among the sorted names of all class folders), file (its path). A record is an image, with the clip and the sound of
    its name; without any image the clips are the records, without any clip the sounds. Films (.mp4, .webm, ...) need PyAV.
    Names are compared in Unicode normal form C, so that files from macOS meet their captions.

    path:      the folder, or its gs:// or s3:// URL. Sub-folders train/, val/ and test/ are its splits; without them a record's split is hashed from its group.
    text:      "file": every record has a .txt beside it; "folder": the caption is the class folder's name; "none": no text;
               "auto": "file" where any .txt is beside a record, else "folder" where there are class folders, else "none".
    lines:     each line of a .txt is one caption of several (training draws one, evaluation takes the first); else the whole file is one.
    audio:     read the sound beside an image or a clip, else that of the film itself; a silent film has none.
    rate:      samples a second that sounds are brought to.
    group:     a regular expression searched in a record's path below the split folder; its first group is the key that keeps
               records in one split (r"(patient\\d+)"). Empty: the path without its ending.
    fractions: shares of train, val and test of the hashed split.
    animations: take .gif, .webp and .apng for clips; else they are images, of which the first frame is read.
    """

    path: str | Path
    text: Literal["auto", "file", "folder", "none"] = "auto"
    lines: bool = True
    audio: bool = True
    rate: int = 16_000
    group: str = ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    limits: Limits = field(default_factory=Limits)
    animations: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        splits.check_fractions(self.fractions)
        splits.check_group(self.group)

    def open(self, split: str) -> "FolderRecords":
        """The records of `split` ("train", "val", "test"). Raises DataError for a missing folder or an empty split."""
        splits.check(split)
        tree = _scan(decode.locate(os.path.expanduser(str(self.path))), kinds(self.animations))
        fix = (
            f"put files into {os.path.join(self.path, split)}/"
            if tree.explicit
            else f"add files, set fractions, or make folders train/, val/ and test/ in {self.path}"
        )
        chosen = splits.choose(
            tree.items,
            lambda item: item.split or splits.hashed(self._key(item), self.fractions),
            split,
            str(self.path),
            fix,
        )
        return FolderRecords(self, chosen, tree.classes, self._text(tree), tree.unused)

    def texts(self, split: str) -> Iterator[str]:
        """Every caption of `split`; captions that cannot be read are left to the records to report."""
        return self.open(split).captions()

    def view(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """One caption of several: a random one, or the first without `rng`."""
        return splits.select(record, rng)

    def _key(self, item: "_Item") -> str:
        if not self.group:
            return item.name
        found = re.search(self.group, item.name)
        if found is None or found[1] is None:
            raise DataError(f"{item.main}: its path has no match of group {self.group!r}: rename it or change group")
        return found[1]

    def _text(self, tree: "_Tree") -> str:
        if self.text != "auto":
            if self.text == "folder" and not tree.classes:
                raise DataError(f"{self.path} has no class folders to take captions from: set text='file' or 'none'")
            return self.text
        return "file" if any(item.text for item in tree.items) else "folder" if tree.classes else "none"


@dataclass(frozen=True)
class _Item:
    """One record's files. `name` is its path below the split folder, without ending: "cat/001"."""

    name: str
    split: str
    folder: str
    label: int = -1
    image: str = ""
    video: str = ""
    audio: str = ""
    text: str = ""

    @property
    def main(self) -> str:
        return self.image or self.video or self.audio


@dataclass(frozen=True)
class _Tree:
    items: tuple[_Item, ...]
    classes: tuple[str, ...]
    explicit: bool
    unused: tuple[str, ...]


@dataclass(frozen=True)
class FolderRecords(Sequence):
    """One split. `classes` are the label names; `unused` the files that belong to no record."""

    source: Folder
    items: tuple[_Item, ...] = field(repr=False)
    classes: tuple[str, ...] = ()
    text: str = "none"
    unused: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        item, source = self.items[i], self.source
        record: dict[str, Any] = {"file": item.main}
        if self.text != "none":
            record["text"] = self._captions(item)
        if item.label >= 0:
            record["label"] = item.label
        if item.image:
            record["image"] = decode.image(decode.read(item.image, source.limits), item.image, source.limits)
        film = b""
        if item.video:
            film = decode.read(item.video, source.limits)
            record["video"] = videos.encoded(film, item.video, source.limits)
        if item.audio and source.audio:
            data = decode.read(item.audio, source.limits)
            record["audio"] = videos.audio(data, item.audio, source.rate, source.limits)
        elif source.audio and videos.is_film(film):
            heard = videos.sound(film, item.video, source.rate, source.limits)
            record |= {} if heard is None else {"audio": heard}
        return record

    def class_names(self, field: str) -> tuple[str, ...]:
        return self.classes if field == "label" else ()

    def leftovers(self) -> str:
        """The files of the folder that belong to no record, counted by ending; empty where there are none."""
        if not self.unused:
            return ""
        return (
            f"{self.source.path}: {len(self.unused)} files belong to no record ({decode.by_ending(self.unused)}), "
            f"e.g. {self.unused[0]}{decode.advice(self.unused)}"
        )

    def digest(self) -> str:
        """Of names, sizes and captions; independent of the folder's path."""
        found = hashlib.sha256(repr((self.text, self.classes)).encode())
        far = paths.is_url(self.source.path)
        sizes_far = paths.below(self.source.path) if far else {}
        texts_far = paths.read_all([i.text for i in self.items if i.text]) if far and self.text == "file" else {}
        prefix = f"{paths.at(self.source.path)}/"

        def size_of(file: str) -> int:
            if far:
                return sizes_far.get(file.removeprefix(prefix), -1)
            return os.path.getsize(file) if os.path.exists(file) else -1

        for item in self.items:
            sizes = [size_of(f) for f in (item.image, item.video, item.audio) if f]
            found.update(repr((item.name, item.label, sizes)).encode("utf-8", "surrogateescape"))
            if item.text in texts_far:
                found.update(texts_far[item.text][: 4 * self.source.limits.characters])
            elif item.text and self.text == "file" and os.path.isfile(item.text):
                with open(item.text, "rb") as file:
                    found.update(file.read(4 * self.source.limits.characters))
        return found.hexdigest()[:16]

    def without_text(self) -> str:
        try:
            self._captions(self.items[0])
        except DataError as error:
            if self.text == "file" and self.items[0].text:
                return f"none of the {len(self)} training records has a usable caption; the first: {error}"
        item = self.items[0]
        kind = "images" if item.image else "clips" if item.video else "sounds"
        main = os.path.basename(self.items[0].main)
        stem, found = os.path.splitext(main)[0], decode.by_ending(self.unused)
        doubled = any(os.path.splitext(os.path.basename(u))[0] == main for u in self.unused)
        there = (
            f"captions are named {main}.txt: rename them to {stem}.txt"
            if doubled
            else f"write {stem}.txt beside {main}"
        )
        return (
            f"{self.source.path} has {len(self)} training {kind} and no caption{f' (but {found})' if found else ''}: {there}, "
            "or sort them into class folders"
        )

    def captions(self) -> Iterator[str]:
        if self.text == "none":
            return
        far = paths.is_url(self.source.path) and self.text == "file"
        texts = paths.read_all([i.text for i in self.items if i.text]) if far else {}
        for item in self.items:
            try:
                yield from self._captions(item, texts.get(item.text))
            except DataError:
                continue

    def _captions(self, item: _Item, content: bytes | None = None) -> tuple[str, ...]:
        if self.text == "folder":
            if not item.folder:
                raise DataError(f"{item.main} is in no class folder: move it into one or set text='file'")
            return (os.path.basename(item.folder).replace("_", " "),)
        if not item.text:
            beside = os.path.splitext(item.main)[0] + ".txt"
            raise DataError(f"{item.main} has no caption: write {beside}, or set text='none'")
        limits = self.source.limits
        # 4 bytes a character is the most that UTF-8 takes: a huge file is refused before it is read.
        most = min(limits.bytes, 4 * limits.characters + 3)
        content = decode.read(item.text, limits, most=most) if content is None else content
        whole = decode.text(content, item.text, limits)
        return raw.lines(whole) if self.source.lines else (whole,)


def _scan(path: str, kinds: Mapping[str, str]) -> _Tree:
    try:
        found = paths.is_dir(path)
    except OSError as error:  # of an object store: a disk has none here
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}): check URL, credentials and network"
        ) from None
    if not found:
        how = ", the credentials and the network" if paths.is_url(path) else f" (it is relative to {os.getcwd()})"
        raise DataError(f"{path} is not a folder: check the path{how}")
    by_stem: dict[str, dict[str, str]] = {}
    unread: list[str] = []
    for name in _files(path):
        stem, ending = os.path.splitext(name)
        kind = kinds.get(ending.lower())
        if kind is None:
            unread.append(name)
            continue
        files = by_stem.setdefault(unicodedata.normalize("NFC", stem), {})
        if kind in files:
            raise DataError(f"{path}: {files[kind]} and {name} are both the {kind} of {stem!r}: rename one of them")
        files[kind] = name
    main = next((k for k in ("image", "video", "audio") if any(k in files for files in by_stem.values())), None)
    if main is None:
        there = f"; it has {decode.by_ending(unread)}{decode.advice(unread)}" if unread else ""
        raise DataError(f"{path} has no image, clip or sound{there}; the endings read are {', '.join(sorted(kinds))}")
    stems = sorted(stem for stem, files in by_stem.items() if main in files)
    unread += [f for files in by_stem.values() if main not in files for f in files.values()]
    unused = sorted(os.path.join(path, f) for f in unread)
    explicit = any(_split_of(stem) for stem in stems)
    split_of = {stem: _split_of(stem) or "" if explicit else "" for stem in stems}
    for stem, split in split_of.items():
        if explicit and not split:
            raise DataError(
                f"{os.path.join(path, by_stem[stem][main])} is outside the folders train/, val/ and test/ beside it: "
                "move it into one of them"
            )
    names = {stem: stem.split("/", 1)[1] if split_of[stem] else stem for stem in stems}
    classes = tuple(sorted({os.path.dirname(name) for name in names.values()} - {""}))
    labels = {"": -1} | {c: i for i, c in enumerate(classes)}
    items = []
    for stem, name in names.items():
        files = {kind: os.path.join(path, f) for kind, f in by_stem[stem].items()}
        folder = os.path.dirname(name)
        items.append(_Item(name, split_of[stem], folder, labels[folder], **files))
    return _Tree(tuple(items), classes, explicit, tuple(unused))


def _split_of(stem: str) -> str | None:
    top, _, rest = stem.partition("/")
    return splits.named(top) if rest else None


def _files(root: str) -> Iterable[str]:
    """Paths below `root`, with "/" between parts; links to folders are followed once; hidden entries and those of Windows left out."""
    if paths.is_url(root):
        for name in paths.below(root):
            parts = name.split("/")
            if not any(part.startswith(".") for part in parts) and parts[-1].lower() not in _SYSTEM:
                yield name
        return
    seen: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        inner[:] = sorted(d for d in inner if not d.startswith(".")) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in sorted(names):
            if not name.startswith(".") and name.lower() not in _SYSTEM:
                yield name if below == "." else f"{below}/{name}"

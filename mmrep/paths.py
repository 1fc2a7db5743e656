"""Where things are kept between runs, on a disk or in a bucket, and how several processes share it.

A place is a local path or the URL of an object store, gs://BUCKET/KEY or s3://BUCKET/KEY. `at` makes either of a string, joined and taken
apart alike; the functions below read and write both. Stores are reached through fsspec (gcsfs, s3fs), credentials and endpoints are those
of these libraries. A store has neither renames nor locks nor appending: an object is written whole, and is there whole or not at all.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from mmrep.errors import ConfigError, DataError

LOCK = ".lock"
LEASE = 60.0  # seconds that a lock of a bucket outlives its process
STORES = {"gs": "gcsfs", "s3": "s3fs"}
Place: TypeAlias = PurePath
"""A Path, or the epath.Path of a URL."""
Spelled: TypeAlias = str | os.PathLike[str]
"""A place, or the string of one."""


def is_url(place: Spelled) -> bool:
    """Whether it is in an object store. A Path made of a URL, which has lost one of its two slashes, counts."""
    return re.match(r"(gs|s3):/", os.fspath(place)) is not None


def at(place: Spelled) -> Place:
    """The place of a local path or of a URL. Raises ConfigError where the package for its store is not installed."""
    if not is_url(place):
        return place if isinstance(place, Path) else Path(place)
    from etils import epath

    scheme, _, rest = os.fspath(place).partition(":/")
    if importlib.util.find_spec(STORES[scheme]) is None:
        raise ConfigError(f"{scheme}:// needs {STORES[scheme]}: pip install -r requirements-storage.txt")
    return epath.Path(f"{scheme}://{rest.lstrip('/')}")


@contextlib.contextmanager
def _store(place: Spelled) -> Iterator[tuple[Any, str]]:
    """(filesystem, URL). What a store raises becomes an OSError that names the URL: its libraries raise many kinds."""
    url = str(at(place))
    import fsspec

    try:
        # Each process of a run has to find what the others wrote: no listing is kept.
        yield fsspec.filesystem(url.partition(":")[0], use_listings_cache=False), url
    except (ConfigError, DataError, FileExistsError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such object", url) from None
    except PermissionError as error:
        raise PermissionError(errno.EACCES, _line(error), url) from error
    except Exception as error:
        raise OSError(getattr(error, "errno", None) or errno.EIO, _line(error), url) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# Reading


def exists(place: Spelled) -> bool:
    """Whether there is such a file, object or folder."""
    if not is_url(place):
        return os.path.exists(place)
    with _store(place) as (store, url):
        return bool(store.exists(url))


def is_dir(place: Spelled) -> bool:
    """Whether it is a folder; in a store, whether there are objects below it."""
    if not is_url(place):
        return os.path.isdir(place)
    with _store(place) as (store, url):
        return bool(store.isdir(url))


def names(folder: Spelled) -> list[str]:
    """The names of the files and folders in `folder`, sorted; none where it does not exist."""
    try:
        if not is_url(folder):
            return sorted(os.listdir(folder))
        with _store(folder) as (store, url):
            found = {name.rstrip("/").rpartition("/")[2] for name in store.ls(url, detail=False)}
            return sorted(found - {"", at(folder).name})
    except FileNotFoundError:
        return []


def below(folder: Spelled) -> dict[str, int]:
    """{path below `folder`: bytes} of every file; of a folder in a store in one listing. Empty where it does not exist."""
    if not is_url(folder):
        root = Path(folder)
        return {f.relative_to(root).as_posix(): f.stat().st_size for f in sorted(root.rglob("*")) if f.is_file()}
    with _store(folder) as (store, url):
        root_key = f"{url.partition('://')[2].rstrip('/')}/"
        found = store.find(url, detail=True)
        named = {name.removeprefix(root_key): about for name, about in sorted(found.items())}
        return {k: int(about["size"]) for k, about in named.items() if not k.endswith("/") and about["type"] == "file"}


def size(place: Spelled) -> int:
    """In bytes. Raises OSError where there is no such file."""
    if not is_url(place):
        return os.path.getsize(place)
    with _store(place) as (store, url):
        return int(store.size(url))


def read(place: Spelled, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes [start, stop) of a file; of an object no others are transferred. Raises OSError where there is none."""
    if not is_url(place):
        with open(place, "rb") as file:
            file.seek(start)
            return file.read() if stop is None else file.read(stop - start)
    with _store(place) as (store, url):
        if not start and stop is None:
            return bytes(store.cat_file(url))
        if stop is not None and stop <= start:
            return b""
        try:
            return bytes(store.cat_file(url, start=start, end=stop))
        except Exception:  # a range that begins at the end is refused by some stores
            if store.size(url) > start:
                raise
            return b""


def read_all(urls: Sequence[str]) -> dict[str, bytes]:
    """{URL: content} of those objects of one store that can be read, many at a time."""
    if not urls:
        return {}
    with _store(urls[0]) as (store, _):
        plain = {url: store._strip_protocol(url) for url in urls}
        found = store.cat([*plain.values()], on_error="return")
    return {url: found[key] for url, key in plain.items() if isinstance(found.get(key), bytes)}


def matching(pattern: str) -> list[str]:
    """The URLs of a store that match a pattern with * ? [ab], sorted."""
    with _store(pattern) as (store, url):
        return sorted(f"{url.partition('://')[0]}://{name}" for name in store.glob(url))


def stamp(place: Spelled) -> tuple[int, int, int]:
    """Numbers of which one differs when a file was written again: size and times, or what its store has beside the size."""
    if not is_url(place):
        state = os.stat(place)
        # A file rewritten with equal size and time has another time of change.
        return state.st_size, state.st_mtime_ns, state.st_ctime_ns
    with _store(place) as (store, url):
        about = store.info(url)
        told = repr([about.get(k) for k in ("ETag", "etag", "md5Hash", "generation", "LastModified", "updated")])
        digest = hashlib.sha256(told.encode()).digest()
        return int(about["size"]), int.from_bytes(digest[:7], "big"), int.from_bytes(digest[7:14], "big")


def text(place: Spelled) -> str:
    """The content of a file as UTF-8. Raises OSError where there is none, ValueError where it is another encoding."""
    return read(place).decode("utf-8")


@contextlib.contextmanager
def opened(place: Spelled) -> Iterator[Any]:
    """A file to read and to seek in, as bytes; of an object, blocks are transferred as they are needed."""
    if not is_url(place):
        with open(place, "rb") as file:
            yield file
        return
    with _store(place) as (store, url):
        remote = store.open(url, "rb")
    with remote as file:
        yield file


@contextlib.contextmanager
def fetched(place: Spelled) -> Iterator[Path]:
    """A local path with the content of `place`: itself, or a copy of an object, or of all below a folder, as long as the context lasts.

    Errors about the copy name the URL. Where there is nothing there is no copy.
    """
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="mmrep-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / at(place).name
        with _store(place) as (store, url):
            if store.isfile(url):
                store.get_file(url, str(copy))
            else:
                for name in below(place):
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    store.get_file(f"{url.rstrip('/')}/{name}", str(copy / name))
        try:
            yield copy
        except (ConfigError, DataError) as error:
            raise type(error)(str(error).replace(str(copy), url)) from None


# Writing


def cache() -> Place:
    """The cache of tokenizers, pretrained parts and indexes of shards: $MMREP_CACHE or ~/.cache/mmrep.

    Raises ConfigError where neither names a folder.
    """
    named = os.environ.get("MMREP_CACHE", "")
    return at(named) if is_url(named) else local_cache()


def local_cache() -> Path:
    """`cache`, or ~/.cache/mmrep where that is a bucket: compiled programs and prepared data sets are local files.

    Raises ConfigError where neither names a folder.
    """
    if (named := os.environ.get("MMREP_CACHE")) and not is_url(named):
        return Path(named).expanduser()
    try:
        return Path.home() / ".cache" / "mmrep"
    except RuntimeError:
        raise ConfigError("this user has no home folder: set MMREP_CACHE to a folder that can be written") from None


def make(folder: Place, fix: str = "give a folder that can be written") -> Place:
    """`folder`, made where it is missing. Raises ConfigError, ending in `fix`, where that cannot be, or nothing can be written there.

    A store has no folders: there an object is written and removed.
    """
    try:
        if is_url(folder):
            probe = folder / f".probe-{uuid.uuid4().hex[:8]}"
            replace(probe, b"")
            remove(probe)
            return folder
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "no permission to write")
    except OSError as error:
        missing = is_url(folder) and isinstance(error, FileNotFoundError)
        why = "there is no such bucket" if missing else error.strerror or error
        raise ConfigError(f"{folder} cannot be written ({why}): {fix}") from None
    return folder


def make_cache(name: str) -> Place:
    """A folder of the cache. Raises ConfigError where it cannot be written."""
    return make(cache() / name, "set MMREP_CACHE to a folder that can be written")


def replace(path: Place, data: bytes | str) -> None:
    """Writes `path` so that a reader, or a run killed meanwhile, finds the old content or the new one whole. Text is UTF-8.

    Several processes may write one path: the last of them wins, whole.
    """
    content = data.encode() if isinstance(data, str) else data
    if is_url(path):
        with _store(path) as (store, url):
            store.pipe_file(url, content)
        return
    with written(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def written(path: Place) -> Iterator[Path]:
    """A local file to be written, which then becomes `path`, whole: renamed, or sent to its store."""
    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="mmrep-") as folder:
            part = Path(folder) / path.name
            yield part
            with _store(path) as (store, url):
                store.put_file(str(part), url)
        return
    part = Path(path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part"))
    try:
        yield part
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def remove(place: Place) -> None:
    """Removes an object, or all objects below a folder; nothing where there is none. For stores alone."""
    with contextlib.suppress(FileNotFoundError), _store(place) as (store, url):
        store.rm(url, recursive=True)


# Locks


@contextlib.contextmanager
def locked(folder: Place, wait: bool = False, lease: float = LEASE) -> Iterator[None]:
    """Keeps other processes that lock `folder` out, until it is left or this process ends, even by kill -9.

    On a disk the lock is the operating system's, on the file .lock, which names its holder. Without fcntl (Windows), and on file systems
    without locks, nothing is locked.

    In a store it is a lease: the object .lock, made only where there is none, names its holder and is renewed every lease / 4 seconds. A
    holder that is a dead process of this host has lost it. Otherwise whoever comes watches it by its own clock: one that is renewed is held,
    one that is not for `lease` seconds is taken over. Nothing there stops two processes that take over one lease at the same moment
    but the reading of it a second later; the one that finds another holder there gives up, or ends at its next renewal.

    wait: for the other process, instead of refusing.   Raises DataError where another process holds the lock and `wait` is False.
    """
    if is_url(folder):
        with _leased(folder, wait, lease):
            yield
        return
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (Path(folder) / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not wait:
                raise DataError(f"{folder} is in use by {holder}: wait for it, or give another folder") from None
            print(f"waiting for {folder}, in use by {holder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)


@contextlib.contextmanager
def _leased(folder: Place, wait: bool, lease: float) -> Iterator[None]:
    place, pause, mine = folder / LOCK, min(1.0, lease / 8), _mine()
    seen, first_seen, told = None, 0.0, False
    while True:
        held = _lease_of(place)
        if held is not None and not _is_dead(held):
            if seen is None or held["key"] != seen["key"]:
                seen, first_seen = held, time.monotonic()
            alive = held["renewed"] != seen["renewed"]
            holder = f"process {held['process']} on {held['host']} since {held['since']}"
            if alive and not wait:
                raise DataError(f"{folder} is in use by {holder}: wait for it, or give another folder")
            if alive:
                seen, first_seen = held, time.monotonic()
            if time.monotonic() - first_seen < lease:
                if not told:
                    print(f"waiting for {folder}, in use by {holder}", file=sys.stderr)
                told = True
                time.sleep(pause)
                continue
        if held is not None:
            remove(place)
        with contextlib.suppress(FileExistsError), _store(place) as (store, url):
            store.pipe_file(url, json.dumps(mine).encode(), mode="create")
        time.sleep(pause if held is not None else 0.0)  # somebody else may have taken the same one over
        if (_lease_of(place) or {}).get("key") == mine["key"]:
            break
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(lease / 4):
            mine["renewed"] += 1
            try:
                held = _lease_of(place)
                if held is not None and held["key"] != mine["key"]:
                    print(
                        f"error: {folder} was taken over by process {held['process']} on {held['host']}",
                        file=sys.stderr,
                    )
                    os._exit(2)  # two that write there would spoil each other's run
                replace(place, json.dumps(mine))
            except OSError:
                continue  # the store is out of reach for a moment: the next renewal may come in time

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError):
            if (_lease_of(place) or {}).get("key") == mine["key"]:
                remove(place)


def _mine() -> dict[str, Any]:
    return {
        "key": uuid.uuid4().hex, "process": os.getpid(), "host": platform.node(), "space": _process_space(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"), "renewed": 0,
    }  # fmt: skip


def _lease_of(place: Place) -> dict[str, Any] | None:
    try:
        found = json.loads(read(place))
        return found if {"key", "process", "host", "space", "since", "renewed"} <= {*found} else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _process_space() -> str:
    """What the number of a process belongs to: containers of one host may count their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_dead(held: dict[str, Any]) -> bool:
    if (held["host"], held["space"]) != (platform.node(), _process_space()):
        return False
    try:
        os.kill(int(held["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False

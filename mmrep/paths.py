"""Where things are kept between runs, and how several processes share it."""

import contextlib
import os
import platform
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from mmrep.errors import ConfigError, DataError

LOCK = ".lock"


def cache() -> Path:
    """The cache of prepared data, tokenizers, pretrained parts and compiled programs: $MMREP_CACHE or ~/.cache/mmrep.

    Raises ConfigError where neither names a folder.
    """
    if named := os.environ.get("MMREP_CACHE"):
        return Path(named).expanduser()
    try:
        return Path.home() / ".cache" / "mmrep"
    except RuntimeError:
        raise ConfigError("this user has no home folder: set MMREP_CACHE to a folder that can be written") from None


def make(folder: Path, fix: str = "give a folder that can be written") -> Path:
    """`folder`, made where it is missing. Raises ConfigError, ending in `fix`, where that cannot be, or nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "no permission to write")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror or error}): {fix}") from None
    return folder


def make_cache(name: str) -> Path:
    """A folder of the cache. Raises ConfigError where it cannot be written."""
    return make(cache() / name, "set MMREP_CACHE to a folder that can be written")


def replace(path: Path, data: bytes | str) -> None:
    """Writes `path` so that a reader, or a run killed meanwhile, finds the old content or the new one whole. Text is UTF-8.

    Several processes may write one path: the last of them wins, whole.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keeps other processes that lock `folder` out, until it is left or this process ends, even by kill -9.

    The lock is the operating system's, on the file .lock, which names its holder. Without fcntl (Windows), and on file systems without
    locks, nothing is locked.

    wait: for the other process, instead of refusing.   Raises DataError where another process holds the lock and `wait` is False.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
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

"""Checkpoints: on a disk through orbax v1 (this is the only file that imports it), in a bucket as `parts`. Saves are asynchronous and
atomic; restores go by an abstract target.

Beside the files of a finished step lies their seal, checksums.json: {"files": {path: [bytes, sha256]}}.
"""

import contextlib
import hashlib
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from mmrep import paths
from mmrep.errors import DataError
from mmrep.training.parts import SEAL, Parts


def seal(folder: Path) -> None:
    """Writes the checksums of all files of a finished checkpoint."""
    files = {
        str(f.relative_to(folder)): [f.stat().st_size, _digest(f)]
        for f in sorted(folder.rglob("*"))
        if f.is_file() and SEAL not in f.name
    }
    paths.replace(folder / SEAL, json.dumps({"files": files}, indent=0))


def damage(folder: paths.Place) -> str | None:
    """What is wrong with a checkpoint by its seal, or None. One without a seal (a kill came before it) passes."""
    if not paths.exists(folder / SEAL):
        return None
    try:
        files, found = json.loads(paths.text(folder / SEAL))["files"], paths.below(folder)
        for name, (size, digest) in files.items():
            if name not in found:
                return f"{name} is missing"
            if found[name] != size:
                return f"{name} has {found[name]:,} bytes, not {size:,}"
            if _digest(folder / name) != digest:
                return f"{name} has other bytes than were written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{SEAL} or a file cannot be read ({_line(error)})"
    return None


class Checkpoints:
    """The checkpoints of one run, in `folder`; the newest `keep` are kept. A context manager: leaving waits for the last save.

    write: False for a reader, which must leave a running save's temporary folder alone.
    """

    def __init__(self, folder: paths.Place, keep: int = 2, write: bool = True):
        self.folder = folder if paths.is_url(folder) else Path(folder).absolute()
        self._write = write
        self._store: Parts | _Disk
        self._store = Parts(self.folder, keep, write) if paths.is_url(folder) else _Disk(Path(self.folder), keep, write)
        self._worker = ThreadPoolExecutor(1, "seal")
        self._job: tuple[int, Future[None]] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
            self.wait()
        self._worker.shutdown()
        # What a failed save left behind has been told by wait().
        with contextlib.suppress(Exception):
            self._store.close()

    @property
    def steps(self) -> list[int]:
        """The finished steps, oldest first."""
        return self._store.steps()

    @property
    def latest(self) -> int | None:
        """The newest finished step, or None."""
        return max(self.steps, default=None)

    def save(self, step: int, state: Any) -> None:
        """Starts saving `state` as `step`; the arrays are copied before this returns, so the caller may donate them.

        Raises DataError where this save or the one before it failed.
        """
        self.wait()
        if self.latest == step:
            return
        try:
            finish = self._store.start(step, state)
        except Exception as error:
            raise self._failed(step, error) from error
        self._job = (step, self._worker.submit(finish))

    def wait(self) -> None:
        """Returns when the last save is on the disk and sealed. Raises DataError where it failed."""
        if self._job is not None:
            (step, job), self._job = self._job, None
            try:
                job.result()
            except Exception as error:
                raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> DataError:
        last = max((s for s in self.steps if s != step), default=None)
        kept = "no step was saved before it" if last is None else f"step {last}, saved before it, is whole"
        full = re.search("No space left on device|File too large|Disk quota exceeded", str(error))
        fix = "make room" if full else "check the folder"
        return DataError(
            f"checkpoint {self.folder}/{step} could not be saved ({full[0] if full else _line(error)}); {kept}: {fix}, and the same "
            "command resumes"
        )

    def newest(self, target: Callable[[int], Any], say: Callable[[str], None] | None = None) -> tuple[int, Any] | None:
        """(step, state) of the newest whole checkpoint, in the shapes of `target(step)`; None where there is none at all.

        A truncated or altered one is named through `say` (default: standard error), set aside as STEP.damaged, and passed over.
        Raises DataError where none is whole, or where a whole one does not hold that tree.
        """
        say = say or (lambda text: print(text, file=sys.stderr))
        bad: list[tuple[int, str]] = []
        for step in reversed(self.steps):
            folder = self.folder / str(step)
            why = _agreed(partial(damage, folder))
            if why is None:
                try:
                    state = self.restore(step, target(step))
                except DataError as error:
                    if paths.exists(folder / SEAL):  # its bytes are those that were written: another tree is asked for
                        raise
                    why = str(error)
                else:
                    if self._write:
                        self._settle(folder, [s for s, _ in bad])
                    return step, state
            say(f"checkpoint {folder} is damaged: {why}")
            bad.append((step, why))
        if bad:
            told = "; ".join(f"{step}: {why}" for step, why in bad)
            raise DataError(
                f"no checkpoint in {self.folder} is whole ({told}): bring one back from a copy, or start anew in another folder"
            )
        return None

    def _settle(self, whole: paths.Place, bad: list[int]) -> None:
        if jax.process_index() == 0:
            if not paths.exists(whole / SEAL):  # on a disk: a step of a bucket has one
                seal(Path(whole))
            for step in bad:
                # Out of the way of the step that will be saved again; kept, since somebody may want to look.
                self._store.set_aside(step)
        if bad:
            _agreed(lambda: None)  # nobody looks again before the first process is done
            self._store.reload()

    def restore(self, step: int, target: Any) -> Any:
        """The state of `step` in the shapes, dtypes and shardings of `target` (jax.ShapeDtypeStruct leaves).

        Raises DataError where the checkpoint does not hold that tree.
        """
        try:
            return self._store.load(step, target)
        except Exception as error:  # orbax raises many kinds; the user needs the file and the first line
            raise DataError(
                f"checkpoint {self.folder}/{step} cannot be restored into this config: {_line(error)}"
            ) from error


class _Disk:
    """The steps that orbax keeps in a folder."""

    def __init__(self, folder: Path, keep: int, write: bool):
        logging.getLogger("absl").setLevel(logging.WARNING)
        logging.getLogger("absl").addFilter(_raised_anyway)
        from orbax.checkpoint import v1 as ocp

        self.folder = folder
        self._alias, place = _without_pattern(folder)
        self._manager = ocp.training.Checkpointer(
            place,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=write,
        )

    def steps(self) -> list[int]:
        return sorted(int(f.name) for f in self.folder.iterdir() if f.name.isdigit())

    def start(self, step: int, state: Any) -> Callable[[], None]:
        response = self._manager.save_checkpointables_async(step, {"state": state})

        def finish() -> None:
            response.result()
            if jax.process_index() == 0:
                if not (self.folder / str(step) / "state" / "manifest.ocdbt").exists():
                    raise RuntimeError("its parts were not merged")  # a seal would promise that it can be restored
                seal(self.folder / str(step))

        return finish

    def load(self, step: int, target: Any) -> Any:
        return self._manager.load_checkpointables(step, {"state": target})["state"]

    def set_aside(self, step: int) -> None:
        (self.folder / str(step)).rename(self.folder / f"{step}.damaged-{time.time_ns()}")

    def reload(self) -> None:
        self._manager.reload()

    def close(self) -> None:
        try:
            self._manager.close()
        finally:
            if self._alias is not None:
                self._alias.cleanup()


def _without_pattern(folder: Path) -> tuple[tempfile.TemporaryDirectory[str] | None, Path]:
    """(what to clean up, `folder` under a name that no glob takes for a pattern): orbax finds its parts by one, "[1]" and all."""
    if not re.search(r"[][*?{}\\]", str(folder)):
        return None, folder
    folder.mkdir(parents=True, exist_ok=True)
    alias = tempfile.TemporaryDirectory(prefix="mmrep-", ignore_cleanup_errors=True)
    place = Path(alias.name) / "checkpoints"
    place.symlink_to(folder, target_is_directory=True)
    return alias, place


def _agreed(check: Callable[[], str | None]) -> str | None:
    """`check()` of the first process, for all of them: one reads the files, and all take the same checkpoint."""
    if jax.process_count() == 1:
        return check()
    from jax.experimental import multihost_utils

    why = check() if jax.process_index() == 0 else None
    found = bool(multihost_utils.broadcast_one_to_all(np.int32(why is not None)))
    return (why or "process 0 says so") if found else None


def _raised_anyway(record: logging.LogRecord) -> bool:
    """Drops orbax's log of a failed save, hundreds of lines in front of the one sentence about it."""
    return "orbax" not in record.pathname or record.levelno >= logging.CRITICAL


def _digest(path: paths.Place) -> str:
    with paths.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

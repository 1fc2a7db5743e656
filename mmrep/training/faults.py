"""What can go wrong around a step: a signal, a step that hangs, a disk that is full, numbers that are not finite."""

import contextlib
import errno
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmrep.config import flatten
from mmrep.errors import DataError
from mmrep.system import Params

# What is not a step (compiling, evaluating, saving) may take this many times as long before the watchdog ends it.
PATIENCE = 20


class Guard:
    """What the loop asks between steps. As it stands it never stops a run and watches nothing: right for notebooks and library calls.

    watchdog: seconds that a step may take before all stacks are dumped and the process ends with code 1; 0 = off.
    signal:   the name of the signal that asked the run to stop, or "".
    """

    def __init__(self, watchdog: float = 0.0, listens: bool = False):
        self.watchdog, self.signal = watchdog, ""
        self._listens, self._until = listens, 0.0

    def stopping(self, step: int) -> bool:
        """Whether to save and leave after `step`; all processes of a run answer alike."""
        if self._listens and not self.signal and jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # A signal reaches one process: JAX's coordinator agrees on the next step that all of them will reach.
            if multihost_utils.reached_preemption_sync_point(step):
                self.signal = "SIGTERM"
        return bool(self.signal)

    def beat(self, patience: int = 1) -> None:
        """The next beat comes within `patience * watchdog` seconds, or the process has hung."""
        until = time.monotonic() + patience * self.watchdog
        # Arming starts a thread: now and then is enough.
        if self.watchdog and abs(until - self._until) > min(1.0, 0.1 * self.watchdog):
            faulthandler.dump_traceback_later(patience * self.watchdog, exit=True, file=sys.__stderr__ or 2)
            self._until = until

    def rest(self) -> None:
        """Nothing is watched until the next beat."""
        if self.watchdog:
            faulthandler.cancel_dump_traceback_later()
            self._until = 0.0


@contextlib.contextmanager
def guarded(watchdog: float = 0.0) -> Iterator[Guard]:
    """A Guard that SIGINT and SIGTERM ask to stop after the step; a second signal kills. For commands, in the main thread.

    With several processes JAX's own listener takes SIGTERM, and SIGINT is passed on to it.
    """
    assert threading.current_thread() is threading.main_thread(), "signals are handled in the main thread only"
    guard = Guard(watchdog, listens=True)
    several = jax.process_count() > 1
    before = {}

    def asked(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if several:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        guard.signal = signal.Signals(number).name
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{guard.signal}: finishing the step, then saving; a second signal kills\n".encode())

    for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, asked)
    try:
        yield guard
    finally:
        guard.rest()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def full_disk(folder: Path | None) -> Iterator[None]:
    """Turns a full disk while the run's files are written into a DataError that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"{folder} cannot be written ({error.strerror}): make room, and the same command resumes from the last checkpoint"
        ) from error


def culprit(params: Params, learnt: Sequence[str], bad: int) -> str:
    """What was not finite: a parameter itself, else the gradient of the path `learnt[bad]`, else (bad = -1) the loss alone."""
    for path, leaf in sorted(flatten(params).items()):
        if not bool(jnp.isfinite(leaf).all()):
            return f"parameter {path}"
    return f"the gradient of {learnt[bad]}" if bad >= 0 else "the loss alone"

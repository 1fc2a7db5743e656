"""Signals, hanging steps, full disks, and numbers that are not finite."""

import contextlib
import errno
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import jax
import jax.numpy as jnp

from mmrep.config import flatten
from mmrep.errors import ConfigError, DataError
from mmrep.system import Params

# Compiling, evaluating and saving may take this many times as long as a step before the watchdog ends the process.
PATIENCE = 20


class Guard:
    """Signal and hang handling, checked once a step. The default does nothing, as notebooks and library calls need it.

    watchdog: seconds that a step may take before all stacks are dumped and the process ends with code 1; 0 = off.
    signal:   the name of the signal that stops the run, or "".
    """

    def __init__(self, watchdog: float = 0.0, listens: bool = False):
        if not 0 <= watchdog < math.inf:
            raise ConfigError(f"watchdog is {watchdog}: give the seconds that a step may take, or 0 for none")
        self.watchdog, self.signal = watchdog, ""
        self._listens, self._until = listens, 0.0

    def stopping(self, step: int) -> bool:
        """Whether to save and leave after `step`; the same in all processes of a run."""
        if self._listens and not self.signal and jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # A signal reaches one process: JAX's coordinator agrees on the next step that all of them will reach.
            if multihost_utils.reached_preemption_sync_point(step):
                self.signal = "SIGTERM"
        return bool(self.signal)

    def heartbeat(self, patience: int = 1) -> None:
        """Restarts the watchdog: without another call within `patience * watchdog` seconds the process counts as hung."""
        until = time.monotonic() + patience * self.watchdog
        # Each restart starts a thread, so not at every step.
        if self.watchdog and abs(until - self._until) > min(1.0, 0.1 * self.watchdog):
            faulthandler.dump_traceback_later(patience * self.watchdog, exit=True, file=sys.__stderr__ or 2)
            self._until = until

    def pause(self) -> None:
        """Stops the watchdog until the next heartbeat."""
        if self.watchdog:
            faulthandler.cancel_dump_traceback_later()
            self._until = 0.0


@contextlib.contextmanager
def guarded(watchdog: float = 0.0) -> Iterator[Guard]:
    """A Guard that stops the run after the step at SIGINT or SIGTERM; a second signal kills. For commands, in the main thread.

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
        guard.pause()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def full_disk(folder: PurePath | None) -> Iterator[None]:
    """Turns the error of a full disk into a DataError of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"{folder} cannot be written ({error.strerror}): make room, and the same command resumes from the last checkpoint"
        ) from error


def first_nonfinite(params: Params, learnt: Sequence[str], bad: int) -> str:
    """The name of what is not finite: a parameter, else the gradient of the path `learnt[bad]`, else (bad = -1) the loss."""
    for path, leaf in sorted(flatten(params).items()):
        if not bool(jnp.isfinite(leaf).all()):
            return f"parameter {path}"
    return f"the gradient of {learnt[bad]}" if bad >= 0 else "the loss alone"

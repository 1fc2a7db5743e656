"""Checkpoints through orbax v1: the only file that imports it. Saves are asynchronous and atomic; restores go by an abstract target."""

import contextlib
import logging
from pathlib import Path
from types import TracebackType
from typing import Any

from mmrep.errors import DataError


class Checkpoints:
    """The checkpoints of one run, in `folder`; the newest `keep` are kept. A context manager: leaving waits for the last save."""

    def __init__(self, folder: Path, keep: int = 2):
        logging.getLogger("absl").setLevel(logging.WARNING)
        from orbax.checkpoint import v1 as ocp

        self._ocp = ocp
        self._manager = ocp.training.Checkpointer(
            folder.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest finished step, or None."""
        newest = self._manager.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: Any) -> None:
        """Starts saving `state` as `step`; the arrays are copied before this returns, so the caller may donate them."""
        if self.latest != step:
            self._manager.save_checkpointables_async(step, {"state": state})

    def wait(self) -> None:
        self._manager.wait()

    def restore(self, step: int, target: Any) -> Any:
        """The state of `step` in the shapes, dtypes and shardings of `target` (jax.ShapeDtypeStruct leaves).

        Raises DataError where the checkpoint does not hold that tree.
        """
        try:
            return self._manager.load_checkpointables(step, {"state": target})["state"]
        except Exception as error:  # orbax raises many kinds; the user needs the file and the first line
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(
                f"checkpoint {self._manager.directory}/{step} cannot be restored into this config: {first}"
            ) from error

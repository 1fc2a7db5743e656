"""Metrics to JSONL, to TensorBoard where tensorboardX is installed, and to Weights & Biases where asked for."""

import importlib
import importlib.util
import json
import math
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from mmrep import paths
from mmrep.errors import ConfigError, DataError

EVERY = 30.0  # seconds between two writings of the log of a run in a bucket


def read(path: paths.Place) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, one dict a line; "nan", "inf" and "-inf" become floats.

    A last line cut by a crash is left out. Raises DataError for a missing file or a broken line elsewhere.
    """
    if not paths.exists(path):
        raise DataError(f"{path} does not exist: give the metrics.jsonl of a run")
    # A cut can fall inside a UTF-8 character.
    lines = paths.read(path).decode("utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError
        except ValueError:
            if any(rest.strip() for rest in lines[number:]):
                raise DataError(f"{path} line {number} is not a JSON object: mend or delete that line") from None
            break
        rows.append({k: _number(v) for k, v in row.items()})
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return (
        json.dumps({k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}) + "\n"
    )


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


class Writer:
    """Keeps rows {step, name: float} and, given a `folder`, appends them to its metrics.jsonl and TensorBoard log.

    Rows after `start`, left by an interrupted run, are dropped first: a resumed run writes each step once.
    In a bucket metrics.jsonl is an object, which is written whole at `sync`, at `close`, and every `EVERY` seconds; there is no TensorBoard log.
    wandb: log to Weights & Biases as well, offline unless $WANDB_MODE says otherwise. Raises ConfigError where it is not installed.
    """

    def __init__(
        self, folder: paths.Place | None, start: int = 0, config: Mapping[str, Any] | None = None, wandb: bool = False
    ):
        self.rows: list[dict[str, float]] = []
        self._file: Any = None
        self._board: Any = None
        self._wandb: Any = None
        self._far: paths.Place | None = None
        self._lines: list[str] = []
        self._sent, self._new = 0.0, False
        if wandb and not importlib.util.find_spec("wandb"):
            raise ConfigError("wandb is not installed: pip install wandb, or leave out --wandb")
        if folder is None:
            return
        path = folder / "metrics.jsonl"
        self.rows = [
            r
            for r in (read(path) if paths.exists(path) else [])
            if r["step"] < start or (r["step"] == start and "train/loss" in r)
        ]
        self._lines = [_line(r) for r in self.rows]
        paths.replace(path, "".join(self._lines))
        far = paths.is_url(folder)
        if far:
            self._far, self._sent = path, time.monotonic()
        else:
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        if not far and importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)
        if wandb:
            mode = os.environ.get("WANDB_MODE", "offline")
            self._wandb = importlib.import_module("wandb").init(
                dir=tempfile.gettempdir() if far else str(folder),
                name=folder.name,
                config=dict(config or {}),
                resume="allow",
                mode=mode,
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        clean = {k: float(v) for k, v in values.items()}
        self.rows.append({"step": step, **clean})
        if self._file is None and self._far is None:
            return
        line = _line({"step": step, **clean})
        if self._far is not None:
            self._lines.append(line)
            self._new = True
            if time.monotonic() - self._sent > EVERY:
                self.sync()
        else:
            self._file.write(line)
            self._file.flush()
        if self._board is not None:
            for name, value in clean.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(clean, step=step)

    def sync(self) -> None:
        """Returns when all rows are in the folder."""
        if self._far is not None and self._new:
            paths.replace(self._far, "".join(self._lines))
            self._sent, self._new = time.monotonic(), False

    def close(self) -> None:
        self.sync()
        for sink in (self._file, self._board):
            if sink is not None:
                sink.close()
        if self._wandb is not None:
            self._wandb.finish()

"""Metrics to JSONL, to TensorBoard where tensorboardX is installed, and to Weights & Biases where asked for."""

import importlib
import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrep import paths
from mmrep.errors import ConfigError, DataError


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, one dict a line; "nan", "inf" and "-inf" become floats.

    A last line cut by a crash is left out. Raises DataError for a missing file or a broken line elsewhere.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: give the metrics.jsonl of a run")
    # A cut can fall inside a UTF-8 character.
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
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


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


class Writer:
    """Keeps rows {step, name: float} and, given a `folder`, appends them to its metrics.jsonl and TensorBoard log.

    Rows after `start`, left by an interrupted run, are dropped first: a resumed run writes each step once.
    wandb: log to Weights & Biases as well, offline unless $WANDB_MODE says otherwise. Raises ConfigError where it is not installed.
    """

    def __init__(
        self, folder: Path | None, start: int = 0, config: Mapping[str, Any] | None = None, wandb: bool = False
    ):
        self.rows: list[dict[str, float]] = []
        self._file: Any = None
        self._board: Any = None
        self._wandb: Any = None
        if wandb and not importlib.util.find_spec("wandb"):
            raise ConfigError("wandb is not installed: pip install wandb, or leave out --wandb")
        if folder is None:
            return
        path = folder / "metrics.jsonl"
        self.rows = [
            r
            for r in (read(path) if path.exists() else [])
            if r["step"] < start or (r["step"] == start and "train/loss" in r)
        ]
        paths.replace(path, "".join(json.dumps(r) + "\n" for r in self.rows))
        self._file = path.open("a", encoding="utf-8")
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)
        if wandb:
            mode = os.environ.get("WANDB_MODE", "offline")
            self._wandb = importlib.import_module("wandb").init(
                dir=str(folder), name=folder.name, config=dict(config or {}), resume="allow", mode=mode
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        clean = {k: float(v) for k, v in values.items()}
        self.rows.append({"step": step, **clean})
        if self._file is None:
            return
        row = {"step": step} | {k: v if math.isfinite(v) else str(v) for k, v in clean.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in clean.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(clean, step=step)

    def close(self) -> None:
        for sink in (self._file, self._board):
            if sink is not None:
                sink.close()
        if self._wandb is not None:
            self._wandb.finish()

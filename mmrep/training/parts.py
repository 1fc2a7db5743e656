"""Checkpoints of a run in a bucket: objects written whole, and a step that is finished by its last one. Nothing is renamed.

    STEP/part-TOKEN-00003-of-00008.safetensors    what the fourth of eight processes held: "['params']['a']['kernel']@0:2,0:4" is that part
                                                  of the array; TOKEN differs at every start of the run
    STEP/part-TOKEN-00003-of-00008.json           its size and SHA-256, written after it
    STEP/checksums.json                           written last, by the first process: the step is there. One without it is not

A restore reads the header of every part, and of the arrays those byte ranges that its own devices need: any number of processes and
devices takes the run up. orbax writes to Google's stores alone, by a client with other credentials, and by renaming elsewhere.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mmrep import paths

SEAL = "checksums.json"
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64",
    "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_READERS = 16
Slices = tuple[tuple[int, int], ...]


class _Piece(NamedTuple):
    """Where a part of an array is: its (start, stop) in each dimension, its object and the bytes in it."""

    slices: Slices
    place: paths.Place
    dtype: str
    start: int
    stop: int


class Parts:
    """The finished steps below `folder`, the newest `keep` of them kept. Several processes write one step together.

    write: False for a reader; a writer removes what interrupted saves left behind.
    """

    def __init__(self, folder: paths.Place, keep: int, write: bool):
        self.folder, self._keep = folder, keep
        self._token = 0
        if not write:
            return
        self._token = self._of_all(time.time_ns() % 2**31)
        if jax.process_index() == 0:
            finished = self.steps()
            for step in {name.split("/")[0] for name in paths.below(folder)} - {str(s) for s in finished}:
                if step.isdigit() and not any("damaged" in n for n in paths.names(folder / step)):
                    paths.remove(folder / step)
        self._of_all(0)  # nobody writes before the first process has removed

    @staticmethod
    def _of_all(value: int) -> int:
        if jax.process_count() == 1:
            return value
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))

    def steps(self) -> list[int]:
        """The finished steps, oldest first."""
        parts = [name.split("/") for name in paths.below(self.folder)]
        return sorted(int(p[0]) for p in parts if len(p) == 2 and p[0].isdigit() and p[1] == SEAL)

    def start(self, step: int, state: Any) -> Callable[[], None]:
        """Copies this process's parts of the arrays, and returns the function that writes them."""
        arrays: dict[str, np.ndarray] = {}
        shapes: dict[str, list[int]] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            name = jax.tree_util.keystr(path)
            shapes[name] = list(np.shape(leaf))
            if not isinstance(leaf, jax.Array):
                if jax.process_index() == 0:
                    arrays[_spelled(name, tuple((0, n) for n in np.shape(leaf)))] = np.array(leaf)
                continue
            for shard in leaf.addressable_shards:
                if shard.replica_id == 0:
                    # A copy: the caller donates the array to its next step.
                    arrays[_spelled(name, _bounds(shard.index, leaf.shape))] = np.array(shard.data, order="C")
        return lambda: self._write(step, arrays, shapes)

    def _part(self, process: int) -> str:
        return f"part-{self._token:08x}-{process:05d}-of-{jax.process_count():05d}"

    def _write(self, step: int, arrays: dict[str, np.ndarray], shapes: dict[str, list[int]]) -> None:
        from safetensors.numpy import save_file

        folder, name = self.folder / str(step), self._part(jax.process_index())
        with paths.written(folder / f"{name}.safetensors") as part:
            save_file(arrays, part, {"shapes": json.dumps(shapes)})
            about = [part.stat().st_size, _digest(part)]
        paths.replace(folder / f"{name}.json", json.dumps(about))
        if jax.process_index() == 0:
            self._seal(folder)

    def _seal(self, folder: paths.Place) -> None:
        """Waits for the parts of all processes, finishes the step, and removes older ones and what is left of other saves."""
        wanted = [self._part(process) for process in range(jax.process_count())]
        while missing := {f"{name}.json" for name in wanted} - {*paths.names(folder)}:
            time.sleep(0.2 if len(missing) < len(wanted) else 1.0)
        files = {f"{name}.safetensors": json.loads(paths.read(folder / f"{name}.json")) for name in wanted}
        paths.replace(folder / SEAL, json.dumps({"files": files}, indent=0))
        for name in {*paths.names(folder)} - {*files, SEAL}:
            if "damaged" not in name:
                paths.remove(folder / name)
        for step in self.steps()[: -self._keep]:
            # Its seal first: a step that is half removed is not finished.
            paths.remove(self.folder / str(step) / SEAL)
            paths.remove(self.folder / str(step))

    def load(self, step: int, target: Any) -> Any:
        """The arrays of `step` in the shapes, dtypes and shardings of `target`. Raises ValueError where it holds others."""
        shapes, pieces = self._index(step)
        wanted = jax.tree_util.tree_leaves_with_path(target)
        for path, leaf in wanted:
            name = jax.tree_util.keystr(path)
            if name not in shapes:
                raise ValueError(f"it has no array {name}")
            if tuple(shapes[name]) != tuple(leaf.shape):
                raise ValueError(f"its {name} has shape {shapes[name]}, not {list(leaf.shape)}")
            if {p.dtype for p in pieces[name]} != {str(np.dtype(leaf.dtype))}:
                raise ValueError(f"its {name} is {pieces[name][0].dtype}, not {np.dtype(leaf.dtype)}")
        if extra := {*shapes} - {jax.tree_util.keystr(path) for path, _ in wanted}:
            raise ValueError(f"it has the array {min(extra)}, which this config lacks")
        with ThreadPoolExecutor(_READERS) as pool:
            jobs = [
                pool.submit(_assembled, leaf, pieces[jax.tree_util.keystr(path)], shapes[jax.tree_util.keystr(path)])
                for path, leaf in wanted
            ]
            parts = [job.result() for job in jobs]
        leaves = [_placed(leaf, part) for (_, leaf), part in zip(wanted, parts, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(target), leaves)

    def _index(self, step: int) -> tuple[dict[str, list[int]], dict[str, list[_Piece]]]:
        folder = self.folder / str(step)
        shapes: dict[str, list[int]] = {}
        pieces: dict[str, list[_Piece]] = {}
        for file in json.loads(paths.read(folder / SEAL))["files"]:
            length = int.from_bytes(paths.read(folder / file, 0, 8), "little")
            header = json.loads(paths.read(folder / file, 8, 8 + length))
            shapes |= json.loads(header.pop("__metadata__")["shapes"])
            for spelled, about in header.items():
                name, _, where = spelled.rpartition("@")
                slices = tuple((int(a), int(b)) for a, b in (s.split(":") for s in where.split(",") if s))
                start, stop = (8 + length + offset for offset in about["data_offsets"])
                piece = _Piece(slices, folder / file, _DTYPES[about["dtype"]], start, stop)
                pieces.setdefault(name, []).append(piece)
        return shapes, pieces

    def set_aside(self, step: int) -> None:
        """Makes a damaged step one that is not finished; its objects stay until the step is written again."""
        folder = self.folder / str(step)
        paths.replace(folder / f"checksums.damaged-{time.time_ns()}.json", paths.read(folder / SEAL))
        paths.remove(folder / SEAL)

    def reload(self) -> None:
        """Nothing is kept in memory."""

    def close(self) -> None:
        """Nothing is open."""


def _spelled(name: str, slices: Slices) -> str:
    return f"{name}@{','.join(f'{a}:{b}' for a, b in slices)}"


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> Slices:
    """The (start, stop) of each dimension."""
    return tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))


def _assembled(leaf: Any, pieces: list[_Piece], shape: list[int]) -> dict[Slices, np.ndarray]:
    """{part: values} for those parts of an array that this process's devices hold."""
    read: dict[_Piece, np.ndarray] = {}
    found: dict[Slices, np.ndarray] = {}
    for index in leaf.sharding.addressable_devices_indices_map(tuple(shape)).values():
        bounds = _bounds(index, tuple(shape))
        if bounds in found:
            continue
        part = np.empty([b - a for a, b in bounds], np.dtype(leaf.dtype))
        covered = 0
        for piece in pieces:
            common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(bounds, piece.slices, strict=True)]
            if any(a >= b for a, b in common):
                continue
            if piece not in read:
                data = paths.read(piece.place, piece.start, piece.stop)
                read[piece] = np.frombuffer(data, np.dtype(leaf.dtype)).reshape([b - a for a, b in piece.slices])
            there = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(common, bounds, strict=True))
            here = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(common, piece.slices, strict=True))
            part[there] = read[piece][here]
            covered += math.prod(b - a for a, b in common)
        if covered != part.size:
            raise ValueError(f"its parts hold {covered} of {part.size} numbers of an array")
        found[bounds] = part
    return found


def _placed(leaf: Any, parts: dict[Slices, np.ndarray]) -> jax.Array:
    return jax.make_array_from_callback(
        leaf.shape, leaf.sharding, lambda index: parts[_bounds(index or (), leaf.shape)]
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Whisper models in CTranslate2's format (model.bin): arrays with their names, one behind the other."""

from pathlib import Path

import numpy as np

from mmrep.errors import DataError

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_VERSIONS = (4, 5, 6)


def is_model(path: Path) -> bool:
    """Whether a file begins as this format does: its version, then the name of the kind of model."""
    with path.open("rb") as file:
        start = file.read(32)
    return int.from_bytes(start[:4], "little") in _VERSIONS and b"Spec\x00" in start[6:]


def read(path: Path) -> dict[str, np.ndarray]:
    """{name: array} of a file; float16 becomes float32. Raises DataError for a damaged file, and for quantised weights."""
    data, at = memoryview(path.read_bytes()), 0

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(data):
            raise DataError(f"{path} ends too early: get it again")
        return int.from_bytes(data[at - size : at], "little")

    def text() -> str:
        nonlocal at
        size = number(2)
        at += size
        return bytes(data[at - size : at - 1]).decode(errors="replace")

    number(4), text(), number(4)  # version, kind of model, its revision
    found: dict[str, np.ndarray] = {}
    for _ in range(number(4)):
        name, shape = text(), None
        shape = tuple(number(4) for _ in range(number(1)))
        kind, size = number(1), number(4)
        if kind not in _DTYPES or at + size > len(data):
            raise DataError(f"{path}: array {name!r} has an unknown kind or is cut off")
        values = np.frombuffer(data[at : at + size], _DTYPES[kind]).reshape(shape)
        at += size
        if values.ndim > 1 and values.dtype.kind == "i":
            raise DataError(f"{path}: array {name!r} is quantised: only float32 and float16 models can be read")
        found[name] = values.astype(np.float32) if values.dtype == np.float16 else values
    for _ in range(number(4)):
        alias, name = text(), text()
        if name in found:
            found[alias] = found[name]
    return found

"""Tensors of PyTorch files (.pt, .pth, .bin, .ckpt) without PyTorch: nothing in a file is executed.

A file holds a pickle program that names storages, and the storages' bytes: in a zip archive (since PyTorch 1.6), or one behind the other.
The program is interpreted here with dicts, lists, numbers and text alone; what it would import becomes `Unknown`, and no tensor.
"""

import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmrep.errors import DataError

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16, "BFloat16Storage": "bfloat16",
    "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16, "CharStorage": np.int8,
    "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip


class Global(NamedTuple):
    """The name of what a file would import."""

    module: str
    name: str


class Unknown(NamedTuple):
    """In the place of an object that is no tensor, dict, list, number or text."""

    kind: Any


class Storage(NamedTuple):
    kind: str
    key: str
    numbers: int


class Tensor(NamedTuple):
    """A view of a storage, in its numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> Any:
    """The tree that a file holds: its dicts, with a numpy array for each tensor. bfloat16 and float16 become float32.

    Raises DataError for a file that is neither form, is damaged, or has tensors of another kind (sparse, quantised).
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _of_zip(archive)
        with path.open("rb") as file:
            return _of_stream(file)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        EOFError,
        OSError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise DataError(
            f"{path} cannot be read as plain PyTorch weights ({error!r}): save its state dict with safetensors.torch.save_file"
        ) from None


def _of_zip(archive: zipfile.ZipFile) -> Any:
    (program,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    folder = program.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise DataError("its bytes are in big-endian order, which is not supported")
    with archive.open(program) as file:
        tree = _run(file)

    def bytes_of(storage: Storage) -> bytes:
        return archive.read(f"{folder}data/{storage.key}")

    return _filled(tree, bytes_of)


def _of_stream(file: Any) -> Any:
    if _run(file) != _MAGIC:
        raise DataError("it is not a file of PyTorch")
    _run(file), _run(file)  # versions, and sizes of numbers
    tree = _run(file)
    found: dict[str, bytes] = {}
    sizes = {s.key: np.dtype(_width(s.kind)).itemsize for s in _storages(tree)}
    for key in _run(file):
        numbers = int.from_bytes(file.read(8), "little")
        found[str(key)] = file.read(numbers * sizes[str(key)])
    return _filled(tree, lambda storage: found[storage.key])


def _width(kind: str) -> Any:
    if kind not in _DTYPES:
        raise DataError(f"it has numbers of kind {kind}, which are not supported")
    return np.uint16 if _DTYPES[kind] == "bfloat16" else _DTYPES[kind]


def _storages(tree: Any) -> list[Storage]:
    if isinstance(tree, Tensor):
        return [tree.storage]
    if isinstance(tree, Storage):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [s for part in parts for s in _storages(part)]


def _filled(tree: Any, bytes_of: Callable[[Storage], bytes]) -> Any:
    """The tree with arrays in place of tensors."""
    if isinstance(tree, Tensor):
        numbers = np.frombuffer(bytes_of(tree.storage), _width(tree.storage.kind))
        if _DTYPES[tree.storage.kind] == "bfloat16":
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        elif numbers.dtype == np.float16:
            numbers = numbers.astype(np.float32)
        last = tree.offset + sum((n - 1) * s for n, s in zip(tree.shape, tree.strides))
        if 0 in tree.shape:
            return np.zeros(tree.shape, numbers.dtype)
        if not 0 <= tree.offset <= last < len(numbers) or min(tree.strides, default=0) < 0:
            raise ValueError("a tensor lies outside its storage")
        strides = tuple(s * numbers.itemsize for s in tree.strides)
        return np.lib.stride_tricks.as_strided(numbers[tree.offset :], tree.shape, strides).copy()
    if isinstance(tree, dict):
        return {k: _filled(v, bytes_of) for k, v in tree.items()}
    return [_filled(v, bytes_of) for v in tree] if type(tree) in (list, tuple) else tree


def _called(function: Any, given: tuple[Any, ...]) -> Any:
    if not isinstance(function, Global):
        return Unknown(function)
    if function.module == "torch._utils" and function.name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return Tensor(*given[:4])
    if function.module == "torch._utils" and function.name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return given[0]
    if function == ("collections", "OrderedDict"):
        return dict(given[0]) if given else {}
    return Unknown(function)


_MARK = object()
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_PLAIN = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
          "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")  # fmt: skip


def _run(file: Any) -> Any:
    """The value of the pickle program at a file's place."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = len(stack) - 1 - next(i for i, v in enumerate(reversed(stack)) if v is _MARK)
        found = stack[at + 1 :]
        del stack[at:]
        return found

    argument: Any
    for code, argument, _ in pickletools.genops(file):
        name = code.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _PLAIN:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(Global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(Global(module, attribute))
        elif name in _TAKES:
            taken = tuple(stack[-_TAKES[name] :])
            del stack[-_TAKES[name] :]
            stack.append(taken)
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            found = since_mark()
            stack.append(tuple(found) if name == "TUPLE" else found)
        elif name == "DICT":
            found = since_mark()
            stack.append(dict(zip(found[::2], found[1::2])))
        elif name in ("APPENDS", "ADDITEMS", "SETITEMS"):
            found = since_mark()
            _extend(stack[-1], found, name == "SETITEMS")
        elif name == "APPEND":
            value = stack.pop()
            _extend(stack[-1], [value], False)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _extend(stack[-1], [key, value], True)
        elif name in ("REDUCE", "NEWOBJ"):
            given, function = stack.pop(), stack.pop()
            stack.append(_called(function, given) if name == "REDUCE" else Unknown(function))
        elif name == "NEWOBJ_EX":
            del stack[-2:]
            stack.append(Unknown(stack.pop()))
        elif name == "BUILD":
            stack.pop()  # attributes of an object
        elif name == "BINPERSID":
            entry = stack.pop()
            stack.append(Storage(entry[1].name, str(entry[2]), int(entry[4])))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            since_mark()
        else:
            raise DataError(f"it has an instruction {name} that plain weights do not need")
    raise EOFError("the file ends too early")


def _extend(target: Any, values: list[Any], pairs: bool) -> None:
    if isinstance(target, dict) and pairs:
        target.update(zip(values[::2], values[1::2]))
    elif isinstance(target, list) and not pairs:
        target.extend(values)

"""One language for the weights of others: a table pairs array names of a file with our parameter paths, for both directions.

    BLOCK = (
        *norm("norm1", "norm_attn"),
        *fused("attn.qkv", "attn", ("query", "key", "value")),
        *dense("attn.proj", "attn/out"),
    )
    TABLE = (
        Row("cls_token", "cls", leading(1)),
        *within("encoder.{i}", "encoder/block{i:02d}", BLOCK),
        unused("{name}.pos_emb"),
    )
    params = to_params(TABLE, arrays, shapes)      # shapes: {our path: shape}, of `jax.eval_shape(system.init, ...)`
    arrays = to_arrays(TABLE, params)

A placeholder of one letter is a number, of more letters a word without dots and slashes; its values come from our own paths, so a table serves
every depth. A row whose paths the model does not have is skipped. Blocks stacked for a scan ("encoder/blocks/...") are written in tables as
separate ones. Every array of a file is taken by a row or named by `unused`; anything missing, unknown or of another size is a DataError of
one sentence that names the array and both shapes.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mmrep.config import flatten, unflatten
from mmrep.errors import ConfigError, DataError, near

Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Part = np.ndarray | None


class Layout(NamedTuple):
    """How the file's arrays of a row become ours (`read`), and its inverse (`write`); both take and return one list.

    write gets None for a parameter of the row that our model does not have.
    fit:  (array, expected shape) -> array, for files that hold the same array in another form, e.g. with rows of padding.
    """

    read: Callable[[list[np.ndarray]], list[Any]]
    write: Callable[[list[Any]], list[Any]]
    fit: Callable[[np.ndarray, Shape], np.ndarray] = lambda array, shape: array


def each(
    read: Callable[[np.ndarray], np.ndarray],
    write: Callable[[np.ndarray], np.ndarray],
    fit: Callable[[np.ndarray, Shape], np.ndarray] = lambda array, shape: array,
) -> Layout:
    """The same change for every array of a row."""
    return Layout(
        lambda arrays: [read(a) for a in arrays],
        lambda arrays: [None if a is None else write(a) for a in arrays],
        fit,
    )


SAME = each(lambda a: a, lambda a: a)
DENSE = each(np.transpose, np.transpose)
"""PyTorch's linear weight [out, in] <-> our kernel [in, out]."""
CONV = each(
    lambda a: np.moveaxis(a, (0, 1), (-1, -2)),
    lambda a: np.moveaxis(a, (-1, -2), (0, 1)),
)
"""A convolution [out, in, ...] <-> our kernel [..., in, out], in any number of dimensions."""
STACK = Layout(lambda arrays: [np.stack(arrays)], lambda arrays: [*arrays[0]])
"""Several arrays of the file <-> rows of one of ours."""


def leading(axes: int) -> Layout:
    """The file's array has so many leading axes of length 1."""
    return each(lambda a: a.reshape(a.shape[axes:]), lambda a: a.reshape((1,) * axes + a.shape))


def split(parts: int, axis: int = 0) -> Layout:
    """One array of the file <-> `parts` equal ones of ours; a part that our model does not have is written as zeros."""

    def write(arrays: list[Part]) -> list[np.ndarray]:
        like = next(a for a in arrays if a is not None)
        return [np.concatenate([np.zeros_like(like) if a is None else a for a in arrays], axis=axis)]

    return Layout(lambda arrays: np.split(arrays[0], parts, axis=axis), write)


def channels_last(*sides: tuple[int, int]) -> Layout:
    """Values of a patch on the first axis: (channel, row, column) in the file <-> (row, column, channel).

    sides: (patch, channels) of each map whose values follow one another there.
    """
    ends = np.cumsum([p * p * c for p, c in sides])[:-1]

    def reorder(a: np.ndarray, last: bool) -> np.ndarray:
        blocks = []
        for block, (p, c) in zip(np.split(a, ends), sides):
            shape, order = ((c, p, p), (1, 2, 0)) if last else ((p, p, c), (2, 0, 1))
            rest = range(3, a.ndim + 2)
            blocks.append(block.reshape(*shape, *a.shape[1:]).transpose(*order, *rest).reshape(block.shape))
        return np.concatenate(blocks)

    return each(lambda a: reorder(a, True), lambda a: reorder(a, False))


def patches(patch: int, channels: int) -> Layout:
    """The weight [out, channels, patch, patch] of a patch embedding <-> our kernel [patch * patch * channels, out]."""
    flat = each(lambda a: a.reshape(len(a), -1), lambda a: a.reshape(len(a), channels, patch, patch))
    return chain(flat, DENSE, channels_last((patch, channels)))


def padded(layout: Layout = SAME, rows: int = 1) -> Layout:
    """A file may hold so many rows more than our model needs, behind the others; they are left out."""

    def fit(array: np.ndarray, shape: Shape) -> np.ndarray:
        return array[:-rows] if array.shape == (shape[0] + rows, *shape[1:]) else array

    return layout._replace(fit=fit)


def chosen(rows: Sequence[int] | np.ndarray, layout: Layout = SAME) -> Layout:
    """Our row i is row rows[i] of the file's array (another order of a vocabulary, or a part of it)."""
    at = np.asarray(rows)
    return layout._replace(fit=lambda array, shape: array[at] if len(array) > at.max() else array)


def chain(*layouts: Layout) -> Layout:
    """One change after the other, from the file's arrays to ours."""

    def read(arrays: list[np.ndarray]) -> list[Any]:
        for layout in layouts:
            arrays = layout.read(arrays)
        return arrays

    def write(arrays: list[Any]) -> list[Any]:
        for layout in reversed(layouts):
            arrays = layout.write(arrays)
        return arrays

    return Layout(read, write, layouts[0].fit)


class Row(NamedTuple):
    """theirs: names in the file; () for a parameter that their model does not have: it is zero.   ours: parameter paths; () for unused names.

    tied: the file repeats what another row reads; it must be equal where it is there, and is written again.
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    layout: Layout = SAME
    tied: bool = False


def norm(theirs: str, ours: str) -> tuple[Row, ...]:
    """weight, bias <-> scale, bias."""
    return Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")


def dense(theirs: str, ours: str) -> tuple[Row, ...]:
    """A linear layer: weight [out, in], bias <-> kernel [in, out], bias."""
    return Row(f"{theirs}.weight", f"{ours}/kernel", DENSE), Row(f"{theirs}.bias", f"{ours}/bias")


def fused(theirs: str, ours: str, parts: Sequence[str]) -> tuple[Row, ...]:
    """One linear layer for several projections, stacked along its output, <-> a layer for each of `parts` below `ours`."""
    weight, bias = (tuple(f"{ours}/{part}/{leaf}" for part in parts) for leaf in ("kernel", "bias"))
    of = split(len(parts))
    return Row(f"{theirs}.weight", weight, chain(of, DENSE)), Row(f"{theirs}.bias", bias, of)


def unused(*theirs: str) -> Row:
    """Names that a file may hold and that our model does not need, such as tables of fixed positions."""
    return Row(theirs, ())


def zero(*ours: str) -> Row:
    """Parameters that their model does not have: zero in ours. Only zeros can be written."""
    return Row((), ours)


def within(theirs: str, ours: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows of a part, with both prefixes ("encoder.{i}", "encoder/block{i:02d}") put before their names and paths."""
    return tuple(
        row._replace(
            theirs=tuple(f"{theirs}.{name}" for name in _names(row.theirs)),
            ours=tuple(f"{ours}/{path}" for path in _names(row.ours)),
        )
        for row in rows
    )


def renamed(rows: Iterable[Row], pairs: Iterable[tuple[str, str]]) -> tuple[Row, ...]:
    """The rows with parts of the file's names replaced: (("encoder.", "vit."), ...)."""

    def of(name: str) -> str:
        for old, new in pairs:
            name = name.replace(old, new)
        return name

    return tuple(row._replace(theirs=tuple(map(of, _names(row.theirs)))) for row in rows)


def to_params(table: Iterable[Row], arrays: Arrays, shapes: Shapes | Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `shapes` from a file's arrays, in float32.

    shapes: {path: shape}, or the nested tree of arrays or ShapeDtypeStructs that init gives.
    Raises DataError for an array that is missing, unknown or of another size, ConfigError for a parameter that no row names.
    """
    wanted = shapes_of(shapes)
    single = dict(_unstacked(wanted, lambda shape, i: shape[1:], lambda shape: shape[0]))
    found: dict[str, np.ndarray] = {}
    used: set[str] = set()
    for row, names, paths in _bound(table, single):
        parts = [single.get(p) for p in paths]
        if not row.theirs:
            found |= {p: np.zeros(shape, np.float32) for p, shape in zip(paths, parts) if shape is not None}
            continue
        zeros = [None if shape is None else np.zeros(shape, np.int8) for shape in parts]
        target = next(p for p, shape in zip(paths, parts) if shape is not None)
        read = []
        for name, like in zip(names, row.layout.write(zeros), strict=True):
            if name not in arrays:
                if row.tied:
                    break
                raise DataError(
                    f"the file has no array {name!r} {list(like.shape)} for {target}{near(name, arrays, 'is it of another model?')}"
                )
            array = np.asarray(row.layout.fit(np.asarray(arrays[name]), like.shape), np.float32)
            if array.shape != like.shape:
                raise DataError(
                    f"array {name!r} has shape {[*np.shape(arrays[name])]}, {target} of this config needs "
                    f"{[*like.shape]}: give the sizes of the file"
                )
            read.append(array)
            used.add(name)
        if len(read) < len(names):
            continue
        for path, shape, value in zip(paths, parts, row.layout.read(read), strict=True):
            if shape is None:
                continue
            if row.tied and not np.array_equal(found[path], value):
                raise DataError(f"arrays {', '.join(names)} should equal {path}, to which this model ties them")
            found[path] = np.array(value, order="C")
    _check_names(table, arrays, used)
    absent = sorted({*single} - {*found})
    if absent:
        raise ConfigError(f"the name map has no row for {absent[0]}, one of {len(absent)} such parameters")
    return unflatten(dict(_stacked(found, wanted)))


def to_arrays(table: Iterable[Row], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `to_params`; a part that our model does not have is written as zeros.

    Raises ConfigError where a parameter without a place in the file is not zero, or where no row names a parameter.
    """
    flat = {p: np.asarray(v) for p, v in flatten(params).items()}
    single = dict(_unstacked(flat, lambda array, i: array[i], len))
    written: dict[str, np.ndarray] = {}
    done: set[str] = set()
    for row, names, paths in _bound(table, single):
        parts = [single.get(p) for p in paths]
        done |= {*paths}
        if row.theirs:
            written |= zip(names, (np.asarray(a) for a in row.layout.write(parts)), strict=True)
            continue
        for path, value in zip(paths, parts):
            if value is not None and value.any():
                raise ConfigError(
                    f"{path} is not zero and the authors' model has no such parameter: it cannot be exported"
                )
    absent = sorted({*single} - done)
    if absent:
        raise ConfigError(f"the name map has no row for {absent[0]}, one of {len(absent)} such parameters")
    return written


def count(arrays: Iterable[str], template: str) -> int:
    """How many names fit the template: the depth of a stack for "encoder.{i}.norm1.weight"."""
    pattern = _pattern(template)
    return sum(pattern.fullmatch(name) is not None for name in arrays)


def shapes_of_system(config: Any, maps: Iterable[Any]) -> Shapes:
    """{path: shape} of the parameters of a system whose inputs are these dense modalities."""
    batch = {m.name: jax.ShapeDtypeStruct(*m.spec(1)) for m in maps}
    return shapes_of(jax.eval_shape(config.build().init, jax.random.key(0), batch)[0])


def shapes_of(tree: Mapping[str, Any]) -> dict[str, Shape]:
    """{path: shape} of a nested tree of arrays or ShapeDtypeStructs, or of what already is one."""
    return {path: leaf if isinstance(leaf, tuple) else tuple(leaf.shape) for path, leaf in flatten(tree).items()}


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


_PLACEHOLDER = re.compile(r"\{(\w+)(?::[^}]*)?\}")


def _pattern(template: str) -> re.Pattern[str]:
    """The regex of a template: {i} a number, {name} a word without dots and slashes."""
    parts, end = [], 0
    for m in _PLACEHOLDER.finditer(template):
        kind = r"\d+" if len(m[1]) == 1 else r"[^./]+"
        parts += [re.escape(template[end : m.start()]), f"(?P<{m[1]}>{kind})"]
        end = m.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


def _bound(table: Iterable[Row], paths: Mapping[str, Any]) -> Iterator[tuple[Row, tuple[str, ...], tuple[str, ...]]]:
    """Each row of which the model has a parameter, once for each value of its placeholders, with its names and paths."""
    for row in table:
        names, ours = _names(row.theirs), _names(row.ours)
        bindings: dict[tuple[tuple[str, str], ...], None] = {}
        for template in ours:
            if "{" not in template:
                bindings |= {(): None} if template in paths else {}
                continue
            pattern = _pattern(template)
            bindings |= {tuple(m.groupdict().items()): None for p in paths if (m := pattern.fullmatch(p))}
        for binding in bindings:
            values = {k: int(v) if len(k) == 1 else v for k, v in binding}
            yield row, tuple(t.format(**values) for t in names), tuple(t.format(**values) for t in ours)


def _check_names(table: Iterable[Row], arrays: Arrays, used: set[str]) -> None:
    ignored = [_pattern(name) for row in table if not row.ours for name in _names(row.theirs)]
    unknown = sorted(n for n in arrays if n not in used and not any(p.fullmatch(n) for p in ignored))
    if unknown:
        raise DataError(
            f"the file has {len(unknown)} arrays that this config does not take, the first is {unknown[0]!r} "
            f"{[*np.shape(arrays[unknown[0]])]}: give the config of the file"
        )


def _unstacked(
    flat: Mapping[str, Any], part: Callable[[Any, int], Any], count: Callable[[Any], int]
) -> Iterator[tuple[str, Any]]:
    """Scanned blocks as separate ones: "a/blocks/b" of depth 2 is "a/block00/b" and "a/block01/b"."""
    for path, value in flat.items():
        head, found, tail = f"/{path}".rpartition("/blocks/")
        if not found:
            yield path, value
            continue
        for i in range(count(value)):
            yield f"{head}/block{i:02d}/{tail}"[1:], part(value, i)


def _stacked(flat: Mapping[str, np.ndarray], shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """The inverse of `_unstacked`, for the paths of `shapes`."""
    for path, shape in shapes.items():
        head, found, tail = f"/{path}".rpartition("/blocks/")
        parts = [flat[f"{head}/block{i:02d}/{tail}"[1:]] for i in range(shape[0])] if found else []
        yield path, np.stack(parts) if found else flat[path]

"""Typed overrides: ["--optim.lr", "3e-4"] applied to a tree of frozen dataclasses. tyro turns words into values."""

import contextlib
import dataclasses
import io
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mmrep.errors import ConfigError, near

T = TypeVar("T")
_WANTED = {bool: "True or False", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def override(config: T, args: Sequence[str], options: Sequence[str] = ()) -> T:
    """`config` with the overrides `args`, all applied at once, so that only the result has to be valid.

    options: further names that an unknown flag may have been meant for.

    Elements of a tuple of dataclasses are reached by number: --phases.0.steps 100. Raises ConfigError that names the field: an
    unknown one with the nearest name, a value of a wrong type, or a value that the config's own checks refuse.
    """
    changes: dict[str, Any] = {}
    known = dict(fields(config))
    for flag, values in grouped(args):
        name = flag.removeprefix("--").replace("-", "_")
        if name not in known:
            raise ConfigError(
                f"{flag} is no field of this config{near(name, [*known, *options], '--fields lists them')}"
            )
        changes[name] = convert(flag, known[name], values)
    return _rebuilt(config, changes) if changes else config


def grouped(args: Sequence[str]) -> list[tuple[str, list[str]]]:
    """[(flag, its values)] of words like --a 1 --b=2 3. Raises ConfigError for a word before the first flag."""
    found: list[tuple[str, list[str]]] = []
    for word in args:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            found.append((flag, [value] if equals else []))
        elif not found:
            raise ConfigError(f"unexpected argument {word!r}: overrides are written --field value")
        else:
            found[-1][1].append(word)
    return found


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of every field that one value can replace."""
    hints = get_type_hints(type(config), include_extras=True)
    for f in dataclasses.fields(config):
        value, hint = getattr(config, f.name), hints[f.name]
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{f.name}.")
        elif isinstance(value, tuple) and value and all(dataclasses.is_dataclass(v) for v in value):
            for i, v in enumerate(value):
                yield from fields(v, f"{prefix}{f.name}.{i}.")
        else:
            yield prefix + f.name, type(value) if hint is Any else hint


def value_of(config: Any, name: str) -> Any:
    """The value at a dotted name."""
    for part in name.split("."):
        config = config[int(part)] if part.isdigit() else getattr(config, part)
    return config


def convert(flag: str, hint: Any, words: Sequence[str]) -> Any:
    """The value of type `hint` that `words` spell. Raises ConfigError that names the flag and what it takes."""
    import tyro

    if not spelled(hint):
        raise ConfigError(f"{flag} cannot be given on the command line: set it in the config file")
    if hint is str and len(words) == 1:
        return words[0]  # text may begin with a dash
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(hint, args=list(words), config=(tyro.conf.FlagConversionOff,))
    except SystemExit:
        raise ConfigError(_refusal(flag, hint, words)) from None


def _refusal(flag: str, hint: Any, words: Sequence[str]) -> str:
    if not words:
        return f"{flag} has no value: it takes {wanted(hint)}"
    choices = [str(c) for option in _options(hint) if get_origin(option) is Literal for c in get_args(option)]
    given = " ".join(words)
    return f"{flag} is {given!r}" + (near(given, choices) if choices else f": it takes {wanted(hint)}")


def wanted(hint: Any) -> str:
    """What a value of this type is, in words."""
    options, parts = [o for o in _options(hint) if o is type(None) or spelled(o)], get_args(hint)
    if len(options) > 1:
        return " or ".join("None" if o is type(None) else wanted(o) for o in options)
    if get_origin(hint) is Annotated:
        return wanted(parts[0])
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, parts))
    if get_origin(hint) is tuple:
        inner = list(dict.fromkeys(wanted(p) for p in parts if p is not Ellipsis))
        count = "any number of values" if Ellipsis in parts else f"{len(parts)} values"
        return f"{count}, each {' or '.join(inner)}"
    return _WANTED[hint]


def spelled(hint: Any, inner: bool = False) -> bool:
    """Whether words determine a value of this type: not so for dataclasses, functions, and lists of lists of any length."""
    parts = get_args(hint)
    if get_origin(hint) is tuple:
        return not (inner and Ellipsis in parts) and all(spelled(p, True) for p in parts if p is not Ellipsis)
    if get_origin(hint) in (Union, types.UnionType):
        return any(spelled(p, inner) for p in parts if p is not type(None))
    return get_origin(hint) is Literal or (parts[0] if get_origin(hint) is Annotated else hint) in _WANTED


def _options(hint: Any) -> list[Any]:
    return list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]


def _rebuilt(node: Any, changes: dict[str, Any]) -> Any:
    if "" in changes:
        return changes[""]
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        inner.setdefault(head, {})[rest] = value
    if isinstance(node, tuple):
        return tuple(_rebuilt(v, inner[str(i)]) if str(i) in inner else v for i, v in enumerate(node))
    return dataclasses.replace(node, **{name: _rebuilt(getattr(node, name), below) for name, below in inner.items()})

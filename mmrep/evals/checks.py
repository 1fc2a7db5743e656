"""Checks of an evaluator's settings that need no trained model: its first second can show what would end the run after the last step."""

import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmrep.errors import ConfigError, DataError, near

Open = Callable[[str], Any]
"""The name of a split -> the split, as `mmrep.data.pipeline.open_split` opens it."""


def functions(names: Sequence[str], **wanted: str) -> None:
    """Raises ConfigError where a setting names an infer function that the system does not have. `wanted`: {setting: function}."""
    for setting, name in wanted.items():
        if name not in names:
            raise ConfigError(
                f"{setting} is {name!r}: the system has no infer function of that name{near(name, names)}"
            )


def fields(split: Any, wanted: Iterable[str]) -> None:
    """Raises ConfigError where a record of the split has no such field."""
    wanted = [name for name in wanted if name]
    if not wanted:
        return
    allowed = split.data.max_bad_records
    for i in range(min(len(split), allowed + 1)):
        try:
            record = split.record(i)
        except DataError:
            if i == allowed:
                raise
            continue
        for name in wanted:
            if name not in record:
                raise ConfigError(
                    f"an evaluator names the record field {name!r}, which split {split.name!r} lacks{near(name, record)}"
                )
        return


def templates(given: Sequence[str]) -> None:
    """Raises ConfigError where a template has no place, or several, for the class name, or where there is no template."""
    if isinstance(given, str) or not given:
        raise ConfigError(f"templates is {given!r}: give a tuple of texts with {{}} for the class name, ('a {{}}',)")
    for template in given:
        try:
            places = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        except ValueError:
            places = []
        if places != [""]:
            raise ConfigError(
                f"template {template!r} must hold {{}} once, where the class name goes, and no other braces"
            )


def class_order(given: Sequence[str], known: Sequence[str], label: str) -> None:
    """Raises ConfigError where the source numbers its classes otherwise than the prompts do.

    Names are compared without case, "_" as a space; a name that the source does not have (a better wording, say) may stand at any number.
    """
    if isinstance(given, str) or not given or len({*given}) < len(given):
        raise ConfigError(f"classes is {given!r}: give the name of every class once, in the order of the ids")
    if not known:
        return
    plain = [name.casefold().replace("_", " ").strip() for name in known]
    for i, name in enumerate(given):
        written = name.casefold().replace("_", " ").strip()
        if written in plain and plain[min(i, len(plain) - 1)] != written:
            raise ConfigError(
                f"classes has {name!r} at id {i}, but in the data's {label!r} it is id {plain.index(written)}: give the names in the order "
                f"{', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
            )
    if len(given) != len(known):
        raise ConfigError(
            f"classes has {len(given)} names, but the data's {label!r} has {len(known)}: {', '.join(known[:12])}"
        )


def ks(given: Sequence[int]) -> None:
    """Raises ConfigError for a k of R@k below 1."""
    if not given or min(given) < 1:
        raise ConfigError(f"ks is {tuple(given)}: give ranks of 1 or more")

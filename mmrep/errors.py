"""The errors a user can mend: each is one sentence that names the field or file and the fix."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class ConfigError(ValueError):
    """A config, shape or command that cannot work; commands print it and exit with code 2."""


class DataError(ValueError):
    """A record, file or split that cannot be used; the sentence names the file and the record."""


def near(word: str, choices: Iterable[str], where: str = "") -> str:
    """`" (did you mean 'x'?)"` for the closest of `choices`; where nothing is close the whole list, or `where` to find a long one."""
    choices = sorted(choices)
    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f"; {where}" if where else f"; choose from {', '.join(choices) or 'nothing'}"


def check_fields(config: Any, rules: Mapping[str, tuple[bool, str]], where: str = "system") -> None:
    """Raises ConfigError "<where>.<field> is <value>: <why>" for the first rule {field: (holds, why)} that does not hold."""
    for field, (holds, why) in rules.items():
        if not holds:
            raise ConfigError(f"{where}.{field} is {getattr(config, field)!r}: {why}")

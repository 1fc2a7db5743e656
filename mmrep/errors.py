"""The errors a user can mend: each is one sentence that names the field or file and the fix."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """A config, shape or command that cannot work; commands print it and exit with code 2."""


class DataError(ValueError):
    """A record, file or split that cannot be used; the sentence names the file and the record."""


def near(word: str, choices: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the closest of `choices`, or the whole list where nothing is close."""
    choices = sorted(choices)
    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else f"; choose from {', '.join(choices) or 'nothing'}"

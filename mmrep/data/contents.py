"""A count and a digest of a split, by which a change of the data between two uses of it is noticed.

A source's records may have digest() -> str: of names, sizes and texts, and not of the place where the data is kept. Wrapped sources are
followed to the one inside. Without it the number of records alone is compared.
"""

import re
from collections.abc import Mapping
from typing import Any

from mmrep.config import Experiment
from mmrep.data import splits
from mmrep.data.pipeline import inner
from mmrep.errors import DataError

Contents = dict[str, Any]
"""{"records": number, "digest": hex digits or ""}"""

_PLACE = re.compile(r"(data\.source|phases\.\d+\.data)(\.source)*\.(path|pattern|data_dir|name|folder|index)\b")


def contents(records: Any) -> Contents:
    """Of the records of one split."""
    return {"records": len(records), "digest": inner(records, "digest", lambda digest: digest(), "")}


def of_run(experiment: Experiment) -> dict[str, Contents]:
    """{split: contents} of the experiment's data, and of the training split of each phase that has its own."""
    found: dict[str, Contents] = {}
    for name in splits.NAMES:
        try:
            found[name] = contents(experiment.data.source.open(name))
        except DataError:
            if name == "train":
                raise
    for phase in experiment.phases:
        if phase.data is not None:
            found[f"train of phase {phase.name}"] = contents(phase.data.open("train"))
    return found


def difference(before: Contents, now: Contents) -> str:
    """In what two contents differ: "10 records, now 12"; empty where in nothing."""
    if before["records"] != now["records"]:
        return f"{before['records']:,} records, now {now['records']:,}"
    if before["digest"] != now["digest"]:
        return f"the same {now['records']:,} records, but other names, sizes or texts"
    return ""


def changes(before: Mapping[str, Contents], now: Mapping[str, Contents]) -> list[str]:
    """One entry a split that both have and that differs."""
    parts = [(name, difference(before[name], now[name])) for name in before if name in now]
    return [f"split {name!r} had {part}" for name, part in parts if part]


def known(found: Mapping[str, Contents]) -> bool:
    """Whether equal contents mean equal data: every split has a digest."""
    return bool(found) and all(c["digest"] for c in found.values())


def is_place(change: str) -> bool:
    """Whether a change of config ("data.source.path: ...") is one of where the data is kept."""
    return bool(_PLACE.match(change))

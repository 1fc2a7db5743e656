"""Numbers that the config of no system can have, and tables that are smaller than the data: checked before the first step.

A system checks what its own fields mean. These rules hold for the fields of every part, by their names.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from mmrep.errors import ConfigError
from mmrep.modality import Modality

TABLES = ("vocab", "vocab_size", "classes", "num_classes")
SIGNED = {"bias", "mean", "low", "high", "log_scale", "fill"}
POSITIVE = {"epsilon", "position_base", "mlp_ratio", "std"}
COUNTS = {
    "audio", "blocks", "cells", "channels", "class_dim", "diffusion_steps", "dim", "expansion", "fft", "heads", "hidden", "hop", "layers",
    "length", "n_fft", "n_mels", "num_channels", "patch_size", "per_octave", "router", "sample_rate", "sample_steps", "sampled", "sheet",
    "stem_stride", "strides", "unet_blocks", "unet_patch", "unet_widths", "vocab", "width", "widths",
}  # fmt: skip


def parts(value: Any, where: str, name: str = "") -> Iterator[tuple[str, str, Any]]:
    """(path, name, part) of every dataclass in a config; a part is named by its field `name`, its key, or the field that holds it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield where, str(getattr(value, "name", "") or name), value
        for f in dataclasses.fields(value):
            yield from parts(getattr(value, f.name), f"{where}.{f.name}", f.name)
    elif isinstance(value, (tuple, list)):
        named = len(value) == 2 and isinstance(value[0], str)  # ("text", encoder), as a mapping is written
        for i, inner in enumerate(value):
            yield from parts(inner, f"{where}.{i}", value[0] if named else name)


def check_numbers(system: Any, place: str) -> None:
    """Raises ConfigError for the first number of a system's config that is not finite or below what its name allows.

    Whole numbers are at least 0, those of `COUNTS` at least 1 unless 0 is the default; other numbers at least 0 but for those of `SIGNED`, those of `POSITIVE` above it.
    """
    for where, _, part in parts(system, place):
        for f in dataclasses.fields(part):
            for path, x in _numbers(getattr(part, f.name), f"{where}.{f.name}"):
                if not math.isfinite(x):
                    raise ConfigError(f"{path} is {x}: it must be finite")
                if f.name in POSITIVE and x <= 0:
                    raise ConfigError(f"{path} is {x}: it must be above 0")
                if f.name in COUNTS and x < 1 and f.default != 0:
                    raise ConfigError(f"{path} is {x}: it must be at least 1")
                if x < 0 and f.name not in SIGNED:
                    raise ConfigError(f"{path} is {x}: it must be at least 0")


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    """(path, number) of a field's value and, where it is a tuple, of what is in it; parts are left to themselves."""
    if isinstance(value, (tuple, list)):
        for i, inner in enumerate(value):
            yield from _numbers(inner, f"{path}.{i}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def check_tables(system: Any, place: str, modalities: tuple[Modality, ...]) -> None:
    """Raises ConfigError where a part of a system states fewer ids or classes than the modality that it is for.

    An id beyond a table is no error in JAX: it is clamped to the last row, or NaN, or a row of zeros. A part is for the modality whose name it has.
    A system whose parts have other names may state the ids that it can take itself: `table_sizes() -> {modality: ids}`. A text that no part is
    named after must fit into the largest vocabulary.
    """
    ids = {m.name: m.vocab for m in modalities if m.vocab}
    tables = [
        (f"{where}.{field}", name, size)
        for where, name, part in parts(system, place)
        for field in TABLES
        if isinstance(size := getattr(part, field, 0), int) and size > 0
    ]
    named = {name for _, name, _ in tables}
    largest = max(((size, where) for where, _, size in tables if where.endswith(".vocab")), default=None)
    stated: dict[str, int] = getattr(system, "table_sizes", dict)()
    found = [(where, name, size) for where, name, size in tables if name in ids and name not in stated]
    found += [(place, name, size) for name, size in stated.items() if name in ids]
    texts = [m.name for m in modalities if m.kind in ("text", "texts")]
    found += [(largest[1], m, largest[0]) for m in texts if largest and m not in named | {*stated}]
    for where, name, size in found:
        if size < ids[name]:
            raise ConfigError(
                f"{where} is {size}, but modality {name!r} has {ids[name]} ids: give the system as many"
                if where != place
                else f"{place} takes {size} ids of modality {name!r}, which has {ids[name]}: give the system as many"
            )

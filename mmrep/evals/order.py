"""Any evaluator once more on videos whose frames come in another order: how much a model uses time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from mmrep.errors import ConfigError
from mmrep.evals import checks
from mmrep.model import Model


def permutation(frames: int, seed: int = 0) -> Int[np.ndarray, " T"]:
    """A fixed order of the frames that is not the first one, wherever there are two."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(frames)
    while frames > 1 and (order == np.arange(frames)).all():
        order = rng.permutation(frames)
    return order


@dataclass(frozen=True)
class Permuted:
    """A source whose records have the given fields in `permutation` along their first axis; arrays or lists of frames."""

    source: Any
    fields: tuple[str, ...]
    seed: int = 0

    def open(self, split: str) -> Any:
        return self.source.open(split)

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        record = dict(self.source.view(record, rng))
        for name in self.fields:
            value = record[name]
            order = permutation(len(value), self.seed)
            record[name] = [value[i] for i in order] if isinstance(value, (list, tuple)) else np.asarray(value)[order]
        return record


@dataclass(frozen=True)
class FrameOrder:
    """The metrics of `evaluator` with the frames of `modalities` permuted, as "<metric> permuted", and how much they fall, as "<metric> drop".

    Only metrics whose name begins with one of `metrics` are kept; empty: all.   seed: of the one order that every video gets.
    """

    evaluator: Any
    modalities: tuple[str, ...] = ("video",)
    metrics: tuple[str, ...] = ()
    seed: int = 0
    split: str = "test"

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for an evaluator that does not fit the system."""
        replace(self.evaluator, split=self.split).check(names, split)

    def run(self, model: Model) -> dict[str, float]:
        data = model.data
        if data.source is None:
            raise ConfigError("FrameOrder needs data: the model has none")
        fields = tuple(model.modality(name).source for name in self.modalities)
        permuted = model.on(replace(data, source=Permuted(data.source, fields, self.seed)))
        evaluator = replace(self.evaluator, split=self.split)
        plain, found = evaluator.run(model), evaluator.run(permuted)
        kept = [k for k in plain if not self.metrics or k.startswith(self.metrics)]
        return {f"{k} permuted": found[k] for k in kept} | {f"{k} drop": plain[k] - found[k] for k in kept}

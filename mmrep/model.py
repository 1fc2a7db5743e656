"""`Model`: a system with its parameters and its data. Users, evaluators, reports and notebooks hold nothing else."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float

from mmrep import modality
from mmrep.config import Experiment
from mmrep.data import pipeline
from mmrep.errors import ConfigError, near
from mmrep.system import Batch, Extras, Params, System

Fields: TypeAlias = tuple[tuple[str, str], ...]
"""(modality, record field) pairs: read that modality from another field, e.g. (("text", "text_de"),)."""


class Model:
    """A trained (or new) system: its functions on batches, on raw values and on whole splits of its data.

    experiment:    the config.   system: what its last phase builds, unless given.   data: `experiment.data`.
    params:        those that evaluation uses (the average where one is kept).   extras: the state that is not learnt by gradient.
    sentencepiece: the serialised tokenizer, None where the data has no text.   tokenize: (text, length) -> ids.
    metrics:       of the evaluation after training.   rows: those of metrics.jsonl.
    compilations:  of the training step, over all phases; one for each phase is right.
    """

    def __init__(
        self,
        experiment: Experiment,
        params: Params,
        extras: Extras | None = None,
        sentencepiece: bytes | None = None,
        *,
        system: System | None = None,
        tokenize: Any = None,
        metrics: Mapping[str, float] | None = None,
        rows: Sequence[Mapping[str, float]] = (),
        compilations: int = 0,
        place: Callable[[Batch], Batch] | None = None,
        results: Any = None,
    ) -> None:
        """place: puts this process's rows of a batch on the devices.   results: the sharding of results on a mesh that spans processes."""
        self.experiment, self.data = experiment, experiment.data
        self.system = system or (experiment.phases[-1].system or experiment.system).build()
        self.params, self.extras, self.sentencepiece = params, {} if extras is None else extras, sentencepiece
        self.metrics, self.rows, self.compilations = dict(metrics or {}), list(rows), compilations
        self.tokenize = tokenize or pipeline.load_tokenizer(self.data, sentencepiece)
        self._place = place
        # Each process gets the whole result where the mesh spans several.
        self._process = (jax.process_index(), jax.process_count()) if results is not None else (0, 1)
        whole: dict[str, Any] = {} if results is None else {"out_shardings": results}
        self._functions = {name: jax.jit(function, **whole) for name, function in self.system.infer.items()}
        self._splits: dict[str, pipeline.Split] = {}
        self._embedded: dict[Any, Any] = {}
        self._token_infer: Any = None

    # Functions of the system

    @property
    def names(self) -> tuple[str, ...]:
        """The system's infer functions."""
        return tuple(self.system.infer)

    @property
    def generates(self) -> bool:
        return self.system.tokens is not None

    def infer(self, name: str, batch: Batch | Mapping[str, np.ndarray]) -> Any:
        """The system's function `name` on a batch. Raises ConfigError with the near names."""
        if name not in self._functions:
            raise ConfigError(f"the system has no infer function {name!r}{near(name, self.names)}")
        return self._functions[name](self.params, self.extras, batch)

    def tokens(self) -> Any:
        """What the system's decoder needs (`System.tokens`), made once. Raises ConfigError for a system that does not generate."""
        if self.system.tokens is None:
            raise ConfigError("this system does not generate: its build() gives no `tokens`")
        self._token_infer = self._token_infer or self.system.tokens(self.params, self.extras)
        return self._token_infer

    def call(self, name: str, /, **values: Sequence[Any]) -> Any:
        """infer[name] of raw values, as numpy arrays [N, ...]: `model.call("text", text=["a red circle"])`.

        Raw values are what a record holds: pictures (uint8 [H, W, C]), texts, waveforms.
        """
        known = {m.name: m for m in self.data.modalities}
        for given in values:
            if given not in known:
                raise ConfigError(f"no modality {given!r}{near(given, known)}")
        if len({len(v) for v in values.values()}) != 1:
            raise ConfigError(f"infer {name!r} needs equally many values of each modality, at least one")
        rows = [
            {k: v for m, value in zip(values, row) for k, v in modality.encode(known[m], value, self.tokenize).items()}
            for row in zip(*values.values())
        ]
        # A power of two: few shapes to compile, whatever the number of values.
        size = min(self.data.eval_batch_size, 1 << (len(rows) - 1).bit_length())
        parts = []
        for i in range(0, len(rows), size):
            part = rows[i : i + size]
            batch = pipeline.collate(part + [part[-1]] * (size - len(part)))
            parts.append(jax.tree.map(lambda x, n=len(part): np.asarray(x)[:n], self.infer(name, batch)))  # noqa: B008
        return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

    # Its data

    def split(self, name: str = "test") -> pipeline.Split:
        if name not in self._splits:
            self._splits[name] = pipeline.open_split(self.data, self.tokenize, name)
        return self._splits[name]

    def column(self, field: str, split: str = "test") -> list[Any]:
        """The raw values of a record field over the split, without training augmentation."""
        opened = self.split(split)
        return [opened.record(i)[field] for i in range(len(opened))]

    def embed_split(self, name: str, split: str = "test", fields: Fields = ()) -> Any:
        """infer[name] over the whole split, as numpy arrays [N, ...]; cached, since several evaluators use it."""
        key = (name, split, fields)
        if key not in self._embedded:
            parts = []
            size = self.data.eval_batch_size
            for batch, real in pipeline.eval_batches(self.split(split), size, dict(fields), self._process):
                put = batch if self._place is None else self._place(batch)
                parts.append(jax.tree.map(lambda x, n=real: np.asarray(x)[:n], self.infer(name, put)))
            self._embedded[key] = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
        return self._embedded[key]

    # To share

    def save(self, path: str | Path) -> Path:
        """Writes parameters, config and tokenizer to one safetensors file, which `mmrep.load` reads."""
        from mmrep.interop import safetensors

        safetensors.write(Path(path), self.experiment, self.params, self.extras, self.sentencepiece)
        return Path(path)


def embed_rows(
    function: Callable[[Batch], Array], split: pipeline.Split, n: int, size: int = 256
) -> Float[np.ndarray, "N D"]:
    """`function` of the first n records of a split, `size` at a time."""
    parts = [np.asarray(function(b))[:real] for b, real in islice(pipeline.eval_batches(split, size), -(-n // size))]
    return np.concatenate(parts)[:n]

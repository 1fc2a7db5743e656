"""What an evaluator sees of a trained system: named infer functions over the splits of its data. Embeddings are computed once."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.data import pipeline
from mmrep.errors import ConfigError, near
from mmrep.system import Batch, Extras, Params, System
from mmrep.train import sharding

Fields = tuple[tuple[str, str], ...]


class View:
    """`infer` bound to parameters, and the data it is asked about.

    infer("image", batch) calls a function of the system; embed("image") runs it over a split; column("caption") reads raw values.
    `fields` reads a modality from another record field, e.g. (("text", "text_de"),).
    """

    def __init__(
        self, system: System, params: Params, extras: Extras, data: Data, tokenize: Any = None, mesh: Any = None
    ) -> None:  # fmt: skip
        self.data, self.tokenize = data, tokenize
        self._names = tuple(system.infer)
        self._tokens = system.tokens
        self._ask: Any = None
        # Results of a mesh that spans processes come whole to each of them.
        several = mesh is not None and jax.process_count() > 1
        self._process = (jax.process_index(), jax.process_count()) if several else (0, 1)
        whole: dict[str, Any] = {"out_shardings": sharding.replicated(mesh)} if several else {}
        self._functions = {name: jax.jit(function, **whole) for name, function in system.infer.items()}
        self._params, self._extras = params, extras
        self._batch_sharding = None if mesh is None else sharding.batch_sharding(mesh)
        self._splits: dict[str, pipeline.Split] = {}
        self._embedded: dict[Any, Any] = {}

    def infer(self, name: str, batch: Batch | Mapping[str, np.ndarray]) -> Any:
        """The system's function `name` on a batch. Raises ConfigError with the near names."""
        if name not in self._functions:
            raise ConfigError(f"the system has no infer function {name!r}{near(name, self._names)}")
        return self._functions[name](self._params, self._extras, batch)

    def tokens(self) -> Any:
        """The system as `mmrep.generation` takes it, made once. Raises ConfigError for a system that does not generate."""
        if self._tokens is None:
            raise ConfigError("this system does not generate: its build() gives no `tokens`")
        self._ask = self._ask or self._tokens(self._params, self._extras)
        return self._ask

    @property
    def names(self) -> tuple[str, ...]:
        """The system's infer functions."""
        return self._names

    @property
    def generates(self) -> bool:
        return self._tokens is not None

    def split(self, name: str = "test") -> pipeline.Split:
        if name not in self._splits:
            self._splits[name] = pipeline.open_split(self.data, self.tokenize, name)
        return self._splits[name]

    def column(self, field: str, split: str = "test") -> list[Any]:
        """The raw values of a record field over the split, in the evaluation view."""
        opened = self.split(split)
        return [opened.record(i)[field] for i in range(len(opened))]

    def embed(self, name: str, split: str = "test", fields: Fields = ()) -> Any:
        """infer[name] over the whole split, as numpy arrays [N, ...]; kept for the next evaluator that asks."""
        key = (name, split, fields)
        if key not in self._embedded:
            parts = []
            size = self.data.eval_batch_size
            for batch, real in pipeline.eval_batches(self.split(split), size, dict(fields), self._process):
                put = batch if self._batch_sharding is None else sharding.put_batch(batch, self._batch_sharding)
                parts.append(jax.tree.map(lambda x, n=real: np.asarray(x)[:n], self.infer(name, put)))
            self._embedded[key] = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
        return self._embedded[key]

    def embed_raw(self, name: str, values: Mapping[str, Sequence[Any]]) -> Any:
        """infer[name] of raw values {modality: [texts, pictures or waveforms]}, as numpy arrays [N, ...]."""
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


def embed_rows(function: Callable[[Batch], Array], split: Any, n: int, size: int = 256) -> Float[np.ndarray, "N D"]:
    """`function` of the first n records of a split, `size` at a time."""
    parts = [np.asarray(function(b))[:real] for b, real in islice(pipeline.eval_batches(split, size), -(-n // size))]
    return np.concatenate(parts)[:n]


def view_of(experiment: Experiment, params: Params, extras: Extras, tokenizer: bytes | None) -> View:
    """The view of a trained experiment (`Trained` has all four)."""
    tokenize = pipeline.load_tokenizer(experiment.data, tokenizer)
    system = (experiment.phases[-1].system or experiment.system).build()
    return View(system, params, extras, experiment.data, tokenize)

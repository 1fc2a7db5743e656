"""The contract: a published system is a small tuple of pure functions over plain nested dicts of arrays."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, PRNGKeyArray

Params: TypeAlias = dict[str, Any]
Extras: TypeAlias = dict[str, Any]
Batch: TypeAlias = dict[str, Any]  # arrays; NumPy ones too, outside jit
Metrics: TypeAlias = dict[str, Array]
Infer: TypeAlias = Callable[[Params, Extras, Batch], Any]
LossFn: TypeAlias = Callable[[Params, Extras, Batch, PRNGKeyArray], tuple[Float[Array, ""], tuple[Extras, Metrics]]]


def _keep(params: Params, extras: Extras) -> Extras:
    return extras


class System(NamedTuple):
    """The interface of every system: training, checkpoints, evaluators and the generic tests use nothing else.

    init:   (rng, batch) -> (params, extras). `batch` gives shapes only; every leaf returned is strongly typed.
    loss:   (params, extras, batch, rng) -> (loss, (extras, metrics)). Keeps structure, shapes and dtypes of `extras`.
            None: the system takes no gradient steps; its phases are plain functions (`Phase.run`).
    infer:  {name: (params, extras, batch) -> arrays}. Each function uses only the batch entries it needs, and no output row depends on
            another row. Names with a fixed meaning, by which `Model` and the evaluators work for every system:
            "<modality>" [B, D], one embedding a row; "fused" [B, D], one of several modalities together;
            "<modality>_tokens" (tokens [B, N, D], valid [B, N] bool); "<modality>_layers" {layer: [B, D]};
            "score" [B], of systems whose pair score is no dot product, of the batch {"image_tokens", "image_valid", "text_tokens",
            "text_valid"} (or of another pair of modalities) as the "_tokens" functions return them, row by row.
    update: (params, extras) -> extras, after the optimiser step: EMA teacher, centres, codebooks.
    tokens: (params, extras) -> the decoder of a system that generates, with `generate(batch, targets, ...) -> {target: array}`.
    """

    init: Callable[[PRNGKeyArray, Batch], tuple[Params, Extras]]
    loss: LossFn | None = None
    infer: Mapping[str, Infer] = MappingProxyType({})
    update: Callable[[Params, Extras], Extras] = _keep
    tokens: Callable[[Params, Extras], Any] | None = None

    def build(self) -> "System":
        """A plain System stands in an Experiment where its config would: `Experiment(System(init, loss, infer), data)`."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Names and a hash of the functions' source text, by which a run recognises them; a file does not hold code."""
        parts: dict[str, Any] = {"init": self.init, "loss": self.loss, "update": self.update, "tokens": self.tokens}
        parts |= {f"infer[{name!r}]": function for name, function in self.infer.items()}
        functions = {k: f for k, f in parts.items() if f is not None}
        digest = hashlib.sha256("\n".join(map(_source, functions.values())).encode()).hexdigest()[:16]
        names = {k: getattr(f, "__qualname__", type(f).__name__) for k, f in functions.items()}
        return {"type": "mmrep.system:System", "functions": names, "source": digest}


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # a partial, or a function typed at a prompt
        code = getattr(function, "__code__", None)
        return code.co_code.hex() if code else type(function).__qualname__


def stateless(loss: Callable[[Params, Batch, PRNGKeyArray], tuple[Array, Metrics]]) -> LossFn:
    """Lifts (params, batch, rng) -> (loss, metrics) into `System.loss` for a system that carries nothing."""

    def lifted(params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, tuple[Extras, Metrics]]:
        value, metrics = loss(params, batch, rng)
        return value, (extras, metrics)

    return lifted

"""Dual and M-fold encoders as pure functions: an encoder and a projection into the shared space for each modality.

model = dual_encoder({"image": ImageEncoder(...), "text": TextEncoder(...)}, dim=64)
params = model.init(rng, batch)
x, y = model.embed(params, batch, "image"), model.embed(params, batch, "text")
scale = model.scale(params)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.nn.heads import LogScale, Projection
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Params


@runtime_checkable
class Encoder(Protocol):
    """A frozen config of one modality's encoder; see `mmrep.nn.encoders`.

    The module maps the batch entries of its modality (see `inputs`) to (pooled [B,D], out). `out` holds intermediates: "pooled", and
    where there are any, "tokens" [B,N,D], "valid" [B,N], "patches", "block00" and so on.
    `pooled_only` allows a module whose `out` lacks tokens, where that costs less.
    """

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> nn.Module: ...


class Embedder(nn.Module):
    """An encoder and its projection: (embedding [B,dim], of unit length with `normalise`, out); with `tokens` also out["projected"] [B,N,dim],
    of a video's frames, of an image's patches, else of the tokens.

    Tokens and pooled vector share one projection, and so one space. `pooled_only` skips tokens that pooling does not use, where the encoder
    can: the same embedding from fewer operations, but an `out` without them.
    """

    config: Encoder
    dim: int
    hidden: int | None = None
    normalise: bool = True
    tokens: bool = False
    dtype: Any = jnp.float32
    pooled_only: bool = False

    @nn.compact
    def __call__(self, *inputs: Any) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        pooled, out = self.config.module(self.dtype, "encoder", self.pooled_only)(*inputs)
        project = Projection(self.dim, self.hidden, self.normalise, dtype=self.dtype, name="projection")
        if self.tokens:
            tokens = next(out[name] for name in ("frames", "patches", "tokens") if name in out)
            out = out | {"projected": project(tokens).astype(jnp.float32)}
        return project(pooled).astype(jnp.float32), out


def inputs(batch: Batch, name: str) -> tuple[Any, ...]:
    """The inputs of modality `name`'s encoder: its array, and its length where it is ragged."""
    length = f"{name}_length"
    return (batch[name], batch[length]) if length in batch else (batch[name],)


def drop_rngs(batch: Batch) -> dict[str, PRNGKeyArray] | None:
    """Keys of stochastic depth and dropout: from the batch's "rng", which a system adds in training, say while an encoder is fine-tuned."""
    if "rng" not in batch:
        return None
    return {"drop": batch["rng"], "dropout": jax.random.fold_in(batch["rng"], 1)}


def init_parts(rng: PRNGKeyArray, modules: Mapping[str, nn.Module], batch: Batch) -> Params:
    """{name: parameters}: embedders by the batch entry of their name, modules without inputs (a LogScale) by none."""
    keys = jax.random.split(rng, len(modules))
    return {
        name: module.init(key, *(inputs(batch, name) if name in batch else ()))["params"]
        for key, (name, module) in zip(keys, modules.items())
    }


class DualEncoder(NamedTuple):
    """A dual (or M-fold) encoder as pure functions over params {modality: ..., "scale": ...}.

    init:  (rng, batch) -> params.               embed: (params, batch, modality) -> unit embeddings [B,dim], float32.
    full:  (params, batch, modality) -> (embedding, out).    scale: params -> the learned positive logit scale [].
    """

    names: tuple[str, ...]
    init: Callable[[PRNGKeyArray, Batch], Params]
    embed: Callable[[Params, Batch, str], Array]
    full: Callable[[Params, Batch, str], tuple[Array, dict[str, Array]]]
    scale: Callable[[Params], Array]

    def infer(self) -> dict[str, Callable[[Params, Extras, Batch], Any]]:
        """(params, extras, batch) -> embedding for each modality, and under "<modality>_layers" -> {layer: [B, D]} for probes."""

        def of(name: str) -> Callable[[Params, Extras, Batch], Array]:
            return lambda params, extras, batch: self.embed(params, batch, name)

        def layers(name: str) -> Callable[[Params, Extras, Batch], dict[str, Array]]:
            return lambda params, extras, batch: layer_features(self.full(params, batch, name)[1])

        return {name: of(name) for name in self.names} | {f"{name}_layers": layers(name) for name in self.names}


def dual_encoder(
    encoders: Mapping[str, Encoder],
    dim: int,
    *,
    scale: float = 1 / 0.07,
    max_scale: float | None = 100.0,
    hidden: int | None = None,
    normalise: bool = True,
    tokens: bool = False,
    dtype: str = "float32",
) -> DualEncoder:
    """An Embedder for each modality's encoder into one space of `dim`, and a LogScale that starts at `scale`.

    tokens: out["projected"] holds every token in the shared space.   hidden: width of a two-layer projection head.
    normalise: False returns embeddings of any length, for a system that normalises them itself.
    Raises ConfigError for a `dim` or `dtype` that cannot work.
    """
    if dim < 1:
        raise ConfigError(f"system.dim is {dim}: the shared space needs at least one dimension")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"system.dtype is {dtype!r}: choose float32, bfloat16 or float16")
    modules = {n: Embedder(t, dim, hidden, normalise, tokens, jnp.dtype(dtype)) for n, t in encoders.items()}
    pooled = {n: m.clone(pooled_only=True, tokens=False) for n, m in modules.items()}
    log_scale = LogScale(scale, max_scale)

    def embed(params: Params, batch: Batch, name: str) -> Array:
        return pooled[name].apply({"params": params[name]}, *inputs(batch, name), rngs=drop_rngs(batch))[0]

    def full(params: Params, batch: Batch, name: str) -> tuple[Array, dict[str, Array]]:
        return modules[name].apply({"params": params[name]}, *inputs(batch, name), rngs=drop_rngs(batch))

    return DualEncoder(
        tuple(encoders),
        lambda rng, batch: init_parts(rng, {**modules, "scale": log_scale}, batch),
        embed,
        full,
        lambda params: log_scale.apply({"params": params["scale"]}),
    )

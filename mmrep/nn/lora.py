"""Low-rank adaptation as functions of a parameter tree: no module changes.

    adapters = lora.init(rng, params, r".*attn/(query|value)", rank=8)      # {path: {"a", "b"}}, as a nested dict
    output = model(lora.merge(params, adapters, scale=alpha / rank), x)     # at b = 0 exactly model(params, x)

kernel + scale a b                              Hu et al. 2021 (LoRA, arXiv 2106.09685), equation 3
m (kernel + scale a b) / column norms           Liu et al. 2024 (DoRA, arXiv 2402.09353), equation 5, the norms taken as constants (4.3)
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.config import flatten, unflatten
from mmrep.errors import ConfigError


def column_norms(kernel: Float[Array, "*L I O"]) -> Float[Array, "*L O"]:
    """The Euclidean norm of each output's weights."""
    return jnp.sqrt(jnp.square(kernel).sum(-2))


def init(rng: PRNGKeyArray, params: Any, pattern: str, rank: int, magnitude: bool = False) -> dict[str, Any]:
    """Adapters of the Dense layers whose path `pattern` matches whole: {path: {"a" [*L, I, rank], "b" [*L, rank, O]}}.

    a is uniform in +-1/sqrt(I), b is 0. Stacked (scanned) layers, kernels [L, I, O], have an adapter for each of the L.
    magnitude: DoRA; each also holds "magnitude" [*L, O], the kernel's column norms: start it from the pretrained parameters.
    Raises ConfigError for a rank below 1, or a pattern that matches no Dense layer.
    """
    if rank < 1:
        raise ConfigError(f"lora_rank is {rank}: it must be at least 1")
    suffix = "/kernel"
    dense = {p.removesuffix(suffix): x for p, x in flatten(params).items() if p.endswith(suffix) and x.ndim in (2, 3)}
    chosen = {p: x for p, x in sorted(dense.items()) if re.fullmatch(pattern, p)}
    if not chosen:
        known = ", ".join(sorted(dense)[:3])
        raise ConfigError(f"lora_pattern {pattern!r} matches no Dense layer's path; there are {known}, ...")
    flat = {}
    for key, (path, kernel) in zip(jax.random.split(rng, len(chosen)), chosen.items()):
        *stack, inputs, outputs = kernel.shape
        bound = inputs**-0.5
        flat[f"{path}/a"] = jax.random.uniform(key, (*stack, inputs, rank), jnp.float32, -bound, bound)
        flat[f"{path}/b"] = jnp.zeros((*stack, rank, outputs), jnp.float32)
        if magnitude:
            flat[f"{path}/magnitude"] = column_norms(jnp.asarray(kernel, jnp.float32))
    return unflatten(flat)


def merge(params: Any, lora: Any, scale: float) -> dict[str, Any]:
    """`params` with the adapters in their kernels, which keep their dtypes; where an adapter holds a magnitude, by DoRA.

    scale: of the product a b; alpha / rank in the papers. At 0 LoRA is the frozen model.
    Raises ConfigError for an adapter whose layer is absent or has other sizes.
    """
    if not lora:
        return params
    flat, adapters = flatten(params), flatten(lora)
    for path in [p.removesuffix("/a") for p in adapters if p.endswith("/a")]:
        a, b, kernel = adapters[f"{path}/a"], adapters[f"{path}/b"], flat.get(f"{path}/kernel")
        if kernel is None or kernel.shape != (*a.shape[:-1], b.shape[-1]):
            found = "absent" if kernel is None else list(kernel.shape)
            raise ConfigError(f"the adapter of {path} is for {[*a.shape[:-1], b.shape[-1]]}; the kernel is {found}")
        new = jnp.asarray(kernel + scale * (a @ b))
        if f"{path}/magnitude" in adapters:
            norms = jax.lax.stop_gradient(column_norms(new))
            # A column of zeros has no direction, and stays.
            share = jnp.where(norms > 0, adapters[f"{path}/magnitude"] / jnp.where(norms > 0, norms, 1), 1)
            new = new * share[..., None, :]
        flat[f"{path}/kernel"] = new.astype(kernel.dtype)
    return unflatten(flat)

"""The training state and one step of it: pure functions over plain dicts.

state = {step: int32 [], params, opt, extras, ema: {path: array} or {}, skips: int32 [] (in a row), skipped: int32 [] (in all)}
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from mmrep.config import Train, flatten, unflatten
from mmrep.errors import ConfigError
from mmrep.system import Batch, Metrics, Params, System

State: TypeAlias = dict[str, Any]
Flat: TypeAlias = dict[str, Any]  # {"a/b/c": array}


def split(params: Params, trainable: Sequence[str]) -> tuple[Flat, Flat]:
    """(learnt, frozen) parameters by path; a path is learnt where one of the regexes matches it whole.

    Raises ConfigError for a regex that matches nothing.
    """
    flat = flatten(params)
    for pattern in trainable:
        if not any(re.fullmatch(pattern, path) for path in flat):
            tops = ", ".join(sorted({p.split("/")[0] for p in flat}))
            raise ConfigError(f"trainable {pattern!r} matches no parameter; the top-level names are {tops}")
    learnt = {p: v for p, v in flat.items() if any(re.fullmatch(t, p) for t in trainable)}
    return learnt, {p: v for p, v in flat.items() if p not in learnt}


def merge(learnt: Flat, frozen: Flat) -> Params:
    """The inverse of `split`."""
    return unflatten(learnt | frozen)


def create(
    params: Params, extras: Any, tx: optax.GradientTransformation, trainable: Sequence[str], ema: float
) -> State:
    """The state at step 0."""
    learnt, _ = split(params, trainable)
    zero = jnp.zeros((), jnp.int32)
    # Copies: a donated state must not hold one buffer twice.
    average = jax.tree.map(jnp.copy, flatten(params)) if ema else {}
    return {
        "step": zero,
        "params": params,
        "opt": tx.init(learnt),
        "extras": extras,
        "ema": average,
        "skips": jnp.copy(zero),
        "skipped": jnp.copy(zero),
    }


def evaluated(state: State) -> Params:
    """The parameters that evaluation uses: the average where one is kept."""
    return unflatten(state["ema"]) if state["ema"] else state["params"]


def make_step(
    system: System, tx: optax.GradientTransformation, trainable: Sequence[str], config: Train
) -> Callable[[State, Batch, PRNGKeyArray], tuple[State, Metrics]]:
    """(state, batch, key) -> (state, metrics). The step's own randomness is fold_in(key, step), so a resumed run repeats it.

    A step whose loss or gradient is not finite changes nothing but the counters.
    """

    def loss(learnt: Flat, frozen: Flat, extras: Any, batch: Batch, rng: PRNGKeyArray) -> Any:
        return system.loss(merge(learnt, frozen), extras, batch, rng)

    grad = jax.value_and_grad(loss, has_aux=True)

    def accumulated(learnt: Flat, frozen: Flat, extras: Any, batch: Batch, rng: PRNGKeyArray) -> Any:
        k = config.accumulate
        if k == 1:
            return grad(learnt, frozen, extras, batch, rng)

        def one(carry: Any, micro: Any) -> Any:
            extras, total = carry
            (value, (extras, metrics)), grads = grad(learnt, frozen, extras, *micro)
            return (extras, jax.tree.map(lambda t, g: t + g / k, total, grads)), (value, metrics)

        micro = jax.tree.map(lambda x: x.reshape(k, x.shape[0] // k, *x.shape[1:]), batch)
        start = (extras, jax.tree.map(jnp.zeros_like, learnt))
        (extras, grads), (values, metrics) = jax.lax.scan(one, start, (micro, jax.random.split(rng, k)))
        return (values.mean(), (extras, jax.tree.map(lambda m: m.mean(0), metrics))), grads

    def step(state: State, batch: Batch, key: PRNGKeyArray) -> tuple[State, Metrics]:
        learnt, frozen = split(state["params"], trainable)
        rng = jax.random.fold_in(key, state["step"])
        (value, (extras, metrics)), grads = accumulated(learnt, frozen, state["extras"], batch, rng)
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        updates, opt = tx.update(grads, state["opt"], learnt)
        params = merge(optax.apply_updates(learnt, updates), frozen)
        extras = system.update(params, extras)
        ema = (
            {p: config.ema * state["ema"][p] + (1 - config.ema) * v for p, v in flatten(params).items()}
            if config.ema
            else {}
        )
        new = {"params": params, "opt": opt, "extras": extras, "ema": ema}
        kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, {k: state[k] for k in new})
        skips = jnp.where(finite, 0, state["skips"] + 1)
        counters = {"step": state["step"] + 1, "skips": skips, "skipped": state["skipped"] + ~finite}
        report = {"loss": value, "grad_norm": norm, "skips": skips.astype(jnp.float32)} | metrics
        return kept | counters, report

    return step

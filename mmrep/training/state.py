"""The training state and one step of it: pure functions over plain dicts.

state = {step: int32 [], params, opt, extras, ema: {path: array} or {}, skips: int32 [] (in a row), skipped: int32 [] (in all)},
and with `train.spike` also losses: {mean, var, count} of the losses so far.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.config import Train, flatten, unflatten
from mmrep.errors import ConfigError
from mmrep.losses.large_batch import split_rows
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
    params: Params, extras: Any, tx: optax.GradientTransformation, trainable: Sequence[str], config: Train
) -> State:
    """The state at step 0."""
    learnt, _ = split(params, trainable)
    zero = jnp.zeros((), jnp.int32)
    # Copies: a donated state must not hold one buffer twice.
    average = jax.tree.map(jnp.copy, flatten(params)) if config.ema else {}
    running = {"losses": {k: jnp.zeros((), jnp.float32) for k in ("mean", "var", "count")}} if config.spike else {}
    return {
        "step": zero,
        "params": params,
        "opt": tx.init(learnt),
        "extras": extras,
        "ema": average,
        "skips": jnp.copy(zero),
        "skipped": jnp.copy(zero),
    } | running


WARM, MEMORY = 20, 100  # losses seen before one can be a spike; losses that the running statistics remember


def spiked(
    losses: dict[str, Float[Array, ""]], value: Float[Array, ""], deviations: float
) -> tuple[Bool[Array, ""], dict[str, Float[Array, ""]]]:
    """(whether a finite `value` lies more than `deviations` above the running mean, the statistics with it).

    A spike counts only as far as the limit, so one hardly moves the statistics, and a loss that stays high becomes the new level.
    """
    mean, var, count = losses["mean"], losses["var"], losses["count"]
    # The floor spares a loss that has hardly moved yet.
    limit = mean + deviations * jnp.maximum(jnp.sqrt(var), 1e-3 * jnp.abs(mean))
    high = (count >= WARM) & (value > limit)
    known = jnp.where(high, limit, value)
    weight = 1.0 / jnp.minimum(count + 1.0, float(MEMORY))
    away = known - mean
    new = {"mean": mean + weight * away, "var": (1.0 - weight) * (var + weight * away**2), "count": count + 1.0}
    return high, jax.tree.map(lambda n, o: jnp.where(jnp.isfinite(value), n, o), new, losses)


def evaluated(state: State) -> Params:
    """The parameters that evaluation uses: the average where one is kept."""
    return unflatten(state["ema"]) if state["ema"] else state["params"]


def make_step(
    system: System, tx: optax.GradientTransformation, trainable: Sequence[str], config: Train
) -> Callable[[State, Batch, PRNGKeyArray], tuple[State, Metrics]]:
    """(state, batch, key) -> (state, metrics). The step's own randomness is fold_in(key, step), so a resumed run repeats it.

    Raises ConfigError for a system without a loss. A step whose loss or gradient is not finite, or whose loss spikes, changes nothing but the counters. metrics["bad"] is the
    position of the first learnt path, sorted, whose gradient is not finite, or -1.
    """

    system_loss = system.loss
    if system_loss is None:
        raise ConfigError("the system has no loss, so it takes no gradient steps: give each phase a `run` function")

    def loss(learnt: Flat, frozen: Flat, extras: Any, batch: Batch, rng: PRNGKeyArray) -> Any:
        return system_loss(merge(learnt, frozen), extras, batch, rng)

    grad = jax.value_and_grad(loss, has_aux=True)

    def accumulated(learnt: Flat, frozen: Flat, extras: Any, batch: Batch, rng: PRNGKeyArray) -> Any:
        k = config.accumulate
        if k == 1:
            return grad(learnt, frozen, extras, batch, rng)

        def one(carry: Any, micro: Any) -> Any:
            extras, total = carry
            (value, (extras, metrics)), grads = grad(learnt, frozen, extras, *micro)
            return (extras, jax.tree.map(lambda t, g: t + g / k, total, grads)), (value, metrics)

        micro = split_rows(batch, k)
        start = (extras, jax.tree.map(jnp.zeros_like, learnt))
        (extras, grads), (values, metrics) = jax.lax.scan(one, start, (micro, jax.random.split(rng, k)))
        return (values.mean(), (extras, jax.tree.map(lambda m: m.mean(0), metrics))), grads

    def step(state: State, batch: Batch, key: PRNGKeyArray) -> tuple[State, Metrics]:
        learnt, frozen = split(state["params"], trainable)
        rng = jax.random.fold_in(key, state["step"])
        (value, (extras, metrics)), grads = accumulated(learnt, frozen, state["extras"], batch, rng)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        broken = ~jnp.isfinite(jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)]))
        bad = jnp.where(broken.any(), jnp.argmax(broken), -1)
        high, running = jnp.zeros((), bool), {}
        if config.spike:
            high, losses = spiked(state["losses"], value, config.spike)
            running = {"losses": losses}
        take = finite & ~high
        updates, opt = tx.update(grads, state["opt"], learnt)
        params = merge(optax.apply_updates(learnt, updates), frozen)
        extras = system.update(params, extras)
        ema = (
            {p: config.ema * state["ema"][p] + (1 - config.ema) * v for p, v in flatten(params).items()}
            if config.ema
            else {}
        )
        new = {"params": params, "opt": opt, "extras": extras, "ema": ema}
        kept = jax.tree.map(lambda n, o: jnp.where(take, n, o), new, {k: state[k] for k in new})
        skips = jnp.where(finite, 0, state["skips"] + 1)
        counters = {"step": state["step"] + 1, "skips": skips, "skipped": state["skipped"] + ~take}
        report = {"loss": value, "grad_norm": norm, "skips": skips, "bad": bad}
        return kept | counters | running, {k: v.astype(jnp.float32) for k, v in report.items()} | metrics

    return step

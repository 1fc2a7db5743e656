"""The optimiser of a phase: an optax chain from `Optim`."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from mmrep.config import Optim
from mmrep.errors import ConfigError


def schedule(config: Optim, steps: int) -> optax.Schedule:
    """Learning rate by step of the phase: linear warm-up to `lr`, then the named decay to `final * lr` at `steps`.

    Raises ConfigError where the warm-up does not fit into the phase.
    """
    if not 0 <= config.warmup < max(steps, 1):
        raise ConfigError(f"optim.warmup is {config.warmup}: it must lie in [0, {steps}), the steps of its phase")
    rest = steps - config.warmup
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(config.lr, rest, alpha=config.final)
    elif config.schedule == "linear":
        decay = optax.linear_schedule(config.lr, config.final * config.lr, rest)
    elif config.schedule == "constant":
        decay = optax.constant_schedule(config.lr)
    else:
        timescale = max(config.warmup, 1)

        def decay(step: Any) -> Any:
            return config.lr * (timescale / (step + timescale)) ** 0.5

    if not config.warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, config.lr, config.warmup), decay], [config.warmup])


def optimizer(config: Optim, steps: int) -> optax.GradientTransformation:
    """Global-norm clipping, then the named optimiser; weight decay leaves vectors and scalars alone."""
    lr = schedule(config, steps)

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim >= 2, params)

    if config.lr < 0 or config.weight_decay < 0:
        raise ConfigError("optim.lr and optim.weight_decay must not be negative")
    decay = {"weight_decay": config.weight_decay, "mask": matrices}
    if config.name == "adamw":
        rule = optax.adamw(lr, config.b1, config.b2, config.eps, **decay)
    elif config.name == "lamb":
        rule = optax.lamb(lr, config.b1, config.b2, config.eps, **decay)
    elif config.name == "lion":
        rule = optax.lion(lr, config.b1, config.b2, **decay)
    elif config.name == "sgd":
        rule = optax.chain(optax.add_decayed_weights(**decay), optax.sgd(lr, config.b1, nesterov=True))
    else:
        rule = optax.adafactor(lr, weight_decay_rate=config.weight_decay or None, weight_decay_mask=matrices)
    if not 0 < config.layer_decay <= 1:
        raise ConfigError(
            f"optim.layer_decay is {config.layer_decay}: it lies in (0, 1]; 1 leaves every layer its rate"
        )
    if config.layer_decay < 1:
        rule = optax.chain(rule, optax.stateless(lambda updates, _: by_layer(updates, config.layer_decay)))
    if config.factors:
        rule = optax.chain(rule, optax.stateless(lambda updates, _: by_path(updates, config.factors)))
    if config.clip is None:
        return rule
    if config.clip <= 0:
        raise ConfigError(f"optim.clip is {config.clip}: give a positive norm, or None for no clipping")
    return optax.chain(optax.clip_by_global_norm(config.clip), rule)


def check_factors(config: Optim, paths: Iterable[str]) -> None:
    """Raises ConfigError for a factor that is negative or not finite, and for a regex that matches none of the parameters' paths."""
    paths = list(paths)
    for pattern, factor in config.factors:
        if not 0 <= factor < math.inf:
            raise ConfigError(f"optim.factors[{pattern!r}] is {factor}: give a finite factor, 0 or more")
        if not any(re.fullmatch(pattern, p) for p in paths):
            tops = ", ".join(sorted({p.split("/")[0] for p in paths}))
            raise ConfigError(f"optim.factors[{pattern!r}] matches no parameter; the top-level names are {tops}")


def by_path(updates: Any, factors: Sequence[tuple[str, float]]) -> Any:
    """Updates times the factor of the first regex that matches their path whole; updates of other paths are unchanged."""

    def scaled(path: Any, leaf: Any) -> Any:
        name = "/".join(str(k.key) for k in path)
        factor = next((f for pattern, f in factors if re.fullmatch(pattern, name)), 1.0)
        return leaf if factor == 1.0 else leaf * np.asarray(factor, leaf.dtype)

    return jax.tree_util.tree_map_with_path(scaled, updates)


_BLOCK = re.compile(r"(.*?)block(\d+|s)/")


def by_layer(updates: Any, decay: float) -> Any:
    """Updates times decay^(layers above): layer-wise learning rates of fine-tuning (Clark et al. 2020; BEiT, MAE).

    By path: "<stack>/blockNN/" is layer NN + 1 of its stack ("<stack>/blocks/" holds all of a scanned one); what begins with "head", and
    what stands beside a stack's blocks (a final norm), is the last layer and keeps its rate; all else (embeddings, adapters, global
    tokens) is layer 0 of the deepest stack.
    """
    paths = ["/".join(str(k.key) for k in path) + "/" for path, _ in jax.tree_util.tree_flatten_with_path(updates)[0]]
    leaves, tree = jax.tree.flatten(updates)
    blocks = [None if p.startswith("head") else _BLOCK.match(p) for p in paths]
    depths: dict[str, int] = {}
    for found, leaf in zip(blocks, leaves):
        if found:
            last = leaf.shape[0] if found[2] == "s" else int(found[2]) + 1
            depths[found[1]] = max(depths.get(found[1], 0), last)

    def scaled(path: str, found: re.Match | None, leaf: Any) -> Any:
        if found:
            depth = depths[found[1]]
            below = np.arange(depth) if found[2] == "s" else np.array(int(found[2]))
            factor = (decay ** (depth - below)).astype(np.float32)
            return leaf * factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim)).astype(leaf.dtype)
        last = path.startswith("head") or any(stack and path.startswith(stack) for stack in depths)
        return leaf if last else leaf * np.asarray(decay ** (max(depths.values(), default=0) + 1), leaf.dtype)

    return jax.tree.unflatten(tree, [scaled(*each) for each in zip(paths, blocks, leaves)])

"""The optimiser of a phase: an optax chain from `Optim`."""

from typing import Any

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
        import jax

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
    if config.clip is None:
        return rule
    if config.clip <= 0:
        raise ConfigError(f"optim.clip is {config.clip}: give a positive norm, or None for no clipping")
    return optax.chain(optax.clip_by_global_norm(config.clip), rule)

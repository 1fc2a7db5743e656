"""Interactions of two players of a cooperative game whose value is a function of the coalition (Grabisch and Roubens 1999)."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError

Value = Callable[[Bool[Array, "C P"]], Float[Array, " C"]]
"""The value of each of C coalitions; True: the player takes part. `interactions` subtracts the value of the empty one nowhere."""

LARGEST = 14
"""Players up to which all coalitions are enumerated: 2^14 values."""


def interactions(
    value: Value,
    players: int,
    pairs: Int[np.ndarray, "K 2"],
    coalition: Literal["all", "rest"] = "all",
    samples: int | None = None,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, " K"]:
    """v(C + i + j) + v(C) - v(C + i) - v(C + j) of each pair (i, j).

    coalition: "all": the mean over all coalitions C of the other players, the Banzhaf interaction (HBI); "rest": C is all other players (G2L).
    samples:   None enumerates the 2^(players - 2) coalitions, from one table of all 2^players values; else the mean over so many random
               ones, in which each player takes part with probability 1/2, drawn from `rng` and shared by all pairs.
    An additive game has interactions 0; v(C) = sum of W_ab over pairs a < b in C has interactions W_ij.
    Raises ConfigError for more than 14 players without `samples`, samples without `rng`, or a pair that names no two players.
    """
    pairs = np.asarray(pairs).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= players or (pairs[:, 0] == pairs[:, 1]).any()):
        raise ConfigError(f"interactions: a pair names two different players in [0, {players}); check pairs")
    if coalition == "rest":
        rest = np.ones((len(pairs), 4, players), bool)
        rows = np.arange(len(pairs))
        for k, column in ((1, 0), (2, 1), (3, 0), (3, 1)):
            rest[rows, k, pairs[:, column]] = False
        v = value(jnp.asarray(rest.reshape(-1, players))).reshape(-1, 4)
        return v[:, 0] - v[:, 1] - v[:, 2] + v[:, 3]
    if coalition != "all":
        raise ConfigError(f"interactions: coalition is {coalition!r}; choose 'all' or 'rest'")
    if samples is not None:
        if rng is None:
            raise ConfigError("interactions: samples is set and rng is None; give a key")
        return _sampled(value, players, pairs, samples, rng)
    if players > LARGEST:
        raise ConfigError(f"interactions: {players} players have 2^{players} coalitions; set samples and rng")
    codes = np.arange(2**players)
    table = value(jnp.asarray(codes[:, None] >> np.arange(players) & 1, bool))
    without = np.stack([codes[(codes >> i & 1 == 0) & (codes >> j & 1 == 0)] for i, j in pairs])
    i, j = 1 << pairs[:, :1], 1 << pairs[:, 1:]
    return (table[without + i + j] + table[without] - table[without + i] - table[without + j]).mean(-1)


def _sampled(
    value: Value, players: int, pairs: Int[np.ndarray, "K 2"], samples: int, rng: PRNGKeyArray
) -> Float[Array, " K"]:
    drawn = jax.random.bernoulli(rng, 0.5, (samples, players))

    def of(pair: Int[Array, " 2"]) -> Float[Array, ""]:
        i, j = jax.nn.one_hot(pair, players, dtype=bool)
        without = drawn & ~i & ~j
        v = value(jnp.concatenate([without | i | j, without, without | i, without | j])).reshape(4, samples)
        return (v[0] + v[1] - v[2] - v[3]).mean()

    return jax.lax.map(of, jnp.asarray(pairs))

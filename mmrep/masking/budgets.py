"""Random masking over the tokens of several modalities: Dirichlet budgets, and a static number of visible tokens.

The tokens of all modalities form one row, modality after modality in the order of `sizes`; `ids_keep` are indices into that row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError


class Visible(NamedTuple):
    """ids_keep: indices of the V visible tokens.   ids_restore: for each of the N tokens, its index in (visible ..., masked ...).

    A token is visible exactly where ids_restore < V.
    """

    ids_keep: Int[Array, "B V"]
    ids_restore: Int[Array, "B N"]

    @property
    def mask(self) -> Bool[Array, "B N"]:
        """True where a token is visible."""
        return self.ids_restore < self.ids_keep.shape[1]


def check(sizes: Sequence[int], visible: int, alphas: Sequence[float]) -> None:
    """Raises ConfigError where `visible` tokens cannot be drawn from modalities of these sizes with these concentrations."""
    if not sizes or len(sizes) != len(alphas):
        raise ConfigError(f"alphas {tuple(alphas)}: give one concentration for each of the {len(sizes)} modalities")
    if not 0 < visible <= sum(sizes):
        raise ConfigError(f"visible is {visible}: it must be in [1, {sum(sizes)}], the number of tokens")
    if any(not 0 < a < float("inf") for a in alphas):
        raise ConfigError(f"alphas {tuple(alphas)}: concentrations are positive and finite")


def dirichlet_budgets(
    rng: PRNGKeyArray,
    batch: int,
    alphas: Sequence[float],
    subsets: bool = False,
    present: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """Each example's share of visible tokens by modality, Dirichlet(alphas); rows sum to 1 (Bachmann et al. 2022, MultiMAE, section 3.2).

    subsets: first draw one of the 2^T - 1 non-empty subsets uniformly, then the Dirichlet over it (with 1e-5 for a concentration of 0).
    present: modalities that an example has; the others have share 0.
    """
    for_subset, for_share = jax.random.split(rng)
    alpha = jnp.broadcast_to(jnp.asarray(alphas, jnp.float32), (batch, len(alphas)))
    if subsets:
        choices = jnp.asarray((np.arange(1, 2 ** len(alphas))[:, None] >> np.arange(len(alphas))) & 1, jnp.float32)
        alpha = alpha * choices[jax.random.randint(for_subset, (batch,), 0, len(choices))] + 1e-5
    # Gammas by their logarithm: tiny concentrations underflow to 0 / 0 otherwise.
    log_gamma = jax.random.loggamma(for_share, alpha)
    if present is not None:
        log_gamma = jnp.where(present, log_gamma, -jnp.inf)
    return jax.nn.softmax(log_gamma, axis=-1)


def random_masking(
    rng: PRNGKeyArray,
    share: Float[Array, "B T"],
    sizes: Sequence[int],
    visible: int,
    present: Bool[Array, "B T"] | None = None,
) -> Visible:
    """`visible` random tokens per example, round(share * visible) of each modality or all that it has.

    Rounding gives a few tokens too many or too few: a surplus is dropped at random, and random tokens of any present modality fill a gap
    (Bachmann et al. 2022, MultiMAE, section 3.2). Each example needs at least `visible` tokens in its present modalities.
    """
    for_place, for_repair = jax.random.split(rng)
    total = sum(sizes)
    noise = jax.random.uniform(for_place, (share.shape[0], total))
    return random_masking_with(noise, jax.random.uniform(for_repair, noise.shape), share, sizes, visible, present)


def random_masking_with(
    noise: Float[Array, "B N"],
    repair: Float[Array, "B N"],
    share: Float[Array, "B T"],
    sizes: Sequence[int],
    visible: int,
    present: Bool[Array, "B T"] | None = None,
) -> Visible:
    """`random_masking` with its noise in [0, 1): `noise` orders the tokens of each modality, `repair` decides ties after rounding."""
    count = jnp.round(share * visible)
    flags, start = [], 0
    for t, size in enumerate(sizes):
        order = jnp.argsort(noise[:, start : start + size], axis=1)
        # As in the authors' code, a value of the permutation is used as its rank.
        hidden = (order >= count[:, t, None]).astype(jnp.float32)
        if present is not None:
            hidden = jnp.where(present[:, t, None], hidden, 2.0)
        flags.append(hidden)
        start += size
    shuffle = jnp.argsort(jnp.concatenate(flags, axis=1) + repair, axis=1)
    return Visible(shuffle[:, :visible], jnp.argsort(shuffle, axis=1))


def all_visible(batch: int, sizes: Sequence[int]) -> Visible:
    """All tokens, in order."""
    place = jnp.broadcast_to(jnp.arange(sum(sizes)), (batch, sum(sizes)))
    return Visible(place, place)


def from_mask(mask: Bool[Array | np.ndarray, "B N"]) -> Visible:
    """The tokens where `mask` is True, in order. Raises ConfigError unless every row keeps the same number, at least one."""
    counts = np.asarray(mask).sum(1)
    if not len(counts) or counts.min() != counts.max() or counts.max() == 0:
        raise ConfigError(
            f"a visibility mask keeps {sorted({*counts.tolist()})} tokens a row: keep the same number in all"
        )
    shuffle = jnp.argsort(~jnp.asarray(mask), axis=1, stable=True)
    return Visible(shuffle[:, : int(counts[0])], jnp.argsort(shuffle, axis=1))

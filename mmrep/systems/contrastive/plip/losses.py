"""PLIP's losses: identities, colours, masked attributes, and CMPM/C for fine-tuning (Zuo et al. 2024; Zhang and Lu 2018)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.losses.contrastive import cross_entropy, distribution_matching, same_id, similarity
from mmrep.losses.masked import patch_mse
from mmrep.modality import BOS, EOS, MASK, PAD, UNK
from mmrep.nn.heads import l2_normalise
from mmrep.nn.patches import patchify

LUMINANCE = (0.299, 0.587, 0.114)


def identity_loss(
    u: Float[Array, "B D"], v: Float[Array, "B D"], scale: float, ids: Int[Array, " B"]
) -> Float[Array, " B"]:
    """L_v2l + L_l2v of unit rows: KL(softmax(scale * cosine) || same identity, normalised to sum 1)."""
    s, same = scale * similarity(u, v), same_id(ids, ids)
    return distribution_matching(s, same) + distribution_matching(s.T, same)


def cmpm_loss(x: Float[Array, "B D"], y: Float[Array, "B D"], ids: Int[Array, " B"]) -> Float[Array, " B"]:
    """CMPM of both directions: x projected on unit y, not a cosine; the labels of a row have L2 norm 1, as in the released code."""
    same = same_id(ids, ids)
    ways = similarity(x, l2_normalise(y)), similarity(y, l2_normalise(x))
    return distribution_matching(ways[0], same, unit=True) + distribution_matching(ways[1], same, unit=True)


def cmpc_loss(
    x: Float[Array, "B D"], y: Float[Array, "B D"], kernel: Float[Array, "D C"], ids: Int[Array, " B"]
) -> Float[Array, " B"]:
    """CMPC: cross-entropy of x projected on y, and of y on x, against classes of unit weight vectors. A person beyond C costs 0."""
    u, v, w = l2_normalise(x), l2_normalise(y), l2_normalise(kernel.T)
    target = jax.nn.one_hot(ids, len(w))
    on_text = (x * v).sum(-1, keepdims=True) * v
    on_image = (y * u).sum(-1, keepdims=True) * u
    return cross_entropy(similarity(on_text, w), target) + cross_entropy(similarity(on_image, w), target)


def grey(images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """The luminance in each of three channels."""
    y = (images * jnp.asarray(LUMINANCE, images.dtype)).sum(-1, keepdims=True)
    return jnp.broadcast_to(y, images.shape)


def colour_loss(found: Float[Array, "B N P"], images: Float[Array, "B H W 3"], patch: int) -> Float[Array, ""]:
    """L_tic: the mean squared error of pixels and channels in [0, 1]."""
    return patch_mse(found, patchify(images, patch)).mean()


def mask_attributes(
    rng: PRNGKeyArray, ids: Int[Array, "B L"], rate: Float[Array, ""] | float
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """(ids with MASK at the targets, target): each token of an attribute with probability `rate`; never an unknown word. There may be none."""
    maskable = (ids != PAD) & (ids != BOS) & (ids != EOS) & (ids != UNK)
    target = maskable & (jax.random.uniform(rng, ids.shape) < rate)
    return jnp.where(target, jnp.asarray(MASK, ids.dtype), ids), target


def mask_rate_at(
    step: Int[Array, ""], steps: int, rates: tuple[float, float], schedule: Literal["linear", "square", "squareroot"]
) -> Float[Array, ""]:
    """From the first rate to the second, by the share of `steps` done, its square or its root; 0 steps: the first."""
    done = jnp.minimum(step / steps, 1.0) if steps else jnp.zeros((), jnp.float32)
    return rates[0] + (rates[1] - rates[0]) * done ** {"linear": 1.0, "square": 2.0, "squareroot": 0.5}[schedule]

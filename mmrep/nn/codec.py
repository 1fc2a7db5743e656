"""Autoencoders around a quantiser, as pure functions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, PRNGKeyArray

from mmrep.system import Params


class Codec(NamedTuple):
    """An encoder and a decoder around a quantiser.   init: rng -> params {"encoder", "decoder"}.

    encode: (params, values) -> latents, the last axis one latent.
    decode: (params, latents) -> values; of a denoiser (params, latents, noisy, t) -> the predicted clean map.
    """

    init: Callable[[PRNGKeyArray], Params]
    encode: Callable[..., Array]
    decode: Callable[..., Array]


def codec_of(encoder: nn.Module, decoder: nn.Module, first: tuple[Array, ...], second: tuple[Array, ...]) -> Codec:
    """`first`, `second`: example inputs of encoder and decoder."""

    def init(rng: PRNGKeyArray) -> Params:
        keys = jax.random.split(rng)
        parts = (("encoder", encoder, first), ("decoder", decoder, second))
        return {name: m.init(key, *given)["params"] for key, (name, m, given) in zip(keys, parts)}

    def encode(params: Params, x: Array) -> Array:
        return encoder.apply({"params": params["encoder"]}, x)  # type: ignore[return-value]

    def decode(params: Params, *given: Array) -> Array:
        return decoder.apply({"params": params["decoder"]}, *given)  # type: ignore[return-value]

    return Codec(init, encode, decode)

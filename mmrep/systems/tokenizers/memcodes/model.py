"""Encoder, decoder and product quantiser of a vector tokenizer (4M-21, arXiv 2406.09406)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.nn.codec import Codec, codec_of
from mmrep.nn.norms import layer_norm
from mmrep.nn.transformer import Mlp
from mmrep.system import Params


class BottleneckMlp(nn.Module):
    """Linear to `width`, `blocks` blocks x + Mlp(LN(x)), linear to `out` (Bachmann et al. 2023, Scaling MLPs).

    scan: one block is compiled for any depth, with stacked parameters.
    """

    width: int
    blocks: int
    out: int
    expansion: int = 4
    scan: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        x = nn.Dense(self.width, dtype=self.dtype, name="in")(x)
        settings = {"hidden": self.expansion * self.width, "dtype": self.dtype}
        if self.scan:
            stack = nn.scan(
                lambda block, x, _: (block(x), None), {"params": 0}, split_rngs={"params": True}, length=self.blocks
            )
            x, _ = stack(BottleneckBlock(**settings, name="blocks"), x, None)
        else:
            for i in range(self.blocks):
                x = BottleneckBlock(**settings, name=f"block{i:02d}")(x)
        return nn.Dense(self.out, name="out")(x.astype(jnp.float32))


class BottleneckBlock(nn.Module):
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return x + Mlp(self.hidden, self.dtype, name="mlp")(layer_norm(self.dtype, "norm")(x))


def vector_codec(
    dim: int, width: int, blocks: int, *, expansion: int = 4, scan: bool = False, dtype: str = "float32"
) -> Codec:
    """A bottleneck MLP on either side of latents of the same width."""
    kind = jnp.dtype(dtype)
    into, out = (BottleneckMlp(width, blocks, n, expansion, scan, kind) for n in (width, dim))
    return codec_of(into, out, (jnp.zeros((1, dim), jnp.float32),), (jnp.zeros((1, width), jnp.float32),))


def product_codebook(rng: PRNGKeyArray, heads: int, codes: int, width: int) -> Params:
    """Parameters of a product quantiser, learned by gradient: codes [h, K, d], and matrices to keys and to values [h, d, d], d = width/h.

    Raises ConfigError where heads do not divide the width.
    """
    if heads < 1 or width % heads or codes < 2:
        raise ConfigError(
            f"{heads} codebooks of {codes} codes for width {width}: heads must divide the width, codes be 2 or more"
        )
    d = width // heads
    drawn, *maps = jax.random.split(rng, 3)
    key, value = (jax.random.uniform(k, (heads, d, d), minval=-1.0, maxval=1.0) * (3.0 / d) ** 0.5 for k in maps)
    return {"codes": jax.random.normal(drawn, (heads, codes, d)), "key": key, "value": value}


def product_quantise(
    params: Params, z: Float[Array, "*n D"], rng: PRNGKeyArray | None = None, temperature: float = 1.0
) -> tuple[Float[Array, "*n D"], Int[Array, "*n h"]]:
    """(values of the codes, their ids in each of the h codebooks) for latents split into h parts (4M-21; "Memcodes" of NWT).

    Each part is assigned the code whose key has the largest dot product with it, with the gradient of a softmax over all codes. With `rng`, in
    training, the code is sampled from that softmax (hard, straight-through Gumbel-softmax).
    """
    h, k, d = params["codes"].shape
    parts = z.astype(jnp.float32).reshape(*z.shape[:-1], h, d) * d**-0.5
    keys, values = (jnp.einsum("hkd,hde->hke", params["codes"], params[name]) for name in ("key", "value"))
    logits = jnp.einsum("...hd,hkd->...hk", parts, keys)
    if rng is None:
        ids = logits.argmax(-1).astype(jnp.int32)
        return product_values(params, ids).astype(z.dtype), ids
    noisy = (logits + jax.random.gumbel(rng, logits.shape)) / temperature
    ids, soft = noisy.argmax(-1).astype(jnp.int32), jax.nn.softmax(noisy, axis=-1)
    hard = jax.nn.one_hot(ids, k, dtype=jnp.float32)
    chosen = hard + soft - jax.lax.stop_gradient(soft)
    found = jnp.einsum("...hk,hkd->...hd", chosen, values)
    return found.reshape(z.shape).astype(z.dtype), ids


def product_values(params: Params, ids: Int[Array, "*n h"]) -> Float[Array, "*n D"]:
    """The latents of these ids."""
    values = jnp.einsum("hkd,hde->hke", params["codes"], params["value"])
    found = values[jnp.arange(ids.shape[-1]), ids]
    return found.reshape(*ids.shape[:-1], -1)

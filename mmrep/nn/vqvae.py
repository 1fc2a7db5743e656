"""What stands around a quantiser: an encoder and a decoder of maps (ViT-VQGAN; 4M, arXiv 2312.06647) and of vectors (4M-21, arXiv 2406.09406).

codec = map_codec(DenseModality("rgb", (32, 32), 4, 3), latent=16, encoder=TransformerConfig(...), decoder=TransformerConfig(...))
params = codec.init(rng)
z = codec.encode(params, standardised)      # [B, R, C, latent], float32: to be quantised
patches = codec.decode(params, codes)       # [B, R * C, values of a patch]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Num, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.nn.adapters import ClassAdapter, PatchAdapter, grid_positions
from mmrep.nn.config import TransformerConfig
from mmrep.nn.diffusion import Denoiser
from mmrep.nn.maps import DenseModality
from mmrep.nn.norms import layer_norm
from mmrep.nn.transformer import Mlp, Transformer
from mmrep.system import Params


class PostMlp(nn.Module):
    """x + W2 tanh(W1 LN(x)), in float32 whatever comes in (Yu et al. 2022, ViT-VQGAN)."""

    ratio: float = 4.0

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        x = x.astype(jnp.float32)
        init = nn.initializers.xavier_uniform()
        y = layer_norm(jnp.float32, "norm", 1e-6)(x).reshape(-1, x.shape[-1])
        y = jnp.tanh(nn.Dense(int(self.ratio * x.shape[-1]), kernel_init=init, name="up")(y))
        return x + nn.Dense(x.shape[-1], kernel_init=init, name="down")(y).reshape(x.shape)


class MapEncoder(nn.Module):
    """Patches of numbers, or of learnt vectors of class ids, through a ViT to one latent a patch."""

    map: DenseModality
    config: TransformerConfig
    latent: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Num[Array | np.ndarray, "B H W *C"]) -> Float[Array, "B R S K"]:
        m, width = self.map, self.config.width
        if m.classes:
            tokens = ClassAdapter(width, m.patch, m.classes, m.class_dim, dtype=self.dtype, name="embed")(x)
        else:
            tokens = PatchAdapter(width, m.patch, self.dtype, name="embed")(x)
        tokens = Transformer(self.config, final_norm=False, dtype=self.dtype, name="vit")(tokens)[0]
        latents = nn.Dense(self.latent, name="latent")(PostMlp(name="post")(tokens))
        return latents.reshape(len(x), x.shape[1] // m.patch, x.shape[2] // m.patch, self.latent)


class PatchDecoder(nn.Module):
    """Quantised latents through a ViT to the values of each patch."""

    map: DenseModality
    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: Float[Array, "B R S K"]) -> Float[Array, "B N P"]:
        b, rows, columns, _ = latents.shape
        init = nn.initializers.xavier_uniform()
        tokens = nn.Dense(self.config.width, dtype=self.dtype, name="embed")(latents.reshape(b, rows * columns, -1))
        tokens = tokens + grid_positions(rows, columns, self.config.width).astype(self.dtype)
        tokens = PostMlp(name="post")(
            Transformer(self.config, final_norm=False, dtype=self.dtype, name="vit")(tokens)[0]
        )
        return nn.Dense(self.map.values, kernel_init=init, name="out")(tokens)


class BottleneckMlp(nn.Module):
    """Linear to `width`, so many blocks x + Mlp(LN(x)), linear to `out` (Bachmann et al. 2023, Scaling MLPs).

    scan: one block is compiled whatever their number, its parameters stacked.
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


class Codec(NamedTuple):
    """init: rng -> params {"encoder", "decoder"}.

    encode: (params, values) -> latents, the last axis one latent.
    decode: (params, latents) -> values; of a denoiser (params, latents, noisy, t) -> the clean map as it takes it to be.
    """

    init: Callable[[PRNGKeyArray], Params]
    encode: Callable[..., Array]
    decode: Callable[..., Array]


def _codec(encoder: nn.Module, decoder: nn.Module, first: tuple[Array, ...], second: tuple[Array, ...]) -> Codec:
    """`first` and `second` are example inputs of the two."""

    def init(rng: PRNGKeyArray) -> Params:
        keys = jax.random.split(rng)
        parts = (("encoder", encoder, first), ("decoder", decoder, second))
        return {name: m.init(key, *given)["params"] for key, (name, m, given) in zip(keys, parts)}

    def encode(params: Params, x: Array) -> Array:
        return encoder.apply({"params": params["encoder"]}, x)  # type: ignore[return-value]

    def decode(params: Params, *given: Array) -> Array:
        return decoder.apply({"params": params["decoder"]}, *given)  # type: ignore[return-value]

    return Codec(init, encode, decode)


def map_codec(
    m: DenseModality,
    latent: int,
    encoder: TransformerConfig,
    decoder: TransformerConfig | Denoiser,
    *,
    dtype: str = "float32",
) -> Codec:
    """A ViT on either side, or a denoiser as the decoder. Raises ConfigError for widths and patches that cannot work."""
    if m.patch < 1 or m.size[0] % m.patch or m.size[1] % m.patch:
        raise ConfigError(f"map {m.name!r}: patch {m.patch} does not divide its size {m.size}")
    for size in (encoder, decoder):
        if isinstance(size, TransformerConfig) and size.width % 4:
            raise ConfigError(f"width is {size.width}: two-dimensional positions need a multiple of 4")
    kind = jnp.dtype(dtype)
    into = MapEncoder(m, encoder, latent, dtype=kind)
    x = jnp.zeros((1, *m.size), jnp.int32) if m.classes else jnp.zeros((1, *m.size, m.channels), jnp.float32)
    z = jnp.zeros((1, *m.grid, latent), jnp.float32)
    if isinstance(decoder, Denoiser):
        return _codec(into, decoder, (x,), (z, x, jnp.zeros(1, jnp.int32)))
    return _codec(into, PatchDecoder(m, decoder, dtype=kind), (x,), (z,))


def vector_codec(
    dim: int, width: int, blocks: int, *, expansion: int = 4, scan: bool = False, dtype: str = "float32"
) -> Codec:
    """A bottleneck MLP on either side of latents as wide as it is."""
    kind = jnp.dtype(dtype)
    into, out = (BottleneckMlp(width, blocks, n, expansion, scan, kind) for n in (width, dim))
    return _codec(into, out, (jnp.zeros((1, dim), jnp.float32),), (jnp.zeros((1, width), jnp.float32),))

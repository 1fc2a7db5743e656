"""Encoder and decoder of a map tokenizer: a ViT on either side of the quantiser (ViT-VQGAN; 4M, arXiv 2312.06647).

codec = map_codec(DenseModality("rgb", (32, 32), 4, 3), latent=16, encoder=TransformerConfig(...), decoder=TransformerConfig(...))
params = codec.init(rng)
z = codec.encode(params, standardised)      # [B, R, C, latent], float32: to be quantised
patches = codec.decode(params, codes)       # [B, R * C, values of a patch]
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Num

from mmrep.errors import ConfigError
from mmrep.nn.adapters import ClassAdapter, PatchAdapter
from mmrep.nn.codec import Codec, codec_of
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality
from mmrep.nn.norms import layer_norm
from mmrep.nn.positions import grid_positions
from mmrep.nn.transformer import Transformer
from mmrep.systems.tokenizers.vqvae.diffusion import Denoiser


class PostMlp(nn.Module):
    """x + W2 tanh(W1 LN(x)), in float32 for any input (Yu et al. 2022, ViT-VQGAN)."""

    ratio: float = 4.0

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        x = x.astype(jnp.float32)
        init = nn.initializers.xavier_uniform()
        y = layer_norm(jnp.float32, "norm", 1e-6)(x).reshape(-1, x.shape[-1])
        y = jnp.tanh(nn.Dense(int(self.ratio * x.shape[-1]), kernel_init=init, name="up")(y))
        return x + nn.Dense(x.shape[-1], kernel_init=init, name="down")(y).reshape(x.shape)


class MapEncoder(nn.Module):
    """Patches of numbers, or of learned class embeddings, through a ViT to one latent per patch."""

    map: DenseModality
    config: TransformerConfig
    latent: int
    dtype: Any = jnp.float32
    positions: bool = True

    @nn.compact
    def __call__(self, x: Num[Array | np.ndarray, "B H W *C"]) -> Float[Array, "B R S K"]:
        m, width = self.map, self.config.width
        if m.classes:
            kind = ClassAdapter(
                width, m.patch, m.classes, m.class_dim, dtype=self.dtype, positions=self.positions, name="embed"
            )
        else:
            kind = PatchAdapter(width, m.patch, self.dtype, positions=self.positions, name="embed")
        tokens = kind(x)
        tokens = Transformer(self.config, final_norm=False, dtype=self.dtype, name="vit")(tokens)[0]
        latents = nn.Dense(self.latent, name="latent")(PostMlp(name="post")(tokens))
        return latents.reshape(len(x), x.shape[1] // m.patch, x.shape[2] // m.patch, self.latent)


class MapDecoder(nn.Module):
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


def map_codec(
    m: DenseModality,
    latent: int,
    encoder: TransformerConfig,
    decoder: TransformerConfig | Denoiser,
    *,
    dtype: str = "float32",
    positions: bool = True,
) -> Codec:
    """A ViT as the encoder (`positions`: whether it has them), and a ViT or a denoiser as the decoder.

    Raises ConfigError for widths and patches that cannot work.
    """
    if m.patch < 1 or m.size[0] % m.patch or m.size[1] % m.patch:
        raise ConfigError(f"map {m.name!r}: patch {m.patch} does not divide its size {m.size}")
    for size in (encoder, decoder):
        if isinstance(size, TransformerConfig) and size.width % 4:
            raise ConfigError(f"width is {size.width}: two-dimensional positions need a multiple of 4")
    kind = jnp.dtype(dtype)
    into = MapEncoder(m, encoder, latent, kind, positions)
    x = jnp.zeros((1, *m.size), jnp.int32) if m.classes else jnp.zeros((1, *m.size, m.channels), jnp.float32)
    z = jnp.zeros((1, *m.grid, latent), jnp.float32)
    if isinstance(decoder, Denoiser):
        return codec_of(into, decoder, (x,), (z, x, jnp.zeros(1, jnp.int32)))
    return codec_of(into, MapDecoder(m, decoder, dtype=kind), (x,), (z,))

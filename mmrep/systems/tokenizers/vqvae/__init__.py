"""VQ-VAE: 4M's tokenizer of maps, one id per patch (Mizrahi et al., NeurIPS 2023, arXiv 2312.06647).

| paper                                              | function                             |
|----------------------------------------------------|--------------------------------------|
| ViT encoder and decoder (ViT-VQGAN)                | model.MapEncoder, MapDecoder         |
| cosine codebook, moving averages, dead-code restart | codebook.quantise, update_codebook  |
| finite scalar quantisation                         | nn.quantise.fsq                      |
| diffusion decoder (DiVAE)                          | diffusion.Denoiser, ddim             |
| reconstruction + commitment                        | vqvae_loss                           |
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Num, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.masked import patch_cross_entropy, patch_l1, patch_mse
from mmrep.nn import quantise as q
from mmrep.nn.codec import Codec
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality
from mmrep.nn.patches import patchify, unpatchify
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.tokenizers.vqvae import codebook as cb
from mmrep.systems.tokenizers.vqvae import diffusion
from mmrep.systems.tokenizers.vqvae.diffusion import Denoiser
from mmrep.systems.tokenizers.vqvae.model import map_codec


@dataclass(frozen=True)
class Config:
    """map: the tokenized map.

    quantiser:  "codebook", unit codes matched by cosine and learned by moving averages (in extras), or "fsq", finite scalar levels, one
                latent channel each, without parameters.
    codes, latent: size of the codebook and width of its codes.   levels: of "fsq".
    decay, commitment: of the codebook.   normalise: the commitment loss uses unit latents.
    dead:       a code used less than 1/dead of its even share is reset to a latent of the batch; 0: never.
    usage:      of a code: the "count" of its latents, or its "utility" (see `codebook.update_by_utility`), with which frequent latents do not
                take up the codes.
    loss:       of maps of numbers; a class map has cross-entropy.
    bounded:    numbers are in [0, 1] and decoded maps are clipped to it (not where the map is `truncated`: the ids do not contain its scale,
                and it is decoded to standardised numbers).
    decoder_type: "direct", the ViT `decoder`, or "diffusion", a U-Net conditioned on the latents (DiVAE), for maps of numbers only.
    positions:  of the encoder. Without them and without layers an id depends on its patch alone, wherever it is.
    unet_widths, unet_blocks, unet_patch, diffusion_steps: of the U-Net.   sample_steps: of DDIM, to decode.
    """

    map: DenseModality = DenseModality("rgb", (224, 224), 16, 3)
    quantiser: Literal["codebook", "fsq"] = "codebook"
    codes: int = 16384
    latent: int = 32
    levels: tuple[int, ...] = ()
    decay: float = 0.99
    dead: float = 32.0
    usage: Literal["count", "utility"] = "count"
    commitment: float = 1.0
    normalise: bool = False
    loss: Literal["mse", "l1", "smooth_l1"] = "mse"
    bounded: bool = True
    decoder_type: Literal["direct", "diffusion"] = "direct"
    encoder: TransformerConfig = TransformerConfig(width=768, depth=12, heads=12, epsilon=1e-6)
    decoder: TransformerConfig = TransformerConfig(width=768, depth=12, heads=12, epsilon=1e-6)
    unet_widths: tuple[int, ...] = (256, 512, 512, 512)
    unet_blocks: int = 3
    unet_patch: int = 4
    diffusion_steps: int = 1000
    sample_steps: int = 25
    dtype: str = "float32"
    positions: bool = True

    def check(self) -> None:
        for name, known in (
            ("quantiser", ("codebook", "fsq")), ("decoder_type", ("direct", "diffusion")), ("loss", tuple(LOSSES)),
            ("usage", ("count", "utility")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ConfigError(f"system.{name} is {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.quantiser == "fsq":
            q.check_levels(self.levels)
        elif self.levels or self.codes < 2 or self.latent < 1 or not 0 <= self.decay < 1 or self.dead < 0:
            raise ConfigError(
                "system.quantiser 'codebook' needs codes >= 2, latent >= 1, decay in [0, 1), dead >= 0, and no levels"
            )
        if self.usage == "utility" and self.dead < 1:
            raise ConfigError(f"system.dead is {self.dead}: with usage 'utility' give 1 or more")
        if self.decoder_type == "diffusion":
            diffusion.alphas_cumprod(self.diffusion_steps)
            diffusion.sampling_times(self.diffusion_steps, self.sample_steps)
            fine = self.unet_patch * 2 ** (len(self.unet_widths) - 1)
            if self.map.classes:
                raise ConfigError(
                    "system.decoder_type 'diffusion' is for maps of numbers: choose 'direct' for class ids"
                )
            if self.map.size[0] % fine or self.map.size[1] % fine:
                raise ConfigError(f"unet_patch and unet_widths need a map of a multiple of {fine}, not {self.map.size}")

    @property
    def vocab(self) -> int:
        """Number of ids."""
        size = 1
        for n in self.levels:
            size *= n
        return size if self.quantiser == "fsq" else self.codes

    def codec(self) -> Codec:
        decoder: TransformerConfig | Denoiser = self.decoder
        if self.decoder_type == "diffusion":
            kind = jnp.dtype(self.dtype)
            decoder = Denoiser(self.map.channels, self.unet_patch, self.unet_widths, self.unet_blocks, dtype=kind)
        latent = len(self.levels) if self.quantiser == "fsq" else self.latent
        return map_codec(self.map, latent, self.encoder, decoder, dtype=self.dtype, positions=self.positions)

    def build(self) -> System:
        self.check()
        name = self.map.name

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            codes, weights = jax.random.split(rng)
            extras = {"codebook": cb.codebook(codes, self.codes, self.latent)} if self.quantiser == "codebook" else {}
            return self.codec().init(weights), extras

        def ids_of(params: Params, extras: Extras, batch: Batch) -> Int[Array, "B R S"]:
            return map_to_ids(self, params, extras, batch[name])

        def keys_of(batch: Batch) -> Key[Array, " B"] | None:
            return jax.vmap(jax.random.key)(batch["seed"]) if "seed" in batch else None

        def decoded(params: Params, extras: Extras, batch: Batch) -> Num[Array, "B H W *C"]:
            """The map of the batch's `ids`, or of its own ids where it has none. `seed` [B]: of each row's noise (diffusion)."""
            ids = batch["ids"] if "ids" in batch else ids_of(params, extras, batch)
            return ids_to_map(self, params, extras, ids, keys_of(batch))

        def reconstruct(params: Params, extras: Extras, batch: Batch) -> Num[Array, "B H W *C"]:
            return ids_to_map(self, params, extras, ids_of(params, extras, batch), keys_of(batch))

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Float[Array, ""], tuple[Extras, Metrics]]:
            return vqvae_loss(self, params, extras, batch[name], rng)

        return System(init, loss, {"tokenize": ids_of, "detokenize": decoded, "reconstruct": reconstruct})


LOSSES = {"mse": patch_mse, "l1": patch_l1, "smooth_l1": lambda p, x: optax.losses.huber_loss(p, x).mean(-1)}


def quantised(config: Config, extras: Extras, z: Float[Array, "B R S K"]) -> cb.Quantised:
    if config.quantiser == "codebook":
        return cb.quantise(extras["codebook"], z, config.normalise)
    return cb.Quantised(*q.fsq(z, config.levels), jnp.float32(0))


def vqvae_loss(
    config: Config, params: Params, extras: Extras, x: Num[Array | np.ndarray, "B H W *C"], rng: PRNGKeyArray
) -> tuple[Float[Array, ""], tuple[Extras, Metrics]]:
    """Reconstruction plus commitment, and the codebook after this batch, whose update needs the latents."""
    restart, when, noise = jax.random.split(rng, 3)
    m, codec, x = config.map, config.codec(), config.map.standard(x)
    z = codec.encode(params, x)
    found = quantised(config, extras, z)
    if config.decoder_type == "diffusion":
        t = jax.random.randint(when, (len(x),), 0, config.diffusion_steps)
        signal = diffusion.alphas_cumprod(config.diffusion_steps)
        noisy = diffusion.add_noise(x, jax.random.normal(noise, x.shape), t, signal)
        predicted = patchify(codec.decode(params, found.codes, noisy, t), m.patch)
    else:
        predicted = codec.decode(params, found.codes)
    if m.classes:
        logits = predicted.reshape(*predicted.shape[:2], m.patch**2, m.classes)
        error = patch_cross_entropy(logits, patchify(x[..., None], m.patch)).mean()
    else:
        error = LOSSES[config.loss](predicted, patchify(x, m.patch)).mean()
    share = jnp.zeros(config.vocab, jnp.float32).at[found.ids.reshape(-1)].add(1.0 / found.ids.size)
    perplexity = jnp.exp(-(share * jnp.log(jnp.maximum(share, 1e-10))).sum())
    metrics = {"reconstruction": error, "commitment": found.commitment, "perplexity": perplexity}
    if config.quantiser == "codebook":
        given = extras["codebook"], z, found.ids, restart, config.decay
        if config.usage == "utility":
            after = cb.update_by_utility(*given, config.dead)
        else:
            dead = cb.dead_below(found.ids.size, config.codes, config.dead) if config.dead else 0.0
            after = cb.update_codebook(*given, dead)
        extras = extras | {"codebook": after}
    return error + config.commitment * found.commitment, (extras, metrics)


def map_to_ids(
    config: Config, params: Params, extras: Extras, x: Num[Array | np.ndarray, "B H W *C"]
) -> Int[Array, "B R S"]:
    """Ids of a map in its own units; another system may call it with this tokenizer's params and extras."""
    return quantised(config, extras, config.codec().encode(params, config.map.standard(x))).ids


def ids_to_map(
    config: Config, params: Params, extras: Extras, ids: Int[Array, "B R S"], key: Key[Array, "*B"] | None = None
) -> Num[Array, "B H W *C"]:
    """The map of these ids: class ids, or numbers in the map's units.   key: of each row's noise, or one for all rows."""
    m, codec, grid = config.map, config.codec(), (ids.shape[1], ids.shape[2])
    clip = config.bounded and not m.truncated
    codes = extras["codebook"]["codes"][ids] if config.quantiser == "codebook" else q.fsq_codes(ids, config.levels)
    if m.classes:
        logits = unpatchify(codec.decode(params, codes), m.patch, grid)
        return logits.argmax(-1).astype(jnp.int32)
    if config.decoder_type == "diffusion":
        shape = grid[0] * m.patch, grid[1] * m.patch, m.channels
        keys = jnp.broadcast_to(jax.random.key(0) if key is None else key, len(ids))
        noise = jax.vmap(lambda k: jax.random.normal(k, shape))(keys)
        signal, steps = diffusion.alphas_cumprod(config.diffusion_steps), config.sample_steps
        ends = m.standard(jnp.zeros(m.channels)), m.standard(jnp.ones(m.channels))
        x = diffusion.ddim(lambda x, t: codec.decode(params, codes, x, t), noise, signal, steps, ends if clip else None)
    else:
        x = unpatchify(codec.decode(params, codes), m.patch, grid)
    x = x if m.truncated else x * jnp.asarray(m.std, jnp.float32) + jnp.asarray(m.mean, jnp.float32)
    return jnp.clip(x, 0.0, 1.0) if clip else x

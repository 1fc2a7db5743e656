"""OneEncoder: modalities aligned one after the other through one small frozen projection (Faye et al. 2024, arXiv 2409.11059).

Section 3.1, frozen encoders give token sequences            Config.encoders, Phase.trainable
Section 3.1, projection head; alignment layer                AlignmentLayer
Section 3.2, modality token                                  ModalityToken
Section 3.2, universal projection, fusion by addition        UniversalProjection
Section 3.3, contrastive loss at a fixed scale               mmrep.losses.contrastive.symmetric_info_nce
Section 3.4, a new modality against an aligned one           Config.pair, Config.learns

Of the authors' six fusions only the addition is here. Their mean runs over padded tokens (Config.mask_pads) and dropout acts in the frozen
side; ours is masked, and the frozen side has none. A plateau schedule becomes a cosine.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder, inputs
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import mean_pool
from mmrep.nn.transformer import Transformer
from mmrep.system import Batch, Metrics, Params, System, stateless

UP = TransformerConfig(width=256, depth=1, heads=4, mlp_dim=2048, norm="post", activation="relu", dropout=0.1)


@dataclass(frozen=True)
class Config:
    """Frozen encoders of any number of modalities, one universal projection; `infer` has a function named after each.

    up:        the universal projection: a post-norm block with ReLU; its width is that of the space.
    pair:      the two modalities that a phase aligns.   learns: those of them that are trained; the other is the target, without gradient.
    base:      modalities of the first phase, which share the map of their tokens; each later one has its own.
    log_scale: logarithm of the fixed scale of the logits.
    token:     add the modality token (False is an ablation).   mask_pads: leave padding out of attention and mean (False is the authors' way).
    """

    encoders: tuple[tuple[str, Encoder], ...] = ()
    up: TransformerConfig = UP
    pair: tuple[str, str] = ("image", "text")
    learns: tuple[str, ...] = ("image", "text")
    base: tuple[str, ...] = ("image", "text")
    log_scale: float = 2.5
    token: bool = True
    mask_pads: bool = True
    dtype: str = "float32"

    def check(self) -> None:
        names = {name for name, _ in self.encoders}
        check_fields(self, {
            "pair": ({*self.pair} <= names and len({*self.pair}) == 2, "name two of the encoders"),
            "learns": (bool(self.learns) and {*self.learns} <= {*self.pair}, "name one of the pair, or both"),
            "base": ({*self.base} <= names, "name encoders"),
            "log_scale": (math.isfinite(self.log_scale), "it must be finite"),
        })  # fmt: skip
        if not 2 <= len(self.encoders) == len(names):
            raise ConfigError(f"system.encoders names {[n for n, _ in self.encoders]}: give two or more, each once")
        if any("_" in name for name in names) or "up" in names:
            raise ConfigError("system.encoders: names have no underscore, and none is up")

    def build(self) -> System:
        self.check()
        dtype, width = jnp.dtype(self.dtype), self.up.width
        encoders = {name: e.module(dtype) for name, e in self.encoders}
        align = AlignmentLayer(width, self.up.dropout, self.up.epsilon, dtype)
        token, up = ModalityToken(width, self.up.epsilon), UniversalProjection(self.up, dtype)

        def shared(name: str) -> str:
            return "tokenmap_base" if name in self.base else f"tokenmap_{name}"

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params: Params = {}
            for i, (name, module) in enumerate(encoders.items()):
                keys = jax.random.split(jax.random.fold_in(rng, i), 4)
                params[f"encoder_{name}"] = module.init(keys[0], *inputs(batch, name))["params"]
                tokens, valid = encoded(params, batch, name)
                params[f"head_{name}"] = align.init(keys[1], tokens)["params"]
                params[f"token_{name}"] = {"z": initial_token(keys[2])}
                params.setdefault(shared(name), token.init(keys[3], jnp.zeros((1, 3)))["params"])
                if "up" not in params:
                    h = jnp.zeros((1, tokens.shape[1], width), jnp.float32)
                    params["up"] = up.init(jax.random.fold_in(rng, len(encoders)), h, valid[:1])["params"]
            return params, {}

        def encoded(params: Params, batch: Batch, name: str) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
            _, out = encoders[name].apply({"params": params[f"encoder_{name}"]}, *inputs(batch, name))
            tokens = jax.lax.stop_gradient(out["tokens"])
            valid = (
                out.get("valid", jnp.ones(tokens.shape[:2], bool))
                if self.mask_pads
                else jnp.ones(tokens.shape[:2], bool)
            )
            return tokens, valid

        def projected(
            params: Params, batch: Batch, name: str, rng: PRNGKeyArray | None = None
        ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
            tokens, valid = encoded(params, batch, name)
            keys = [None, None] if rng is None else [{"dropout": k} for k in jax.random.split(rng)]
            h = align.apply({"params": params[f"head_{name}"]}, tokens, rngs=keys[0])
            if self.token:
                h = h + token.apply({"params": params[shared(name)]}, jnp.asarray(params[f"token_{name}"]["z"]))
            return up.apply({"params": params["up"]}, h, valid, rngs=keys[1]), valid

        def embed(params: Params, batch: Batch, name: str, rng: PRNGKeyArray | None = None) -> Float[Array, "B D"]:
            return l2_normalise(mean_pool(*projected(params, batch, name, rng)).astype(jnp.float32))

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            sides = []
            for name, key in zip(self.pair, jax.random.split(rng)):
                trained = name in self.learns
                x = embed(params, batch, name, key if trained and self.up.dropout else None)
                sides.append(x if trained else jax.lax.stop_gradient(x))
            value = symmetric_info_nce(sides[0], sides[1], math.exp(self.log_scale)).mean()
            return value, {"cosine": (sides[0] * sides[1]).sum(-1).mean()}

        infer: dict[str, Any] = {n: lambda params, extras, batch, n=n: embed(params, batch, n) for n in encoders}
        for n in encoders:
            infer[f"{n}_tokens"] = lambda params, extras, batch, n=n: as_tokens(*projected(params, batch, n))
        return System(init, stateless(loss), infer)


def as_tokens(tokens: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> tuple[Array, Array]:
    return tokens.astype(jnp.float32), valid


def initial_token(rng: PRNGKeyArray) -> Float[Array, "1 3"]:
    """z ~ N(0, sigma^2) with sigma ~ U(0.1, 0.6), of three numbers."""
    for_size, for_z = jax.random.split(rng)
    return jax.random.uniform(for_size, (), jnp.float32, 0.1, 0.6) * jax.random.normal(for_z, (1, 3), jnp.float32)


class AlignmentLayer(nn.Module):
    """LN(dropout(W2 gelu(W1 E))): a token of a frozen encoder in the width of the space. Dropout acts where an rng "dropout" is given."""

    width: int
    dropout: float = 0.1
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N E"]:
        x = nn.gelu(nn.Dense(self.width, dtype=self.dtype, name="up")(x), approximate=False)
        x = nn.Dense(self.width, dtype=self.dtype, name="down")(x)
        x = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(x)
        return nn.LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)


class ModalityToken(nn.Module):
    """A modality's three numbers z as a vector of the space: 3 -> 64 -> 128 -> width with ReLU, then LN."""

    width: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, z: Float[Array, "1 3"]) -> Float[Array, "1 E"]:
        z = nn.relu(nn.Dense(64, name="dense0")(z))
        z = nn.relu(nn.Dense(128, name="dense1")(z))
        return nn.LayerNorm(self.epsilon, name="norm")(nn.Dense(self.width, name="dense2")(z))


class UniversalProjection(nn.Module):
    """T(LN(H)) + H: the residual connection skips the norm, too. Padding tokens have no effect on the others."""

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        h = jnp.asarray(h, self.dtype)
        x = nn.LayerNorm(self.config.epsilon, dtype=self.dtype, name="norm")(h)
        return Transformer(self.config, dtype=self.dtype, name="transformer")(x, padding_mask(valid))[0] + h

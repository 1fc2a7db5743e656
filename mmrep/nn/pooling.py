"""From the tokens of an example to one vector."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import Attention
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import l2_normalise
from mmrep.nn.norms import layer_norm, norm_layer
from mmrep.nn.transformer import Mlp
from mmrep.system import Batch, Extras, Infer, Params


def mean_pool(tokens: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """Mean over the valid tokens; zero where there is none."""
    weight = valid.astype(tokens.dtype)[..., None]
    return (tokens * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)


def last_index(valid: Bool[Array, "B N"]) -> Int[Array, " B"]:
    """Index of the last valid token; 0 where there is none."""
    return jnp.max(jnp.where(valid, jnp.arange(valid.shape[1]), 0), axis=1)


def last_pool(tokens: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """The last valid token (EOS of a text); the first where there is none."""
    return jnp.take_along_axis(tokens, last_index(valid)[:, None, None], axis=1)[:, 0]


def layer_tokens(out: Mapping[str, Any]) -> dict[str, Array]:
    """The output of every block or stage from an encoder's `out`, scanned or not."""
    layers = {k: v for k, v in out.items() if k.startswith(("block", "stage")) and k != "blocks"}
    return layers | {f"block{i:02d}": v for i, v in enumerate(out.get("blocks", ()))}


def layer_features(out: Mapping[str, Any]) -> dict[str, Float[Array, "B D"]]:
    """One vector per layer from an encoder's `out`: the mean over (valid) tokens of every block, of "tokens", and "pooled"."""
    layers = layer_tokens(out)
    layers |= {"tokens": out["tokens"]} if "tokens" in out else {}
    valid = out.get("valid")
    found = {}
    for name, x in layers.items():
        x = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
        if valid is None or valid.shape[1] != x.shape[1]:
            found[name] = x.mean(1)
        else:
            kept = valid[..., None]
            found[name] = jnp.where(kept, x, 0.0).sum(1) / jnp.maximum(kept.sum(1), 1)
    return found | ({"pooled": out["pooled"].astype(jnp.float32)} if "pooled" in out else {})


def token_functions(
    name: str, encode: Callable[[Params, Batch], tuple[Float[Array, "B N D"], Mapping[str, Any]]]
) -> dict[str, Infer]:
    """The infer functions of an encoder without padding: its mean token, its tokens and its layers, under the contract's names.

    encode: (params, batch) -> (tokens, the encoder's `out`).
    """

    def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
        x = encode(params, batch)[0]
        return x, jnp.ones(x.shape[:2], bool)

    return {
        name: lambda params, extras, batch: encode(params, batch)[0].mean(1),
        f"{name}_tokens": tokens,
        f"{name}_layers": lambda params, extras, batch: layer_features(encode(params, batch)[1]),
    }


class AttentionPool(nn.Module):
    """One learned query attends to all tokens, then a residual MLP (Zhai et al. 2022, "MAP" head)."""

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], mask: Bool[Array, "#B 1 1 N"] | None = None
    ) -> Float[Array, "B D"]:
        c, (b, _, d) = self.config, tokens.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, d), jnp.float32)
        probe = jnp.broadcast_to(probe, (b, 1, d)).astype(self.dtype)
        x, _ = Attention(c, self.dtype, name="attn")(probe, tokens, mask=mask)
        x = x + Mlp(c.hidden, self.dtype, c.activation, c.bias, name="mlp")(norm_layer(c, self.dtype, "norm")(x))
        return x[:, 0]


class TextConditionedPool(nn.Module):
    """For each pair of a text and a video, the video's frames pooled by the text's attention to them (Gorti et al. 2022, X-Pool, section 3.3).

    r(c|v) = LN(f(a) + a), a = LN(softmax(q k' / sqrt(d)) v) out: one LayerNorm for texts and frames, then queries of the texts, keys and
    values of the frames; all linear maps start as the identity. Frames that are not `valid` are left out; without any the mean is taken.
    dropout: of f(a), where an rng "dropout" is given.   weights_only: returns each head's attention instead.   Raises ConfigError unless `heads` divides the width.
    """

    heads: int = 1
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "T D"],
        frames: Float[Array, "V F D"],
        valid: Bool[Array, "V F"] | None = None,
        weights_only: bool = False,
    ) -> Float[Array, "V T D"] | Float[Array, "V H T F"]:
        weights, v = self._attend(text, frames, valid)
        if weights_only:
            return weights
        pooled = jnp.einsum("vhtf,vfhk->vthk", weights.astype(v.dtype), v).reshape(len(frames), len(text), -1)
        pooled = layer_norm(self.dtype, "norm_attn")(self._linear("out", pooled))
        drop = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        return layer_norm(self.dtype, "norm_out")(pooled + drop(self._linear("linear", pooled)))

    def _attend(self, text: Array, frames: Array, valid: Array | None) -> tuple[Array, Array]:
        width, heads = text.shape[-1], self.heads
        if heads < 1 or width % heads:
            raise ConfigError(f"heads is {heads} and the width is {width}; choose heads that divide the width.")
        norm = layer_norm(self.dtype, "norm_in")
        text, frames = norm(text), norm(frames)
        q = self._linear("query", text).reshape(-1, heads, width // heads)
        k, v = (self._linear(name, frames).reshape(*frames.shape[:2], heads, -1) for name in ("key", "value"))
        logits = jnp.einsum("thk,vfhk->vhtf", q, k, preferred_element_type=jnp.float32) * (width // heads) ** -0.5
        if valid is not None:
            logits = jnp.where(valid[:, None, None], logits, jnp.float32(0.7 * jnp.finfo(jnp.float32).min))
        return jax.nn.softmax(logits, axis=-1), v

    def _linear(self, name: str, x: Array) -> Array:
        init = lambda key, shape, dtype=jnp.float32: jnp.eye(shape[0], shape[1], dtype=dtype)  # noqa: E731
        return nn.Dense(x.shape[-1], kernel_init=init, dtype=self.dtype, name=name)(x)


def conditioned_similarity(
    pool: Callable[[Float[Array, "_ D"]], Float[Array, "V _ D"]], text: Float[Array, "T D"], chunk: int = 0
) -> Float[Array, "T V"]:
    """Cosine of each text and each video's vector for it (X-Pool, equation 4).

    pool:  texts [t, D] -> the videos' vectors for them [V, t, D], such as a TextConditionedPool of the videos' frames.
    chunk: texts at a time, so that memory is V * chunk * D; the backward pass pools again. 0: all at once; it divides T.
    """

    def of(texts: Array) -> Array:
        x, y = l2_normalise(texts.astype(jnp.float32)), l2_normalise(pool(texts).astype(jnp.float32))
        return jnp.einsum("td,vtd->tv", x, y, precision=jax.lax.Precision.HIGHEST)

    if not chunk or chunk >= len(text):
        return of(text)
    if len(text) % chunk:
        raise ConfigError(f"chunk is {chunk} and there are {len(text)} texts; choose a divisor.")
    return jax.lax.map(jax.checkpoint(of), text.reshape(-1, chunk, text.shape[-1])).reshape(len(text), -1)

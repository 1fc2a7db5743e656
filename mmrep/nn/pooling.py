"""From the tokens of an example to one vector."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.nn.attention import Attention
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
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

"""A bidirectional GRU over token ids; 0 is padding."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.pooling import mean_pool


@dataclass(frozen=True)
class GruText:
    """Embeddings of ids in [0, vocab), and one layer of a GRU in each direction.

    width: of the states.   words: of the embeddings; 0: as wide as the states.   dropout: of the embeddings, in training.
    merge: both directions' states averaged ("mean", [B, L, width]) or side by side ("concat", [B, L, 2 width]).
    Raises ConfigError where `merge` is unknown.
    """

    width: int = 64
    vocab: int = 1024
    words: int = 0
    dropout: float = 0.0
    merge: Literal["mean", "concat"] = "mean"

    def __post_init__(self) -> None:
        if self.merge not in ("mean", "concat"):
            raise ConfigError(f"merge is {self.merge!r}; choose 'mean' or 'concat'.")

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "Gru":
        return Gru(self, dtype, name=name)


class Gru(nn.Module):
    """The module of GruText over ids [B,L] of any length; a text ends before its first padding, which has no effect on its tokens.

    Returns (pooled [B,D], out): the mean of the valid states, out["tokens"] [B,L,D], 0 at padding, and out["valid"] [B,L].
    """

    config: GruText
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array | np.ndarray, "B L"]) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c, ids = self.config, jnp.asarray(ids)
        valid = jnp.cumprod(ids > 0, axis=1).astype(bool)
        init = nn.initializers.uniform(0.2)
        x = nn.Embed(
            c.vocab, c.words or c.width, dtype=self.dtype, name="embed", embedding_init=lambda *a: init(*a) - 0.1
        )(ids)
        if c.dropout and self.has_rng("dropout"):
            x = nn.Dropout(c.dropout, deterministic=False)(x)
        forward, backward = (nn.RNN(nn.GRUCell(c.width, dtype=self.dtype, name=n)) for n in ("forward", "backward"))

        def merge(a: Array, b: Array) -> Array:
            return jnp.concatenate([a, b], -1) if c.merge == "concat" else 0.5 * (a + b)

        tokens = nn.Bidirectional(forward, backward, merge_fn=merge, name="gru")(x, seq_lengths=valid.sum(1))
        tokens = jnp.where(valid[..., None], tokens, 0)
        pooled = mean_pool(tokens, valid)
        return pooled, {"tokens": tokens, "valid": valid, "pooled": pooled}

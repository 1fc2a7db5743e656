"""MultiMAE's modules, and the whole model over nested dicts of parameters."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.masking import budgets
from mmrep.nn.adapters import place, take
from mmrep.nn.attention import Attention
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality
from mmrep.nn.norms import norm_layer
from mmrep.nn.positions import grid_positions
from mmrep.nn.transformer import Block, Mlp
from mmrep.system import Batch, Params


class GlobalTokens(nn.Module):
    """Appends `count` learned tokens."""

    count: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B _ D"]:
        shape = (self.count, tokens.shape[-1])
        rows = self.param("tokens", nn.initializers.truncated_normal(0.02), shape, jnp.float32).astype(self.dtype)
        return jnp.concatenate([tokens, jnp.broadcast_to(rows, (tokens.shape[0], *shape))], axis=1)


class TaskDecoder(nn.Module):
    """One task's decoder (MultiMAE, section 3.3): [B, N_t, values of a patch] from the encoder's visible tokens.

    One query per patch of the task: the encoder's output where the patch was visible, a mask token elsewhere. The queries attend once to all
    visible tokens, without a residual, so a masked query depends only on its context; `depth` blocks of self-attention follow.

    maps: number of input modalities.   own: index of this task's modality among them; None where it is no input.
    own_modality_only: the queries attend to tokens of their own modality alone (an ablation).
    """

    config: TransformerConfig
    values: int
    maps: int
    own: int | None
    grid: tuple[int, int]
    dtype: Any = jnp.float32
    base: float = 10_000.0
    own_modality_only: bool = False

    @nn.compact
    def __call__(
        self, encoded: Float[Array, "B W D"], ids_keep: Int[Array, "B V"], ids_restore: Int[Array, "B N"], order: tuple
    ) -> Float[Array, "B M P"]:
        """encoded: the V visible tokens, then the global ones.   order: indices of the modalities in this batch's row of tokens."""
        c, (b, v) = self.config, ids_keep.shape
        n = self.grid[0] * self.grid[1]
        if ids_restore.shape[1] != n * len(order):
            raise ConfigError(
                f"{ids_restore.shape[1]} tokens of {len(order)} maps do not fit grid {self.grid}: give all one grid"
            )
        dense = nn.Dense(c.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="context")
        context = dense(encoded.reshape(-1, encoded.shape[-1])).reshape(b, -1, c.width)
        tokens, extra = context[:, :v], context[:, v:]
        fill = self.param("mask_token", nn.initializers.zeros_init(), (c.width,), jnp.float32).astype(self.dtype)
        kinds = self.param("map", nn.initializers.truncated_normal(0.02), (self.maps, c.width), jnp.float32)
        kinds = kinds.astype(self.dtype)
        positions = grid_positions(*self.grid, c.width, self.base).astype(self.dtype)
        kind = jnp.asarray(order)[ids_keep // n]
        # A product with one-hot rows: the gradient of a look-up is a scatter, many times slower on a CPU.
        where = positions[ids_keep % n] + jax.nn.one_hot(kind, self.maps, dtype=self.dtype) @ kinds
        if self.own in order:
            start = order.index(self.own) * n
            queries = place(tokens, jnp.asarray(fill), ids_keep, ids_restore[:, start : start + n], jnp.int32(start))
        else:
            queries = jnp.broadcast_to(fill, (b, n, c.width))
        queries = queries + (positions if self.own is None else positions + kinds[self.own])
        context = jnp.concatenate([tokens + where, extra], axis=1)
        mask = None
        if self.own_modality_only:
            seen = jnp.concatenate([kind == self.own, jnp.ones((b, extra.shape[1]), bool)], axis=1)
            mask = seen[:, None, None, :]
        norm = partial(norm_layer, c, self.dtype)
        attend = Attention(c, self.dtype, name="cross")
        x, _ = attend(norm("norm_query")(queries), norm("norm_context")(context), mask=mask)
        x = x + Mlp(c.hidden, self.dtype, c.activation, c.bias, name="mlp")(norm("norm_out")(x))
        for i in range(c.depth):
            x, _ = Block(c, dtype=self.dtype, name=f"block{i:02d}")(x)
        out = nn.Dense(self.values, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="out")
        return out(x.reshape(-1, c.width)).reshape(b, n, self.values)


class MultiMaeModel(NamedTuple):
    """maps: the inputs, in the order of their tokens.   modules: "in_<map>", "global", "encoder", and "out_<output>" for each decoder."""

    maps: tuple[DenseModality, ...]
    outputs: dict[str, DenseModality]
    modules: dict[str, Any]

    @property
    def places(self) -> int:
        """Patches of a map."""
        return self.maps[0].grid[0] * self.maps[0].grid[1]

    def apply(self, params: Params, name: str, *inputs: Any, rngs: Any = None) -> Any:
        return self.modules[name].apply({"params": params[name]}, *inputs, rngs=rngs)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Params:
        values = {m.name: m.standard(batch[m.name]) for m in self.maps}
        b, n = len(values[self.maps[0].name]), self.places * len(self.maps)
        width = self.modules["encoder"].config.width
        visible = budgets.all_visible(b, [self.places] * len(self.maps))
        tokens = jnp.zeros((b, n, width), jnp.float32)
        encoded = jnp.zeros((b, n + self.modules["global"].count, width), jnp.float32)
        inputs: dict[str, tuple] = {"encoder": (encoded,), "global": (tokens,)}
        inputs |= {f"in_{k}": (x,) for k, x in values.items()}
        decoding = (encoded, *visible, tuple(range(len(self.maps))))
        keys = jax.random.split(rng, len(self.modules))
        return {k: m.init(key, *inputs.get(k, decoding))["params"] for key, (k, m) in zip(keys, self.modules.items())}

    def encode(
        self,
        params: Params,
        values: Mapping[str, Array],
        visible: budgets.Visible | None,
        drop: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B W D"], dict[str, Any], budgets.Visible]:
        """(visible tokens then global ones, the encoder's `out`, the visible tokens).

        values: standardised maps, of which some may be absent.   visible: None for all tokens.   drop: a key for stochastic depth.
        """
        names, n = [m.name for m in self.maps if m.name in values], self.places
        if not names:
            raise ConfigError(f"the batch has no map: give at least one of {', '.join(m.name for m in self.maps)}")
        chosen = budgets.all_visible(len(values[names[0]]), [n] * len(names)) if visible is None else visible
        if chosen.ids_keep.shape[1] < n:
            # Few are visible: to embed them for every map and select is cheaper than to embed all that is hidden.
            at = [jnp.clip(chosen.ids_keep - i * n, 0, n - 1) for i in range(len(names))]
            each = [self.apply(params, f"in_{k}", values[k], places) for k, places in zip(names, at)]
            own = [(chosen.ids_keep // n == i)[..., None] for i in range(len(names))]
            tokens = jnp.asarray(sum(jnp.where(mine, x, 0) for mine, x in zip(own, each)))
        else:
            tokens = jnp.concatenate([self.apply(params, f"in_{k}", values[k]) for k in names], axis=1)
            tokens = tokens if visible is None else take(tokens, chosen.ids_keep)
        rngs = None if drop is None else {"drop": drop}
        encoded, out = self.apply(params, "encoder", self.apply(params, "global", tokens), rngs=rngs)
        return encoded, out, chosen

    def decode(
        self, params: Params, encoded: Float[Array, "B W D"], visible: budgets.Visible, values: Mapping[str, Array]
    ) -> dict[str, Float[Array, "B N _"]]:
        """Each output's patches; `values` are the maps that were encoded."""
        order = tuple(i for i, m in enumerate(self.maps) if m.name in values)
        return {k: self.apply(params, f"out_{k}", encoded, *visible, order) for k in self.outputs}

"""Transformer blocks and stacks, with or without cross-attention, looped or scanned."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

from mmrep.errors import ConfigError, near
from mmrep.nn.attention import Attention
from mmrep.nn.placement import by_rows

EPSILON = 1e-5  # of every LayerNorm, as in CLIP


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Phi(x), exact (Hendrycks and Gimpel 2016): the numbers of `nn.gelu(x, approximate=False)`."""
    return nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    x32 = x.astype(jnp.float32)
    phi = 0.5 * (1 + jax.lax.erf(x32 * 0.5**0.5))
    slope = phi + x32 * jnp.exp(-0.5 * x32 * x32) * (2 * jnp.pi) ** -0.5
    # The slope is kept for the backward pass in place of x. Left alone, XLA computes erf and exp again there, for each use.
    y, slope = jax.lax.optimization_barrier(((x32 * phi).astype(x.dtype), slope.astype(x.dtype)))
    return y, slope * t


ACTIVATIONS: dict[str, Any] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


def layer_norm(dtype: Any, name: str, epsilon: float = EPSILON, use_bias: bool = True) -> nn.LayerNorm:
    """LayerNorm with statistics in float32, whatever `dtype` goes in and out."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_bias=use_bias, name=name)


class Mlp(nn.Module):
    """Dense, activation ("gelu" exact, "gelu_tanh", "quick_gelu"), Dense back to the width that came in.

    "swiglu": SiLU(up(x)) * gate(x) (Shazeer 2020), with two thirds of `hidden`, so that the three products cost what two do.
    """

    hidden: int
    dtype: Any = jnp.float32
    activation: str = "gelu"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        gated = self.activation == "swiglu"
        if not gated and self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"activation {self.activation!r} is unknown{near(self.activation, [*ACTIVATIONS, 'swiglu'])}"
            )
        settings = {"use_bias": self.use_bias, "dtype": self.dtype, "kernel_init": nn.initializers.xavier_uniform()}
        hidden = 2 * self.hidden // 3 if gated else self.hidden
        # One axis for all tokens: see `flat_dense`.
        flat = x.reshape(-1, x.shape[-1])
        y = nn.Dense(hidden, **settings, name="up")(flat)
        y = nn.silu(y) * nn.Dense(hidden, **settings, name="gate")(flat) if gated else ACTIVATIONS[self.activation](y)
        y = nn.Dense(x.shape[-1], **settings, name="down")(y)
        return y.reshape(x.shape)


def take_rows(mask: Shaped[Array, "_ H N M"] | None, at: Int[Array, " B"]) -> Shaped[Array, "_ H 1 M"] | None:
    """The rows of a mask (or a bias) for the queries `at`, one an example."""
    if mask is None or mask.shape[2] == 1:
        return mask
    mask = jnp.broadcast_to(mask, (at.shape[0], *mask.shape[1:]))
    return jnp.take_along_axis(mask, at[:, None, None, None], axis=2)


class Block(nn.Module):
    """Self-attention, with `cross` cross-attention to `context`, then an MLP, each with a residual.

    norm="pre" normalises what goes into each part (Xiong et al. 2020), "post" the sum behind it (BERT).
    `at` [B] asks for one token of each example alone: [B,1,D], the same numbers as that row of the whole, for far less work.
    `bias` and `context_bias` are added to the logits of self- and cross-attention. `norm_context` sends the context through the LayerNorm
    of the cross-attention's queries too (CROMA), "own" through one of its own (4M). `use_bias` False leaves out every bias (4M).
    `mask` is over the N tokens themselves, or over all K that Attention remembers of earlier calls.
    `drop`: how likely each part is left out for an example, all its tokens at once, where an rng "drop" is given (stochastic depth,
    Huang et al. 2016); what stays counts 1 / (1 - drop) times.
    """

    heads: int
    mlp_ratio: float = 4.0
    cross: bool = False
    norm: str = "pre"
    dtype: Any = jnp.float32
    activation: str = "gelu"
    implementation: str | None = None
    epsilon: float = EPSILON
    norm_context: bool | str = False
    use_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "#B #H #N #K"] | None = None,
        context: Float[Array, "B M E"] | None = None,
        context_mask: Bool[Array, "#B #H #N #M"] | None = None,
        at: Int[Array, " B"] | None = None,
        bias: Float[Array, "#B #H #N #N"] | None = None,
        context_bias: Float[Array, "#B #H #N #M"] | None = None,
        drop: float | Float[Array, ""] | None = None,
    ) -> Float[Array, "B _ D"]:
        if self.norm not in ("pre", "post"):
            raise ConfigError(f"norm is {self.norm!r}; choose 'pre' or 'post'.")
        if self.cross != (context is not None):
            raise ConfigError(
                "cross=True needs a context to attend to." if self.cross else "A context was given; set cross=True."
            )
        attention = {
            "heads": self.heads,
            "dtype": self.dtype,
            "implementation": self.implementation,
            "use_bias": self.use_bias,
        }
        rows = (lambda y: y) if at is None else (lambda y: jnp.take_along_axis(y, at[:, None, None], axis=1))
        if at is not None:
            mask, context_mask, bias, context_bias = (
                take_rows(m, at) for m in (mask, context_mask, bias, context_bias)
            )
        parts = [
            ("attn", lambda y: Attention(**attention, name="attn")(rows(y), None if at is None else y, mask, bias))
        ]
        if self.cross:

            def cross(y: Array) -> Array:
                own = self.norm_context == "own"
                read = norms["context" if own else "cross"](context) if self.norm_context else context
                return Attention(**attention, name="cross")(y, read, context_mask, context_bias)

            parts.append(("cross", cross))
        hidden = int(x.shape[-1] * self.mlp_ratio)
        parts.append(("mlp", lambda y: Mlp(hidden, self.dtype, self.activation, self.use_bias, name="mlp")(y)))
        names = [name for name, _ in parts] + ["context"] * (self.cross and self.norm_context == "own")
        norms = {name: layer_norm(self.dtype, f"norm_{name}", self.epsilon, self.use_bias) for name in names}

        def kept(y: Array) -> Array:
            if drop is None or not self.has_rng("drop"):
                return y
            stays = jax.random.bernoulli(self.make_rng("drop"), 1 - drop, (len(y), 1, 1))
            return y * by_rows((stays / (1 - drop)).astype(y.dtype))

        x = by_rows(x)
        for name, part in parts:
            norm = norms[name]
            residual = rows(x) if name == "attn" else x
            x = by_rows(residual + kept(part(norm(x))) if self.norm == "pre" else norm(residual + kept(part(x))))
        return x


class Transformer(nn.Module):
    """`depth` Blocks; with norm="pre" a final LayerNorm follows, unless `final_norm` is off.

    Returns (y, out): y is the final (normed) [B,N,D], out holds it as "tokens" and every block's output as "block00", "block01", ...,
    or with `scan` as "blocks" [depth,B,N,D]. `scan` compiles one block whatever the depth and keeps parameters stacked under
    "blocks" (see `stack_blocks`); `remat` recomputes a block's inside in the backward pass instead of keeping it.
    `bias`, `context_bias`, `norm_context` and `use_bias` as in Block.
    `drop_path`: the last block's `drop`, the first one's is 0 and it rises evenly between; it acts where an rng "drop" is given.
    `at` [B] asks for one token of each example: y is [B,1,D] and the last block works for it alone; out has neither "tokens" nor that block.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    cross: bool = False
    norm: str = "pre"
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    activation: str = "gelu"
    implementation: str | None = None
    epsilon: float = EPSILON
    final_norm: bool = True
    norm_context: bool | str = False
    use_bias: bool = True
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "#B #H #N #K"] | None = None,
        context: Float[Array, "B M E"] | None = None,
        context_mask: Bool[Array, "#B #H #N #M"] | None = None,
        at: Int[Array, " B"] | None = None,
        bias: Float[Array, "#B #H #N #N"] | None = None,
        context_bias: Float[Array, "#B #H #N #M"] | None = None,
    ) -> tuple[Float[Array, "B _ D"], dict[str, Array]]:
        if self.scan and at is not None:
            raise ConfigError("pooled_only (or `at`) treats the last block apart, which a scan cannot; set scan=False.")
        if self.depth < 1:
            raise ConfigError(f"depth is {self.depth}; it must be at least 1.")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path is {self.drop_path}; it lies in [0, 1).")
        drops = np.linspace(0, self.drop_path, self.depth).astype(np.float32) if self.drop_path else None
        settings = {
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "cross": self.cross,
            "norm": self.norm,
            "dtype": self.dtype,
            "activation": self.activation,
            "implementation": self.implementation,
            "epsilon": self.epsilon,
            "norm_context": self.norm_context,
            "use_bias": self.use_bias,
        }
        block = nn.remat(Block, prevent_cse=not self.scan) if self.remat else Block
        x = x.astype(self.dtype)
        out: dict[str, Array] = {}
        if self.scan:

            def layer(module, x, drop, *rest):
                y = module(x, *rest, drop)
                return y, y

            layers = nn.scan(
                layer,
                variable_axes={"params": 0, "cache": 0},
                split_rngs={"params": True, "drop": True},
                in_axes=(nn.broadcast if drops is None else 0, *[nn.broadcast] * 6),
                length=self.depth,
            )
            scanned = None if drops is None else jnp.asarray(drops)
            x, out["blocks"] = layers(
                block(**settings, name="blocks"), x, scanned, mask, context, context_mask, None, bias, context_bias
            )
        else:
            for i in range(self.depth):
                here = at if i == self.depth - 1 else None
                drop = None if drops is None else float(drops[i])
                x = block(**settings, name=f"block{i:02d}")(
                    x, mask, context, context_mask, here, bias, context_bias, drop
                )
                out[f"block{i:02d}"] = x
        if self.norm == "pre" and self.final_norm:
            x = layer_norm(self.dtype, "norm", self.epsilon, self.use_bias)(x)
        if at is None:
            out["tokens"] = x
        else:
            del out[f"block{self.depth - 1:02d}"]
        return x, out


_BLOCK = re.compile(r"block\d+")


def stack_blocks(params: dict) -> dict:
    """Parameters of looped Transformers (block00, block01, ...) as those of scanned ones (blocks, stacked), at any depth of the tree."""
    params = {name: stack_blocks(sub) if isinstance(sub, dict) else sub for name, sub in params.items()}
    names = sorted((name for name in params if _BLOCK.fullmatch(name)), key=lambda name: int(name[5:]))
    if names:
        layers = [params.pop(name) for name in names]
        params["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return params


def unstack_blocks(params: dict) -> dict:
    """The inverse of `stack_blocks`."""
    params = {name: unstack_blocks(sub) if isinstance(sub, dict) else sub for name, sub in params.items()}
    if "blocks" in params:
        stacked = params.pop("blocks")
        for i in range(jax.tree.leaves(stacked)[0].shape[0]):
            params[f"block{i:02d}"] = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
    return params

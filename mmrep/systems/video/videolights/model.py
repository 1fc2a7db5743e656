"""VideoLights' modules: refinement of clips by the words, two-way fusion, the span decoder, highlights from the best moment."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import l2_normalise
from mmrep.nn.norms import layer_norm
from mmrep.nn.set_prediction import Attend, Dropped
from mmrep.nn.transformer import Mlp

HIDDEN = 0.7 * float(np.finfo(np.float32).min)


class Inputs(nn.Module):
    """LayerNorm, dropout, a linear map and ReLU, then the same without ReLU."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "B N E"]) -> Float[Array, "B N D"]:
        for i in range(2):
            x = Dropped(self.dropout)(layer_norm(jnp.float32, f"norm{i}")(x))
            x = nn.Dense(self.width, kernel_init=nn.initializers.xavier_uniform(), name=f"dense{i}")(x)
            x = nn.relu(x) if i == 0 else x
        return x


class WeightedPool(nn.Module):
    """Mean of the valid tokens, weighted by the softmax of a learned linear score."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
        w = self.param("weight", nn.initializers.xavier_uniform(), (x.shape[-1], 1), jnp.float32)
        return jnp.einsum("bn,bnd->bd", jax.nn.softmax(jnp.where(valid, (x @ w)[..., 0], HIDDEN), 1), x)


class Refinement(nn.Module):
    """FRA: ReLU of a linear map of [clip; its cosine with the sentence times w_s; sentence; the clip's mixture of words].

    R is the softmax over the words of <q_w, v_c>. words: the mixture is R' q; without it the released code's R' (g u) = g u, a constant,
    since the columns of R sum to 1. Padded words are left out of R, and padded clips have cosine 0.
    """

    words: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, v: Float[Array, "B T D"], q: Float[Array, "B L D"], v_valid: Bool[Array, "B T"], q_valid: Bool[Array, "B L"],
    ) -> Float[Array, "B T D"]:  # fmt: skip
        d, init, drop = v.shape[-1], nn.initializers.xavier_uniform(), Dropped(self.dropout)
        sentence = WeightedPool(name="pool")(q, q_valid)[:, None]
        cosine = (l2_normalise(v) * l2_normalise(sentence)).sum(-1, keepdims=True)
        similar = jnp.where(v_valid[..., None], cosine, 0.0) * self.param("w_s", init, (d, 1), jnp.float32)[:, 0]
        if self.words:
            r = jax.nn.softmax(jnp.where(q_valid[:, None], jnp.einsum("btd,bld->btl", v, q), HIDDEN), axis=-1)
            mixture = r @ q
        else:
            g, u = (self.param(name, init, shape, jnp.float32) for name, shape in (("g", (1, 1)), ("u", (1, d))))
            mixture = jnp.broadcast_to(g * u, v.shape)
        x = [drop(v), drop(similar), drop(jnp.broadcast_to(sentence, v.shape)), drop(mixture)]
        return drop(nn.relu(nn.Dense(d, kernel_init=init, name="mixer")(jnp.concatenate(x, -1))))


class BiCMF(nn.Module):
    """Clips attend to words, words to the clips, and the clips to these words again; the words themselves are not returned.

    v2 + FFN(v2) is normed; the released code adds FFN(v2) to itself, which is `literal`. two_way: False is an ablation: v2 = v1.
    """

    config: TransformerConfig
    two_way: bool = True
    literal: bool = False

    @nn.compact
    def __call__(
        self, v: Float[Array, "B T D"], t: Float[Array, "B L D"], v_at: Float[Array, "B T D"],
        v_valid: Bool[Array, "B T"], t_valid: Bool[Array, "B L"],
    ) -> Float[Array, "B T D"]:  # fmt: skip
        c, (to_v, to_t) = self.config, (x[:, None, None, :] for x in (v_valid, t_valid))
        drop, norm = Dropped(c.dropout), lambda i, x: layer_norm(jnp.float32, f"norm{i}")(x)
        part = lambda i, *inputs: nn.Dense(c.width, name=f"linear{i}")(drop(Attend(c.heads, name=f"cross{i}")(*inputs)))  # noqa: E731
        v1 = norm(1, v + part(1, v + v_at, t, t, to_t))
        v2 = v1
        if self.two_way:
            t1 = t + part(2, t, v + v_at, v, to_v)
            v2 = norm(3, v1 + part(3, v1, t1, t1, to_t))
        f = Mlp(c.hidden, activation="relu", name="mlp")(v2)
        return norm(4, (f if self.literal else v2) + drop(f))


class EncoderLayer(nn.Module):
    """A post-norm layer whose queries and keys have positions, as in DETR."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], at: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Array:
        c, drop = self.config, Dropped(self.config.dropout)
        y = Attend(c.heads, name="attn")(x + at, x + at, x, valid[:, None, None])
        x = layer_norm(jnp.float32, "norm1")(x + drop(y))
        return layer_norm(jnp.float32, "norm2")(x + drop(Mlp(c.hidden, activation="relu", name="mlp")(x)))

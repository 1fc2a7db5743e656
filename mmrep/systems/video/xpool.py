"""X-Pool: a video's frames are pooled by the attention of the text that it is compared with (Gorti et al., CVPR 2022).

X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval, arXiv 2203.15086.

Section 3.3, equation 3, r(c|v)                               mmrep.nn.pooling.TextConditionedPool
Section 3.3, equation 4, s(t, v)                              mmrep.nn.pooling.conditioned_similarity
Section 3.4, equations 5 and 6, loss of both directions       mmrep.losses.contrastive.symmetric_info_nce_of_logits
Section 3.1, mean pooling                                     Config.pool "mean"
Section 3.2, top-k pooling                                    top_pool, Config.pool "top"
Ablations: the pool with a learned query; self-attention      Config.pool "constant", "self"

Pairs whose text is known to be true of the other clip are left out of the loss (`told`, `shown`); the authors mark none. The scale is
capped as in `mmrep.nn.heads.cap`, which keeps the gradient that leads back; the authors clamp it after each step.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import symmetric_info_nce_of_logits, true_of
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import CodesEncoder, OverFrames
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import TextConditionedPool, conditioned_similarity, mean_pool
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless

POOLS = ("text", "mean", "top", "constant", "self")


@dataclass(frozen=True)
class Config:
    """video:   encoder of the frames; X-Pool's frames do not attend to one another.
    pool:    "text" is X-Pool.   "mean": of the unit frames.   "top": the sum of the `top` unit frames most similar to the text.
             "constant": X-Pool's block with a learned query in place of the text.   "self": a self-attention layer, then the mean.
    heads, dropout: of the block.   chunk: texts pooled at a time, so that memory is chunk x videos; 0: all.
    temperature: at the start, learned, at least 0.01.
    Batches may have `told` and `shown` (see `mmrep.losses.contrastive.true_of`).
    """

    video: Encoder = CodesEncoder()
    text: TextEncoder = TextEncoder(causal=True, pool="eos")
    dim: int = 64
    pool: Literal["text", "mean", "top", "constant", "self"] = "text"
    top: int = 3
    heads: int = 1
    dropout: float = 0.0
    chunk: int = 0
    temperature: float = 0.07
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "pool": (self.pool in POOLS, f"choose {', '.join(POOLS)}"),
            "top": (self.top >= 1, "it must be at least 1"),
            "heads": (self.heads >= 1 and self.dim % self.heads == 0, "choose heads that divide dim"),
            "dropout": (0 <= self.dropout < 1, "it must be in [0, 1)"),
            "chunk": (self.chunk >= 0, "it must be at least 0"),
            "temperature": (self.temperature > 0, "it must be positive"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            {"video": self.video, "text": self.text}, self.dim, scale=1 / self.temperature, normalise=False, tokens=True,
            dtype=self.dtype,
        )  # fmt: skip
        block = _block(self)

        def frames_of(params: Params, batch: Batch) -> tuple[Float[Array, "V F D"], Bool[Array, "V F"]]:
            out = model.full(params, batch, "video")[1]
            return out["projected"], out["frames_valid"]

        def text_of(params: Params, batch: Batch) -> Float[Array, "T D"]:
            return model.embed(params, batch, "text")

        def compare(
            params: Params, text: Array, frames: Array, valid: Array, rng: PRNGKeyArray | None = None
        ) -> Float[Array, "T V"]:
            if self.pool == "top":
                pool = lambda t: top_pool(t, frames, valid, self.top)  # noqa: E731
                return conditioned_similarity(pool, text, self.chunk)
            if block is None:
                return l2_normalise(text) @ l2_normalise(mean_pool(l2_normalise(frames), valid)).T
            rngs = None if rng is None or not self.dropout else {"dropout": rng}
            apply = partial(block.apply, {"params": params["pool"]}, rngs=rngs)
            if self.pool == "text":
                return conditioned_similarity(lambda t: apply(t, frames, valid), text, self.chunk)
            pooled = apply(frames, valid)[0] if self.pool == "self" else apply(params["query"], frames, valid)[:, 0]
            return l2_normalise(text) @ l2_normalise(pooled).T

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params = model.init(rng, batch)
            rng = jax.random.fold_in(rng, 1)
            frames, valid = jnp.zeros((1, 1, self.dim)), jnp.ones((1, 1), bool)
            if self.pool == "constant":
                params["query"] = jax.random.normal(jax.random.fold_in(rng, 1), (1, self.dim), jnp.float32)
            if block is not None:
                # The self-attention layer has a position for each frame.
                steps = jax.eval_shape(frames_of, params, batch)[0].shape[1]
                frames, valid = jnp.zeros((1, steps, self.dim)), jnp.ones((1, steps), bool)
                given = (frames, valid) if self.pool == "self" else (jnp.zeros((1, self.dim)), frames, valid)
                params["pool"] = block.init(rng, *given)["params"]
            return params, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            found = compare(params, text_of(params, batch), *frames_of(params, batch), rng)
            known = true_of(batch["told"], batch["shown"]) if {"told", "shown"} <= {*batch} else None
            scale = model.scale(params)
            value = symmetric_info_nce_of_logits(scale * found, scale * found.T, true=known)
            return value.mean(), {"scale": scale, "cosine": jnp.diagonal(found).mean()}

        def score(params: Params, extras: Extras, batch: Batch) -> Float[Array, " n"]:
            one = lambda t, f, v: compare(params, t[:1], f[None], v[None])[0, 0]  # noqa: E731
            return jax.vmap(one)(batch["text_tokens"], batch["video_tokens"], batch["video_valid"])

        def video(params: Params, extras: Extras, batch: Batch) -> Float[Array, "V D"]:
            frames, valid = frames_of(params, batch)
            return l2_normalise(mean_pool(l2_normalise(frames), valid))

        def text_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            text = text_of(params, batch)[:, None]
            return text, jnp.ones(text.shape[:2], bool)

        def attention(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B F"]:
            frames, valid = frames_of(params, batch)
            text = text_of(params, batch) if self.pool == "text" else jnp.repeat(params["query"], len(frames), 0)

            def weights(t: Array, f: Array, v: Array) -> Array:
                assert block is not None
                return block.apply({"params": params["pool"]}, t[None], f[None], v[None], True)

            return jax.vmap(weights)(text, frames, valid)[:, 0].mean(1)[:, 0]

        infer = {
            "video": video,
            "text": lambda params, extras, batch: l2_normalise(text_of(params, batch)),
            "video_tokens": lambda params, extras, batch: frames_of(params, batch),
            "text_tokens": text_tokens,
            "score": score,
        } | ({"attention": attention} if self.pool in ("text", "constant") else {})
        return System(init, stateless(loss), infer)


def _block(config: Config) -> nn.Module | None:
    """The parameters of pooling: X-Pool's block, or a layer of self-attention; None where there are none."""
    dtype = jnp.dtype(config.dtype)
    if config.pool == "self":
        return OverFrames(TransformerConfig(config.dim, depth=1, heads=config.heads), "mean", dtype)
    return TextConditionedPool(config.heads, config.dropout, dtype) if config.pool in ("text", "constant") else None


def top_pool(
    text: Float[Array, "T D"], frames: Float[Array, "V F D"], valid: Bool[Array, "V F"], top: int
) -> Float[Array, "V T D"]:
    """The sum of the `top` unit frames of a video most similar to the text (X-Pool, section 3.2)."""
    text, frames = l2_normalise(text), l2_normalise(frames)
    similar = jnp.where(valid[..., None], jnp.einsum("vfd,td->vft", frames, text), -jnp.inf)
    least = jax.lax.top_k(similar.swapaxes(1, 2), min(top, frames.shape[1]))[0][..., -1]
    chosen = (similar >= least[:, None]) & valid[..., None]
    return jnp.einsum("vft,vfd->vtd", chosen.astype(frames.dtype), frames)

"""TEFAL: a text attends to the frames of a video and to its sound, each by a pool of its own (Ibrahimi et al., ICCV 2023).

Audio-Enhanced Text-to-Video Retrieval using Text-Conditioned Feature Alignment, arXiv 2307.12964. No code was published.

Section 3.2, text-conditioned frames, z_v                      mmrep.nn.pooling.TextConditionedPool ("pool")
Section 3.2, text-conditioned audio, z_a                       mmrep.nn.pooling.TextConditionedPool ("sound_pool")
Section 3.3, s(t, v) = cos(t, z_v + z_a)                       fused, mmrep.nn.pooling.conditioned_similarity
Section 3.3, loss of both directions                           mmrep.losses.contrastive.info_nce
Table 4, rivals: mean audio, joint attention, audio first      Config.fusion

Ours: clips without sound (no valid audio token, or 0 `sounds` in the batch) have z_a = 0; the paper gives them zero tokens.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import symmetric_info_nce_of_logits, true_of
from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import CodesEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.norms import layer_norm
from mmrep.nn.pooling import TextConditionedPool, conditioned_similarity, mean_pool
from mmrep.nn.transformer import Block
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless

FUSIONS = ("separate", "mean", "constant", "joint", "first", "none")


@dataclass(frozen=True)
class Config:
    """video, sound: encoders of frames and of sound; their tokens are attended to.
    fusion: "separate" is TEFAL.   "mean": the mean audio token, normed, is added to z_v.   "constant": the audio pool has a learned query.
            "joint": one pool over frames and audio tokens together.   "first": frames and audio attend to each other, then one pool over
            the frames (ECLIPSE's order).   "none": frames alone (X-Pool).
    heads, dropout: of the pools.   chunk: texts pooled at a time; 0: all.   temperature: at the start, learned, at least 0.01.
    Batches may have `told` and `shown` (see `mmrep.losses.contrastive.true_of`), and `sounds`, 0 where the clip has no sound.
    """

    video: Encoder = CodesEncoder()
    sound: Encoder = CodesEncoder()
    text: TextEncoder = TextEncoder(causal=True, pool="eos")
    dim: int = 64
    fusion: Literal["separate", "mean", "constant", "joint", "first", "none"] = "separate"
    heads: int = 1
    dropout: float = 0.0
    chunk: int = 0
    temperature: float = 0.07
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "fusion": (self.fusion in FUSIONS, f"choose {', '.join(FUSIONS)}"),
            "heads": (self.heads >= 1 and self.dim % self.heads == 0, "choose heads that divide dim"),
            "dropout": (0 <= self.dropout < 1, "it must be in [0, 1)"),
            "chunk": (self.chunk >= 0, "it must be at least 0"),
            "temperature": (self.temperature > 0, "it must be positive"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            {"video": self.video, "sound": self.sound, "text": self.text}, self.dim, scale=1 / self.temperature,
            normalise=False, tokens=True, dtype=self.dtype,
        )  # fmt: skip
        fusion = Fusion(self.fusion, self.dim, self.heads, self.dropout, jnp.dtype(self.dtype))

        def tokens_of(params: Params, batch: Batch, name: str) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
            out = model.full(params, batch, name)[1]
            valid = out.get("frames_valid", out["valid"])
            return out["projected"], valid & (batch["sounds"] > 0)[
                :, None
            ] if name == "sound" and "sounds" in batch else valid

        def compare(params: Params, text: Array, *clips: Array, rng: PRNGKeyArray | None = None) -> Float[Array, "T V"]:
            rngs = None if rng is None or not self.dropout else {"dropout": rng}
            pool = lambda t: fusion.apply({"params": params["fusion"]}, t, *clips, rngs=rngs)  # noqa: E731
            return conditioned_similarity(pool, text, self.chunk)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            row = jnp.zeros((1, 1, self.dim)), jnp.ones((1, 1), bool)
            fused = fusion.init(jax.random.fold_in(rng, 1), row[0][0], *row, *row)["params"]
            return model.init(rng, batch) | {"fusion": fused}, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            clips = *tokens_of(params, batch, "video"), *tokens_of(params, batch, "sound")
            found = compare(params, model.embed(params, batch, "text"), *clips, rng=rng)
            known = true_of(batch["told"], batch["shown"]) if {"told", "shown"} <= {*batch} else None
            scale = model.scale(params)
            value = symmetric_info_nce_of_logits(scale * found, scale * found.T, true=known)
            return value.mean(), {"scale": scale, "cosine": jnp.diagonal(found).mean()}

        def video_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            sides = tokens_of(params, batch, "video"), tokens_of(params, batch, "sound")
            marked = [jnp.pad(x, ((0, 0), (0, 0), (0, 1)), constant_values=i) for i, (x, _) in enumerate(sides)]
            return jnp.concatenate(marked, axis=1), jnp.concatenate([valid for _, valid in sides], axis=1)

        def score(params: Params, extras: Extras, batch: Batch) -> Float[Array, " n"]:
            def one(t: Array, tokens: Array, valid: Array) -> Array:
                x, heard = tokens[None, :, :-1], tokens[None, :, -1] > 0
                return compare(params, t[:1], x, valid[None] & ~heard, x, valid[None] & heard)[0, 0]

            return jax.vmap(one)(batch["text_tokens"], batch["video_tokens"], batch["video_valid"])

        def mean_of(name: str) -> Infer:
            return lambda params, extras, batch: l2_normalise(mean_pool(*tokens_of(params, batch, name)))

        def text_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            text = model.embed(params, batch, "text")[:, None]
            return text, jnp.ones(text.shape[:2], bool)

        def attention_to(name: str, pool: str) -> Infer:
            """The attention that a clip's own text pays to its frames or to the parts of its sound, the mean over heads."""
            weights = TextConditionedPool(self.heads, dtype=jnp.dtype(self.dtype))

            def attention(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B N"]:
                def one(text: Array, x: Array, valid: Array) -> Array:
                    found = weights.apply({"params": params["fusion"][pool]}, text[None], x[None], valid[None], True)
                    return jnp.asarray(found)[0].mean(0)[0]

                return jax.vmap(one)(model.embed(params, batch, "text"), *tokens_of(params, batch, name))

            return attention

        infer = {
            "video": mean_of("video"),
            "sound": mean_of("sound"),
            "text": lambda params, extras, batch: l2_normalise(model.embed(params, batch, "text")),
            # Tokens of frames, then of sound; a last channel is 1 for those of sound.
            "video_tokens": video_tokens,
            "text_tokens": text_tokens,
            "score": score,
        }
        if self.fusion not in ("joint", "first"):
            infer["attention"] = attention_to("video", "pool")
        if self.fusion == "separate":
            infer["sound_attention"] = attention_to("sound", "sound_pool")
        return System(init, stateless(loss), infer)


class Fusion(nn.Module):
    """Each clip's vector for each text: z_v + z_a, or what a rival computes (see Config.fusion); z_a is 0 where no audio token is valid."""

    fusion: str
    dim: int
    heads: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "T D"],
        frames: Float[Array, "V F D"],
        frames_valid: Bool[Array, "V F"],
        sound: Float[Array, "V A D"],
        sound_valid: Bool[Array, "V A"],
    ) -> Float[Array, "V T D"]:
        pool = TextConditionedPool(self.heads, self.dropout, self.dtype, name="pool")
        heard = sound_valid.any(1)[:, None, None]
        if self.fusion == "joint":
            return pool(text, jnp.concatenate([frames, sound], 1), jnp.concatenate([frames_valid, sound_valid], 1))
        if self.fusion == "first":
            c = TransformerConfig(self.dim, depth=1, heads=self.heads)
            sides = (frames, frames_valid), (sound, sound_valid)
            mixed: list[Array] = []
            for (x, own), (context, other) in (sides, sides[::-1]):
                y, _ = Block(c, cross=True, dtype=self.dtype, name=f"mix{len(mixed)}")(
                    x, padding_mask(own), context, padding_mask(other)
                )
                mixed.append(jnp.where(other.any(1)[:, None, None], y, x))
            return pool(text, mixed[0], frames_valid)
        z = pool(text, frames, frames_valid)
        if self.fusion == "none":
            return z
        if self.fusion == "mean":
            mean = layer_norm(self.dtype, "norm_sound")(mean_pool(sound, sound_valid))
            return z + jnp.where(heard, mean[:, None], 0)
        query = text
        if self.fusion == "constant":
            query = self.param("query", nn.initializers.normal(1.0), (1, self.dim), jnp.float32)
        sounds = TextConditionedPool(self.heads, self.dropout, self.dtype, name="sound_pool")
        return z + jnp.where(heard, sounds(query, sound, sound_valid), 0)

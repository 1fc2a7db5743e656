"""mmE5: a multimodal embedder trained on synthesised triples (Chen et al. 2025, arXiv 2502.08468).

Section 3.1, synthesis: breadth, alignment, checks        mmrep.data.synthesis, `python -m experiments.synthesise`
Section 3.2, one model of instruction, text and image     Config.build (embed), mmrep.nn.encoders.decoder_lm
Section 3.2, InfoNCE with each query's hard negatives     mme5_loss
Section 4.1, low-rank adaptation in DoRA's form           Config.lora_rank, mmrep.nn.lora
Triples as JSON lines; synthesis with a simulated writer  mmrep.data.triples, data.Synthetic, writer.ThingsWriter
Precision at 1 among candidates                           evals.Candidates

Ours: the last token is found by the mask whatever the side of the padding; a missing hard negative is masked, where the authors repeat one or put
the target in its place; equal targets are no negatives; over several devices all embeddings have gradients.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import info_nce, same_id, similarity
from mmrep.modality import PAD
from mmrep.nn import lora
from mmrep.nn.dual import Encoder
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import last_pool, mean_pool
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless

SIDES = ("query", "target")


@dataclass(frozen=True)
class Config:
    """A batch has `instruction`, and for "query" and "target" `<side>_text`, `<side>_image` and `<side>_has` [B, 2], 1 where it has text
    and where it has a picture; of K hard negatives `negative_text` [B, K, L], `negative_image` and `negative_has` [B, K, 2], all 0 for a
    missing one; and `target_id` [B], equal for equal targets.

    image:    gives the tokens that stand before those of instruction and text.
    negatives: False leaves the hard negatives out.   pool: "last" is mmE5, "mean" an ablation.   temperature: fixed.
    lora_pattern, lora_rank, lora_scale: of the language model's Dense layers, by DoRA, see `mmrep.nn.lora`; rank 0: none.
    """

    image: Encoder = ImageEncoder()
    language: DecoderLM = DecoderLM()
    temperature: float = 0.02
    negatives: bool = True
    pool: Literal["last", "mean"] = "last"
    lora_pattern: str = r".*(attn/(query|key|value|out)|mlp/.*)"
    lora_rank: int = 0
    lora_scale: float = 8.0
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "temperature": (0 < self.temperature < math.inf, "it must be positive and finite"),
            "pool": (self.pool in ("last", "mean"), "choose last or mean"),
            "lora_rank": (self.lora_rank >= 0, "it must be at least 0"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        kind, width = jnp.dtype(self.dtype), self.language.transformer.width
        image, model = self.image.module(kind), self.language.module(kind)
        connector = nn.Dense(width, dtype=kind)

        def tokens(params: Params, pictures: Array) -> Float[Array, "N M W"]:
            out = image.apply({"params": params["image"]}, pictures)[1]
            return connector.apply(
                {"params": params["connector"]}, out["patches"] if "patches" in out else out["tokens"]
            )

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            keys = jax.random.split(rng, 4)
            params = {"image": image.init(keys[0], batch["query_image"])["params"]}
            out = image.apply({"params": params["image"]}, batch["query_image"])[1]
            found = out["patches"] if "patches" in out else out["tokens"]
            params["connector"] = connector.init(keys[1], found)["params"]
            params["language"] = model.init(keys[2], batch["query_text"])["params"]
            if self.lora_rank:
                params["lora"] = lora.init(
                    keys[3], params["language"], self.lora_pattern, self.lora_rank, magnitude=True
                )
            return params, {}

        def embed(
            params: Params, text: Int[Array, "N L"] | None, pictures: Array | None, has: Float[Array, "N 2"],
            instruction: Int[Array, "N I"] | None = None,
        ) -> Float[Array, "N W"]:  # fmt: skip
            """Unit vectors of the last token of picture, instruction and text; what a row does not have is padding."""
            has = has > 0
            words = [x for x in (instruction, text) if x is not None]
            ids = jnp.concatenate([jnp.zeros((len(has), 0), jnp.int32), *words], axis=1)
            valid = jnp.not_equal(ids, PAD)
            if text is not None:
                valid = valid & ((jnp.arange(ids.shape[1]) < ids.shape[1] - text.shape[1]) | has[:, :1])
            prefix = None if pictures is None else tokens(params, pictures)
            if prefix is not None:
                valid = jnp.concatenate([jnp.broadcast_to(has[:, 1:], prefix.shape[:2]), valid], axis=1)
            merged = lora.merge(params["language"], params.get("lora", {}), self.lora_scale)
            positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
            x = model.apply({"params": merged}, ids, prefix, valid, positions)[1]["tokens"].astype(jnp.float32)
            return l2_normalise((last_pool if self.pool == "last" else mean_pool)(x, valid))

        def side(params: Params, batch: Batch, name: str) -> Float[Array, "B W"]:
            told = jnp.asarray(batch["instruction"]) if name == "query" else None
            return embed(params, jnp.asarray(batch[f"{name}_text"]), batch[f"{name}_image"], batch[f"{name}_has"], told)

        def hard(params: Params, batch: Batch) -> Float[Array, "B K W"]:
            parts = [jnp.asarray(batch[f"negative_{n}"]) for n in ("text", "image", "has")]
            b, k = parts[0].shape[:2]
            return embed(params, *(x.reshape(b * k, *x.shape[2:]) for x in parts)).reshape(b, k, -1)

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            q, t = (side(params, batch, name) for name in SIDES)
            negatives, here = None, None
            if self.negatives:
                negatives, here = hard(params, batch), (batch["negative_has"] > 0).any(-1)
            value, right = mme5_loss(q, t, negatives, self.temperature, batch["target_id"], here)
            return value.mean(), {"accuracy": right.mean(dtype=jnp.float32)}

        def whole(name: str) -> Infer:
            return lambda params, extras, batch: side(params, batch, name)

        def part(name: str) -> Infer:
            def one(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B W"]:
                """A text or a picture alone, without instruction."""
                given, has = jnp.asarray(batch[name]), jnp.ones((len(batch[name]), 2))
                text, picture = (given, None) if name.endswith("text") else (None, given)
                return embed(params, text, picture, has)

            return one

        infer: dict[str, Infer] = {n: whole(n) for n in SIDES} | {
            f"{n}_{p}": part(f"{n}_{p}") for n in SIDES for p in ("text", "image")
        }
        return System(init, stateless(loss), infer | {"negatives": lambda params, extras, batch: hard(params, batch)})


def mme5_loss(
    q: Float[Array, "B D"], t: Float[Array, "B D"], negatives: Float[Array, "B K D"] | None, temperature: float,
    ids: Int[Array, " B"] | None = None, here: Bool[Array, "B K"] | None = None,
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:  # fmt: skip
    """(InfoNCE of each query over the batch's targets and its own K hard negatives; whether its target is the nearest). Unit rows.

    ids: of targets; equal ones are no negatives.   here: which hard negatives there are.
    """
    logits, own = similarity(q, t), jnp.eye(len(q), dtype=bool)
    ignore = jnp.zeros_like(own) if ids is None else same_id(ids, ids) & ~own
    if negatives is not None:
        more = jnp.einsum("bd,bkd->bk", q, negatives, precision=jax.lax.Precision.HIGHEST)
        logits = jnp.concatenate([logits, more], axis=1)
        ignore = jnp.concatenate([ignore, jnp.zeros_like(more, bool) if here is None else ~here], axis=1)
    right = jnp.where(ignore, -jnp.inf, logits).argmax(1) == jnp.arange(len(q))
    return info_nce(logits / temperature, ignore=ignore), right

"""LLM2CLIP: a language model, tuned to embed captions, as the text tower of CLIP (Huang et al. 2024, arXiv 2411.04997).

Section 3.1, caption-contrastive tuning with LoRA     model.caption_loss, Config.objective "captions", mmrep.nn.lora
Section 3.1, bidirectional attention, mean pooling    model.sentence
Section 3.2, adapter on the frozen model's vectors    model.Adapter, Config.objective "align"
Section 3.2, vectors computed once                    data.Embedded, Config.precomputed
The language model itself, by next tokens             Config.objective "language", mmrep.nn.encoders.decoder_lm

Ours: one language model from scratch, or from `Phase.start`; vectors always enter the adapter with unit length (the authors leave this out for
an online model); equal captions are no negatives. Masked next-token prediction before the tuning is left out: the paper found no need for it.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.reduce import masked_mean
from mmrep.modality import PAD
from mmrep.nn import lora
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.decoder_lm import DecoderLM, next_token_loss
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Infer, Metrics, Params, System, stateless
from mmrep.systems.contrastive.llm2clip.model import Adapter, caption_loss, sentence

CAPTIONS = ("text", "long")


@dataclass(frozen=True)
class Config:
    """A batch has `image`, a short caption `text` and a long one, `long`; it may have instructions to a caption that is a query,
    `instruction` (of a short one, to find the long one) and `long_instruction`: their tokens are attended to and not pooled.

    objective:   "language": next tokens of both captions.   "captions": a picture's short and long caption find each other, by LoRA.
                 "align": pictures and captions, of the two one at random for each picture.   The phases freeze the rest.
    layers, expansion: residual blocks of the adapter, and their hidden width over the language model's.
    precomputed: in "align" a batch has `text_vector` and `long_vector`, the "<caption>_sentence" of the captions, in place of both.
    bidirectional: tokens attend to all others, in "captions" and in every embedding; False is an ablation.
    frozen:      no gradient reaches the language model in "align".   permuted: "captions" pairs other pictures' captions, an ablation.
    lora_pattern, lora_rank, lora_scale: of the language model's Dense layers, see `mmrep.nn.lora`; the scale is alpha / rank.
    caption_scale: of cosines in "captions".
    """

    image: Encoder = ImageEncoder()
    language: DecoderLM = DecoderLM()
    dim: int = 64
    objective: Literal["language", "captions", "align"] = "align"
    layers: int = 4
    expansion: float = 2.0
    precomputed: bool = False
    bidirectional: bool = True
    frozen: bool = True
    permuted: bool = False
    lora_pattern: str = r".*attn/(query|key|value|out)"
    lora_rank: int = 16
    lora_scale: float = 1.0
    caption_scale: float = 50.0
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "objective": (self.objective in ("language", "captions", "align"), "choose language, captions or align"),
            "layers": (self.layers >= 0, "it must be at least 0"),
            "expansion": (self.expansion > 0, "it must be positive"),
            "precomputed": (not self.precomputed or (self.objective == "align" and self.frozen), "only a frozen model in align has vectors"),
            "lora_rank": (self.lora_rank >= 0, "it must be at least 0"),
            "caption_scale": (0 < self.caption_scale < math.inf, "it must be positive and finite"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        kind, width = jnp.dtype(self.dtype), self.language.transformer.width
        dual = dual_encoder({"image": self.image}, self.dim, dtype=self.dtype)
        model, adapter = self.language.module(kind), Adapter(self.dim, self.layers, self.expansion, kind)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            keys = jax.random.split(rng, 4)
            params = dual.init(keys[0], batch)
            params["adapter"] = adapter.init(keys[1], jnp.zeros((1, width)))["params"]
            if not self.precomputed:
                params["language"] = model.init(keys[2], batch["text"])["params"]
                if self.lora_rank:
                    params["lora"] = lora.init(keys[3], params["language"], self.lora_pattern, self.lora_rank)
            return params, {}

        def embed(
            params: Params, ids: Int[Array, "B L"], instruction: Int[Array, "B I"] | None = None
        ) -> Float[Array, "B W"]:
            """Mean vectors of captions, of unit length."""
            merged = lora.merge(params["language"], params.get("lora", {}), self.lora_scale)
            return l2_normalise(sentence(model, merged, ids, instruction, self.bidirectional))

        def adapted(params: Params, vectors: Float[Array, "B W"]) -> Float[Array, "B D"]:
            x = adapter.apply({"params": params["adapter"]}, l2_normalise(vectors.astype(jnp.float32)))
            return l2_normalise(x.astype(jnp.float32))

        def language_loss(params: Params, batch: Batch) -> tuple[Array, Metrics]:
            ids = jnp.concatenate(same_length([batch[n] for n in CAPTIONS]))
            merged = lora.merge(params["language"], params.get("lora", {}), self.lora_scale)
            logits = model.apply({"params": merged}, ids, valid=ids != PAD)[0]
            value = masked_mean(*next_token_loss(logits, ids, ids != PAD))
            return value, {"perplexity": jnp.exp(value)}

        def captions_loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            text, long = same_length([batch[n] for n in CAPTIONS])
            short = jax.random.bernoulli(rng, 0.5, (len(text),))
            ids, others = pick(short, text, long), pick(short, long, text)
            told = None
            if "instruction" in batch:
                told = pick(short, *same_length([batch["instruction"], batch["long_instruction"]]))
            # The next picture's caption of the positive's kind is a hard negative.
            negatives = pick(short, jnp.roll(long, -1, axis=0), jnp.roll(text, -1, axis=0))
            if self.permuted:
                others = jnp.roll(others, 1, axis=0)
            x = embed(params, ids, told)
            y = embed(params, jnp.concatenate([others, negatives]))
            equal = (jnp.concatenate([others, negatives])[None] == others[:, None]).all(-1)
            value, right = caption_loss(x, y, equal, self.caption_scale)
            return value.mean(), {"accuracy": right.mean(dtype=jnp.float32)}

        def align_loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            short = jax.random.bernoulli(rng, 0.5, (len(batch["image"]),))
            if self.precomputed:
                vectors = pick(short, batch["text_vector"], batch["long_vector"])
            else:
                vectors = embed(params, pick(short, *same_length([batch[n] for n in CAPTIONS])))
            vectors = jax.lax.stop_gradient(vectors) if self.frozen else vectors
            x, scale = dual.embed(params, batch, "image"), dual.scale(params)
            return symmetric_info_nce(x, adapted(params, vectors), scale).mean(), {"scale": scale}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            if self.objective == "language":
                return language_loss(params, batch)
            return (captions_loss if self.objective == "captions" else align_loss)(params, batch, rng)

        def caption(name: str) -> Infer:
            return lambda params, extras, batch: adapted(params, embed(params, batch[name]))

        def vector(name: str) -> Infer:
            return lambda params, extras, batch: embed(params, batch[name])

        def precomputed(name: str) -> Infer:
            return lambda params, extras, batch: adapted(params, batch[name])

        infer: dict[str, Any] = {"image": dual.infer()["image"], "image_layers": dual.infer()["image_layers"]}
        if self.precomputed:
            infer |= {f"{n}_vector": precomputed(f"{n}_vector") for n in CAPTIONS}
        else:
            infer |= {n: caption(n) for n in CAPTIONS} | {f"{n}_sentence": vector(n) for n in CAPTIONS}
        return System(init, stateless(loss), infer)


def same_length(ids: list[Int[Array, "B _"]]) -> list[Int[Array, "B L"]]:
    """All padded to the longest."""
    length = max(x.shape[1] for x in ids)
    return [jnp.pad(jnp.asarray(x), ((0, 0), (0, length - x.shape[1])), constant_values=PAD) for x in ids]


def pick(first: Bool[Array, " B"], a: Array, b: Array) -> Array:
    """Rows of `a` where `first`, else of `b`."""
    return jnp.where(first[:, None], a, b)

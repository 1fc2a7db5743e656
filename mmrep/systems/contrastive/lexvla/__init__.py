"""LexVLA: pictures and texts in one vocabulary, from frozen models of each alone (Li et al., NeurIPS 2024).

Unified Lexical Representation for Interpretable Visual-Language Alignment, arXiv 2407.17827. There is no official code.

| paper                                                             | function                                      |
|-------------------------------------------------------------------|-----------------------------------------------|
| text: words that a language model predicts at the caption's end   | Config.lm, LoRA by mmrep.nn.lora              |
| codebook of texts, frozen; of pictures, from the same start       | start_image_table, Phase.trainable            |
| picture: adapter, projector, elu1p, maximum over patches          | model.Adapter, mmrep.nn.lexical.LexicalHead   |
| contrast of unit vectors                                          | mmrep.losses.contrastive.symmetric_info_nce   |
| over-use penalty; FLOPs loss, the rival                           | model.overuse, model.flops                    |
| words above 1 / sqrt(V), or the 512 largest                       | model.sparse                                  |
| patches named by words (PatchDis)                                 | evals.PatchDis, evals.PatchWords              |

Llama 2 and DINOv2 are models of the user's own here: a causal language model that `objective="language"` trains on the captions, and with
`keywords` on a caption's words at its end, in the place of Llama's answer to a prompt; and any encoder of patches (Phase.start). The
vocabulary is the tokenizer's, without the reserved ids.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.reduce import masked_mean
from mmrep.modality import FIRST_PIECE
from mmrep.nn import lexical, lora
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder, init_parts, inputs
from mmrep.nn.encoders.decoder_lm import DecoderLM, next_token_loss
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.heads import LogScale, l2_normalise
from mmrep.nn.lexical import LexicalHead
from mmrep.nn.pooling import last_index, layer_features
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.contrastive.lexvla.model import Adapter, flops, keyword_loss, overuse, sparse

LANGUAGE = ("lm/.*",)
ALIGN = ("adapter/.*", "image_head/.*", "lora/.*", "scale/.*")
"""`Phase.trainable` of the two phases: the image encoder, the language model and its table, the codebook of texts, stay as they are."""


@dataclass(frozen=True)
class Config:
    """Parameters: image (frozen), adapter, image_head (with Z_img), lm (frozen; its embeddings are Z_txt), lora, scale.

    text:      the language model; the modality "text" has its vocab and length.   adapter: blocks over the patches.
    objective: "align", or "language" for the phase before it, over the same parameters.
    keywords:  weight of the caption's words at its end in the language phase; 0: next tokens alone.
    penalty, strength: of both modalities' vectors. The strength depends on V, the number of words: choose it on validation data.
    own_table: pictures have a codebook of their own (False is an ablation: Z_txt for both).
    lora_rank: of the language model's queries and values.   top_k: words that stay at inference; None: those above 1 / sqrt(V).
    """

    image: Encoder = ImageEncoder()
    text: DecoderLM = DecoderLM()
    adapter: TransformerConfig = TransformerConfig(depth=2)
    objective: Literal["align", "language"] = "align"
    keywords: float = 1.0
    penalty: Literal["overuse", "flops"] = "overuse"
    strength: float = 1.0
    own_table: bool = True
    lora_rank: int = 4
    top_k: int | None = None
    temperature: float = 0.07
    dtype: str = "float32"

    @property
    def words(self) -> int:
        """Dimensions of the vectors, V."""
        return self.text.vocab - FIRST_PIECE

    def check(self) -> None:
        check_fields(self, {
            "objective": (self.objective in ("align", "language"), "choose align or language"),
            "penalty": (self.penalty in ("overuse", "flops"), "choose overuse or flops"),
            "keywords": (self.keywords >= 0, "it must be at least 0"),
            "strength": (self.strength >= 0, "it must be at least 0"),
            "lora_rank": (self.lora_rank >= 1, "it must be at least 1"),
            "top_k": (self.top_k is None or self.top_k >= 1, "it must be at least 1, or None"),
            "temperature": (self.temperature > 0, "it must be positive"),
        })  # fmt: skip
        if not self.text.tied or self.words < 1:
            raise ConfigError("system.text: its logits and its embeddings have one table, of one word or more")

    def build(self) -> System:
        self.check()
        kind = jnp.dtype(self.dtype)
        image, lm, log_scale = self.image.module(kind), self.text.module(kind), LogScale(1 / self.temperature)
        adapter = Adapter(self.adapter, self.text.transformer.width, kind)
        head = LexicalHead(self.words, kind)
        penalty = overuse if self.penalty == "overuse" else flops

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            first, *keys = jax.random.split(rng, 4)
            params = init_parts(first, {"image": image, "scale": log_scale}, batch)
            params["lm"] = lm.init(keys[0], batch["text"])["params"]
            params["lora"] = lora.init(keys[1], params["lm"], ".*attn/(query|value)", self.lora_rank)
            params["adapter"] = adapter.init(keys[2], patches_of(params, batch)[0])["params"]
            params["image_head"] = head.init(keys[2], adapted(params, batch), None, z_img(params))["params"]
            return params, {}

        def z_txt(params: Params) -> Float[Array, "V D"]:
            return jnp.asarray(params["lm"]["embed"]["embedding"])[FIRST_PIECE:]

        def z_img(params: Params) -> Float[Array, "V D"] | None:
            return None if self.own_table else z_txt(params)

        def patches_of(params: Params, batch: Batch) -> tuple[Float[Array, "B N W"], Any]:
            _, out = image.apply({"params": params["image"]}, *inputs(batch, "image"))
            return out.get("patches", out.get("tokens")), out

        def adapted(params: Params, batch: Batch) -> Float[Array, "B N D"]:
            return adapter.apply({"params": params["adapter"]}, patches_of(params, batch)[0])

        def image_words(params: Params, tokens: Float[Array, "B N D"]) -> Float[Array, "B V"]:
            return l2_normalise(head.apply({"params": params["image_head"]}, tokens, None, z_img(params)))

        def language(params: Params, batch: Batch) -> tuple[Float[Array, "B L V"], Any]:
            merged = lora.merge(params["lm"], params["lora"], 1.0)
            return lm.apply({"params": merged}, batch["text"], None, batch["text"] > 0)

        def text_words(params: Params, batch: Batch) -> Float[Array, "B V"]:
            last = language(params, batch)[1]["pooled"]
            return l2_normalise(lexical.lexical(last[:, None], z_txt(params)))

        def align(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y = image_words(params, adapted(params, batch)), text_words(params, batch)
            scale = log_scale.apply({"params": params["scale"]})
            contrast, used = symmetric_info_nce(x, y, scale).mean(), (penalty(x), penalty(y))
            metrics = {"contrast": contrast, "image_penalty": used[0], "text_penalty": used[1], "scale": scale}
            return contrast + self.strength * (used[0] + used[1]), metrics

        def predict(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            ids = jnp.asarray(batch["text"])
            logits, _ = language(params, batch)
            metrics = {"next": masked_mean(*next_token_loss(logits, ids, ids > 0))}
            if not self.keywords:
                return metrics["next"], metrics
            at_end = jnp.take_along_axis(logits, last_index(ids > 0)[:, None, None], axis=1)[:, 0]
            metrics["keywords"] = keyword_loss(at_end, ids).mean()
            return metrics["next"] + self.keywords * metrics["keywords"], metrics

        def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            x = adapted(params, batch)
            each = image_words(params, x.reshape(-1, 1, x.shape[-1]))
            return each.reshape(*x.shape[:2], -1), jnp.ones(x.shape[:2], bool)

        infer = {
            "image": lambda p, e, batch: sparse(image_words(p, adapted(p, batch)), self.top_k),
            "text": lambda p, e, batch: sparse(text_words(p, batch), self.top_k),
            "image_tokens": tokens,
            "bag": lambda p, e, batch: l2_normalise(lexical.bag(jnp.asarray(batch["text"]), self.text.vocab)),
            "image_layers": lambda p, e, batch: layer_features(patches_of(p, batch)[1]),
        }
        return System(init, stateless(align if self.objective == "align" else predict), infer)


def start_image_table(params: Params, extras: Extras) -> tuple[Params, Extras]:
    """`Phase.begin`: the codebook of pictures starts as a copy of that of texts."""
    table = params["lm"]["embed"]["embedding"][FIRST_PIECE:]
    return params | {"image_head": params["image_head"] | {"table": jnp.array(table)}}, extras

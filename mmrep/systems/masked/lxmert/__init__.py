"""LXMERT: cross-modality encoder representations of detected objects and text (Tan and Bansal 2019, arXiv 1908.07490).

Equation 1, objects                                               model.ObjectEmbedding
Section 2.2, single-modality encoders                             mmrep.nn.encoders.text, model.Lxmert.encode_image
Section 2.2, cross-modality encoder                               mmrep.nn.fusion.CoAttentionEncoder("cross, self, mlp")
Section 3.1.1, masked cross-modality words                        mmrep.masking.tokens, losses.word_loss
Section 3.1.2, RoI-feature regression, detected-label classes     losses.mask_objects, losses.smooth_l1, losses.object_loss
Section 3.1.3, matching; image question answering                 mmrep.losses.matching.random_pairs, losses.choice_loss
Their sum                                                         lxmert_loss

An image is a set of detected objects, each a feature and a box. Labels have the weight mask x confidence, as in the paper; the authors' code
weights every object by its confidence (`label_weight`). Not here: NLVR2's pairs of images, and answers drawn from a distribution.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.masked import token_loss
from mmrep.losses.matching import random_pairs
from mmrep.masking.tokens import mask_tokens
from mmrep.modality import MASK
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.pooling import mean_pool
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless
from mmrep.systems.masked.lxmert import losses
from mmrep.systems.masked.lxmert.model import BOX, Lxmert, valid_objects

TASKS = ("words", "match", "features", "classes", "attributes", "answers")


@dataclass(frozen=True)
class Config:
    """The batch has "image" [K, features + 4] and "text", and labels of the objects and the answer where they are pre-trained.

    object_depth, depth: layers over objects alone, and cross-modality layers.
    classes, attributes: of the detector's labels, batch entries "classes" and "attributes" [K]; 0: none.
    answers:   of questions; the batch entry "answer" is 0 where the text is no question, else 1 + the answer; 0: none.
    tasks:     whose losses are added, out of words, match, features, classes, attributes, answers.
    word_rate, object_rate: shares that are masked.   mismatch: share of texts that are replaced by another row's.
    label_weight: of an object's label: "masked", mask x confidence (the batch entry "confidence" [K], else 1), or "confidence" alone.
    shared_cross: one cross-attention for both directions.   cross: False is an ablation without exchange between the streams.
    """

    text: TextEncoder = TextEncoder(TransformerConfig(depth=2, norm="post"), pool="cls")
    object_depth: int = 1
    depth: int = 2
    classes: int = 0
    attributes: int = 0
    answers: int = 0
    tasks: tuple[str, ...] = TASKS
    word_rate: float = 0.15
    object_rate: float = 0.15
    mismatch: float = 0.5
    label_weight: Literal["masked", "confidence"] = "masked"
    shared_cross: bool = True
    cross: bool = True
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "object_depth": (self.object_depth >= 1, "it must be at least 1"),
            "depth": (self.depth >= 1, "it must be at least 1"),
            "tasks": ({*self.tasks} <= {*TASKS} and bool(self.tasks), f"choose from {', '.join(TASKS)}"),
            "word_rate": (0 < self.word_rate < 1, "it must be in (0, 1)"),
            "object_rate": (0 < self.object_rate < 1, "it must be in (0, 1)"),
            "mismatch": (0 <= self.mismatch < 1, "it must be in [0, 1)"),
            "label_weight": (self.label_weight in ("masked", "confidence"), "choose masked or confidence"),
        } | {
            name: (getattr(self, name) >= 0, "it must be 0 or more") for name in ("classes", "attributes", "answers")
        })  # fmt: skip

    def table_sizes(self) -> dict[str, int]:
        """Ids that it can take of modalities that no part of it is named after."""
        sizes = {"classes": self.classes, "attributes": self.attributes, "answer": self.answers + bool(self.answers)}
        return {name: size for name, size in sizes.items() if size}

    def build(self) -> System:
        self.check()

        def model(features: int) -> Lxmert:
            sizes = {"features": features, "classes": self.classes, "attributes": self.attributes}
            kept = tuple((k, n) for k, n in sizes.items() if n)
            return Lxmert(
                self.text, self.object_depth, self.depth, kept, self.answers, self.shared_cross, self.cross, jnp.dtype(self.dtype)
            )  # fmt: skip

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return model(batch["image"].shape[-1] - BOX).init(rng, batch["text"], batch["image"])["params"], {}

        def call(params: Params, method: str, *inputs: Any, rng: PRNGKeyArray | None = None) -> Any:
            features = params["object_head"]["features"]["bias"].shape[0]
            rngs = {} if rng is None else {"dropout": rng}
            return model(features).apply({"params": params}, *inputs, method=method, rngs=rngs)

        return System(init, stateless(partial(lxmert_loss, self, call)), infer(call, self.answers))


def run(call: Any, params: Params, ids: Array, image: Array, rng: PRNGKeyArray | None = None) -> dict[str, Array]:
    """{"pooled", and the heads' outputs} of texts with images; with dropout where `rng` is given."""
    text, objects = call(params, "encode_text", ids, rng=rng), call(params, "encode_image", image, rng=rng)
    words, objects, pooled = call(params, "fuse", *text, *objects, rng=rng)
    return {"pooled": pooled} | call(params, "heads", words, objects, pooled, params["words"]["embed"]["embedding"])


def lxmert_loss(
    config: Config, call: Any, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """The sum of the losses of `config.tasks`; those of objects and words go on for texts that do not match, as in the authors' code."""
    for_text, for_words, for_objects, for_dropout = jax.random.split(rng, 4)
    image, valid = jnp.asarray(batch["image"]), valid_objects(jnp.asarray(batch["image"]))
    index, is_match = random_pairs(for_text, batch["text"], config.mismatch if "match" in config.tasks else 0.0)
    texts = batch["text"][index]
    corrupted, hidden = mask_tokens(for_words, texts, config.text.vocab, config.word_rate)
    masked, target = losses.mask_objects(for_objects, image, valid, config.object_rate)
    found = run(call, params, corrupted, masked, for_dropout)
    sure = jnp.asarray(batch.get("confidence", jnp.ones(valid.shape)), jnp.float32) * valid
    weight = sure * target if config.label_weight == "masked" else sure
    parts: dict[str, Array] = {
        "words": losses.word_loss(found["words"], texts, hidden),
        "match": losses.choice_loss(found["match"], is_match.astype(jnp.int32), jnp.ones(is_match.shape, bool)),
        "features": losses.object_loss(
            losses.smooth_l1(found["features"], image[..., :-BOX]), target.astype(jnp.float32), valid, config.object_rate
        ),
    }  # fmt: skip
    for name in {"classes", "attributes"} & {*found}:
        values = token_loss(found[name], batch[name], valid)
        parts[name] = losses.object_loss(values, weight, valid, config.object_rate)
    if config.answers:
        answered = is_match & (batch["answer"] > 0)
        parts["answers"] = losses.choice_loss(found["answers"], batch["answer"] - 1, answered)
    parts = {name: parts[name] for name in TASKS if name in parts and name in config.tasks}
    return jnp.sum(jnp.stack([*parts.values()])), parts


def infer(call: Any, answers: int) -> dict[str, Infer]:
    """Beside the fixed meanings: "answer_logits" [B, A]; "hidden_objects" and "hidden_words", see below."""

    def text_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
        return call(params, "encode_text", batch["text"])

    def image_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
        return call(params, "encode_image", jnp.asarray(batch["image"]))

    def text(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B W"]:
        return text_tokens(params, extras, batch)[0][:, 0].astype(jnp.float32)

    def image(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B W"]:
        return mean_pool(*image_tokens(params, extras, batch)).astype(jnp.float32)

    def score(params: Params, extras: Extras, pairs: Batch) -> Float[Array, " B"]:
        fused = call(params, "fuse", *(pairs[k] for k in ("text_tokens", "text_valid", "image_tokens", "image_valid")))
        logits = call(params, "heads", *fused, params["words"]["embed"]["embedding"])["match"]
        return logits[:, 1] - logits[:, 0]

    def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B W"]:
        return run(call, params, batch["text"], jnp.asarray(batch["image"]))["pooled"].astype(jnp.float32)

    def answer_logits(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B A"]:
        return run(call, params, batch["text"], jnp.asarray(batch["image"]))["answers"]

    functions: dict[str, Infer] = dict(text=text, text_tokens=text_tokens, image=image, image_tokens=image_tokens)
    functions |= dict(score=score, fused=fused)
    functions |= dict(hidden_objects=partial(hidden_objects, call), hidden_words=partial(hidden_words, call))
    return functions | ({"answer_logits": answer_logits} if answers else {})


def hidden_objects(call: Any, params: Params, extras: Extras, batch: Batch) -> dict[str, Float[Array, "B K _"]]:
    """The object head's outputs for each object while its own feature, alone, is zero."""
    image = jnp.asarray(batch["image"])

    def one(k: Array) -> dict[str, Array]:
        here = (jnp.arange(image.shape[1]) == k)[:, None] & (jnp.arange(image.shape[2]) < image.shape[2] - BOX)
        found = run(call, params, batch["text"], jnp.where(here, 0.0, image))
        return {n: found[n][:, k] for n in ("features", "classes", "attributes") if n in found}

    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), jax.lax.map(one, jnp.arange(image.shape[1])))


def hidden_words(call: Any, params: Params, extras: Extras, batch: Batch) -> Float[Array, "B L"]:
    """For each token, while it alone is masked, its logit minus the largest of another token: positive where the prediction is right."""
    ids = jnp.asarray(batch["text"])

    def one(at: Array) -> Array:
        hidden = jnp.where(jnp.arange(ids.shape[1]) == at, MASK, ids)
        logits = run(call, params, hidden, jnp.asarray(batch["image"]))["words"][:, at]
        own = jax.nn.one_hot(ids[:, at], logits.shape[-1], dtype=bool)
        return jnp.max(jnp.where(own, logits, -jnp.inf), -1) - jnp.max(jnp.where(own, -jnp.inf, logits), -1)

    return jax.lax.map(one, jnp.arange(ids.shape[1])).T

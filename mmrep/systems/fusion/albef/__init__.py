"""ALBEF: align before fuse, with momentum distillation (Li et al., NeurIPS 2021, arXiv 2107.07651).

Image-text contrast of the unimodal encoders (ITC), image-text matching on hard in-batch negatives (ITM) and masked language modelling
with the image in view (MLM), trained at once; an EMA teacher gives the contrastive keys and soft targets for ITC and MLM.

Order of a step: the teacher as it stands looks at the batch, the loss is taken, its features enter the queue; the optimiser moves the
parameters; `update` moves the teacher. The authors move the teacher in between, before it looks at the batch, which is the same
sequence of parameters: there too the teacher has averaged everything up to the last optimiser step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import Scalar, info_nce, same_id, similarity, targets_from_positives
from mmrep.losses.masked import masked_lm_loss
from mmrep.losses.reduce import masked_mean
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import MaskedLmHead, Projection, l2_normalise
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.fusion.albef.model import (
    FusionEncoder,
    hard_negatives,
    mask_tokens,
    matching_loss,
    random_negatives,
)

TAUGHT = ("image", "text", "fusion", "mlm")
"""Parts with a momentum copy; the matching head and the temperature have none."""


@dataclass(frozen=True)
class Config:
    """fusion_depth: cross-attention layers on top of the text layers.   dim: of the contrastive features.
    temperature: tau at the start, at least 0.001 through its logarithm.   queue: momentum features kept of each modality; 0 turns it off.
    momentum: EMA decay of the teacher.   alpha: weight of its soft targets (0: no distillation), reached linearly over `ramp` steps.
    negatives: of ITM, drawn by contrastive similarity ("hard") or evenly ("random").   contrast, match, mlm: weights of the losses.
    """

    image: ImageEncoder = ImageEncoder(pool="cls")
    text: TextEncoder = TextEncoder(TransformerConfig(depth=2, norm="post"), pool="cls")
    fusion_depth: int = 2
    dim: int = 64
    temperature: float = 0.07
    queue: int = 512
    momentum: float = 0.995
    alpha: float = 0.4
    ramp: int = 100
    mask_rate: float = 0.15
    negatives: Literal["hard", "random"] = "hard"
    contrast: float = 1.0
    match: float = 1.0
    mlm: float = 1.0
    dtype: str = "float32"

    def build(self) -> System:
        self._check()
        encoders = {"image": self.image, "text": self.text}
        model = dual_encoder(encoders, self.dim, scale=1 / self.temperature, max_scale=1000.0, dtype=self.dtype)
        kind, t = jnp.dtype(self.dtype), self.text
        fusion = FusionEncoder(replace(t.transformer, depth=self.fusion_depth), dtype=kind)
        matcher, predictor = Projection(2, normalise=False, use_bias=True, dtype=kind), MaskedLmHead(dtype=kind)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            keys = dict(zip(("encoders", "fusion", "match", "mlm", "image", "text"), jax.random.split(rng, 6)))
            params = model.init(keys["encoders"], batch)
            _, image = model.full(params, batch, "image")
            _, text = model.full(params, batch, "text")
            fused = fusion.init(keys["fusion"], text["tokens"], image["tokens"], text["valid"])
            params |= {
                "fusion": fused["params"],
                "match": matcher.init(keys["match"], text["tokens"][:, 0])["params"],
                "mlm": predictor.init(keys["mlm"], text["tokens"], table(params))["params"],
            }
            queue = {n: l2_normalise(jax.random.normal(keys[n], (self.queue, self.dim))) for n in encoders}
            if "id" in batch:
                queue["id"] = jnp.full(self.queue, -1, jnp.int32)
            teacher = jax.tree.map(jnp.copy, {name: params[name] for name in TAUGHT})
            zero = jnp.zeros((), jnp.int32)
            return params, {"teacher": teacher, "queue": queue, "pointer": zero, "step": jnp.copy(zero)}

        def table(params: Params) -> Array:
            return params["text"]["encoder"]["embed"]["embedding"]

        def fuse(params: Params, tokens: Array, valid: Array, image_tokens: Array) -> dict[str, Array]:
            return fusion.apply({"params": params["fusion"]}, tokens, image_tokens, valid)[1]

        def matching(params: Params, tokens: Array, valid: Array, image_tokens: Array) -> Array:
            pooled = fuse(params, tokens, valid, image_tokens)["pooled"]
            return matcher.apply({"params": params["match"]}, pooled).astype(jnp.float32)

        def predict(params: Params, corrupted: Array, image_tokens: Array) -> Array:
            _, text = model.full(params, {"text": corrupted}, "text")
            fused = fuse(params, text["tokens"], text["valid"], image_tokens)["tokens"]
            return predictor.apply({"params": params["mlm"]}, fused, table(params))

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            teacher, queue, rows = jax.lax.stop_gradient(extras["teacher"]), extras["queue"], batch["text"].shape[0]
            if rows < 2 or 0 < self.queue < rows:
                raise ConfigError(
                    f"data.batch_size is {rows}: it must be at least 2 and fit system.queue, {self.queue}"
                )
            for_image, for_text, for_mask = jax.random.split(rng, 3)
            alpha = self.alpha * jnp.minimum(1.0, extras["step"].astype(jnp.float32) / max(self.ramp, 1))
            scale, ids = model.scale(params), batch.get("id")
            f, image = model.full(params, batch, "image")
            g, text = model.full(params, batch, "text")
            f_m, image_m = model.full(teacher, batch, "image")
            g_m, _ = model.full(teacher, batch, "text")
            new = {"image": f_m, "text": g_m} | ({} if ids is None else {"id": ids})
            keys = {name: jnp.concatenate([new[name], queue[name]]) for name in queue}
            positives = jnp.eye(rows, rows + self.queue, dtype=bool) if ids is None else same_id(ids, keys["id"])
            to_text, to_image = scale * similarity(f, keys["text"]), scale * similarity(g, keys["image"])
            soft_text = soft_targets(positives, scale * similarity(f_m, keys["text"]), alpha)
            soft_image = soft_targets(positives, scale * similarity(g_m, keys["image"]), alpha)
            itc = 0.5 * (info_nce(to_text, targets=soft_text) + info_nce(to_image, targets=soft_image)).mean()

            draw = hard_negatives if self.negatives == "hard" else lambda key, s, i: random_negatives(key, rows, i)
            wrong_image, some_image = draw(for_image, to_image[:, :rows], ids)
            wrong_text, some_text = draw(for_text, to_text[:, :rows], ids)
            tokens, valid, pixels = text["tokens"], text["valid"], image["tokens"]
            logits = matching(
                params,
                jnp.concatenate([tokens, tokens, tokens[wrong_text]]),
                jnp.concatenate([valid, valid, valid[wrong_text]]),  # a sampled text brings its own padding
                jnp.concatenate([pixels, pixels[wrong_image], pixels]),
            )
            label, kept = jnp.arange(3 * rows) < rows, jnp.concatenate([jnp.ones(rows, bool), some_image, some_text])
            itm = masked_mean(matching_loss(logits, label), kept)

            corrupted, target = mask_tokens(for_mask, batch["text"], t.vocab, self.mask_rate)
            guess = predict(params, corrupted, pixels)
            soft = jax.nn.softmax(predict(teacher, corrupted, image_m["tokens"])) if self.alpha else None
            mlm = masked_mean(masked_lm_loss(guess, batch["text"], target, soft, alpha), target)

            found = {name: enqueue(queue[name], extras["pointer"], new[name]) for name in queue}
            pointer = (extras["pointer"] + rows) % max(self.queue, 1)
            metrics = {
                "itc": itc, "itm": itm, "mlm": mlm, "alpha": alpha, "scale": scale,
                "itm_accuracy": masked_mean((logits[:, 1] > logits[:, 0]) == label, kept),
                "mlm_accuracy": masked_mean(guess.argmax(-1) == batch["text"], target),
            }  # fmt: skip
            extras = extras | {"queue": found, "pointer": pointer}
            return self.contrast * itc + self.match * itm + self.mlm * mlm, (extras, metrics)

        def update(params: Params, extras: Extras) -> Extras:
            student = {name: params[name] for name in TAUGHT}
            teacher = optax.incremental_update(student, extras["teacher"], 1 - self.momentum)
            return extras | {"teacher": teacher, "step": extras["step"] + 1}

        def image_tokens(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
            return {"image_tokens": model.full(params, batch, "image")[1]["tokens"]}

        def text_tokens(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
            _, out = model.full(params, batch, "text")
            return {"text_tokens": out["tokens"], "text_valid": out["valid"]}

        def match(params: Params, extras: Extras, batch: Batch) -> Array:
            """ITM logit of class 1 [B] of aligned pairs, raw or already encoded by `image_tokens` and `text_tokens`."""
            image = batch if "image_tokens" in batch else image_tokens(params, extras, batch)
            text = batch if "text_tokens" in batch else text_tokens(params, extras, batch)
            return matching(params, text["text_tokens"], text["text_valid"], image["image_tokens"])[:, 1]

        infer = model.infer() | {"image_tokens": image_tokens, "text_tokens": text_tokens, "match": match}
        return System(init, loss, infer, update)

    def _check(self) -> None:
        ranges: Mapping[str, tuple[bool, str]] = {
            "fusion_depth": (self.fusion_depth >= 1, "the fusion encoder needs at least one layer"),
            "temperature": (0.001 <= self.temperature <= 0.5, "it must lie in [0.001, 0.5]"),
            "queue": (self.queue >= 0, "it must be 0 or more, best a multiple of data.batch_size"),
            "momentum": (0.0 <= self.momentum < 1.0, "it must lie in [0, 1)"),
            "alpha": (0.0 <= self.alpha <= 1.0, "it must lie in [0, 1]"),
            "ramp": (self.ramp >= 0, "it must be 0 or more steps"),
            "mask_rate": (0.0 < self.mask_rate < 1.0, "it must lie in (0, 1)"),
            "negatives": (self.negatives in ("hard", "random"), "choose hard or random"),
        }
        for name, (fine, why) in ranges.items():
            if not fine:
                raise ConfigError(f"system.{name} is {getattr(self, name)!r}: {why}")
        for name in ("contrast", "match", "mlm"):
            if getattr(self, name) < 0:
                raise ConfigError(f"system.{name} is {getattr(self, name)}: the weight of a loss is at least 0")


def soft_targets(positives: Bool[Array, "B N"], taught: Float[Array, "B N"], alpha: Scalar) -> Float[Array, "B N"]:
    """alpha softmax(teacher's logits) + (1 - alpha) * (positives, in equal shares): equation 6, without its gradient."""
    soft = jax.nn.softmax(jax.lax.stop_gradient(taught), axis=-1)
    return alpha * soft + (1 - alpha) * targets_from_positives(positives)


def enqueue(queue: Any, pointer: Int[Array, ""], new: Any) -> Array:
    """The rows `new` [B, ...] over the oldest of `queue` [Q, ...], from `pointer` on and around its end; Q = 0 keeps nothing."""
    size, rows = queue.shape[0], new.shape[0]
    return queue.at[(pointer + jnp.arange(rows)) % size].set(new) if size else queue

"""ALBEF: align before fuse, with momentum distillation (Li et al. 2021, arXiv 2107.07651).

Equations 1, 2 and 6, image-text contrast (ITC) with a queue     losses.itc_loss, losses.soft_targets, losses.enqueue
Equations 3 and 7, masked language modelling (MLM)               mmrep.masking.tokens, losses.mlm_loss
Equation 4, image-text matching (ITM) on hard negatives          mmrep.losses.matching, losses.itm_pairs
Equation 5, their sum                                            albef_loss
Section 3.1, fusion encoder                                      mmrep.nn.fusion.FusionEncoder, model.fuse
Momentum update of the teacher                                   momentum_update
Section 4, ranking the best candidates by ITM                    mmrep.evals.suite.Retrieval(score="score", rerank=k)

In a step the teacher encodes the batch, its features enter the queue after the loss, and `momentum_update` follows the optimiser. The
authors update the teacher before it encodes the batch: the same sequence, since it has then averaged the same parameters.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import similarity
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.losses.matching import hard_negatives, matching_loss
from mmrep.losses.reduce import masked_mean
from mmrep.masking.tokens import mask_tokens
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.fusion.albef import losses, model
from mmrep.systems.fusion.albef.model import Albef

MOMENTUM_PARTS = ("image", "text", "fusion", "mlm")
"""Parts with a momentum copy; the matching head and the temperature have none."""


@dataclass(frozen=True)
class Config:
    """fusion_depth: cross-attention layers on top of the text layers.   dim: of the contrastive features.
    temperature: tau at the start, learned down to 0.001 through its logarithm.   queue: teacher features stored of each modality; 0: none.
    momentum:    EMA decay of the teacher.   alpha: weight of its soft targets (0: no distillation), reached linearly over alpha_warmup_steps.
    mask_rate:   share of tokens that MLM predicts.   negatives: of ITM, sampled by contrastive similarity ("hard") or evenly ("random").
    itc_weight, itm_weight, mlm_weight: of the losses.   large_batch: see LargeBatch; hard negatives need the B x B similarities anyway.
    """

    image: ImageEncoder = ImageEncoder(pool="cls")
    text: TextEncoder = TextEncoder(TransformerConfig(depth=2, norm="post"), pool="cls")
    fusion_depth: int = 2
    dim: int = 64
    temperature: float = 0.07
    queue: int = 512
    momentum: float = 0.995
    alpha: float = 0.4
    alpha_warmup_steps: int = 100
    mask_rate: float = 0.15
    negatives: Literal["hard", "random"] = "hard"
    itc_weight: float = 1.0
    itm_weight: float = 1.0
    mlm_weight: float = 1.0
    dtype: str = "float32"
    large_batch: LargeBatch = LargeBatch()

    def check(self) -> None:
        check_fields(self, {
            "fusion_depth": (self.fusion_depth >= 1, "the fusion encoder needs at least one layer"),
            "temperature": (0.001 <= self.temperature <= 0.5, "it must be in [0.001, 0.5]"),
            "queue": (self.queue >= 0, "it must be 0 or more, best a multiple of data.batch_size"),
            "momentum": (0.0 <= self.momentum < 1.0, "it must be in [0, 1)"),
            "alpha": (0.0 <= self.alpha <= 1.0, "it must be in [0, 1]"),
            "alpha_warmup_steps": (self.alpha_warmup_steps >= 0, "it must be 0 or more"),
            "mask_rate": (0.0 < self.mask_rate < 1.0, "it must be in (0, 1)"),
            "negatives": (self.negatives in ("hard", "random"), "choose hard or random"),
        } | {
            name: (getattr(self, name) >= 0, "the weight of a loss is at least 0")
            for name in ("itc_weight", "itm_weight", "mlm_weight")
        })  # fmt: skip
        self.large_batch.check()

    def build(self) -> System:
        self.check()
        parts = model.albef(self.image, self.text, self.fusion_depth, self.dim, 1 / self.temperature, self.dtype)
        return System(
            partial(init, self, parts), partial(albef_loss, self, parts), model.infer(parts), partial(momentum_update, self.momentum)
        )  # fmt: skip


def init(config: Config, parts: Albef, rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
    """Parameters, and extras {"teacher", "queue": {"image", "text" and, with ids, "id"}, "pointer", "step"}."""
    keys = dict(zip(("encoders", "fusion", "match", "mlm", "image", "text"), jax.random.split(rng, 6)))
    params = model.init(parts, keys, batch)
    queue = {n: l2_normalise(jax.random.normal(keys[n], (config.queue, config.dim))) for n in ("image", "text")}
    if "id" in batch:
        queue["id"] = jnp.full(config.queue, -1, jnp.int32)
    teacher = jax.tree.map(jnp.copy, {name: params[name] for name in MOMENTUM_PARTS})
    return params, {"teacher": teacher, "queue": queue, **{n: jnp.zeros((), jnp.int32) for n in ("pointer", "step")}}


def albef_loss(
    config: Config, parts: Albef, params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], tuple[Extras, Metrics]]:
    """L_itc + L_itm + L_mlm (equation 5), each with its weight; the extras with the batch in the queue."""
    rows, micro = batch["text"].shape[0], config.large_batch.micro_batches
    if rows < 2 or 0 < config.queue < rows:
        raise ConfigError(f"data.batch_size is {rows}: it must be at least 2 and fit system.queue, {config.queue}")
    teacher, queue, ids = jax.lax.stop_gradient(extras["teacher"]), extras["queue"], batch.get("id")
    for_image, for_text, for_mask = jax.random.split(rng, 3)
    alpha = config.alpha * jnp.minimum(1.0, extras["step"].astype(jnp.float32) / max(config.alpha_warmup_steps, 1))
    scale = parts.dual.scale(params)
    student = in_micro_batches(lambda part: model.encode(parts, params, part), batch, micro)
    momentum = in_micro_batches(lambda part: model.encode(parts, teacher, part), batch, micro)

    features, momentum_features = (student.image, student.text), (momentum.image, momentum.text)
    blocks = config.large_batch.blocks()
    itc = losses.itc_loss(features, momentum_features, scale, alpha, ids, queue, blocks).mean()

    # Equal logits make every other row equally likely.
    hardness = scale if config.negatives == "hard" else 0.0
    to_image, to_text = similarity(student.text, momentum.image), similarity(student.image, momentum.text)
    negative_image_idx, has_image = hard_negatives(for_image, hardness * to_image, ids)
    negative_text_idx, has_text = hard_negatives(for_text, hardness * to_text, ids)
    pairs, is_match = losses.itm_pairs(student, negative_image_idx, negative_text_idx)
    match_logits = in_micro_batches(lambda part: model.itm_logits(parts, params, *part), pairs, micro)
    kept = jnp.concatenate([jnp.ones(rows, bool), has_image, has_text])
    itm = masked_mean(matching_loss(match_logits, is_match), kept)

    corrupted, target = mask_tokens(for_mask, batch["text"], config.text.vocab, config.mask_rate)

    def predict(part: tuple[Array, ...]) -> tuple[Array, Array]:
        corrupted, labels, target, image_tokens, teacher_tokens = part
        logits = model.mlm_logits(parts, params, corrupted, image_tokens)
        soft = jax.nn.softmax(model.mlm_logits(parts, teacher, corrupted, teacher_tokens)) if config.alpha else None
        return losses.mlm_loss(logits, labels, target, soft, alpha), logits.argmax(-1) == labels

    inputs = (corrupted, batch["text"], target, student.image_tokens, momentum.image_tokens)
    mlm, predicted = (masked_mean(values, target) for values in in_micro_batches(predict, inputs, micro))

    new = {"image": momentum.image, "text": momentum.text} | ({} if ids is None else {"id": ids})
    stored = {name: losses.enqueue(queue[name], extras["pointer"], new[name]) for name in queue}
    pointer = (extras["pointer"] + rows) % max(config.queue, 1)
    metrics = {
        "itc": itc, "itm": itm, "mlm": mlm, "alpha": alpha, "scale": scale, "mlm_accuracy": predicted,
        "itm_accuracy": masked_mean((match_logits[:, 1] > match_logits[:, 0]) == is_match, kept),
    }  # fmt: skip
    total = config.itc_weight * itc + config.itm_weight * itm + config.mlm_weight * mlm
    return total, (extras | {"queue": stored, "pointer": pointer}, metrics)


def momentum_update(momentum: float, params: Params, extras: Extras) -> Extras:
    """The teacher's EMA of the student, and the count of steps, after the optimiser step."""
    student = {name: params[name] for name in MOMENTUM_PARTS}
    teacher = optax.incremental_update(student, extras["teacher"], 1 - momentum)
    return extras | {"teacher": teacher, "step": extras["step"] + 1}

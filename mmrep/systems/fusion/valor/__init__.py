"""VALOR: alignment and captioning of groups of vision, audio and language (Chen et al. 2023, arXiv 2304.08345).

Section 4.2, multimodal grouping alignment (MGA), equation 1     model.fine_score, model.weights
Section 4.2, audiovisual group: tokens beside each other          model.joined
Section 4.3, multimodal grouping captioning (MGC)                 model.mask_caption, caption_loss
Section 4.1, decoder with cross-attention over video and sound    model.Context, mmrep.nn.encoders.decoder_lm
Captions, one masked token after another                          infer.written, mmrep.generation.text

Not here: weights shared by text encoder and decoder, separate cross-attention of the modalities, and question answering by a prompt.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import symmetric_among, true_of
from mmrep.losses.late_interaction import Padding
from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import CodesEncoder
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.fusion.valor import model
from mmrep.systems.fusion.valor.infer import infer
from mmrep.systems.fusion.valor.model import GROUPS, Valor


@dataclass(frozen=True)
class Config:
    """video, sound, text: encoders, whose tokens are compared and described.   decoder: of captions, with `cross`; None: no captions.
    groups:    that are trained, of "tv", "ta" and "tva".
    score:     "fine" compares tokens; "coarse" pooled vectors, of "tva" the normed map of both.
    padding:   of the fine score: "exclude", or "zero", a padded token's similarity is 0 (the authors' code).   chunk: clips compared at a time.
    dim, temperature: of the contrast; learned.   mask_rate: share of a caption that is masked.   beams: of the search for captions.
    mga_weight, mgc_weight: of alignment and captioning.
    Batches may have `sounds`, 0 where a clip has no sound, and `told` and `shown` (see `mmrep.losses.contrastive.true_of`).
    """

    video: Encoder = CodesEncoder()
    sound: Encoder = CodesEncoder()
    text: TextEncoder = TextEncoder(TransformerConfig(depth=2, norm="post"), pool="cls")
    decoder: DecoderLM | None = DecoderLM(length=32, cross=True)
    groups: tuple[str, ...] = ("tva", "tv", "ta")
    score: Literal["fine", "coarse"] = "fine"
    padding: Padding = "exclude"
    chunk: int = 0
    dim: int = 64
    temperature: float = 0.07
    mask_rate: float = 0.6
    beams: int = 1
    mga_weight: float = 1.0
    mgc_weight: float = 1.0
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "groups": (bool(self.groups) and {*self.groups} <= {*GROUPS}, "choose tv, ta and tva"),
            "score": (self.score in ("fine", "coarse"), "choose fine or coarse"),
            "padding": (self.padding in ("exclude", "zero"), "choose exclude or zero"),
            "chunk": (self.chunk >= 0, "it must be 0 or more"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "mask_rate": (0 < self.mask_rate <= 1, "it must be in (0, 1]"),
            "beams": (self.beams >= 1, "it must be at least 1"),
            "mga_weight": (self.mga_weight > 0, "it must be positive"),
            "mgc_weight": (self.mgc_weight >= 0, "it must be 0 or more"),
            "decoder": (
                self.decoder is None or (self.decoder.cross and self.decoder.length >= self.text.length),
                "it needs cross=True and at least the length of the text encoder",
            ),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        parts = model.valor(
            {"video": self.video, "sound": self.sound, "text": self.text}, self.decoder if self.mgc_weight else None, self.dim,
            1 / self.temperature, self.dtype, score=self.score, groups=self.groups, padding=self.padding, beams=self.beams,
            length=self.text.length,
        )  # fmt: skip
        return System(partial(init, self, parts), stateless(partial(valor_loss, self, parts)), infer(parts))


def init(config: Config, parts: Valor, rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
    """Parameters {"video", "sound", "text", "scale"}, "weigh_*" (fine) or "both" (coarse), and with captions "context" and "decoder"."""
    keys = iter(jax.random.split(jax.random.fold_in(rng, 1), 6))
    params = parts.dual.init(rng, batch)
    outs = {n: parts.dual.full(params, batch, n)[1] for n in ("video", "sound", "text")}
    if config.score == "fine":
        for name, out in outs.items():
            params[f"weigh_{name}"] = parts.weigh.init(next(keys), out["projected"])["params"]
    elif "tva" in config.groups:
        params["both"] = parts.both.init(next(keys), jnp.zeros((1, 2 * config.dim)))["params"]
    if parts.decoder is not None:
        context, made = parts.context.init_with_output(next(keys), *(outs[n]["tokens"] for n in ("video", "sound")))
        params["context"] = made["params"]
        params["decoder"] = parts.decoder.init(next(keys), batch["text"], context=context)["params"]
    return params, {}


def caption_loss(
    logits: Float[Array, "G B L V"], ids: Int[Array, "B L"], target: Bool[Array, "B L"], here: Bool[Array, "G B"]
) -> Float[Array, ""]:
    """L_MGC: the mean over groups of the mean cross-entropy of the masked tokens of the rows that have the group's modalities."""
    counts = target & here[..., None]
    losses = jax.vmap(lambda x, c: masked_mean(token_loss(x, ids, c), c))(logits, counts)
    return masked_mean(losses, here.any(1))


def valor_loss(
    config: Config, parts: Valor, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """L_MGA + L_MGC, each the mean over the groups for which the batch has rows."""
    both = {n: model.encode(parts, params, batch, n) for n in ("video", "sound", "text")}
    sides, scale = {n: side for n, (side, _) in both.items()}, parts.dual.scale(params)
    present = {n: both[n][1]["valid"].any(1) for n in ("video", "sound")}
    here = jnp.stack([jnp.stack([present[n] for n in GROUPS[g]]).all(0) for g in config.groups])
    true = jnp.eye(len(batch["text"]), dtype=bool)
    if {"told", "shown"} <= {*batch}:
        true = true_of(batch["told"], batch["shown"])
    metrics: dict[str, Array] = {"scale": scale}
    for i, group in enumerate(config.groups):
        scores = model.fine_score(
            sides["text"], model.of_group(parts, params, sides, group), config.padding, config.chunk
        )
        metrics[f"mga_{group}"] = symmetric_among(scale * scores, here[i], true)
    mga = masked_mean(jnp.stack([metrics[f"mga_{g}"] for g in config.groups]), here.any(1))
    total = config.mga_weight * mga
    if parts.decoder is not None:
        corrupted, target = model.mask_caption(rng, batch["text"], config.text.vocab, config.mask_rate)
        context = parts.context.apply(
            {"params": params["context"]}, *(both[n][1]["tokens"] for n in ("video", "sound"))
        )
        seen = [
            jnp.concatenate([both[n][1]["valid"] & (n in GROUPS[g]) for n in ("video", "sound")], 1)
            for g in config.groups
        ]
        copies = len(config.groups)
        logits = parts.decoder.apply(
            {"params": params["decoder"]}, jnp.tile(corrupted, (copies, 1)), context=jnp.tile(context, (copies, 1, 1)),
            context_valid=jnp.concatenate(seen),
        )[0]  # fmt: skip
        metrics["mgc"] = caption_loss(logits.reshape(copies, *corrupted.shape, -1), batch["text"], target, here)
        total += config.mgc_weight * metrics["mgc"]
    return total, metrics

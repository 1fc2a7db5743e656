"""PLIP: pre-training for persons by identities, colours and attributes (Zuo et al. 2024, arXiv 2305.08386).

Section 3.2, text-guided image colourisation (TIC)              model.Plip.colours, losses.colour_loss
Section 3.2, image-guided attributes prediction (IAP)           model.Plip.word_logits, losses.mask_attributes
Section 3.2, identity-based vision-language contrast (IVLC)     losses.identity_loss
Fine-tuning, CMPM/C (Zhang and Lu 2018)                         losses.cmpm_loss, losses.cmpc_loss, Config.objective in a second phase

The authors released no pre-training losses: the weights, IAP's fusion encoder and TIC's decoder are reconstructed. A Vision Transformer
takes the place of the modified ResNet-50, and patch tokens that attend to the words that of the multi-scale decoder. The grey picture
goes through the same image encoder as the coloured one, which retrieval uses.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System
from mmrep.systems.contrastive.plip import losses
from mmrep.systems.contrastive.plip.model import Plip

OBJECTIVES = ("identity", "instance", "cmpm")
SCHEDULES = ("linear", "square", "squareroot")


@dataclass(frozen=True)
class Config:
    """A batch has `image`, `text`, `identity` [B] and, for IAP, `attributes`: a text of attribute phrases alone, unknown ones left out.

    objective:  "identity": all pictures and texts of a person are positives of one another.   "instance": InfoNCE of pairs.
                "cmpm": CMPM and CMPC, for fine-tuning.   identities: persons that CMPC classifies; 0: no CMPC.
    colour_weight, attribute_weight: of TIC and IAP; 0: without.   fusion: layers of either fusion encoder.
    mask_rate:  share of attribute tokens that are masked, at the start and after `mask_steps`; `mask_schedule` between them, by the share of
                steps done, its square or its root.
    temperature: of the cosines, fixed.
    """

    image: ImageEncoder = ImageEncoder()
    text: TextEncoder = TextEncoder(TransformerConfig(depth=2, norm="post"), pool="cls")
    dim: int = 64
    objective: Literal["identity", "instance", "cmpm"] = "identity"
    identities: int = 0
    colour_weight: float = 10.0
    attribute_weight: float = 1.0
    fusion: int = 1
    mask_rate: tuple[float, float] = (0.3, 0.3)
    mask_steps: int = 0
    mask_schedule: Literal["linear", "square", "squareroot"] = "linear"
    temperature: float = 0.05
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "objective": (self.objective in OBJECTIVES, f"choose one of {', '.join(OBJECTIVES)}"),
            "mask_schedule": (self.mask_schedule in SCHEDULES, f"choose one of {', '.join(SCHEDULES)}"),
            "mask_rate": (all(0 < r <= 1 for r in self.mask_rate), "shares are in (0, 1]"),
            "colour_weight": (min(self.colour_weight, self.attribute_weight) >= 0, "weights of losses are at least 0"),
            "fusion": (self.fusion >= 1, "it must be at least 1"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "identities": (self.identities >= 0, "it must be at least 0"),
        })  # fmt: skip
        if self.mask_steps < 0:
            raise ConfigError(f"system.mask_steps is {self.mask_steps}: it must be at least 0")

    def build(self) -> System:
        self.check()
        net = Plip(self.image, self.text, self.dim, self.fusion, self.dtype)
        colour, attribute = self.colour_weight > 0, self.attribute_weight > 0

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            params = net.init(rng, batch, colour=colour, attribute=attribute)
            if self.identities:
                weights = jax.nn.initializers.xavier_uniform()(rng, (self.dim, self.identities), jnp.float32)
                params["classes"] = {"kernel": weights}
            return params, {"step": jnp.zeros((), jnp.int32)}

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            (x, seen), (y, told) = (net.dual.full(params, batch, name) for name in ("image", "text"))
            total = self._contrast(params, x, y, batch["identity"])
            metrics = {"contrast": total}
            if colour and self.objective != "cmpm":
                metrics["colour"] = losses.colour_loss(net.colour_patches(params, batch["image"], told), batch["image"], self.image.patch)  # fmt: skip
                total += self.colour_weight * metrics["colour"]
            if attribute and self.objective != "cmpm":
                rate = losses.mask_rate_at(extras["step"], self.mask_steps, self.mask_rate, self.mask_schedule)
                ids, target = losses.mask_attributes(rng, batch["attributes"], rate)
                logits = net.word_logits(params, ids, seen["patches"])
                metrics["attribute"] = masked_mean(token_loss(logits, batch["attributes"], target), target)
                metrics["attribute_accuracy"] = masked_mean(logits.argmax(-1) == batch["attributes"], target)
                total += self.attribute_weight * metrics["attribute"]
            return total, (extras, metrics)

        def of(name: str) -> Infer:
            return lambda params, extras, batch: l2_normalise(net.dual.embed(params, batch, name))

        infer: dict[str, Infer] = dict(net.dual.infer()) | {"image": of("image"), "text": of("text")}
        if colour:
            infer["colours"] = net.colours
        if attribute:
            infer["words"] = net.words
        return System(init, loss, infer, lambda params, extras: {"step": extras["step"] + 1})

    def _contrast(self, params: Params, x: Array, y: Array, ids: Array) -> Float[Array, ""]:
        if self.objective == "cmpm":
            value = losses.cmpm_loss(x, y, ids).mean()
            kernel: Any = params["classes"]["kernel"] if self.identities else None
            return value if kernel is None else value + losses.cmpc_loss(x, y, kernel, ids).mean()
        u, v, scale = l2_normalise(x), l2_normalise(y), 1 / self.temperature
        if self.objective == "instance":
            return 2 * symmetric_info_nce(u, v, scale).mean()
        return losses.identity_loss(u, v, scale, ids).mean()

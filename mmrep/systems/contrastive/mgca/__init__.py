"""MGCA: radiographs and reports aligned as wholes, token by token, and by prototypes (Wang et al., NeurIPS 2022, arXiv 2210.06044).

Multi-Granularity Cross-modal Alignment for Generalized Medical Visual Representation Learning.

Section 3.2, instance-wise alignment                       losses.ita_loss
Section 3.3, bidirectional cross-attention, token-wise     losses.token_contrast, losses.cta_loss
Section 3.4, assignments to prototypes by Sinkhorn         losses.sinkhorn
Section 3.4, each modality predicts the other's            losses.cpa_loss
Total, weights 1, 0.7, 0.5                                 Config.ita, Config.cta, Config.cpa
Prototypes frozen in the first epoch                       WARM, Phase.trainable

Heads are linear maps or two layers without batch norm, whose statistics the authors take over padding, too. Tokens have equal weights, for
the authors' come from the encoders' attention. Words are those of the tokenizer: word pieces are not summed.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import Projection
from mmrep.system import Batch, Metrics, Params, System, stateless
from mmrep.systems.contrastive.mgca.losses import cpa_loss, cta_loss, ita_loss, prototype_scores

WARM = ("(image|text).*",)
"""`Phase.trainable` of the first epoch: all but the prototypes."""


@dataclass(frozen=True)
class Config:
    """Parameters: image, text (with the heads of whole inputs), image_local, text_local (the heads of tokens), prototypes.

    hidden: width of the heads' hidden layer; None: linear heads.   ita, cta, cpa: weights of the three losses; at 0 a loss is left out.
        Without cta the heads of tokens are not trained, and tokens have the heads of whole inputs.
    temperature, token_temperature, prototype_temperature: of the three losses, fixed.
    bidirectional: patches over words beside words over patches.   normalise_patches: what patches attend to has unit length.
    mask_padding: padding is no negative among words (False is the authors' way).
    prototypes: their number.   epsilon, iterations: of their assignment.
    shuffled:  prototypes are predicted from the report of another radiograph, an ablation.
    """

    image: Encoder = ImageEncoder(pool="cls")
    text: TextEncoder = TextEncoder(TransformerConfig(depth=2, norm="post"), pool="cls")
    dim: int = 128
    hidden: int | None = None
    ita: float = 1.0
    cta: float = 0.7
    cpa: float = 0.5
    temperature: float = 0.07
    token_temperature: float = 0.1
    prototype_temperature: float = 0.2
    bidirectional: bool = True
    normalise_patches: bool = False
    mask_padding: bool = True
    prototypes: int = 500
    epsilon: float = 0.05
    iterations: int = 3
    shuffled: bool = False
    dtype: str = "float32"

    def check(self) -> None:
        temperatures = self.temperature, self.token_temperature, self.prototype_temperature, self.epsilon
        check_fields(self, {
            "ita": (min(self.ita, self.cta, self.cpa) >= 0, "weights of losses are at least 0"),
            "temperature": (all(0 < t < math.inf for t in temperatures), "temperatures and epsilon are positive and finite"),
            "prototypes": (self.prototypes >= 2, "give at least 2"),
            "iterations": (self.iterations >= 1, "it must be at least 1"),
            "hidden": (self.hidden is None or self.hidden >= 1, "it must be at least 1, or None"),
        })  # fmt: skip
        if not self.ita + self.cta + self.cpa:
            raise ConfigError("system.ita, cta and cpa are all 0: give one of the losses a weight")

    def build(self) -> System:
        self.check()
        encoders, kind = {"image": self.image, "text": self.text}, jnp.dtype(self.dtype)
        model = dual_encoder(encoders, self.dim, hidden=self.hidden, dtype=self.dtype)
        local = Projection(self.dim, self.hidden, dtype=kind)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params = model.init(rng, batch)
            del params["scale"]
            *keys, last = jax.random.split(jax.random.fold_in(rng, 1), 3)
            for name, key in zip(model.names, keys):
                params[f"{name}_local"] = local.init(key, seen(params, batch, name)[1])["params"]
            params["prototypes"] = jax.random.normal(last, (self.prototypes, self.dim), jnp.float32)
            return params, {}

        def seen(params: Params, batch: Batch, name: str) -> tuple[Array, Float[Array, "B N W"], Bool[Array, "B N"]]:
            whole, out = model.full(params, batch, name)
            tokens = out.get("patches", out["tokens"])
            return whole, tokens, out.get("valid", jnp.ones(tokens.shape[:2], bool))

        def both(params: Params, batch: Batch, name: str) -> tuple[Float[Array, "B D"], Float[Array, "B N D"], Any]:
            whole, tokens, valid = seen(params, batch, name)
            head = params[f"{name}_local"] if self.cta else params[name]["projection"]
            return whole, local.apply({"params": head}, tokens).astype(jnp.float32), valid

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            (v, patches, _), (t, tokens, valid) = (both(params, batch, name) for name in model.names)
            total, metrics = jnp.zeros(()), {"cosine": (v * t).sum(-1).mean()}
            if self.ita:
                metrics["ita"] = ita_loss(v, t, 1 / self.temperature).mean()
                total += self.ita * metrics["ita"]
            if self.cta:
                # The first token is that of the whole report, no word.
                metrics["cta"] = cta_loss(
                    patches, tokens[:, 1:], valid[:, 1:], self.token_temperature, self.bidirectional, self.normalise_patches,
                    mask_columns=self.mask_padding,
                ).mean()  # fmt: skip
                total += self.cta * metrics["cta"]
            if self.cpa:
                other = t[jax.random.permutation(rng, len(t))] if self.shuffled else t
                z_v, z_t = (prototype_scores(x, params["prototypes"]) for x in (v, other))
                metrics["cpa"] = cpa_loss(z_v, z_t, self.prototype_temperature, self.epsilon, self.iterations).mean()
                metrics["same_prototype"] = (z_v.argmax(1) == z_t.argmax(1)).mean(dtype=jnp.float32)
                total += self.cpa * metrics["cpa"]
            return total, metrics

        def of(name: str) -> dict[str, Any]:
            return {
                f"{name}_tokens": lambda params, extras, batch: both(params, batch, name)[1:],
                f"{name}_prototypes": lambda params, extras, batch: prototype_scores(
                    model.embed(params, batch, name), params["prototypes"]
                ),
            }

        return System(init, stateless(loss), model.infer() | of("image") | of("text"))

"""XBT: queries of a new image-text model on the stored gallery of an old one (Jang and Lim, ICCV 2025).

| paper                                                                | function                                          |
|----------------------------------------------------------------------|---------------------------------------------------|
| phi, the projection of the new space into the old one                | model.Phi                                         |
| stage 1: phi learned from texts alone                                | model.text_loss, Config.stage "text"              |
| stage 2: few pairs, low-rank adapters, phi(t_new) in place of t_old  | model.pairs_loss, Config.stage "pairs", nn.lora   |
| rival: the orthogonal map between both models' texts                 | procrustes_phi                                    |
| compatibility criterion and negative flips                           | evals.Compatibility                               |

Reconstructed: no code is published. The paper's summary fixes the stages, what each trains, and the surrogate; the depth of phi, the rank of the
adapters and the equal weights of the second stage are choices. The regression term of the first stage is an addition (`regression=0`: none).
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep import solvers
from mmrep.data.pipeline import embed_rows
from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn import lora
from mmrep.nn.dual import DualEncoder, Encoder, dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import LogScale
from mmrep.system import Batch, Metrics, Params, System, stateless
from mmrep.systems.retrieval.xbt.model import Phi, noisy, pairs_loss, text_loss

NAMES = ("image", "text")
STAGES = ("old", "new", "text", "pairs")


@dataclass(frozen=True)
class DualConfig:
    """One of the two models, with the parameters of a CLIP of these encoders and this `dim`."""

    image: Encoder = ImageEncoder()
    text: Encoder = TextEncoder()
    dim: int = 64

    def model(self, dtype: str) -> DualEncoder:
        return dual_encoder({"image": self.image, "text": self.text}, self.dim, dtype=dtype)


@dataclass(frozen=True)
class Config:
    """old, new: the two models, trained in the stages "old" and "new" as CLIP is, or started from trained ones (Phase.start with the
               prefixes "old/" and "new/"). Both have the tokenizer of the experiment.
    stage:     "text" trains phi on the batch's texts; "pairs" trains phi and the adapters on images and texts. The phase freezes the rest.
    hidden:    width of phi's hidden layer; None: phi is linear.
    regression: weight of |phi(t_new) - t_old|^2 in the stage "text".   noise: length of the noise added to t_new there, of a unit vector.
    shuffled:  the stage "text" compares with the old embedding of another text (an ablation).
    lora_pattern, lora_rank, lora_scale: of the new encoders' Dense layers, see `mmrep.nn.lora`; rank 0: no adapters.
    """

    old: DualConfig = DualConfig()
    new: DualConfig = DualConfig()
    stage: Literal["old", "new", "text", "pairs"] = "text"
    hidden: int | None = 256
    temperature: float = 0.07
    regression: float = 1.0
    noise: float = 0.0
    shuffled: bool = False
    lora_pattern: str = r".*attn/(query|key|value|out)"
    lora_rank: int = 16
    lora_scale: float = 1.0
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "stage": (self.stage in STAGES, f"choose one of {', '.join(STAGES)}"),
            "hidden": (self.hidden is None or self.hidden > 0, "it must be positive, or None for a linear phi"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "regression": (self.regression >= 0, "it must be at least 0"),
            "noise": (self.noise >= 0, "it must be at least 0"),
            "lora_rank": (self.lora_rank >= 0, "it must be at least 0"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        old, new = self.old.model(self.dtype), self.new.model(self.dtype)
        phi, log_scale = Phi(self.old.dim, self.hidden), LogScale(1 / self.temperature)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            keys = jax.random.split(rng, 4)
            params: Params = {"old": old.init(keys[0], batch), "new": new.init(keys[1], batch)}
            params["phi"] = phi.init(keys[2], jnp.zeros((1, self.new.dim), jnp.float32))["params"]
            params["scale"] = log_scale.init(keys[2])["params"]
            if self.lora_rank:
                params["lora"] = lora.init(keys[3], params["new"], self.lora_pattern, self.lora_rank)
            return params, {}

        def project(params: Params, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
            return phi.apply({"params": params["phi"]}, x)

        def upgraded(params: Params, batch: Batch, name: str) -> Float[Array, "B E"]:
            adapted = lora.merge(params["new"], params.get("lora", {}), self.lora_scale)
            return project(params, new.embed(adapted, batch, name))

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            if len(batch["text"]) < 2:
                raise ConfigError("data.batch_size is 1: a contrast needs at least 2 rows")
            if self.stage in ("old", "new"):
                model, own = (old, params["old"]) if self.stage == "old" else (new, params["new"])
                x, y = (model.embed(own, batch, n) for n in NAMES)
                return symmetric_info_nce(x, y, model.scale(own)).mean(), {"scale": model.scale(own)}
            scale = log_scale.apply({"params": params["scale"]})
            text = jax.lax.stop_gradient(new.embed(params["new"], batch, "text"))
            if self.stage == "text":
                target = jax.lax.stop_gradient(old.embed(params["old"], batch, "text"))
                target = jnp.roll(target, 1, axis=0) if self.shuffled else target
                found = project(params, noisy(rng, text, self.noise) if self.noise else text)
                value = text_loss(found, target, scale, self.regression).mean()
                return value, {"scale": scale, "cosine": (found * target).sum(-1).mean()}
            image, adapted = (upgraded(params, batch, n) for n in NAMES)
            surrogate = project(params, text)
            value = pairs_loss(image, adapted, surrogate, scale).mean()
            return value, {"scale": scale, "cosine": (image * adapted).sum(-1).mean()}

        infer: dict[str, Any] = {n: lambda params, extras, batch, n=n: upgraded(params, batch, n) for n in NAMES}
        for when, model in (("old", old), ("new", new)):
            infer |= {
                f"{when}_{n}": lambda params, extras, batch, n=n, m=model, w=when: m.embed(params[w], batch, n)
                for n in NAMES
            }
        return System(init, stateless(loss), infer)


def procrustes_phi(params: Params, extras: dict, context: Any) -> tuple[Params, dict]:
    """A phase in place of the stage "text": a linear phi becomes the orthogonal map from the new texts of the split to the old ones.

    Raises ConfigError where phi has a hidden layer, or the old space has more dimensions than the new one.
    """
    if "out" not in params["phi"] or "hidden" in params["phi"]:
        raise ConfigError("procrustes_phi needs system.hidden = None: a linear phi")

    def texts(model: str) -> Float[np.ndarray, "N D"]:
        run = jax.jit(context.system.infer[f"{model}_text"])
        return embed_rows(lambda batch: run(params, extras, batch), context.split, len(context.split))

    new, old = texts("new"), texts("old")
    missing = new.shape[1] - old.shape[1]
    if missing < 0:
        raise ConfigError(f"system.old.dim {old.shape[1]} is above system.new.dim {new.shape[1]}: no orthogonal map")
    # Into a subspace: the other coordinates of the image are those of zeros.
    rotation = solvers.procrustes(new, np.pad(old, ((0, 0), (0, missing))))[:, : old.shape[1]]
    kernel = params["phi"]["out"]["kernel"]
    return params | {"phi": {"out": {"kernel": jnp.asarray(rotation, kernel.dtype)}}}, extras

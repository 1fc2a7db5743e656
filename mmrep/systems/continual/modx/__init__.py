"""Mod-X: learning one domain after another while the old model's similarities are kept (Ni et al. 2023, arXiv 2305.07437).

The stream is `Experiment.phases`: a phase per domain, each but the first beginning with `snapshot`, which makes the model as it then is the
frozen teacher. Set alpha = 0 in the first phase (`Phase.system`): there is nothing to keep yet.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import similarity, symmetric_info_nce
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.continual.modx.model import (
    cosine_distillation,
    mse_distillation,
    right_rows,
    similarity_distillation,
)


@dataclass(frozen=True)
class Config:
    """alpha:       weight of the distillation; 0 is plain continual training, and no teacher is asked.
    keep:        what of the old model is kept.  "matrix" is Mod-X: its distribution over the batch, row by row and column by column.
                 "diagonal": only the cosines of the true pairs.  "features": the embeddings themselves (as in LwF).
    screen:      leave out rows, and columns, on which the old model is wrong ("cognition align").
    reduction:   of the distillation over the batch. The authors sum, so alpha = 20 is for "sum"; with "mean" multiply it by the batch.
    distil_temperature: of both similarity matrices in it; 1 is the raw cosines of the authors.   temperature: of the contrastive loss.
    """

    image: ImageEncoder = ImageEncoder()
    text: TextEncoder = TextEncoder()
    dim: int = 64
    alpha: float = 20.0
    keep: Literal["matrix", "diagonal", "features"] = "matrix"
    screen: bool = True
    reduction: Literal["sum", "mean"] = "sum"
    distil_temperature: float = 1.0
    temperature: float = 0.07
    dtype: str = "float32"

    def build(self) -> System:
        self._check()
        encoders = {"image": self.image, "text": self.text}
        model = dual_encoder(encoders, self.dim, scale=1 / self.temperature, max_scale=100.0, dtype=self.dtype)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return snapshot(model.init(rng, batch), {})

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            if batch["text"].shape[0] < 2:
                raise ConfigError("data.batch_size is 1: a similarity matrix needs at least 2 pairs")
            x, y, scale = model.embed(params, batch, "image"), model.embed(params, batch, "text"), model.scale(params)
            contrast = symmetric_info_nce(x, y, scale).mean()
            metrics = {"contrast": contrast, "scale": scale}
            if not self.alpha:
                return contrast, (extras, metrics)
            teacher = jax.lax.stop_gradient(extras["teacher"])
            old = model.embed(teacher, batch, "image"), model.embed(teacher, batch, "text")
            kept = self.distil(*old, x, y)
            m = similarity(*old)
            right = 0.5 * (right_rows(m).mean(dtype=jnp.float32) + right_rows(m.T).mean(dtype=jnp.float32))
            return contrast + self.alpha * kept, (extras, metrics | {"distil": kept, "teacher_right": right})

        return System(init, loss, model.infer())

    def distil(
        self, old_x: Float[Array, "B D"], old_y: Float[Array, "B D"], x: Float[Array, "B D"], y: Float[Array, "B D"]
    ) -> Float[Array, ""]:
        """L_KD of unit image (x) and text (y) embeddings of one batch, under the old model and the new."""
        if self.keep == "features":
            values = 0.5 * (cosine_distillation(old_x, x) + cosine_distillation(old_y, y))
        elif self.keep == "diagonal":
            values = mse_distillation((old_x * old_y).sum(-1, keepdims=True), (x * y).sum(-1, keepdims=True))
        else:
            old, new = similarity(old_x, old_y), similarity(x, y)
            values = similarity_distillation(old, new, self.distil_temperature, self.screen)
        return values.sum() if self.reduction == "sum" else values.mean()

    def _check(self) -> None:
        if self.alpha < 0:
            raise ConfigError(f"system.alpha is {self.alpha}: the weight of a loss is at least 0")
        if self.keep not in ("matrix", "diagonal", "features"):
            raise ConfigError(f"system.keep is {self.keep!r}: choose matrix, diagonal or features")
        if self.reduction not in ("sum", "mean"):
            raise ConfigError(f"system.reduction is {self.reduction!r}: choose sum or mean")
        for name in ("distil_temperature", "temperature"):
            if not 0.01 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"system.{name} is {getattr(self, name)}: it must lie in [0.01, 1]")


def snapshot(params: Params, extras: Extras) -> tuple[Params, Extras]:
    """`Phase.begin`: the model at the end of the phase before becomes the teacher. Copies, since the state is donated."""
    return params, extras | {"teacher": jax.tree.map(jnp.copy, {n: params[n] for n in ("image", "text")})}

"""Mod-X: continual training that distils the old model's similarity matrix (Ni et al. 2023, arXiv 2305.07437).

Section 3, rotations within and between modalities     evals.sam, evals.ram
Equations 5 to 7, distillation with cognition align    model.similarity_distillation, model.modx_loss
Total loss, contrast + alpha * distillation            Config.alpha, Config.build

The stream is `Experiment.phases`: a phase per domain, each but the first beginning with `snapshot`, which makes the current model the frozen
teacher. Set alpha = 0 in the first phase (`Phase.system`): there is no old model yet.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.blocks import Blocks
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.continual.modx.model import Pair, diagonal_distillation, feature_distillation, modx_loss


@dataclass(frozen=True)
class Config:
    """alpha:     weight of the distillation; 0 is plain continual training without a teacher.
    distil:       "matrix" is Mod-X: the old model's distribution over the batch, row by row and column by column.
                  "diagonal": only the cosines of the true pairs.  "features": the embeddings themselves (as in LwF).
    screen:       leave out rows, and columns, in which the old model is wrong ("cognition align").
    reduction:    of the distillation over the batch. The authors sum, so alpha = 20 is for "sum"; with "mean" multiply it by the batch.
    distil_temperature: of both similarity matrices in it; 1 is the raw cosines of the authors.   temperature: of the contrastive loss.
    large_batch:  see LargeBatch.
    """

    image: ImageEncoder = ImageEncoder()
    text: TextEncoder = TextEncoder()
    dim: int = 64
    alpha: float = 20.0
    distil: Literal["matrix", "diagonal", "features"] = "matrix"
    screen: bool = True
    reduction: Literal["sum", "mean"] = "sum"
    distil_temperature: float = 1.0
    temperature: float = 0.07
    dtype: str = "float32"
    large_batch: LargeBatch = LargeBatch()

    def check(self) -> None:
        check_fields(self, {
            "alpha": (self.alpha >= 0, "the weight of a loss is at least 0"),
            "distil": (self.distil in ("matrix", "diagonal", "features"), "choose matrix, diagonal or features"),
            "reduction": (self.reduction in ("sum", "mean"), "choose sum or mean"),
            "distil_temperature": (0.01 <= self.distil_temperature <= 1.0, "it must be in [0.01, 1]"),
            "temperature": (0.01 <= self.temperature <= 1.0, "it must be in [0.01, 1]"),
        })  # fmt: skip
        self.large_batch.check()

    def chance_loss(self, batch_size: int) -> float:
        """The contrastive loss at equal logits for all pairs of a batch."""
        return math.log(batch_size)

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            {"image": self.image, "text": self.text}, self.dim,
            scale=1 / self.temperature, max_scale=100.0, dtype=self.dtype,
        )  # fmt: skip
        parts, blocks = self.large_batch.micro_batches, self.large_batch.blocks()

        def embed(params: Params, batch: Batch) -> Pair:
            return in_micro_batches(lambda part: tuple(model.embed(params, part, n) for n in model.names), batch, parts)

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            if len(batch["text"]) < 2:
                raise ConfigError("data.batch_size is 1: a similarity matrix needs at least 2 pairs")
            student, scale = embed(params, batch), model.scale(params)
            contrast = symmetric_info_nce(*student, scale, blocks=blocks).mean()
            metrics = {"contrast": contrast, "scale": scale}
            if not self.alpha:
                return contrast, (extras, metrics)
            teacher = embed(jax.lax.stop_gradient(extras["teacher"]), batch)
            kept, right = distillation(self, teacher, student, blocks)
            return contrast + self.alpha * kept, (extras, metrics | {"distil": kept, "teacher_right": right})

        return System(lambda rng, batch: snapshot(model.init(rng, batch), {}), loss, model.infer())


def distillation(
    config: Config, teacher: Pair, student: Pair, blocks: Blocks | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(L_KD of unit image and text embeddings of one batch; the share of rows and columns in which the teacher is right)."""
    values, right = modx_loss(teacher, student, config.distil_temperature, config.screen, blocks)
    if config.distil == "features":
        image, text = (feature_distillation(old, new) for old, new in zip(teacher, student))
        values = 0.5 * (image + text)
    elif config.distil == "diagonal":
        values = diagonal_distillation(teacher, student)
    return values.sum() if config.reduction == "sum" else values.mean(), right


def snapshot(params: Params, extras: Extras) -> tuple[Params, Extras]:
    """`Phase.begin`: the model at the end of the previous phase becomes the teacher. Copies, since the state is donated."""
    return params, extras | {"teacher": jax.tree.map(jnp.copy, {n: params[n] for n in ("image", "text")})}

"""ALIGN: a dual encoder trained on noisy image-text pairs (Jia et al. 2021, arXiv 2102.05918).

Section 3, frequency-based filtering             data.keep_pairs
Equations 1 and 2, with label smoothing          align_loss
Learned temperature                              Config.temperature, mmrep.nn.heads.LogScale
Section 5.4, image plus or minus text queries    mmrep.evals.arithmetic
"""

import math
from dataclasses import dataclass

from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.blocks import Blocks
from mmrep.losses.contrastive import Scalar, symmetric_info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.system import Batch, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Config:
    """smoothing: eps of the smoothed one-hot targets.   temperature: at the start, learned in [0.01, 1] through its logarithm.

    dim: of the embeddings.   large_batch: see LargeBatch.
    """

    image: ImageEncoder = ImageEncoder()
    text: TextEncoder = TextEncoder()
    dim: int = 64
    smoothing: float = 0.1
    temperature: float = 1.0
    dtype: str = "float32"
    large_batch: LargeBatch = LargeBatch()

    def check(self) -> None:
        check_fields(self, {
            "smoothing": (0.0 <= self.smoothing < 1.0, "it must be in [0, 1)"),
            "temperature": (0.01 <= self.temperature <= 1.0, "it must be in [0.01, 1]"),
        })  # fmt: skip
        self.large_batch.check()

    def chance_loss(self, batch_size: int) -> float:
        """The loss at equal logits for all pairs of a batch."""
        return 2 * math.log(batch_size)

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            {"image": self.image, "text": self.text}, self.dim,
            scale=1 / self.temperature, max_scale=100.0, dtype=self.dtype,
        )  # fmt: skip
        parts, blocks = self.large_batch.micro_batches, self.large_batch.blocks()

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y = in_micro_batches(lambda part: [model.embed(params, part, n) for n in model.names], batch, parts)
            scale = model.scale(params)
            value = align_loss(x, y, scale, self.smoothing, blocks).mean()
            return value, {"scale": scale, "cosine": (x * y).sum(-1).mean()}

        return System(lambda rng, batch: (model.init(rng, batch), {}), stateless(loss), model.infer())


def align_loss(
    x: Float[Array, "B D"], y: Float[Array, "B D"], scale: Scalar, smoothing: float = 0.0, blocks: Blocks | None = None
) -> Float[Array, " B"]:
    """L_i2t + L_t2i of each pair of unit rows, with targets smoothed over the global batch (equations 1 and 2: a sum, not a mean).

    scale: 1 / temperature.   Raises ConfigError for a single pair, which has no negatives.
    """
    if len(x) < 2:
        raise ConfigError("data.batch_size is 1: a contrast needs at least 2 pairs")
    return 2 * symmetric_info_nce(x, y, scale, smoothing=smoothing, blocks=blocks)

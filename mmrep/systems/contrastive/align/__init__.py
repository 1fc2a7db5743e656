"""ALIGN: a plain dual encoder trained on noisy pairs (Jia et al. 2021, arXiv 2102.05918)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import Scalar, symmetric_info_nce
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.system import Batch, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Config:
    """smoothing: eps of the smoothed one-hot targets.   sigma: initial temperature, kept in [0.01, 1] through its logarithm."""

    image: ImageEncoder = ImageEncoder()
    text: TextEncoder = TextEncoder()
    dim: int = 64
    smoothing: float = 0.1
    sigma: float = 1.0
    dtype: str = "float32"

    def build(self) -> System:
        if not 0.0 <= self.smoothing < 1.0:
            raise ConfigError(f"system.smoothing is {self.smoothing}: it must lie in [0, 1)")
        if not 0.01 <= self.sigma <= 1.0:
            raise ConfigError(f"system.sigma is {self.sigma}: a temperature lies in [0.01, 1]")
        encoders = {"image": self.image, "text": self.text}
        model = dual_encoder(encoders, self.dim, scale=1 / self.sigma, max_scale=100.0, dtype=self.dtype)

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y, scale = model.embed(params, batch, "image"), model.embed(params, batch, "text"), model.scale(params)
            loss = align_loss(x, y, scale, self.smoothing).mean()
            return loss, {"scale": scale, "cosine": (x * y).sum(-1).mean()}

        return System(lambda rng, batch: (model.init(rng, batch), {}), stateless(loss), model.infer())


def align_loss(
    x: Float[Array, "B D"], y: Float[Array, "B D"], scale: Scalar, smoothing: float = 0.0
) -> Float[Array, " B"]:
    """L_i2t + L_t2i of each pair of unit rows, with smoothed targets over the global batch (equations 1 and 2: a sum, not a mean).

    Raises ConfigError for a single pair, which has no negatives.
    """
    if len(x) < 2:
        raise ConfigError("data.batch_size is 1: a contrast needs at least 2 pairs")
    return 2 * symmetric_info_nce(x, y, scale, smoothing=smoothing)


def keep_pairs(
    texts: Sequence[str], images: Sequence[int], *, max_images: int = 10, max_texts: int = 1000,
    min_words: int = 3, max_words: int = 20, vocabulary: int = 100_000_000,
) -> Bool[np.ndarray, " N"]:  # fmt: skip
    """Which (text, image id) pairs survive the frequency filters of section 3.

    A text goes where more than `max_images` images share it, where it has fewer than `min_words` or more than `max_words`
    unigrams, or a unigram or bigram outside the `vocabulary` most frequent; an image goes with more than `max_texts` texts.
    """
    words = [t.lower().split() for t in texts]
    grams = [[*w, *pairwise(w)] for w in words]
    frequent = {g for g, _ in Counter(g for row in grams for g in row).most_common(vocabulary)}
    sharing = Counter(t for t, _ in set(zip(texts, images)))
    captions = Counter(i for _, i in set(zip(texts, images)))
    return np.array(
        [
            sharing[t] <= max_images and captions[i] <= max_texts and min_words <= len(w) <= max_words
            and all(g in frequent for g in row)
            for t, i, w, row in zip(texts, images, words, grams)
        ],
        bool,
    )  # fmt: skip

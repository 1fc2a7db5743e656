"""ALIGN: a plain dual encoder trained on noisy pairs (Jia et al. 2021, arXiv 2102.05918)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.data.scenes.rgb import rgb
from mmrep.data.scenes.world import COLOURS, recolour
from mmrep.errors import ConfigError
from mmrep.evals import zero_shot
from mmrep.evals.view import View
from mmrep.losses.contrastive import Scalar, symmetric_info_nce
from mmrep.nn.heads import l2_normalise
from mmrep.nn.towers import ImageTower, TextTower, encoders
from mmrep.system import Batch, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Config:
    """smoothing: eps of the smoothed one-hot targets.   sigma: initial temperature, kept in [0.01, 1] through its logarithm."""

    image: ImageTower = ImageTower()
    text: TextTower = TextTower()
    dim: int = 64
    smoothing: float = 0.1
    sigma: float = 1.0
    dtype: str = "float32"

    def build(self) -> System:
        if not 0.0 <= self.smoothing < 1.0:
            raise ConfigError(f"system.smoothing is {self.smoothing}: it must lie in [0, 1)")
        if not 0.01 <= self.sigma <= 1.0:
            raise ConfigError(f"system.sigma is {self.sigma}: a temperature lies in [0.01, 1]")
        towers = {"image": self.image, "text": self.text}
        model = encoders(towers, self.dim, scale=1 / self.sigma, max_scale=100.0, dtype=self.dtype)

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


def compose(
    image: Float[Array | np.ndarray, "B D"], text: Float[Array | np.ndarray, "B D"], weight: float = 1.0
) -> Float[Array, "B D"]:
    """Query arithmetic: norm(x_img + weight * y_text); a negative weight subtracts (section 5.4)."""
    return l2_normalise(jnp.asarray(image + weight * text))


@dataclass(frozen=True)
class QueryArithmetic:
    """Image + new colour - old colour, over a gallery of every recolouring of the first object; the original is left out.

    A colour's embedding is the mean over "a {size} {colour} {shape}". The right answer is the same scene in the new colour. "image-only" and "text-only" are the halves of the query.
    """

    colours: tuple[str, ...]
    n: int = 100
    weight: float = 1.0
    image: str = "image"
    split: str = "test"
    name: str = "arithmetic"

    def run(self, view: View) -> dict[str, float]:
        source = view.data.source
        found = source.scenes(self.split, slice(0, self.n))
        known = np.array([COLOURS.index(c) for c in self.colours])
        old = np.array([int(np.flatnonzero(known == c)[0]) for c in found.colour[:, 0]])
        new = (old + 1 + np.arange(len(old)) % (len(known) - 1)) % len(known)
        pictures = [rgb(recolour(found, 0, int(c)), source.size, source.seed, source.grain) for c in known]
        gallery = np.stack(
            [view.embed_raw(self.image, {self.image: list(p)}) for p in pictures], axis=1
        )  # [n, colours, D]
        templates = [f"a {size} {{}} {shape}" for size in source.world.sizes for shape in source.world.shapes]
        words = view.embed_raw("text", {"text": [t.format(c) for c in self.colours for t in templates]})
        words = zero_shot.class_embeddings(words.reshape(len(self.colours), len(templates), -1))
        rows = np.arange(len(old))
        image, change = gallery[rows, old], words[new] - words[old]
        queries = {"accuracy": compose(image, change, self.weight), "image-only": image, "text-only": words[new]}
        scores = {}
        for name, query in queries.items():
            s = np.einsum("qd,ncd->qnc", np.asarray(query), gallery)
            s[rows, rows, old] = -np.inf
            best = s.reshape(len(old), -1).argmax(1)
            scores[f"{self.name} {name}"] = float(np.mean(best == rows * len(known) + new))
        return scores


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

"""Query arithmetic: an image plus a text, or minus one, finds the changed image (Jia et al. 2021, ALIGN, section 5.4)."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmrep.data.scenes.rgb import rgb
from mmrep.data.scenes.world import COLOURS, recolour
from mmrep.evals import zero_shot
from mmrep.model import Model
from mmrep.nn.heads import l2_normalise


def compose(
    image: Float[Array | np.ndarray, "B D"], text: Float[Array | np.ndarray, "B D"], weight: float = 1.0
) -> Float[Array, "B D"]:
    """Query arithmetic: norm(x_img + weight * y_text); a negative weight subtracts (section 5.4)."""
    return l2_normalise(jnp.asarray(image + weight * text))


@dataclass(frozen=True)
class QueryArithmetic:
    """Image + new colour - old colour, over a gallery of every recolouring of the first object; the original is left out.

    A colour's embedding is the mean over "a {size} {colour} {shape}". The right answer is the same scene in the new colour. The metrics
    "image-only" and "text-only" use one half of the query. Needs a source of rendered scenes (`mmrep.data.scenes.SceneData`).
    """

    colours: tuple[str, ...]
    n: int = 100
    weight: float = 1.0
    image: str = "image"
    split: str = "test"
    name: str = "arithmetic"

    def run(self, model: Model) -> dict[str, float]:
        source = model.data.source
        found = source.scenes(self.split, slice(0, self.n))
        known = np.array([COLOURS.index(c) for c in self.colours])
        old = np.array([int(np.flatnonzero(known == c)[0]) for c in found.colour[:, 0]])
        new = (old + 1 + np.arange(len(old)) % (len(known) - 1)) % len(known)
        pictures = [rgb(recolour(found, 0, int(c)), source.size, source.seed, source.grain) for c in known]
        gallery = np.stack(
            [model.call(self.image, **{self.image: list(p)}) for p in pictures], axis=1
        )  # [n, colours, D]
        templates = [f"a {size} {{}} {shape}" for size in source.world.sizes for shape in source.world.shapes]
        words = model.call("text", text=[t.format(c) for c in self.colours for t in templates])
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

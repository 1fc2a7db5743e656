"""Mod-X: learning one domain after another while the old model's similarities are kept (Ni et al. 2023, arXiv 2305.07437).

The stream is `Experiment.phases`: a phase per domain, each but the first beginning with `snapshot`, which makes the model as it then is the
frozen teacher. Set alpha = 0 in the first phase (`Phase.system`): there is nothing to keep yet.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.data.scenes import Joint
from mmrep.errors import ConfigError
from mmrep.evals import retrieval
from mmrep.evals.view import View
from mmrep.losses.contrastive import similarity, symmetric_info_nce
from mmrep.nn.towers import ImageTower, TextTower, encoders
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

    image: ImageTower = ImageTower()
    text: TextTower = TextTower()
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
        towers = {"image": self.image, "text": self.text}
        model = encoders(towers, self.dim, scale=1 / self.temperature, max_scale=100.0, dtype=self.dtype)

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


@dataclass(frozen=True)
class Domain:
    """One source of a `Joint`, with the words of all: an experiment gets the same tokenizer whichever phases of the stream it has."""

    stream: Joint
    index: int

    def open(self, split: str) -> Sequence[dict[str, Any]]:
        return self.stream.sources[self.index].open(split)

    def texts(self, split: str) -> Iterator[str]:
        return self.stream.texts(split)

    def view(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        return self.stream.sources[self.index].view(record, rng)


def ram(old: Float[np.ndarray, "N D"], new: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
    """Rotation angle, in degrees, of each sample's unit embedding from the old model to the new (section 3.3)."""
    return np.degrees(np.arccos(np.clip((retrieval.unit(old) * retrieval.unit(new)).sum(-1), -1.0, 1.0)))


def sam(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N N"]:
    """Angles, in degrees, between all samples of one modality inside one model: unchanged by any rotation (section 3.2)."""
    u = retrieval.unit(x)
    return np.degrees(np.arccos(np.clip(u @ u.T, -1.0, 1.0)))


@dataclass(frozen=True)
class Domains:
    """R@1, mean of both directions, in each domain of a `Joint` source among that domain's own pairs; and their mean, and the first."""

    names: tuple[str, ...]
    split: str = "test"

    def run(self, view: View) -> dict[str, float]:
        x, y, domain = (
            view.embed("image", self.split),
            view.embed("text", self.split),
            view.column("source", self.split),
        )
        values = {}
        for i, name in enumerate(self.names):
            at = np.flatnonzero(np.asarray(domain) == i)
            pairs = np.arange(len(at))
            both = [retrieval.ranks(a[at], b[at], pairs) for a, b in ((x, y), (y, x))]
            values[f"R@1 {name}"] = float(np.mean([retrieval.recall_at(r, (1,))["R@1"] for r in both]))
        return values | {"R@1 first": values[f"R@1 {self.names[0]}"], "R@1 mean": float(np.mean(list(values.values())))}


def forgetting(recalls: Float[np.ndarray, "P K"]) -> float:
    """Average forgetting of R[phase, domain], a domain to a phase: how far each but the last fell from its best to the end."""
    last = recalls.shape[1] - 1
    return float(np.mean([recalls[k:, k].max() - recalls[-1, k] for k in range(last)]))


def measures(
    names: tuple[str, ...], before: View, after: View, rows: Sequence[Mapping[str, float]], split: str = "test"
) -> dict[str, float]:
    """What a stream did to a base model. rows: of metrics.jsonl, with `Domains` evaluated after each later phase.

    R@1 of the first domain and on average, at the end; of the newest domain, after its own phase; the share of the first domain's R@1
    that was kept; average forgetting; mean RAM of the first domain's pairs by modality, and how far image and text turned apart.
    """
    later = [{k.removeprefix("eval/"): v for k, v in row.items()} for row in rows if "eval/R@1 mean" in row]
    recalls = np.array([[row[f"R@1 {n}"] for n in names] for row in [Domains(names, split).run(before), *later]])
    first = np.asarray(after.column("source", split)) == 0
    image, text = (ram(before.embed(n, split)[first], after.embed(n, split)[first]) for n in ("image", "text"))
    newest, asked = (
        np.diagonal(recalls)[1:].mean(),
        [r["train/teacher_right"] for r in rows if "train/teacher_right" in r],
    )
    values = {
        "R@1 first": recalls[-1, 0], "1.5 x R@1 first": 1.5 * recalls[-1, 0], "R@1 mean": recalls[-1].mean(),
        "R@1 newest": newest, "R@1 newest + 3 points": newest + 0.03, "kept": recalls[-1, 0] / max(recalls[0, 0], 1e-9),
        "forgetting": forgetting(recalls), "RAM image": image.mean(), "RAM text": text.mean(), "RAM apart": np.abs(image - text).mean(),
    }  # fmt: skip
    values |= {"teacher right": np.mean(asked)} if asked else {}
    values |= {f"R@1 {d} after {p}": recalls[i, k] for i, p in enumerate(names) for k, d in enumerate(names)}
    return {k: float(v) for k, v in values.items()}

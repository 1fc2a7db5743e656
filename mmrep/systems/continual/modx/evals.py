"""Measures of forgetting over a stream of domains (Ni et al. 2023, section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mmrep.evals import retrieval
from mmrep.model import Model


def ram(old: Float[np.ndarray, "N D"], new: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
    """Rotation angle, in degrees, of each sample's unit embedding from the old model to the new (section 3.3)."""
    return np.degrees(np.arccos(np.clip((retrieval.unit(old) * retrieval.unit(new)).sum(-1), -1.0, 1.0)))


def sam(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N N"]:
    """Angles, in degrees, between all samples of one modality inside one model: unchanged by any rotation (section 3.2)."""
    u = retrieval.unit(x)
    return np.degrees(np.arccos(np.clip(u @ u.T, -1.0, 1.0)))


@dataclass(frozen=True)
class Domains:
    """R@1, mean of both directions, in each domain of a `Joint` source among that domain's own pairs; their mean; and the first domain's."""

    names: tuple[str, ...]
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        x, y, domain = (
            model.embed_split("image", self.split),
            model.embed_split("text", self.split),
            model.column("source", self.split),
        )
        values = {}
        for i, name in enumerate(self.names):
            at = np.flatnonzero(np.asarray(domain) == i)
            pairs = np.arange(len(at))
            both = [retrieval.ranks(a[at], b[at], pairs) for a, b in ((x, y), (y, x))]
            values[f"R@1 {name}"] = float(np.mean([retrieval.recall_at(r, (1,))["R@1"] for r in both]))
        return values | {"R@1 first": values[f"R@1 {self.names[0]}"], "R@1 mean": float(np.mean(list(values.values())))}


def forgetting(recalls: Float[np.ndarray, "P K"]) -> float:
    """Average forgetting of R[phase, domain], one domain a phase: from the best phase to the last, mean over all domains but the last."""
    last = recalls.shape[1] - 1
    return float(np.mean([recalls[k:, k].max() - recalls[-1, k] for k in range(last)]))


def stream_metrics(
    names: tuple[str, ...], before: Model, after: Model, rows: Sequence[Mapping[str, float]], split: str = "test"
) -> dict[str, float]:
    """Metrics of a stream. before, after: the base model and the last one.   rows: of metrics.jsonl, `Domains` evaluated after each phase.

    R@1 of the first domain and on average, after the last phase; of each newest domain, after its own phase; the share of the first
    domain's R@1 that is kept; average forgetting; mean RAM of the first domain's pairs by modality, and the mean difference of the two.
    """
    later = [{k.removeprefix("eval/"): v for k, v in row.items()} for row in rows if "eval/R@1 mean" in row]
    recalls = np.array([[row[f"R@1 {n}"] for n in names] for row in [Domains(names, split).run(before), *later]])
    first = np.asarray(after.column("source", split)) == 0
    image, text = (
        ram(before.embed_split(n, split)[first], after.embed_split(n, split)[first]) for n in ("image", "text")
    )
    newest = np.diagonal(recalls)[1:].mean()
    right = [r["train/teacher_right"] for r in rows if "train/teacher_right" in r]
    values = {
        "R@1 first": recalls[-1, 0], "R@1 mean": recalls[-1].mean(), "R@1 newest": newest,
        "kept": recalls[-1, 0] / max(recalls[0, 0], 1e-9),
        "forgetting": forgetting(recalls), "RAM image": image.mean(), "RAM text": text.mean(), "RAM apart": np.abs(image - text).mean(),
    }  # fmt: skip
    values |= {"teacher right": np.mean(right)} if right else {}
    values |= {f"R@1 {d} after {p}": recalls[i, k] for i, p in enumerate(names) for k, d in enumerate(names)}
    return {k: float(v) for k, v in values.items()}

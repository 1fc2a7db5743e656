"""Prediction of one modality from others by the objective's own score (Saporta et al. 2024, section 3.3)."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.evals import retrieval
from mmrep.losses.contrastive import similarity
from mmrep.model import Model
from mmrep.systems.contrastive.symile.model import Vectors, agreement, mip_scores


def scores(
    candidates: Float[Array | np.ndarray, "C D"], observed: Vectors, objective: str = "symile"
) -> Float[Array, "B C"]:
    """Scores of candidates of one modality given the embeddings of any others (section 3.3).

    "symile": the multilinear product. "pairwise" and "sum": the sum of all pairs' dot products; those among the observed are constant
    in a row. Times the learned scale they are the prediction's logits.
    Raises ConfigError where nothing was observed or the objective is unknown.
    """
    if not observed:
        raise ConfigError("scores: observed is empty, give the embeddings of at least one modality")
    if objective not in ("symile", "pairwise", "sum"):
        raise ConfigError(f"scores: objective is {objective!r}; choose symile, pairwise or sum")
    candidates, vectors = jnp.asarray(candidates), [jnp.asarray(x) for x in observed]
    if objective == "symile":
        return mip_scores(candidates, vectors)
    return similarity(sum(vectors[1:], vectors[0]), candidates) + agreement(vectors)[:, None]


@dataclass(frozen=True)
class Predict:
    """Prediction of modality `target` from the `observed` ones, by the objective's own score.

    objective:  that of the system.   group: a record field; candidates that share its value with the query are all right.
    averaged:   unobserved modalities replaced by their mean embedding over the split: the expected score. Omitting a factor could flip
                the sign of the score, since Symile's modalities may change signs in pairs.
    candidates: 0 ranks the whole split; k ranks the true one among k - 1 drawn from other groups, fixed by `seed`.
    """

    target: str
    observed: tuple[str, ...]
    objective: str = "symile"
    averaged: tuple[str, ...] = ()
    group: str = ""
    candidates: int = 0
    split: str = "test"
    ks: tuple[int, ...] = (1,)
    seed: int = 0
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        gallery = model.embed_split(self.target, self.split)
        vectors = [model.embed_split(o, self.split) for o in self.observed]
        vectors += [np.broadcast_to(model.embed_split(o, self.split).mean(0), gallery.shape) for o in self.averaged]
        found = np.asarray(scores(gallery, vectors, self.objective))
        same = np.eye(len(gallery), dtype=bool)
        if self.group:
            keys = np.asarray([str(v) for v in model.column(self.group, self.split)])
            same = keys[:, None] == keys[None, :]
        if self.candidates:
            keep = self._drawn(same)
            found, same = np.where(keep, found, -np.inf), same & keep
        ranks = retrieval.ranks_of_scores(found, same)
        label = self.name or f"{self.target}|{','.join(self.observed)}"
        measured = retrieval.recall_at(ranks, self.ks) | {"median_rank": float(np.median(ranks))}
        return {f"{label} {k}": v for k, v in measured.items()}

    def _drawn(self, same: Bool[np.ndarray, "N N"]) -> Bool[np.ndarray, "N N"]:
        drawn = np.where(same, np.inf, np.random.default_rng(self.seed).random(same.shape))
        own, keep = np.eye(len(same), dtype=bool), np.zeros_like(same)
        np.put_along_axis(keep, drawn.argsort(1)[:, : self.candidates - 1], True, 1)
        return own | (keep & ~same)

"""Zero-shot classification by prompts (Radford et al. 2021, section 3.1)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Int

from mmrep.errors import DataError
from mmrep.evals.retrieval import dot, ranks_of_scores, unit


def class_embeddings(prompts: Float[Array | np.ndarray, "C T D"]) -> Float[np.ndarray, "C D"]:
    """One unit vector per class: the mean over its T templates of the unit prompt embeddings, renormalised."""
    return unit(unit(prompts).mean(1)).astype(np.float32)


def average_over_templates(scores: Float[Array | np.ndarray, "Q N"], templates: int) -> Float[np.ndarray, "Q C"]:
    """Class scores as the mean over templates of the prompts' scores, for pair scores, which have no mean embedding (Yao et al. 2022, FILIP).

    The N = C * templates prompts are ordered by class, as in `class_embeddings`.
    """
    scores = np.asarray(scores)
    if templates < 1 or scores.shape[1] % templates:
        raise DataError(f"{scores.shape[1]} prompts do not divide into {templates} templates a class")
    return scores.reshape(len(scores), -1, templates).mean(-1)


def classification_metrics(
    scores: Float[Array | np.ndarray, "Q C"], labels: Int[Array | np.ndarray, " Q"], ks: Sequence[int] = (5,)
) -> dict[str, float]:
    """{"accuracy", "class_mean_accuracy", "top-k" for k < C} of class scores; ties count by their mean rank, as in retrieval.

    class_mean_accuracy: the mean over the classes that `labels` has. Raises DataError for a label outside 0..C-1.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    classes = scores.shape[1]
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(f"labels hold {labels.min()}..{labels.max()}, but there are {classes} classes")
    found = ranks_of_scores(scores, labels)
    right = found <= 1
    per_class = [right[labels == c].mean() for c in np.unique(labels)]
    top = {f"top-{k}": float(np.mean(found <= k)) for k in ks if k < classes}
    return {"accuracy": float(right.mean()), "class_mean_accuracy": float(np.mean(per_class))} | top


def zero_shot_metrics(
    queries: Float[Array | np.ndarray, "Q D"],
    classes: Float[Array | np.ndarray, "C D"],
    labels: Int[Array | np.ndarray, " Q"],
    ks: Sequence[int] = (5,),
) -> dict[str, float]:
    """`classification_metrics` of the dot products with the class embeddings."""
    return classification_metrics(dot(queries, classes), labels, ks)

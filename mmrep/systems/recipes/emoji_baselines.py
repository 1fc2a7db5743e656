"""What a system must beat: closed-form retrieval from pixels to names, no gradient step taken."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from mmrep.nn.image import oriented_gradients


class Baseline(NamedTuple):
    """scores: [Q, T], rows are test images, columns test texts, the right one on the diagonal.   alpha: the ridge penalty chosen on val.
    metrics: r@1, r@5, r@10 (shares), median_rank (1 = first; ties rank below everything they tie with), candidates."""

    scores: Float[np.ndarray, "Q T"]
    alpha: float
    metrics: dict[str, float]


Images = Sequence[np.ndarray] | np.ndarray
Features = Callable[[Images], Float[np.ndarray, "N D"]]


def ridge_pixels_to_text(
    train: tuple[Images, Sequence[str]],
    val: tuple[Images, Sequence[str]],
    test: tuple[Images, Sequence[str]],
    features: Features | None = None,
    alphas: Sequence[float] = (0.1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5),
    buckets: int = 4096,
) -> Baseline:
    """Ridge regression from image features to hashed character 2- to 4-grams of the text; retrieval by cosine.

    Each of train, val, test is (uint8 images [N, S, S, 3], texts); the penalty has the best mean reciprocal rank on val.
    features: `pixels` (16 x 16 colours, the default), `gradients`, or any function of images.

    Raises ValueError where images and texts differ in number.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import Ridge

    features = features or pixels
    hashed = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=buckets, alternate_sign=False)
    x, y = [], []
    for images, texts in (train, val, test):
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images and {len(texts)} texts: each image needs one text")
        x.append(features(images))
        y.append(np.asarray(hashed.transform([t.lower() for t in texts]).todense(), np.float32))
    mean, scale = x[0].mean(0), x[0].std(0) + 1e-6
    x = [(part - mean) / scale for part in x]
    # Common n-grams say little and would dominate the cosine: weighted as in tf-idf, centred on the training texts.
    idf = np.log((1 + len(y[0])) / (1 + (y[0] > 0).sum(0))) + 1
    centre = (y[0] * idf).mean(0)
    weighted = [_unit(part * idf) for part in y]
    target = _unit(y[0] * idf - centre)

    fits = {a: Ridge(a, fit_intercept=False).fit(x[0], target) for a in alphas}
    best = max(alphas, key=lambda a: float(np.mean(1.0 / ranks(_unit(fits[a].predict(x[1])) @ weighted[1].T))))
    scores = (_unit(fits[best].predict(x[2])) @ weighted[2].T).astype(np.float32)
    found = ranks(scores)
    metrics = {f"r@{k}": float(np.mean(found <= k)) for k in (1, 5, 10)}
    return Baseline(scores, best, metrics | {"median_rank": float(np.median(found)), "candidates": float(len(scores))})


def ranks(scores: Float[np.ndarray, "Q Q"]) -> Float[np.ndarray, " Q"]:
    """The rank of each row's diagonal entry, from 1; an entry that ties with others takes the worst place among them."""
    return (scores >= np.diag(scores)[:, None]).sum(1).astype(np.float64)


def pixels(images: Images, side: int = 16) -> Float[np.ndarray, "N D"]:
    """Colours of the image shrunk to side x side by averaging."""
    x = np.stack([np.asarray(i) for i in images]).astype(np.float32) / 255.0
    step = x.shape[1] // side
    x = x[:, : side * step, : side * step].reshape(len(x), side, step, side, step, -1)
    return x.mean((2, 4)).reshape(len(x), -1)


def gradients(images: Images, cells: int = 8, bins: int = 9, colours: int = 4) -> Float[np.ndarray, "N D"]:
    """Histograms of oriented gradients (cells x cells, L2 over the cell's 2 x 2 neighbours), 8 x 8 colours, and a histogram of
    `colours`^3 colours: Dalal and Triggs 2005, with colour beside it."""
    x = np.stack([np.asarray(i) for i in images]).astype(np.float32) / 255.0
    n, size = len(x), x.shape[1]
    hog = np.asarray(jax.jit(oriented_gradients, static_argnums=(1, 2))(x, cells, bins))
    codes = (x.reshape(n, -1, 3) * (colours - 1e-3)).astype(int) @ np.array([colours**2, colours, 1])
    histogram = np.stack([np.bincount(c, minlength=colours**3) for c in codes]).astype(np.float32) / size**2
    return np.concatenate([hog, pixels(images, 8), np.sqrt(histogram)], 1)


def _unit(a: Any) -> np.ndarray:
    return a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-9)

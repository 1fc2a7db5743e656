"""The page's matplotlib figures: training curves, a matrix of similarities, a map of embeddings."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.errors import DataError

MARKERS = "os^Dv P*"
Rows = Sequence[Mapping[str, Any]]


def curves(rows: Rows, points: int = 600) -> Any:
    """One plot a group of metrics (see `groups`) over the step. Values that are not finite leave a gap.

    Noisy curves are drawn faint with their running average above; of very long ones the extremes of each stretch are drawn.
    """
    plots = groups(rows)
    figure, axes = _subplots(max(len(plots), 1), columns=3)
    for ax, (title, names) in zip(axes, plots.items()):
        for i, name in enumerate(names):
            steps, values = series(rows, name)
            style = {"color": "0.5", "linestyle": ":"} if "chance" in name else {"color": f"C{i}"}
            noisy = len(values) >= 30 and name.startswith("train/") and not name.endswith("lr")
            kept = extremes(values, points)
            label = name.removeprefix("train/").removeprefix("eval/").replace("->", " → ")
            marker = "o" if len(values) < 30 else None
            ax.plot(
                steps[kept], values[kept], marker=marker, markersize=3, linewidth=0.7 if noisy else 1.5, alpha=0.3 if noisy else 1,
                label=None if noisy else label, **style,
            )  # fmt: skip
            if noisy:
                ax.plot(steps, smooth(values), label=label, linewidth=1.6, **style)
        ax.set_title(title, loc="left")
        if len(names) > 1:
            ax.legend(frameon=False, fontsize="small")
        ax.grid(axis="y", color="0.92")
    return figure


def groups(rows: Rows) -> dict[str, list[str]]:
    """{plot title: metric names}: losses share a plot, and so do "eval/a->b R@1", "eval/a->b R@5" and their chance levels.

    An evaluation made only once is left out: it is in the tables, and one point is no curve.
    """
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(k for r in rows for k, v in r.items() if k != "step" and _number(v) is not None):
        metric, evaluated = name.removeprefix("train/").removeprefix("eval/"), name.startswith("eval/")
        if evaluated and (len(series(rows, name)[0]) < 2 or name.endswith("candidates")):
            continue
        stem, at, _ = metric.replace("chance_", "").partition("@")
        title = re.sub(" chance$", " accuracy", stem) + ("@k" if at else "")
        title = "loss" if re.match("loss(_|$)", metric) else title.replace("->", " → ").replace("_", " ")
        found.setdefault(title, []).append(name)
    return found


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the rows that have `name`; values that are not finite are NaN."""
    found = [(float(r["step"]), _number(r[name])) for r in rows if _number(r.get(name)) is not None]
    steps, values = np.array(found, float).reshape(-1, 2).T
    return steps, np.where(np.isfinite(values), values, np.nan)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def smooth(values: Float[np.ndarray, " N"], weight: float = 0.9) -> Float[np.ndarray, " N"]:
    """Two-sided exponential average sum_s w^|t-s| x_s / sum_s w^|t-s|, which does not lag behind. NaN has no weight and stays NaN."""
    span = min(len(values), math.ceil(math.log(1e-3) / math.log(weight)))
    kernel, known = weight ** np.abs(np.arange(-span + 1, span)), np.isfinite(values)
    total, count = (
        np.convolve(x, kernel)[span - 1 : span - 1 + len(x)] for x in (np.nan_to_num(values), known.astype(float))
    )
    return np.where(known, total / np.where(count, count, 1), np.nan)


def extremes(values: Float[np.ndarray, " N"], points: int) -> Any:
    """Indices of the least and greatest value of each of points / 2 stretches, in order; all of them where there are no more."""
    if len(values) <= points:
        return np.arange(len(values))
    parts = [p for p in np.array_split(np.arange(len(values)), points // 2) if np.isfinite(values[p]).any()]
    return np.unique([f(values[p]) + p[0] for p in parts for f in (np.nanargmin, np.nanargmax)])


def heatmap(matrix: Float[np.ndarray, "R C"], rows: Sequence[str], columns: Sequence[str]) -> Any:
    """A matrix of similarities with its labels, and with its values where there are at most 12 columns."""
    figure, (ax,) = _subplots(1, width=0.6 * len(columns) + 3, height=0.35 * len(rows) + 1.8)
    image = ax.imshow(matrix, cmap="Blues", aspect="auto")
    ax.set_xticks(range(len(columns)), [c[:24] for c in columns], rotation=90, parse_math=False)
    ax.set_yticks(range(len(rows)), [r[:24] for r in rows], parse_math=False)
    for r, c in np.ndindex(matrix.shape if matrix.shape[1] <= 12 else (0, 0)):
        dark = image.norm(matrix[r, c]) > 0.6
        ax.text(
            c, r, f"{matrix[r, c]:.2f}", ha="center", va="center", color="white" if dark else "black", fontsize="small"
        )
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, shrink=0.6)
    return figure


def embedding_map(
    points: Float[np.ndarray, "N 2"], kinds: Sequence[str], labels: Sequence[str], thumbnails: Sequence[Any], pairs: Sequence[tuple[int, int]]
) -> Any:  # fmt: skip
    """Points with a marker a kind (modality), or a thumbnail (uint8 pixels or None); a line a pair, and as many labels as fit."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    figure, (ax,) = _subplots(1, width=11.0, height=7.0)
    for a, b in pairs:
        ax.plot(*points[[a, b]].T, color="0.85", linewidth=0.7, zorder=1)
    for i, kind in enumerate(dict.fromkeys(kinds)):
        mine = np.array([k == kind for k in kinds])
        ax.scatter(*points[mine].T, s=22, marker=MARKERS[i % len(MARKERS)], color=f"C{i}", label=kind, zorder=2)
    taken: list[Any] = []
    for (x, y), thumbnail in zip(points, thumbnails):
        if thumbnail is not None:
            box = OffsetImage(thumbnail, zoom=26 / max(thumbnail.shape[:2]), cmap="gray")
            ax.add_artist(AnnotationBbox(box, (x, y), pad=0.1, bboxprops={"edgecolor": "0.7"}, zorder=3))
    low, span = points.min(0), np.maximum(np.ptp(points, axis=0), 1e-9)
    for point, label, thumbnail in zip(points, labels, thumbnails):
        at = (point - low) / span
        if thumbnail is None and label and all(abs(at[1] - y) > 0.025 or abs(at[0] - x) > 0.12 for x, y in taken):
            ax.annotate(
                label[:22], point, (5, -3), textcoords="offset points", fontsize="small", zorder=4, parse_math=False
            )
            taken.append(at)
    ax.set_axis_off()
    figure.legend(loc="outside upper left", frameon=False, ncols=6)
    return figure


def project_2d(embeddings: Float[np.ndarray, "N D"], seed: int) -> Float[np.ndarray, "N 2"]:
    """t-SNE in cosine distance, initialised by PCA; the same seed gives the same map. Fewer than 8 points, or 2 dimensions, use PCA.

    Raises DataError for embeddings that are not finite.
    """
    x = np.asarray(embeddings, np.float64)
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if len(bad):
        raise DataError(f"{len(bad)} embeddings are not finite (first: row {bad[0]}): leave them out of the map")
    n, d = x.shape
    if n < 2 or not np.ptp(x, axis=0).any():
        return np.zeros((n, 2), np.float32)
    if n < 8 or d < 2:
        from sklearn.decomposition import PCA

        k = min(2, n, d)
        points = PCA(k, random_state=seed, svd_solver="full").fit_transform(x)
        return np.pad(points, ((0, 0), (0, 2 - k))).astype(np.float32)
    from sklearn.manifold import TSNE

    tsne = TSNE(perplexity=min(30.0, (n - 1) / 3), metric="cosine", init="pca", random_state=seed, n_jobs=1)
    return tsne.fit_transform(x.astype(np.float32)).astype(np.float32)


def _subplots(count: int, columns: int = 1, width: float = 4.0, height: float = 2.8) -> tuple[Any, list[Any]]:
    """(figure, its axes), without matplotlib's global state."""
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(width * min(count, columns), height * rows), layout="constrained")
    axes = figure.subplots(rows, min(count, columns), squeeze=False).ravel().tolist()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count]

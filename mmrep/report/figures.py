"""Curves and maps as inline SVG. Colours are CSS variables of page.css, so that light, dark and print share one figure."""

import io
import itertools
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.errors import ConfigError, DataError

PALETTE = 8  # series colours --s0 ... --s7 of page.css


def number(value: float, digits: int = 4) -> str:
    """Short decimal text: 0.1234, 12.3, 1.23e-05, 1,234."""
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    size = abs(value)
    if size >= 10_000 or size < 1e-3:
        return f"{value:.{digits - 2}e}" if size < 1e-3 or size >= 1e7 else f"{value:,.0f}"
    return f"{value:.{max(digits - 1 - math.floor(math.log10(size)), 0) if size >= 1 else digits}f}"


def plot_svg(
    lines: Sequence[tuple[Sequence[float], Sequence[float], Sequence[float] | None, int, int]],
    label: str,
    log: bool = False,
) -> str:
    """Curves as an inline SVG: each line is (steps, raw values, smoothed values or None, colour, index of DASHES).

    With smoothed values the raw ones are drawn faint below them. Where raw has more than 800 points, the least and greatest value
    of each stretch of steps are drawn, so that no spike is lost. Few points without smoothing get markers. Titles and legends,
    which may need other scripts, are left to HTML; the only text is numbers.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": label, "path.simplify": True, "font.size": 11}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        axes = figure.add_subplot()
        for steps, raw, smoothed, series, dashes in lines:
            colour, dash = _sentinel(series), DASHES[dashes]
            few = smoothed is None and len(steps) <= 40
            thin = _extremes(steps, raw) if len(steps) > 800 else (steps, raw)
            style = {"color": colour, "linewidth": 1.6, "dashes": dash} if smoothed is None else {}
            faint = {"color": colour, "linewidth": 0.7, "alpha": 0.33}
            axes.plot(*thin, marker="o" if few else None, markersize=3.4, **(style or faint))
            if smoothed is not None:
                keep = slice(None, None, max(1, len(steps) // 800))
                axes.plot(steps[keep], smoothed[keep], color=colour, linewidth=1.8, dashes=dash)
        if log:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=4))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if max(map(abs, axes.get_ylim())) >= 10_000:
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_sentinel("rule"))
        axes.tick_params(colors=_sentinel("rule"), labelcolor=_sentinel("quiet"), length=3)
        axes.grid(axis="y", color=_sentinel("grid"), linewidth=0.7)
        axes.set_axisbelow(True)
        axes.yaxis.get_offset_text().set_color(_sentinel("quiet"))
        axes.set_xlabel("step", color=_sentinel("quiet"))
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    return _inline(out.getvalue(), label)


DASHES: tuple[Any, ...] = ((None, None), (4, 1.6), (1.2, 1.2), (6, 1.6, 1.2, 1.6))
_ROLES = ("quiet", "rule", "grid")


def _sentinel(colour: int | str) -> str:
    """A stand-in that matplotlib accepts; `_inline` turns it into the CSS variable."""
    return f"#fe01{_ROLES.index(colour):02x}" if isinstance(colour, str) else f"#fe00{colour:02x}"


def _inline(svg: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"#fe00([0-9a-f]{2})", lambda m: f"var(--s{int(m[1], 16)})", svg)
    svg = re.sub(r"#fe01([0-9a-f]{2})", lambda m: f"var(--{_ROLES[int(m[1], 16)]})", svg)
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg, count=1, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"\n\s*", "\n", svg)
    return svg.replace("<svg ", f'<svg class="plot" role="img" aria-label="{escape(label)}" ', 1)


def _extremes(
    steps: Sequence[int | float], values: Sequence[int | float], buckets: int = 300
) -> tuple[list[int | float], list[int | float]]:
    edges = np.linspace(0, len(steps), buckets + 1).astype(int)
    xs: list[int | float] = []
    ys: list[int | float] = []
    for a, b in itertools.pairwise(edges):
        part = np.asarray(values[a:b], np.float64)
        if np.isnan(part).all():
            xs, ys = [*xs, steps[a]], [*ys, math.nan]
            continue
        for j in sorted({int(np.nanargmin(part)), int(np.nanargmax(part))}):
            xs, ys = [*xs, steps[a + j]], [*ys, float(part[j])]
    return xs, ys


def project_2d(embeddings: Float[np.ndarray, "N D"], seed: int, method: str = "tsne") -> Float[np.ndarray, "N 2"]:
    """Points for a map of embeddings, float32 [N, 2]; the same seed gives the same map.

    method: "tsne" (cosine distances, initialised by PCA; perplexity 30, less for few points) or "pca". Fewer than 8 points, or fewer
    than 2 dimensions, are projected by PCA whatever the method. Raises ConfigError for another method, DataError for non-finite rows.
    """
    if method not in ("tsne", "pca"):
        raise ConfigError(f"method is {method!r}: choose tsne or pca")
    embeddings = np.asarray(embeddings, np.float64)
    bad = np.flatnonzero(~np.isfinite(embeddings).all(1))
    if len(bad):
        raise DataError(f"{len(bad)} embeddings are not finite (first: row {bad[0]}): leave them out of the map")
    n, d = embeddings.shape
    centred = embeddings - embeddings.sum(0) / max(n, 1)
    if n < 2 or not np.abs(centred).max(initial=0.0) > 0:
        return np.zeros((n, 2), np.float32)
    if method == "pca" or n < 8 or d < 2:
        from sklearn.decomposition import PCA

        k = min(2, n, d)
        points = PCA(k, random_state=seed, svd_solver="full").fit_transform(centred)
        return np.pad(points, ((0, 0), (0, 2 - k))).astype(np.float32)
    from sklearn.manifold import TSNE

    tsne = TSNE(perplexity=min(30.0, (n - 1) / 3), metric="cosine", init="pca", random_state=seed, n_jobs=1)
    return tsne.fit_transform(embeddings.astype(np.float32)).astype(np.float32)


_MARKS = (
    '<circle r="4.2"/>', '<path d="M-3.8-3.8h7.6v7.6h-7.6z"/>', '<path d="M0-5 4.6 3.6H-4.6z"/>', '<path d="M0-5.2 4.6 0 0 5.2-4.6 0z"/>',
    '<path d="M0 5-4.6-3.6H4.6z"/>', '<path d="M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z"/>',
)  # fmt: skip


def mark_svg(series: int) -> str:
    """The legend's mark of a series: shape and colour together."""
    return f'<svg class="mark c{series % PALETTE}" viewBox="-6 -6 12 12" aria-hidden="true">{_MARKS[series % len(_MARKS)]}</svg>'


def map_svg(
    points: Float[np.ndarray, "N 2"],
    series: Sequence[int],
    labels: Sequence[str],
    thumbnails: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    label: str,
    max_labels: int = 60,
) -> str:
    """A scatter map: a mark a point (or its thumbnail, a data URI, "" = none), a faint line a pair, and as many labels as fit.

    Every point tells its label on hover; labels are SVG text, so the browser's fonts draw every script.
    """
    w, h, pad = 960.0, 600.0, 34.0
    low, high = points.min(0), points.max(0)
    span = np.where(high > low, high - low, 1.0)
    unit = np.where(high > low, (points - low) / span, 0.5)
    xy = np.stack([pad + unit[:, 0] * (w - 2 * pad), h - pad - unit[:, 1] * (h - 2 * pad)], 1)
    parts = [f'<svg class="map" viewBox="0 0 {w:g} {h:g}" role="img" aria-label="{escape(label)}">']
    if pairs:
        lines = "".join(f"M{xy[a, 0]:.1f} {xy[a, 1]:.1f}L{xy[b, 0]:.1f} {xy[b, 1]:.1f}" for a, b in pairs)
        parts.append(f'<path class="pairs" d="{lines}"/>')
    side = 36.0
    boxes: list[tuple[float, float, float, float]] = []
    for i in sorted(range(len(xy)), key=lambda i: bool(thumbnails[i]), reverse=True):
        x, y = map(float, xy[i])
        if thumbnails[i]:
            shape = (
                f'<rect x="{-side / 2:g}" y="{-side / 2:g}" width="{side:g}" height="{side:g}" rx="3"/>'
                f'<image x="{-side / 2 + 2:g}" y="{-side / 2 + 2:g}" width="{side - 4:g}" height="{side - 4:g}" href="{thumbnails[i]}"/>'
            )
            boxes.append((x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        else:
            shape = _MARKS[series[i] % len(_MARKS)]
            boxes.append((x - 4, y - 4, x + 4, y + 4))
        kind = "thumb" if thumbnails[i] else "dot"
        parts.append(
            f'<g class="{kind} c{series[i] % PALETTE}" transform="translate({x:.1f} {y:.1f})">{shape}<title>{escape(labels[i])}</title></g>'
        )
    shown = 0
    for i in range(len(xy)):
        if thumbnails[i] or not labels[i] or shown >= max_labels:
            continue
        x, y = map(float, xy[i])
        text = labels[i] if len(labels[i]) <= 22 else labels[i][:21] + "…"
        width = text_width(text) * 11.5
        for left, anchor in ((x + 8, "start"), (x - 8 - width, "end")):
            box = (left, y - 8, left + width, y + 7)
            if box[0] < 2 or box[2] > w - 2 or any(_overlap(box, other) for other in boxes):
                continue
            boxes.append(box)
            # x is the left or right edge whatever the script's direction: text-anchor alone would flip for Arabic or Hebrew.
            parts.append(
                f'<text direction="ltr" text-anchor="{anchor}" x="{x + (8 if anchor == "start" else -8):.1f}" y="{y + 4:.1f}">{escape(text)}</text>'
            )
            shown += 1
            break
    return "".join([*parts, "</svg>"])


def text_width(text: str) -> float:
    """About how many em a text is wide: wide scripts 1, marks 0, the rest 0.56."""
    import unicodedata

    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    marks = sum(unicodedata.combining(c) > 0 for c in text)
    return wide + 0.56 * (len(text) - wide - marks)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

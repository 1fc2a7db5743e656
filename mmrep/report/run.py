"""What a run has logged, as plain rows and series."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any, Literal

from mmrep.report.panels import Column, Number, Numbers

Row = Mapping[str, Any]


def series(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the rows that hold `key`; non-finite values stay, as NaN."""
    read = [(float(r["step"]), _float(r[key])) for r in rows if key in r and "step" in r]
    found = [(s, v) for s, v in read if v is not None]
    return [s for s, _ in found], [v if math.isfinite(v) else math.nan for _, v in found]


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def keys(rows: Sequence[Row], patterns: Sequence[str] = ("*",)) -> list[str]:
    """The metric names that match one of `patterns` ("train/*"), in the order of the patterns, then of first appearance."""
    names = list(dict.fromkeys(k for r in rows for k, v in r.items() if k != "step" and _float(v) is not None))
    return list(dict.fromkeys(n for p in patterns for n in names if fnmatchcase(n, p)))


def default_groups(rows: Sequence[Row]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(plot title, metric names) for what a run usually logs: losses, learning rate, gradient norm, speed, other training
    metrics, and evaluations: "eval/a->b R@1", "eval/a->b R@5" and their "chance_R@..." share a plot. Empty plots are left out."""
    rest = [k for k in keys(rows) if not k.endswith("candidates")]

    def take(match: Any) -> tuple[str, ...]:
        taken = tuple(k for k in rest if match(k))
        rest[:] = [k for k in rest if k not in taken]
        return taken

    evals = take(lambda k: k.startswith("eval/"))
    plots = [
        ("Loss", take(lambda k: k.rpartition("/")[2].startswith("loss") or k.endswith("_loss"))),
        ("Learning rate", take(lambda k: k.rpartition("/")[2] in ("lr", "learning_rate"))),
        ("Gradient norm", take(lambda k: k.rpartition("/")[2] in ("grad_norm", "update_norm"))),
        ("Examples per second", take(lambda k: k.rpartition("/")[2] == "examples_per_second")),
    ]
    plots += [(k.removeprefix("train/"), (k,)) for k in rest]
    kinds = {k: _kind(k.removeprefix("eval/")) for k in evals}
    plots += [(kind, tuple(k for k in evals if kinds[k] == kind)) for kind in dict.fromkeys(kinds.values())]
    return tuple((title, names) for title, names in plots if names)


def split_name(name: str) -> tuple[str, str]:
    """("image->text", "R@1") of "image->text R@1" or "image->text/R@1"; a name without either is a metric without a label."""
    at = max(name.rfind(" "), name.rfind("/"))
    return (name[:at], name[at + 1 :]) if at > 0 else ("", name)


def _kind(name: str) -> str:
    label, metric = split_name(name)
    stem, at, _ = metric.removeprefix("chance_").partition("@")
    return " ".join(filter(None, (arrows(label), stem + at + ("k" if at else ""))))


def arrows(name: str) -> str:
    """The name with "->" as it is printed, an arrow."""
    return name.replace("->", " → ")


def number_panels(title: str, values: Mapping[str, float], note: str = "") -> list[Numbers]:
    """Tables of an evaluation.json: one row a label, one column a metric; labels measured alike share a table.

    "a->b chance_R@1" becomes the chance beside "a->b R@1"; "a chance" goes beside the accuracies of "a", "chance R@1"
    beside every R@1 without its own.
    Ranks, losses, errors and distances are better low, counts ("candidates") neither way, the rest high.
    """
    measured: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        label, metric = split_name(name)
        measured.setdefault(label, {})[metric] = float(value)
    everywhere = measured.pop("chance", {})
    tables: dict[tuple[str, ...], list[tuple[str, list[Number]]]] = {}
    for label, found in measured.items():
        shown = tuple(m for m in found if not m.startswith("chance"))
        cells = [
            Number(found[m], found.get(f"chance_{m}", found.get("chance") if _is_accuracy(m) else everywhere.get(m)))
            for m in shown
        ]
        if shown:
            tables.setdefault(shown, []).append((arrows(label) or "all", cells))
    return [
        Numbers(
            title if i == 0 else f"{title}: {', '.join(metrics)}",
            rows,
            [Column(m.replace("_", " "), _better(m)) for m in metrics],
            note if i == 0 else "",
        )
        for i, (metrics, rows) in enumerate(tables.items())
    ]


def _is_accuracy(metric: str) -> bool:
    return metric == "top-1" or metric.endswith("accuracy")


def _better(metric: str) -> Literal["higher", "lower", ""]:
    if metric in ("candidates", "classes", "queries", "examples", "n", "lambda"):
        return ""
    low = ("rank", "loss", "error", "distance", "gap", "perplexity", "nll", "mse", "mae", "rmse", "fid", "wer", "cer")
    return "lower" if any(w in low for w in metric.lower().replace("-", "_").split("_")) else "higher"


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Two-sided exponential average, y_t = sum_s w^|t-s| x_s / sum_s w^|t-s|: unlike a running average it does not lag behind.

    NaN has no weight and stays NaN.
    """
    x = [0.0 if math.isnan(v) else v for v in values]
    known = [0.0 if math.isnan(v) else 1.0 for v in values]
    top = [a + b - c for a, b, c in zip(_decay(x, weight), _decay(x[::-1], weight)[::-1], x)]
    bottom = [a + b - c for a, b, c in zip(_decay(known, weight), _decay(known[::-1], weight)[::-1], known)]
    return [a / b if k else math.nan for a, b, k in zip(top, bottom, known)]


def _decay(values: Sequence[float], weight: float) -> list[float]:
    return list(accumulate(values, lambda sum_, v: weight * sum_ + v))

"""An evaluation's {metric: value} as tables."""

import re
from collections.abc import Mapping
from typing import Literal

from mmrep.report.panels import Column, Number, Table

_COUNTS = ("candidates", "classes", "queries", "examples", "n", "lambda")
_LOWER = {"rank", "loss", "error", "distance", "gap", "perplexity", "nll", "mse", "mae", "rmse", "fid", "wer", "cer"}


def tables(title: str, values: Mapping[str, float], note: str = "") -> list[Table]:
    """One row a label ("a->b"), one column a metric ("R@1"); labels with the same metrics share a table.

    Where several labels have one or two metrics that no other label has, these are the rows of one table behind the others.

    "a->b chance_R@1" becomes the chance level of "a->b R@1", "a chance" that of the accuracies and the mAP of "a", and "chance R@1" that of every
    R@1 without one of its own.
    """
    measured: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        label, metric = split_name(name)
        measured.setdefault(label, {})[metric] = float(value)
    everywhere = measured.pop("chance", {})
    found: dict[tuple[str, ...], list[tuple[str, list[Number]]]] = {}
    for label, metrics in measured.items():
        shown = tuple(m for m in metrics if not m.startswith("chance"))
        accuracy = lambda m: m in ("top-1", "mAP") or m.endswith("accuracy")  # noqa: E731
        chances = {m: metrics.get("chance") if accuracy(m) else everywhere.get(m) for m in shown}
        cells = [Number(metrics[m], metrics.get(f"chance_{m}", chances[m])) for m in shown]
        if shown:
            found.setdefault(shown, []).append((label.replace("->", " → ") or "all", cells))
    alone = [metrics for metrics, rows in found.items() if len(rows) == 1 and len(metrics) <= 2]
    apart = {metrics: found.pop(metrics)[0] for metrics in alone} if len(alone) > 1 else {}
    made = [
        Table(
            title if i == 0 else f"{title}: {', '.join(metrics).replace('_', ' ')}",
            [Column(m.replace("_", " "), better(m)) for m in metrics], rows, note if i == 0 else "",
        )
        for i, (metrics, rows) in enumerate(found.items())
    ]  # fmt: skip
    if apart:
        rows = [(_row(label, m), [cell]) for ms, (label, cells) in apart.items() for m, cell in zip(ms, cells)]
        more = (f"{title}: other numbers", "") if made else (title, note)
        made.append(Table(more[0], [Column("value", "")], rows, more[1]))
    return made


def _row(label: str, metric: str) -> str:
    """The name of one number, with the arrow of its better end."""
    name = metric if label == "all" else f"{label} {metric}"
    return name.replace("_", " ") + {"higher": " ↑", "lower": " ↓", "": ""}[better(metric)]


def split_name(name: str) -> tuple[str, str]:
    """("image->text", "R@1") of "image->text R@1" or "image->text/R@1"; ("", name) where there is no label. "R@1 IoU 0.5" is one metric."""
    if moment := re.fullmatch(r"(?:(.*)[ /])?(R@\d+ IoU [\d.]+)", name):
        return moment[1] or "", moment[2]
    at = max(name.rfind(" "), name.rfind("/"))
    return (name[:at], name[at + 1 :]) if at > 0 else ("", name)


def better(metric: str) -> Literal["higher", "lower", ""]:
    """Which end of a metric is best, by the words of its name."""
    if metric in _COUNTS:
        return ""
    return "lower" if _LOWER & set(metric.lower().replace("-", "_").split("_")) else "higher"

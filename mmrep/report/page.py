"""Panels in, one self-contained HTML file out."""

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from mmrep.errors import DataError
from mmrep.report import figures, media, panels, run
from mmrep.report.panels import Candidate, Column, Number, Panel, Picture, Sound, Words

_HERE = Path(__file__).parent


def write_page(
    path: Path | str, title: str, lead: str, panels: Sequence[Panel], attribution: Sequence[str] = ()
) -> Path:
    """Writes the page to `path`, whole or not at all, and returns the path.

    lead: the one or two sentences below the title. attribution: sources and licences of pictures and sounds, printed in the footer.
    The file loads nothing: pictures, sounds, style and script are inside, and a content policy forbids the rest.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(render(title, lead, panels, attribution), encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def render(title: str, lead: str, panels: Sequence[Panel], attribution: Sequence[str] = ()) -> str:
    """The page's HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    style = Markup((_HERE / "page.css").read_text(encoding="utf-8"))
    views = [{"kind": type(p).__name__, "title": p.title, "note": getattr(p, "note", "")} | _view(p) for p in panels]
    template = environment.get_template("page.html.jinja")
    html = template.render(title=title, lead=lead, panels=views, attribution=attribution, style=style)
    # A half of a surrogate pair, as cut text may hold, has no UTF-8.
    return html.encode("utf-8", "replace").decode("utf-8")


def _view(panel: Panel) -> dict[str, Any]:
    """The panel as the template's plain values."""
    match panel:
        case panels.Numbers():
            return _numbers(panel)
        case panels.Curves():
            return _curves(panel)
        case panels.Gallery():
            return {"items": [_item(i) for i in panel.items]}
        case panels.Grid():
            rows = [{"name": n, "cells": [_media(c) for c in row]} for n, row in zip(panel.rows, panel.cells)]
            return {"columns": list(panel.columns), "rows": rows}
        case panels.Heatmap():
            return _heatmap(panel)
        case panels.EmbeddingMap():
            return _map(panel)
        case panels.Config():
            return {"text": json.dumps(panel.json, indent=2, ensure_ascii=False, default=str)}
        case panels.Versions():
            return {"pairs": [(str(k), str(v)) for k, v in panel.versions.items()]}
        case panels.Text():
            return {"paragraphs": list(panel.paragraphs)}
    raise TypeError(f"{panel!r} is not a panel")


def _numbers(panel: panels.Numbers) -> dict[str, Any]:
    columns = [c if isinstance(c, Column) else Column(c) for c in panel.columns]
    cells = [[_cell(c) for c in row] for _, row in panel.rows]
    marks = [
        panels.best([c.value if isinstance(c, Number) else None for c in column], spec.better)
        for column, spec in zip(zip(*cells), columns)
    ]
    rows = []
    for r, (name, _) in enumerate(panel.rows):
        shown = []
        for c, (cell, spec) in enumerate(zip(cells[r], columns)):
            if not isinstance(cell, Number):
                shown.append(
                    {
                        "text": "–" if cell is None else str(cell),
                        "best": False,
                        "chance": "",
                        "spread": "",
                        "plain": True,
                    }
                )
                continue
            chance = "" if cell.chance is None else f"chance {_chance(cell.chance, spec.digits)}"
            if cell.chance is not None and spec.better:
                above = cell.value > cell.chance if spec.better == "higher" else cell.value < cell.chance
                chance = chance if above else f"not better than {chance}"
            shown.append(
                {
                    "text": _fixed(cell.value, spec.digits),
                    "best": marks[c][r],
                    "chance": chance,
                    "spread": "" if cell.spread is None else f"± {_fixed(cell.spread, spec.digits)}",
                    "plain": False,
                }
            )
        rows.append({"name": name, "cells": shown})
    arrows = {"higher": "↑", "lower": "↓", "": ""}
    heads = [
        {"name": c.name, "arrow": arrows[c.better], "says": f"{c.better} is better" if c.better else ""}
        for c in columns
    ]
    return {"columns": heads, "rows": rows, "any_best": any(map(any, marks))}


def _cell(cell: Any) -> Any:
    if cell is None or isinstance(cell, (str, Number)):
        return cell
    return Number(float(cell))


def _fixed(value: float, digits: int) -> str:
    """Fixed decimals, so that a column lines up; large whole numbers without."""
    if not math.isfinite(value):
        return figures.number(value)
    if float(value).is_integer() and abs(value) >= 2:
        return f"{int(value):,}"
    return f"{value:,.{0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else digits}f}"


def _chance(value: float, digits: int) -> str:
    return f"{value:.2g}" if 1e-4 <= abs(value) < 1 else _fixed(value, digits)


def _curves(panel: panels.Curves) -> dict[str, Any]:
    plots: list[dict[str, Any]] = []
    for title, patterns in panel.groups or run.default_groups(panel.rows):
        names = run.keys(panel.rows, patterns)
        lines: list[Any] = []
        legend: list[dict[str, Any]] = []
        missing, log = 0, title in panel.log
        for name in names:
            steps, values = run.series(panel.rows, name)
            finite = [v for v in values if not math.isnan(v)]
            missing += len(values) - len(finite)
            if not finite:
                continue
            smoothed = None
            if panel.smoothing and len(finite) >= 30 and not _noiseless(name):
                smoothed = run.smooth(values, panel.smoothing)
            log = log and min(finite) > 0
            look = _look(name, len(lines))
            lines.append((steps, values, smoothed, *look))
            last = figures.number([v for v in smoothed or finite if not math.isnan(v)][-1])
            legend.append(
                {
                    "name": run.arrows(name.removeprefix("eval/")),
                    "colour": look[0],
                    "dash": figures.DASHES[look[1]],
                    "last": last,
                    "smoothed": smoothed is not None,
                }
            )
        if not lines:
            continue
        label = f"{title}: " + "; ".join(
            f"{k['name']} from {figures.number(next(v for v in y if not math.isnan(v)))} at step {x[0]:.0f} to {k['last']} at step {x[-1]:.0f}"
            for k, (x, y, *_) in zip(legend, lines)
        )
        svg = Markup(figures.plot_svg(lines, label, log))
        plots.append({"title": title, "svg": svg, "legend": legend, "missing": missing, "log": log})
    shown = any(k["smoothed"] for p in plots for k in p["legend"])
    return {"plots": plots, "smoothing": panel.smoothing if shown else 0}


def _look(name: str, index: int) -> tuple[int, int]:
    """(colour, dash) of a curve; chance is grey and dotted wherever it stands."""
    if "chance" in name:
        return figures.PALETTE - 1, 2
    return index % (figures.PALETTE - 1), index % len(figures.DASHES)


def _noiseless(name: str) -> bool:
    """A schedule has no noise to smooth."""
    return name.rpartition("/")[2] in ("lr", "learning_rate") or name.startswith("eval/")


def _media(thing: Any) -> dict[str, Any]:
    if isinstance(thing, str):
        thing = Words(thing)
    elif isinstance(thing, np.ndarray):
        thing = Picture(thing)
    match thing:
        case Picture(pixels, caption, alt):
            pixels = np.asarray(pixels)
            if pixels.dtype != np.uint8:
                raise DataError(f"a picture is {pixels.dtype}: give uint8 in [0, 255]")
            small = max(pixels.shape[:2]) <= 32
            return {
                "kind": "picture",
                "uri": media.picture_uri(pixels),
                "caption": caption,
                "alt": alt or caption or "picture",
                "small": small,
            }
        case Words(text, caption, lang):
            return {"kind": "words", "text": text, "caption": caption, "lang": lang}
        case Sound(waveform, rate, caption):
            wave = media.trim(_float_wave(waveform), rate)
            says = f"sound of {len(wave) / rate:.1f} s" + (f": {caption}" if caption else "")
            return {
                "kind": "sound",
                "uri": media.sound_uri(wave, rate),
                "caption": caption,
                "svg": Markup(media.wave_svg(wave, says)),
                "says": says,
            }
    raise DataError(
        f"a gallery cannot show a {type(thing).__name__}: give a uint8 array, text, Picture, Words or Sound"
    )


def _float_wave(waveform: Any) -> np.ndarray:
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or not waveform.size:
        raise DataError(f"a sound has shape {waveform.shape}: give a mono waveform [T]")
    scale = 32768.0 if waveform.dtype == np.int16 else 1.0
    return waveform.astype(np.float32) / np.float32(scale)


def _item(item: panels.Item) -> dict[str, Any]:
    right = item.right if not any(c.right for c in item.candidates) else None
    return {
        "query": _media(item.query),
        "candidates": [_candidate(c, i) for i, c in enumerate(item.candidates, 1)],
        "right": None if right is None else _candidate(right, item.rank),
        "rank": item.rank,
        "pool": item.pool,
    }


def _candidate(candidate: Candidate, rank: int | None) -> dict[str, Any]:
    score = float(candidate.score)
    text = f"{score:.3f}" if abs(score) < 100 else figures.number(score, 3)
    return {
        "media": _media(candidate.media),
        "score": text.replace("-", "\u2212"),
        "right": candidate.right,
        "rank": rank,
    }


def _heatmap(panel: panels.Heatmap) -> dict[str, Any]:
    matrix = np.asarray(panel.matrix, np.float64)
    finite = matrix[np.isfinite(matrix)]
    low = panel.low if panel.low is not None else float(finite.min(initial=0.0) if not len(finite) else finite.min())
    high = panel.high if panel.high is not None else float(finite.max(initial=1.0) if not len(finite) else finite.max())
    right = {(int(r), int(c)) for r, c in panel.right}
    rows = []
    for r, name in enumerate(panel.row_labels):
        cells = []
        for c, value in enumerate(matrix[r]):
            known = bool(np.isfinite(value))
            heat = round(100 * float(np.clip((value - low) / ((high - low) or 1.0), 0, 1))) if known else 0
            text = _short(float(value))
            cells.append({"heat": heat, "text": text, "right": (r, c) in right, "known": known})
        rows.append({"name": name, "cells": cells})
    return {
        "rows": rows,
        "columns": list(panel.column_labels),
        "low": figures.number(low, 2).replace("-", "\u2212"),
        "high": figures.number(high, 2).replace("-", "\u2212"),
        "dense": matrix.shape[1] > 16,
        "any_right": bool(right),
    }


def _short(value: float) -> str:
    """Two decimals without the leading zero, as tables of correlations are printed."""
    if not abs(value) < 10:
        return figures.number(value, 2)
    text = f"{value + 0.0:.2f}".replace("-0.00", "0.00")
    return re.sub(r"^(-?)0\.", r"\1.", text).replace("-", "\u2212")


def _map(panel: panels.EmbeddingMap) -> dict[str, Any]:
    names = list(dict.fromkeys(panel.series))
    index = [names.index(s) for s in panel.series]
    thumbs = ["" if t is None else media.picture_uri(np.asarray(t), 64) for t in panel.thumbnails] or [""] * len(index)
    counts = [index.count(i) for i in range(len(names))]
    label = f"{panel.title}: map of " + ", ".join(f"{n} {name}" for name, n in zip(names, counts))
    points = np.asarray(panel.points, np.float32)
    svg = figures.map_svg(points, index, list(panel.labels), thumbs, list(panel.pairs), label) if len(index) else ""
    legend = [{"name": n, "mark": Markup(figures.mark_svg(i)), "count": counts[i]} for i, n in enumerate(names)]
    return {"svg": Markup(svg), "legend": legend, "paired": bool(panel.pairs)}

"""Clips as strips of frames, with what is measured over their time below them: attention, saliency, true and predicted spans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmrep import raw
from mmrep.errors import ConfigError
from mmrep.evals.attention import FrameAttention
from mmrep.evals.temporal import Highlights, Moments, ious, true_spans
from mmrep.model import Fields, Model
from mmrep.report.panels import Figure

SHOWN = 6
"""Clips a panel shows, evenly spaced in the split and not chosen by hand."""
_WIDTH, _LABELS, _TITLE, _CURVE, _BAR, _GAP = 4.0, 0.95, 0.25, 0.32, 0.15, 0.2  # inches
_MOST = 12
COLOURS = ("#2b5f8f", "#c26a1c", "#1d7a4f", "#8a4b9c", "#7a7a2b", "#a33b3b")


@dataclass(frozen=True)
class Strip:
    """One clip. Each entry of `curves` and `spans` is a lane below its frames, in this order.

    frames: pictures uint8 [H, W, 3], evenly spaced in time; none for a clip of features.
    curves: {name: numbers [T], of T equal parts of the clip}, drawn as bars from 0.   spans: {name: [(start, end), ...]}, in [0, 1].
    """

    title: str
    frames: Sequence[np.ndarray] = ()
    curves: Mapping[str, Any] = field(default_factory=dict)
    spans: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.curves.items():
            if np.ndim(values) != 1 or not len(values):
                raise ConfigError(f"strip {self.title!r}: curve {name!r} has shape {np.shape(values)}; give [T]")
        for name, values in self.spans.items():
            if np.shape(values)[1:] != (2,):
                raise ConfigError(f"strip {self.title!r}: spans {name!r} have shape {np.shape(values)}; give [E, 2]")


def frames(model: Model, split: str, i: int, most: int = _MOST) -> list[np.ndarray]:
    """The frames of record i that the model is given, as uint8 [H, W, 3] (at most `most`, evenly spaced); none where it has no video."""
    m = next((m for m in model.data.modalities if m.kind == "video"), None)
    if m is None:
        return []
    shown = model.preprocess(m.name, [model.record(i, split)[m.source]])[0]
    shown = shown[..., :3] if m.channels >= 3 else np.repeat(shown[..., :1], 3, axis=-1)
    return [
        np.round(255 * np.clip(f, 0, 1)).astype(np.uint8) for f in raw.segments(shown, min(most, len(shown)), m.name)
    ]


def words(model: Model, split: str, i: int, fields: Fields = ()) -> str:
    """The first text of record i; of a group of texts its first one."""
    m = next((m for m in model.data.modalities if m.kind in ("text", "texts")), None)
    if m is None:
        return f"{split} {i}"
    value = model.record(i, split)[dict(fields).get(m.name, m.source)]
    return str(value if isinstance(value, str) else value[0])


def chosen(n: int) -> list[int]:
    """At most SHOWN evenly spaced records of n."""
    return np.linspace(0, n - 1, min(SHOWN, n)).astype(int).tolist()


def attention(model: Model, e: FrameAttention) -> Figure:
    """Some clips with the attention of their text, and the frames of the event it tells."""
    weights, told, events = (
        model.embed_split("attention", e.split), model.column(e.event, e.split), model.column(e.frame_event, e.split)
    )  # fmt: skip
    heard = {"sound": model.embed_split(e.sound, e.split)} if e.sound else {}
    shown = []
    for i in chosen(len(weights)):
        about = np.flatnonzero(np.asarray(events[i]) == told[i])
        truth = [(about[0] / len(events[i]), (about[-1] + 1) / len(events[i]))] if len(about) else np.zeros((0, 2))
        lanes = {"attention": weights[i]} | {name: found[i] for name, found in heard.items()}
        shown.append(Strip(words(model, e.split, i), frames(model, e.split, i), lanes, {"told": truth}))
    note = f"Evenly spaced records of the {e.split} split, not chosen by hand; the bar below marks the event that the text tells."
    return Figure("Frames that the text attends to", draw(shown), f"attention to {len(shown)} clips", note)


def moments(model: Model, e: Moments) -> Figure:
    """Some clips with the true moments of their first sentence and the first spans that the system predicts."""
    found: Any = np.asarray(model.embed_split(e.spans, e.split))
    rows, shown = model.column(e.truth, e.split), []
    for i in chosen(len(found)):
        spans = found[i, 0] if found.ndim == 4 else found[i]
        row = np.asarray(rows[i])
        truth = true_spans(row[0] if found.ndim == 4 and found.shape[1] > 1 else row)
        lanes = {"truth": truth, "predicted": spans[:1]} | ({"second": spans[1:2]} if len(spans) > 1 else {})
        best = float(ious(spans[:1], truth).max(initial=0.0))
        title = f"{words(model, e.split, i)} (IoU {best:.2f})"
        shown.append(Strip(title, frames(model, e.split, i), spans=lanes))
    title = f"Moments, {e.name}" if e.name else "Moments"
    note = f"Evenly spaced records of the {e.split} split, not chosen by hand; a clip runs from left to right."
    return Figure(title, draw(shown), f"true and predicted moments of {len(shown)} clips", note)


def highlights(model: Model, e: Highlights) -> Figure:
    """Some clips with the true and the predicted saliency of their parts."""
    scores, labels = np.asarray(model.embed_split(e.saliency, e.split, e.fields)), model.column(e.truth, e.split)
    shown = [
        Strip(
            words(model, e.split, i, e.fields), frames(model, e.split, i),
            curves={"truth": np.asarray(labels[i]), "predicted": scores[i]},
        )
        for i in chosen(len(scores))
    ]  # fmt: skip
    title = f"Highlights, {e.name}" if e.name else "Highlights"
    note = f"Saliency of each part of a clip, from left to right: evenly spaced records of the {e.split} split, not chosen by hand."
    return Figure(title, draw(shown), f"true and predicted saliency of {len(shown)} clips", note)


def draw(strips: Sequence[Strip], columns: int = 2) -> Any:
    """The strips as one matplotlib figure. Curves of one name share their scale over all strips; time runs from left to right."""
    from matplotlib.figure import Figure

    tops = {
        name: max((float(np.nanmax(s.curves[name])) for s in strips if name in s.curves), default=1.0)
        for name in dict.fromkeys(n for s in strips for n in s.curves)
    }
    tall = [_height(s) for s in strips]
    rows = [max(tall[k : k + columns]) for k in range(0, len(strips), columns)]
    width, height = columns * (_LABELS + _WIDTH + _GAP), sum(rows) + _GAP
    figure = Figure(figsize=(width, height))
    for k, strip in enumerate(strips):
        top = height - sum(rows[: k // columns])
        _strip(figure, strip, (k % columns) * (_LABELS + _WIDTH + _GAP) + _LABELS, top, (width, height), tops)
    return figure


def _picture(strip: Strip) -> float:
    """Height of the frames, in inches."""
    if not len(strip.frames):
        return 0.0
    h, w = np.shape(strip.frames[0])[:2]
    return min(_WIDTH / len(strip.frames) * h / w, 1.2)


def _height(strip: Strip) -> float:
    return _TITLE + _picture(strip) + _CURVE * len(strip.curves) + _BAR * len(strip.spans) + _GAP


def _strip(
    figure: Any, strip: Strip, left: float, top: float, size: tuple[float, float], tops: Mapping[str, float]
) -> None:
    width, height = size

    def axes(below: float, tall: float) -> Any:
        ax = figure.add_axes((left / width, (top - below - tall) / height, _WIDTH / width, tall / height))
        ax.set_xlim(0, 1)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        return ax

    def label(ax: Any, name: str) -> None:
        ax.text(-0.015, 0.5, name[:16], transform=ax.transAxes, ha="right", va="center", fontsize=7, parse_math=False)

    figure.text(left / width, (top - _TITLE + 0.06) / height, strip.title[:70], fontsize=8, parse_math=False)
    below = _TITLE
    if len(strip.frames):
        ax = axes(below, _picture(strip))
        ax.set_ylim(0, 1)
        n = len(strip.frames)
        for i, frame in enumerate(strip.frames):
            ax.imshow(frame, extent=(i / n + 0.002, (i + 1) / n - 0.002, 0, 1), aspect="auto", interpolation="nearest")
        ax.set_xlim(0, 1)
        below += _picture(strip)
    for k, (name, values) in enumerate(strip.curves.items()):
        ax, numbers = axes(below + 0.05, _CURVE - 0.05), np.asarray(values, np.float64)
        n, low = len(numbers), min(float(np.nanmin(numbers)), 0.0)
        ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        ax.bar((np.arange(n) + 0.5) / n, np.nan_to_num(numbers), 0.86 / n, color=COLOURS[k % len(COLOURS)])
        ax.set_ylim(low, max(tops[name], 1e-9))
        label(ax, name)
        below += _CURVE
    for k, (name, values) in enumerate(strip.spans.items()):
        ax, colour = axes(below, _BAR), COLOURS[(len(strip.curves) + k) % len(COLOURS)]
        ax.set_ylim(0, 1)
        ax.axhline(0.5, color="0.85", linewidth=0.6, zorder=0)
        for start, end in np.asarray(values, np.float64).reshape(-1, 2):
            ax.barh(0.5, max(end - start, 0.004), 0.62, left=start, color=colour, edgecolor="white", linewidth=0.6)
        label(ax, name)
        below += _BAR

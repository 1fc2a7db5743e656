"""The report of a run: tables, retrieval galleries, a map of the embeddings, similarities and training curves, all from one Model."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmrep import paths, raw
from mmrep.config import to_json
from mmrep.evals import retrieval
from mmrep.evals.attention import FrameAttention
from mmrep.evals.suite import Retrieval
from mmrep.evals.temporal import Highlights, Moments
from mmrep.model import Fields, Model
from mmrep.report import figures, strips
from mmrep.report.page import write_page
from mmrep.report.panels import Code, Column, Figure, Gallery, Panel, Picture, Sound, Table, Words, retrieve
from mmrep.report.tables import tables

SHOWN = 8
MAPPED = 60
NOTE = "The chance level is below each number that has one. Ties count by their mean rank."


def write(path: paths.Place, title: str, lead: str, model: Model, versions: Mapping[str, str]) -> paths.Place:
    """Writes the report of a trained model. Every number on it comes from the model's metrics, rows or embeddings.

    An evaluator of the experiment may add panels of its own: `panels(model) -> [Panel]`.
    """
    experiment, metrics = model.experiment, model.metrics
    found: list[Panel] = [*tables("Held-out data", metrics, NOTE)]
    shown = [e for e in experiment.evals if isinstance(e, Retrieval) and _is_matrix(model, e)]
    found += [gallery(model, e) for e in shown[:4]]
    if shown:
        found += [*embedding_map(model, shown), similarities(model, shown[0])]
        lead = f"{lead} {_headline(shown[0], metrics)}".strip()
    for e in experiment.evals:
        found += [strips.attention(model, e)] if isinstance(e, FrameAttention) else []
        found += [strips.moments(model, e)] if isinstance(e, Moments) else []
        found += [strips.highlights(model, e)] if isinstance(e, Highlights) else []
        found += e.panels(model) if hasattr(e, "panels") else []
    found += [
        Figure("Training", figures.curves(model.rows), "training curves: " + ", ".join(figures.groups(model.rows))),
        Code("Config", json.dumps(to_json(experiment), indent=2, ensure_ascii=False, default=str)),
        Table("Versions", [Column("version", "")], [(k, [str(v)]) for k, v in versions.items()]),
    ]
    return write_page(path, title, lead, found, getattr(experiment.data.source, "attribution", ()))


def _headline(e: Retrieval, metrics: Mapping[str, float]) -> str:
    """The first evaluator's recall, with its chance level, as a sentence; empty where it was not measured."""
    for k in sorted(e.ks, reverse=True):
        value, chance = metrics.get(f"{e.label} R@{k}"), metrics.get(f"{e.label} chance_R@{k}")
        if value is not None and chance is not None and chance < 1:
            label = e.label.replace("->", " → ")
            return f"Held-out {label}: the right answer is among the first {k} for {value:.0%} of the queries (chance {chance:.0%})."
    return ""


def media(model: Model, name: str, fields: Fields, split: str, i: int, caption: str = "") -> Any:
    """Record i's modality `name` as a Picture, Words or Sound; `caption` is printed below pictures and sounds.

    More than 8 numbers are a picture: a column each vector (time from left to right), dark where a number is large.
    """
    m = next(m for m in model.data.modalities if m.name == name)
    value = model.record(i, split)[dict(fields).get(name, m.source)]
    if m.kind in ("image", "video"):
        pixels = np.asarray(value) if m.kind == "image" else _strip(value)
        return Picture(pixels if pixels.dtype == np.uint8 else (np.clip(pixels, 0, 1) * 255).astype(np.uint8), caption)
    if m.kind == "audio":
        return Sound(np.asarray(value), m.rate, caption)
    if m.kind not in ("text", "texts"):
        numbers = np.asarray(value, np.float64)
        return (
            Picture(_shades(numbers), caption)
            if numbers.size > 8
            else Words(np.array2string(numbers, precision=3), caption)
        )
    language = dict(fields).get(name, m.source).rpartition("_")[2]
    words = " / ".join(map(str, value)) if m.kind == "texts" else str(value)
    return Words(words, lang=language if len(language) == 2 else "")


def _strip(frames: Any) -> np.ndarray:
    """At most six evenly spaced frames of a video, side by side."""
    shown = raw.segments(frames, 6 if isinstance(frames, raw.Timed) else min(6, len(frames)), "video")
    return np.concatenate([np.asarray(f) for f in shown], axis=1)


def _shades(numbers: np.ndarray) -> np.ndarray:
    """Numbers as grey pixels [H, W], of its own 2nd (white) to 98th percentile (black); vectors as columns, at least 48 pixels a side."""
    rows = np.nan_to_num(numbers.reshape(-1, numbers.shape[-1]).T if numbers.ndim > 1 else numbers[:, None])
    low, high = np.percentile(rows, (2, 98))
    pixels = np.round(255 * (1 - np.clip((rows - low) / max(high - low, 1e-9), 0, 1))).astype(np.uint8)
    across, down = (max(1, -(-48 // n)) for n in pixels.shape)
    return np.repeat(np.repeat(pixels, across, axis=0), down, axis=1)


def gallery(model: Model, e: Retrieval) -> Panel:
    """Evenly spaced queries of the split, and what each retrieves."""
    scores = e.scores(model)
    true = _true(model, e, len(scores))
    items = []
    for i in _spaced(len(scores), SHOWN):
        right = np.flatnonzero(true[i]).tolist()
        pool: list[Any] = [""] * scores.shape[1]
        best = sorted(right, key=lambda j: -scores[i, j])[:6]
        for j in {*np.argsort(-scores[i], kind="stable")[:5], *best}:  # only these are shown, and have to be decoded
            pool[j] = media(model, e.target, e.target_fields, e.split, int(j), _text(model, e.split, int(j)))
        query = media(model, e.query, e.query_fields, e.split, int(i), _text(model, e.split, int(i)))
        items.append(retrieve(query, pool, scores[i], right))
    note = f"Evenly spaced queries of the {e.split} split, not chosen by hand. The right answer has a green frame and a tick."
    return Gallery(f"Retrieval, {e.label}".replace("->", " → "), items, note)


def _true(model: Model, e: Retrieval, n: int) -> np.ndarray:
    """[i, j]: whether candidate j is a right answer to query i."""
    if e.truth:
        truth = model.split(e.split).truth()
        return truth if e.truth == e.query else truth.T
    keys = np.asarray([str(v) for v in model.column(e.group, e.split)] if e.group else range(n))
    return keys[:, None] == keys[None]


def similarities(model: Model, e: Retrieval) -> Panel:
    """The similarity matrix of evenly spaced pairs."""
    queries, targets = e.embeddings(model)
    chosen = _spaced(len(queries), 24)
    names = [_label(model, e, int(i)) for i in chosen]
    title = f"Similarity, {e.label}".replace("->", " → ")
    figure = figures.heatmap(retrieval.dot(queries[chosen], targets[chosen]), names, names)
    return Figure(title, figure, title, "Rows are queries, columns candidates; true pairs are on the diagonal.")


def embedding_map(model: Model, shown: Sequence[Retrieval]) -> list[Panel]:
    """The embeddings of at most three modalities of the same examples, in two dimensions."""
    sides: dict[tuple[str, Fields], np.ndarray] = {}
    for e in shown:
        for name, fields in ((e.query, e.query_fields), (e.target, e.target_fields)):
            sides.setdefault((name, fields), model.embed_split(name, e.split, fields))
    sides = dict(list(sides.items())[:3])
    n = len(next(iter(sides.values())))
    if n < 3 or any(len(v) != n for v in sides.values()):
        return []
    chosen, first = _spaced(n, MAPPED), shown[0]
    # Without centring each modality, the map would show little but the gap between modalities.
    points = figures.project_2d(np.concatenate([v[chosen] - v.mean(0) for v in sides.values()]), seed=0)
    images = {m.name for m in model.data.modalities if m.kind in ("image", "video")}
    thumbnails = [
        media(model, name, fields, first.split, int(i)).pixels if name in images else None
        for name, fields in sides for i in chosen
    ]  # fmt: skip
    figure = figures.embedding_map(
        points,
        [name for name, _ in sides for _ in chosen],
        [_label(model, first, int(i)) for _ in sides for i in chosen],
        thumbnails,
        [(i, k * len(chosen) + i) for i in range(len(chosen)) for k in range(1, len(sides))],
    )
    note = "t-SNE of held-out examples, each modality centred on its own mean; lines connect the modalities of one example."
    alt = f"map of {len(chosen)} examples: " + ", ".join(name for name, _ in sides)
    return [Figure("Map of the embeddings", figure, alt, note)]


def _spaced(n: int, shown: int) -> np.ndarray:
    return np.linspace(0, n - 1, min(shown, n)).astype(int)


def _label(model: Model, e: Retrieval, i: int) -> str:
    """The text of record i that the evaluator uses, else that of any text modality, else the record's number."""
    modalities = {m.name: m for m in model.data.modalities}
    for name, fields in ((e.query, e.query_fields), (e.target, e.target_fields)):
        if name in modalities and modalities[name].kind == "text":
            return _cut(model.record(i, e.split)[dict(fields).get(name, modalities[name].source)], 40)
    return _cut(_text(model, e.split, i), 40) or f"{e.split} {i}"


def _cut(value: object, most: int) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(model: Model, split: str, i: int) -> str:
    """The first text of record i; empty where the data has none."""
    source = next((m.source for m in model.data.modalities if m.kind == "text"), None)
    return "" if source is None else _cut(model.record(i, split)[source], 60)


def _is_matrix(model: Model, e: Retrieval) -> bool:
    known = {m.name for m in model.data.modalities}
    if e.query not in known or e.target not in known:
        return False
    return all(isinstance(x, np.ndarray) and x.ndim == 2 for x in e.embeddings(model))

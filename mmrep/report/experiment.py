"""The page of a run: its numbers, curves, retrieval galleries, similarities and a map of its space, all from one Model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrep.config import to_json
from mmrep.evals import retrieval
from mmrep.evals.suite import Retrieval
from mmrep.model import Fields, Model
from mmrep.report import panels
from mmrep.report.figures import project_2d
from mmrep.report.page import write_page
from mmrep.report.panels import Panel, Picture, Sound, Words
from mmrep.report.run import arrows, number_panels

SHOWN = 8
MAPPED = 60
NOTE = "Chance stands beside each number that has one. Ties count by their mean rank."


def write(
    path: Path, title: str, lead: str, model: Model, versions: Mapping[str, str]
) -> Path:  # fmt: skip
    """Writes the page of a trained model. Every number on it comes from the model's metrics, rows or embeddings.

    An evaluator of the experiment may add its own panels: `panels(model) -> [Panel]`.
    """
    experiment, metrics = model.experiment, model.metrics
    found: list[Panel] = [*number_panels("Held-out data", metrics, NOTE)]
    asked = [e for e in experiment.evals if isinstance(e, Retrieval) and _is_matrix(model, e)]
    for e in asked[:4]:
        found.append(gallery(model, e))
    if asked:
        found += [*embedding_map(model, asked), heatmap(model, asked[0])]
        lead = f"{lead} {_headline(asked[0], metrics)}".strip()
    for e in experiment.evals:
        found += e.panels(model) if hasattr(e, "panels") else []
    found += [
        panels.Curves("Training", _curves(model.rows)),
        panels.Config("Config", to_json(experiment)),
        panels.Versions("Versions", dict(versions)),
    ]
    return write_page(path, title, lead, found, getattr(experiment.data.source, "attribution", ()))


def _headline(e: Retrieval, metrics: Mapping[str, float]) -> str:
    """The first evaluator's recall, with its chance, as a sentence; empty where it was not measured."""
    for k in sorted(e.ks, reverse=True):
        value, chance = metrics.get(f"{e.label} R@{k}"), metrics.get(f"{e.label} chance_R@{k}")
        if value is not None and chance is not None and chance < 1:
            return f"Held-out {arrows(e.label)}: the right answer is among the first {k} for {value:.0%} (chance {chance:.0%})."
    return ""


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The logged rows without evaluations made only once: they stand in the tables, and one point is no curve."""
    times: dict[str, int] = {}
    for row in rows:
        for key in row:
            times[key] = times.get(key, 0) + 1
    return [{k: v for k, v in row.items() if not (k.startswith("eval/") and times[k] < 2)} for row in rows]


def media(model: Model, name: str, fields: Fields, split: str, i: int, caption: str = "") -> Any:
    """Record i as modality `name` shows it: a picture, words or a sound; `caption` stands below what cannot be read."""
    m = next(m for m in model.data.modalities if m.name == name)
    value = model.split(split).record(i)[dict(fields).get(name, m.source)]
    if m.kind == "image":
        pixels = np.asarray(value)
        pixels = pixels if pixels.dtype == np.uint8 else (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        return Picture(pixels, caption)
    if m.kind == "audio":
        return Sound(np.asarray(value), m.rate, caption)
    language = dict(fields).get(name, m.source).rpartition("_")[2]
    return Words(str(value), lang=language if len(language) == 2 else "")


def gallery(model: Model, e: Retrieval, shown: int = SHOWN) -> Panel:
    """Evenly spaced queries of the split, so that nobody picks the good ones, and what each retrieves."""
    queries, targets = e.embeddings(model)
    scores = retrieval.dot(queries, targets)
    keys = [str(v) for v in model.column(e.group, e.split)] if e.group else list(range(len(queries)))
    chosen = np.linspace(0, len(queries) - 1, min(shown, len(queries))).astype(int)
    items = []
    for i in chosen:
        right = [j for j, k in enumerate(keys) if k == keys[i]]
        # Only what is shown is decoded: the five best and the right one.
        near = [*np.argsort(-scores[i], kind="stable")[:5], *right]
        pool: list[Any] = [""] * len(targets)
        for j in near:
            pool[j] = media(model, e.target, e.target_fields, e.split, int(j), _name(model, e.split, int(j)))
        asked = media(model, e.query, e.query_fields, e.split, int(i), _name(model, e.split, int(i)))
        items.append(panels.retrieve(asked, pool, scores[i], right))
    return panels.Gallery(
        arrows(f"Retrieval, {e.label}"),
        items,
        f"Evenly spaced queries of the {e.split} split, not chosen by hand; the right answer is framed and ticked.",
    )


def heatmap(model: Model, e: Retrieval, shown: int = 24) -> Panel:
    """Similarities of evenly spaced pairs; a good space has a bright diagonal."""
    queries, targets = e.embeddings(model)
    chosen = np.linspace(0, len(queries) - 1, min(shown, len(queries))).astype(int)
    names = [_label(model, e, int(i)) for i in chosen]
    matrix = retrieval.dot(queries[chosen], targets[chosen])
    note = "Rows are queries, columns candidates; the diagonal holds the true pairs."
    return panels.Heatmap(
        arrows(f"Similarity, {e.label}"), matrix, names, names, note, [(i, i) for i in range(len(chosen))]
    )


def embedding_map(model: Model, asked: Sequence[Retrieval], shown: int = MAPPED) -> list[Panel]:
    """The shared space in two dimensions: every modality's embedding of the same examples."""
    sides: dict[tuple[str, Fields], np.ndarray] = {}
    for e in asked:
        for name, fields in ((e.query, e.query_fields), (e.target, e.target_fields)):
            sides.setdefault((name, fields), model.embed_split(name, e.split, fields))
    sides = dict(list(sides.items())[:3])
    n = len(next(iter(sides.values())))
    if n < 3 or any(len(v) != n for v in sides.values()):
        return []
    chosen = np.linspace(0, n - 1, min(shown, n)).astype(int)
    # Each modality is centred on its own mean, or the map would only show the gap between modalities.
    stacked = np.concatenate([v[chosen] - v.mean(0) for v in sides.values()])
    points = project_2d(stacked, seed=0)
    series = [name for name, _ in sides for _ in chosen]
    labels = [_label(model, asked[0], int(i)) for _ in sides for i in chosen]
    kinds = {m.name: m.kind for m in model.data.modalities}
    thumbnails = [
        media(model, name, fields, asked[0].split, int(i)).pixels if kinds[name] == "image" else None
        for name, fields in sides
        for i in chosen
    ]
    pairs = [(i, k * len(chosen) + i) for i in range(len(chosen)) for k in range(1, len(sides))]
    note = "t-SNE of held-out examples, each modality centred on its own mean; lines join the views of one example."
    return [panels.EmbeddingMap("Map of the shared space", points, series, labels, thumbnails, pairs, note)]


def _label(model: Model, e: Retrieval, i: int) -> str:
    kinds = {m.name: m for m in model.data.modalities}
    sides = ((e.query, e.query_fields), (e.target, e.target_fields), *((m.name, ()) for m in model.data.modalities))
    for name, fields in sides:
        if name in kinds and kinds[name].kind == "text":
            return str(model.split(e.split).record(i)[dict(fields).get(name, kinds[name].source)])[:40]
    return f"{e.split} {i}"


def _name(model: Model, split: str, i: int) -> str:
    """The record's text, as evaluation reads it; empty where the data has none."""
    for m in model.data.modalities:
        if m.kind == "text":
            return str(model.split(split).record(i)[m.source])[:60]
    return ""


def _is_matrix(model: Model, e: Retrieval) -> bool:
    known = {m.name for m in model.data.modalities}
    if e.query not in known or e.target not in known:
        return False
    return all(isinstance(x, np.ndarray) and x.ndim == 2 for x in e.embeddings(model))

"""The files under results/: what a proof, a recorded run and a dry run leave behind, one short file a system.

results/SLUG.json         claim, verdict, one line an expectation (mean and spread over seeds), versions, commit
results/full/SLUG.json    every arm, seed and metric, the rule and the notes
results/trained/SLUG.json the metrics of trained runs, one line a run (`experiments.evaluate SLUG --record`)
results/dryrun/SLUG.json  one line a size: memory, FLOPs and traffic of a training step, with the fingerprint of what the step is made of
"""

import json
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrep import catalogue

FOLDER = catalogue.ROOT / "results"
NOT_RUN = "not run"


def read(slug: str, kind: str = "", folder: Path = FOLDER) -> dict[str, Any]:
    """A stored file ({} where there is none); kind: "" | "full" | "trained" | "dryrun"."""
    path = folder / kind / f"{slug}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def step_fingerprint(experiment: Any) -> str:
    """Of what a training step is compiled from: evaluators do not count."""
    from dataclasses import replace

    from mmrep.config import fingerprint

    return fingerprint(replace(experiment, evals=()))


def write_proof(
    short: Mapping[str, Any], full: Mapping[str, Any], folder: Path = FOLDER
) -> Path:  # fmt: skip
    """Writes both files of a proof and returns the path of the short one."""
    (folder / "full").mkdir(parents=True, exist_ok=True)
    path = folder / f"{short['slug']}.json"
    path.write_text(lines(short, {"expectations": {}}) + "\n", encoding="utf-8")
    per_arm: dict[str, Any] = {"metrics": {arm: {} for arm in full["metrics"]}}
    (folder / "full" / path.name).write_text(lines(full, per_arm) + "\n", encoding="utf-8")
    return path


def write_row(slug: str, kind: str, row: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Puts a run or a dry run ("trained" | "dryrun") in place of the one of the same size and variant, or at the end."""
    key = lambda r: (r["size"], r["variant"])  # noqa: E731
    rows = read(slug, kind, folder).get("rows", [])
    at = next((i for i, r in enumerate(rows) if key(r) == key(row)), len(rows))
    rows[at : at + 1] = [dict(row)]
    path = folder / kind / f"{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines({"slug": slug, "rows": rows}, {"rows": {}}) + "\n", encoding="utf-8")
    return path


def lines(value: Any, broken: Mapping[str, Any], indent: str = " ") -> str:
    """JSON with one item a line at the top level and inside the keys of `broken` (nested the same way); the rest stays on its line."""
    if isinstance(value, Mapping):
        inner = [
            f"{json.dumps(k, ensure_ascii=False)}: "
            + (lines(v, broken[k], indent + " ") if v and k in broken else json.dumps(v, ensure_ascii=False))
            for k, v in value.items()
        ]
        opening, closing = "{}"
    else:
        inner = [json.dumps(v, ensure_ascii=False) for v in value]
        opening, closing = "[]"
    return f"{opening}\n{indent}" + f",\n{indent}".join(inner) + f"\n{indent[:-1]}{closing}"


def summary(expectations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The expectations of `experiments._verdict.judge` with mean, standard deviation and number of seeds in place of the differences."""
    kept = ("statement", "better", "worse", "headline", "margin", "slack")
    found = []
    for row in expectations:
        values = list(row["differences"].values())
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        figures = {"mean": round(row["mean"], 4), "sd": round(spread, 4), "n": len(values), "verdict": row["verdict"]}
        found.append({k: row[k] for k in kept if k in row} | figures)
    return found


def commit() -> str:
    """The commit of the working tree, with "+" added where it has changes; "" outside a checkout."""
    git = lambda *args: subprocess.run(  # noqa: E731
        ["git", *args], capture_output=True, text=True, cwd=catalogue.ROOT, check=True
    ).stdout.strip()
    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""

"""Lists the systems by family: is the claim reproduced at this scale, sizes, title. Recipes and tokenizers are apart."""

import json
from dataclasses import dataclass
from typing import Any

from experiments import _cli, _results
from mmrep import catalogue

WIDTH = 100


@dataclass(frozen=True)
class Options:
    json: bool = False
    """one JSON list"""


def rows() -> list[dict[str, Any]]:
    """One row a config, with claim and verdict of results/SLUG.json ("not run" where there is none)."""
    found = []
    for entry in catalogue.entries():
        result = _results.read(entry.slug)
        row: dict[str, Any] = {"slug": entry.slug, "family": entry.family, "kind": entry.kind, "title": entry.title}
        row |= {"sizes": list(entry.sizes), "variants": list(entry.variants)}
        row |= {"path": str(entry.path.relative_to(catalogue.ROOT)), "claim": result.get("claim", "")}
        found.append(
            row | {"reproduced": result.get("reproduced", _results.NOT_RUN if _results.FOLDER.exists() else "")}
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The rows as text of at most 100 columns, grouped by family."""
    families = catalogue.families(catalogue.entries())
    lines = [f"{'':18} {'reproduced':10} {'sizes':18} title"]
    for family in families:
        chosen = [r for r in found if r["family"] == family]
        lines += ["", family if chosen[0]["kind"] != "paper" else f"papers: {family}"]
        for r in chosen:
            line = f"{r['slug']:18} {r['reproduced']:10} {_short('/'.join(r['sizes']), 18):18} "
            lines.append(line + _short(r["title"], WIDTH - len(line)))
            if r["variants"]:
                lines.append(_short(f"{'':29} variants: {', '.join(r['variants'])}", WIDTH))
    return "\n".join(lines)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def run() -> None:
    options = _cli.parse_options(Options, __doc__)
    print(json.dumps(rows(), ensure_ascii=False) if options.json else table(rows()))


if __name__ == "__main__":
    _cli.main(run)

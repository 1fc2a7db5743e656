"""Every system: family, title, sizes, and what its proof showed."""

import argparse
import json
from pathlib import Path
from typing import Any

from experiments import _cli

MARKS = ("<!-- systems -->", "<!-- /systems -->")


def rows() -> list[dict[str, Any]]:
    """One row a config, with the verdict of results/SLUG.json ("not run" where there is none)."""
    found = []
    for entry in _cli.entries():
        result = read_result(entry.slug)
        row = entry._asdict() | {
            "path": str(entry.path.relative_to(_cli.ROOT)),
            "verdict": result.get("verdict", "not run"),
        }
        found.append(row | {"claim": result.get("claim", ""), "sizes": list(entry.sizes)})
    return found


def read_result(slug: str) -> dict[str, Any]:
    path = _cli.ROOT / "results" / f"{slug}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def markdown() -> str:
    """The README's table of systems."""
    lines = ["| system | family | what it is | its claim, tested here | verdict |", "|---|---|---|---|---|"]
    for r in rows():
        lines.append(f"| [`{r['slug']}`]({r['path']}) | {r['family']} | {r['title']} | {r['claim']} | {r['verdict']} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """`text` with the part between the marks replaced by the table. Raises ConfigError where the marks are missing."""
    before, opening, rest = text.partition(MARKS[0])
    _, closing, after = rest.partition(MARKS[1])
    if not opening or not closing:
        raise _cli.ConfigError(f"README.md has no {MARKS[0]} ... {MARKS[1]} to put the table in")
    return f"{before}{MARKS[0]}\n{markdown()}\n{MARKS[1]}{after}"


def run() -> None:
    p = argparse.ArgumentParser(prog="python -m experiments.list", description=__doc__, allow_abbrev=False)
    p.add_argument("--json", action="store_true", help="one JSON list")
    p.add_argument(
        "--readme", type=Path, nargs="?", const=_cli.ROOT / "README.md", help="rewrite the table in README.md"
    )
    options = p.parse_args()
    if options.json:
        print(json.dumps(rows(), ensure_ascii=False))
    elif options.readme:
        options.readme.write_text(with_table(options.readme.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        for r in rows():
            print(f"{r['slug']:12} {r['family']:12} {r['verdict']:14} {'/'.join(r['sizes']):18} {r['title']}")


if __name__ == "__main__":
    _cli.main(run)

"""Writes the pages that show stored results: docs/systems/*.md, docs/dryrun.md and the README's table of families.

Prose around the marks `<!-- NAME -->` ... `<!-- /NAME -->` of README.md and docs/dryrun.md is kept.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments import _cli, _results
from mmrep import catalogue
from mmrep.catalogue import Entry
from mmrep.errors import ConfigError

_TITLE = re.compile(r"(?P<name>[^:]+): (?P<what>.+?)(?: \((?P<paper>[^()]*?(?P<year>\d{4}))\))?")
COLUMNS = ("system", "paper", "modalities", "objective", "reproduced at this scale")
EARLIER = " (an earlier proof)"
UNITS = {"bytes_parameters": (1e6, 1), "bytes_optimizer": (1e6, 1), "bytes_extras": (1e6, 1), "bytes_activations": (1e9, 1),
         "flops_per_step": (1e12, 1)}  # fmt: skip


class Title(NamedTuple):
    """The parts of a config's first line: "NAME: what it does (Authors, Venue Year)"."""

    name: str
    what: str
    paper: str
    year: str


@dataclass(frozen=True)
class Options:
    check: bool = False
    """write nothing; exit code 2 where a page is out of date"""


def run() -> None:
    options = _cli.parse_options(Options, __doc__)
    wanted = pages()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    gone = [p for p in (catalogue.ROOT / "docs" / "systems").glob("*.md") if p not in wanted]
    if options.check and (stale or gone):
        names = ", ".join(str(p.relative_to(catalogue.ROOT)) for p in [*stale, *gone])
        raise ConfigError(f"out of date: {names}; run python -m experiments.pages")
    for path in [] if options.check else stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
        print(f"written: {path.relative_to(catalogue.ROOT)}")
    for path in [] if options.check else gone:
        path.unlink()


def pages() -> dict[Path, str]:
    """{path: text} of every generated page. Imports every config."""
    root, found = catalogue.ROOT, catalogue.entries()
    families = {name: [e for e in found if e.family == name] for name in catalogue.families(found)}
    made = {root / "docs" / "systems" / f"{f}.md": family_page(f, es) for f, es in families.items()}
    for path, mark, text in (
        (root / "README.md", "families", families_table(families)),
        (root / "docs" / "dryrun.md", "dryrun", dryrun_table(found)),
    ):
        made[path] = between(path.read_text(encoding="utf-8"), mark, text)
    return made


def between(page: str, mark: str, text: str) -> str:
    """`page` with the text between the marks replaced. Raises ConfigError where the marks are missing."""
    before, opening, rest = page.partition(f"<!-- {mark} -->")
    _, closing, after = rest.partition(f"<!-- /{mark} -->")
    if not closing:
        raise ConfigError(f"the page has no <!-- {mark} --> ... <!-- /{mark} --> to put the table in")
    return f"{before}{opening}\n{text}\n{closing}{after}"


def title(entry: Entry) -> Title:
    """The parts of the config's title. Raises ConfigError for a title of another form."""
    match = _TITLE.fullmatch(entry.title)
    if not match or (entry.kind == "paper" and not match["paper"]):
        raise ConfigError(f"{entry.path.name}: write the title as NAME: what it does (Authors, Venue Year)")
    return Title(match["name"], match["what"], match["paper"] or "", match["year"] or "")


def purpose(family: str) -> str:
    """What the systems of a family do: the first paragraph of the docstring of configs/FAMILY/__init__.py."""
    return _about(family)[0].rstrip(".")


def _about(family: str) -> list[str]:
    """The paragraphs of the docstring of configs/FAMILY/__init__.py: what the systems do, then which one to take."""
    text = inspect.getdoc(importlib.import_module(f"configs.{family}")) or ""
    return text.strip().split("\n\n")


def verdict(entry: Entry) -> str:
    """The verdict of the stored proof, marked where the config's proof expects something else by now."""
    stored = _results.read(entry.slug)
    if not stored:
        return _results.NOT_RUN
    return f"{stored['reproduced']}{EARLIER if _earlier(entry, stored) else ''}"


def _earlier(entry: Entry, stored: Mapping[str, Any]) -> bool:
    """Whether the expectations and arms of a stored proof are others than those of the config."""
    proof = catalogue.module(entry.slug).get_proof()
    expected = {(e.better, e.worse, e.margin) for e in proof.expects}
    found = {(e["better"], e["worse"], e["margin"]) for e in stored["expectations"]}
    return expected != found or {a.name for a in proof.arms} != {*stored["arms"]}


def families_table(families: Mapping[str, Sequence[Entry]]) -> str:
    """One row a family: the systems, what they do, how many proofs reproduce their paper's claim."""
    lines = ["| family | systems | what they do | reproduced at this scale |", "|---|---|---|---|"]
    for family, found in families.items():
        verdicts = [verdict(e) for e in found]
        names = ", ".join(title(e).name for e in simplest_first(found))
        ran = sum(v != _results.NOT_RUN and not v.endswith(EARLIER) for v in verdicts)
        count = f"{verdicts.count('yes')} of {ran}" if ran else _results.NOT_RUN
        lines.append(f"| [{family}](docs/systems/{family}.md) | {names} | {purpose(family)} | {count} |")
    return "\n".join(lines)


def family_page(family: str, found: Sequence[Entry]) -> str:
    """docs/systems/FAMILY.md: one row a system, then each proof."""
    ordered = simplest_first(found)
    lines = [
        f"# {family.capitalize()}", "", f"{purpose(family)}.", "", *(line for p in _about(family)[1:] for line in (p, "")),
        "Simplest first. Expectations in italics are reported and do not count for the verdict. Settings were chosen on other seeds and on validation "
        "records; most sources have the same test records for every seed, so that a fresh seed varies initialisation and order alone. Written by "
        "`python -m experiments.pages`.", "",
        f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|",
    ]  # fmt: skip
    for e in ordered:
        t = title(e)
        paper = _link(t.paper, e)
        lines.append(
            f"| [{t.name}](../../{_relative(e)}) `{e.slug}` | {paper} | {modalities(e)} | {t.what} | {verdict(e)} |"
        )
    for e in ordered:
        lines += ["", *proof_section(e, title(e).name), *runs_section(e)]
    return "\n".join(lines) + "\n"


def proof_section(entry: Entry, name: str) -> Iterator[str]:
    """The stored proof of one system, as Markdown lines."""
    short, full = _results.read(entry.slug), _results.read(entry.slug, "full")
    yield from (f"## {name}", "")
    if not short:
        yield "No proof has been run."
        return
    if _earlier(entry, short):
        yield from ("The config's proof has changed since, and has not been run again.", "")
    seeds = max(e["n"] for e in short["expectations"])
    yield f"Claim: {short['claim']}"
    yield ""
    yield (
        f"Reproduced at this scale: **{short['reproduced']}** ({seeds} seeds; {short['data']}; metric: {short['metric']}; commit "
        f"{short['commit']}; all numbers: [results/full/{entry.slug}.json](../../results/full/{entry.slug}.json))."
    )
    yield from ("", "| expectation | compared | margin | mean difference | sd | met |", "|---|---|---:|---:|---:|---|")
    for e in short["expectations"]:
        statement = e["statement"] if e["headline"] else f"*{e['statement']}*"
        compared = f"{e['better']} > {e['worse']}" + (f" (slack {e['slack']:g})" if e.get("slack") else "")
        yield f"| {_cell(statement)} | {_cell(compared)} | {e['margin']:g} | {e['mean']:+.3f} | {e['sd']:.3f} | {e['verdict']} |"
    if full.get("notes"):
        yield from ("", full["notes"])


def runs_section(entry: Entry) -> Iterator[str]:
    """The metrics of recorded runs, as Markdown lines."""
    for row in _results.read(entry.slug, "trained").get("rows", []):
        name = " ".join(filter(None, (f"`{entry.slug}`", row["size"], row["variant"])))
        yield from ("", f"Trained once, {name}: seed {row['seed']}, {row['steps']} steps, commit {row['commit']}.", "")
        yield from ("| metric | value |", "|---|---:|")
        yield from (f"| {_cell(k)} | {v:.3f} |" for k, v in row["metrics"].items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def dryrun_table(found: Sequence[Entry]) -> str:
    """The table of docs/dryrun.md, from results/dryrun. A row whose config has changed since is marked."""
    head = "| system | mesh | batch | parameters (M) | parameters (MB) | optimiser (MB) | extras (MB) | activations (GB) | TFLOPs a step | sent a step (MB) |"
    lines = [head, "|---|---|" + "---:|" * 7 + "---|"]
    for e in found:
        for row in _results.read(e.slug, "dryrun").get("rows", []):
            lines.append(_dryrun_line(e, row))
    return "\n".join(lines)


def _dryrun_line(entry: Entry, row: Mapping[str, Any]) -> str:
    known = row["size"] in entry.sizes and row["variant"] in ("", *entry.variants)
    fresh = known and row.get("fingerprint") == _results.step_fingerprint(
        catalogue.experiment(entry.slug, row["size"], row["variant"])
    )
    name = " ".join(filter(None, (f"`{entry.slug}`", row["size"], row["variant"]))) + ("" if fresh else " (old)")
    mesh = " x ".join(f"{k} {v}" for k, v in row["mesh"].items() if v > 1)
    if "failed" in row:
        return f"| {name} | {mesh} | {row['failed']} ||||||||"
    sent = ", ".join(f"{k} {v / 1e6:,.0f}" for k, v in row["bytes_sent"].items() if v >= 5e5) or "under 1"
    cells = [f"{row[k] / unit:,.{digits}f}" for k, (unit, digits) in UNITS.items()]
    return (
        f"| {name} | {mesh} | {row['batch_size']:,} | {row['parameters'] / 1e6:,.1f} | {' | '.join(cells)} | {sent} |"
    )


def simplest_first(found: Sequence[Entry]) -> list[Entry]:
    """Systems of one file before those of several; then by year and slug."""
    return sorted(found, key=lambda e: (_files(e), title(e).year, e.slug))


def _files(entry: Entry) -> int:
    """Python files of the system that the config trains; 0 where it is no class of mmrep.systems."""
    home = type(catalogue.experiment(entry.slug, entry.sizes[0]).system).__module__
    path = catalogue.ROOT / Path(*home.split("."))
    return len(list(path.glob("*.py"))) if path.is_dir() else 1


def modalities(entry: Entry) -> str:
    """The names of the modalities in a batch, at most six of them."""
    names = [m.name for m in catalogue.experiment(entry.slug, entry.sizes[0]).data.modalities]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _link(paper: str, entry: Entry) -> str:
    """The paper with a link to its preprint, where the config's docstring has the number."""
    number = re.search(r"arXiv:? ?(\d{4}\.\d{4,5})", entry.path.read_text(encoding="utf-8"))
    return f"[{paper}](https://arxiv.org/abs/{number[1]})" if paper and number else paper


def _relative(entry: Entry) -> str:
    path = entry.path.parent if entry.path.name == "__init__.py" else entry.path
    return path.relative_to(catalogue.ROOT).as_posix()


if __name__ == "__main__":
    _cli.main(run)

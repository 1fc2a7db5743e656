"""Writes a run's model to one file of half the size, with a card beside it: what `mmrep.load` finds by the system's name in mmrep/assets."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments import _cli
from mmrep import catalogue

if TYPE_CHECKING:
    from mmrep.model import Model

HEADING = "## Limits"


@dataclass(frozen=True)
class Options:
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """the run's folder (default: runs/SLUG-SIZE)"""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = catalogue.ASSETS
    """where SLUG.safetensors and SLUG.md are written"""


def run() -> None:
    for path in export(_cli.parse(Options, __doc__)):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def export(command: _cli.Command[Options]) -> list[Path]:
    """The files of the run, see `write`."""
    from mmrep.training.restore import restore

    options = command.options
    return write(restore(command.run_folder(options.workdir)), command.slug, options.out)


def write(model: "Model", slug: str, folder: Path) -> list[Path]:
    """[SLUG.safetensors, SLUG.md]: the model in half the bytes, and its card with the `LIMITS` that its config states."""
    from mmrep import paths

    paths.make(folder, "give another --out")
    file, card = model.save(folder / f"{slug}.safetensors", half=True), folder / f"{slug}.md"
    limits = getattr(catalogue.module(slug), "LIMITS", "")
    about = model.card().partition("## Config")[0]
    own = f"{HEADING}\n\n{limits.strip()}\n\n" if limits else ""
    paths.replace(card, f"{about}{own}## Config\n\nIn the file: `mmrep.load({slug!r}).experiment`.\n")
    return [file, card]


if __name__ == "__main__":
    _cli.main(run)

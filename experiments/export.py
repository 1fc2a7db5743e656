"""Writes a run's model to one file of half the size, with a card beside it: what `mmrep.load` finds by the system's name in mmrep/assets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments import _cli
from mmrep import catalogue

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
    """[the file of weights, the card]."""
    from mmrep import paths
    from mmrep.training.restore import restore

    options = command.options
    model = restore(command.run_folder(options.workdir))
    folder = paths.make(options.out, "give another --out")
    file = model.save(folder / f"{command.slug}.safetensors", half=True)
    card = folder / f"{command.slug}.md"
    limits = getattr(catalogue.module(command.slug), "LIMITS", "")
    before, config, after = model.card().partition("## Config")
    own = f"{HEADING}\n\n{limits.strip()}\n\n" if limits else ""
    paths.replace(card, before + own + config + after + "\n")
    return [file, card]


if __name__ == "__main__":
    _cli.main(run)

"""Writes training triples about pictures, each draft checked and revised, as JSON lines; rejected drafts are counted with their reasons.

python -m experiments.synthesise mme5 --out pairs.jsonl                                              # about made things, by a simulated writer
python -m experiments.synthesise mme5 --folder PICTURES --out pairs.jsonl                            # from the pictures' captions
python -m experiments.synthesise mme5 --folder PICTURES --writer mymodule:write --out pairs.jsonl    # by a function of yours

A writer is any callable (plan, record, similar, feedback) -> mmrep.data.synthesis.Draft, say of a multimodal language model; a judge is any
callable (plan, record, draft) -> the reason of a rejection, or "". The file trains the system: train mme5 --variant triples.
"""

import importlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import _cli
from mmrep import paths
from mmrep.errors import ConfigError, DataError

FILE = tyro.conf.arg(metavar="PATH")


@dataclass(frozen=True)
class Options:
    out: Annotated[Path, FILE]
    """the file of JSON lines"""
    count: int = 1000
    """triples to plan; those without a draft that passes are left out"""
    folder: Annotated[Path | None, FILE] = None
    """a folder of pictures (see mmrep.data.sources.Folder); else the made things of the system's own data"""
    writer: str = ""
    """MODULE:FUNCTION; empty: the pictures' captions, or of made things the simulated writer"""
    judge: str = ""
    """MODULE:FUNCTION; empty: the form of a draft alone is checked, and of made things their words"""
    tasks: str = ""
    """names that the writer knows, with commas (default: retrieval)"""
    forms: str = "image->text,text->image"
    """modalities of query and target: image, text or image+text on either side"""
    languages: str = ""
    """with commas; a number after a colon is the weight: en:3,de"""
    similar: int = 4
    """the most similar records that a writer sees, for hard negatives"""
    attempts: int = 2
    """drafts of a triple: one, and its revisions"""
    split: str = "train"
    """train, val or test"""
    seed: int = 0


def run() -> None:
    command = _cli.parse(Options, __doc__)
    o = command.options
    if o.out.suffix != ".jsonl":
        raise ConfigError(f"--out is {o.out}: its name must end in .jsonl")
    if min(o.count, o.similar, o.attempts) < 1:
        raise ConfigError(f"--count is {o.count}, --similar {o.similar} and --attempts {o.attempts}: give at least 1")
    kept, reasons = synthesise(command.experiment.data.source, o)
    print(f"{o.out}: {kept} triples of {o.count} plans")
    for reason, times in reasons.items():
        print(f"  {times:6}  {reason}")


def synthesise(source: Any, o: Options) -> tuple[int, dict[str, int]]:
    """(triples written to `o.out`, how often a draft was rejected for each reason). `source` is the system's own."""
    import numpy as np

    from mmrep.data import synthesis
    from mmrep.data.features import gradients
    from mmrep.data.folder import Folder

    def path(record: Any) -> str:
        return os.path.relpath(record["file"], o.out.parent)

    def numbers(record: Any) -> list[Any]:
        return np.round(np.asarray(record["regions"], np.float64), 4).tolist()

    write: Any = synthesis.write_captions
    judge: Any = None
    picture: Any = path
    tasks: tuple[str, ...] = ("retrieval",)
    languages, weights = weighted(o.languages or "en")
    if o.folder is not None:
        folder = Folder(o.folder)
        records = [folder.view(r, None) for r in folder.open(o.split)]
        vectors = gradients([thumbnail(r) for r in records])
    else:
        from mmrep.systems.contrastive.mme5.writer import TASKS, ThingsJudge, ThingsWriter

        world = getattr(source, "world", None)
        if world is None:
            raise ConfigError("the system's data has no made world: give the folder of your pictures in --folder")
        records = list(world.open(o.split))
        vectors = np.stack([r["regions"] for r in records])
        write, judge, picture, tasks = (
            ThingsWriter(source.wrong, source.error, o.seed),
            ThingsJudge(source.sharp, o.seed),
            numbers,
            TASKS,
        )
        languages, weights = weighted(o.languages or "0,1,2,3")
    if len(records) < 2:
        raise DataError(f"split {o.split!r} has {len(records)} records: hard negatives need at least 2")
    write, judge = function(o.writer, "--writer") or write, function(o.judge, "--judge") or judge
    todo = synthesis.plans(
        np.random.default_rng(o.seed), o.count, tasks=tuple(o.tasks.split(",")) if o.tasks else tasks, sides=sides(o.forms),
        languages=languages, weights=weights, similar=synthesis.neighbours(vectors, o.similar),
    )  # fmt: skip
    paths.make(o.out.parent, "give another --out")
    rejected, kept = [], 0
    with o.out.open("w", encoding="utf-8") as file:
        for row, reasons in synthesis.synthesise(records, todo, write, judge, attempts=o.attempts, picture=picture):
            rejected.append(reasons)
            if row is not None:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                kept += 1
    if not kept:
        raise DataError(f"no draft passed: {', '.join(synthesis.tally(rejected))}")
    return kept, synthesis.tally(rejected)


def function(address: str, option: str) -> Any:
    """The callable "module:name"; None of "". Modules of the current folder are found, too."""
    if not address:
        return None
    module, _, name = address.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{option} is {address!r}: write MODULE:FUNCTION ({error})") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ConfigError(f"{option} is {address!r}, which cannot be called: name a function")
    return found


def sides(text: str) -> tuple[tuple[str, str], ...]:
    """(("image", "text"), ...) of "image->text,..."."""
    found = tuple(tuple(form.split("->")) for form in text.split(","))
    if any(len(form) != 2 for form in found):
        raise ConfigError(f"--forms is {text!r}: write QUERY->TARGET, such as image->text")
    return found  # type: ignore[return-value]


def weighted(text: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """(languages, weights) of "en:3,de"."""
    names, shares = zip(*((n, s) for n, _, s in (part.partition(":") for part in text.split(","))))
    try:
        weights = tuple(float(s or 1) for s in shares)
    except ValueError:
        weights = ()
    if not weights or min(weights) < 0 or not sum(weights):
        raise ConfigError(f"--languages is {text!r}: write names with weights of at least 0, such as en:3,de")
    return names, weights


def thumbnail(record: Any, side: int = 64) -> Any:
    """The picture as uint8 [side, side, 3]. Raises DataError for a record without one."""
    import numpy as np
    from PIL import Image

    if "image" not in record:
        raise DataError(f"{record.get('file', 'a record')} has no picture")
    return np.asarray(Image.fromarray(record["image"]).resize((side, side)))


if __name__ == "__main__":
    _cli.main(run)

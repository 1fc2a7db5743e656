"""Classifies the pictures of a folder by the names of its sub-folders, without training (Radford et al. 2021, section 3.1).

python -m experiments.zero_shot clip-vit-base-patch32 --data photos --templates openai

The model is anything that mmrep.load takes: a folder of published weights, a file, or a run. Each sub-folder of --data is a class; its name,
with spaces for underscores, is put into each template.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from experiments import _cli, _templates
from mmrep.errors import ConfigError, DataError

BATCH = 256


@dataclass(frozen=True)
class Options:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """a folder or file of weights, or a run's folder"""
    data: Annotated[Path, _cli.FOLDER]
    """a folder with one sub-folder of pictures for each class"""
    templates: str = "photo"
    """plain ("{}"), photo ("a photo of a {}."), openai (80 templates), or a text file with one template a line"""
    out: Path | None = None
    """a CSV file for each picture's class, prediction and probability"""
    json: bool = False
    """one JSON line"""


def run() -> None:
    o = _cli.parse_options(Options, __doc__)
    templates, classes = _templates.templates(o.templates), pictures(o.data)
    _cli.enable_compile_cache()
    import mmrep

    model = mmrep.load(o.model)
    names = tuple(name.replace("_", " ") for name in classes)
    classifier = mmrep.zero_shot(model, names, templates)
    files = [path for paths in classes.values() for path in paths]
    truth = np.repeat(np.arange(len(names)), [len(paths) for paths in classes.values()])
    odds = np.concatenate([classifier([str(p) for p in files[i : i + BATCH]]) for i in range(0, len(files), BATCH)])
    if o.out:
        write(o.out, files, names, truth, odds)
    found = summary(names, truth, odds)
    if o.json:
        _cli.dump({"model": o.model, "data": str(o.data), "templates": len(templates), **found})
        return
    width = max(map(len, names))
    for name, share, n in zip(names, found["classes"].values(), np.bincount(truth)):
        print(f"{name:{width}}  {share:6.1%} of {n:,}")
    print(
        f"top-1 {found['top-1']:.1%}, top-5 {found['top-5']:.1%} of {len(files):,} pictures; chance {found['chance']:.1%}"
    )


def pictures(folder: Path) -> dict[str, list[Path]]:
    """{class: its pictures}, by the sub-folders in order. Raises DataError where there are fewer than two of them, or no pictures in one."""
    from mmrep.data.decode import IMAGE

    if not folder.is_dir():
        raise DataError(f"--data {folder} is no folder")
    found = {
        path.name: sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE)
        for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")
    }  # fmt: skip
    if len(found) < 2:
        raise DataError(f"--data {folder} has {len(found)} sub-folders: it needs one for each of at least two classes")
    if empty := [name for name, paths in found.items() if not paths]:
        raise DataError(f"--data {folder / empty[0]} has no picture: fill or remove it")
    return found


def summary(names: tuple[str, ...], truth: np.ndarray, odds: np.ndarray) -> dict[str, Any]:
    """Shares in [0, 1]: of the pictures whose class is the likeliest, among the five likeliest, and by class."""
    best = np.argsort(-odds, axis=1)
    right = best[:, 0] == truth
    return {
        "top-1": float(right.mean()), "top-5": float((best[:, :5] == truth[:, None]).any(1).mean()),
        "chance": 1 / len(names), "pictures": len(truth),
        "classes": {name: float(right[truth == i].mean()) for i, name in enumerate(names)},
    }  # fmt: skip


def write(path: Path, files: list[Path], names: tuple[str, ...], truth: np.ndarray, odds: np.ndarray) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file", "class", "predicted", "probability"])
            for f, t, row in zip(files, truth, odds):
                table.writerow([f, names[t], names[int(row.argmax())], f"{row.max():.4f}"])
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    _cli.main(run)

"""Computes a trained tokenizer's ids for another system's records, for models of tokens.

python -m experiments.train vqvae --variant fourm
python -m experiments.tokenize vqvae --variant fourm --data fourm --data-variant tokens
python -m experiments.train fourm --variant tokens
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import _cli
from mmrep import paths
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class Options:
    data: Annotated[str, tyro.conf.arg(metavar="SLUG")]
    """the system whose data.source loads the ids"""
    data_size: str = "small"
    """its size"""
    data_variant: str = ""
    """its variant"""
    field: str | None = None
    """which of its token fields, where it has several"""
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """the tokenizer's run (default: runs/SLUG-SIZE)"""


def run() -> None:
    command = _cli.parse(Options, __doc__)
    o = command.options
    workdir = command.run_folder(o.workdir)
    config = _cli.experiment(o.data, o.data_size, variant=o.data_variant)
    for path in write(workdir, chosen(config.data.source, o.field)):
        print(path)


def chosen(source: Any, field: str | None) -> Any:
    """The Tokenised of `source` of `field`, or its only one."""
    from mmrep.data.tokenised import within

    found = {t.field: t for t in within(source)}
    if field is None and len(found) == 1:
        return next(iter(found.values()))
    if field not in found:
        reads = f"reads {', '.join(found)}: choose one with --field" if found else "reads no tokens"
        raise ConfigError(f"data.source {reads}")
    return found[field]


def write(workdir: paths.Place, target: Any) -> list[Path]:
    """SPLIT.npy [N, *place] of the ids of every split, then about.json, which completes the folder."""
    import dataclasses

    import jax
    import numpy as np

    from mmrep.data import pipeline
    from mmrep.data.contents import contents
    from mmrep.data.tokenised import ABOUT, as_json
    from mmrep.training.restore import restore

    _cli.enable_compile_cache()
    model = restore(workdir)
    if "tokenize" not in model.names:
        raise ConfigError(f"{workdir} is no tokenizer: it has no infer function 'tokenize'")
    data = dataclasses.replace(model.experiment.data, source=target.source)
    folder, written = Path(target.folder), []
    paths.make(folder)
    (folder / ABOUT).unlink(missing_ok=True)  # until all splits are of this tokenizer
    held = {}
    for split in ("train", "val", "test"):
        rows, parts = pipeline.open_split(data, model.tokenize, split), []
        held[split] = contents(rows.records)
        size = min(data.eval_batch_size, len(rows))
        for start in range(0, len(rows), size):
            entries = [rows.entry(i) for i in range(start, min(start + size, len(rows)))]
            batch = pipeline.collate(entries + [entries[-1]] * (size - len(entries)))
            parts.append(jax.device_get(model.infer("tokenize", batch))[: len(entries)])
        ids = np.concatenate(parts)
        written.append(folder / f"{split}.npy")
        np.save(written[-1], ids.astype(np.uint16 if ids.max() < 2**16 else np.int32))
    about = {"tokenizer": str(workdir), "field": target.field, "source": as_json(target.source), "contents": held}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return written


if __name__ == "__main__":
    _cli.main(run)

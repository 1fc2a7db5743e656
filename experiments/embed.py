"""Embeds a split of a run's data into shards on disk; an interrupted command resumes at the next shard.

python -m experiments.embed align --workdir runs/align-small --modality image --split test --out corpora/align

Overrides of data.source are taken, for data that has moved or for other data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from experiments import _cli
from mmrep import paths
from mmrep.errors import ConfigError, DataError


@dataclass(frozen=True)
class Options:
    out: Annotated[Path, _cli.FOLDER]
    """the corpus folder, or its URL"""
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """the run's folder (default: runs/SLUG-SIZE)"""
    modality: str = "image"
    """an infer function that gives one vector a record"""
    split: str = "test"
    """train, val or test"""
    shard_size: int = 65_536
    """records a shard"""
    part: str = "0/1"
    """I/N: this host's share of the shards, for N hosts on one shared folder"""


def run() -> None:
    o = (command := _cli.parse(Options, __doc__)).options
    index, _, count = o.part.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"--part {o.part!r}: write I/N with 0 <= I < N, e.g. 0/4")
    if o.shard_size < 1:
        raise ConfigError(f"--shard-size is {o.shard_size}: it must be at least 1")
    workdir = command.run_folder(o.workdir)
    _cli.enable_compile_cache()
    written = embed(
        workdir, o.modality, o.split, paths.at(o.out), o.shard_size, (int(index), int(count)), command.overrides
    )
    print(f"{o.out}: {written} shards written" if written else f"nothing left to do: {o.out} is complete")


def embed(
    workdir: paths.Place, modality: str, split: str, out: paths.Place, shard_size: int, part: tuple[int, int] = (0, 1),
    overrides: Sequence[str] = (),
) -> int:  # fmt: skip
    """Writes the shards that `out` lacks. Bad records are left out, up to the config's data.max_bad_records.

    overrides: of data.source, where the run's data has moved, or other data is embedded.
    """
    import jax
    import numpy as np

    from mmrep.data import contents, pipeline
    from mmrep.evals import index
    from mmrep.training.checkpoint import Checkpoints
    from mmrep.training.restore import restore

    model = restore(workdir)
    data = _cli.run_data(model.experiment, overrides)
    if modality in (m.name for m in data.modalities):  # the others need not be decoded
        data = replace(data, modalities=tuple(m for m in data.modalities if m.name == modality))
    rows = pipeline.open_split(data, model.tokenize, split)
    size = data.eval_batch_size
    with Checkpoints(workdir / "checkpoints", write=False) as saves:
        step = saves.latest

    def vectors(low: int, high: int) -> tuple[Any, Any]:
        ids, found = [], []
        for start in range(low, high, size):
            good, entries = [], []
            for i in range(start, min(start + size, high)):
                try:
                    entries.append(rows.entry(i))
                    good.append(i)
                except DataError as error:
                    rows.skip(i, str(error))
            if good:
                batch = pipeline.collate(entries + [entries[-1]] * (size - len(entries)))
                values = jax.device_get(model.infer(modality, batch))
                if not isinstance(values, np.ndarray) or values.ndim != 2:
                    raise ConfigError(
                        f"infer {modality!r} does not give one vector a record: choose another --modality"
                    )
                found.append(values[: len(good)])
                ids += good
        if not found:
            raise DataError(f"every record of {split} {low} to {high - 1} is bad")
        return np.asarray(ids), np.concatenate(found)

    about = {
        "workdir": str(workdir if paths.is_url(workdir) else Path(workdir).resolve()), "step": step, "modality": modality, "split": split, "records": len(rows),
        "shard_size": shard_size, "contents": contents.contents(rows.records), "overrides": [*overrides],
    }  # fmt: skip
    return index.write(out, about, vectors, part)


if __name__ == "__main__":
    _cli.main(run)

"""Searches a corpus that experiments.embed wrote: the nearest records of each query and their scores.

python -m experiments.search corpora/align --query "text=a small red circle" --query image=cat.png --query image=#17

Overrides of data.source are taken, for data that has moved; data that changed since it was embedded is refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import _cli
from mmrep import paths
from mmrep.errors import ConfigError, DataError, near


@dataclass(frozen=True)
class Options:
    folder: Annotated[tyro.conf.Positional[Path], _cli.FOLDER]
    """the corpus"""
    query: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="MODALITY=VALUE")] = ()
    """a text, an image or sound file, or #N: record N of the corpus's split"""
    k: int = 10
    """results a query"""
    index: str = "exact"
    """exact, ivf (clusters) or ivfpq (clusters and compressed vectors)"""
    probe: int = 0
    """clusters searched (0: an eighth of them)"""
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """the run that embedded the corpus, where it has moved"""
    json: bool = False
    """one JSON line a query"""


def run() -> None:
    o, moved = _cli.parse_with(Options, __doc__, ("data.source.",))
    if not o.query:
        raise ConfigError('--query is missing: give for example --query "text=a red circle"')
    if o.k < 1:
        raise ConfigError(f"--k is {o.k}: it must be at least 1")
    from mmrep.evals import index

    corpus = index.Corpus(paths.at(o.folder))
    corpus.whole()
    _cli.enable_compile_cache()
    import mmrep
    from mmrep.data.contents import contents

    model = mmrep.load(o.workdir or corpus.about["workdir"])
    data = _cli.run_data(model.experiment, [*corpus.about.get("overrides", []), *moved])
    model = model if data == model.data else model.on(data)
    split = model.split(corpus.about["split"])
    corpus.check(contents(split.records))
    built = index.build(corpus, o.index, probe=o.probe)
    for text in o.query:
        hits = built.search(mapped(vector(model, split, text), corpus.about), o.k)
        rows = [
            {"id": int(i), "score": float(s), "is": index.describe(split.record(int(i)))}
            for i, s in zip(hits.ids[0], hits.scores[0]) if i >= 0
        ]  # fmt: skip
        if o.json:
            _cli.dump({"query": text, "index": o.index, "hits": rows})
        else:
            print(f"{text}  ({o.index}, {len(built.ids):,} records)")
            for row in rows:
                print(f"  {row['id']:>8}  {row['score']:.4f}  {row['is']}")


def mapped(x: Any, about: dict[str, Any]) -> Any:
    """The embeddings in the corpus's space: by its map, where experiments.align wrote the corpus."""
    if "map" not in about:
        return x
    import numpy as np

    from mmrep.evals.retrieval import unit

    path, side = about["map"]
    try:
        with np.load(path, allow_pickle=False) as maps:
            return unit(x @ maps[f"{side}_weight"] + maps[f"{side}_bias"]).astype(np.float32)
    except OSError as error:
        raise DataError(
            f"the map {path} of the corpus cannot be opened ({error}): run experiments.align again"
        ) from None


def vector(model: Any, split: Any, query: str) -> Any:
    """The embedding [1,D] of "MODALITY=VALUE". Raises ConfigError for an unknown modality, DataError for an unusable file."""
    name, equals, value = query.partition("=")
    known = {m.name: m for m in model.experiment.data.modalities}
    if not equals or name not in known:
        raise ConfigError(f"--query {query!r}: write MODALITY=VALUE{near(name, known)}")
    m = known[name]
    if number := re.fullmatch(r"#(\d+)", value):
        if int(number[1]) >= len(split):
            raise ConfigError(f"--query {query!r}: the split {split.name!r} has {len(split)} records")
        raw = split.record(int(number[1]))[m.source]
    elif m.kind in ("text", "image", "audio", "video"):
        raw = value  # of pictures, sounds and clips the path
    else:
        raise ConfigError(f"--query {query!r}: a {m.kind} is given by its record, {name}=#N")
    return model.call(name, **{name: [raw]})


if __name__ == "__main__":
    _cli.main(run)

"""Answers queries from a corpus that experiments.embed wrote: the nearest records, their scores and what they are.

python -m experiments.search corpora/align --query "text=a small red circle" --query image=cat.png --query image=#17
"""

import argparse
import re
from pathlib import Path
from typing import Any

from experiments import _cli


def run() -> None:
    p = argparse.ArgumentParser(
        prog="python -m experiments.search", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    p.add_argument("folder", type=Path, help="the corpus")
    p.add_argument("--query", action="append", required=True, metavar="MODALITY=VALUE",
                   help="a text, a picture or sound file, or #N: record N of the corpus's split; may be repeated")  # fmt: skip
    p.add_argument("--k", type=int, default=10, help="answers a query")
    p.add_argument("--index", default="exact", help="exact, ivf (clusters) or ivfpq (clusters and compressed vectors)")
    p.add_argument("--probe", type=int, default=0, help="clusters looked at (default: an eighth of them)")
    p.add_argument("--workdir", type=Path, help="the run that embedded the corpus, where it has moved")
    p.add_argument("--json", action="store_true", help="one JSON line a query")
    o = p.parse_args()
    if o.k < 1:
        raise _cli.ConfigError(f"--k is {o.k}: ask for at least 1 answer")
    from mmrep.evals import index

    corpus = index.Corpus(o.folder)
    corpus.whole()
    _cli.enable_compile_cache()
    from mmrep.interop import load

    model = load.load(o.workdir or Path(corpus.about["workdir"]))
    split = model.view.split(corpus.about["split"])
    built = index.build(corpus, o.index, probe=o.probe)
    for text in o.query:
        hits = built.search(vector(model, split, text), o.k)
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


def vector(model: Any, split: Any, query: str) -> Any:
    """The embedding [1,D] of "MODALITY=VALUE". Raises ConfigError for an unknown modality, DataError for a file that cannot be read."""
    name, equals, value = query.partition("=")
    known = {m.name: m for m in model.experiment.data.modalities}
    if not equals or name not in known:
        raise _cli.ConfigError(f"--query {query!r}: write MODALITY=VALUE{_cli.near(name, known)}")
    m = known[name]
    if number := re.fullmatch(r"#(\d+)", value):
        if int(number[1]) >= len(split):
            raise _cli.ConfigError(f"--query {query!r}: the split {split.name!r} has {len(split)} records")
        raw = split.record(int(number[1]))[m.source]
    elif m.kind == "text":
        raw = value
    elif m.kind in ("image", "audio"):
        from mmrep.data import decode

        data = decode.read(value)
        raw = decode.image(data, value) if m.kind == "image" else decode.audio(data, value, m.rate)
    else:
        raise _cli.ConfigError(f"--query {query!r}: a {m.kind} is asked for by its record, {name}=#N")
    return model.infer[name]([raw])


if __name__ == "__main__":
    _cli.main(run)

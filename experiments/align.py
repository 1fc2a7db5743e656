"""Aligns embedding spaces by anchor pairs: maps, scores and a table of methods, without training (Plato's cave, CVPR 2025).

python -m experiments.align corpora/points corpora/texts --anchors anchors.txt --out aligned
python -m experiments.search aligned/b --query "points=#17"      # the texts, searched with a query that the model of the points embeds

A and B are folders of experiments.embed, paired by record number, or .npy arrays [N, D] of aligned rows. Written to --out: map.npz (x and y
into one space: row @ weight + bias, compared by cosine), scores.npy (all pairs of queries), queries.npy (their record numbers), table.json;
of folders also a and b, the corpora in that space, which experiments.search takes with queries of the other one's model. Further folders
are each aligned with A, in a folder of their own name inside --out.
"""

import json
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
    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], FILE]
    """A, B and more: folders of experiments.embed, or .npy arrays, of the same records"""
    anchors: Annotated[str, tyro.conf.arg(metavar="FILE")]
    """record numbers of the pairs that are known, whitespace between them; or how many: the first N"""
    out: Annotated[Path, _cli.FOLDER]
    """the folder of the results"""
    k: str = "5,10,20,50,100"
    """dimensions of the subspace to choose from, on held-out anchors"""
    queries: int = 500
    """pairs besides the anchors that are matched, at most"""
    eps: float = 1e-3
    """regularises the covariances"""
    ids: Annotated[Path | None, FILE] = None
    """an .npy array with a number for each record: records of equal numbers (equal captions, say) are right answers for each other"""


def run() -> None:
    o = _cli.parse_options(Options, __doc__)
    try:
        ks = tuple(int(k) for k in o.k.split(","))
    except ValueError:
        raise ConfigError(f"--k {o.k!r} is not a list of whole numbers like 10,20,50") from None
    if o.queries < 1 or o.eps < 0:
        raise ConfigError(f"--queries is {o.queries} and --eps {o.eps}: give at least 1, and at least 0")
    first, *others = o.folders
    names = [other.stem for other in others]
    if not others or len({*names}) < len(names):
        raise ConfigError(
            f"{[str(f) for f in o.folders]}: give two or more folders or arrays, the later ones of different names"
        )
    for other in others:
        align(o, first, other, o.out if len(others) == 1 else o.out / other.stem, ks)


def align(o: Options, a: Path, b: Path, out: Path, ks: tuple[int, ...]) -> None:
    """Aligns one pair of spaces and writes to `out`."""
    import numpy as np

    from mmrep.systems.retrieval.platos_cave.model import compare, table

    rows, x, y = paired(vectors(a), vectors(b))
    known = np.isin(rows, anchors(o.anchors, rows))
    anchor, query = np.flatnonzero(known), np.flatnonzero(~known)[: o.queries]
    if len(anchor) < 4 or not len(query):
        raise DataError(
            f"--anchors {o.anchors} names {len(anchor)} of {len(rows)} pairs: give at least 4, and leave some as queries"
        )
    ids = None
    if o.ids is not None:
        every = array(o.ids)
        if len(every) <= rows.max():
            raise DataError(f"{o.ids} has {len(every)} numbers, but there is a record {rows.max()}: give one a record")
        ids = every[rows[query]]
    found, scores = compare((x[anchor], y[anchor]), (x[query], y[query]), ks, o.eps)
    results = table(scores, ids)
    paths.make(out, "give another --out")
    np.savez(
        out / "map.npz", x_weight=found.x.weight, x_bias=found.x.bias, y_weight=found.y.weight, y_bias=found.y.bias
    )
    np.save(out / "scores.npy", scores["CCA + affine"].astype(np.float32))
    np.save(out / "queries.npy", rows[query])
    about = {
        "a": str(a),
        "b": str(b),
        "anchors": len(anchor),
        "queries": len(query),
        "k": found.k,
        "methods": results,
    }
    paths.replace(out / "table.json", json.dumps(about, indent=1))
    if a.is_dir() and b.is_dir():
        for name, (own, other), side in (("a", (a, b), found.x), ("b", (b, a), found.y)):
            mapped(out, name, own, other, side)
    print(f"{len(anchor):,} anchors, {len(query):,} queries, {found.k} dimensions (of {o.k})")
    print(f"{'':18}{'matching':>10}{'top-1':>10}{'top-5':>10}")
    for name, row in results.items():
        print(f"{name:18}" + "".join(f"{row[c]:10.3f}" for c in ("matching", "top-1", "top-5")))


def mapped(out: Path, name: str, own: Path, other: Path, side: Any) -> None:
    """Writes the corpus `own` in the shared space to out/name, for queries that the other corpus's model embeds and the other map takes there."""
    import numpy as np

    from mmrep.evals import index, retrieval

    corpus, about = index.Corpus(own), index.Corpus(other).about
    queries = {"workdir": about["workdir"], "overrides": about.get("overrides", [])}
    queries |= {"map": [str((out / "map.npz").resolve()), "y" if name == "a" else "x"]}
    shards = corpus.read()

    def shard(low: int, high: int) -> tuple[Any, Any]:
        rows, x = next(shards)
        return rows, retrieval.unit(side(x)).astype(np.float32)

    index.write(out / name, corpus.about | queries, shard, say=lambda text: None)


def array(path: Path) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no .npy array ({error})") from None


def vectors(path: Path) -> tuple[Any, Any]:
    """(record numbers, vectors [N, D]) of a corpus folder or an .npy array."""
    import numpy as np

    if path.is_dir():
        from mmrep.evals.index import Corpus

        parts = [*Corpus(path).read()]
        return tuple(np.concatenate(p) for p in zip(*parts))  # type: ignore[return-value]
    found = array(path)
    if found.ndim != 2:
        raise DataError(f"{path} has shape {list(found.shape)}: give one vector a row, [N, D]")
    return np.arange(len(found)), found


def paired(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """(record numbers that both have, the vectors of each)."""
    import numpy as np

    rows, i, j = np.intersect1d(a[0], b[0], return_indices=True)
    return rows, a[1][i].astype(np.float64), b[1][j].astype(np.float64)


def anchors(given: str, rows: Any) -> Any:
    """The record numbers of the anchors: of a file, or the first N."""
    import numpy as np

    if given.isdigit():
        return rows[: int(given)]
    try:
        return np.array([int(word) for word in Path(given).read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise DataError(f"--anchors {given}: give a file of record numbers, or how many ({error})") from None


if __name__ == "__main__":
    _cli.main(run)

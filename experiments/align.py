"""Aligns two embedding spaces by anchor pairs: maps, scores and a table of methods, without training (Plato's cave, CVPR 2025).

python -m experiments.align corpora/points corpora/texts --anchors anchors.txt --out aligned

A and B are folders of experiments.embed, paired by record number, or .npy arrays [N, D] of aligned rows. Written to --out: map.npz (x and y
into one space: row @ weight + bias, compared by cosine), scores.npy (all pairs of queries), queries.npy (their record numbers), table.json.
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
    a: Annotated[tyro.conf.Positional[Path], FILE]
    """a folder of experiments.embed, or an .npy array"""
    b: Annotated[tyro.conf.Positional[Path], FILE]
    """another of the same records"""
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
    import numpy as np

    from mmrep.systems.retrieval.platos_cave.model import compare, table

    try:
        ks = tuple(int(k) for k in o.k.split(","))
    except ValueError:
        raise ConfigError(f"--k {o.k!r} is not a list of whole numbers like 10,20,50") from None
    if o.queries < 1 or o.eps < 0:
        raise ConfigError(f"--queries is {o.queries} and --eps {o.eps}: give at least 1, and at least 0")
    rows, x, y = paired(vectors(o.a), vectors(o.b))
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
    paths.make(o.out, "give another --out")
    np.savez(
        o.out / "map.npz", x_weight=found.x.weight, x_bias=found.x.bias, y_weight=found.y.weight, y_bias=found.y.bias
    )
    np.save(o.out / "scores.npy", scores["CCA + affine"].astype(np.float32))
    np.save(o.out / "queries.npy", rows[query])
    about = {
        "a": str(o.a),
        "b": str(o.b),
        "anchors": len(anchor),
        "queries": len(query),
        "k": found.k,
        "methods": results,
    }
    paths.replace(o.out / "table.json", json.dumps(about, indent=1))
    print(f"{len(anchor):,} anchors, {len(query):,} queries, {found.k} dimensions (of {o.k})")
    print(f"{'':18}{'matching':>10}{'top-1':>10}{'top-5':>10}")
    for name, row in results.items():
        print(f"{name:18}" + "".join(f"{row[c]:10.3f}" for c in ("matching", "top-1", "top-5")))


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

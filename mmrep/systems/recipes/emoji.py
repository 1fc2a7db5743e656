"""For the emoji recipe: retrieval by ridge regression from pixels to names, without learnt features; and a voice that training lacks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.data.features import Images, gradients, pixels
from mmrep.errors import ConfigError, DataError
from mmrep.evals import retrieval
from mmrep.model import Model

Pairs = tuple[Images, Sequence[str]]
Features = Callable[[Images], Float[np.ndarray, "N D"]]


@dataclass(frozen=True)
class RidgeBaseline:
    """Retrieval of a text by an image, in closed form.

    image, text: modalities, in the evaluation view of every split: one image and one text a record.
    split:       scored; the regression is fitted on train and its penalty chosen on val.
    features:    "pixels": 16 x 16 colours.   "gradients": histograms of oriented gradients and colours.
    """

    image: str = "image"
    text: str = "text"
    split: str = "test"
    features: str = "pixels"
    ks: tuple[int, ...] = (1, 5, 10)
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        known: dict[str, Features] = {"pixels": pixels, "gradients": gradients}
        if self.features not in known:
            raise ConfigError(f"RidgeBaseline.features is {self.features!r}: choose pixels or gradients")
        fields = {m.name: m.source for m in model.data.modalities}
        train, val, test = (
            _pairs(model.records(s), fields[self.image], fields[self.text]) for s in ("train", "val", self.split)
        )
        scores = ridge_scores(train, val, test, known[self.features])
        ranks = retrieval.ranks_of_scores(scores, np.arange(len(scores)))
        label = self.name or f"ridge {self.features} {self.image}->{self.text}"
        return {f"{label} {k}": v for k, v in retrieval.retrieval_metrics(ranks, len(scores), self.ks).items()}


@dataclass(frozen=True)
class HeldVoice:
    """An emoji source whose training views lack the clip `voice`, as `speech` and as `speech_<voice>`; evaluation views are unchanged.

    shuffled: in training views the clips of a record are those of another, drawn once with `seed`, so that a name links pictures and
              speech of different concepts (a control). Evaluation views of the training split keep the record's own.
    """

    source: Any
    voice: str
    shuffled: bool = False
    seed: int = 0

    def open(self, split: str) -> Sequence[Mapping[str, Any]]:
        records = self.source.open(split)
        order = np.arange(len(records))
        if self.shuffled and split == "train":
            order = np.random.default_rng(self.seed).permutation(len(records))
        return [r | {"heard": records[j]["clips"]} for r, j in zip(map(dict, records), order)]

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        clips = record["clips"] if rng is None else {k: v for k, v in record["heard"].items() if k != self.voice}
        return self.source.view({**record, "clips": clips}, rng)


def _pairs(records: Sequence[Any], image: str, text: str) -> Pairs:
    return [np.asarray(r[image]) for r in records], [r[text] for r in records]


def ridge_scores(
    train: Pairs,
    val: Pairs,
    test: Pairs,
    features: Features,
    alphas: Sequence[float] = (0.1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5),
    buckets: int = 4096,
) -> Float[np.ndarray, "Q T"]:
    """Scores of all test texts (columns) for each test image (rows): ridge regression from image features to the text's n-grams, then cosine.

    Texts are hashed character 2- to 4-grams with tf-idf weights, centred on the training texts, since common n-grams would dominate the
    cosine. Of `alphas` the one with the best mean reciprocal rank on val is taken. Images are uint8 [N, S, S, 3].
    Raises DataError where images and texts differ in number.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import Ridge

    hashed = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=buckets, alternate_sign=False)
    x, y = [], []
    for images, texts in (train, val, test):
        if len(images) != len(texts):
            raise DataError(f"{len(images)} images and {len(texts)} texts: each image needs one text")
        x.append(features(images))
        y.append(np.asarray(hashed.transform([t.lower() for t in texts]).todense(), np.float32))
    mean, scale = x[0].mean(0), x[0].std(0) + 1e-6
    x = [(part - mean) / scale for part in x]
    idf = np.log((1 + len(y[0])) / (1 + (y[0] > 0).sum(0))) + 1
    weighted = [retrieval.unit(part * idf) for part in y]
    target = retrieval.unit(y[0] * idf - (y[0] * idf).mean(0))

    fits = {a: Ridge(a, fit_intercept=False).fit(x[0], target) for a in alphas}

    def scores(alpha: float, part: int) -> Float[np.ndarray, "Q T"]:
        return (retrieval.unit(fits[alpha].predict(x[part])) @ weighted[part].T).astype(np.float32)

    def reciprocal_rank(alpha: float) -> float:
        return float(np.mean(1 / retrieval.ranks_of_scores(scores(alpha, 1), np.arange(len(x[1])))))

    return scores(max(alphas, key=reciprocal_rank), 2)

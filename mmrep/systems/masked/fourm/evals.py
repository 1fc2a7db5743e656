"""Any-to-any models: one-step token accuracy between streams, and whether generated pictures show what was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mmrep.data import pipeline
from mmrep.evals.tokens import errors
from mmrep.modality import PAD
from mmrep.model import Model
from mmrep.systems.masked.fourm import masking as spans
from mmrep.systems.masked.fourm.canvas import blank, fill
from mmrep.systems.masked.fourm.decode import generate
from mmrep.systems.masked.fourm.masking import text_body
from mmrep.systems.masked.fourm.predict import along_text, likeliest
from mmrep.systems.masked.fourm.schedules import Target


def tokens_of(model: Model, split: str, limit: int, keep: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(ids, patches) of the first `limit` records of a split, or of the first that `keep` (a record -> bool) lets through."""
    opened = model.split(split)
    rows = [i for i, _ in _records(model, split, limit, keep)]
    return model.tokens().tokenise(pipeline.collate([opened.entry(i) for i in rows]))


def _records(model: Model, split: str, limit: int, keep: Any = None) -> list[tuple[int, Mapping[str, Any]]]:
    opened = model.split(split)
    found = ((i, opened.record(i)) for i in range(len(opened)))
    return list(islice(((i, r) for i, r in found if keep is None or keep(r)), limit))


def counted(truth: Int[np.ndarray, "B N"], text: bool) -> np.ndarray:
    """Where accuracy is measured: a text's tokens; of an image all but its commonest id (the ground, which says nothing)."""
    truth = np.asarray(truth)
    if text:
        return truth != PAD
    informative = truth != np.bincount(truth.reshape(-1)).argmax()
    return informative if informative.any() else np.ones(truth.shape, bool)


def mean_accuracy(found: Int[Array | np.ndarray, "B N"], truth: Int[np.ndarray, "B N"], text: bool) -> float:
    """The share of the counted tokens that are right."""
    return float((np.asarray(found) == np.asarray(truth))[counted(truth, text)].mean())


def majority(truth: Int[np.ndarray, "B N"], text: bool) -> float:
    """The accuracy of always saying the commonest counted token of each place of these very examples."""
    truth, counts = np.asarray(truth), counted(truth, text)
    best = np.array([np.bincount(column[c]).argmax() if c.any() else 0 for column, c in zip(truth.T, counts.T)])
    return mean_accuracy(np.broadcast_to(best, truth.shape), truth, text)


@dataclass(frozen=True)
class TokenAccuracy:
    """One-step accuracy of each target's `counted` tokens from `given`: images all at once, texts each after the true ones before it.

    Beside it: of each place's commonest token (`majority`), and of inputs that belong to another example (`shuffled`).
    """

    given: tuple[str, ...]
    targets: tuple[str, ...]
    limit: int = 200
    split: str = "test"
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        ask, (ids, patches) = model.tokens(), tokens_of(model, self.split, self.limit)
        lengths = {s.name: s.length for s in ask.streams}
        label, sums = self.name or "+".join(self.given), []
        scores: dict[str, float] = {}
        roll = lambda found: {k: np.roll(np.asarray(v), 1, axis=0) for k, v in found.items() if k in self.given}  # noqa: E731
        for target in self.targets:
            text = lengths[target] > 0
            truth = np.asarray(ids[target])
            if text:
                truth = np.asarray(text_body(ids[target], lengths[target]))
            found = likeliest(ask, ids, patches, self.given, target)
            mixed = likeliest(ask, {target: ids[target]} | roll(ids), roll(patches), self.given, target)
            row = (mean_accuracy(found, truth, text), majority(truth, text), mean_accuracy(mixed, truth, text))
            sums.append(row)
            scores |= dict(zip((f"{label}->{target} {m}" for m in ("accuracy", "majority", "shuffled")), row))
        mean = np.mean(sums, axis=0)
        return scores | dict(zip((f"{label}->all {m}" for m in ("accuracy", "majority", "shuffled")), map(float, mean)))


def one_object(record: Mapping[str, Any]) -> bool:
    return int(record["n_objects"]) == 1


@dataclass(frozen=True)
class Agreement:
    """Generated pictures of scenes with one object: do they show its colour and, where classes are made, its shape?

    Colour is read from the made `rgb` by a ridge classifier fitted on the token histograms of real training scenes (its accuracy on real held-out
    scenes is reported: the ceiling); shape from the commonest class of the made `semseg` (class 1 + shape id; 0 is the ground).
    """

    given: tuple[str, ...]
    schedule: tuple[Target, ...]
    name: str
    limit: int = 60
    fit: int = 600
    split: str = "test"
    seed: int = 0

    def run(self, model: Model) -> dict[str, float]:
        ask = model.tokens()
        ids, patches = tokens_of(model, self.split, self.limit, one_object)
        truth = [r for _, r in _records(model, self.split, self.limit, one_object)]
        given = {k: ids[k] for k in self.given}
        empty = blank(ask.streams, self.given, len(truth))
        canvas = fill(empty, ask.streams, given, patches={k: v for k, v in patches.items() if k in self.given})
        made = generate(ask, canvas, None, self.schedule, jax.random.key(self.seed)).ids
        scores = {}
        if "semseg" in made and "semseg" not in self.given:
            shown = np.asarray(made["semseg"])
            votes = np.stack([(shown == c).sum(1) for c in range(1, shown.max() + 2)], axis=1)
            want = np.array([int(r["shape"]) for r in truth])
            scores[f"{self.name} shape"] = float(np.mean((votes.argmax(1) == want) & (votes.max(1) > 0)))
        if "rgb" in made and "rgb" not in self.given:
            judge = _colour_judge(model, self.fit)
            colours = np.array([int(r["colour"]) for r in truth])
            scores[f"{self.name} colour"] = float(np.mean(judge(made["rgb"]) == colours))
            scores[f"{self.name} real_colour"] = float(np.mean(judge(ids["rgb"]) == colours))
        return scores


@dataclass(frozen=True)
class SuperResolution:
    """The second stage of pictures: `fine` tokens made from the true `coarse` ones and whatever else is given.

    Reports PSNR in dB against what the true fine tokens stand for, of the made picture and of the coarse one enlarged ("nearest",
    "bilinear"); numbers in [0, 1].
    """

    coarse: str
    fine: str
    schedule: tuple[Target, ...]
    given: tuple[str, ...] = ()
    limit: int = 200
    split: str = "test"
    seed: int = 0

    def run(self, model: Model) -> dict[str, float]:
        ask, (ids, _patches) = model.tokens(), tokens_of(model, self.split, self.limit)
        names = (self.coarse, *self.given)
        start = fill(blank(ask.streams, names, len(ids[self.coarse])), ask.streams, {k: ids[k] for k in names})
        made = generate(ask, start, None, self.schedule, jax.random.key(self.seed)).ids[self.fine]
        of = lambda name, found: np.asarray(ask.detokenise({name: np.asarray(found)})[name])  # noqa: E731
        small, truth = of(self.coarse, ids[self.coarse]), of(self.fine, ids[self.fine])
        found = {"made": of(self.fine, made)} | {
            way: np.asarray(jax.image.resize(small, truth.shape, way)) for way in ("nearest", "bilinear")
        }
        label = f"{'+'.join(names)}->{self.fine}"
        return {f"{label} PSNR {k}": errors(x, truth)["PSNR"] for k, x in found.items()}


def _colour_judge(model: Model, n: int) -> Any:
    from sklearn.linear_model import RidgeClassifier

    ask = model.tokens()
    ids, _ = tokens_of(model, "train", n, one_object)
    labels = [int(r["colour"]) for _, r in _records(model, "train", n, one_object)]
    pixels = partial(_pixels, ask)
    fitted = RidgeClassifier().fit(pixels(ids["rgb"]), labels)
    return lambda found: fitted.predict(pixels(found))


def _pixels(ask: Any, ids: Any) -> np.ndarray:
    """Histogram of the picture's tokens: where a thing stands says nothing of its colour."""
    vocab = next(s.vocab for s in ask.streams if s.name == "rgb")
    found = np.asarray(ids).reshape(len(ids), -1)
    return np.stack([np.bincount(row, minlength=vocab) for row in found]).astype(np.float32)


@dataclass(frozen=True)
class TextLeak:
    """A text read along its truth (cross-entropy, nats a token) and written freely (the share of tokens that are right)."""

    target: str = "caption"
    given: tuple[str, ...] = ("pixels",)
    limit: int = 100
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        ask, (ids, patches) = model.tokens(), tokens_of(model, self.split, self.limit)
        t = [s.name for s in ask.streams].index(self.target)
        seen = {k: v for k, v in patches.items() if k in self.given}

        @jax.jit
        def read(params, text):
            given = spans.everything({k: ids[k] for k in self.given}, ask.streams)
            return along_text(ask._replace(params=params), given, seen, t, text)

        logits, labels = read(ask.params, ids[self.target])
        at = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        real = labels != PAD
        canvas = fill(
            blank(ask.streams, self.given, len(labels)), ask.streams, {k: ids[k] for k in self.given}, patches=seen
        )
        free = Target(self.target, "autoregressive", temperature=0.0)
        made = generate(ask, canvas, None, (free,), jax.random.key(0)).ids[self.target]
        return {
            f"{self.target} read loss": float(-(at * real).sum() / real.sum()),
            f"{self.target} written accuracy": mean_accuracy(made, np.asarray(labels), True),
        }

"""4M's measures: one-step token accuracy between modalities, and whether generated images show what their condition describes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mmrep.data import pipeline
from mmrep.evals.tokens import errors
from mmrep.modality import PAD
from mmrep.model import Model
from mmrep.systems.masked.fourm.decode import (
    TokenInfer,
    condition,
    generate,
    init_empty_target,
    predict,
    teacher_forced_logits,
)  # fmt: skip
from mmrep.systems.masked.fourm.schedules import Target
from mmrep.systems.masked.fourm.tokens import all_tokens, truncate

Keep = Callable[[Mapping[str, Any]], bool]


def tokens_of(model: Model, split: str, limit: int, keep: Keep | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(ids, input-only values) of the first `limit` records of a split for which `keep` holds."""
    opened = model.split(split)
    rows = [i for i, _ in _records(model, split, limit, keep)]
    return model.tokens().tokenize(pipeline.collate([opened.entry(i) for i in rows]))


def _records(model: Model, split: str, limit: int, keep: Keep | None = None) -> list[tuple[int, Mapping[str, Any]]]:
    opened = model.split(split)
    records = ((i, opened.record(i)) for i in range(len(opened)))
    return list(islice(((i, r) for i, r in records if keep is None or keep(r)), limit))


def generated(
    infer: TokenInfer, ids: Mapping[str, Any], values: Mapping[str, Any], schedule: tuple[Target, ...], seed: int = 0
) -> dict[str, Array]:
    """{modality: ids} after the schedule, given `ids` of some modalities."""
    size = len(next(iter(ids.values())))
    mod_dict = condition(init_empty_target(infer.modalities, tuple(ids), size), infer.modalities, ids, values)
    return {name: s.ids for name, s in generate(infer, mod_dict, schedule, jax.random.key(seed)).items()}


def scored_tokens(truth: Int[np.ndarray, "B N"], sequence: bool) -> Bool[np.ndarray, "B N"]:
    """Tokens that accuracy counts: those of a sequence without padding, and of an image all but its most frequent id (the background)."""
    truth = np.asarray(truth)
    if sequence:
        return truth != PAD
    informative = truth != np.bincount(truth.reshape(-1)).argmax()
    return informative if informative.any() else np.ones(truth.shape, bool)


def mean_accuracy(ids: Int[Array | np.ndarray, "B N"], truth: Int[np.ndarray, "B N"], sequence: bool) -> float:
    """The share of the scored tokens that are correct."""
    return float((np.asarray(ids) == np.asarray(truth))[scored_tokens(truth, sequence)].mean())


def majority(truth: Int[np.ndarray, "B N"], sequence: bool) -> float:
    """The accuracy of predicting, at each position, the most frequent scored token of these same examples."""
    truth, scored = np.asarray(truth), scored_tokens(truth, sequence)
    best = np.array([np.bincount(column[c]).argmax() if c.any() else 0 for column, c in zip(truth.T, scored.T)])
    return mean_accuracy(np.broadcast_to(best, truth.shape), truth, sequence)


@dataclass(frozen=True)
class TokenAccuracy:
    """One-step accuracy of each target's scored tokens from `given`: images all at once, sequences by teacher forcing.

    Baselines: the most frequent token of each position (`majority`), and inputs of another example (`shuffled`).
    """

    given: tuple[str, ...]
    targets: tuple[str, ...]
    limit: int = 200
    split: str = "test"
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        infer, (ids, values) = model.tokens(), tokens_of(model, self.split, self.limit)
        label, rows = self.name or "+".join(self.given), []
        scores: dict[str, float] = {}
        columns = "accuracy", "majority", "shuffled"

        def shuffled(arrays: Mapping[str, Any]) -> dict[str, Any]:
            return {k: np.roll(np.asarray(v), 1, axis=0) for k, v in arrays.items() if k in self.given}

        for target in self.targets:
            m = infer.modality(target)
            truth = np.asarray(truncate(ids[target], m.length) if m.is_sequence else ids[target])
            own = predict(infer, ids, values, self.given, target)
            other = predict(infer, {target: ids[target]} | shuffled(ids), shuffled(values), self.given, target)
            accuracies = [mean_accuracy(found, truth, m.is_sequence) for found in (own, other)]
            rows.append((accuracies[0], majority(truth, m.is_sequence), accuracies[1]))
            scores |= dict(zip((f"{label}->{target} {c}" for c in columns), rows[-1]))
        mean = np.mean(rows, axis=0)
        return scores | dict(zip((f"{label}->all {c}" for c in columns), map(float, mean)))


def one_object(record: Mapping[str, Any]) -> bool:
    return int(record["n_objects"]) == 1


@dataclass(frozen=True)
class GenerationAccuracy:
    """Generated images of scenes with one object: do they show its colour and, where class maps are generated, its shape?

    A ridge classifier on the token histograms of real training images predicts the colour from the generated `rgb`; its accuracy on
    real held-out images is an upper bound, reported as `real_colour`. The shape is the most frequent object class of the generated
    `semseg` (class 1 + shape id; 0 is the background).
    """

    given: tuple[str, ...]
    schedule: tuple[Target, ...]
    name: str
    limit: int = 60
    fit: int = 600
    split: str = "test"
    seed: int = 0

    def run(self, model: Model) -> dict[str, float]:
        infer = model.tokens()
        ids, values = tokens_of(model, self.split, self.limit, one_object)
        truth = [r for _, r in _records(model, self.split, self.limit, one_object)]
        made = generated(infer, {k: ids[k] for k in self.given}, values, self.schedule, self.seed)
        scores = {}
        if "semseg" in made and "semseg" not in self.given:
            classes = np.asarray(made["semseg"])
            votes = np.stack([(classes == c).sum(1) for c in range(1, classes.max() + 2)], axis=1)
            shapes = np.array([int(r["shape"]) for r in truth])
            scores[f"{self.name} shape"] = float(np.mean((votes.argmax(1) == shapes) & (votes.max(1) > 0)))
        if "rgb" in made and "rgb" not in self.given:
            classify = _colour_classifier(model, self.fit)
            colours = np.array([int(r["colour"]) for r in truth])
            scores[f"{self.name} colour"] = float(np.mean(classify(made["rgb"]) == colours))
            scores[f"{self.name} real_colour"] = float(np.mean(classify(ids["rgb"]) == colours))
        return scores


def _colour_classifier(model: Model, n: int) -> Callable[[Any], np.ndarray]:
    from sklearn.linear_model import RidgeClassifier

    vocab = model.tokens().modality("rgb").vocab_size

    def histograms(ids: Any) -> np.ndarray:
        rows = np.asarray(ids).reshape(len(ids), -1)
        return np.stack([np.bincount(row, minlength=vocab) for row in rows]).astype(np.float32)

    ids, _ = tokens_of(model, "train", n, one_object)
    labels = [int(r["colour"]) for _, r in _records(model, "train", n, one_object)]
    fitted = RidgeClassifier().fit(histograms(ids["rgb"]), labels)
    return lambda found: fitted.predict(histograms(found))


@dataclass(frozen=True)
class SuperResolution:
    """Super-resolution of tokens: `fine` generated from the true `coarse` ones and the modalities `given`.

    PSNR in dB against the detokenised true fine tokens, of the generated image and of the enlarged coarse one ("nearest", "bilinear").
    """

    coarse: str
    fine: str
    schedule: tuple[Target, ...]
    given: tuple[str, ...] = ()
    limit: int = 200
    split: str = "test"
    seed: int = 0

    def run(self, model: Model) -> dict[str, float]:
        infer, (ids, values) = model.tokens(), tokens_of(model, self.split, self.limit)
        names = (self.coarse, *self.given)
        made = generated(infer, {k: ids[k] for k in names}, values, self.schedule, self.seed)

        def image(name: str, ids: Any) -> np.ndarray:
            return np.asarray(infer.detokenize({name: np.asarray(ids)})[name])

        small, truth = image(self.coarse, ids[self.coarse]), image(self.fine, ids[self.fine])
        images = {"generated": image(self.fine, made[self.fine])} | {
            method: np.asarray(jax.image.resize(small, truth.shape, method)) for method in ("nearest", "bilinear")
        }
        label = f"{'+'.join(names)}->{self.fine}"
        return {f"{label} PSNR {k}": errors(x, truth)["PSNR"] for k, x in images.items()}


@dataclass(frozen=True)
class TextLeak:
    """A text by teacher forcing (cross-entropy in nats per token) and generated freely (share of correct tokens).

    Without the causal mask the first is near 0, since each token is among its own inputs, and the second is low.
    """

    target: str = "caption"
    given: tuple[str, ...] = ("pixels",)
    limit: int = 100
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        infer, (ids, values) = model.tokens(), tokens_of(model, self.split, self.limit)
        i = infer.modalities.index(infer.modality(self.target))
        own = {k: v for k, v in values.items() if k in self.given}
        given = {k: ids[k] for k in self.given}

        @jax.jit
        def teacher_forced(params, text):
            inputs = all_tokens(given, infer.modalities)
            return teacher_forced_logits(infer._replace(params=params), inputs, own, i, text)

        logits, targets = teacher_forced(infer.params, ids[self.target])
        at = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
        real = targets != PAD
        free = Target(self.target, "autoregressive", temperature=0.0)
        made = generated(infer, given, values, (free,))[self.target]
        return {
            f"{self.target} teacher-forced loss": float(-(at * real).sum() / real.sum()),
            f"{self.target} generated accuracy": mean_accuracy(made, np.asarray(targets), True),
        }

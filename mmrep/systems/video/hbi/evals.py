"""How well the estimator predicts exact interactions, and whether interactions find true pairs behind hubs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mmrep.evals import checks
from mmrep.modality import BOS, EOS
from mmrep.model import Model
from mmrep.systems.video.hbi.model import banzhaf


@dataclass(frozen=True)
class Fidelity:
    """How well exact interactions of valid words and frames are predicted: by "estimator", "similarity", and "centring" (means of rows and
    columns taken away, the mean of all added).

    limit: pairs of the split.   For at most 14 words and frames together.
    Metrics: "R2 <name>", the squared correlation over all entries, in [0, 1]; "Spearman <name>", of ranks within a pair (mean), to which
    near-equal interactions, those of the frames of one event, count as much as others.
    """

    limit: int = 64
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        from scipy.stats import spearmanr

        game = {k: v[: self.limit] for k, v in model.embed_split("game", self.split).items()}
        names = ("products", "words", "frames", "word_logits", "frame_logits")
        exact = np.asarray(
            jax.jit(lambda *rows: jax.lax.map(lambda row: banzhaf(*row), rows))(*(game[n] for n in names))
        )
        valid = [w[:, None] & f for w, f in zip(game["words"], game["frames"])]
        within = lambda x: [row[v] for row, v in zip(x, valid)]  # noqa: E731
        truth, metrics = within(exact), {}
        centred = [centre(x[w][:, f]).ravel() for x, w, f in zip(game["products"], game["words"], game["frames"])]
        ways = {"estimator": within(game["estimate"]), "similarity": within(game["products"])}
        for name, rows in (ways | {"centring": centred}).items():
            metrics[f"R2 {name}"] = float(np.corrcoef(np.concatenate(rows), np.concatenate(truth))[0, 1] ** 2)
            metrics[f"Spearman {name}"] = float(np.mean([spearmanr(a, b)[0] for a, b in zip(rows, truth)]))
        return metrics

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a system without the game."""
        checks.functions(names, game="game")


@dataclass(frozen=True)
class Interactions:
    """No metric; its panel, the predicted interaction of each word with each frame, is part of the report."""

    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        return {}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a system without the game."""
        checks.functions(names, game="game")

    def panels(self, model: Model) -> list[Any]:
        """Some clips with the predicted interaction of each word of their text with each frame."""
        from mmrep.report import strips
        from mmrep.report.panels import Figure

        game, shown = model.embed_split("game", self.split), []
        text = next(m for m in model.data.modalities if m.kind == "text")
        for i in strips.chosen(len(game["estimate"])):
            said = strips.words(model, self.split, i)
            ids = model.tokenizer([said], text.name)[0]
            ends = {BOS: "BOS", EOS: "EOS"}
            names = [ends.get(int(k)) or model.tokenize.decode(np.array([k])) for k in ids]
            frames = np.flatnonzero(game["frames"][i])
            lanes = {
                f"{names[k]}{' ' * k}": game["estimate"][i][k][frames]  # equal words have lanes of their own
                for k in np.flatnonzero(game["words"][i])
            }
            shown.append(strips.Strip(said, strips.frames(model, self.split, i), dict(list(lanes.items())[:8])))
        note = f"Evenly spaced records of the {self.split} split, not chosen by hand. A bar is the interaction of a word with a frame."
        return [Figure("Words and frames", strips.draw(shown), f"interactions in {len(shown)} clips", note)]


def centre(s: Float[np.ndarray, "... n m"]) -> Float[np.ndarray, "... n m"]:
    """Means of rows and columns taken away, the mean of all added."""
    return s - s.mean(-1, keepdims=True) - s.mean(-2, keepdims=True) + s.mean((-2, -1), keepdims=True)


def hubs(seed: int, strength: float, pairs: int = 60, players: int = 6) -> dict[str, float]:
    """AUROC of finding the true word-frame pairs of made similarities in which every word and every frame has an offset of its own.

    "similarity": the raw one; "interaction": exact Banzhaf interactions; "dual softmax" and "centring" (`centre`):
    rivals in one line.
    """
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    truth = rng.random((pairs, players, players)) < 0.25
    s = 0.4 * truth + 0.15 * rng.standard_normal(truth.shape)
    s = s + strength * (rng.standard_normal((pairs, players, 1)) + rng.standard_normal((pairs, 1, players)))
    every, flat = jnp.ones(players, bool), jnp.zeros(players)
    game = jax.jit(lambda rows: jax.lax.map(lambda a: banzhaf(a, every, every, flat, flat), rows))

    def softmax(x: Float[np.ndarray, "P n m"], axis: int) -> Float[np.ndarray, "P n m"]:
        e = np.exp(10 * (x - x.max(axis, keepdims=True)))
        return e / e.sum(axis, keepdims=True)

    found = {
        "similarity": s, "interaction": np.asarray(game(jnp.asarray(s, jnp.float32))),
        "dual softmax": softmax(s, 1) * softmax(s, 2), "centring": centre(s),
    }  # fmt: skip
    return {f"{name} AUROC": float(roc_auc_score(truth.ravel(), x.ravel())) for name, x in found.items()}

"""HBI: words and frames as players of a game, on three levels of merged tokens (Jin et al. 2023, arXiv 2303.14369).

Section 3.1, weighted token-wise similarity of two sets        mmrep.losses.late_interaction.late_similarity, model.TokenWeights
Section 3.2, Banzhaf interaction                               model.banzhaf, mmrep.losses.games.interactions
Section 3.2, its estimator, trained beforehand                 model.Estimator, objective "estimator"
Section 3.3, entities, actions, events by merged tokens        model.cluster, merge, TokenMerge
Section 3.3, losses and distillation between levels            model.interaction_loss, kl, Config.build

Deviations from the authors' code: padding is excluded, where theirs has similarity 0; weights are normalised once over a coalition, and a word
or frame that joins it brings all its similarities (theirs: one entry); the second softmax of L_I runs over words, not over the batch.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import symmetric_info_nce_of_logits
from mmrep.losses.late_interaction import late_similarity
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import mean_pool
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.video.hbi.model import (
    Estimator,
    TokenMerge,
    TokenWeights,
    banzhaf,
    both_valid,
    interaction_loss,
    kl,
    masked_softmax,
)

SIDES = ("text", "video")
LEVELS = ("entity", "action", "event")


class Tokens(NamedTuple):
    """Tokens of one side and level: raw ones, which exist, and the logits of their weights."""

    x: Float[Array, "B N D"]
    valid: Bool[Array, "B N"]
    logits: Float[Array, "B N"]


@dataclass(frozen=True)
class Config:
    """A batch has video [B, T, ...] (frames or codes) and text [B, L].

    objective: "wti" contrasts the token-wise similarity alone; "estimator" fits the teacher to interactions of the frozen similarities;
               "hbi" is the paper's loss with the frozen teacher. One set of parameters for all three: they are phases.
    ratios:    share of tokens that remain at the action and at the event level.
    interaction: weight of L_I (the paper's beta).   distil: weight of the distillation between levels (alpha).
    samples:   random coalitions a pair; None enumerates them, for at most 14 words and frames together.
    width:     of the estimator.
    """

    video: Encoder | None = None
    text: TextEncoder = TextEncoder()
    dim: int = 64
    heads: int = 8
    objective: Literal["wti", "estimator", "hbi"] = "hbi"
    ratios: tuple[float, float] = (0.25, 0.5)
    interaction: float = 1.0
    distil: float = 2.0
    samples: int | None = 1000
    width: int = 64
    temperature: float = 0.07

    def build(self) -> System:
        check_fields(self, {
            "video": (self.video is not None, "give the encoder of frames or codes"),
            "heads": (self.heads > 0 and self.dim % self.heads == 0, f"it must divide dim, {self.dim}"),
            "objective": (self.objective in ("wti", "estimator", "hbi"), "choose wti, estimator or hbi"),
            "ratios": (all(0 < r <= 1 for r in self.ratios), "they must be in (0, 1]"),
            "samples": (self.samples is None or self.samples > 0, "it must be positive, or None"),
            "temperature": (self.temperature > 0, "it must be positive"),
        })  # fmt: skip
        assert self.video is not None
        towers = dual_encoder(
            {"text": self.text, "video": self.video}, self.dim, scale=1 / self.temperature, tokens=True, normalise=False
        )
        merges, weigh = [TokenMerge(r, self.heads) for r in self.ratios], TokenWeights()
        estimator, pupil = Estimator(self.width), Estimator(self.width, use_bias=False)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params = towers.init(rng, batch)
            keys = iter(jax.random.split(jax.random.fold_in(rng, 1), 20))
            one, here = jnp.zeros((1, 4, self.dim)), jnp.ones((1, 4), bool)
            for side in SIDES:
                params[f"merge_{side}"] = {
                    n: m.init(next(keys), one, here)["params"] for n, m in zip(LEVELS[1:], merges)
                }
                params[f"weights_{side}"] = {n: weigh.init(next(keys), one)["params"] for n in LEVELS}
            made = {n: pupil.init(next(keys), jnp.zeros((1, 4, 4)))["params"] for n in LEVELS}
            return params | {"teacher": estimator.init(next(keys), jnp.zeros((1, 4, 4)))["params"], "student": made}, {}

        def levels(params: Params, batch: Batch, side: str, count: int = 3) -> list[Tokens]:
            out = towers.full(params, batch, side)[1]
            x, valid, found = out["projected"], out["valid"], []
            for i, name in enumerate(LEVELS[:count]):
                if i:
                    x, valid = merges[i - 1].apply({"params": params[f"merge_{side}"][name]}, x, valid)
                found.append(Tokens(x, valid, weigh.apply({"params": params[f"weights_{side}"][name]}, x)))
            return found

        def own_products(text: Tokens, video: Tokens) -> Float[Array, "B n m"]:
            s = jnp.einsum("bnd,bmd->bnm", l2_normalise(text.x), l2_normalise(video.x))
            return both_valid(s, text.valid, video.valid)

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            count = 3 if self.objective == "hbi" else 1
            pairs = list(zip(*(levels(params, batch, side, count) for side in SIDES)))
            teach = lambda a: estimator.apply({"params": params["teacher"]}, jax.lax.stop_gradient(a))  # noqa: E731
            if self.objective == "estimator":
                text, video = jax.lax.stop_gradient(pairs[0])
                a, keys = own_products(text, video), jax.random.split(rng, len(text.x))
                played: Any = lambda *row: partial(banzhaf, samples=self.samples, rng=row[-1])(*row[:-1])  # noqa: E731
                labels = jax.vmap(played)(a, text.valid, video.valid, text.logits, video.logits, keys)
                value = ((both_valid(teach(a), text.valid, video.valid) - labels) ** 2).mean()
                return value, {"spread": labels.std()}
            scale, total, metrics, scores = towers.scale(params), jnp.float32(0.0), {}, []
            for name, (text, video) in zip(LEVELS, pairs):
                s = wti(text, video)
                scores.append(s)
                retrieval = symmetric_info_nce_of_logits(scale * s, scale * s.T).mean()
                total += retrieval
                metrics[name] = retrieval
                if self.objective == "hbi":
                    a = own_products(text, video)
                    student = pupil.apply({"params": params["student"][name]}, a)
                    sides = both_valid(student, text.valid, video.valid), both_valid(teach(a), text.valid, video.valid)
                    gap = interaction_loss(sides[0], jax.lax.stop_gradient(sides[1]))
                    total += self.interaction * gap
                    metrics[f"{name} interaction"] = gap
            for s in scores[1:]:
                total += self.distil * (kl(s, scores[0]) + kl(s.T, scores[0].T))
            return jnp.asarray(total), metrics | {"scale": scale}

        def embed(params: Params, batch: Batch, side: str) -> Float[Array, "B D"]:
            t = levels(params, batch, side, 1)[0]
            return l2_normalise(mean_pool(l2_normalise(t.x), t.valid))

        def tokens(params: Params, batch: Batch, side: str) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
            t = levels(params, batch, side, 1)[0]
            return jnp.concatenate([t.x, t.logits[..., None]], -1), t.valid

        def score(params: Params, extras: Extras, batch: Batch) -> Float[Array, " B"]:
            def one(*row: Array) -> Float[Array, ""]:
                text, video = (Tokens(x[None, :, :-1], v[None], x[None, :, -1]) for x, v in (row[:2], row[2:]))
                return wti(text, video)[0, 0]

            return jax.vmap(one)(*(batch[f"{side}_{part}"] for side in SIDES for part in ("tokens", "valid")))

        def game(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
            """The game of each pair of the batch: what `banzhaf` takes, and the teacher's estimate of it."""
            text, video = (levels(params, batch, side, 1)[0] for side in SIDES)
            a = own_products(text, video)
            found = both_valid(estimator.apply({"params": params["teacher"]}, a), text.valid, video.valid)
            return {
                "products": a, "words": text.valid, "frames": video.valid, "word_logits": text.logits,
                "frame_logits": video.logits, "estimate": found,
            }  # fmt: skip

        infer: dict[str, Any] = {s: lambda params, extras, batch, s=s: embed(params, batch, s) for s in SIDES}
        infer |= {f"{s}_tokens": lambda params, extras, batch, s=s: tokens(params, batch, s) for s in SIDES}
        return System(init, stateless(loss), infer | {"score": score, "game": game})


def wti(text: Tokens, video: Tokens) -> Float[Array, "B C"]:
    """The weighted token-wise interaction of all texts with all videos: half the sum of both directions, weights softmax(logits)."""
    x, y = ((l2_normalise(t.x), t.valid) for t in (text, video))
    of_words, of_frames = (masked_softmax(t.logits, t.valid) for t in (text, video))
    forth, back = late_similarity(x, y, None, of_words, of_frames)
    return 0.5 * (forth + back)

"""UCASR: retrieval between audio and sheet music, each encoder pre-trained alone (Carvalho et al. 2023, arXiv 2309.12158).

Section 3.1, VGG encoders, log-frequency spectrogram            model.Vgg, model.Bands
Section 3.2, contrast of two views on each side, equation 1     model.two_views_loss, Config.objective
Section 3.3, CCA layer and pairwise ranking loss                model.cca, model.ranking_loss
Section 3.3, refinement of the CCA projections                  Refine
Section 4.3, piece identification by votes                      evals.PieceIdentification

GroupNorm and LayerNorm replace BatchNorm; the CCA has one SVD (see `model.cca`); the soft attention over time is not here.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.data.pipeline import embed_rows
from mmrep.errors import check_fields
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.contrastive.audio_sheet import model
from mmrep.systems.contrastive.audio_sheet.model import Bands, Cca, Objective

SIDES = ("sheet", "audio")


@dataclass(frozen=True)
class Config:
    """A batch has sheet [B, H, W, C] in [0, 1] (white is 1) and audio [B, T]; to pre-train sheet_1, sheet_2, audio_1 and audio_2, two views each.

    objective: "pretrain": NT-Xent of the two views of each side, added.   "mixed": one NT-Xent of both sides' views.
               "align": CCA of the batch and the ranking loss; sheets are the queries.
    sheet, audio: channels of the VGG's blocks, 4 dividing each.   dim: of the shared space, below the batch size (`model.enough`).   margin: of the ranking loss.
    """

    sheet: tuple[int, ...] = (24, 48, 96, 96)
    audio: tuple[int, ...] = (24, 48, 96, 96)
    bands: Bands = Bands()
    objective: Objective = "align"
    out: int = 32
    hidden: int = 512
    dim: int = 32
    sheet_temperature: float = 0.5
    audio_temperature: float = 0.6
    margin: float = 0.6
    ridge: float = 1e-3

    def map_of(self, batch: Batch, name: str) -> Float[Array, "B H W 1"]:
        """The picture in grey, or the sound's bands."""
        x = jnp.asarray(batch[name])
        return self.bands(x) if name.startswith("audio") else x.mean(-1, keepdims=True)

    def build(self) -> System:
        widths = (*self.sheet, *self.audio, self.out)
        check_fields(self, {
            "objective": (self.objective in ("pretrain", "mixed", "align"), "choose pretrain, mixed or align"),
            "sheet": (bool(self.sheet) and bool(self.audio) and min(widths) > 0 and not any(w % 4 for w in widths), "give channels that 4 divides, also to audio and out"),
            "sheet_temperature": (min(self.sheet_temperature, self.audio_temperature) > 0, "temperatures must be positive"),
            "ridge": (self.ridge > 0, "it must be positive"),
        })  # fmt: skip
        parts = model.modules(self.sheet, self.audio, self.out, self.hidden, self.dim, "group")

        def encode(params: Params, batch: Batch, name: str, head: str) -> Float[Array, "B D"]:
            side = name.split("_")[0]
            hidden = parts[side]["encoder"].apply({"params": params[side]["encoder"]}, self.map_of(batch, name))
            return parts[side][head].apply({"params": params[side][head]}, hidden)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            params: Params = {}
            for side, key in zip(SIDES, jax.random.split(rng)):
                keys = jax.random.split(key, 3)
                x = self.map_of(batch, side)
                encoder = parts[side]["encoder"].init(keys[0], x)["params"]
                hidden = parts[side]["encoder"].apply({"params": encoder}, x)
                heads = {n: parts[side][n].init(k, hidden)["params"] for n, k in zip(("pretrain", "align"), keys[1:])}
                params[side] = {"encoder": encoder} | heads
            return params, model.identity_cca(self.dim)._asdict()

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            if self.objective == "align":
                x, y = (encode(params, batch, side, "align") for side in SIDES)
                found, correlations = model.cca(x, y, self.ridge)
                value = model.ranking_loss(*found(x, y), self.margin)
                return value, (jax.lax.stop_gradient(found._asdict()), {"correlation": correlations.mean()})
            view = partial(encode, params, batch, head="pretrain")
            z = {side: (view(f"{side}_1"), view(f"{side}_2")) for side in SIDES}
            if self.objective == "mixed":
                both = jnp.concatenate([z["sheet"][0], z["audio"][0]]), jnp.concatenate([z["sheet"][1], z["audio"][1]])
                value = model.two_views_loss(both, self.audio_temperature)
                return value, (extras, {"mixed": value})
            terms = {s: model.two_views_loss(z[s], getattr(self, f"{s}_temperature")) for s in SIDES}
            return terms["sheet"] + terms["audio"], (extras, terms)

        def embed(params: Params, extras: Extras, batch: Batch, side: str) -> Float[Array, "B D"]:
            x = encode(params, batch, side, "align")
            return Cca(**extras)(x, x)[SIDES.index(side)]

        infer: dict[str, Any] = {s: lambda params, extras, batch, s=s: embed(params, extras, batch, s) for s in SIDES}
        infer |= {f"{s}_before": lambda params, extras, batch, s=s: encode(params, batch, s, "align") for s in SIDES}
        return System(init, loss, infer)


@dataclass(frozen=True)
class Refine:
    """A phase's `run`: the CCA of up to `pairs` training pairs in the place of the last batch's."""

    pairs: int = 25_000
    ridge: float = 1e-3

    def __call__(self, params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
        n = min(self.pairs, len(context.split))
        model.enough(n, len(extras["u"]), "the number of training pairs")
        run = [partial(jax.jit(context.system.infer[f"{s}_before"]), params, extras) for s in SIDES]
        rows = [embed_rows(lambda b, f=f: np.asarray(f(b)), context.split, n) for f in run]  # type: ignore[misc]
        return params, jax.jit(model.cca, static_argnames="ridge")(*map(jnp.asarray, rows), ridge=self.ridge)[
            0
        ]._asdict()

"""RCAR: regulators of attention and of aggregation in image-text matching (Diao et al. 2023, IEEE TIP, arXiv 2303.13371).

Section III-A, regions and words; cross attention                   model.RegionProjection, model.cross_attention
Section III-A, alignment vectors                                    model.Alignment
Section III-B, recurrent correspondence regulator (RCR)             model.CorrespondenceRegulator
Section III-C, recurrent aggregation regulator (RAR)                model.AggregationRegulator
Section III-D, both together (RCAR), similarity                     model.Matcher, Config.regulate
Section III-E, ranking with all negatives first, then the hardest   mmrep.losses.ranking.hinge, Config.warm

Losses are means over the batch, the authors' are sums; a LayerNorm replaces the BatchNorm of the regions' MLP; the bias inside the softmax
of the aggregation has no effect and is left out. The average over both directions of attention ("ALL") is that of two models' scores.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.ranking import hinge
from mmrep.nn.dual import Encoder, drop_rngs, inputs
from mmrep.nn.encoders.gru import GruText
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import mean_pool
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.retrieval.rcar.model import Matcher, RegionProjection, Regulate

Tokens = tuple[Array, Array]
"""(tokens [N, T, D], valid [N, T]), or one row of it."""


@dataclass(frozen=True)
class Config:
    """A batch has `image` and `text`; it may have `id`: equal ids are no negatives.

    image:    an encoder with tokens; None: `image` holds regions [B, R, D], those with NaN are absent.   text: as wide as `dim`.
    attend:   whose tokens are the queries: "text" (words attend to regions, t2i) or "image" (i2t).
    regulate: "rcr", "rar" or both, "rcar".   steps: of it; 0 is one-shot attention ("rcr") or the mean of alignments ("rar").
    similarity_dim: of alignment vectors.   temperature: lambda of the first round, an inverse temperature (10 for t2i, 3 for i2t).
    warm:     steps that sum over all negatives before the hardest count; with the hardest from the start "rar" and "rcar" collapse.
    block:    captions that are compared with all pictures at a time; 0: all.
    """

    image: Encoder | None = None
    text: Encoder = GruText(vocab=1024)
    dim: int = 64
    similarity_dim: int = 32
    attend: Literal["text", "image"] = "text"
    regulate: Regulate = "rcar"
    steps: int = 2
    temperature: float = 10.0
    margin: float = 0.2
    warm: int = 0
    dropout: float = 0.4
    block: int = 0
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "attend": (self.attend in ("text", "image"), "choose text or image"),
            "regulate": (self.regulate in ("rcr", "rar", "rcar"), "choose rcr, rar or rcar"),
            "steps": (self.steps >= (self.regulate == "rcar"), "it must be at least 0, for rcar at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "it must be at least 0 and finite"),
            "margin": (0 < self.margin < 2, "similarities differ by at most 2: it must be in (0, 2)"),
            "warm": (self.warm >= 0, "it must be at least 0"),
            "dropout": (0 <= self.dropout < 1, "it must be in [0, 1)"),
            "block": (self.block >= 0, "it must be at least 0"),
        })  # fmt: skip
        if min(self.dim, self.similarity_dim) < 1:
            raise ConfigError(f"system.dim is {self.dim} and similarity_dim {self.similarity_dim}: give at least 1")

    def build(self) -> System:
        self.check()
        kind = jnp.dtype(self.dtype)
        words = self.text.module(kind)
        encoder = self.image.module(kind) if self.image is not None else None
        project = RegionProjection(self.dim, kind)
        matcher = Matcher(self.regulate, self.steps, self.similarity_dim, self.temperature, self.dropout)

        def regions(params: Params, batch: Batch) -> tuple[Array, Array]:
            """The picture's vectors before the projection, and which of them there are."""
            if encoder is None:
                valid = jnp.isfinite(batch["image"]).all(-1)
                return jnp.where(valid[..., None], batch["image"], 0.0), valid
            out = encoder.apply({"params": params["image"]}, *inputs(batch, "image"), rngs=drop_rngs(batch))[1]
            tokens = out["patches"] if "patches" in out else out["tokens"]
            return tokens, out.get("valid", jnp.ones(tokens.shape[:2], bool))

        def image_tokens(params: Params, batch: Batch) -> Tokens:
            x, valid = regions(params, batch)
            return project.apply({"params": params["project"]}, x), valid

        def text_tokens(params: Params, batch: Batch) -> Tokens:
            out = words.apply({"params": params["text"]}, batch["text"], rngs=drop_rngs(batch))[1]
            return l2_normalise(out["tokens"].astype(jnp.float32)), out["valid"]

        def sides(image: Tokens, text: Tokens) -> tuple[Array, ...]:
            (q, qv), (c, cv) = (text, image) if self.attend == "text" else (image, text)
            return q, c, qv, cv

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            keys = jax.random.split(rng, 4)
            params = {"text": words.init(keys[0], batch["text"])["params"]}
            if encoder is not None:
                params["image"] = encoder.init(keys[1], *inputs(batch, "image"))["params"]
            params["project"] = project.init(keys[2], regions(params, batch)[0])["params"]
            pair = sides(image_tokens(params, batch), text_tokens(params, batch))
            if pair[0].shape[-1] != pair[1].shape[-1]:
                raise ConfigError(
                    f"system.text has width {text_tokens(params, batch)[0].shape[-1]}: it must be system.dim, {self.dim}"
                )
            found = matcher.init(keys[3], *(x[0] for x in pair))
            return params | ({"match": found["params"]} if "params" in found else {}), {
                "step": jnp.zeros((), jnp.int32)
            }

        def pair(params: Params, image: Tokens, text: Tokens, key: Any = None) -> tuple[Array, dict[str, Array]]:
            rngs = None if key is None else {"dropout": key}
            return matcher.apply({"params": params.get("match", {})}, *sides(image, text), rngs=rngs)

        def all_pairs(params: Params, image: Tokens, text: Tokens, rng: PRNGKeyArray | None) -> Float[Array, "N M"]:
            n, m = len(image[0]), len(text[0])

            def column(one: tuple[Tokens, Any]) -> Float[Array, " N"]:
                caption, key = one
                keys = None if key is None else jax.random.split(key, n)
                return jax.vmap(lambda i, k: pair(params, i, caption, k)[0])(image, keys)

            keys = None if rng is None else jax.random.split(rng, m)
            return (
                jax.lax.map(jax.checkpoint(column), (text, keys), batch_size=self.block)
                if self.block
                else jax.vmap(column)((text, keys))
            ).T

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            here = batch | {"rng": rng}
            drop = jax.random.fold_in(rng, 2) if self.dropout and self.regulate != "rcr" else None
            scores = all_pairs(params, image_tokens(params, here), text_tokens(params, here), drop)
            rows, columns = hinge(scores, self.margin, extras["step"] >= self.warm, batch.get("id"))
            return (rows + columns).mean(), (extras, {"similarity": jnp.diagonal(scores).mean()})

        def update(params: Params, extras: Extras) -> Extras:
            return {"step": extras["step"] + 1}

        def own(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
            """Attention, temperatures and weights of the batch's own pairs."""
            out = jax.vmap(lambda i, t: pair(params, i, t)[1])(image_tokens(params, batch), text_tokens(params, batch))
            return {k: v for k, v in out.items() if k != "attended"}

        def score(params: Params, extras: Extras, batch: Batch) -> Float[Array, " B"]:
            image, text = ((batch[f"{n}_tokens"], batch[f"{n}_valid"]) for n in ("image", "text"))
            return jax.vmap(lambda i, t: pair(params, i, t)[0])(image, text)

        infer: dict[str, Any] = {"score": score, "regulation": own}
        for name, tokens in (("image", image_tokens), ("text", text_tokens)):
            infer[f"{name}_tokens"] = lambda params, extras, batch, tokens=tokens: tokens(params, batch)
            infer[name] = lambda params, extras, batch, tokens=tokens: l2_normalise(mean_pool(*tokens(params, batch)))
        return System(init, loss, infer, update)

"""eSSPR: one encoder of products by picture, title or both, for same-style retrieval (Chen et al. 2023, arXiv 2302.05093).

Section 3, single-stream encoder, masked inputs          Config.build (encode, forms), mmrep.nn.fusion.JointEncoder
Section 3, product-product matching (PPM)                ppm_loss, mmrep.losses.ranking.hinge_rows
Section 3, product self-distinctiveness (PDC)            pdc_loss
Section 3, locality consistency (LCC)                    lcc_loss
Pairs of a click log kept by category and relevance      clicks.Relevant, clicks.relevance
Neighbours that a masked product keeps                   evals.Neighbours

The authors publish the losses, not the encoder: widths, margins and weights are ours, and a product's vector is the mean token, not [CLS].
Listings of one product in a batch are no negatives of each other; the authors have no such mask.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import similarity
from mmrep.losses.ranking import hinge_rows
from mmrep.losses.reduce import masked_mean
from mmrep.modality import FIRST_PIECE
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.fusion import JointEncoder
from mmrep.nn.heads import Projection, l2_normalise
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless

PARTS = ("image", "text")
Embeddings = Float[Array, "B D"]
Ids = Int[Array, " B"]


@dataclass(frozen=True)
class Config:
    """A batch has one listing of each product, `image` and `text`, and another, `image_b` and `text_b`; it may have `product` [B], an id.

    image, text:  encoders; their tokens enter the joint encoder, so they have the width of `joint`.
    image_tokens: tokens of a picture, or regions; a picture that is masked has as many.
    fusion:  "joint" is eSSPR; "late" is a baseline: each part has its own transformer, and unit vectors of the parts are added.
    masked_forms: PPM matches a listing's picture and title alone, too; without them (an ablation) both together only.
    pdc_weight, lcc_weight: of the losses; 0: none.   margins: of PPM, PDC (cosines) and LCC (squared differences of cosines).
    """

    image: Encoder = ImageEncoder(TransformerConfig(depth=0))
    text: TextEncoder = TextEncoder(TransformerConfig(depth=0))
    joint: TransformerConfig = TransformerConfig(depth=2)
    image_tokens: int = 16
    dim: int = 64
    fusion: Literal["joint", "late"] = "joint"
    masked_forms: bool = True
    pdc_weight: float = 1.0
    lcc_weight: float = 1.0
    margins: tuple[float, float, float] = (0.2, 0.2, 0.01)
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "fusion": (self.fusion in ("joint", "late"), "choose joint or late"),
            "image_tokens": (self.image_tokens >= 1, "it must be at least 1"),
            "pdc_weight": (self.pdc_weight >= 0, "weights of losses are at least 0"),
            "lcc_weight": (self.lcc_weight >= 0, "weights of losses are at least 0"),
            "margins": (all(0 <= m < math.inf for m in self.margins), "margins are finite and at least 0"),
        })  # fmt: skip
        if self.text.transformer.width != self.joint.width:
            raise ConfigError(
                f"system.text.transformer.width is {self.text.transformer.width}: it must be system.joint.width, {self.joint.width}"
            )

    def build(self) -> System:
        self.check()
        kind = jnp.dtype(self.dtype)
        encoders = {"image": self.image.module(kind), "text": self.text.module(kind)}
        groups = [PARTS] if self.fusion == "joint" else [("image",), ("text",)]
        joint, project = JointEncoder(self.joint, kind), Projection(self.dim, dtype=kind)
        places = {"image": self.image_tokens, "text": self.text.length}

        def tokens(params: Params, name: str, x: Array) -> tuple[Float[Array, "B N W"], Bool[Array, "B N"]]:
            """As many tokens as a masked part has, and which of them are no padding."""
            out = encoders[name].apply({"params": params[name]}, x)[1]
            found = out["patches"] if "patches" in out else out["tokens"]
            valid = out.get("valid", jnp.ones(found.shape[:2], bool))
            if found.shape[1] > places[name] or (name == "image" and found.shape[1] < places[name]):
                raise ConfigError(f"system.image_tokens is {places[name]}: the {name} has {found.shape[1]} tokens")
            ends = (0, 0), (0, places[name] - found.shape[1])
            return jnp.pad(found, (*ends, (0, 0))), jnp.pad(valid, ends)

        def encode(params: Params, parts: dict[str, Any], absent: dict[str, Bool[Array, " N"]]) -> Float[Array, "N D"]:
            """Unit vectors of products; parts: {name: (tokens, valid)}, each of at least one product."""
            total = jnp.float32(0)
            for i, names in enumerate(groups):
                here, valid = ({n: parts[n][k] for n in names} for k in (0, 1))
                gone = {n: absent[n] for n in names}
                pooled, _ = joint.apply({"params": params[f"joint{i}"]}, here, valid, gone)
                x = project.apply({"params": params[f"project{i}"]}, pooled).astype(jnp.float32)
                total = total + (x if len(names) == 2 else jnp.where(gone[names[0]][:, None], 0, x))
            return l2_normalise(total)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            keys = jax.random.split(rng, 6)
            params = {n: encoders[n].init(k, batch[n])["params"] for n, k in zip(PARTS, keys)}
            parts = {n: tokens(params, n, batch[n]) for n in PARTS}
            for i, names in enumerate(groups):
                given = ({n: parts[n][k] for n in names} for k in (0, 1))
                params[f"joint{i}"] = joint.init(keys[2 + i], *given)["params"]
                pooled = jnp.zeros((1, self.joint.width))
                params[f"project{i}"] = project.init(keys[4 + i], pooled)["params"]
            return params, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            both = {n: jnp.concatenate([batch[n], batch[f"{n}_b"]]) for n in PARTS}
            found, untitled, b = (
                {n: tokens(params, n, x) for n, x in both.items()},
                ~titled(both["text"]),
                len(batch["text"]),
            )
            # The first listing whole, its title alone, its picture alone; the second listing whole.
            rows = jnp.concatenate([jnp.tile(jnp.arange(b), 3), jnp.arange(b, 2 * b)])
            of = jnp.arange(4 * b) // b
            parts = {n: (x[rows], valid[rows]) for n, (x, valid) in found.items()}
            forms = encode(params, parts, {"image": of == 1, "text": untitled[rows] | (of == 2)})
            whole, title, picture, other = forms.reshape(4, b, -1)
            ids, seen, (m1, m2, m3) = batch.get("product"), ~untitled[:b], self.margins
            masked = ((picture, jnp.ones(b, bool)), (title, seen))
            ppm = [ppm_loss(whole, other, m1, ids)]
            ppm += [masked_mean(ppm_loss(x, other, m1, ids), here) for x, here in masked] if self.masked_forms else []
            nothing = jnp.zeros(())
            metrics = {"ppm": sum((jnp.mean(x) for x in ppm), nothing), "active": jnp.mean(ppm[0] > 0)}
            total = metrics["ppm"]
            if self.pdc_weight:
                metrics["pdc"] = sum((masked_mean(pdc_loss(x, whole, m2, ids), here) for x, here in masked), nothing)
                total += self.pdc_weight * metrics["pdc"]
            if self.lcc_weight:
                metrics["lcc"] = sum((masked_mean(lcc_loss(whole, x, other, m3), here) for x, here in masked), nothing)
                total += self.lcc_weight * metrics["lcc"]
            return total, metrics

        def alone(name: str) -> Infer:
            def embed(params: Params, extras: Extras, batch: Batch) -> Embeddings:
                own, n = tokens(params, name, batch[name]), len(batch[name])
                other = {
                    p: (jnp.zeros((n, places[p], self.joint.width)), jnp.ones((n, places[p]), bool)) for p in PARTS
                }
                return encode(params, other | {name: own}, {p: jnp.full(n, p != name) for p in PARTS})

            return embed

        def fused(params: Params, extras: Extras, batch: Batch) -> Embeddings:
            parts = {n: tokens(params, n, batch[n]) for n in PARTS}
            n = len(batch["text"])
            return encode(params, parts, {"image": jnp.zeros(n, bool), "text": ~titled(batch["text"])})

        return System(init, stateless(loss), {n: alone(n) for n in PARTS} | {"fused": fused})


def titled(ids: Int[Array | np.ndarray, "B L"]) -> Bool[Array, " B"]:
    """Whether a title has a word; a product without one is encoded as its picture with a masked title."""
    return (jnp.asarray(ids) >= FIRST_PIECE - 1).any(1)


def ppm_loss(x: Embeddings, y: Embeddings, margin: float, ids: Ids | None = None) -> Float[Array, " B"]:
    """1/B sum over j != i of [x_i y_j - x_i y_i + margin]_+ of unit rows: from a product, or a part of it, to the clicked ones.

    ids: of products; equal ones are no negatives.
    """
    return hinge_rows(similarity(x, y), margin, ids)


def pdc_loss(masked: Embeddings, whole: Embeddings, margin: float, ids: Ids | None = None) -> Float[Array, " B"]:
    """The same from a masked product to the whole ones of the same listings: its own is to be the nearest."""
    return hinge_rows(similarity(masked, whole), margin, ids)


def lcc_loss(
    whole: Embeddings, masked: Embeddings, other: Embeddings, margin: float, k: int = 10
) -> Float[Array, " B"]:
    """Mean over the k (at most B) products nearest to a whole one of [(whole_i y_j - masked_i y_j)^2 - margin]_+; no gradient selects them."""
    near, seen = similarity(whole, other), similarity(masked, other)
    at = jax.lax.top_k(jax.lax.stop_gradient(near), min(k, len(other)))[1]
    difference = jnp.take_along_axis(near - seen, at, axis=1)
    return jnp.maximum(difference**2 - margin, 0).mean(1)

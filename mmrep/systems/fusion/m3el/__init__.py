"""M3EL: entity linking by matchers of several levels within and across text and image (Hu et al. 2025, arXiv 2412.10440).

Section 3.2, multimodal features of mentions and entities      model.Item, Config.build
Section 3.3, contrast with same-modality negatives             mmrep.losses.contrastive.nt_xent(within=0.8)
Section 3.4, global-to-global and global-to-local matching     model.IntraModal
Section 3.5, matching across modalities, both directions       model.CrossModal, Match, Fuse, multi_temperature_pool
Section 3.6, score and sum of losses                           model.mean_score, m3el_loss
Ranking of a knowledge base                                    evals.Linking, Model.score_matrix(names=("mention", "entity"))

Deviations from the authors' code: padding tokens are masked; equal entities are no negatives of each other; a missing image takes its scores
out of the mean; the contrast leaves an anchor's own entry out, where theirs adds a logit of 0; both directions are evaluated, too.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import false_negatives, info_nce, nt_xent
from mmrep.losses.reduce import masked_mean
from mmrep.nn.dual import Encoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.fusion.m3el.model import Cross, Item, Matchers, mean_score
from mmrep.systems.fusion.m3el.rows import pack, unpack

SIDES = ("mention", "entity")


@dataclass(frozen=True)
class Config:
    """text, image: encoders shared by mentions and entities; `image` gives tokens (pictures, or codes of a frozen encoder).

    image_dim:   width of image features (d_V); texts keep the width of their encoder (d_T).   dim: of the matching spaces.
    cross:       "both" is M3EL; "text": text enriched by the image alone; "none": matching within modalities alone, an ablation.
    late_sum:    the baseline: one score, of normalised sums W t + W v.   residual: see CrossModal.
    contrast:    weight of the contrast with same-modality negatives, whose logits are multiplied by `within` and have `temperature`.
    A batch may hold `present` [B, 2], 0 where the mention's or the entity's image is missing, and `entity_id` [B].
    """

    text: TextEncoder = TextEncoder()
    image: Encoder | None = None
    image_dim: int = 96
    dim: int = 96
    cross: Cross = "both"
    late_sum: bool = False
    residual: bool = False
    contrast: float = 1.0
    within: float = 0.8
    temperature: float = 0.03

    def build(self) -> System:
        check_fields(self, {
            "image": (self.image is not None, "give the encoder of pictures or codes"),
            "image_dim": (self.image_dim > 0, "it must be positive"),
            "dim": (self.dim > 0, "it must be positive"),
            "cross": (self.cross in ("both", "text", "none"), "choose both, text or none"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "contrast": (self.contrast >= 0, "it must not be negative"),
        })  # fmt: skip
        assert self.image is not None
        text, image = self.text.module(jnp.float32), self.image.module(jnp.float32)
        width = self.text.transformer.width
        project = {
            "text": nn.Dense(width, use_bias=False),
            "image": nn.Dense(self.image_dim),
            "patches": nn.Dense(self.image_dim),
        }
        matchers = Matchers(self.dim, self.cross, self.residual, self.late_sum)
        contexts = 1 if self.late_sum else {"both": 2, "text": 1, "none": 0}[self.cross]

        def item(params: Params, batch: Batch, side: str) -> Item:
            g, out = text.apply({"params": params["text"]}, batch[f"{side}_text"])
            v, seen = image.apply({"params": params["image"]}, batch[f"{side}_image"])
            patches = seen["tokens"]
            maps = {n: lambda x, n=n: project[n].apply({"params": params["project"][n]}, x) for n in project}
            valid = seen.get("valid", jnp.ones(patches.shape[:2], bool)) & present(batch, side)[:, None]
            return Item(maps["text"](g), out["tokens"], out["valid"], maps["image"](v), maps["patches"](patches), valid)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            keys = jax.random.split(rng, 6)
            params: Params = {
                "text": text.init(keys[0], batch["mention_text"])["params"],
                "image": image.init(keys[1], batch["mention_image"])["params"],
            }
            (g, _), (v, seen) = (
                module.apply({"params": params[n]}, batch[f"mention_{n}"]) for n, module in (("text", text), ("image", image))
            )  # fmt: skip
            inputs = {"text": g, "image": v, "patches": seen["tokens"]}
            params["project"] = {n: m.init(k, inputs[n])["params"] for k, (n, m) in zip(keys[2:], project.items())}
            sides = [item(params, batch, side) for side in SIDES]
            return params | {"match": matchers.init(keys[5], *sides)["params"]}, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            mention, entity = (item(params, batch, side) for side in SIDES)
            scores = matchers.apply({"params": params["match"]}, mention, entity)
            total = mean_score(scores, mention.seen, entity.seen)
            ids = batch.get("entity_id")
            value = m3el_loss(scores if self.late_sum else scores | {"mean": total}, mention.seen & entity.seen, ids)
            if self.contrast:
                value = value + self.contrast * contrast(mention, entity, 1 / self.temperature, self.within, ids)
            own = jnp.diagonal(total)[:, None] >= total
            # The magnitude of each matcher: an unnormalised G2G may outweigh the others.
            sizes = {f"size {n}": jnp.abs(s).mean() for n, s in scores.items()}
            return value, {"accuracy": own.all(1).mean(dtype=jnp.float32)} | sizes

        def describe(params: Params, batch: Batch, side: str) -> tuple[Float[Array, "B N W"], Bool[Array, "B N"]]:
            parts = {"params": params["match"]}
            return pack(matchers.apply(parts, item(params, batch, side), method="describe"))

        def score(params: Params, extras: Extras, batch: Batch) -> Float[Array, " B"]:
            widths = (width, self.image_dim, self.dim)

            def one(row: tuple[Array, ...]) -> Float[Array, ""]:
                sides = [unpack(row[2 * i][None], row[2 * i + 1][None], widths, contexts) for i in range(2)]
                found = matchers.apply({"params": params["match"]}, *sides, method="score")
                return mean_score(found, *(s.item.seen for s in sides))[0, 0]

            return jax.vmap(one)(tuple(batch[f"{side}_{part}"] for side in SIDES for part in ("tokens", "valid")))

        def embed(params: Params, batch: Batch, name: str) -> Float[Array, "B D"]:
            part = name.split("_")[1]
            x = {"text": text, "image": image}[part].apply({"params": params[part]}, batch[name])[0]
            return l2_normalise(project[part].apply({"params": params["project"][part]}, x).astype(jnp.float32))

        names = [f"{side}_{part}" for side in SIDES for part in ("text", "image")]
        infer: dict[str, Any] = {n: lambda params, extras, batch, n=n: embed(params, batch, n) for n in names}
        infer |= {f"{s}_tokens": lambda params, extras, batch, s=s: describe(params, batch, s) for s in SIDES}
        return System(init, stateless(loss), infer | {"score": score})


def present(batch: Batch, side: str) -> Bool[Array, " B"]:
    """Whether the side's image is there: `present` [B, 2] of the batch, and everywhere without it."""
    if "present" not in batch:
        return jnp.ones(len(batch[f"{side}_text"]), bool)
    return jnp.asarray(batch["present"])[:, SIDES.index(side)] > 0.5


def m3el_loss(
    scores: dict[str, Float[Array, "B B"]], both: Bool[Array, " B"], ids: Int[Array, " B"] | None = None
) -> Float[Array, ""]:
    """The sum over matchers, their mean included, of the cross-entropy of each mention's own entity among the batch's.

    both: pairs with both images; the others count in "text", "sum" and "mean" alone.   ids: of entities; equal ones are no negatives.
    """
    own = jnp.eye(len(both), dtype=bool)
    ignore = None if ids is None else false_negatives(ids, ids, own)
    total = jnp.float32(0.0)
    for name, s in scores.items():
        if name in ("text", "sum", "mean"):
            total += info_nce(s, ignore=ignore).mean()
        else:
            hidden = ~both[None] | ~both[:, None]
            skipped = hidden if ignore is None else hidden | ignore
            total += masked_mean(info_nce(s, ignore=skipped), both)
    return total


def contrast(
    mention: Item, entity: Item, scale: float, within: float, ids: Int[Array, " B"] | None = None
) -> Float[Array, ""]:
    """Half the sum of `nt_xent` over global texts and over global images; pairs without both images are left out of the latter."""
    texts = nt_xent(l2_normalise(mention.text), l2_normalise(entity.text), scale, within, ids).mean()
    both = mention.seen & entity.seen
    images = nt_xent(l2_normalise(mention.image), l2_normalise(entity.image), scale, within, ids, both)
    return 0.5 * (texts + masked_mean(images, both))

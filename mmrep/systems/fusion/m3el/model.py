"""M3EL's matchers (Hu et al. 2025, section 3), as maps of features; mentions and entities share all weights."""

import math
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.losses.blocks import MASKED
from mmrep.nn.norms import layer_norm
from mmrep.nn.pooling import mean_pool

Cross: TypeAlias = Literal["both", "text", "none"]
TEMPERATURES = (2.0, 2.5, 3.5, 4.5, math.inf)
"""Factors of the values in the softmax of a head; infinity is the maximum."""


class Item(NamedTuple):
    """What is matched, of B mentions or entities: globals and tokens of text and image. A missing image has no valid token."""

    text: Float[Array, "B T"]
    text_tokens: Float[Array, "B L T"]
    text_valid: Bool[Array, "B L"]
    image: Float[Array, "B V"]
    image_tokens: Float[Array, "B P V"]
    image_valid: Bool[Array, "B P"]

    @property
    def seen(self) -> Bool[Array, " B"]:
        return self.image_valid.any(-1)


class Described(NamedTuple):
    """An Item after everything that does not depend on the other side: normalised features, and its contexts [B,K,D] across modalities."""

    item: Item
    contexts: Float[Array, "B K D"]


def multi_temperature_pool(
    x: Float[Array, "B N D"], valid: Bool[Array, "B N"], weight: float = 1.0
) -> Float[Array, "B D"]:
    """Mean over `TEMPERATURES` of (mean of the valid tokens + weight * their softmax-weighted sum, per channel) (the authors' CSRA)."""
    kept = valid[..., None]
    heads = []
    for t in TEMPERATURES:
        if math.isinf(t):
            heads.append(jnp.where(kept.any(1), jnp.max(jnp.where(kept, x, MASKED), axis=1), 0.0))
        else:
            weights = jax.nn.softmax(jnp.where(kept, t * x, MASKED), axis=1)
            heads.append((jnp.where(kept, x, 0.0) * weights).sum(1))
    return mean_pool(x, valid) + weight * sum(heads) / len(heads)


class Match(nn.Module):
    """relu(W (softmax(p (W q + b)^T) q) + b): every p takes the tokens q that it matches; one W for both uses (the authors' MatchModule)."""

    @nn.compact
    def __call__(
        self, p: Float[Array, "B N D"], q: Float[Array, "B M D"], valid: Bool[Array, "B M"]
    ) -> Float[Array, "B N D"]:
        dense = nn.Dense(q.shape[-1], name="dense")
        logits = jnp.einsum("bnd,bmd->bnm", p, dense(q))
        weights = jax.nn.softmax(jnp.where(valid[:, None], logits, MASKED), axis=-1)
        return nn.relu(dense(weights @ q))


class Fuse(nn.Module):
    """p g + q (1 - g) with the gate g = sigmoid(W p + W q + 2 b) (the authors' FusionModule)."""

    @nn.compact
    def __call__(self, p: Float[Array, "B D"], q: Float[Array, "B D"]) -> Float[Array, "B D"]:
        dense = nn.Dense(p.shape[-1], name="dense")
        gate = nn.sigmoid(dense(p) + dense(q))
        return p * gate + q * (1 - gate)


class CrossModal(nn.Module):
    """The contexts LN(tanh(w g) g + z) of each item: its global text enriched by image tokens and, with "both", its global image by text tokens.

    z pools (or with "text" fuses) what the global g takes from the tokens, and what the tokens take from g. Attention of tokens to the one
    global has weight 1: these rows are all equal. `residual` adds the tokens to them, so that they differ.
    """

    dim: int
    cross: Cross = "both"
    residual: bool = False

    @nn.compact
    def __call__(self, item: Item) -> Float[Array, "B K D"]:
        text_fc, image_fc = nn.Dense(self.dim, name="text"), nn.Dense(self.dim, name="image")
        match, gate, norm = Match(name="match"), nn.Dense(1, name="gate"), layer_norm(jnp.float32, "norm")
        fuse = Fuse(name="fuse") if self.cross == "text" else None
        everywhere = jnp.ones((len(item.text), 1), bool)

        def context(g: Array, tokens: Array, valid: Array) -> Array:
            x = match(g[:, None], tokens, valid)
            y = match(tokens, g[:, None], everywhere) + (tokens if self.residual else 0.0)
            if fuse is not None:
                z = fuse(x[:, 0], multi_temperature_pool(y, valid))
            else:
                both = jnp.concatenate([x, y], 1), jnp.concatenate([everywhere, valid], 1)
                z = multi_temperature_pool(*both)
            return norm(nn.tanh(gate(g)) * g + z)

        found = [context(text_fc(item.text), image_fc(item.image_tokens), item.image_valid)]
        if self.cross == "both":
            found.append(context(image_fc(item.image), text_fc(item.text_tokens), item.text_valid))
        return jnp.stack(found, 1)


class IntraModal(nn.Module):
    """(G2G + G2L) / 2 of all mentions [M] with all entities [E] in one modality.

    G2G is the dot product of the globals. G2L: the entity's tokens attend to the mention's, and the entity's global is compared with the
    normalised mean of what they find.
    """

    dim: int

    @nn.compact
    def __call__(
        self,
        mention: tuple[Float[Array, "M D"], Float[Array, "M L D"], Bool[Array, "M L"]],
        entity: tuple[Float[Array, "E D"], Float[Array, "E N D"], Bool[Array, "E N"]],
    ) -> Float[Array, "M E"]:
        query, key, value, cls = (nn.Dense(self.dim, name=n) for n in ("query", "key", "value", "global"))
        (g, tokens, valid), (h, others, kept) = mention, entity
        logits = jnp.einsum("end,mld->menl", query(others), key(tokens)) / math.sqrt(self.dim)
        weights = jax.nn.softmax(jnp.where(valid[:, None, None], logits, MASKED), axis=-1)
        share = kept / jnp.maximum(kept.sum(-1, keepdims=True), 1)
        context = jnp.einsum("menl,en,mld->med", weights, share, value(tokens))
        local = jnp.einsum("ed,med->me", cls(h), layer_norm(jnp.float32, "norm")(context))
        return 0.5 * (local + g @ h.T)


class Matchers(nn.Module):
    """`describe` an item, then `score` pairs: {"text", "image", "text_image", "image_text"} -> [M,E], those of `cross` alone.

    `late_sum` is the baseline: one score {"sum"}, the dot product of LN(W t + W v) of both sides.
    """

    dim: int
    cross: Cross = "both"
    residual: bool = False
    late_sum: bool = False

    def setup(self) -> None:
        norms = {n: layer_norm(jnp.float32, f"norm_{n}") for n in Item._fields if not n.endswith("valid")}
        self.norms = norms
        if self.late_sum:
            self.of_text, self.of_image = nn.Dense(self.dim), nn.Dense(self.dim)
            self.norm_sum = layer_norm(jnp.float32, "norm_sum")
            return
        self.by_text, self.by_image = IntraModal(self.dim), IntraModal(self.dim)
        if self.cross != "none":
            self.crossed = CrossModal(self.dim, self.cross, self.residual)

    def describe(self, item: Item) -> Described:
        item = item._replace(**{n: norm(getattr(item, n)) for n, norm in self.norms.items() if self._used(n)})
        if self.late_sum:
            image = jnp.where(item.seen[:, None], self.of_image(item.image), 0.0)
            return Described(item, self.norm_sum(self.of_text(item.text) + image)[:, None])
        if self.cross == "none":
            return Described(item, jnp.zeros((len(item.text), 0, self.dim)))
        return Described(item, self.crossed(item))

    def _used(self, name: str) -> bool:
        return not (self.late_sum and name.endswith("tokens"))

    def score(self, mention: Described, entity: Described) -> dict[str, Float[Array, "M E"]]:
        across = jnp.einsum("mkd,ekd->kme", mention.contexts, entity.contexts)
        if self.late_sum:
            return {"sum": across[0]}
        m, e = mention.item, entity.item
        found = {
            "text": self.by_text((m.text, m.text_tokens, m.text_valid), (e.text, e.text_tokens, e.text_valid)),
            "image": self.by_image((m.image, m.image_tokens, m.image_valid), (e.image, e.image_tokens, e.image_valid)),
        }
        return found | dict(zip(("text_image", "image_text"), across))

    def __call__(self, mention: Item, entity: Item) -> dict[str, Float[Array, "M E"]]:
        return self.score(self.describe(mention), self.describe(entity))


def mean_score(
    scores: dict[str, Float[Array, "M E"]], seen_m: Bool[Array, " M"], seen_e: Bool[Array, " E"]
) -> Float[Array, "M E"]:
    """The mean of a pair's scores; where an image of the pair is missing, of "text" (or "sum") alone."""
    both = seen_m[:, None] & seen_e[None]
    use = {n: jnp.ones_like(both) if n in ("text", "sum") else both for n in scores}
    total = sum(jnp.where(use[n], s, 0.0) for n, s in scores.items())
    return jnp.asarray(total / sum(u.astype(jnp.float32) for u in use.values()))

"""VDR: pictures and texts as vectors with one dimension a word, trained against words themselves (Zhou et al., ICLR 2024).

| paper                                                        | function                                       |
|--------------------------------------------------------------|------------------------------------------------|
| V(x): elu1p of the largest score of each word over tokens    | mmrep.nn.lexical.lexical, LexicalHead          |
| b(x): the bag of words                                       | mmrep.nn.lexical.bag                           |
| G(x): the k largest words, or those of the text              | sides                                          |
| contrast of V and V, and of V and b, both directions         | model.nll, model.vdr_loss                      |
| contrastive mask of words that no text of the batch has      | model.contrastive_mask                         |
| disentangled words of a vector                               | evals.Readability, evals.words_of              |

Two encoders of any kind; an encoder of a text has a bag of words. Vectors have unit length and a learned scale, as in the cross-modal model; with
`normalise` False the scale is 1 and the loss is that of the text-text model. The code for cross-modal training is not published.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.modality import FIRST_PIECE
from mmrep.nn import lexical
from mmrep.nn.dual import Encoder, init_parts, inputs
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import LogScale, l2_normalise
from mmrep.nn.lexical import LexicalHead
from mmrep.system import Batch, Infer, Metrics, Params, System, stateless
from mmrep.systems.contrastive.vdr.model import Side, vdr_loss


@dataclass(frozen=True)
class Config:
    """encoders: ((modality, encoder), (modality, encoder)), queries first; one or both are texts of one vocabulary.

    top_k:     words that stay in the sparse form of a vector, besides those of its text; None: all.
    bags:      the loss compares bags of words, too (False is an ablation).   semi: both sides in both forms; False: queries alone.
    tied:      texts are scored against their own embedding table, else against a table of their own.
    mask_padding: padding has no words; the authors' code lets it have some.
    contrastive_mask: weight of words of no text in the batch, dealt out to its rows; 0: off.
    hard:      the batch entry of one hard negative of each query, of the second modality; "": none.
    """

    encoders: tuple[tuple[str, Encoder], ...] = (("image", ImageEncoder()), ("text", TextEncoder()))
    top_k: int | None = None
    bags: bool = True
    semi: bool = True
    tied: bool = True
    normalise: bool = True
    temperature: float = 0.07
    mask_padding: bool = True
    contrastive_mask: float = 0.0
    hard: str = ""
    dtype: str = "float32"

    @property
    def texts(self) -> dict[str, TextEncoder]:
        return {name: e for name, e in self.encoders if isinstance(e, TextEncoder)}

    @property
    def words(self) -> int:
        """Dimensions of the vectors."""
        return next(iter(self.texts.values())).vocab - FIRST_PIECE

    def check(self) -> None:
        check_fields(self, {
            "encoders": (len(self.encoders) == 2 and len({n for n, _ in self.encoders}) == 2, "give two, of different names"),
            "top_k": (self.top_k is None or self.top_k >= 1, "it must be at least 1, or None"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "contrastive_mask": (self.contrastive_mask >= 0, "it must be at least 0"),
        })  # fmt: skip
        if len({e.vocab for e in self.texts.values()}) != 1:
            raise ConfigError("system.encoders: give one text encoder, or two of the same vocab")
        if self.contrastive_mask and not self.bags:
            raise ConfigError("system.contrastive_mask adds to bags of words: set system.bags")

    def build(self) -> System:
        self.check()
        names, kind = tuple(n for n, _ in self.encoders), jnp.dtype(self.dtype)
        modules = {n: e.module(kind) for n, e in self.encoders}
        heads, log_scale = {n: LexicalHead(self.words, kind) for n in names}, LogScale(1 / self.temperature)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            for_towers, for_heads = jax.random.split(rng)
            params = init_parts(for_towers, {**modules, "scale": log_scale}, batch)
            for name, key in zip(names, jax.random.split(for_heads, 2)):
                tokens, valid = tokens_of(params, batch, name)
                params[f"{name}_head"] = heads[name].init(key, tokens, valid, table(params, name))["params"]
            return params, {}

        def table(params: Params, name: str) -> Float[Array, "V D"] | None:
            return params[name]["embed"]["embedding"][FIRST_PIECE:] if self.tied and name in self.texts else None

        def tokens_of(
            params: Params, batch: Batch, name: str
        ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"] | None]:
            _, out = modules[name].apply({"params": params[name]}, *inputs(batch, name))
            return out.get("patches", out["tokens"]), out.get("valid") if self.mask_padding else None

        def embed(params: Params, batch: Batch, name: str) -> Float[Array, "B V"]:
            found = heads[name].apply(
                {"params": params[f"{name}_head"]}, *tokens_of(params, batch, name), table(params, name)
            )
            return l2_normalise(found) if self.normalise else found

        def words(batch: Batch, name: str) -> Float[Array, "B V"]:
            found = lexical.bag(batch[name], self.words + FIRST_PIECE)
            return l2_normalise(found) if self.normalise else found

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            first, second = (
                sides(embed(params, batch, n), words(batch, n) if n in self.texts else None, self.top_k) for n in names
            )
            scale = log_scale.apply({"params": params["scale"]}) if self.normalise else jnp.ones(())
            hard = None
            if self.hard:
                other = {names[1]: batch[self.hard]}
                hard = sides(
                    embed(params, other, names[1]),
                    words(other, names[1]) if names[1] in self.texts else None,
                    self.top_k,
                )
            value = vdr_loss(first, second, scale, hard, self.bags, self.semi, self.contrastive_mask).mean()
            active = (first.dense > first.dense.mean(-1, keepdims=True)).mean(dtype=jnp.float32)
            return value, {"scale": scale, "cosine": (first.dense * second.dense).sum(-1).mean(), "active": active}

        def vector(name: str) -> Infer:
            def of(params: Params, extras: dict, batch: Batch) -> Float[Array, "B V"]:
                found = embed(params, batch, name)
                return found if self.top_k is None else found * lexical.top_k_mask(found, self.top_k)

            return of

        infer: dict[str, Any] = {n: vector(n) for n in names}
        infer |= {("bag" if n == "text" else f"{n}_bag"): lambda p, e, batch, n=n: words(batch, n) for n in self.texts}
        return System(init, stateless(loss), infer)


def sides(dense: Float[Array, "B V"], bag: Float[Array, "B V"] | None, top_k: int | None) -> Side:
    """The three forms of a batch; the sparse one keeps G(x), without a new length: scores shrink with the words that are left out."""
    if top_k is None:
        return Side(dense, dense, bag)
    kept = lexical.top_k_mask(dense, top_k)
    return Side(dense, dense * (kept if bag is None else kept | (bag > 0)), bag)

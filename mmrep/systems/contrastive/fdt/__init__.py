"""FDT: pictures and texts as weighted sums of codes of one shared codebook (Chen et al. 2023, arXiv 2303.14865).

Revisiting Multimodal Representation in Contrastive Learning: From Patch and Token Embeddings to Finite Discrete Tokens.

Section 3.2, queries of patches and words                   model.QueryHead
Equation 1, scores of all codes, maximum over tokens        model.code_scores, model.pool_scores
Section 3.2, sparse weights of the codes                    model.sparsemax, model.code_weights
Equation 2, sum of the weighted codes                       features
Equations 3 and 4, contrast of the sums                     mmrep.losses.contrastive.symmetric_info_nce
Section 4.5, codes of corresponding patches and words       evals.CodeAgreement

Padding is excluded from the maxima; in the authors' code it takes part with a score of 0 (Config.pad_floor_zero). The released code
temperature is constant; its decay is left out. The scale is clipped within the loss, not in the parameter after a step.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn.dual import Encoder, drop_rngs, init_parts, inputs
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import LogScale, l2_normalise
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Metrics, Params, System, stateless
from mmrep.systems.contrastive.fdt.model import (
    Activation,
    Pool,
    QueryHead,
    active_share,
    code_scores,
    code_weights,
    pool_scores,
)

NAMES = ("image", "text")


@dataclass(frozen=True)
class Config:
    """codes, dim: rows and width of the codebook.   shared: one codebook; False: one for each modality, an ablation.
    code_temperature: T, by which scores are divided before the weights. It depends on `codes` and `dim`: see `model.active_share`, the paper's
        is 30 % of the codes for a picture. Below 5 %, for one token, `build` warns: such models do not train.
    activation, pool: of the scores over codes, and over tokens.   pad_floor_zero: padding as in the authors' code.
    temperature: of the contrast at the start, learned within 1 / `max_scale` and 1 / `min_scale`.
    """

    image: Encoder = ImageEncoder(pool="cls")
    text: TextEncoder = TextEncoder(causal=True, pool="eos")
    codes: int = 16_384
    dim: int = 512
    code_temperature: float = 1000.0
    shared: bool = True
    activation: Activation = "sparsemax"
    pool: Pool = "max"
    pad_floor_zero: bool = False
    temperature: float = 0.07
    min_scale: float = math.exp(3)
    max_scale: float = 100.0
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "codes": (self.codes >= 2, "give at least 2"),
            "dim": (self.dim >= 1, "it must be at least 1"),
            "code_temperature": (0 < self.code_temperature < math.inf, "it must be positive and finite"),
            "activation": (self.activation in ("sparsemax", "softmax", "sigmoid"), "choose sparsemax, softmax or sigmoid"),
            "pool": (self.pool in ("max", "mean", "sum"), "choose max, mean or sum"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "min_scale": (0 < self.min_scale < self.max_scale, "it must be positive and below max_scale"),
        })  # fmt: skip
        share = active_share(self.codes, self.code_temperature)
        if self.activation == "sparsemax" and share < 0.05:
            warnings.warn(
                f"system.code_temperature is {self.code_temperature}: a token activates {share:.1%} of the codes at the start; raise it",
                stacklevel=2,
            )

    def chance_loss(self, batch_size: int) -> float:
        """The loss at equal logits for all pairs of a batch."""
        return math.log(batch_size)

    def build(self) -> System:
        self.check()
        kind, encoders = jnp.dtype(self.dtype), {"image": self.image, "text": self.text}
        modules, head = {n: encoders[n].module(kind) for n in NAMES}, QueryHead(self.dim, kind)
        log_scale = LogScale(1 / self.temperature, self.max_scale, self.min_scale)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            *keys, for_encoders, for_codes = jax.random.split(rng, 4)
            parts = init_parts(for_encoders, {**modules, "scale": log_scale}, batch)
            params = {n: {"encoder": parts[n]} for n in NAMES} | {"scale": parts["scale"]}
            for name, key in zip(NAMES, keys):
                params[name]["queries"] = head.init(key, encode(params, batch, name)[0])["params"]
            books = {"shared": for_codes} if self.shared else dict(zip(NAMES, jax.random.split(for_codes)))
            params["codes"] = {n: jax.random.normal(k, (self.codes, self.dim), jnp.float32) for n, k in books.items()}
            return params, {}

        def encode(params: Params, batch: Batch, name: str) -> tuple[Float[Array, "B N W"], Bool[Array, "B N"], Any]:
            given = {"params": params[name]["encoder"]}
            _, out = modules[name].apply(given, *inputs(batch, name), rngs=drop_rngs(batch))
            tokens = out.get("patches", out["tokens"])
            return tokens, out.get("valid", jnp.ones(tokens.shape[:2], bool)), out

        def codebook(params: Params, name: str) -> Float[Array, "C D"]:
            return params["codes"]["shared" if self.shared else name]

        def queries(params: Params, batch: Batch, name: str) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
            tokens, valid, _ = encode(params, batch, name)
            return head.apply({"params": params[name]["queries"]}, tokens), valid

        def weights(params: Params, batch: Batch, name: str) -> Float[Array, "B C"]:
            q, valid = queries(params, batch, name)
            scores = code_scores(q, codebook(params, name), self.code_temperature)
            return code_weights(pool_scores(scores, valid, self.pool, self.pad_floor_zero), self.activation)

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            alpha = {n: weights(params, batch, n) for n in NAMES}
            x, y = (features(alpha[n], codebook(params, n)) for n in NAMES)
            scale = log_scale.apply({"params": params["scale"]})
            active = {f"active_{n}": (alpha[n] > 0).mean(dtype=jnp.float32) for n in NAMES}
            metrics = {"scale": scale, "cosine": (x * y).sum(-1).mean(), **active}
            return symmetric_info_nce(x, y, scale).mean(), metrics

        def of(name: str) -> dict[str, Any]:
            def tokens(params: Params, extras: dict, batch: Batch) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
                q, valid = queries(params, batch, name)
                return q.astype(jnp.float32), valid

            return {
                name: lambda params, extras, batch: features(weights(params, batch, name), codebook(params, name)),
                f"{name}_tokens": tokens,
                f"{name}_codes": lambda params, extras, batch: weights(params, batch, name),
                f"{name}_code_scores": lambda params, extras, batch: code_scores(
                    queries(params, batch, name)[0], codebook(params, name)
                ),
                f"{name}_layers": lambda params, extras, batch: layer_features(encode(params, batch, name)[2]),
            }

        return System(init, stateless(loss), of("image") | of("text"))


def features(weights: Float[Array, "B C"], codes: Float[Array, "C D"]) -> Float[Array, "B D"]:
    """The sum of the weighted codes as a unit vector; 0 where they cancel out."""
    return l2_normalise(jnp.einsum("bc,cd->bd", weights, codes, precision=jax.lax.Precision.HIGHEST))

"""FILIP: a dual encoder whose similarity is token-wise (Yao et al. 2022, arXiv 2111.07783).

Section 3.1, token-wise maximum similarity, s^I and s^T     losses.late_interaction.late_similarity
Section 3.1, contrastive loss over both similarities        model.filip_loss
Section 3.1, 25 % of the tokens selected on each worker     model.select_tokens_locally, Config.token_keep_ratio
Section 3.2, prompts averaged by their similarities         mmrep.evals.suite.ZeroShot(score="score_image")
Section 4.5, word-patch alignment                           evals.alignment, evals.Localisation

There is no official code. Huawei's MindFormers (Apache-2.0) selects tokens within a local group of devices before the all-gather, too.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import Scalar
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.losses.reduce import masked_mean
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.contrastive.filip.model import (
    TokenSet,
    filip_loss,
    pair_similarity,
    select_tokens,
    select_tokens_locally,
)


@dataclass(frozen=True)
class Config:
    """similarity: "token_max" is FILIP.  "token_mean" averages over the other side's tokens instead of taking the maximum, which equals the
                  dot product of the two mean tokens.  "global" is CLIP: the dot product of the pooled vectors, through the same projections.
    token_keep_ratio: share of each side's tokens that maxima run over, selected by their best match; in training only.
    local_batch:  pairs within which tokens are selected, as on one of the authors' workers (320 pairs each); None: the whole batch.
    mask_padding: exclude padding tokens of texts (False is an ablation).   chunk: pairs compared at a time; None: all.
    temperature:  tau at the start, learned down to 0.01 through its logarithm.   large_batch: see LargeBatch; its chunk defaults to `chunk`.
    """

    image: ImageEncoder = ImageEncoder()
    text: TextEncoder = TextEncoder()
    dim: int = 64
    temperature: float = 0.07
    similarity: Literal["token_max", "token_mean", "global"] = "token_max"
    token_keep_ratio: float = 1.0
    local_batch: int | None = None
    mask_padding: bool = True
    chunk: int | None = None
    dtype: str = "float32"
    large_batch: LargeBatch = LargeBatch()

    def check(self) -> None:
        selects, ring = self.token_keep_ratio < 1.0, self.large_batch.loss == "ring"
        similarities = ("token_max", "token_mean", "global")
        check_fields(self, {
            "temperature": (0.01 <= self.temperature <= 1.0, "it must be in [0.01, 1]"),
            "similarity": (self.similarity in similarities, f"choose one of {', '.join(similarities)}"),
            "token_keep_ratio": (0.0 < self.token_keep_ratio <= 1.0, "the share of tokens is in (0, 1]"),
            "local_batch": (self.local_batch is None or self.local_batch >= 1, "give 1 or more, or None"),
            "chunk": (self.chunk is None or self.chunk >= 1, "give 1 or more, or None for all at once"),
        })  # fmt: skip
        if selects and self.similarity != "token_max":
            raise ConfigError(
                f"system.token_keep_ratio is {self.token_keep_ratio}: only similarity token_max selects tokens"
            )
        self.large_batch.check()
        if selects and ring and self.local_batch is None:
            raise ConfigError(
                "system.local_batch is None: a device of a ring selects tokens among its own pairs, give a divisor of their number"
            )

    def chance_loss(self, batch_size: int) -> float:
        """The loss at equal logits for all pairs of a batch."""
        return math.log(batch_size)

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            {"image": self.image, "text": self.text}, self.dim,
            scale=1 / self.temperature, max_scale=100.0, tokens=True, dtype=self.dtype,
        )  # fmt: skip

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y = in_micro_batches(
                lambda part: [encode(self, model, params, part, n) for n in model.names], batch, self.large_batch.micro_batches
            )  # fmt: skip
            scale = model.scale(params)
            value, own = contrast(self, x, y, scale)
            return value.mean(), {"scale": scale, "similarity": own.mean()}

        def of(name: str) -> dict[str, Any]:
            return {
                name: lambda params, extras, batch: embed(self, model, params, batch, name),
                f"{name}_tokens": lambda params, extras, batch: encode_tokens(self, model, params, batch, name)[1],
            }

        infer = model.infer() | of("image") | of("text")
        if self.similarity == "token_max":
            infer |= {"score": score, "score_image": score_image, "score_text": score_text}
        return System(lambda rng, batch: (model.init(rng, batch), {}), stateless(loss), infer)


def encode_tokens(
    config: Config, model: Any, params: Params, batch: Batch, name: str
) -> tuple[Float[Array, "B D"], TokenSet]:
    """(the pooled unit vector, all tokens as unit vectors in the shared space, 0 at padding)."""
    pooled, out = model.full(params, batch, name)
    tokens = out["projected"]
    valid = out["valid"] if name == "text" and config.mask_padding else jnp.ones(tokens.shape[:2], bool)
    return pooled, (jnp.where(valid[..., None], tokens, 0.0), valid)


def encode(config: Config, model: Any, params: Params, batch: Batch, name: str) -> TokenSet:
    """The tokens that the loss compares: all, or one vector whose dot product is the similarity."""
    pooled, (tokens, valid) = encode_tokens(config, model, params, batch, name)
    if config.similarity == "token_max":
        return tokens, valid
    one = pooled if config.similarity == "global" else masked_mean(tokens, valid[..., None], axis=1)
    return one[:, None], valid.any(1, keepdims=True)


def embed(config: Config, model: Any, params: Params, batch: Batch, name: str) -> Float[Array, "B D"]:
    """One vector a row: the unit mean token ("token_max"), the mean token ("token_mean"), the pooled vector ("global")."""
    tokens, valid = encode(config, model, params, batch, name)
    mean = masked_mean(tokens, valid[..., None], axis=1)
    return l2_normalise(mean) if config.similarity == "token_max" else mean


def _both_scores(pairs: Batch) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    image, text = ((pairs[f"{n}_tokens"], pairs[f"{n}_valid"]) for n in ("image", "text"))
    return pair_similarity(image, text)


def score(params: Params, extras: Extras, pairs: Batch) -> Float[Array, " B"]:
    """(s^I + s^T) / 2 of aligned pairs {"image_tokens", "image_valid", "text_tokens", "text_valid"}."""
    s_image, s_text = _both_scores(pairs)
    return 0.5 * (s_image + s_text)


def score_image(params: Params, extras: Extras, pairs: Batch) -> Float[Array, " B"]:
    """s^I, by which the paper ranks texts for an image."""
    return _both_scores(pairs)[0]


def score_text(params: Params, extras: Extras, pairs: Batch) -> Float[Array, " B"]:
    """s^T, by which the paper ranks images for a text."""
    return _both_scores(pairs)[1]


def contrast(
    config: Config, image: TokenSet, text: TokenSet, scale: Scalar
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """(the loss of each pair, its own mean similarity): `filip_loss` with the config's selection and blocks."""
    blocks = config.large_batch.blocks(config.chunk or (32 if config.similarity == "token_max" else 1024))
    keys, ratio = None, config.token_keep_ratio
    if ratio < 1.0 and config.local_batch:
        keys = select_tokens_locally(image, text, ratio, config.local_batch, blocks)
    elif ratio < 1.0:
        keys = select_tokens(image, text, ratio, None if blocks is None else blocks.chunk)
    return filip_loss(image, text, scale, keys, config.chunk, blocks)

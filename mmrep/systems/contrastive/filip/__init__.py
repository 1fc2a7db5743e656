"""FILIP: a dual encoder compared token by token (Yao et al. 2022, arXiv 2111.07783)."""

import math
from dataclasses import dataclass, field
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import Scalar, symmetric_info_nce_of_logits
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.pooling import mean_pool
from mmrep.system import Batch, Metrics, Params, System, stateless
from mmrep.systems.contrastive.filip.model import Tokens, late_info_nce, late_similarity, select_tokens


@dataclass(frozen=True)
class Config:
    """interaction: "max" is FILIP.  "mean" averages over the other side's tokens instead of taking the best one, which is the dot product
                 of the two mean tokens.  "global" is CLIP: the dot product of the pooled vectors, through the same projections.
    keep:        share of each side's tokens that the other side looks among, chosen by their best match in the batch; training only.
    mask:        False lets padding speak as if it were words (an ablation).   chunk: gallery entries compared at a time; None: all.
    temperature: tau at the start, at least 0.01 through its logarithm.
    large_batch: how much of the batch is compared and encoded at once; its blocks are of `chunk` pairs where it names no size.
    """

    image: ImageEncoder = ImageEncoder()
    text: TextEncoder = TextEncoder()
    dim: int = 64
    temperature: float = 0.07
    interaction: Literal["max", "mean", "global"] = "max"
    keep: float = 1.0
    mask: bool = True
    chunk: int | None = None
    dtype: str = "float32"
    large_batch: LargeBatch = field(default=LargeBatch(), metadata={"since": 2})

    def build(self) -> System:
        self._check()
        encoders = {"image": self.image, "text": self.text}
        model = dual_encoder(
            encoders, self.dim, scale=1 / self.temperature, max_scale=100.0, tokens=True, dtype=self.dtype
        )  # fmt: skip

        def words_or_patches(params: Params, batch: Batch, name: str) -> tuple[Array, dict[str, Array]]:
            """(the pooled vector [B,D], every token in the shared space with its `valid`)."""
            pooled, out = model.full(params, batch, name)
            tokens = out["projected"]
            valid = out["valid"] if name == "text" and self.mask else jnp.ones(tokens.shape[:2], bool)
            return pooled, {"tokens": jnp.where(valid[..., None], tokens, 0.0), "valid": valid}

        def represent(params: Params, batch: Batch, name: str) -> dict[str, Array]:
            """What is compared: all tokens, or one that stands for them, of which best match and mean are the dot product."""
            pooled, out = words_or_patches(params, batch, name)
            if self.interaction == "max":
                return out
            one = pooled if self.interaction == "global" else mean_pool(out["tokens"], out["valid"])
            return {"tokens": one[:, None], "valid": out["valid"].any(1, keepdims=True)}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            parts = self.large_batch.micro_batches
            x, y = in_micro_batches(lambda of: [represent(params, of, n) for n in encoders], batch, parts)
            scale = model.scale(params)
            per_pair, own = self.contrast((x["tokens"], x["valid"]), (y["tokens"], y["valid"]), scale)
            return per_pair.mean(), {"scale": scale, "similarity": own.mean()}

        infer = {n: lambda params, extras, batch, n=n: represent(params, batch, n) for n in encoders}
        infer |= {
            f"{n}_tokens": lambda params, extras, batch, n=n: words_or_patches(params, batch, n)[1] for n in encoders
        }
        return System(lambda rng, batch: (model.init(rng, batch), {}), stateless(loss), infer)

    def contrast(self, image: Tokens, text: Tokens, scale: Scalar) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        """(the loss of each pair, its own mean similarity): see `late_info_nce`."""
        blocks = self.large_batch.blocks(self.chunk or (32 if self.interaction == "max" else 1024))
        if blocks is not None:
            return late_info_nce(image, text, scale, self._few(image, text, blocks.chunk), blocks)
        s_image, s_text = self.similarities(image, text)
        per_pair = symmetric_info_nce_of_logits(scale * s_image, scale * s_text.T)
        return per_pair, 0.5 * jnp.diagonal(s_image + s_text)

    def similarities(self, image: Tokens, text: Tokens) -> tuple[Float[Array, "B B"], Float[Array, "B B"]]:
        """(s^I, s^T), rows images: every patch and every word asks in full, but looks among the kept tokens of the other side only."""
        few = self._few(image, text)
        if few is None:
            return late_similarity(*image, *text, self.chunk)
        return late_similarity(*image, *few[1], self.chunk)[0], late_similarity(*few[0], *text, self.chunk)[1]

    def _few(self, image: Tokens, text: Tokens, chunk: int | None = None) -> tuple[Tokens, Tokens] | None:
        keep_image, keep_text = (max(1, math.ceil(self.keep * side[0].shape[1])) for side in (image, text))
        if (keep_image, keep_text) == (image[0].shape[1], text[0].shape[1]):
            return None
        few_image = select_tokens(*image, *text, keep_image, chunk)
        return few_image, select_tokens(*text, *image, keep_text, chunk)

    def _check(self) -> None:
        if not 0.01 <= self.temperature <= 1.0:
            raise ConfigError(f"system.temperature is {self.temperature}: it must lie in [0.01, 1]")
        if self.interaction not in ("max", "mean", "global"):
            raise ConfigError(f"system.interaction is {self.interaction!r}: choose max, mean or global")
        if not 0.0 < self.keep <= 1.0:
            raise ConfigError(f"system.keep is {self.keep}: the share of tokens kept lies in (0, 1]")
        if self.keep < 1.0 and self.interaction != "max":
            raise ConfigError(f"system.keep is {self.keep}: only system.interaction 'max' has tokens to choose from")
        self.large_batch.check()
        if self.large_batch.loss == "ring" and self.keep < 1.0:
            raise ConfigError(
                f'system.keep is {self.keep}: tokens are chosen by the whole batch, which no device of a ring sees; take "chunked"'
            )
        if self.chunk is not None and self.chunk < 1:
            raise ConfigError(f"system.chunk is {self.chunk}: give 1 or more, or None for all at once")

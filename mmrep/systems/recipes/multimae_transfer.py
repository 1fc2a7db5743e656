"""MultiMAE's encoder put to use: no masking, any of its maps, and one head (Bachmann et al., ECCV 2022, section 4).

    begin = Phase(start=(Pretrained(multimae_experiment, parts=parts(("rgb", "depth"))),))
Probing trains `trainable=("head/.*",)`; fine-tuning trains all, with `Optim.layer_decay` below 1. A map that the pretrained model did not
have is left out of `parts` and starts with a fresh adapter.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses import masked
from mmrep.nn import maps as aligned
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads_dense import ConvNeXtHead, DPTHead, TokenHead
from mmrep.nn.maps import Map, map_autoencoder
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Config:
    """maps, encoder, global_tokens, position_base: as in the pretrained MultiMAE; `maps` may be some of its, or new ones.

    task:    classification of `label`, `classes` of them (from the mean of all tokens);  segmentation or depth of the map `target`.
    read:    the maps whose tokens a dense head gets, channels side by side; the others act through the encoder's attention alone.
    head_width, head_depth: of the ConvNeXt head (segmentation).   hooks, head_dims, features: of the DPT head (depth).
    loss:    of depth: reversed Huber, or mean absolute error.   encoder.drop_path acts in training alone.
    """

    maps: tuple[Map, ...] = ()
    task: Literal["classification", "segmentation", "depth"] = "segmentation"
    target: Map | None = None
    label: str = "label"
    classes: int = 0
    read: tuple[str, ...] = ("rgb",)
    encoder: TransformerConfig = TransformerConfig(width=768, depth=12, heads=12, epsilon=1e-6)
    global_tokens: int = 1
    head_width: int = 6144
    head_depth: int = 4
    hooks: tuple[int, ...] = (2, 5, 8, 11)
    head_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    features: int = 256
    loss: Literal["berhu", "l1"] = "berhu"
    dtype: str = "float32"
    position_base: float = 10_000.0

    def check(self) -> None:
        aligned.check(self.maps)
        names = [m.name for m in self.maps]
        if self.task == "classification":
            if self.classes < 2:
                raise ConfigError(f"system.classes is {self.classes}: classification needs at least 2")
            return
        if self.target is None or bool(self.target.classes) != (self.task == "segmentation"):
            raise ConfigError(
                f"system.target is {self.target}: {self.task} needs a map of {'classes' if self.task == 'segmentation' else 'numbers'}"
            )
        if self.target.name in names:
            raise ConfigError(f"system.target {self.target.name!r} also goes in: leave it out of system.maps")
        if not self.read or not {*self.read} <= {*names}:
            raise ConfigError(f"system.read is {self.read}: name some of the maps {', '.join(names)}")
        if self.task == "depth" and (len(self.hooks) != 4 or not all(0 <= h < self.encoder.depth for h in self.hooks)):
            raise ConfigError(
                f"system.hooks is {self.hooks}: name four of the {self.encoder.depth} layers, counted from 0"
            )

    def head(self) -> nn.Module:
        kind = jnp.dtype(self.dtype)
        if self.task == "classification":
            return TokenHead(self.classes, dtype=kind)
        assert self.target is not None
        grid, size = self.maps[0].grid, self.target.size
        if self.task == "segmentation":
            return ConvNeXtHead(self.target.classes, grid, size, self.head_width, 4, self.head_depth, kind)
        return DPTHead(self.target.channels, grid, size, self.head_dims, self.features, kind)

    def build(self) -> System:
        self.check()
        names, n = [m.name for m in self.maps], self.maps[0].grid[0] * self.maps[0].grid[1]
        model = map_autoencoder(
            self.maps, {}, self.encoder, self.encoder, global_tokens=self.global_tokens, dtype=self.dtype,
            position_base=self.position_base,
        )  # fmt: skip
        head = self.head()

        def encode(params: Params, batch: Batch, rng: PRNGKeyArray | None = None) -> tuple[Array, Any]:
            """The tokens, and what of them the head reads."""
            values = {m.name: m.standard(batch[m.name]) for m in self.maps if m.name in batch}
            tokens, out, _ = model.encode(params, values, None, rng)
            here = [k for k in names if k in values]
            if self.task == "classification":
                return tokens, tokens
            if not {*self.read} <= {*here}:
                raise ConfigError(f"the batch holds {', '.join(here)}: the head reads {', '.join(self.read)}")

            def read(x: Array) -> Array:
                starts = [here.index(k) * n for k in self.read]
                return jnp.concatenate([x[:, s : s + n] for s in starts], axis=-1)

            if self.task == "segmentation":
                return tokens, read(tokens)
            blocks = [out["blocks"][h] if self.encoder.scan else out[f"block{h:02d}"] for h in self.hooks]
            return tokens, [read(b) for b in blocks]

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            for_model, for_head = jax.random.split(rng)
            params = model.init(for_model, batch)
            return params | {"head": head.init(for_head, encode(params, batch)[1])["params"]}, {}

        def answer(params: Params, batch: Batch, rng: PRNGKeyArray | None = None) -> Array:
            return head.apply({"params": params["head"]}, encode(params, batch, rng)[1])

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            found = answer(params, batch, rng if self.encoder.drop_path else None)
            if self.task == "classification":
                labels = batch[self.label]
                value = -jnp.take_along_axis(jax.nn.log_softmax(found), labels[:, None], axis=1).mean()
                return value, {"accuracy": (found.argmax(-1) == labels).mean(dtype=jnp.float32)}
            assert self.target is not None
            truth = jnp.asarray(batch[self.target.name])
            if self.task == "segmentation":
                labels, logits = truth.reshape(len(truth), 1, -1), found.reshape(len(truth), 1, -1, found.shape[-1])
                kept = (labels != masked.IGNORE).sum((1, 2))
                value = masked.patch_cross_entropy(logits, labels, ignore=masked.IGNORE)[:, 0]
                value = (value * kept).sum() / jnp.maximum(kept.sum(), 1)  # every pixel of the batch weighs the same
                right = ((found.argmax(-1) == truth) & (truth != masked.IGNORE)).sum() / jnp.maximum(kept.sum(), 1)
                return value, {"pixel_accuracy": right.astype(jnp.float32)}
            away = found - self.target.standard(truth)
            l1 = jnp.abs(away).mean()
            return (berhu(away) if self.loss == "berhu" else l1), {"l1": l1}

        def predict(params: Params, extras: Extras, batch: Batch) -> Array:
            """Scores of classes [B, C] or [B, H, W, C]; depth [B, H, W, C] in the batch's units (standardised where `truncated`)."""
            found = answer(params, batch)
            if self.task != "depth" or self.target is None or self.target.truncated:
                return found
            return found * jnp.asarray(self.target.std, jnp.float32) + jnp.asarray(self.target.mean, jnp.float32)

        def tokens(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B N D"]:
            """The encoder's tokens of the maps that the batch holds, map after map, then the global ones."""
            return encode(params, batch)[0]

        return System(init, stateless(loss), {"predict": predict, "tokens": tokens})


def parts(maps: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """What `Pretrained` takes over from a MultiMAE: encoder, global tokens and the adapters of these maps."""
    return tuple((f"{k}/", f"{k}/") for k in ("encoder", "global", *(f"in_{m}" for m in maps)))


def berhu(away: Float[Array, "B H W C"], valid: Bool[Array, "B H W C"] | None = None) -> Float[Array, ""]:
    """Reversed Huber loss of errors: |e| below c, (e^2 + c^2) / 2c from there on, c a fifth of the batch's greatest error, taken as
    a constant (Laina et al. 2016, arXiv 1606.00373). Mean over the `valid` values.
    """
    e = jnp.abs(away) if valid is None else jnp.where(valid, jnp.abs(away), 0)
    c = jax.lax.stop_gradient(jnp.maximum(0.2 * e.max(), 1e-5))
    count = jnp.float32(e.size) if valid is None else jnp.maximum(valid.sum(), 1)
    return jnp.where(e < c, e, (e**2 + c**2) / (2 * c)).sum() / count

"""BridgeTower's network: levels of two encoders, their fusion, and the heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.fusion import PairFusion
from mmrep.nn.heads import LogScale, MaskedLmHead, Projection
from mmrep.nn.norms import layer_norm
from mmrep.nn.pooling import layer_tokens
from mmrep.system import Params

Levels = Float[Array, "B K N W"]
ImageLevels = Float[Array, "B K M V"]
Mode = Literal["bridges", "last", "copies"]


@dataclass(frozen=True)
class LevelCodes:
    """A linear map of codes [K, N, D] that take the place of an encoder's K blocks: levels of K modules trained elsewhere, or made ones."""

    width: int = 64

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "LevelCodesModule":
        return LevelCodesModule(self, dtype, name=name)


class LevelCodesModule(nn.Module):
    """The module of LevelCodes: (the mean of the last level [B, width], {"block00": [B, N, width], ...})."""

    config: LevelCodes
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B K N D"]) -> tuple[Float[Array, "B W"], dict[str, Array]]:
        y = nn.Dense(self.config.width, dtype=self.dtype, name="embed")(jnp.asarray(x, self.dtype))
        out = {f"block{i:02d}": y[:, i] for i in range(y.shape[1])}
        return y[:, -1].mean(1), out | {"tokens": y[:, -1], "pooled": y[:, -1].mean(1)}


class AnswerHead(nn.Module):
    """Dense, LayerNorm, GELU, logits."""

    answers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled: Float[Array, "B W"]) -> Float[Array, "B A"]:
        x = layer_norm(self.dtype, "norm")(nn.Dense(pooled.shape[-1], dtype=self.dtype, name="hidden")(pooled))
        return nn.Dense(self.answers, dtype=self.dtype, name="out")(nn.gelu(x, approximate=False)).astype(jnp.float32)


class BridgeTower(NamedTuple):
    """The parts; parameters are {"image", "text", "fusion", "mlm", "table", "match"}, "answer" with answers, and with contrast "project_*", "scale".

    levels: "bridges", the last levels of both encoders; "last", their last level alone, without bridges (METER); "copies", the bridges
    with the last level in the place of all others.
    """

    encoders: Mapping[str, nn.Module]
    configs: Mapping[str, Encoder]
    fusion: PairFusion
    mlm: MaskedLmHead
    match: nn.Dense
    answer: AnswerHead | None
    project: Projection | None
    scale: LogScale
    levels: Mode


def bridgetower(
    image: Encoder,
    text: TextEncoder,
    fusion: TransformerConfig,
    levels: Mode,
    answers: int,
    dim: int | None,
    scale: float,
    dtype: str,
) -> BridgeTower:
    kind = jnp.dtype(dtype)
    return BridgeTower(
        {"image": image.module(kind), "text": text.module(kind)}, {"image": image, "text": text},
        PairFusion(fusion, first_norm=True, dtype=kind), MaskedLmHead(kind), nn.Dense(2, dtype=kind),
        AnswerHead(answers, kind) if answers else None,
        Projection(dim, use_bias=True, dtype=kind) if dim else None, LogScale(scale), levels,
    )  # fmt: skip


def encode(
    parts: BridgeTower, params: Params, name: str, x: Any
) -> tuple[Levels, Bool[Array, "B N"], Float[Array, "B W"]]:
    """(the last K levels, which tokens are valid, the pooled vector) of "image" or "text".

    An encoder's final norm, where it has one, is applied to every level ("ln_post", shared by the levels).
    Raises ConfigError where the encoder has fewer blocks than the fusion has layers.
    """
    pooled, out = parts.encoders[name].apply({"params": params[name]}, x)
    blocks, depth = [level for _, level in sorted(layer_tokens(out).items())], parts.fusion.config.depth
    if len(blocks) < depth:
        raise ConfigError(f"the {name} encoder has {len(blocks)} levels and fusion.depth is {depth}: it needs as many.")
    levels = jnp.stack(blocks[-depth:], axis=1)
    transformer = getattr(parts.configs[name], "transformer", None)
    if transformer is not None and transformer.norm == "pre":
        post = nn.LayerNorm(epsilon=transformer.epsilon, dtype=parts.fusion.dtype, use_bias=transformer.bias)
        levels = post.apply({"params": params[name]["transformer"]["norm"]}, levels)
    return levels, out.get("valid", jnp.ones((levels.shape[0], levels.shape[2]), bool)), pooled


def fuse(
    parts: BridgeTower,
    params: Params,
    text: Levels,
    text_valid: Bool[Array, "B N"],
    image: ImageLevels,
    image_valid: Bool[Array, "B M"],
) -> tuple[Float[Array, "B N D"], Float[Array, "B M D"], Float[Array, "B D2"]]:
    """(text tokens, image tokens, pooled) of pairs."""
    words, pixels = (_chosen(parts, x) for x in (text, image))
    return parts.fusion.apply({"params": params["fusion"]}, words, pixels, text_valid, image_valid)[:3]


def _chosen(parts: BridgeTower, levels: Levels) -> Any:
    if parts.levels == "last":
        return levels[:, -1]
    return [levels[:, i if parts.levels == "bridges" else -1] for i in range(levels.shape[1])]


def contrast(parts: BridgeTower, params: Params, name: str, pooled: Float[Array, "B W"]) -> Float[Array, "B D"]:
    """Unit vectors of the contrast; without it the encoder's pooled vector."""
    if parts.project is None:
        return pooled.astype(jnp.float32)
    return parts.project.apply({"params": params[f"project_{name}"]}, pooled).astype(jnp.float32)


def init(parts: BridgeTower, rng: Array, batch: Mapping[str, Any], vocab: int) -> Params:
    keys = iter(jax.random.split(rng, 10))
    params = {n: parts.encoders[n].init(next(keys), batch[n])["params"] for n in ("image", "text")}
    text, image = (encode(parts, params, n, batch[n]) for n in ("text", "image"))
    inputs = (_chosen(parts, text[0]), _chosen(parts, image[0]), text[1], image[1])
    (words, _, pooled, _), made = parts.fusion.init_with_output(next(keys), *inputs)
    params["fusion"] = made["params"]
    params["table"] = 0.02 * jax.random.normal(next(keys), (vocab, words.shape[-1]))
    params["mlm"] = parts.mlm.init(next(keys), words, params["table"])["params"]
    params["match"] = parts.match.init(next(keys), pooled)["params"]
    if parts.answer is not None:
        params["answer"] = parts.answer.init(next(keys), pooled)["params"]
    if parts.project is not None:
        for name, side in (("text", text), ("image", image)):
            params[f"project_{name}"] = parts.project.init(next(keys), side[2])["params"]
        params["scale"] = parts.scale.init(next(keys))["params"]
    return params

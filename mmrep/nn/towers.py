"""Towers: an encoder of one modality and its projection into the shared space, as config and as pure functions.

A tower config is a frozen dataclass that says how one modality is embedded; a dual (or M-fold) encoder is a dict of them:

    e = encoders({"image": ImageTower(...), "text": TextTower(...)}, dim=64)
    params = e.init(rng, batch)
    x, y, s = e.embed(params, batch, "image"), e.embed(params, batch, "text"), e.scale(params)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.nn.audio import AudioEncoder
from mmrep.nn.heads import LogScale, Projection
from mmrep.nn.image import ConvNet, SketchNet, ViT
from mmrep.nn.text import NgramEncoder, TextTransformer
from mmrep.system import Batch, Extras, Params


@dataclass(frozen=True)
class ImageTower:
    """A ViT, or with kind="conv" a ConvNet of stages width, 2 width, 4 width, ... (`depth` of them, `blocks` blocks each; pool "mean", "flat").

    pre_norm: a LayerNorm over the embedded patches before the first block of the ViT, as in CLIP.
    """

    width: int = 96
    depth: int = 4
    heads: int = 4
    patch: int = 8
    kind: Literal["vit", "conv"] = "vit"
    pool: str = "mean"
    blocks: int = 1
    stem_stride: int = 2
    mlp_ratio: float = 4.0
    pre_norm: bool = False
    scan: bool = False
    remat: bool = False

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> nn.Module:
        if self.kind == "conv":
            widths = tuple(self.width * 2**i for i in range(self.depth))
            pool = "flat" if self.pool == "flat" else "mean"
            return ConvNet(widths, self.blocks, self.stem_stride, pool=pool, dtype=dtype, name=name)
        return ViT(
            self.width, self.depth, self.heads, self.patch, self.pool, self.mlp_ratio,
            pre_norm=self.pre_norm, scan=self.scan, remat=self.remat, dtype=dtype, name=name,
            pooled_only=pooled_only and self.pool == "cls" and not self.scan,
        )  # fmt: skip


@dataclass(frozen=True)
class SketchTower:
    """A SketchNet: a ConvNet of stages width, 2 width, ... (`depth` of them) beside oriented gradients in n x n `cells` and mean colours."""

    width: int = 64
    depth: int = 2
    stem_stride: int = 4
    cells: tuple[int, ...] = (4, 8)

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> nn.Module:
        widths = tuple(self.width * 2**i for i in range(self.depth))
        return SketchNet(widths, stem_stride=self.stem_stride, cells=self.cells, dtype=dtype, name=name)


@dataclass(frozen=True)
class TextTower:
    """A transformer over token ids; `length` is the longest text it takes."""

    vocab: int = 1024
    length: int = 32
    width: int = 96
    depth: int = 2
    heads: int = 4
    causal: bool = False
    pool: str = "mean"
    norm: str = "pre"
    mlp_ratio: float = 4.0
    scan: bool = False
    remat: bool = False

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> nn.Module:
        return TextTransformer(
            self.vocab, self.width, self.depth, self.heads, self.length, self.causal, self.pool, self.mlp_ratio, self.norm,
            scan=self.scan, remat=self.remat, dtype=dtype, name=name,
        )  # fmt: skip


@dataclass(frozen=True)
class NgramTower:
    """A weighted bag of hashed n-grams of token ids; over a "char" tokenizer it reads new words by their letters."""

    width: int = 96
    buckets: int = 8192
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5)
    mlp_ratio: float = 4.0

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> nn.Module:
        return NgramEncoder(self.width, self.buckets, self.sizes, self.mlp_ratio, dtype=dtype, name=name)


@dataclass(frozen=True)
class AudioTower:
    """Log-mel, strided convolutions and a transformer over a waveform with its length."""

    width: int = 96
    depth: int = 2
    heads: int = 4
    rate: int = 16_000
    n_fft: int = 400
    hop: int = 160
    n_mels: int = 64
    strides: tuple[int, ...] = (2, 2)
    mlp_ratio: float = 4.0
    scan: bool = False
    remat: bool = False

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> nn.Module:
        return AudioEncoder(
            self.width, self.depth, self.heads, self.rate, self.n_fft, self.hop, self.n_mels, self.strides, self.mlp_ratio,
            scan=self.scan, remat=self.remat, dtype=dtype, name=name,
        )  # fmt: skip


class VectorEncoder(nn.Module):
    """`hidden` layers of Dense and GELU over a vector; none leaves the vector as it is (a linear tower is then its projection)."""

    hidden: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        for i, width in enumerate(self.hidden):
            x = nn.gelu(nn.Dense(width, dtype=self.dtype, name=f"dense{i}")(x), approximate=False)
        return x, {"pooled": x}


@dataclass(frozen=True)
class VectorTower:
    """A perceptron over a vector modality; hidden=() is a linear encoder."""

    hidden: tuple[int, ...] = ()

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> nn.Module:
        return VectorEncoder(self.hidden, dtype, name=name)


Tower: TypeAlias = ImageTower | SketchTower | TextTower | NgramTower | AudioTower | VectorTower


class Embedder(nn.Module):
    """A tower and its projection: (embedding [B,dim] of unit length, out); with `tokens` also out["projected"] [B,N,dim].

    Both go through one projection, so tokens and the global vector share a space. `pooled_only` spares the last block the tokens that
    the pooling does not read, where the tower can: the same embedding from fewer operations, but an `out` without them.
    """

    tower: Tower
    dim: int
    hidden: int | None = None
    normalise: bool = True
    tokens: bool = False
    dtype: Any = jnp.float32
    pooled_only: bool = False

    @nn.compact
    def __call__(self, *inputs: Any) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        pooled, out = self.tower.module(self.dtype, "encoder", self.pooled_only)(*inputs)
        project = Projection(self.dim, self.hidden, self.normalise, dtype=self.dtype, name="projection")
        if self.tokens:
            out = out | {"projected": project(out.get("patches", out["tokens"])).astype(jnp.float32)}
        return project(pooled).astype(jnp.float32), out


def inputs(batch: Batch, name: str) -> tuple[Any, ...]:
    """What the encoder of modality `name` takes from a batch: the array, and its length where it is ragged."""
    length = f"{name}_length"
    return (batch[name], batch[length]) if length in batch else (batch[name],)


def init_parts(rng: PRNGKeyArray, modules: Mapping[str, nn.Module], batch: Batch) -> Params:
    """{name: parameters}: embedders by the batch entry of their name, modules without inputs (a LogScale) by none."""
    keys = jax.random.split(rng, len(modules))
    return {
        name: module.init(key, *(inputs(batch, name) if name in batch else ()))["params"]
        for key, (name, module) in zip(keys, modules.items())
    }


def layer_features(out: Mapping[str, Any]) -> dict[str, Float[Array, "B D"]]:
    """One vector per layer from an encoder's `out`: the mean over (valid) tokens of every block, "tokens" and "pooled"."""
    layers = {k: v for k, v in out.items() if k.startswith(("block", "stage")) and k != "blocks"}
    if "blocks" in out:
        layers |= {f"block{i:02d}": v for i, v in enumerate(out["blocks"])}
    layers |= {"tokens": out["tokens"]} if "tokens" in out else {}
    valid = out.get("valid")
    found = {}
    for name, x in layers.items():
        x = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
        if valid is None or valid.shape[1] != x.shape[1]:
            found[name] = x.mean(1)
        else:
            kept = valid[..., None]
            found[name] = jnp.where(kept, x, 0.0).sum(1) / jnp.maximum(kept.sum(1), 1)
    return found | ({"pooled": out["pooled"].astype(jnp.float32)} if "pooled" in out else {})


class Encoders(NamedTuple):
    """A dual (or M-fold) encoder as pure functions over params {modality: ..., "scale": ...}.

    init:  (rng, batch) -> params.               embed: (params, batch, modality) -> unit embeddings [B,dim], float32.
    full:  (params, batch, modality) -> (embedding, out).    scale: params -> the learnt positive logit scale [].
    """

    names: tuple[str, ...]
    init: Callable[[PRNGKeyArray, Batch], Params]
    embed: Callable[[Params, Batch, str], Array]
    full: Callable[[Params, Batch, str], tuple[Array, dict[str, Array]]]
    scale: Callable[[Params], Array]

    def infer(self) -> dict[str, Callable[[Params, Extras, Batch], Any]]:
        """(params, extras, batch) -> embedding for each modality, and under "<modality>_layers" -> {layer: [B, D]} for probes."""

        def of(name: str) -> Callable[[Params, Extras, Batch], Array]:
            return lambda params, extras, batch: self.embed(params, batch, name)

        def layers(name: str) -> Callable[[Params, Extras, Batch], dict[str, Array]]:
            return lambda params, extras, batch: layer_features(self.full(params, batch, name)[1])

        return {name: of(name) for name in self.names} | {f"{name}_layers": layers(name) for name in self.names}


def encoders(
    towers: Mapping[str, Any],
    dim: int,
    *,
    scale: float = 1 / 0.07,
    max_scale: float | None = 100.0,
    hidden: int | None = None,
    normalise: bool = True,
    tokens: bool = False,
    dtype: str = "float32",
) -> Encoders:
    """An Embedder for each modality's tower (`Tower`) into one space of `dim`, and a LogScale that starts at `scale`.

    tokens: out["projected"] holds every token in the shared space.   hidden: width of a two-layer projection head.
    normalise: False leaves the embeddings at their length, for a system that adds to them before it takes unit vectors.
    Raises ConfigError for a `dim` or `dtype` that cannot work.
    """
    if dim < 1:
        raise ConfigError(f"system.dim is {dim}: the shared space needs at least one dimension")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"system.dtype is {dtype!r}: choose float32, bfloat16 or float16")
    modules = {n: Embedder(t, dim, hidden, normalise, tokens, jnp.dtype(dtype)) for n, t in towers.items()}
    pooled = {n: m.clone(pooled_only=True, tokens=False) for n, m in modules.items()}
    log_scale = LogScale(scale, max_scale)

    def embed(params: Params, batch: Batch, name: str) -> Array:
        return pooled[name].apply({"params": params[name]}, *inputs(batch, name))[0]

    def full(params: Params, batch: Batch, name: str) -> tuple[Array, dict[str, Array]]:
        return modules[name].apply({"params": params[name]}, *inputs(batch, name))

    return Encoders(
        tuple(towers),
        lambda rng, batch: init_parts(rng, {**modules, "scale": log_scale}, batch),
        embed,
        full,
        lambda params: log_scale.apply({"params": params["scale"]}),
    )

"""A masked autoencoder over pixel-aligned maps, as pure functions: adapters, one encoder over the visible tokens, a decoder a task.

a = map_autoencoder(maps, outputs={"depth": maps[1]}, encoder=TransformerConfig(...), decoder=TransformerConfig(...))
params = a.init(rng, {"rgb": ..., "depth": ...})
encoded, out, seen = a.encode(params, values, budgets.choose(...))     # only the visible patches are embedded
patches = a.decode(params, encoded, seen, values)                      # {output: [B, N, values of a patch]}
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.masking import budgets
from mmrep.masking.budgets import Visible
from mmrep.modality import Modality
from mmrep.nn.adapters import ClassAdapter, GlobalTokens, MapDecoder, PatchAdapter, take
from mmrep.nn.config import TransformerConfig
from mmrep.nn.transformer import Transformer
from mmrep.system import Batch, Params


@dataclass(frozen=True)
class Map:
    """A pixel-aligned modality: its batch entry and its grid.

    size: (height, width).   patch: in its own pixels.   channels: of a map of numbers.   classes: > 0 for a map of class ids.
    mean, std: numbers are taken as (x - mean) / std.   truncated: standardised by each example's middle 80 % of values instead (depth).
    """

    name: str
    size: tuple[int, int]
    patch: int
    channels: int = 1
    classes: int = 0
    class_dim: int = 64
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    truncated: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def values(self) -> int:
        """Values that a decoder gives for one patch."""
        return self.patch**2 * (self.classes or self.channels)

    def spec(self, batch_size: int) -> tuple[tuple[int, ...], Any]:
        """(shape, dtype) of its batch entry."""
        numbers = () if self.classes else (self.channels,)
        return (batch_size, *self.size, *numbers), jnp.int32 if self.classes else jnp.float32

    def standard(self, x: Any) -> Array:
        """The map as the model takes it: [B, H, W, C] of standardised numbers, or class ids [B, H, W] as they are."""
        x = jnp.asarray(x)
        if self.classes:
            return x
        if self.truncated:
            return truncated_standard(x)
        return (x - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)


def dense(m: Modality, *, class_dim: int = 64, truncated: bool = False) -> Map:
    """An image or a class map as a model of patches takes it: size, patch, channels or classes, mean and std of the modality.

    Raises ConfigError for a modality of another kind.
    """
    if m.kind not in ("image", "map"):
        raise ConfigError(f"modality {m.name!r} has kind {m.kind!r}: a dense modality is an image or a map")
    return Map(
        m.name, m.size, m.patch, m.channels, m.classes, class_dim, mean=m.mean, std=m.std, truncated=truncated
    )  # fmt: skip


def truncated_standard(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Each example by mean and variance of its middle 80 % of values: what lies at the far ends of a depth map does not set its scale."""
    flat = jnp.sort(x.reshape(x.shape[0], -1), axis=1)
    n = flat.shape[1]
    middle = flat[:, int(0.1 * n) : int(0.9 * n)]
    shape = (-1, 1, 1, 1)
    return (x - middle.mean(1).reshape(shape)) * jax.lax.rsqrt(middle.var(axis=1, ddof=1) + 1e-6).reshape(shape)


def check(maps: Sequence[Map], targets: Sequence[Map] = ()) -> None:
    """Raises ConfigError unless all maps have names of their own and one grid of whole patches."""
    every = (*maps, *targets)
    names = [m.name for m in every]
    if not maps or len({*names}) < len(names):
        raise ConfigError(f"system.maps and targets are named {names}: give at least one map, each name once")
    for m in every:
        if m.patch < 1 or m.size[0] % m.patch or m.size[1] % m.patch:
            raise ConfigError(f"map {m.name!r}: patch {m.patch} does not divide its size {m.size}")
        if m.grid != maps[0].grid:
            raise ConfigError(f"map {m.name!r} has grid {m.grid}, {maps[0].name!r} {maps[0].grid}: change its patch")


class MapAutoencoder(NamedTuple):
    """init: (rng, batch of all maps) -> params.

    encode: (params, maps, Visible | None, rng = None) -> (encoded [B, V + global, D], the encoder's `out`, what was seen). None: all that is there;
            `maps` may lack some.
    decode: (params, encoded, seen, maps) -> {output: [B, N, P]}; `maps` are those that were encoded.
    """

    init: Callable[[PRNGKeyArray, Batch], Params]
    encode: Callable[..., tuple[Array, dict[str, Any], Visible]]
    decode: Callable[[Params, Array, Visible, Mapping[str, Array]], dict[str, Array]]


def map_autoencoder(
    maps: Sequence[Map],
    outputs: Mapping[str, Map],
    encoder: TransformerConfig,
    decoder: TransformerConfig,
    *,
    global_tokens: int = 1,
    blind: bool = False,
    dtype: str = "float32",
    position_base: float = 10_000.0,
) -> MapAutoencoder:
    """`maps` go in, in this order of tokens; each of `outputs` has a decoder of its own.

    blind: decoders attend to their own modality's tokens alone (an ablation).   position_base: see sincos_2d.   Raises ConfigError for widths that cannot work.
    """
    for name, size in (("encoder", encoder), ("decoder", decoder)):
        if size.width % 4:
            raise ConfigError(f"system.{name}.width is {size.width}: two-dimensional positions need a multiple of 4")
    names, kind, n = [m.name for m in maps], jnp.dtype(dtype), maps[0].grid[0] * maps[0].grid[1]
    modules: dict[str, nn.Module] = {}
    for m in maps:
        numbers = PatchAdapter(encoder.width, m.patch, kind, position_base)
        classes = ClassAdapter(encoder.width, m.patch, m.classes, m.class_dim, dtype=kind, base=position_base)
        modules[f"in_{m.name}"] = classes if m.classes else numbers
    modules["global"] = GlobalTokens(global_tokens, kind)
    modules["encoder"] = Transformer(encoder, final_norm=False, dtype=kind)
    for label, m in outputs.items():
        own = names.index(m.name) if m.name in names else None
        modules[f"out_{label}"] = MapDecoder(
            decoder, m.values, len(names), own, maps[0].grid, dtype=kind, base=position_base
        )

    def run(params: Params, name: str, *inputs: Any, rngs: Any = None, **options: Any) -> Any:
        return modules[name].apply({"params": params[name]}, *inputs, rngs=rngs, **options)

    def init(rng: PRNGKeyArray, batch: Batch) -> Params:
        values = {m.name: m.standard(batch[m.name]) for m in maps}
        b = len(values[names[0]])
        seen = budgets.everything(b, [n] * len(maps))
        tokens = jnp.zeros((b, n * len(maps), encoder.width), jnp.float32)
        encoded = jnp.zeros((b, n * len(maps) + global_tokens, encoder.width), jnp.float32)
        inputs: dict[str, tuple] = {"encoder": (encoded,), "global": (tokens,)} | {
            f"in_{k}": (values[k],) for k in names
        }
        decoding = (encoded, *seen, tuple(range(len(names))))
        keys = jax.random.split(rng, len(modules))
        return {k: m.init(key, *inputs.get(k, decoding))["params"] for key, (k, m) in zip(keys, modules.items())}

    def encode(
        params: Params, values: Mapping[str, Array], seen: Visible | None, rng: PRNGKeyArray | None = None
    ) -> tuple[Array, dict[str, Any], Visible]:
        here = [k for k in names if k in values]
        if not here:
            raise ConfigError(f"the batch holds none of {', '.join(names)}: give at least one of these maps")
        chosen = budgets.everything(len(values[here[0]]), [n] * len(here)) if seen is None else seen
        if chosen.keep.shape[1] < n:
            # Few are visible: to embed them for every map and choose is cheaper than to embed all that is hidden.
            at = [jnp.clip(chosen.keep - i * n, 0, n - 1) for i in range(len(here))]
            each = [run(params, f"in_{k}", values[k], places) for k, places in zip(here, at)]
            own = [(chosen.keep // n == i)[..., None] for i in range(len(here))]
            tokens = jnp.asarray(sum(jnp.where(mine, x, 0) for mine, x in zip(own, each)))
        else:
            tokens = jnp.concatenate([run(params, f"in_{k}", values[k]) for k in here], axis=1)
            tokens = tokens if seen is None else take(tokens, chosen.keep)
        drop = None if rng is None else {"drop": rng}
        encoded, out = run(params, "encoder", run(params, "global", tokens), rngs=drop)
        return encoded, out, chosen

    def decode(params: Params, encoded: Array, seen: Visible, values: Mapping[str, Array]) -> dict[str, Array]:
        order = tuple(i for i, k in enumerate(names) if k in values)
        return {k: run(params, f"out_{k}", encoded, *seen, order, blind=blind) for k in outputs}

    return MapAutoencoder(init, encode, decode)

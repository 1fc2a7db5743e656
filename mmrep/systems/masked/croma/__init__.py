"""CROMA: two sensors masked independently, contrasted, fused, and both reconstructed (Fuller et al., NeurIPS 2023, arXiv 2311.00566)."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses import masked
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.masking import budgets
from mmrep.masking.budgets import Visible
from mmrep.nn import maps as aligned
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import Map
from mmrep.nn.patches import patchify, unpatchify
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.masked.croma.model import POSITIONS, SensorPair, sensor_pair


@dataclass(frozen=True)
class Config:
    """optical, radar: the two sensors' maps, of one grid.   encoder: of the optical map; radar and fusion have half of its blocks.

    mask_optical, mask_radar: share of each sensor's patches that is hidden, drawn independently.
    contrast, reconstruction: weights of the two losses; a loss of weight 0 is not computed.
    positions: "alibi", distances as attention biases, or "sincos2d", added to the tokens (then no attention has a bias).
    normalise: patches of the target over both sensors' values jointly, as the authors do, or each "sensor" by itself.
    one_bias:  their pre-training's bias in the fusion's self-attention (see nn.sensors.SensorFusion).
    max_scale: ceiling of the contrastive logit scale; the authors have none.
    """

    optical: Map = Map("optical", (120, 120), 8, 12)
    radar: Map = Map("radar", (120, 120), 8, 2)
    mask_optical: float = 0.75
    mask_radar: float = 0.75
    contrast: float = 1.0
    reconstruction: float = 1.0
    positions: Literal["alibi", "sincos2d"] = "alibi"
    normalise: Literal["joint", "sensor"] = "joint"
    one_bias: bool = False
    encoder: TransformerConfig = TransformerConfig(width=768, depth=12, heads=16)
    decoder: TransformerConfig = TransformerConfig(width=512, depth=1, heads=8)
    max_scale: float | None = 100.0
    dtype: str = "float32"

    @property
    def visible(self) -> tuple[int, int]:
        """Visible tokens of the optical and of the radar map."""
        n = self.optical.grid[0] * self.optical.grid[1]
        # 1e-9: 10 * (1 - 0.9) is a little less than 1.
        return int(n * (1 - self.mask_optical) + 1e-9), int(n * (1 - self.mask_radar) + 1e-9)

    def check(self) -> None:
        aligned.check((self.optical, self.radar))
        if self.optical.classes or self.radar.classes:
            raise ConfigError("system.optical and system.radar are maps of numbers: leave `classes` at 0")
        for name, visible in zip(("optical", "radar"), self.visible):
            ratio = getattr(self, f"mask_{name}")
            if not 0 <= ratio < 1 or visible < 1:
                raise ConfigError(f"system.mask_{name} is {ratio}: it must lie in [0, 1) and leave a patch visible")
        if self.one_bias and self.visible[0] != self.visible[1]:
            raise ConfigError("system.one_bias needs equal mask_optical and mask_radar: one bias serves both")
        if self.contrast < 0 or self.reconstruction < 0 or not self.contrast + self.reconstruction:
            raise ConfigError("system.contrast and system.reconstruction are weights, at least 0, and not both 0")
        if self.positions not in POSITIONS or self.normalise not in ("joint", "sensor"):
            raise ConfigError(
                f"system.positions is {self.positions!r}, one of {', '.join(POSITIONS)}; "
                f"system.normalise is {self.normalise!r}, one of joint, sensor"
            )
        if self.encoder.depth % 2:
            raise ConfigError(
                f"system.encoder.depth is {self.encoder.depth}: it must be even, since radar and fusion take half of it"
            )
        for name, size in (("encoder", self.encoder), ("decoder", self.decoder)):
            if size.width % 4:
                raise ConfigError(f"system.{name}.width is {size.width}: positions need a multiple of 4")

    def build(self) -> System:
        self.check()
        pair, sensors = self.pair(), {"optical": self.optical, "radar": self.radar}

        def standard(batch: Batch, name: str) -> Array:
            m = sensors[name]
            if m.name not in batch:
                raise ConfigError(f"the batch has no {m.name!r}: give it, or ask for the other sensor alone")
            return m.standard(batch[m.name])

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return pair.init(rng, {k: standard(batch, k) for k in sensors}), {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            images = {k: standard(batch, k) for k in sensors}
            n, everywhere = self.radar.grid[0] * self.radar.grid[1], jnp.ones((len(images["radar"]), 1), jnp.float32)
            seen = {
                name: budgets.choose(key, everywhere, (n,), visible)
                for key, name, visible in zip(jax.random.split(rng), sensors, self.visible)
            }
            found = objectives(self, pair, params, images, seen)
            weight = {"contrast": self.contrast}
            return sum((weight.get(k, self.reconstruction) * v for k, v in found.items()), jnp.float32(0.0)), found

        def encode(params: Params, batch: Batch, name: str, squeeze: bool = True) -> tuple[Array, dict[str, Array]]:
            return pair.encode(params, name, standard(batch, name), None, sensors[name].grid if squeeze else None)

        def fuse(params: Params, batch: Batch, squeeze: bool = True) -> tuple[Array, dict[str, Array]]:
            tokens = {k: encode(params, batch, k, squeeze)[0] for k in sensors}
            if tokens["optical"].shape != tokens["radar"].shape:
                grids = " and ".join(f"{k} {v.shape[1]}" for k, v in tokens.items())
                raise ConfigError(f"patches of the two sensors differ ({grids}): give maps of one extent")
            if not self.reconstruction:
                both = jnp.concatenate([tokens["radar"], tokens["optical"]], axis=-1)
                return both, {"tokens": both}
            at, columns = (
                jnp.arange(tokens["radar"].shape[1])[None],
                batch[self.radar.name].shape[2] // self.radar.patch,
            )
            return pair.fuse(params, tokens["radar"], tokens["optical"], at, at, columns)

        def tokens(params: Params, batch: Batch, squeeze: bool) -> Float[Array, "B N D"]:
            here = [k for k, m in sensors.items() if m.name in batch]
            return (encode(params, batch, here[0], squeeze) if len(here) == 1 else fuse(params, batch, squeeze))[0]

        def reconstruct(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
            """Both maps from all patches of both sensors, in values of normalised patches."""
            fused = fuse(params, batch)[0]
            found = pair.decode(params, fused, budgets.everything(len(fused), [fused.shape[1]]), self.radar.grid)
            return {m.name: unpatchify(found[k], m.patch, m.grid) for k, m in sensors.items()}

        # Patch tokens of what the batch holds: of one sensor its encoder's, of both the fused ones, or, where no reconstruction trains
        # the fusion, both encoders' side by side. Of a larger grid, sine-cosine positions are squeezed, or left "as_is".
        infer: dict[str, Any] = {
            "tokens": lambda params, extras, batch: tokens(params, batch, True),
            "tokens_as_is": lambda params, extras, batch: tokens(params, batch, False),
            "fused": lambda params, extras, batch: fuse(params, batch)[0].mean(1),
            "fused_layers": lambda params, extras, batch: layer_features(fuse(params, batch)[1]),
        }
        infer |= {"reconstruct": reconstruct} if self.reconstruction else {}
        for name, m in sensors.items():
            infer[f"{m.name}_layers"] = lambda p, e, batch, name=name: layer_features(encode(p, batch, name)[1])
            if self.contrast:

                def features(p: Params, e: Extras, batch: Batch, name: str = name) -> Float[Array, "B D"]:
                    return pair.summarise(p, name, encode(p, batch, name)[0])

                infer[f"{m.name}_features"] = features
                infer[m.name] = lambda p, e, batch, name=name, of=features: pair.project(p, name, of(p, e, batch))
        return System(init, stateless(loss), infer)

    def pair(self) -> SensorPair:
        return sensor_pair(
            self.optical, self.radar, self.encoder, self.decoder, contrast=self.contrast > 0,
            fusion=self.reconstruction > 0, positions=self.positions, one_bias=self.one_bias, max_scale=self.max_scale,
            dtype=self.dtype,
        )  # fmt: skip


def objectives(
    config: Config, pair: SensorPair, params: Params, images: dict[str, Array], seen: dict[str, Visible]
) -> dict[str, Float[Array, ""]]:
    """The losses of standardised images of which `seen` goes in: "contrast", and "optical" and "radar" of the reconstruction."""
    found: dict[str, Array] = {}
    tokens = {k: pair.encode(params, k, images[k], seen[k].keep)[0] for k in seen}
    if config.contrast:
        # Both sides take gradient; in the authors' code gathered keys carry none.
        u, v = (pair.project(params, k, pair.summarise(params, k, tokens[k])) for k in ("optical", "radar"))
        found["contrast"] = symmetric_info_nce(u, v, pair.scale(params)).mean()
    if config.reconstruction:
        places = seen["radar"].keep, seen["optical"].keep
        fused, _ = pair.fuse(params, tokens["radar"], tokens["optical"], *places, config.radar.grid[1])
        predicted, wanted = pair.decode(params, fused, seen["radar"], config.radar.grid), targets(config, images)
        for k in ("optical", "radar"):
            found[k] = masked.over_targets(masked.patch_mse(predicted[k], wanted[k]), ~seen[k].mask)
    return found


def targets(config: Config, images: dict[str, Array]) -> dict[str, Float[Array, "B N P"]]:
    """Normalised patches of both sensors; jointly, the band of the largest range sets the scale of all."""
    optical, radar = (patchify(images[m], of.patch) for m, of in (("optical", config.optical), ("radar", config.radar)))
    if config.normalise == "sensor":
        return {"optical": masked.normalise_patches(optical), "radar": masked.normalise_patches(radar)}
    both = masked.normalise_patches(jnp.concatenate([optical, radar], axis=-1))
    return {"optical": both[..., : optical.shape[-1]], "radar": both[..., optical.shape[-1] :]}

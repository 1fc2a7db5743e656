"""CROMA: contrastive radar-optical masked autoencoders (Fuller et al., NeurIPS 2023, arXiv 2311.00566).

| paper                                                    | function                          |
|----------------------------------------------------------|-----------------------------------|
| f_O, f_R: encoders of the visible patches                | model.SensorEncoder               |
| 2D-ALiBi, X-ALiBi                                        | nn.positions.alibi_2d             |
| GAP and FFN_O, FFN_R                                     | model.GapFfn                      |
| L_Con, between projected vectors of both sensors         | contrastive_loss                  |
| f_RO: multimodal encoder                                 | model.FusionEncoder               |
| MAE decoder and L_MAE over masked patches                | model.MaeDecoder, mae_targets, mae_loss |
| L = lambda_Con L_Con + lambda_MAE L_MAE                  | croma_losses, Config.build        |
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses import masked
from mmrep.losses.blocks import Blocks
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.losses.reduce import masked_mean
from mmrep.masking import budgets
from mmrep.masking.budgets import Visible
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality, check_maps
from mmrep.nn.patches import patchify
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.masked.croma.features import infer_functions
from mmrep.systems.masked.croma.model import SENSORS, CromaModel, croma_model


@dataclass(frozen=True)
class Config:
    """optical, radar: the two sensors' maps, of one grid.   encoder: of the optical map; radar and fusion have half of its blocks.

    mask_optical, mask_radar: share of each sensor's patches that is masked, drawn independently.
    contrastive_weight, mae_weight: of the two losses; a loss of weight 0 is not computed and its parts are left out.
    positions:   "alibi", distances as attention biases, or "sincos2d", added to the tokens (then no attention has a bias).
    normalise:   targets are patches normalised over both sensors' values jointly, as in the authors' code, or over each "sensor" by itself.
    share_cross_bias: the bias of the authors' pre-training code in the fusion's self-attention, see model.FusionEncoder.
    max_scale:   ceiling of the contrastive logit scale; the authors have none.
    large_batch: how much of the batch is compared and encoded at once.
    released:    encoders, GAP-FFNs and fusion alone, as in the authors' released weights: there is no loss, only features.
    """

    optical: DenseModality = DenseModality("optical", (120, 120), 8, 12)
    radar: DenseModality = DenseModality("radar", (120, 120), 8, 2)
    mask_optical: float = 0.75
    mask_radar: float = 0.75
    contrastive_weight: float = 1.0
    mae_weight: float = 1.0
    positions: Literal["alibi", "sincos2d"] = "alibi"
    normalise: Literal["joint", "sensor"] = "joint"
    share_cross_bias: bool = False
    encoder: TransformerConfig = TransformerConfig(width=768, depth=12, heads=16)
    decoder: TransformerConfig = TransformerConfig(width=512, depth=1, heads=8)
    max_scale: float | None = 100.0
    large_batch: LargeBatch = LargeBatch()
    released: bool = False
    dtype: str = "float32"

    @property
    def visible(self) -> tuple[int, int]:
        """Visible patches of the optical and of the radar map."""
        n = self.optical.grid[0] * self.optical.grid[1]
        # 1e-9: 10 * (1 - 0.9) is a little less than 1.
        return int(n * (1 - self.mask_optical) + 1e-9), int(n * (1 - self.mask_radar) + 1e-9)

    def check(self) -> None:
        check_maps((self.optical, self.radar))
        self.large_batch.check()
        if self.optical.classes or self.radar.classes:
            raise ConfigError("system.optical and system.radar are maps of numbers: leave `classes` at 0")
        for name, visible in zip(SENSORS, self.visible):
            ratio = getattr(self, f"mask_{name}")
            if not 0 <= ratio < 1 or visible < 1:
                raise ConfigError(f"system.mask_{name} is {ratio}: it must be in [0, 1) and leave a patch visible")
        if self.share_cross_bias and self.visible[0] != self.visible[1]:
            raise ConfigError("system.share_cross_bias needs equal mask_optical and mask_radar")
        if min(self.contrastive_weight, self.mae_weight) < 0 or not self.contrastive_weight + self.mae_weight:
            raise ConfigError("system.contrastive_weight and mae_weight must be at least 0, and not both 0")
        for field, known in (("positions", ("alibi", "sincos2d")), ("normalise", ("joint", "sensor"))):
            if getattr(self, field) not in known:
                raise ConfigError(f"system.{field} is {getattr(self, field)!r}: choose {' or '.join(known)}")
        if self.encoder.depth % 2:
            raise ConfigError(
                f"system.encoder.depth is {self.encoder.depth}: radar and fusion have half of it, so it must be even"
            )
        for name, size in (("encoder", self.encoder), ("decoder", self.decoder)):
            if size.width % 4:
                raise ConfigError(f"system.{name}.width is {size.width}: positions need a multiple of 4")

    def model(self) -> CromaModel:
        contrastive = () if not self.contrastive_weight else ("gap",) if self.released else ("gap", "project")
        mae = () if not self.mae_weight else ("fusion",) if self.released else ("fusion", "decoder")
        return croma_model(
            self.optical, self.radar, self.encoder, self.decoder, parts=(*mae, *contrastive), positions=self.positions,
            share_cross_bias=self.share_cross_bias, max_scale=self.max_scale, dtype=self.dtype,
        )  # fmt: skip

    def build(self) -> System:
        self.check()
        model = self.model()

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return model.init(rng, {k: model.standardised(batch, k) for k in SENSORS}), {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            if self.released:
                raise ConfigError("system.released has no projections and no decoder to train: set it to False")
            images = {k: model.standardised(batch, k) for k in SENSORS}
            n, every = self.radar.grid[0] * self.radar.grid[1], jnp.ones((len(images["radar"]), 1), jnp.float32)
            visible = {
                name: budgets.random_masking(key, every, (n,), count)
                for key, name, count in zip(jax.random.split(rng), SENSORS, self.visible)
            }
            losses = croma_losses(self, model, params, images, visible)
            weight = {"contrastive": self.contrastive_weight}
            return sum((weight.get(k, self.mae_weight) * v for k, v in losses.items()), jnp.float32(0.0)), losses

        return System(init, stateless(loss), infer_functions(model))


def croma_losses(
    config: Config, model: CromaModel, params: Params, images: dict[str, Array], visible: dict[str, Visible]
) -> dict[str, Float[Array, ""]]:
    """ "contrastive", and "optical" and "radar" of the masked autoencoder, for standardised images of which the `visible` patches are encoded."""

    def rows(batch: tuple[dict[str, Array], dict[str, Visible]]) -> dict[str, Array]:
        """Projected vectors and reconstruction errors, none depending on another row."""
        images, visible = batch
        found: dict[str, Array] = {}
        tokens = {k: model.encode(params, k, images[k], visible[k].ids_keep)[0] for k in SENSORS}
        if config.contrastive_weight:
            found |= {k: model.project(params, k, model.pool(params, k, tokens[k])) for k in SENSORS}
        if config.mae_weight:
            places = visible["radar"].ids_keep, visible["optical"].ids_keep
            fused, _ = model.fuse(params, tokens["radar"], tokens["optical"], *places, config.radar.grid[1])
            predicted, targets = (
                model.decode(params, fused, visible["radar"], config.radar.grid),
                mae_targets(config, images),
            )
            found |= {f"{k}_error": mae_loss(predicted[k], targets[k], ~visible[k].mask) for k in SENSORS}
        return found

    found, losses = in_micro_batches(rows, (images, visible), config.large_batch.micro_batches), {}
    if config.contrastive_weight:
        scale = model.scale(params)
        losses["contrastive"] = contrastive_loss(found["optical"], found["radar"], scale, config.large_batch.blocks())
    if config.mae_weight:
        losses |= {k: masked_mean(found[f"{k}_error"], ~visible[k].mask.all(1)) for k in SENSORS}
    return losses


def contrastive_loss(
    optical: Float[Array, "B D"], radar: Float[Array, "B D"], scale: Float[Array, ""], blocks: Blocks | None = None
) -> Float[Array, ""]:
    """L_Con: InfoNCE in both directions between unit vectors. Both sides have gradients; in the authors' code gathered keys have none."""
    return symmetric_info_nce(optical, radar, scale, blocks=blocks).mean()


def mae_targets(config: Config, images: dict[str, Array]) -> dict[str, Float[Array, "B N _"]]:
    """Normalised patches of both sensors; normalised jointly, the band with the largest range dominates the variance."""
    optical, radar = (patchify(images[k], m.patch) for k, m in zip(SENSORS, (config.optical, config.radar)))
    if config.normalise == "sensor":
        return {"optical": masked.normalise_patches(optical), "radar": masked.normalise_patches(radar)}
    both = masked.normalise_patches(jnp.concatenate([optical, radar], axis=-1))
    return {"optical": both[..., : optical.shape[-1]], "radar": both[..., optical.shape[-1] :]}


def mae_loss(
    predicted: Float[Array, "B N P"], targets: Float[Array, "B N P"], hidden: Bool[Array, "B N"]
) -> Float[Array, " B"]:
    """L_MAE of each example: mean squared error over its masked patches; 0 where none is."""
    return masked_mean(masked.patch_mse(predicted, targets), hidden, axis=1)

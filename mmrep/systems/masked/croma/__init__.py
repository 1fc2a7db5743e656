"""CROMA: contrastive radar-optical masked autoencoders (Fuller et al., NeurIPS 2023, arXiv 2311.00566).

f_O, f_R: encoders of the visible patches     model.SensorEncoder
2D-ALiBi, X-ALiBi                             nn.positions.alibi_2d
GAP and FFN_O, FFN_R                          model.GapFfn
L_Con, between both sensors' projections      contrastive_loss
f_RO: multimodal encoder                      model.CromaModel.fuse
decoder, and L_MAE over masked patches        nn.mae.MaeDecoder, mae_targets, mae_loss
L = lambda_Con L_Con + lambda_MAE L_MAE       croma_losses, Config.build
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

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
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import LogScale, Projection
from mmrep.nn.mae import MaeDecoder
from mmrep.nn.maps import DenseModality, check_maps
from mmrep.nn.patches import patchify
from mmrep.nn.transformer import Transformer
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.masked.croma.features import infer_functions
from mmrep.systems.masked.croma.model import SENSORS, CromaModel, GapFfn, SensorEncoder

Vectors: TypeAlias = Float[Array, "B D"]
Patches: TypeAlias = Float[Array, "B N P"]


@dataclass(frozen=True)
class Config:
    """optical, radar: the two sensors' maps, of one grid.   encoder: of the optical map; radar and fusion have half of its blocks.

    mask_optical, mask_radar: share of each sensor's patches that is masked, drawn independently.
    contrastive_weight, mae_weight: of the two losses; a loss of weight 0 is not computed and its parts are left out.
    positions:   "alibi", distances as attention biases, or "sincos2d", added to the tokens (then no attention has a bias), of position_base.
    normalise:   targets are patches normalised over both sensors' values jointly, as in the authors' code, or over each "sensor" by itself.
    share_cross_bias: self-attention of the fusion has the bias of its cross-attention, as in the authors' pre-training code, although its
                 keys are radar tokens. It makes no difference where nothing is masked, and needs equally many visible tokens of both.
    max_scale:   ceiling of the contrastive logit scale; the authors have none.   large_batch: pairs compared, and images encoded, at once.
    released:    encoders, GAP-FFNs and fusion alone, as in the authors' released weights: there is no loss, only features.
    """

    optical: DenseModality = DenseModality("optical", (120, 120), 8, 12)
    radar: DenseModality = DenseModality("radar", (120, 120), 8, 2)
    mask_optical: float = 0.75
    mask_radar: float = 0.75
    contrastive_weight: float = 1.0
    mae_weight: float = 1.0
    positions: Literal["alibi", "sincos2d"] = "alibi"
    position_base: float = 10_000.0
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
        n = self.optical.grid[0] * self.optical.grid[1] + 1e-9  # since 10 * (1 - 0.9) is a little less than 1
        return int(n * (1 - self.mask_optical)), int(n * (1 - self.mask_radar))

    def check(self) -> None:
        check_maps((self.optical, self.radar))
        self.large_batch.check()
        masks, visible = (self.mask_optical, self.mask_radar), self.visible
        weights, widths = (self.contrastive_weight, self.mae_weight), (self.encoder.width, self.decoder.width)
        for wrong, sentence in (
            (self.optical.classes or self.radar.classes, "system.optical and system.radar must be maps of numbers: leave classes at 0"),
            (not 0 <= min(masks) <= max(masks) < 1 or min(visible) < 1, f"system.mask_optical and mask_radar are {masks}: in [0, 1), a patch visible"),
            (self.share_cross_bias and visible[0] != visible[1], "system.share_cross_bias needs equal mask_optical and mask_radar"),
            (min(weights) < 0 or not sum(weights), "system.contrastive_weight and mae_weight must be at least 0, and not both 0"),
            (self.positions not in ("alibi", "sincos2d"), f"system.positions is {self.positions!r}: choose alibi or sincos2d"),
            (self.normalise not in ("joint", "sensor"), f"system.normalise is {self.normalise!r}: choose joint or sensor"),
            (self.encoder.depth % 2, f"system.encoder.depth is {self.encoder.depth}: radar and fusion have half of it, make it even"),
            (any(w % 4 for w in widths), f"system.encoder.width and decoder.width are {widths}: positions need multiples of 4"),
        ):  # fmt: skip
            if wrong:
                raise ConfigError(sentence)

    def model(self) -> CromaModel:
        kind, half = jnp.dtype(self.dtype), replace(self.encoder, depth=self.encoder.depth // 2)
        own = ("optical", self.encoder, self.optical.patch), ("radar", half, self.radar.patch)
        modules: dict[str, Any] = {k: SensorEncoder(c, p, self.positions, kind, self.position_base) for k, c, p in own}
        if self.mae_weight:
            modules["fusion"] = Transformer(half, cross=True, norm_context="shared", dtype=kind)
        if self.mae_weight and not self.released:
            modules["decoder"] = MaeDecoder(self.decoder, self.optical.values + self.radar.values, kind)
        if self.contrastive_weight:
            modules |= {f"gap_{k}": GapFfn(kind) for k in SENSORS}
        if self.contrastive_weight and not self.released:
            modules |= {f"project_{k}": Projection(half.width, use_bias=True, dtype=kind) for k in SENSORS}
            modules["scale"] = LogScale(max=self.max_scale)
        return CromaModel(
            dict(zip(SENSORS, (self.optical, self.radar))), modules, self.positions, self.share_cross_bias
        )

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
            drawn = zip(SENSORS, jax.random.split(rng), self.visible)
            visible = {k: budgets.random_masking(key, every, (n,), count) for k, key, count in drawn}
            losses = croma_losses(self, model, params, images, visible)
            weight = {"contrastive": self.contrastive_weight}
            return sum((weight.get(k, self.mae_weight) * v for k, v in losses.items()), jnp.float32(0.0)), losses

        return System(init, stateless(loss), infer_functions(model))


def croma_losses(
    config: Config, model: CromaModel, params: Params, images: dict[str, Array], visible: dict[str, budgets.Visible]
) -> dict[str, Float[Array, ""]]:
    """ "contrastive", and "optical" and "radar" of the masked autoencoder, for standardised images of which the `visible` patches are encoded."""

    def rows(batch: tuple[dict[str, Array], dict[str, budgets.Visible]]) -> dict[str, Array]:
        (images, visible), found = batch, dict[str, Array]()
        tokens = {k: model.apply(params, k, images[k], visible[k].ids_keep)[0] for k in SENSORS}
        if config.contrastive_weight:
            pooled = {k: model.apply(params, f"gap_{k}", tokens[k]) for k in SENSORS}
            found |= {k: model.apply(params, f"project_{k}", pooled[k]).astype(jnp.float32) for k in SENSORS}
        if config.mae_weight:
            places, grid = (visible["radar"].ids_keep, visible["optical"].ids_keep), config.radar.grid
            fused, _ = model.fuse(params, tokens["radar"], tokens["optical"], *places, grid[1])
            predicted, targets = model.decode(params, fused, visible["radar"], grid), mae_targets(config, images)
            found |= {f"{k}_error": mae_loss(predicted[k], targets[k], ~visible[k].mask) for k in SENSORS}
        return found

    losses = dict[str, Array]()
    found = in_micro_batches(rows, (images, visible), config.large_batch.micro_batches)
    if config.contrastive_weight:
        scale, blocks = model.apply(params, "scale"), config.large_batch.blocks()
        losses["contrastive"] = contrastive_loss(found["optical"], found["radar"], scale, blocks)
    if config.mae_weight:
        losses |= {k: masked_mean(found[f"{k}_error"], ~visible[k].mask.all(1)) for k in SENSORS}
    return losses


def contrastive_loss(optical: Vectors, radar: Vectors, scale: Array, blocks: Blocks | None = None) -> Float[Array, ""]:
    """L_Con: InfoNCE in both directions between unit vectors. Both sides have gradients; in the authors' code gathered keys have none."""
    return symmetric_info_nce(optical, radar, scale, blocks=blocks).mean()


def mae_targets(config: Config, images: dict[str, Array]) -> dict[str, Float[Array, "B N _"]]:
    """Normalised patches of both sensors; normalised jointly, the band with the largest range dominates the variance."""
    optical, radar = (patchify(images[k], m.patch) for k, m in zip(SENSORS, (config.optical, config.radar)))
    if config.normalise == "sensor":
        return {"optical": masked.normalise_patches(optical), "radar": masked.normalise_patches(radar)}
    both = masked.normalise_patches(jnp.concatenate([optical, radar], axis=-1))
    return {"optical": both[..., : optical.shape[-1]], "radar": both[..., optical.shape[-1] :]}


def mae_loss(predicted: Patches, targets: Patches, hidden: Bool[Array, "B N"]) -> Float[Array, " B"]:
    """L_MAE of each example: mean squared error over its masked patches; 0 where none is."""
    return masked_mean(masked.patch_mse(predicted, targets), hidden, axis=1)

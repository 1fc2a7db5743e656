"""MultiMAE: multi-modal multi-task masked autoencoding (Bachmann et al., ECCV 2022, arXiv 2204.01678).

3.1 patch and class embeddings              nn.adapters.PatchAdapter, ClassAdapter
3.1 encoder over visible and global tokens  model.MultiMaeModel.encode
3.2 Dirichlet budgets, random masking       masking.budgets.dirichlet_budgets, random_masking
3.3 decoders: cross- then self-attention    model.TaskDecoder
losses over masked patches, and their sum   task_losses, multimae_loss
weights by uncertainty (Kendall et al.)     uncertainty_weighting
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses import masked
from mmrep.masking import budgets
from mmrep.nn.adapters import ClassAdapter, PatchAdapter
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality, check_maps
from mmrep.nn.patches import patchify
from mmrep.nn.transformer import Transformer
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.masked.multimae.features import infer_functions
from mmrep.systems.masked.multimae.model import GlobalTokens, MultiMaeModel, TaskDecoder


@dataclass(frozen=True)
class Task:
    """One decoder: the map that it predicts, its loss over masked patches, and the weight of that loss."""

    output_domain: str
    loss: Literal["mse", "norm_mse", "l1", "ce"] = "mse"
    weight: float = 1.0


@dataclass(frozen=True)
class Config:
    """maps: the inputs, in the order of their tokens.   tasks: the decoders; a map may have several (rgb: plain and per-patch normalised).

    targets: maps that are predicted and are no inputs.   num_encoded_tokens: visible tokens of all maps together.
    alpha:   concentration of the Dirichlet distribution over maps.   sample_tasks_uniformly: first draw a subset of the maps.
    position_base: base of the fixed positions: 10,000 as in the paper, less for small grids.
    own_modality_only: decoders attend to their own modality's tokens alone, so that nothing is predicted across modalities (an ablation).
    uncertainty_weighting: weigh the losses by learned variances instead of by `Task.weight` alone.

    The batch may have `present` [B, maps], 1 where an example has the map: absent maps are neither visible nor predicted; and for a map with
    missing pixels `<map>_observed` [B, H, W], 1 where the pixel is a target: patches without any are not predicted.
    """

    maps: tuple[DenseModality, ...] = ()
    tasks: tuple[Task, ...] = ()
    targets: tuple[DenseModality, ...] = ()
    num_encoded_tokens: int = 98
    alpha: float = 1.0
    sample_tasks_uniformly: bool = False
    encoder: TransformerConfig = TransformerConfig(width=768, depth=12, heads=12, epsilon=1e-6)
    decoder: TransformerConfig = TransformerConfig(width=256, depth=2, heads=8, epsilon=1e-6)
    global_tokens: int = 1
    own_modality_only: bool = False
    uncertainty_weighting: bool = False
    position_base: float = 10_000.0
    dtype: str = "float32"

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(m.grid[0] * m.grid[1] for m in self.maps)

    def of(self, name: str) -> DenseModality:
        return next(m for m in (*self.maps, *self.targets) if m.name == name)

    def check(self) -> None:
        check_maps(self.maps, self.targets)
        names, widths = [m.name for m in (*self.maps, *self.targets)], (self.encoder.width, self.decoder.width)
        if not self.tasks or len({(t.output_domain, t.loss) for t in self.tasks}) < len(self.tasks):
            raise ConfigError(f"system.tasks is {labels(self.tasks)}: give a decoder, and a loss only once a map")
        for k, loss in ((t.output_domain, t.loss) for t in self.tasks):
            if k not in names:
                raise ConfigError(f"system.tasks predicts {k!r}, which is no map: choose from {', '.join(names)}")
            if (loss == "ce") != bool(self.of(k).classes):
                raise ConfigError(f"task {k!r} has loss {loss!r}: class maps, and no others, need 'ce'")
            if self.own_modality_only and k not in names[: len(self.maps)]:
                raise ConfigError(f"system.own_modality_only is on and {k!r} is no input: its decoder has no context")
        if any(w % 4 for w in widths):
            raise ConfigError(f"system.encoder.width and decoder.width are {widths}: positions need multiples of 4")
        budgets.check(self.sizes, self.num_encoded_tokens, (self.alpha,) * len(self.maps))

    def model(self) -> MultiMaeModel:
        c, names, dtype, base = self.encoder, [m.name for m in self.maps], jnp.dtype(self.dtype), self.position_base
        modules: dict[str, Any] = {}
        for m in self.maps:
            classes = ClassAdapter(c.width, m.patch, m.classes, m.class_dim, dtype=dtype, base=base)
            modules[f"in_{m.name}"] = classes if m.classes else PatchAdapter(c.width, m.patch, dtype, base)
        modules["global"] = GlobalTokens(self.global_tokens, dtype)
        modules["encoder"] = Transformer(c, final_norm=False, dtype=dtype)
        outputs = {label: self.of(t.output_domain) for label, t in zip(labels(self.tasks), self.tasks)}
        for label, m in outputs.items():
            own = names.index(m.name) if m.name in names else None
            sizes = self.decoder, m.values, len(names), own, m.grid
            modules[f"out_{label}"] = TaskDecoder(*sizes, dtype, base, self.own_modality_only)
        return MultiMaeModel(self.maps, outputs, modules)

    def build(self) -> System:
        self.check()
        model = self.model()

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            learned = {"log_variance": jnp.zeros(len(self.tasks))} if self.uncertainty_weighting else {}
            return model.init(rng, batch) | learned, {}

        return System(init, stateless(partial(multimae_loss, self, model)), infer_functions(model))


def multimae_loss(
    config: Config, model: MultiMaeModel, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of all tasks' losses under a random mask, and each of them."""
    names, alphas = [m.name for m in config.maps], (config.alpha,) * len(config.maps)
    values = {m.name: m.standard(batch[m.name]) for m in (*config.maps, *config.targets)}
    present = batch["present"][:, : len(names)] > 0.5 if "present" in batch else None
    for_budget, for_mask = jax.random.split(rng)
    b = len(values[names[0]])
    share = budgets.dirichlet_budgets(for_budget, b, alphas, config.sample_tasks_uniformly, present)
    visible = budgets.random_masking(for_mask, share, config.sizes, config.num_encoded_tokens, present)
    encoded, _, _ = model.encode(params, {k: values[k] for k in names}, visible)
    observed = {k: jnp.asarray(batch[f"{k}_observed"]) for k in values if f"{k}_observed" in batch}
    predicted = model.decode(params, encoded, visible, values)
    found = task_losses(config, predicted, values, visible, present, observed)
    weights = jnp.asarray([t.weight for t in config.tasks], jnp.float32)
    each = uncertainty_weighting(jnp.stack([*found.values()]), params.get("log_variance"))
    return (weights * each).sum(), found


def uncertainty_weighting(losses: Float[Array, " T"], log_variance: Float[Array, " T"] | None) -> Float[Array, " T"]:
    """exp(-s) L + s for a learned log-variance s (Kendall, Gal and Cipolla 2018); 0 where a task has no target in the batch, so that L is 0."""
    if log_variance is None:
        return losses
    return jnp.where(losses != 0, jnp.exp(-log_variance) * losses + log_variance, 0)


def labels(tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """A name for each decoder: its map's, with the loss where another decoder of the map came before."""
    found: list[str] = []
    for t in tasks:
        found.append(t.output_domain if t.output_domain not in found else f"{t.output_domain}_{t.loss}")
    return tuple(found)


def task_losses(
    config: Config,
    predicted: Mapping[str, Array],
    values: Mapping[str, Array],
    visible: budgets.Visible,
    present: Bool[Array, "B T"] | None = None,
    observed: Mapping[str, Num[Array, "B H W"]] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Each decoder's loss over the masked patches of its map, or over all patches of a map that is no input."""
    names, n, found, observed = [m.name for m in config.maps], config.sizes[0], {}, observed or {}
    for label, t in zip(labels(config.tasks), config.tasks):
        m, out = config.of(t.output_domain), predicted[label]
        patches = patchify(values[m.name][..., None] if m.classes else values[m.name], m.patch)
        there = patchify(observed[m.name][..., None], m.patch) > 0.5 if m.name in observed else None
        if t.loss == "ce":
            patches = patches if there is None else jnp.where(there, patches, masked.IGNORE)
            logits = out.reshape(*patches.shape, m.classes)
            per_patch = masked.patch_cross_entropy(logits, patches, ignore=masked.IGNORE)
        else:
            patches = masked.normalise_patches(patches) if t.loss == "norm_mse" else patches
            every = None if there is None else jnp.repeat(there, m.channels, axis=-1)
            per_patch = (masked.patch_l1 if t.loss == "l1" else masked.patch_mse)(out, patches, every)
        target = jnp.ones(per_patch.shape, bool) if there is None else there.any(-1)
        if m.name in names:
            i = names.index(m.name)
            target = target & ~visible.mask[:, i * n : (i + 1) * n]
            target = target if present is None else target & present[:, i, None]
        found[label] = masked.over_targets(per_patch, target)
    return found

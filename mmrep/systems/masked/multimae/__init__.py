"""MultiMAE: one encoder over a few visible patches of several modalities, one decoder a task (Bachmann et al., ECCV 2022, arXiv 2204.01678)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses import masked
from mmrep.masking import budgets
from mmrep.masking.budgets import Visible
from mmrep.nn import maps as aligned
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import Map, map_autoencoder
from mmrep.nn.patches import patchify, unpatchify
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Task:
    """One decoder: which map it predicts, and by which loss over hidden patches. `weight` multiplies it in the sum."""

    map: str
    loss: Literal["mse", "norm_mse", "l1", "ce"] = "mse"
    weight: float = 1.0


@dataclass(frozen=True)
class Config:
    """maps: what goes in, in the order of the tokens.   tasks: the decoders; a map may have several (rgb: plain and per-patch normalised).

    targets: maps that are predicted but never go in.   visible: tokens that the encoder sees, out of all maps.
    alpha:   concentration of the Dirichlet over maps.   subsets: draw a subset of the maps first.
    position_base: longest wavelength of the fixed positions, in units of 2 pi patches: 10,000 as in the paper, less for small grids.
    blind:   decoders see their own modality's tokens alone, so that nothing is predicted across modalities (an ablation).
    balance: "weights" sums the losses by their weights; "uncertainty" by a learnt log-variance s each, exp(-s) L + s (Kendall et al. 2018).
    The batch may hold `present` [B, maps], 1 where an example has the map: an absent one is neither seen nor predicted; and of a map with
    holes <map>_observed [B, H, W], 1 where its pixel is a target: patches without any are not predicted.
    """

    maps: tuple[Map, ...] = ()
    tasks: tuple[Task, ...] = ()
    targets: tuple[Map, ...] = ()
    visible: int = 98
    alpha: float = 1.0
    subsets: bool = False
    encoder: TransformerConfig = TransformerConfig(width=768, depth=12, heads=12, epsilon=1e-6)
    decoder: TransformerConfig = TransformerConfig(width=256, depth=2, heads=8, epsilon=1e-6)
    global_tokens: int = 1
    blind: bool = False
    dtype: str = "float32"
    position_base: float = field(default=10_000.0, metadata={"since": 2})
    balance: Literal["weights", "uncertainty"] = field(default="weights", metadata={"since": 2})

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(m.grid[0] * m.grid[1] for m in self.maps)

    def of(self, name: str) -> Map:
        return next(m for m in (*self.maps, *self.targets) if m.name == name)

    def check(self) -> None:
        aligned.check(self.maps, self.targets)
        names = [m.name for m in (*self.maps, *self.targets)]
        if not self.tasks or len({(t.map, t.loss) for t in self.tasks}) < len(self.tasks):
            raise ConfigError(
                f"system.tasks is {labels(self.tasks)}: give at least one decoder, and a loss only once a map"
            )
        for t in self.tasks:
            if t.map not in names:
                raise ConfigError(f"system.tasks predicts {t.map!r}, which is no map; there are {', '.join(names)}")
            if (t.loss == "ce") != bool(self.of(t.map).classes):
                raise ConfigError(
                    f"task {t.map!r} has loss {t.loss!r}: class maps take 'ce', maps of numbers the others"
                )
            if self.blind and t.map not in [m.name for m in self.maps]:
                raise ConfigError(f"system.blind is on, and {t.map!r} never goes in: its decoder would see nothing")
        if self.balance not in ("weights", "uncertainty"):
            raise ConfigError(f"system.balance is {self.balance!r}: choose 'weights' or 'uncertainty'")
        budgets.check(self.sizes, self.visible, (self.alpha,) * len(self.maps))

    def build(self) -> System:
        self.check()
        names, alphas = [m.name for m in self.maps], (self.alpha,) * len(self.maps)
        outputs = {label: self.of(t.map) for label, t in zip(labels(self.tasks), self.tasks)}
        model = map_autoencoder(
            self.maps, outputs, self.encoder, self.decoder, global_tokens=self.global_tokens, blind=self.blind,
            dtype=self.dtype, position_base=self.position_base,
        )  # fmt: skip

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            learnt = {"log_variance": jnp.zeros(len(self.tasks))} if self.balance == "uncertainty" else {}
            return model.init(rng, batch) | learnt, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            values = {m.name: m.standard(batch[m.name]) for m in (*self.maps, *self.targets)}
            present = batch["present"][:, : len(names)] > 0.5 if "present" in batch else None
            for_share, for_choice = jax.random.split(rng)
            share = budgets.shares(for_share, len(values[names[0]]), alphas, self.subsets, present)
            seen = budgets.choose(for_choice, share, self.sizes, self.visible, present)
            encoded, _, _ = model.encode(params, {k: values[k] for k in names}, seen)
            observed = {k: jnp.asarray(batch[f"{k}_observed"]) for k in values if f"{k}_observed" in batch}
            predicted = model.decode(params, encoded, seen, values)
            found = task_losses(self, predicted, values, seen, present, observed)
            weights = jnp.asarray([t.weight for t in self.tasks], jnp.float32)
            each = uncertain(jnp.stack([*found.values()]), params.get("log_variance"))
            return (weights * each).sum(), found

        def given(params: Params, batch: Batch) -> tuple[Array, dict[str, Any], Visible, dict[str, Array]]:
            values = {m.name: m.standard(batch[m.name]) for m in self.maps if m.name in batch}
            return *model.encode(params, values, None), values

        def reconstruct(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
            """Every task's map from all patches of the maps that the batch holds: numbers as standardised, classes as logits."""
            encoded, _, seen, values = given(params, batch)
            found = model.decode(params, encoded, seen, values)
            return {k: unpatchify(v, outputs[k].patch, outputs[k].grid) for k, v in found.items()}

        def tokens(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B N D"]:
            """The encoder's tokens of the maps that the batch holds, map after map, then the global ones."""
            return given(params, batch)[0]

        def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            return tokens(params, extras, batch).mean(1)

        def layers(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
            return layer_features(given(params, batch)[1])

        infer = {"fused": fused, "fused_layers": layers, "tokens": tokens, "reconstruct": reconstruct}
        return System(init, stateless(loss), infer)


def uncertain(losses: Float[Array, " T"], log_variance: Float[Array, " T"] | None) -> Float[Array, " T"]:
    """Losses weighted by homoscedastic uncertainty (Kendall, Gal and Cipolla 2018); 0 where a loss is 0, as its task had no target."""
    if log_variance is None:
        return losses
    return jnp.where(losses != 0, jnp.exp(-log_variance) * losses + log_variance, 0)


def labels(tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """A name for each decoder: the map's, with the loss where it is not the map's first decoder."""
    found: list[str] = []
    for t in tasks:
        found.append(t.map if t.map not in found else f"{t.map}_{t.loss}")
    return tuple(found)


def task_losses(
    config: Config,
    predicted: Mapping[str, Array],
    values: Mapping[str, Array],
    seen: Visible,
    present: Array | None = None,
    observed: Mapping[str, Num[Array, "B H W"]] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Each decoder's loss over the hidden patches of its map; over all patches of a map that never goes in."""
    names, n, found, observed = [m.name for m in config.maps], config.sizes[0], {}, observed or {}
    for label, t in zip(labels(config.tasks), config.tasks):
        m, out = config.of(t.map), predicted[label]
        patches = patchify(values[m.name][..., None] if m.classes else values[m.name], m.patch)
        there = patchify(observed[m.name][..., None], m.patch) > 0.5 if m.name in observed else None
        if t.loss == "ce":
            patches = patches if there is None else jnp.where(there, patches, masked.IGNORE)
            per_patch = masked.patch_cross_entropy(
                out.reshape(*patches.shape, m.classes), patches, ignore=masked.IGNORE
            )
        else:
            patches = masked.normalise_patches(patches) if t.loss == "norm_mse" else patches
            every = None if there is None else jnp.repeat(there, m.channels, axis=-1)
            per_patch = (masked.patch_l1 if t.loss == "l1" else masked.patch_mse)(out, patches, every)
        hidden = jnp.ones(per_patch.shape, bool) if there is None else there.any(-1)
        if t.map in names:
            i = names.index(t.map)
            hidden = hidden & ~seen.mask[:, i * n : (i + 1) * n]
            hidden = hidden if present is None else hidden & present[:, i, None]
        found[label] = masked.over_targets(per_patch, hidden)
    return found

"""CROMA's features, of one sensor or of both."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.masking.budgets import all_visible
from mmrep.nn.patches import unpatchify
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Infer, Params
from mmrep.systems.masked.croma.model import SENSORS, CromaModel


def infer_functions(model: CromaModel) -> dict[str, Infer]:
    """Features of all patches of one sensor (its name) or of both ("fused"); a batch may have a key "rng" for stochastic depth.

    "<sensor>" is the vector that the contrastive loss compares, "<sensor>_features" the one before its projection. Where there is no fusion,
    fused tokens are those of both encoders side by side.
    """

    def encode(params: Params, batch: Batch, name: str, interpolate: bool = True) -> tuple[Array, dict[str, Array]]:
        trained = model.maps[name].grid if interpolate else None
        return model.encode(params, name, model.standardised(batch, name), None, trained, batch.get("rng"))

    def fuse(params: Params, batch: Batch, interpolate: bool = True) -> tuple[Array, dict[str, Array]]:
        optical, radar = (encode(params, batch, k, interpolate)[0] for k in SENSORS)
        if optical.shape != radar.shape:
            raise ConfigError(
                f"optical has {optical.shape[1]} patches and radar {radar.shape[1]}: give images of one extent"
            )
        if "fusion" not in model.modules:
            both = jnp.concatenate([radar, optical], axis=-1)
            return both, {"tokens": both}
        at, columns = (
            jnp.arange(radar.shape[1])[None],
            batch[model.maps["radar"].name].shape[2] // model.maps["radar"].patch,
        )
        return model.fuse(params, radar, optical, at, at, columns, drop=batch.get("rng"))

    def with_valid(tokens: Array) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
        return tokens, jnp.ones(tokens.shape[:2], bool)

    def reconstruct(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
        """Both maps from all patches of both sensors, in values of normalised patches."""
        fused = fuse(params, batch)[0]
        visible = all_visible(len(fused), [fused.shape[1]])
        patches = model.decode(params, fused, visible, model.maps["radar"].grid)
        return {m.name: unpatchify(patches[k], m.patch, m.grid) for k, m in model.maps.items()}

    def of(name: str) -> dict[str, Infer]:
        m = model.maps[name]

        def features(p: Params, e: Extras, batch: Batch) -> Float[Array, "B D"]:
            tokens = encode(p, batch, name)[0]
            return model.pool(p, name, tokens) if f"gap_{name}" in model.modules else tokens.mean(1)

        def embedding(p: Params, e: Extras, batch: Batch) -> Float[Array, "B D"]:
            pooled = features(p, e, batch)
            return model.project(p, name, pooled) if f"project_{name}" in model.modules else pooled

        return {
            m.name: embedding,
            f"{m.name}_features": features,
            f"{m.name}_tokens": lambda p, e, batch: with_valid(encode(p, batch, name)[0]),
            f"{m.name}_layers": lambda p, e, batch: layer_features(encode(p, batch, name)[1]),
        }

    fused: dict[str, Any] = {
        "fused": lambda p, e, batch: fuse(p, batch)[0].mean(1),
        "fused_tokens": lambda p, e, batch: with_valid(fuse(p, batch)[0]),
        "fused_tokens_extrapolated": lambda p, e, batch: with_valid(fuse(p, batch, False)[0]),
        "fused_layers": lambda p, e, batch: layer_features(fuse(p, batch)[1]),
    }
    return of("optical") | of("radar") | fused | ({"reconstruct": reconstruct} if "decoder" in model.modules else {})

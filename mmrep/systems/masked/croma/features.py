"""CROMA's features, of one sensor or of both."""

from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.masking.budgets import all_visible
from mmrep.nn.patches import unpatchify
from mmrep.nn.pooling import token_functions
from mmrep.system import Batch, Extras, Infer, Params
from mmrep.systems.masked.croma.model import SENSORS, CromaModel


def infer_functions(model: CromaModel) -> dict[str, Infer]:
    """Features of one sensor or of both ("fused"), of all patches; a batch may have a key "rng" for stochastic depth.

    "<sensor>" is the vector that the contrastive loss compares, "<sensor>_features" the one before its projection. Where there is no fusion,
    fused tokens are those of both encoders side by side. "fused_tokens_extrapolated": positions are not interpolated (sincos2d).
    """
    radar = model.maps["radar"]

    def encode(params: Params, batch: Batch, k: str, interpolate: bool = True) -> tuple[Array, dict[str, Array]]:
        trained = model.maps[k].grid if interpolate else None
        return model.apply(params, k, model.standardised(batch, k), None, trained, drop=batch.get("rng"))

    def fuse(params: Params, batch: Batch, interpolate: bool = True) -> tuple[Array, dict[str, Array]]:
        x, y = (encode(params, batch, k, interpolate)[0] for k in SENSORS)
        if x.shape != y.shape:
            raise ConfigError(f"optical has {x.shape[1]} patches and radar {y.shape[1]}: give images of one extent")
        if "fusion" not in model.modules:
            both = jnp.concatenate([y, x], axis=-1)
            return both, {"tokens": both}
        at, columns = jnp.arange(y.shape[1])[None], batch[radar.name].shape[2] // radar.patch
        return model.fuse(params, y, x, at, at, columns, batch.get("rng"))

    def pooled(params: Params, extras: Extras, batch: Batch, k: str) -> Float[Array, "B D"]:
        tokens = encode(params, batch, k)[0]
        return model.apply(params, f"gap_{k}", tokens) if f"gap_{k}" in model.modules else tokens.mean(1)

    def projected(params: Params, extras: Extras, batch: Batch, k: str) -> Float[Array, "B D"]:
        x = pooled(params, extras, batch, k)
        x = model.apply(params, f"project_{k}", x) if f"project_{k}" in model.modules else x
        return x.astype(jnp.float32)

    def reconstruct(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
        """Both maps from all patches of both sensors, in values of normalised patches."""
        fused = fuse(params, batch)[0]
        patches = model.decode(params, fused, all_visible(len(fused), [fused.shape[1]]), radar.grid)
        return {m.name: unpatchify(patches[k], m.patch, m.grid) for k, m in model.maps.items()}

    found = token_functions("fused", fuse)
    found["fused_tokens_extrapolated"] = token_functions("", partial(fuse, interpolate=False))["_tokens"]
    for k, m in model.maps.items():
        found |= token_functions(m.name, partial(encode, k=k))
        found |= {m.name: partial(projected, k=k), f"{m.name}_features": partial(pooled, k=k)}
    return found | ({"reconstruct": reconstruct} if "decoder" in model.modules else {})

"""MultiMAE's features, of any of its maps, and its reconstructions."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.masking.budgets import Visible
from mmrep.nn.patches import unpatchify
from mmrep.nn.pooling import layer_features, layer_tokens
from mmrep.system import Batch, Extras, Infer, Params
from mmrep.systems.masked.multimae.model import MultiMaeModel


def infer_functions(model: MultiMaeModel) -> dict[str, Infer]:
    """The encoder on all patches: of the maps that the batch has ("fused"), or of one of them (its name). Global tokens stand behind.

    A batch may have a key "rng" for stochastic depth.
    """

    def encoded(
        params: Params, batch: Batch, only: str = ""
    ) -> tuple[Array, dict[str, Any], Visible, dict[str, Array]]:
        here = [m for m in model.maps if m.name in batch and only in ("", m.name)]
        if only and not here:
            raise ConfigError(f"the batch has no {only!r}: give it, or ask for another map")
        values = {m.name: m.standard(batch[m.name]) for m in here}
        return *model.encode(params, values, None, batch.get("rng")), values

    def reconstruct(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
        """Every task's map from all patches of the maps in the batch: standardised numbers, or logits of classes."""
        tokens, _, visible, values = encoded(params, batch)
        patches = model.decode(params, tokens, visible, values)
        return {k: unpatchify(v, (m := model.outputs[k]).patch, m.grid) for k, v in patches.items()}

    def of(only: str) -> dict[str, Infer]:
        def embedding(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            return encoded(params, batch, only)[0].mean(1)

        def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
            x = encoded(params, batch, only)[0]
            return x, jnp.ones(x.shape[:2], bool)

        def layers(params: Params, extras: Extras, batch: Batch) -> dict[str, Float[Array, "B D"]]:
            return layer_features(encoded(params, batch, only)[1])

        name = only or "fused"
        return {name: embedding, f"{name}_tokens": tokens, f"{name}_layers": layers}

    def token_layers(params: Params, extras: Extras, batch: Batch) -> dict[str, Float[Array, "B N D"]]:
        return layer_tokens(encoded(params, batch)[1])

    one = {k: f for m in model.maps for k, f in of(m.name).items()}
    return one | of("") | {"fused_token_layers": token_layers, "reconstruct": reconstruct}

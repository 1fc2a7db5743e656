"""MultiMAE's features, of any of its maps, and its reconstructions."""

from functools import partial

from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.nn.patches import unpatchify
from mmrep.nn.pooling import layer_tokens, token_functions
from mmrep.system import Batch, Extras, Infer, Params
from mmrep.systems.masked.multimae.model import MultiMaeModel


def infer_functions(model: MultiMaeModel) -> dict[str, Infer]:
    """The encoder on all patches: of the maps that the batch has ("fused"), or of one of them (its name), with the global tokens behind.

    A batch may have a key "rng" for stochastic depth.
    """

    def standardised(batch: Batch, only: str = "") -> dict[str, Array]:
        values = {m.name: m.standard(batch[m.name]) for m in model.maps if m.name in batch and only in ("", m.name)}
        if only and not values:
            raise ConfigError(f"the batch has no {only!r}: give it, or ask for another map")
        return values

    def encode(params: Params, batch: Batch, only: str = "") -> tuple[Array, dict[str, Array]]:
        return model.encode(params, standardised(batch, only), None, batch.get("rng"))[:2]

    def token_layers(params: Params, extras: Extras, batch: Batch) -> dict[str, Float[Array, "B N D"]]:
        return layer_tokens(encode(params, batch)[1])

    def reconstruct(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
        """Every task's map from all patches of the maps in the batch: standardised numbers, or logits of classes."""
        values = standardised(batch)
        tokens, _, visible = model.encode(params, values, None)
        patches = model.decode(params, tokens, visible, values)
        return {k: unpatchify(v, (m := model.outputs[k]).patch, m.grid) for k, v in patches.items()}

    found = token_functions("fused", encode) | {"fused_token_layers": token_layers, "reconstruct": reconstruct}
    for m in model.maps:
        found |= token_functions(m.name, partial(encode, only=m.name))
    return found

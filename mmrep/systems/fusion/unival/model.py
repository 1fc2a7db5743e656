"""UnIVAL's encoder over the tokens of one modality and a prompt."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder, inputs
from mmrep.nn.norms import norm_layer
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Transformer
from mmrep.system import Batch
from mmrep.systems.fusion.unival.data import MODALITIES


class Joint(nn.Module):
    """Tokens of the modality that a row shows, and of its prompt, all visible to each other: (states [N, M, D], which are real).

    encoders: (modality, its encoder).   A row of a modality that it does not show is padding.   There may be several prompts a row.
    """

    config: TransformerConfig
    encoders: tuple[tuple[str, Encoder], ...]
    prompt: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, batch: Batch, words: Float[Array, "N P D"], valid: Bool[Array, "N P"], used: tuple[str, ...]
    ) -> tuple[Float[Array, "N M D"], Bool[Array, "N M"]]:
        c, copies = self.config, len(words) // len(batch["shown"])
        init = nn.initializers.normal(0.02)

        def ready(x: Array, name: str, length: int) -> Array:
            kind = self.param(f"{name}_type", init, (c.width,))
            x = LearnedPositions(length, dtype=self.dtype, name=f"{name}_positions")(x + kind.astype(self.dtype))
            return norm_layer(c, self.dtype, f"{name}_norm")(x)

        parts, real = [ready(jnp.asarray(words, self.dtype), "prompt", self.prompt)], [valid]
        for name, encoder in self.encoders:
            if name not in used:
                continue
            _, out = encoder.module(self.dtype, name)(*inputs(batch, name))
            x = next(out[k] for k in ("frames", "patches", "tokens") if k in out)
            x = nn.Dense(c.width, dtype=self.dtype, name=f"{name}_map")(x)
            x = ready(x, name, x.shape[1])
            there = out["valid"] if "valid" in out else jnp.ones(x.shape[:2], bool)
            shown = jnp.asarray(batch["shown"]) == MODALITIES.index(name)
            parts.append(jnp.tile(x, (copies, 1, 1)))
            real.append(jnp.tile(there & shown[:, None], (copies, 1)))
        seen = jnp.concatenate(real, axis=1)
        y, _ = Transformer(c, dtype=self.dtype, name="transformer")(jnp.concatenate(parts, axis=1), padding_mask(seen))
        return y, seen

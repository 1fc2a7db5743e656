"""Normalisation of tokens."""

from typing import Any

from flax import linen as nn

from mmrep.nn.config import TransformerConfig


def layer_norm(dtype: Any, name: str, epsilon: float = 1e-5, use_bias: bool = True) -> nn.LayerNorm:
    """LayerNorm (Ba et al. 2016) with statistics in float32; inputs and outputs have `dtype`."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_bias=use_bias, name=name)


def norm_layer(config: TransformerConfig, dtype: Any, name: str, use_bias: bool = True) -> nn.Module:
    """The normalisation of a transformer of this config: LayerNorm, or RMSNorm (Zhang and Sennrich 2019), which has no bias."""
    if config.norm_type == "rms":
        return nn.RMSNorm(epsilon=config.epsilon, dtype=dtype, name=name)
    return layer_norm(dtype, name, config.epsilon, use_bias and config.bias)

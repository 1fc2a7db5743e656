"""Weights of several models as one: model soups and interpolations (Wortsman et al. 2022; UnIVAL, Shukor et al. 2023, section 5)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrep.config import flatten
from mmrep.errors import ConfigError


def mix(trees: Sequence[Any], weights: Sequence[float]) -> Any:
    """sum_i weights_i * trees_i of parameter trees, in float32, each array in its own dtype; a tied array is in the tree once.

    Raises ConfigError for numbers of trees and weights that differ, and where the trees differ in names, shapes or dtypes.
    """
    if not trees or len(trees) != len(weights):
        raise ConfigError(f"mix has {len(trees)} trees and {len(weights)} weights: give one weight for each tree")
    shapes = [{k: (np.shape(x), jnp.asarray(x).dtype) for k, x in flatten(tree).items()} for tree in trees]
    for i, own in enumerate(shapes[1:], 1):
        if differ := sorted(k for k in {*own, *shapes[0]} if own.get(k) != shapes[0].get(k)):
            raise ConfigError(
                f"mix: tree {i} differs from the first in {differ[0]!r}: only models of one config can be mixed"
            )

    def one(*leaves: Any) -> jax.Array:
        total = sum(w * jnp.asarray(x).astype(jnp.float32) for w, x in zip(weights, leaves))
        return jnp.asarray(total).astype(jnp.asarray(leaves[0]).dtype)

    return jax.tree.map(one, *trees)

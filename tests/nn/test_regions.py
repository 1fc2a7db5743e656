"""Sets of vectors."""

import jax
import numpy as np

from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.regions import RegionTower

SMALL = TransformerConfig(width=16, depth=1, heads=2)


def test_the_order_of_regions_does_not_matter():
    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    order = [3, 1, 4, 0, 2]
    for blocks in (True, False):
        module = RegionTower(SMALL, blocks).module(np.float32)
        params = module.init(jax.random.key(0), x)
        pooled, out = module.apply(params, x)
        again, permuted = module.apply(params, x[:, order])
        assert pooled.shape == (3, 16) and out["tokens"].shape == (3, 5, 16)
        np.testing.assert_allclose(again, pooled, atol=1e-5)
        np.testing.assert_allclose(permuted["tokens"], out["tokens"][:, order], atol=1e-5)
        other = np.array(x)
        other[:, 0] += 1
        moved = np.abs(module.apply(params, other)[1]["tokens"][:, 1:] - out["tokens"][:, 1:]).max()
        assert (moved > 1e-4) == blocks

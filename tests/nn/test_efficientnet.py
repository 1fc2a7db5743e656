import jax
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.encoders.efficientnet import Depthwise, EfficientNetLite


@pytest.mark.parametrize("size, stride, side", [(3, 1, 8), (3, 2, 8), (5, 2, 9), (5, 1, 7)])
def test_shifted_products_equal_the_grouped_convolution(size, stride, side):
    x = jax.random.normal(jax.random.key(0), (2, side, side + 1, 6))
    modules = [Depthwise(size, stride, shifted=shifted) for shifted in (True, False)]
    params = modules[0].init(jax.random.key(1), x)
    found = [module.apply(params, x) for module in modules]
    assert found[0].shape == (2, -(-side // stride), -(-(side + 1) // stride), 6)
    np.testing.assert_allclose(*found, atol=1e-5)


def test_a_small_network_has_a_map_for_each_block():
    config = EfficientNetLite(((1, 3, 1, 1, 4), (2, 5, 2, 2, 6)), stem=4, width=8)
    module = config.module(np.float32)
    x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    (pooled, out), _ = module.init_with_output(jax.random.key(1), x)
    assert pooled.shape == (2, 8) and out["tokens"].shape == (2, 16, 8) and out["stage02"].shape == (2, 4, 4, 6)
    with pytest.raises(ConfigError, match="stages is empty"):
        EfficientNetLite(())

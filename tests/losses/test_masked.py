import jax.numpy as jnp
import numpy as np

from mmrep.losses.masked import token_loss


def test_token_loss_with_smoothing_weights_and_padding():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 5)).astype(np.float32), np.array([[1, 4, 0], [2, 0, 99]], np.int32)
    valid = np.array([[True, True, False], [True, True, False]])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, np.where(valid, labels, 0)[..., None], -1)[..., 0]
    given = jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(valid)
    np.testing.assert_allclose(token_loss(*given), np.where(valid, -chosen, 0), rtol=1e-5)
    smooth = np.where(valid, -(0.8 * chosen + 0.2 * log_p.mean(-1)), 0)
    np.testing.assert_allclose(token_loss(*given, 0.2), smooth, rtol=1e-5)
    weights = jnp.array([[0.5], [2.0]])
    np.testing.assert_allclose(token_loss(*given, 0.2, weights), smooth * weights, rtol=1e-5)

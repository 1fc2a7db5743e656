"""Diffusion against apple/ml-4m at cda590f (fourm/vq/scheduling: DDIMScheduler, 100 linear betas, "sample" prediction, 5 trailing steps) and by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.systems.tokenizers.vqvae import diffusion
from mmrep.systems.tokenizers.vqvae.diffusion import Denoiser

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "tokenisers.npz")


@pytest.mark.parametrize("zero_end", [True, False])
def test_ddim_is_the_authors(zero_end):
    signal = diffusion.alphas_cumprod(100, zero_end=zero_end)
    case = f"ddim{int(zero_end)}"
    np.testing.assert_allclose(signal, GOLDEN[f"{case}/signal"], rtol=2e-4, atol=1e-6)
    np.testing.assert_array_equal(diffusion.sampling_times(100, 5)[:-1], GOLDEN[f"{case}/times"])

    def sample(noise):
        return diffusion.ddim(lambda x, t: 1.2 * jnp.tanh(x + 0.02 * t[:, None]), noise, signal, 5, (-1.0, 1.0))

    np.testing.assert_allclose(jax.jit(sample)(jnp.asarray(GOLDEN[f"{case}/x"])), GOLDEN[f"{case}/y"], atol=2e-4)


def test_a_perfect_denoiser_returns_the_map_in_any_number_of_steps():
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    noise = jax.random.normal(jax.random.key(1), x.shape)
    signal = diffusion.alphas_cumprod(50)
    for steps in (1, 7, 50):
        np.testing.assert_allclose(diffusion.ddim(lambda y, t: x, noise, signal, steps), x, atol=1e-5)
    assert diffusion.sampling_times(50, 7)[0] == 49 and diffusion.sampling_times(50, 7)[-1] == -1


def test_noised_maps_keep_their_variance_and_end_as_noise():
    signal = diffusion.alphas_cumprod(1000)
    assert signal[0] > 0.999 and signal[-1] == 0 and (np.diff(signal) < 0).all()
    # Betas of 1e-4 .. 0.02: without the shift 4e-5 of the signal is left.
    np.testing.assert_allclose(diffusion.alphas_cumprod(1000, zero_end=False)[-1], 4.04e-5, rtol=0.01)
    x, noise = jax.random.normal(jax.random.key(0), (2, 3, 4000))[0], jax.random.normal(jax.random.key(1), (3, 4000))
    found = diffusion.add_noise(x, noise, jnp.asarray([0, 500, 999]), signal)
    np.testing.assert_allclose(found.var(1), 1, atol=0.06)
    np.testing.assert_allclose(found[2], noise[2], atol=1e-6)
    np.testing.assert_allclose(found[0], x[0], atol=0.06)


def test_latents_are_resized_to_the_nearest():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(
        diffusion.resize_nearest(x, 4, 3)[0, :, :, 0], [[0, 0, 1], [0, 0, 1], [2, 2, 3], [2, 2, 3]]
    )


def test_the_denoiser_depends_on_time_latents_and_noise_of_its_row_alone():
    net = Denoiser(3, 2, (8, 16), 1, attend=1)
    z, x, t = jnp.ones((2, 2, 2, 4)), jnp.ones((2, 8, 8, 3)), jnp.asarray([3, 7])
    params = jax.jit(net.init)(jax.random.key(0), z, x, t)
    run = jax.jit(net.apply)
    y = run(params, z, x, t)
    assert y.shape == x.shape and y.dtype == jnp.float32
    moved = {
        "z": run(params, z.at[0].mul(2), x, t),
        "x": run(params, z, x.at[0].mul(2), t),
        "t": run(params, z, x, t.at[0].set(9)),
    }
    for name, other in moved.items():
        assert np.abs(other[0] - y[0]).max() > 1e-3, name
        np.testing.assert_allclose(other[1], y[1], atol=1e-5, err_msg=name)
    g = jax.jit(jax.grad(lambda p: (net.apply(p, z, x, t) ** 2).sum()))(params)
    still = [jax.tree_util.keystr(k) for k, v in jax.tree_util.tree_leaves_with_path(g) if not np.abs(v).max() > 0]
    assert not still


def test_impossible_settings_are_refused():
    for make, says in (
        (lambda: diffusion.alphas_cumprod(1), "steps"),
        (lambda: diffusion.alphas_cumprod(9, 0.5, 0.1), "first <= last"),
        (lambda: diffusion.sampling_times(10, 11), "1 to 10"),
        (lambda: Denoiser(3, 2, (8, 8, 8), 1).init(jax.random.key(0), jnp.ones((1, 2, 2, 4)), jnp.ones((1, 4, 4, 3)), jnp.zeros(1, int)), "halved"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            make()

"""The cosine codebook against apple/ml-4m at cda590f (VectorQuantize in training, three batches)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.systems.tokenizers.vqvae import codebook

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "fourm.npz")


def test_cosine_codebook_trains_as_the_authors():
    state = {"codes": jnp.asarray(GOLDEN["vq/codes0"]), "usage": jnp.zeros(6)}
    for step in range(3):
        x = jnp.asarray(GOLDEN[f"vq/x{step}"])

        def loss(x, state=state):
            found = codebook.quantise(state, x)
            return found.commitment + (found.codes * jnp.arange(9.0).reshape(3, 3, 1)).sum(), found

        g, found = jax.grad(loss, has_aux=True)(x)
        np.testing.assert_array_equal(found.ids, GOLDEN[f"vq/ids{step}"])
        np.testing.assert_allclose(found.codes, GOLDEN[f"vq/y{step}"], atol=1e-6)
        np.testing.assert_allclose(found.commitment, GOLDEN[f"vq/l{step}"][0], rtol=1e-6)
        np.testing.assert_allclose(g, GOLDEN[f"vq/g{step}"], atol=1e-5)
        state = jax.jit(lambda *a: codebook.update_codebook(*a, decay=0.9))(state, x, found.ids, jax.random.key(0))
        np.testing.assert_allclose(state["codes"], GOLDEN[f"vq/codes{step + 1}"], atol=1e-6)
        np.testing.assert_allclose(state["usage"], GOLDEN[f"vq/usage{step + 1}"], rtol=1e-6)
    found = codebook.quantise(state, jnp.asarray(GOLDEN["vq/xn"]), normalise=True)
    np.testing.assert_allclose(found.codes, GOLDEN["vq/yn"], atol=1e-6)
    np.testing.assert_allclose(found.commitment, GOLDEN["vq/ln"][0], rtol=1e-5)


def test_dead_codes_are_reset_to_latents_of_the_batch():
    z = jax.random.normal(jax.random.key(0), (40, 4))
    state = codebook.codebook(jax.random.key(1), 8, 4)
    usage = jnp.asarray([9.0, 9, 9, 9, 0, 0, 0, 0])
    ids = jnp.zeros(40, jnp.int32)
    after = codebook.update_codebook({"codes": state["codes"], "usage": usage}, z, ids, jax.random.key(2), dead=1.0)
    cosines = np.asarray(after["codes"] @ codebook.unit(z).T)
    assert (cosines[4:].max(1) > 1 - 1e-5).all() and len(set(cosines[4:].argmax(1).tolist())) == 4
    np.testing.assert_allclose(after["codes"][1:4], state["codes"][1:4], atol=1e-6)
    same = codebook.update_codebook({"codes": state["codes"], "usage": usage}, z, ids, jax.random.key(2))
    np.testing.assert_allclose(same["codes"][4:], state["codes"][4:], atol=1e-6)
    assert codebook.dead_below(3200, 100) == 1.0


def test_utility_resets_codes_that_are_nearly_another_one_to_latents_that_no_code_is_near():
    # Two codes share 60 latents beside one another, one has 4 latents of its own, and 2 latents are far from every code.
    axes, beside = jnp.eye(8), jnp.array([1.0, 0.01, 0, 0, 0, 0, 0, 0])
    z = jnp.concatenate(
        [jnp.tile(axes[:1], (30, 1)), jnp.tile(beside, (30, 1)), jnp.tile(axes[2:3], (4, 1)), axes[4:6]]
    )
    state = {"codes": codebook.unit(jnp.stack([axes[0], beside, axes[2], axes[3]])), "usage": jnp.zeros(4)}
    ids = codebook.quantise(state, z).ids
    after = codebook.update_by_utility(state, z, ids, jax.random.key(0), decay=0.9, dead=8.0)
    codes = np.asarray(after["codes"])
    # Codes 0, 1 (nearly the same) and 3 (never chosen) move to the far latents first; code 2 is kept.
    np.testing.assert_allclose(codes[2], axes[2], atol=1e-6)
    assert {tuple(row) for row in codes[[0, 1]].round(3)} == {tuple(axes[4].tolist()), tuple(axes[5].tolist())}
    assert (np.asarray(after["usage"]) > 0).all()
    counted = codebook.update_codebook(state, z, ids, jax.random.key(0), decay=0.9, dead=0.1)["codes"]
    np.testing.assert_allclose(counted[:2], state["codes"][:2], atol=5e-3)


def test_of_equal_codes_the_first_is_chosen_whatever_the_rounding():
    code = codebook.unit(jnp.array([0.3, -0.2, 0.9]))
    state = {"codes": jnp.stack([-code, code * (1 - 1e-7), code, code * (1 + 1e-7)]), "usage": jnp.zeros(4)}
    z = jax.random.uniform(jax.random.key(0), (50, 1), minval=0.1, maxval=9.0) * code
    assert (np.asarray(codebook.quantise(state, z).ids) == 1).all()


def test_unit_of_zero_is_zero_with_a_finite_gradient():
    assert np.isfinite(jax.grad(lambda x: codebook.unit(x).sum())(jnp.zeros((2, 3)))).all()
    np.testing.assert_array_equal(codebook.unit(jnp.zeros((1, 3))), 0)


def test_a_codebook_of_one_code_is_refused():
    with pytest.raises(ConfigError, match="codebook"):
        codebook.codebook(jax.random.key(0), 1, 4)

"""Quantisers against hand checks, and the cosine codebook against apple/ml-4m at cda590f (VectorQuantize in training, three batches)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn import quantise as q

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fourm.npz")
PRODUCT = np.load(Path(__file__).parents[1] / "golden" / "tokenisers.npz")


def test_fsq_reaches_every_id_and_gives_its_code():
    levels = (4, 3, 5)
    grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(-4, 4, 33)] * 3, indexing="ij"), -1).reshape(-1, 3)
    codes, ids = jax.jit(lambda z: q.fsq(z, levels))(grid)
    assert set(np.asarray(ids).tolist()) == set(range(60))
    np.testing.assert_allclose(codes, q.fsq_codes(ids, levels), atol=1e-6)
    assert np.abs(codes).max() == 1.0


def test_fsq_by_hand():
    codes, ids = q.fsq(jnp.asarray([[0.0, 0.0], [9.0, 9.0], [-9.0, -9.0]]), (3, 4))
    np.testing.assert_allclose(codes, [[0, 0], [1, 0.5], [-1, -1]], atol=1e-6)
    np.testing.assert_array_equal(ids, [1 + 3 * 2, 2 + 3 * 3, 0])
    slope = jax.grad(lambda z: q.fsq(z, (3, 4))[0].sum())(jnp.zeros((1, 2)))
    # d tanh(z + s) half: half (1 - tanh(s)^2), divided by levels // 2.
    half = np.array([2, 3]) * 0.999 / 2
    np.testing.assert_allclose(slope[0], half * (1 - (np.array([0, 0.5]) / half) ** 2) / [1, 2], rtol=1e-5)


def test_patch_ids_and_values_are_inverse_on_levels():
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, 24, (2, 3, 3)), jnp.int32)
    picture = jnp.repeat(jnp.repeat(q.patch_values(ids, (2, 3, 4)), 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(q.patch_ids(picture, (3, 3), (2, 3, 4)), ids)
    x = jnp.asarray([[[0.0, 0.2, 1.0, 1.0], [0.4, 0.6, 1.0, 0.8]]])[..., None]  # patch means 0.3 and 0.95
    np.testing.assert_array_equal(q.patch_ids(x, (1, 2), (11,))[0, 0], [3, 10])


def test_majority_of_a_patch():
    x = jnp.asarray([[[0, 1, 2, 2], [1, 1, 2, 0]]])
    np.testing.assert_array_equal(q.patch_majority(x, (1, 2), 3), [[[1, 2]]])
    np.testing.assert_array_equal(q.patch_majority(jnp.asarray([[[3, 3, 1, 1]]]), (1, 1), 4), [[[1]]])
    # Against counting, with ids from outside, which have no vote.
    x = np.random.default_rng(0).integers(-1, 7, (3, 6, 8))
    cells = x.reshape(3, 2, 3, 2, 4).swapaxes(2, 3).reshape(3, 2, 2, 12)
    counted = (cells[..., None] == np.arange(5)).sum(3).argmax(-1)
    np.testing.assert_array_equal(q.patch_majority(jnp.asarray(x), (2, 2), 5), counted)
    np.testing.assert_array_equal(q.patch_majority(jnp.full((1, 2, 2), -1), (1, 1), 5), [[[0]]])


def test_cosine_codebook_trains_as_the_authors():
    state = {"codes": jnp.asarray(GOLDEN["vq/codes0"]), "usage": jnp.zeros(6)}
    for step in range(3):
        x = jnp.asarray(GOLDEN[f"vq/x{step}"])

        def loss(x, state=state):
            found = q.quantise(state, x)
            return found.commitment + (found.codes * jnp.arange(9.0).reshape(3, 3, 1)).sum(), found

        g, found = jax.grad(loss, has_aux=True)(x)
        np.testing.assert_array_equal(found.ids, GOLDEN[f"vq/ids{step}"])
        np.testing.assert_allclose(found.codes, GOLDEN[f"vq/y{step}"], atol=1e-6)
        np.testing.assert_allclose(found.commitment, GOLDEN[f"vq/l{step}"][0], rtol=1e-6)
        np.testing.assert_allclose(g, GOLDEN[f"vq/g{step}"], atol=1e-5)
        state = jax.jit(lambda *a: q.update_codebook(*a, decay=0.9))(state, x, found.ids, jax.random.key(0))
        np.testing.assert_allclose(state["codes"], GOLDEN[f"vq/codes{step + 1}"], atol=1e-6)
        np.testing.assert_allclose(state["usage"], GOLDEN[f"vq/usage{step + 1}"], rtol=1e-6)
    found = q.quantise(state, jnp.asarray(GOLDEN["vq/xn"]), normalise=True)
    np.testing.assert_allclose(found.codes, GOLDEN["vq/yn"], atol=1e-6)
    np.testing.assert_allclose(found.commitment, GOLDEN["vq/ln"][0], rtol=1e-5)


def test_dead_codes_restart_at_latents_of_the_batch():
    z = jax.random.normal(jax.random.key(0), (40, 4))
    state = q.codebook(jax.random.key(1), 8, 4)
    usage = jnp.asarray([9.0, 9, 9, 9, 0, 0, 0, 0])
    ids = jnp.zeros(40, jnp.int32)
    after = q.update_codebook({"codes": state["codes"], "usage": usage}, z, ids, jax.random.key(2), dead=1.0)
    cosines = np.asarray(after["codes"] @ q.unit(z).T)
    assert (cosines[4:].max(1) > 1 - 1e-5).all() and len(set(cosines[4:].argmax(1).tolist())) == 4
    np.testing.assert_allclose(after["codes"][1:4], state["codes"][1:4], atol=1e-6)
    same = q.update_codebook({"codes": state["codes"], "usage": usage}, z, ids, jax.random.key(2))
    np.testing.assert_allclose(same["codes"][4:], state["codes"][4:], atol=1e-6)
    assert q.dead_below(3200, 100) == 1.0


def test_unit_of_zero_is_zero_with_a_finite_gradient():
    assert np.isfinite(jax.grad(lambda x: q.unit(x).sum())(jnp.zeros((2, 3)))).all()
    np.testing.assert_array_equal(q.unit(jnp.zeros((1, 3))), 0)


@pytest.mark.parametrize("heads", [1, 4])
def test_product_quantiser_is_the_authors(heads):
    """Memcodes(dim=12, codebook_size=7) of apple/ml-4m at cda590f, in evaluation, and in training with the Gumbel noise given."""
    theirs = {k.split("/")[1]: PRODUCT[k] for k in PRODUCT.files if k.startswith(f"mem{heads}/")}
    params = {k: jnp.asarray(theirs[k]) for k in ("codes", "key", "value")}
    x = jnp.asarray(theirs["x"])
    y, ids = jax.jit(q.product_quantise)(params, x)
    np.testing.assert_array_equal(np.moveaxis(ids, -1, 1), theirs["ids"])
    np.testing.assert_allclose(y, theirs["y"], atol=1e-5)
    np.testing.assert_allclose(q.product_values(params, ids), theirs["y"], atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(q.jax.random, "gumbel", lambda key, shape: jnp.asarray(theirs["noise"]).reshape(shape))

        def drawn(params, x):
            y, _ = q.product_quantise(params, x, jax.random.key(0))
            return (y * jnp.arange(12.0)).sum(), y

        (g, gx), y = jax.grad(drawn, argnums=(0, 1), has_aux=True)(params, x)
    np.testing.assert_allclose(y, theirs["train_y"], atol=1e-5)
    np.testing.assert_allclose(gx, theirs["gx"], atol=1e-4)
    for name in params:
        np.testing.assert_allclose(g[name], theirs[f"g{name}"], rtol=1e-4, atol=1e-4, err_msg=name)


def test_product_codebook_draws_in_training_and_reaches_all_by_gradient():
    params = q.product_codebook(jax.random.key(0), 2, 5, 8)
    assert {k: v.shape for k, v in params.items()} == {"codes": (2, 5, 4), "key": (2, 4, 4), "value": (2, 4, 4)}
    x = jnp.zeros((400, 8))  # all codes alike likely
    ids = q.product_quantise(params, x, jax.random.key(1))[1]
    counts = np.stack([np.bincount(column, minlength=5) for column in np.asarray(ids).T])
    assert counts.min() > 50 and counts.max() < 115
    assert (np.asarray(q.product_quantise(params, x)[1]) == 0).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: q.fsq(jnp.zeros((1, 2)), (3, 1)), "levels"), (lambda: q.fsq_codes(jnp.zeros(1, int), ()), "levels"),
        (lambda: q.patch_ids(jnp.zeros((1, 4, 4, 3)), (2, 2), (4,)), "channels"),
        (lambda: q.patch_ids(jnp.zeros((1, 4, 4, 1)), (3, 3), (4,)), "grid"),
        (lambda: q.codebook(jax.random.key(0), 1, 4), "codebook"),
        (lambda: q.product_codebook(jax.random.key(0), 3, 4, 8), "heads must divide"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()

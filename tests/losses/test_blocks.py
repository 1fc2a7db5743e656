"""Every contrastive loss in blocks and on a ring equals the plain one, in memory linear in the batch."""

import re
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mmrep.errors import ConfigError
from mmrep.losses import blocks as engine
from mmrep.losses.blocks import Blocks
from mmrep.losses.contrastive import pairwise_info_nce, sigmoid_pairs, symmetric_info_nce
from mmrep.systems.continual.modx.model import modx_loss
from mmrep.systems.contrastive.align import align_loss
from mmrep.systems.contrastive.cwcl.model import cwcl_loss
from mmrep.systems.contrastive.filip.model import filip_loss, select_tokens_locally
from mmrep.systems.contrastive.symile.model import sum_loss, symile_loss
from mmrep.systems.fusion.albef.losses import itc_loss

B = 12
CHUNKED, RING = Blocks(5), Blocks(2, "data")  # 5 does not divide 12, and 2 does not divide the 3 rows of a device


@cache
def four() -> jax.sharding.Mesh:
    return jax.make_mesh((4, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


X, Y, Z, U = (unit(i, B, 16) for i in range(4))
Y = unit(0, B, 16) * 0.3 + Y * 0.9
IDS = jnp.arange(B) // 3 % 3
SCALE, BIAS = jnp.float32(14.3), jnp.float32(-5.0)
TX, TY = unit(5, B, 3, 8), unit(6, B, 4, 8)
VX = jnp.ones((B, 3), bool).at[1, 2].set(False)
VY = (jnp.arange(4) < (1 + jnp.arange(B) % 4)[:, None]).at[7].set(False)  # one text without a token


KNOWN = jnp.ones(B, bool).at[4].set(False)
QUEUE = {"image": unit(7, 8, 16), "text": unit(8, 8, 16), "id": jnp.arange(8) % 4}


def filip(x, y, scale, b):
    loss, own = filip_loss((x, VX), (y, VY), scale, blocks=b)
    return loss + own


def filip_selected(x, y, scale, b):
    keys = select_tokens_locally((x, VX), (y, VY), 0.5, 3, b)
    loss, own = filip_loss((x, VX), (y, VY), scale, keys, blocks=b)
    return loss + own


def cwcl(geometry=True, kernel=None):
    def loss(p, q, scale, b):
        around = (jnp.roll(Z, 1, 0), Z) if geometry else None
        return cwcl_loss(p, q, scale, around, kernel, KNOWN, b)

    return loss


def itc(ids=None, queue=None, alpha=0.4):
    return lambda f, g, s, b: itc_loss((f, g), (Z, U), s, jnp.float32(alpha), ids, queue, b)


def modx(screen):
    def loss(x, y, temperature, b):
        # The teacher is right on some rows only.
        old = 0.5 * X + Z, 0.5 * X + U
        values, right = modx_loss(old, (x * temperature, y), 0.5, screen, b)
        return values + right

    return loss


def squared(*args):
    *embeddings, scale, b = args
    return symile_loss(embeddings, scale, negatives="n_squared", blocks=b)


CASES = {
    "clip": (lambda x, y, s, b: symmetric_info_nce(x, y, s, blocks=b), (X, Y, SCALE)),
    "clip ignored": (lambda x, y, s, b: symmetric_info_nce(x, y, s, IDS, 0.1, blocks=b), (X, Y, SCALE)),
    "clip multi": (lambda x, y, s, b: symmetric_info_nce(x, y, s, IDS, 0.1, True, blocks=b), (X, Y, SCALE)),
    "align": (lambda x, y, s, b: align_loss(x, y, s, 0.1, b), (X, Y, SCALE)),
    "pairwise": (lambda x, y, z, s, b: pairwise_info_nce([x, y, z], s, ((0, 1), (0, 2)), 0.1, b), (X, Y, Z, SCALE)),
    "siglip": (lambda x, y, s, t, b: sigmoid_pairs(x, y, s, t, blocks=b), (X, Y, SCALE, BIAS)),
    "siglip ignored": (lambda x, y, s, t, b: sigmoid_pairs(x, y, s, t, IDS, blocks=b), (X, Y, SCALE, BIAS)),
    "siglip multi": (lambda x, y, s, t, b: sigmoid_pairs(x, y, s, t, IDS, True, b), (X, Y, SCALE, BIAS)),
    "symile": (lambda x, y, z, s, b: symile_loss([x, y, z], s, jax.random.key(1), blocks=b), (X, Y, Z, SCALE)),
    "symile n_squared": (squared, (X, Y, Z, SCALE)),
    "symile n_squared, 4": (squared, (*(v[:3] for v in (X, Y, Z, U)), SCALE)),
    "symile sum": (lambda x, y, z, s, b: sum_loss(jax.random.key(1), [x, y, z], s, b), (X, Y, Z, SCALE)),
    "filip": (filip, (TX, TY, SCALE)),
    "filip selected": (filip_selected, (TX, TY, SCALE)),
    "cwcl": (cwcl(), (X, Y, SCALE)),
    "cwcl kernel": (cwcl(kernel=0.3), (X, Y, SCALE)),
    "cwcl identity": (cwcl(geometry=False), (X, Y, SCALE)),
    "itc": (itc(), (X, Y, SCALE)),
    "itc queue": (itc(queue={k: QUEUE[k] for k in ("image", "text")}), (X, Y, SCALE)),
    "itc queue with ids": (itc(IDS, QUEUE), (X, Y, SCALE)),
    "modx": (modx(True), (X, Y, jnp.float32(1.0))),
    "modx unscreened": (modx(False), (X, Y, jnp.float32(1.0))),
}


def outcome(f, args, blocks):
    """(per-row values, gradients of their weighted sum), all weights different."""

    def total(*args):
        values = f(*args, blocks)
        return (values * (1 + jnp.arange(len(values)) / len(values))).sum(), values

    (_, values), grads = jax.value_and_grad(total, tuple(range(len(args))), has_aux=True)(*args)
    return values, grads


def agree(found, expected, tolerance=1e-6):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(jnp.abs(b).max()))


@pytest.mark.mesh
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_the_plain_loss(name):
    f, args = CASES[name]
    plain, chunked = jax.jit(lambda *args: [outcome(f, args, b) for b in (None, CHUNKED)])(*args)
    assert float(jnp.abs(plain[1][-1]).max()) > 1e-3, "the temperature or bias has a gradient to compare"
    agree(chunked, plain)
    if f is not squared:
        at = jax.tree.map(lambda x: NamedSharding(four(), P("data") if x.ndim else P()), args)
        with jax.set_mesh(four()):
            ring = jax.jit(lambda *args: outcome(f, args, RING))(*jax.device_put(args, at))
        agree(ring, plain)


def test_a_block_larger_than_the_batch_of_one_row_and_a_batch_of_one():
    f, args = CASES["clip ignored"]
    plain, *found = jax.jit(lambda *args: [outcome(f, args, b) for b in (None, Blocks(1), Blocks(1000))])(*args)
    for one in found:
        agree(one, plain)
    values, grads = outcome(CASES["clip"][0], (X[:1], Y[:1], SCALE), CHUNKED)
    assert values == 0 and not any(jnp.any(g) for g in grads)


def test_everything_of_one_id_and_duplicates():
    same = jnp.zeros(B, jnp.int32)
    np.testing.assert_allclose(symmetric_info_nce(X, Y, 50.0, same, blocks=CHUNKED), 0.0, atol=1e-6)
    one = jnp.broadcast_to(X[:1], X.shape)
    np.testing.assert_allclose(symmetric_info_nce(one, one, 50.0, blocks=CHUNKED), np.log(B), rtol=1e-6)


def test_a_small_loss_at_a_large_scale_is_exact_to_the_rounding_of_its_logits_and_without_bias():
    x = unit(0, 300, 32)
    y = x + 0.9 * unit(1, 300, 32)
    y /= jnp.linalg.norm(y, axis=-1, keepdims=True)
    s = 100 * np.asarray(x, np.float64) @ np.asarray(y, np.float64).T

    def nll(s):
        return np.log(np.exp(s - s.max(1, keepdims=True)).sum(1)) + s.max(1) - np.diagonal(s)

    error = np.asarray(symmetric_info_nce(x, y, 100.0, blocks=Blocks(64)), np.float64) - 0.5 * (nll(s) + nll(s.T))
    assert np.abs(error).max() < 1e-5 and abs(error.mean()) < 3e-7


def test_low_precision_embeddings():
    low = symmetric_info_nce(X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16), 100.0, blocks=CHUNKED)
    assert low.dtype == jnp.float32 and np.isfinite(low).all()
    grads = jax.grad(lambda x: symmetric_info_nce(x, Y, 1e4, blocks=CHUNKED).sum())(X.astype(jnp.bfloat16))
    assert grads.dtype == jnp.bfloat16 and np.isfinite(np.asarray(grads, np.float32)).all()


@pytest.mark.mesh
def test_a_ring_permutes_columns_and_gathers_nothing():
    rows, width = 64, 16
    at = NamedSharding(four(), P("data"))
    args = [jax.device_put(unit(i, rows, width), at) for i in range(2)]

    def loss(x, y, scale):
        return symmetric_info_nce(x, y, scale, blocks=Blocks(8, "data")).mean()

    with jax.set_mesh(four()):
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*args, SCALE).compile()
        grads = compiled(*args, SCALE)
    text = compiled.as_text()
    assert "collective-permute" in text and "all-gather" not in text
    # Nothing alive is larger than a device's own 16 rows: no [16, 64] of its rows with all columns, let alone [64, 64].
    sizes = [int(np.prod([int(d) for d in dims.split(",")])) for dims in re.findall(r"f32\[([\d,]+)\]", text)]
    assert max(sizes) == rows // 4 * width < rows // 4 * rows
    for g in grads[:2]:
        assert g.sharding.is_equivalent_to(at, 2)
        assert {s.data.shape for s in g.addressable_shards} == {(rows // 4, width)}


# The compiler's own figures. Nothing here is ever run.


@pytest.fixture
def optimised():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def tokens(x):
    return x, jnp.ones(x.shape[:2], bool)


LOSSES = {
    "softmax": lambda b, s, x, y: symmetric_info_nce(x, y, s, blocks=b),
    "sigmoid": lambda b, s, x, y: sigmoid_pairs(x, y, s, -s, blocks=b),
    "symile": lambda b, s, x, y, z: symile_loss([x, y, z], s, jax.random.key(0), blocks=b),
    "filip": lambda b, s, x, y: filip_loss(tokens(x), tokens(y), s, blocks=b)[0],
    "cwcl": lambda b, s, x, y: cwcl_loss(x, y, s, (x, x), blocks=b),
    "itc": lambda b, s, x, y: itc_loss((x, y), (y, x), s, 0.4, blocks=b),
}


def temporary(name, rows, shape, blocks):
    """Bytes of temporary memory of the loss and its gradients."""
    sides = [jax.ShapeDtypeStruct((rows, *shape), jnp.float32)] * (3 if name == "symile" else 2)
    args = (jax.ShapeDtypeStruct((), jnp.float32), *sides)
    step = jax.value_and_grad(lambda *of: LOSSES[name](blocks, *of).mean(), tuple(range(len(args))))
    return jax.jit(step).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("symile", "itc") else n for n in LOSSES]
)
def test_temporary_memory_grows_with_the_batch_and_not_with_its_square(name):
    shape, chunk, rows = ((4, 8), 4, 64) if name == "filip" else ((16,), 16, 256)
    found = [temporary(name, rows * k, shape, Blocks(chunk)) for k in (1, 2, 4, 8)]
    assert all(b / a < 2.6 for a, b in pairwise(found)), found
    plain = [temporary(name, rows * k, shape, None) for k in (1, 2)]
    assert plain[1] / plain[0] > 3.3, plain


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", "sigmoid", "symile"])
def test_32768_rows_of_512_take_less_than_a_twentieth(name, optimised):
    blocks, plain = (temporary(name, 32_768, (512,), b) for b in (Blocks(), None))
    assert 0 < blocks < plain / 20, (blocks, plain)


# The comparison above notices what could go wrong.


def softmax(blocks, change=lambda scale: scale):
    f, args = CASES["clip"]
    return jax.jit(lambda *args: outcome(lambda x, y, s, b: f(x, y, change(s), b), args, blocks))(*args)


def test_a_lost_temperature_gradient_is_noticed():
    with pytest.raises(AssertionError):
        agree(softmax(CHUNKED, jax.lax.stop_gradient), softmax(None))


def test_a_lost_block_of_columns_is_noticed(monkeypatch):
    def lost(masks, plan, row, column):
        return masks(plan, row, column._replace(position=jnp.where(column.position < 10, column.position, -1)))

    monkeypatch.setattr(engine, "_masks", partial(lost, engine._masks))
    with pytest.raises(AssertionError):
        agree(softmax(CHUNKED), softmax(None))


@pytest.mark.mesh
def test_a_ring_without_permutation_is_noticed(monkeypatch):
    monkeypatch.setattr(jax.lax, "ppermute", lambda moved, axis, ring: moved)
    with jax.set_mesh(four()), pytest.raises(AssertionError):
        agree(softmax(RING), softmax(None))


@pytest.mark.mesh
def test_sentences():
    with pytest.raises(ConfigError, match="at least one row"):
        symmetric_info_nce(X, Y, 1.0, blocks=Blocks(0))
    with pytest.raises(ConfigError, match="jax.set_mesh"):
        symmetric_info_nce(X, Y, 1.0, blocks=RING)
    with pytest.raises(ConfigError, match="needs ids"):
        symmetric_info_nce(X, Y, 1.0, multi_positive=True, blocks=CHUNKED)
    with jax.set_mesh(four()):
        with pytest.raises(ConfigError, match="does not divide over the 4 devices"):
            symmetric_info_nce(X[:6], Y[:6], 1.0, blocks=RING)
        with pytest.raises(ConfigError, match="plain or chunked"):
            squared(X, Y, Z, 1.0, RING)

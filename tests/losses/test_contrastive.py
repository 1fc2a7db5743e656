import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads as numeric_check

from mmrep.errors import ConfigError
from mmrep.losses import contrastive
from mmrep.losses.contrastive import false_negatives, same_id, similarity
from mmrep.losses.late_interaction import late_similarity
from mmrep.losses.reduce import masked_mean
from mmrep.systems.contrastive.symile.model import symile_loss


def check_grads(f, args):
    numeric_check(jax.jit(f), tuple(args), 1, modes=["rev"], atol=2e-2, rtol=2e-2)


cross_entropy = jax.jit(contrastive.cross_entropy)
info_nce = jax.jit(contrastive.info_nce)
pairwise_info_nce = jax.jit(contrastive.pairwise_info_nce)
sigmoid_loss = jax.jit(contrastive.sigmoid_loss)
symmetric_info_nce = jax.jit(contrastive.symmetric_info_nce, static_argnames="multi_positive")
symmetric_info_nce_of_logits = jax.jit(contrastive.symmetric_info_nce_of_logits, static_argnames="multi_positive")
targets_from_positives = jax.jit(contrastive.targets_from_positives)


def rows(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def unit(seed, *shape):
    x = rows(seed, *shape)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def naive(logits, targets, kept=None):
    """One row at a time, in float64."""
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    result = []
    for i in range(len(logits)):
        columns = [j for j in range(logits.shape[1]) if kept is None or kept[i][j]]
        z = np.log(sum(np.exp(logits[i, j]) for j in columns)) if columns else 0.0
        result.append(sum(targets[i, j] * (z - logits[i, j]) for j in columns))
    return np.array(result)


def test_masked_mean():
    values = jnp.array([[1.0, 2.0], [3.0, jnp.nan]])
    where = jnp.array([[True, True], [True, False]])
    np.testing.assert_allclose(masked_mean(values, where), 2.0)
    np.testing.assert_allclose(masked_mean(values, where, axis=1), [1.5, 3.0])
    np.testing.assert_allclose(masked_mean(values, jnp.zeros_like(where)), 0.0)
    np.testing.assert_allclose(masked_mean(values, jnp.array([[True, False]])), 2.0)  # broadcasts
    np.testing.assert_allclose(masked_mean(values[0]), 1.5)
    np.testing.assert_allclose(masked_mean(values > 1.5, where), 2 / 3)
    assert masked_mean(jnp.full(4096, 0.1, jnp.bfloat16)).dtype == jnp.float32


def test_cross_entropy_equals_naive_with_dropped_columns():
    logits, targets = rows(0, 4, 6), jax.nn.softmax(rows(1, 4, 6))
    np.testing.assert_allclose(cross_entropy(logits, targets), naive(logits, targets), rtol=1e-5)
    kept = jnp.asarray(np.random.default_rng(2).random((4, 6)) < 0.6).at[3].set(False)
    found = cross_entropy(logits, targets, kept)
    np.testing.assert_allclose(found, naive(logits, targets, kept), rtol=1e-5)
    assert found[3] == 0
    gradient = jax.grad(lambda x: cross_entropy(x, targets, kept).sum())(logits)
    np.testing.assert_array_equal(np.asarray(gradient)[~np.asarray(kept)], 0.0)
    assert np.isfinite(gradient).all()
    check_grads(lambda x: cross_entropy(x, targets, kept), (logits,))


def test_targets_from_positives():
    positives = jnp.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_allclose(targets_from_positives(positives), [[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    smooth = targets_from_positives(positives, 0.2)
    np.testing.assert_allclose(smooth, [[0.45, 0.45, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05], [0] * 4], rtol=1e-6)
    kept = jnp.array([[1, 1, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]], bool)
    np.testing.assert_allclose(targets_from_positives(positives, 0.3, kept)[:2].sum(-1), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(targets_from_positives(positives, 0.3, kept)[0], [0.45, 0.45, 0, 0.1], rtol=1e-6)


def test_align_golden_numbers():
    s = jnp.eye(3) / 0.5
    np.testing.assert_allclose(info_nce(s).mean(), 0.2395448, rtol=1e-6)
    np.testing.assert_allclose(info_nce(s, smoothing=0.1).mean(), 0.3728781, rtol=1e-6)
    s = jnp.array([[0.9, 0.1], [0.4, 0.7]]) / 0.1
    golden = {0.0: (0.0244614, 0.0045955), 0.1: (0.2994614, 0.2795955)}
    for smoothing, (i2t, t2i) in golden.items():
        np.testing.assert_allclose(info_nce(s, smoothing=smoothing).mean(), i2t, rtol=1e-5)
        np.testing.assert_allclose(info_nce(s.T, smoothing=smoothing).mean(), t2i, rtol=1e-5)
        both = symmetric_info_nce_of_logits(s, s.T, smoothing=smoothing)
        np.testing.assert_allclose(2 * both.mean(), i2t + t2i, rtol=1e-5)


def test_cwcl_golden_numbers_through_soft_targets():
    p, q = jnp.array([[1.0, 0], [0.6, 0.8]]), jnp.array([[0.8, 0.6], [0, 1.0]])
    w, logits = similarity(p, p) / 2 + 0.5, similarity(p, q) / 0.1
    soft = info_nce(logits, targets=w / w.sum(-1, keepdims=True)).mean()
    np.testing.assert_allclose(soft, 2.3143403, rtol=1e-5)
    np.testing.assert_allclose(info_nce(logits.T).mean(), 0.8921181, rtol=1e-5)
    # identity targets are the plain loss; the gradient vanishes where softmax equals the targets
    np.testing.assert_allclose(info_nce(logits, targets=jnp.eye(2)), info_nce(logits), rtol=1e-6)
    targets = jax.nn.softmax(logits)
    np.testing.assert_allclose(jax.grad(lambda x: info_nce(x, targets=targets).sum())(logits), 0, atol=1e-6)


def test_soft_targets_carry_no_gradient():
    logits = rows(0, 3, 3)
    assert not np.any(jax.grad(lambda t: info_nce(logits, targets=jax.nn.softmax(t)).sum())(logits))


def test_info_nce_with_queue_positives_and_ignored():
    logits = rows(0, 3, 5)
    np.testing.assert_allclose(info_nce(logits), naive(logits, np.eye(3, 5)), rtol=1e-5)
    positives = jnp.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 1]], bool)
    targets = positives / positives.sum(-1, keepdims=True)
    np.testing.assert_allclose(info_nce(logits, positives), naive(logits, targets), rtol=1e-5)
    ignore = jnp.array([[0, 1, 0, 0, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]], bool)
    found = info_nce(logits, positives, ignore=ignore)  # a positive is never removed
    np.testing.assert_allclose(found, naive(logits, targets, np.asarray(~ignore | positives)), rtol=1e-5)
    with pytest.raises(ConfigError, match="not both"):
        info_nce(logits, positives, targets)
    with pytest.raises(ConfigError, match="at least as many columns"):
        info_nce(logits.T)


def test_ids():
    ids, columns = jnp.array([1, 2, 1]), jnp.array([1, 2, 1, 2])
    np.testing.assert_array_equal(same_id(ids, columns), [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]])
    wrong = false_negatives(ids, columns, jnp.eye(3, 4, dtype=bool))
    np.testing.assert_array_equal(wrong, [[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])


def test_symmetric_info_nce_with_duplicates():
    x = unit(0, 4, 8)
    y = (x + 0.3 * unit(1, 4, 8)) / 1.2
    x, y = x.at[2].set(x[0]), y.at[2].set(y[0])
    ids = jnp.array([7, 1, 7, 3])
    s = 10 * np.asarray(x) @ np.asarray(y).T
    plain = (naive(s, np.eye(4)) + naive(s.T, np.eye(4))) / 2
    np.testing.assert_allclose(symmetric_info_nce(x, y, 10.0), plain, rtol=1e-4, atol=1e-6)
    kept = np.ones((4, 4), bool)
    kept[0, 2] = kept[2, 0] = False
    ignored = (naive(s, np.eye(4), kept) + naive(s.T, np.eye(4), kept)) / 2
    np.testing.assert_allclose(symmetric_info_nce(x, y, 10.0, ids), ignored, rtol=1e-4, atol=1e-6)
    assert ignored[0] < plain[0] - 0.05 and abs(ignored[1] - plain[1]) < 1e-9
    shared = np.eye(4)
    shared[0] = shared[2] = [0.5, 0, 0.5, 0]
    several = (naive(s, shared) + naive(s.T, shared)) / 2
    np.testing.assert_allclose(symmetric_info_nce(x, y, 10.0, ids, multi_positive=True), several, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="needs ids"):
        symmetric_info_nce(x, y, 10.0, multi_positive=True)


def test_extremes_and_batch_of_one():
    np.testing.assert_allclose(symmetric_info_nce(unit(0, 1, 4), unit(1, 1, 4), 100.0), 0.0, atol=1e-6)
    huge = jnp.array([[1e4, -1e4], [1e4, -1e4]])
    np.testing.assert_allclose(info_nce(huge), [0.0, 2e4])
    same = jnp.ones((5, 3)) / jnp.sqrt(3.0)  # collapse: log N
    np.testing.assert_allclose(symmetric_info_nce(same, same, 50.0), np.log(5), rtol=1e-5)
    everything = jnp.ones((3, 3), bool)
    np.testing.assert_allclose(info_nce(rows(0, 3, 3), ignore=everything), 0.0, atol=1e-6)  # only the positive is left
    # float32 inside, whatever comes in
    low = symmetric_info_nce(unit(0, 4, 8).astype(jnp.bfloat16), unit(1, 4, 8).astype(jnp.bfloat16), 100.0)
    assert low.dtype == jnp.float32 and np.isfinite(low).all()
    gradient = jax.grad(lambda s: symmetric_info_nce(unit(0, 4, 8), unit(1, 4, 8), s).sum())(jnp.float32(1e4))
    assert np.isfinite(gradient)


def test_gradients_of_symmetric_info_nce():
    x, y = unit(0, 4, 6), unit(1, 4, 6)
    check_grads(lambda a, b: symmetric_info_nce(a, b, 5.0), (x, y))


def test_pairwise_is_the_sum_over_pairs():
    x = [unit(i, 4, 6) for i in range(3)]
    expected = sum(symmetric_info_nce(x[a], x[b], 7.0) for a, b in ((0, 1), (0, 2), (1, 2)))
    np.testing.assert_allclose(pairwise_info_nce(x, 7.0), expected, rtol=1e-6)
    with pytest.raises(ConfigError, match="at least 2"):
        pairwise_info_nce(x[:1], 7.0)


def test_sigmoid_loss_equals_naive():
    logits = rows(0, 3, 4) * 5 - 2
    sign = 2 * np.eye(3, 4) - 1
    terms = np.log1p(np.exp(-sign * np.asarray(logits, np.float64)))
    np.testing.assert_allclose(sigmoid_loss(logits), terms.sum(1), rtol=1e-5)
    ignore = jnp.zeros((3, 4), bool).at[0, :3].set(True)
    np.testing.assert_allclose(sigmoid_loss(logits, ignore=ignore)[0], terms[0, 0] + terms[0, 3], rtol=1e-5)
    positives = jnp.ones((3, 4), bool)
    np.testing.assert_allclose(sigmoid_loss(logits, positives), np.log1p(np.exp(-np.asarray(logits))).sum(1), rtol=1e-4)
    assert np.isfinite(sigmoid_loss(jnp.full((2, 2), 1e5))).all()
    check_grads(sigmoid_loss, (logits,))


def test_distribution_matching_by_hand():
    # Identical features and distinct ids: p is uniform (the closed form of IRRA's dossier, B = 2).
    found = contrastive.distribution_matching(jnp.zeros((2, 2)), jnp.eye(2, dtype=bool))
    np.testing.assert_allclose(found, [8.5172, 8.5172], atol=1e-4)
    logits, positives = rows(0, 3, 4) * 3, jnp.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(1, keepdims=True)
    q = np.array([[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    expected = (p * (np.log(p) - np.log(q + 1e-8))).sum(1)
    np.testing.assert_allclose(contrastive.distribution_matching(logits, positives), expected, rtol=1e-5)
    q[0] *= 2**0.5
    expected = (p * (np.log(p) - np.log(q + 1e-8))).sum(1)
    np.testing.assert_allclose(contrastive.distribution_matching(logits, positives, unit=True), expected, rtol=1e-5)
    half = contrastive.distribution_matching(logits.astype(jnp.float16), positives)
    assert half.dtype == jnp.float32 and np.isfinite(half).all()
    check_grads(lambda x: contrastive.distribution_matching(x, positives), (logits,))


@pytest.mark.mesh
def test_sharded_batch_equals_one_device():
    assert jax.device_count() >= 4
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    x = unit(0, 3, 8, 5, 6)
    ids, valid = jnp.array([0, 1, 0, 2, 3, 4, 4, 5]), jnp.ones((8, 5), bool)

    def loss(x):
        s_xy, s_yx = late_similarity((x[0], valid), (x[1], valid), chunk=3)
        v = x.mean(2)
        pairs = contrastive.symmetric_info_nce(v[0], v[1], 10.0, ids, 0.1)
        triples = symile_loss(list(v), 5.0, jax.random.key(1))
        return (pairs + triples + s_xy.sum(1) - 0.5 * s_yx.sum(1)).mean()

    step = jax.jit(jax.value_and_grad(loss))
    one, four = step(x), step(jax.device_put(x, NamedSharding(mesh, P(None, "data"))))
    assert len(four[1].sharding.device_set) == 4
    np.testing.assert_allclose(one[0], four[0], rtol=1e-5)
    np.testing.assert_allclose(one[1], four[1], rtol=1e-5, atol=1e-6)


def test_nt_xent_equals_a_loop():
    x, y, ids = unit(0, 4, 5), unit(1, 4, 5), jnp.array([3, 1, 3, 2])
    for within, given in ((1.0, None), (0.8, None), (1.0, ids)):
        expected = np.zeros(4)
        for a, b in ((x, y), (y, x)):
            for i in range(4):
                kept = [j for j in range(4) if j == i or given is None or ids[j] != ids[i]]
                logits = [5 * float(a[i] @ b[j]) for j in kept] + [
                    5 * within * float(a[i] @ a[j]) for j in kept if j != i
                ]
                expected[i] += 0.5 * (np.log(np.exp(logits).sum()) - 5 * float(a[i] @ b[i]))
        np.testing.assert_allclose(jax.jit(contrastive.nt_xent)(x, y, 5.0, within, given), expected, rtol=1e-5)
    assert float(contrastive.nt_xent(x[:1], y[:1], 5.0)[0]) == 0.0  # no negative
    there = jnp.array([True, False, True, True])
    kept = contrastive.nt_xent(x[there], y[there], 5.0, 0.8)
    np.testing.assert_allclose(contrastive.nt_xent(x, y, 5.0, 0.8, valid=there)[there], kept, rtol=1e-5)

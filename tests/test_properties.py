"""What must hold for any input: masks, losses (all masked, a batch of one, duplicates) and configs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experiments import _overrides
from mmrep.config import Data, Experiment, Mesh, Optim, Phase, Rule, Train, fingerprint, from_json, to_json
from mmrep.errors import ConfigError
from mmrep.losses import contrastive, late_interaction
from mmrep.losses.matching import hard_negatives
from mmrep.losses.reduce import masked_mean
from mmrep.masking.tokens import mask_tokens
from mmrep.modality import BOS, PAD, vector
from mmrep.nn.attention import attend, causal_mask, padding_mask
from mmrep.systems.contrastive.symile import model as multilinear
from mmrep.systems.fusion.albef.losses import mlm_loss

few = settings(max_examples=settings.default.max_examples // 2, deadline=None)
# One shape each, so that each function is compiled once; what is drawn is the content.
B, N, D, V = 4, 6, 8, 16


def flags(*shape):
    return arrays(bool, shape)


def values(*shape, limit=10.0):
    return arrays(np.float32, shape, elements=st.floats(-limit, limit, width=32))


def ids(*shape, high=3):
    return arrays(np.int32, shape, elements=st.integers(0, high))


def finite(tree):
    return all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(tree))


# --- attention masks ---

attention = jax.jit(attend, static_argnames="implementation")


@few
@given(values(B, N, 2, D), values(B, N, 2, D), flags(B, N), st.floats(-1e4, 1e4, width=32))
def test_hidden_keys_change_nothing_and_no_key_at_all_is_no_nan(q, k, valid, other):
    outs = {}
    for name in ("xla", "matmul"):
        outs[name] = np.asarray(attention(q, k, k, padding_mask(jnp.asarray(valid)), implementation=name))
        moved = np.where(valid[..., None, None], k, np.float32(other))
        again = np.asarray(attention(q, moved, moved, padding_mask(jnp.asarray(valid)), implementation=name))
        assert np.isfinite(outs[name]).all()
        seen = valid.any(-1)
        np.testing.assert_array_equal(outs[name][seen], again[seen])
    np.testing.assert_allclose(outs["xla"][seen], outs["matmul"][seen], atol=1e-4)


@few
@given(values(1, N, 1, D), st.integers(0, N - 1), st.floats(-10, 10, width=32))
def test_the_past_does_not_see_the_future(x, at, other):
    changed = x.copy()
    changed[:, at] = other
    a, b = (np.asarray(attention(v, v, v, causal_mask(N))) for v in (x, changed))
    np.testing.assert_array_equal(a[:, :at], b[:, :at])


# --- token masks ---

corrupt = jax.jit(mask_tokens, static_argnums=2)


@few
@given(ids(B, N, high=V - 1), st.integers(0, 2**31 - 1), st.floats(0, 1, width=32))
def test_masking_spares_padding_and_starts_and_stays_in_the_vocabulary(tokens, seed, rate):
    out, target = (np.asarray(x) for x in corrupt(jax.random.key(seed), tokens, V, jnp.float32(rate)))
    maskable = (tokens != PAD) & (tokens != BOS)
    assert not target[~maskable].any() and 0 <= out.min() <= out.max() < V
    np.testing.assert_array_equal(out[~target], tokens[~target])
    if rate == 0:
        assert not target.any()
    if rate == 1:
        np.testing.assert_array_equal(target, maskable)


# --- reductions ---

mean_and_slope = jax.jit(jax.value_and_grad(lambda x, where: masked_mean(x, where)))


@few
@given(values(B, N), flags(B, N), st.sampled_from([np.nan, np.inf, -np.inf, 0.0]))
def test_a_masked_mean_is_that_of_numpy_and_0_of_nothing(x, where, dropped):
    x = np.where(where, x, np.float32(dropped))
    value, slope = mean_and_slope(x, where)
    expected = x[where].astype(np.float64).mean() if where.any() else 0.0
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slope, where / max(where.sum(), 1), rtol=1e-6)


# --- contrastive losses ---

nce = jax.jit(jax.value_and_grad(lambda x, **kw: contrastive.info_nce(x, **kw).sum()))
nce_rows = jax.jit(lambda x, **kw: contrastive.info_nce(x, **kw))
symile = jax.jit(multilinear.symile_loss)
symmetric = jax.jit(contrastive.symmetric_info_nce, static_argnames="multi_positive")
sigmoid = jax.jit(jax.value_and_grad(lambda x, **kw: contrastive.sigmoid_loss(x, **kw).sum()))


@few
@given(values(B, B, limit=1e4), flags(B, B), flags(B, B))
def test_info_nce_is_finite_and_not_negative_whatever_is_ignored(logits, positives, ignore):
    rows = np.asarray(nce_rows(logits, positives=positives, ignore=ignore))
    assert np.isfinite(rows).all() and (rows >= -1e-3).all()
    _, slope = nce(logits, positives=positives, ignore=ignore)
    assert finite(slope)
    # A row without a positive asks for nothing.
    assert not rows[~positives.any(-1)].any() and not np.asarray(slope)[~positives.any(-1)].any()
    assert not np.asarray(slope)[ignore & ~positives].any()


@few
@given(values(B, B), st.permutations(range(B)))
def test_info_nce_does_not_depend_on_the_order_of_pairs(logits, order):
    rows = np.asarray(nce_rows(logits))
    np.testing.assert_allclose(nce_rows(logits[np.ix_(order, order)]), rows[list(order)], rtol=1e-4, atol=1e-5)


@few
@given(values(1, D), values(1, D), st.floats(0, 100, width=32))
def test_a_batch_of_one_has_nothing_to_tell_apart(x, y, scale):
    assert float(symmetric(x, y, scale)[0]) == 0.0
    assert float(symile([x, y], scale, jax.random.key(0))[0]) == 0.0


@few
@given(values(1, D), values(1, D))
def test_a_batch_of_duplicates_is_a_guess_and_with_ids_no_task(x, y):
    x, y = (np.repeat(v / 10, B, 0) for v in (x, y))
    np.testing.assert_allclose(symmetric(x, y, 5.0), np.log(B), rtol=1e-4)
    same = np.zeros(B, np.int32)
    np.testing.assert_allclose(symmetric(x, y, 5.0, same), 0.0, atol=1e-5)
    np.testing.assert_allclose(symmetric(x, y, 5.0, same, multi_positive=True), np.log(B), rtol=1e-4)


@few
@given(values(B, B, limit=1e4), flags(B, B), flags(B, B))
def test_sigmoid_counts_what_is_kept(logits, positives, ignore):
    value, slope = sigmoid(logits, positives=positives, ignore=ignore)
    x = np.where(positives, -logits, logits).astype(np.float64)
    expected = np.where(ignore & ~positives, 0.0, np.logaddexp(0.0, x)).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
    assert finite(slope) and not np.asarray(slope)[ignore & ~positives].any()


# --- matching, masked prediction, late interaction ---

draw = jax.jit(hard_negatives)


@few
@given(values(B, B, limit=1e4), ids(B), st.integers(0, 2**31 - 1))
def test_a_hard_negative_is_another_thing_wherever_there_is_one(logits, labels, seed):
    index, valid = (np.asarray(x) for x in draw(jax.random.key(seed), logits, labels))
    assert (index != np.arange(B)).all() and ((index >= 0) & (index < B)).all()
    np.testing.assert_array_equal(valid, (labels[:, None] != labels).any(1))
    assert (labels[index] != labels)[valid].all()


lm = jax.jit(jax.value_and_grad(lambda x, y, t: masked_mean(mlm_loss(x, y, t), t)))


@few
@given(values(B, N, V, limit=1e3), arrays(np.int32, (B, N), elements=st.integers(-100, V - 1)), flags(B, N))
def test_masked_prediction_looks_at_targets_only(logits, labels, target):
    target = target & (labels >= 0)
    value, slope = lm(logits, labels, target)
    assert np.isfinite(value) and value >= 0 and finite(slope) and not np.asarray(slope)[~target].any()
    if not target.any():
        assert value == 0


late = jax.jit(
    jax.value_and_grad(
        lambda x, vx, y, vy: sum(s.sum() for s in late_interaction.late_similarity((x, vx), (y, vy))), (0, 2)
    )
)
late_values = jax.jit(
    lambda x, vx, y, vy, chunk=None: late_interaction.late_similarity((x, vx), (y, vy), chunk),
    static_argnames="chunk",
)


@few
@given(values(B, N, D), flags(B, N), values(B, N, D), flags(B, N))
def test_late_interaction_ignores_hidden_tokens_and_empty_texts(x, vx, y, vy):
    for s, chunked in zip(late_values(x, vx, y, vy), late_values(x, vx, y, vy, chunk=3)):
        s = np.asarray(s)
        assert np.isfinite(s).all() and not s[~vx.any(1)].any() and not s[:, ~vy.any(1)].any()
        np.testing.assert_allclose(s, chunked, rtol=1e-4, atol=1e-4)
    _, (gx, gy) = late(x, vx, y, vy)
    assert finite((gx, gy)) and not np.asarray(gx)[~vx].any() and not np.asarray(gy)[~vy].any()


# --- configs ---

number = st.floats(0, 1e3, allow_subnormal=False)
trains = st.builds(
    Train, seed=st.integers(0, 2**31), ema=st.floats(0, 0.999), log_every=st.integers(1, 99), spike=st.just(0.0) | number
)  # fmt: skip
optims = st.builds(Optim, name=st.sampled_from(["adamw", "lion", "sgd"]), lr=number, clip=st.none() | number)
phases = st.builds(
    Phase, name=st.text(max_size=5), steps=st.integers(1, 99), trainable=st.lists(st.text(max_size=9), max_size=3).map(tuple),
    optim=st.none() | optims, begin=st.none() | st.just(to_json),
)  # fmt: skip
configs = st.builds(
    Experiment, st.builds(toy.Line, width=st.integers(1, 9)),
    st.builds(Data, st.builds(toy.Points), st.just((vector("x", 2),)), batch_size=st.integers(1, 9), max_bad_records=st.integers(0, 9)),
    phases=st.lists(phases, min_size=1, max_size=3).map(tuple), optim=optims, train=trains,
    mesh=st.builds(Mesh, st.just(-1) | st.integers(1, 9), st.integers(1, 9)),
    sharding=st.lists(st.builds(Rule, st.text(max_size=5), st.sampled_from(["replicate", "fsdp"])), max_size=2).map(tuple),
)  # fmt: skip


@given(configs, configs)
def test_configs_go_through_json_and_only_equal_ones_share_a_fingerprint(a, b):
    assert from_json(json.loads(json.dumps(to_json(a)))) == a
    assert (fingerprint(a) == fingerprint(b)) == (to_json(a) == to_json(b))


@few
@given(trains, optims, st.integers(1, 99))
def test_every_value_can_be_given_on_the_command_line(train, optim, steps):
    args = ["--phases.0.steps", str(steps)]
    for group, value in (("train", train), ("optim", optim)):
        numbers = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        args += [f"--{group}.{k.replace('_', '-')}={v!s}" for k, v in numbers.items() if not isinstance(v, tuple)]
    found = _overrides.override(toy.experiment(), args)
    assert (found.train, found.optim, found.phases[0].steps) == (train, optim, steps)


words = st.sampled_from(["type", "name", "items", "function", "dict", "mmrep.config:Train", "mmrep.config:Mesh", "os:system",
                         "builtins:eval", "mmrep.config:nothing", "mmrep.nothing:x", "seed", "data"])  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=4 * settings.default.max_examples, deadline=None)
@given(anything)
def test_a_foreign_config_is_refused_in_one_sentence_and_runs_nothing(value):
    try:
        found = from_json(value)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert not callable(found)


def test_a_stored_config_reaches_no_function_of_the_standard_library():
    for name in ("os:system", "builtins:eval", "subprocess:run"):
        with pytest.raises(ConfigError, match="no config needs a function of the standard library"):
            from_json({"type": "function", "name": name})

"""InvGC's transforms against the authors' numbers, a naive double loop, and the traps of the method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.retrieval.invgc import get_config
from configs.retrieval.invgc.proof import crowding, shared_meaning
from mmrep.data import pipeline
from mmrep.errors import ConfigError, DataError
from mmrep.system import System
from mmrep.systems.retrieval.invgc import Config, collect_banks
from mmrep.systems.retrieval.invgc.data import clustered
from mmrep.systems.retrieval.invgc.evals import best_steps, check_bank, qb_norm, recall_at_1
from mmrep.systems.retrieval.invgc.model import (
    inv_gc,
    local_adj,
    mean_of_banks,
    nearest_rows,
    num_neighbours,
    subtract_neighbours,
)
from mmrep.training import loop

# The authors' InvGC.py (yimuwangcs/Better_Cross_Modal_Retrieval) on these five rows: r = 1, pool_rate 0.5.
TEST = np.array([[1, 0], [0.6, 0.8]], np.float32)
BANK = np.array([[0, 1], [0.8, 0.6], [1, 0], [-0.6, 0.8]], np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    return unit(rng.standard_normal((37, 8)).astype(np.float32)), unit(rng.standard_normal((50, 8)).astype(np.float32))


def naive(g, b, r, k=None):
    w = g @ b.T
    rows = []
    for i in range(len(g)):
        if k is None:
            kept, share = w[i] - w.mean(), len(b)
        else:
            top = np.argsort(-w[i], kind="stable")[:k]
            kept, share = np.zeros(len(b)), k
            kept[top] = w[i, top]
        rows.append(unit(g[i] - r / share * kept @ b))
    return np.stack(rows)


def test_golden_numbers_of_the_authors_code():
    np.testing.assert_allclose(inv_gc(TEST, BANK, 1.0), [[0.9128739, 0.4082417], [0.5422381, 0.8402249]], atol=1e-6)
    np.testing.assert_allclose(
        local_adj(TEST, BANK, 1.0, num_neighbours(0.5, 4)), [[0.6, -0.8], [0.8877546, 0.4603172]], atol=1e-6
    )


def test_inv_gc_equals_the_double_loop_and_the_centring_counts(drawn):
    g, b = drawn
    np.testing.assert_allclose(inv_gc(g, b, 2.0), naive(g, b, 2.0), atol=2e-6)
    shifted = b + 0.5  # a cone: without e the result would be another
    centred = np.asarray(inv_gc(g, shifted, 2.0))
    np.testing.assert_allclose(centred, naive(g, shifted, 2.0), atol=1e-5)
    assert np.abs(centred - unit(g - 2.0 / 50 * g @ shifted.T @ shifted)).max() > 0.05


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_local_adj_equals_the_double_loop_whatever_the_chunk(drawn, chunk):
    g, b = drawn
    np.testing.assert_allclose(local_adj(g, b, 0.7, 6, chunk=chunk), naive(g, b, 0.7, 6), atol=2e-6)


def test_local_adj_rows_are_independent(drawn):
    g, b = drawn
    np.testing.assert_allclose(local_adj(g, b, 1.0, 5)[:3], local_adj(g[:3], b, 1.0, 5), atol=1e-6)
    assert np.abs(inv_gc(g, b + 0.5, 2.0)[:3] - inv_gc(g[:3], b + 0.5, 2.0)).max() > 1e-4  # its e does: transductive


def test_the_minus_sign_lowers_the_cosine_to_the_neighbours(drawn):
    g, b = drawn
    index = nearest_rows(g, b, 5)
    cosine = lambda x: float(np.einsum("md,mkd->mk", np.asarray(x), b[np.asarray(index)]).mean())  # noqa: E731
    assert cosine(subtract_neighbours(g, b, index, 0.5)) < cosine(g) < cosine(subtract_neighbours(g, b, index, -0.5))


def test_self_matches_are_left_out(drawn):
    g, _ = drawn
    own = np.arange(len(g))
    np.testing.assert_allclose(local_adj(g, g, 2.0, 1), -g, atol=1e-6)  # the trap: every vector flips
    assert np.linalg.norm(local_adj(g, g, 1.0, 1), axis=1).max() < 0.5  # and at r = 1 only rounding is left of it
    kept = local_adj(g, g, 0.5, 1, own)
    assert np.isfinite(kept).all() and not (np.asarray(nearest_rows(g, g, 1, own))[:, 0] == own).any()
    assert np.einsum("md,md->m", np.asarray(kept), g).min() > 0.5


def test_k_is_never_zero_and_ties_take_the_lower_index():
    assert num_neighbours(0.01, 50) == 1 and num_neighbours(0.01, 1000) == 10
    tied = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    assert nearest_rows(tied[:1], tied, 2).tolist() == [[0, 2]]


def test_mean_of_banks_has_unit_rows():
    x, y = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(mean_of_banks(x, y), [[0.5**0.5, 0.5**0.5]], rtol=1e-6)


def test_bad_banks_are_refused():
    with pytest.raises(DataError, match="empty"):
        check_bank(TEST, BANK[:0])
    with pytest.raises(DataError, match="dimensions"):
        check_bank(TEST, np.ones((3, 5), np.float32))
    with pytest.raises(DataError, match="not finite"):
        check_bank(TEST, np.full((3, 2), np.nan, np.float32))


def test_qb_norm_demotes_a_hub():
    scores = np.array([[0.9, 0.8], [0.2, 0.1]], np.float32)
    bank = np.array([[0.9, 0.1], [0.8, 0.1]], np.float32)  # item 0 is everybody's best
    assert qb_norm(scores, bank, 10.0).argmax(1).tolist() == [1, 1]
    expected = 10 * scores - np.log(np.exp(10 * bank).sum(0))
    np.testing.assert_allclose(qb_norm(scores, bank, 10.0), expected, rtol=1e-5)
    away = np.array([[0.1, 0.9]], np.float32)  # item 0 is no bank query's best: its queries keep their scores
    np.testing.assert_array_equal(qb_norm(scores, away, 10.0), scores)


def test_crowded_embeddings_gain_spread_ones_do_not_and_shared_meaning_loses():
    cone = crowding(100, cone=8.0, nuisance=0.6)
    assert cone["LocalAdj"] > cone["base"] + 0.05 and cone["InvGC"] > cone["base"] + 0.05
    assert cone["sign flipped"] < cone["base"] and abs(cone["centred"] - cone["base"]) < 0.02
    shared = shared_meaning(100)
    assert shared["steps"] == 0.0 and shared["LocalAdj, fixed"] < shared["base"] < shared["sign flipped"]


def test_the_two_step_sizes_are_chosen_apart():
    rng = np.random.default_rng(100)
    val, banks = (clustered(rng, unit(rng.standard_normal((5, 16))), 60, 0.5, 0.5) for _ in range(2))
    score = lambda r: recall_at_1((val[0], mean_of_banks(*(inv_gc(val[1], b, x) for b, x in zip(banks[::-1], r)))))  # noqa: E731
    steps = (0.0, 1.0, 4.0)
    found = best_steps(inv_gc, val, banks, steps)
    assert score(found) == max(score((a, b)) for a in steps for b in steps)


def test_the_banks_are_the_embeddings_of_the_first_training_pairs():
    data = get_config("tiny").data
    tokenize = pipeline.load_tokenizer(data, pipeline.fit_tokenizer(data, [data.source], None))
    split = pipeline.open_split(data, tokenize, "train")
    infer = {
        "image": lambda params, extras, batch: params["by"] * batch["image"].mean((1, 2)),
        "text": lambda params, extras, batch: params["by"] * batch["text"].astype(jnp.float32)[:, :3],
    }
    context = loop.Context(
        split, System(lambda rng, batch: ({}, {}), infer=infer), jax.random.key(0), lambda name: split
    )
    start = {f"bank_{n}": jnp.zeros((5, 3)) for n in infer}
    _, extras = collect_banks({"by": jnp.float32(2.0)}, start, context)
    batch, _ = next(pipeline.eval_batches(split, 5))
    for name, embed in infer.items():
        np.testing.assert_allclose(extras[f"bank_{name}"], embed({"by": 2.0}, {}, batch), rtol=1e-5)


def test_bank_larger_than_the_split_is_refused():
    config = get_config("tiny")
    context = loop.Context([0] * 8, config.system.build(), jax.random.key(0), lambda name: [0] * 8)
    with pytest.raises(ConfigError, match="bank is 32"):
        collect_banks({}, {"bank_image": jnp.zeros((32, 32))}, context)


@pytest.mark.parametrize("field", [{"bank": 0}, {"rate": 0.0}, {"rate": 1.5}])
def test_impossible_fields_are_named(field):
    with pytest.raises(ConfigError, match=f"system.{next(iter(field))}"):
        Config(**field).build()

"""4M's masking against apple/ml-4m at cda590f (simple_span_masking, sequence_mask, image_mask, budgets, the decoder mask), and edge cases."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.systems.masked.fourm import masking
from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas
from mmrep.systems.masked.fourm.tokens import KEEP_SCHEMES, TokenModality, check_ids, check_modalities, truncate

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "fourm.npz")
SENTINEL = 20
MODALITIES = (
    TokenModality("rgb", 7, (4, 4)), TokenModality("depth", 5, (4, 4)), TokenModality("caption", SENTINEL, length=8),
)  # fmt: skip
NAMES = tuple(m.name for m in MODALITIES)
EVEN = DirichletMixture(alphas(NAMES), alphas(NAMES))
KEY = jax.random.key(0)


PAIRS, SHORT = replace(MODALITIES[2], name="pairs", chunk=2), replace(MODALITIES[2], name="short", length=5)
ALL = (*MODALITIES, PAIRS, SHORT)
# One compiled program for most tests: each uses the rows of one component.
COMPONENTS = {
    "even": replace(EVEN, weight=4.0),
    "from rgb": DirichletMixture(alphas(rgb=1000.0), alphas(("depth", "caption"))),
    "rgb to rgb": DirichletMixture(alphas(rgb=1.0), alphas(rgb=1.0)),
    "from depth": DirichletMixture(alphas(depth=1.0), alphas(("rgb", "caption"), 1.0)),
    "caption": DirichletMixture(alphas(caption=1.0), alphas(("rgb", "depth"), 1.0)),
    "whole caption": DirichletMixture(alphas(caption=1.0), alphas(("rgb", "depth"), 1.0), keep=(("caption", "all"),)),
    "texts": DirichletMixture(alphas(("pairs", "short"), 1.0), alphas(("pairs", "short"), 1.0)),
}
ROWS, LENGTH = 1200, 8


def texts(n, length=LENGTH):
    rng = np.random.default_rng(0)
    words = rng.integers(5, SENTINEL, (n, length))
    at, size = np.arange(length), rng.integers(1, length + 1, (n, 1))
    return jnp.asarray(np.where(at < size - 1, words, np.where(at == size - 1, 2, 0)), jnp.int32)


@cache
def batch(n=ROWS):
    rng = np.random.default_rng(1)
    images = {m.name: jnp.asarray(rng.integers(0, m.vocab_size, (n, 16)), jnp.int32) for m in MODALITIES[:2]}
    pairs = jnp.asarray([[1, 5, 12, 6, 13, 7, 14, 2]] * n, jnp.int32)
    return images | {"caption": texts(n), "pairs": pairs, "short": pairs}


@cache
def program():
    return jax.jit(lambda *args: masking.mask_tokens(*args[:2], ALL, tuple(COMPONENTS.values()), 16, 14, args[2]))


@cache
def drawn(seed=0, present=(1,) * 5):
    present = jnp.asarray(np.tile(np.array(present, bool), (ROWS, 1)))
    return jax.tree.map(np.asarray, program()(jax.random.key(seed), batch(), present))


def component_of_rows():
    """The component that mask_tokens draws for each row from KEY."""
    weights = jnp.log(jnp.asarray([m.weight for m in COMPONENTS.values()]))
    return np.asarray(jax.random.categorical(jax.random.split(KEY, 3 + len(ALL))[0], weights, shape=(ROWS,)))


def rows_of(name):
    """(ids, masked tokens) of the rows of one component."""
    rows = np.flatnonzero(component_of_rows() == list(COMPONENTS).index(name))
    return jax.tree.map(lambda x: np.asarray(x)[rows], (batch(), drawn()))


# Functions of sequences, compiled for one shape: rows are repeated.


def padded(*rows):
    return np.array([list(r) + [0] * (LENGTH - len(r)) for r in rows], np.int32)


def repeated(x):
    return np.resize(np.asarray(x), (ROWS, *np.shape(x)[1:]))


@cache
def jitted(name, **static):
    return jax.jit(lambda *args: getattr(masking, name)(*args, **static))


def mask_spans(ids, masked):
    """Of each of the given rows."""
    return jax.tree.map(np.asarray, jitted("mask_spans", sentinel=SENTINEL)(repeated(ids), repeated(masked)))


def span_mask(row, budget, keep="random", chunk=1):
    """ROWS masks of one text."""
    keeps = np.full(ROWS, KEEP_SCHEMES.index(keep))
    run = jitted("span_mask", chunk=chunk)
    return np.asarray(run(KEY, repeated(padded(row)), np.full(ROWS, budget, np.int32), keeps))


def target_window(spans, budget, seed=0):
    run = jitted("target_window", sentinel=SENTINEL)
    return tuple(np.asarray(x) for x in run(jax.random.key(seed), spans, np.full(ROWS, budget, np.int32)))


TEXT = [5, 6, 7, 8, 9, 10, 11, 2]
# From apple/ml-4m at cda590f, chunk_span_masking with its draws replaced: chunks, which of them are masked, inputs, targets.
CHUNKED = [
    ([[5, 6], [7, 8], [9, 10], [2]], [0, 1, 1, 0], [5, 6, 20, 2], [20, 7, 8, 9, 10, 21]),
    ([[5, 6], [7, 8], [9, 10], [2]], [1, 0, 1, 0], [20, 7, 8, 21, 2], [20, 5, 6, 21, 9, 10, 22]),
    ([[5, 6], [7, 8], [9, 10], [2]], [1, 0, 0, 1], [20, 7, 8, 9, 10, 21], [20, 5, 6, 21, 2, 22]),
    ([[5, 6], [7, 8], [9, 10], [2]], [1, 1, 1, 1], [20], [20, 5, 6, 7, 8, 9, 10, 2, 21]),
    ([[5, 6], [2]], [0, 0], [5, 6, 2], [20]),
    ([[5, 6, 7], [8, 9, 10], [2]], [0, 1, 1], [5, 6, 7, 20], [20, 8, 9, 10, 2, 21]),
]


def test_spans_equal_the_authors():
    cases = [(GOLDEN[f"words{i}"], GOLDEN[f"drop{i}"], GOLDEN[f"span/in{i}"], GOLDEN[f"span/out{i}"]) for i in range(3)]
    for chunks, masked, inputs, targets in CHUNKED:
        flags = [m for c, m in zip(chunks, masked) for _ in c]
        cases.append(([i for c in chunks for i in c], flags, inputs, targets))
    cases.append(([5, 6, 7, 8], [0, 1, 1, 0], [5, 20, 8], [20, 6, 7, 21]))  # by hand
    ids, masked, inputs, targets = zip(*cases)
    found = mask_spans(padded(*ids), padded(*masked).astype(bool))
    for i in range(len(cases)):
        np.testing.assert_array_equal(found.inputs[i, : found.num_inputs[i]], inputs[i])
        np.testing.assert_array_equal(found.targets[i, : found.num_targets[i]], targets[i])
        assert not found.inputs[i, found.num_inputs[i] :].any() and not found.targets[i, found.num_targets[i] :].any()


@pytest.mark.parametrize(
    ("case", "num_inputs", "num_targets", "keep"), [(0, 0, 5, "random"), (1, 0, 20, "random"), (2, 9, 4, "all"), (3, 0, 0, "random"), (4, 1, 3, "all")]
)  # fmt: skip
def test_whole_texts_equal_the_authors(case, num_inputs, num_targets, keep):
    found = mask_spans(padded(TEXT), span_mask(TEXT, num_inputs, keep))
    start, length = target_window(found, num_targets)
    size = found.num_inputs[0] if num_inputs else 0
    np.testing.assert_array_equal(found.inputs[0, :size], GOLDEN[f"text{case}/in"])
    np.testing.assert_array_equal(found.targets[0, start[0] : start[0] + length[0]], GOLDEN[f"text{case}/out"])


def test_lengths_under_a_budget_have_the_authors_distribution():
    found = mask_spans(padded(TEXT), span_mask(TEXT, 5))
    _, length = target_window(found, 4, seed=1)
    inside = np.arange(LENGTH) < found.num_inputs[:, None]
    means = found.num_inputs.mean(), length.mean(), ((found.inputs >= SENTINEL) & inside).sum(1).mean()
    np.testing.assert_allclose(means, GOLDEN["text/mean"], atol=0.1)
    assert found.num_inputs.max() <= 5 and length.max() <= 4


def test_a_long_target_starts_at_a_sentinel_but_never_the_last():
    found = mask_spans(padded(TEXT), np.array([[True, False, True, True, False, True, True, True]]))
    np.testing.assert_array_equal(found.targets[0], [20, 5, 21, 7, 8, 22, 10, 11, 2, 23])
    start, length = target_window(found, 3)
    assert set(start.tolist()) == {0, 2, 5} and (length == 3).all()
    # 6 tokens: from the third sentinel only 5 are left, so the earliest sentinel whose rest fits is taken, which is that one.
    assert {*zip(*(x.tolist() for x in target_window(found, 6)))} == {(0, 6), (2, 6), (5, 5)}


def test_an_empty_text_is_its_end():
    for keep, n in (("all", 1), ("random", 1), ("random", 0)):
        found = mask_spans(padded([2]), span_mask([2], n, keep))
        assert found.num_inputs[0] == 1 and found.inputs[0, 0] in (2, SENTINEL)


def test_sentinels_never_run_out():
    found = mask_spans(padded([5] * 7 + [2]), np.array([[True, False] * 4]))
    assert int(found.targets.max()) < MODALITIES[2].num_embeddings == SENTINEL + 5


def test_chunks_are_masked_whole_and_the_end_alone():
    masked = span_mask([5, 6, 7, 8, 9, 10, 2], 8, chunk=2)
    assert not masked[:, 7:].any()
    whole = masked[:, :6].reshape(ROWS, 3, 2)
    assert (whole == whole[..., :1]).all()
    each = np.concatenate([whole[..., 0], masked[:, 6:7]], axis=1)
    # k ~ U(0, 1): each chunk and the end are masked half of the time, and not together.
    np.testing.assert_allclose(each.mean(0), 0.5, atol=0.08)
    assert len({*map(tuple, each.tolist())}) == 2**4


def test_chunks_fit_their_budget():
    text = [5, 6, 7, 8, 9, 10, 2]
    for budget in (1, 2, 3, 5):
        for keep in KEEP_SCHEMES:
            found = mask_spans(padded(text), span_mask(text, budget, keep, chunk=2))
            assert found.num_inputs.max() <= budget and found.num_inputs.min() >= 1
    # One token is too few for a pair: it is one sentinel for everything.
    found = mask_spans(padded(text), span_mask(text, 1, chunk=2))
    assert (found.inputs[:, 0] == SENTINEL).all() and (found.num_targets == 9).all()


def test_long_texts_are_cut_and_keep_their_end():
    ids = jnp.asarray([[1, 5, 6, 7, 8, 2], [1, 5, 2, 0, 0, 0]])
    np.testing.assert_array_equal(truncate(ids, 3), [[5, 6, 2], [5, 2, 0]])
    np.testing.assert_array_equal(truncate(ids[:, 1:], 5), [[5, 6, 7, 8, 2], [5, 2, 0, 0, 0]])
    np.testing.assert_array_equal(truncate(ids, 8)[1], [5, 2, 0, 0, 0, 0, 0, 0])


def test_incomplete_chunks_are_removed():
    ids = jnp.asarray([[1, 5, 6, 7, 8, 9, 10, 2], [1, 5, 6, 7, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0], [0] * 8])
    # Two pairs and the end; an empty text is its end, no text is nothing.
    expected = [[5, 6, 7, 8, 2, 0], [5, 6, 2, 0, 0, 0], [2, 0, 0, 0, 0, 0], [0] * 6]
    np.testing.assert_array_equal(truncate(ids, 6, chunk=2), expected)
    np.testing.assert_array_equal(truncate(ids, 7, chunk=2)[0], [5, 6, 7, 8, 9, 10, 2])
    np.testing.assert_array_equal(truncate(ids, 7, chunk=3)[0], [5, 6, 7, 8, 9, 10, 2])


def test_image_masks_equal_the_authors():
    for k, budget in {"rgb": [(3, 2), (5, 0), (1, 4)], "depth": [(1, 3), (0, 0), (2, 2)]}.items():
        for b, (n_in, n_out) in enumerate(budget):
            order = np.argsort(GOLDEN[f"noise/{k}{b}"])
            inputs, targets = order < n_in, (order >= n_in) & (order < n_in + n_out)
            np.testing.assert_array_equal(inputs, GOLDEN[f"in/{k}"][b])
            np.testing.assert_array_equal(targets, GOLDEN[f"tgt/{k}"][b])
            _, query = masking.image_mask(
                jnp.asarray(GOLDEN[f"ids/{k}"][b : b + 1], jnp.int32),
                jnp.asarray(inputs[None]),
                jnp.asarray(targets[None]),
            )
            np.testing.assert_array_equal(query.decoder_attention_mask[0][targets], GOLDEN[f"reach/{k}"][b][targets])


def test_decoder_masks_equal_the_authors():
    compressed, kinds = jnp.asarray(GOLDEN["mask/a"], jnp.int32), jnp.asarray(GOLDEN["mask/m"], jnp.int32)
    np.testing.assert_array_equal(masking.expand_decoder_attention_mask(compressed, kinds)[:, 0], GOLDEN["mask/sep"])
    np.testing.assert_array_equal(
        masking.expand_decoder_attention_mask(compressed, kinds, sep_mask=False)[:, 0], GOLDEN["mask/all"]
    )
    by_hand = masking.expand_decoder_attention_mask(jnp.asarray([[2, 0, 1, 1]]), jnp.zeros((1, 4), jnp.int32))[0, 0]
    np.testing.assert_array_equal(by_hand, [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_budgets_have_the_authors_distribution():
    sizes, n = jnp.asarray([16, 16, 10]), 4000
    run = jax.jit(lambda seed, alpha, total, most: masking.token_budgets(jax.random.key(seed), alpha, total, most))
    for component, (inputs, targets) in enumerate(
        (([1000.0, 0, 0], [0.5, 0.5, 0.1]), ([0.5, 0.5, 2], [0.5, 0.5, 0.5]))
    ):
        alpha_in, alpha_out = (jnp.tile(jnp.asarray([alpha]), (n, 1)) for alpha in (inputs, targets))
        n_in = run(0, alpha_in, 12, jnp.tile(sizes, (n, 1)))
        n_out = run(1, alpha_out, 20, jnp.where(jnp.asarray([True, True, False]), sizes - n_in, sizes))
        for found, side in ((n_in, "in"), (n_out, "out")):
            np.testing.assert_allclose(found.mean(0), GOLDEN[f"budget/{side}{component}"], atol=0.4)
            np.testing.assert_allclose(found.std(0), GOLDEN[f"budget/{side}{component}std"], atol=0.4)
        assert (np.asarray(n_in).sum(1) <= 12).all()
    one = run(0, jnp.tile(jnp.asarray([[0.5, 0.5, 0.5]]), (n, 1)), 1, jnp.tile(sizes, (n, 1)))
    assert (np.asarray(one).sum(1) == 1).all()


def test_each_token_is_an_input_or_a_target_at_most_once_and_labels_are_right():
    tokens, m = rows_of("even")
    for b in range(64):
        for i, modality in enumerate(MODALITIES[:2]):
            visible = m.inputs.valid[b] & (m.inputs.modality[b] == i)
            target = m.queries.valid[b] & (m.queries.modality[b] == i)
            ids = tokens[modality.name][b]
            np.testing.assert_array_equal(ids[m.inputs.position[b][visible]], m.inputs.ids[b][visible])
            np.testing.assert_array_equal(ids[m.queries.position[b][target]], m.target_ids[b][target])
            positions = m.inputs.position[b][visible].tolist() + m.queries.position[b][target].tolist()
            assert len(set(positions)) == len(positions)
            assert m.decoder_attention_mask[b][target].sum() == target.sum()
        text = m.queries.valid[b] & (m.queries.modality[b] == 2)
        # Teacher forcing: the target of one query is the id of the next.
        np.testing.assert_array_equal(m.target_ids[b][text][:-1], m.queries.ids[b][text][1:])
        np.testing.assert_array_equal(m.queries.position[b][text], np.arange(text.sum()))
        if text.any():
            assert m.queries.ids[b][text][0] >= SENTINEL
    assert m.inputs.valid.any(1).all()
    assert (m.inputs.ids[~m.inputs.valid] == 0).all() and (m.target_ids[~m.queries.valid] == 0).all()


def test_masks_are_a_function_of_the_key():
    again = jax.tree.map(np.asarray, program()(KEY, batch(), jnp.ones((ROWS, 5), bool)))
    assert jax.tree.all(jax.tree.map(np.array_equal, drawn(), again))
    assert not np.array_equal(drawn().inputs.ids, drawn(seed=5).inputs.ids)


def test_modalities_of_concentration_0_get_no_tokens():
    _, m = rows_of("from rgb")
    assert (m.inputs.modality[m.inputs.valid] == 0).all() and m.inputs.valid.all()
    assert (m.queries.modality[m.queries.valid] != 0).all()


def test_components_are_drawn_by_weight():
    share = np.bincount(component_of_rows(), minlength=7) / ROWS
    np.testing.assert_allclose(share, np.array([4, 1, 1, 1, 1, 1, 1]) / 10, atol=0.04)


def test_mixtures_can_keep_whole_texts():
    ids, m = rows_of("whole caption")
    np.testing.assert_array_equal(m.inputs.valid.sum(1), (ids["caption"] != 0).sum(1))
    ids, m = rows_of("caption")
    assert m.inputs.valid.sum() < 0.9 * (ids["caption"] != 0).sum()


def test_no_targets_where_the_whole_image_is_input():
    _, m = rows_of("rgb to rgb")
    assert m.inputs.valid.all() and not m.queries.valid.any()


def test_a_modality_without_inputs_can_be_a_target():
    _, m = rows_of("from depth")
    assert (m.inputs.modality[m.inputs.valid] == 1).all()
    text = (m.queries.modality == 2) & m.queries.valid
    # No token of the text is an input, so the target is one sentinel and the whole text.
    first = [b for b in range(len(text)) if text[b].any()]
    assert first and all(m.queries.ids[b][text[b]][0] == SENTINEL for b in first)
    assert (m.queries.ids[text] >= SENTINEL).sum() == len(first)


def test_chunks_are_never_split_and_long_texts_stay_within_their_length():
    _, m = rows_of("texts")
    partly = 0
    for b in range(len(m.target_ids)):
        own = m.inputs.ids[b][m.inputs.valid[b] & (m.inputs.modality[b] == 3)].tolist()
        kept = [first in own for first in (5, 6, 7)]
        assert kept == [second in own for second in (12, 13, 14)]
        assert all(own[own.index(i) + 1] == j for i, j in ((5, 12), (6, 13), (7, 14)) if i in own)
        partly += 0 < sum(kept) < 3
    assert partly > 20
    visible, target = ((x.modality == 4) & x.valid for x in (m.inputs, m.queries))
    assert visible.sum(1).max() <= 5 and 1 < target.sum(1).max() <= 6
    assert max(m.inputs.ids[visible].max(), m.target_ids[target].max()) < SHORT.num_embeddings


def test_absent_modalities_get_no_tokens():
    for present in ((1, 0, 1, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 0, 0)):
        m = drawn(present=present)
        for tokens in (m.inputs, m.queries):
            assert {*tokens.modality[tokens.valid].tolist()} <= {*np.flatnonzero(present)}
        assert m.queries.valid.any() == any(present)
        # Components of present modalities alone are unaffected: their rows have inputs.
        assert m.inputs.valid.any(1)[component_of_rows() == 0].all() == any(present)
    assert not m.inputs.ids.any() and not m.target_ids.any() and not m.decoder_attention_mask.any()


def test_ids_outside_the_vocabulary_are_refused():
    tokens = {k: np.asarray(v) for k, v in batch(2).items()}
    check_ids(MODALITIES, tokens)
    for name, shift in (("depth", 3), ("rgb", -7), ("caption", SENTINEL)):
        with pytest.raises(DataError, match=name):
            check_ids(MODALITIES, tokens | {name: tokens[name] + shift})


ONE = alphas(NAMES, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixtures": ()}, "mixtures"), ({"mixtures": (DirichletMixture(alphas(NAMES, 0.0), ONE),)}, "inputs"),
        ({"mixtures": (DirichletMixture(ONE, ()),)}, "targets"), ({"mixtures": (DirichletMixture(alphas(NAMES, 1.0, rgb=-1.0), ONE),)}, "inputs"),
        ({"mixtures": (DirichletMixture(alphas(rbg=1.0), ONE),)}, "did you mean 'rgb'"), ({"mixtures": (replace(EVEN, weight=0.0),)}, "weight"),
        ({"mixtures": (DirichletMixture((*ONE, *ONE), ONE),)}, "once"),
        ({"mixtures": (replace(EVEN, keep=(("rgb", "all"),)),)}, "keep"), ({"mixtures": (replace(EVEN, keep=(("caption", "al"),)),)}, "keep"),
        ({"num_inputs": 0}, "num_input_tokens"), ({"num_targets": 0}, "num_target_tokens"),
    ],
)  # fmt: skip
def test_impossible_mixtures_are_refused(change, message):
    settings = {"modalities": MODALITIES, "mixtures": (EVEN,), "num_inputs": 4, "num_targets": 4} | change
    with pytest.raises(ConfigError, match=message):
        masking.check_mixtures(**settings)


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ((), "modalities"), ((MODALITIES[0],) * 3, "once"), ((TokenModality("x", 5), *MODALITIES[:2]), "grid or a length"),
        ((*MODALITIES[:2], replace(MODALITIES[2], chunk=0)), "chunk"), ((*MODALITIES[:2], replace(MODALITIES[2], chunk=8)), "chunk"),
        ((replace(MODALITIES[0], chunk=2), *MODALITIES[1:]), "chunk"),
    ],
)  # fmt: skip
def test_impossible_modalities_are_refused(modalities, message):
    with pytest.raises(ConfigError, match=message):
        check_modalities(modalities)

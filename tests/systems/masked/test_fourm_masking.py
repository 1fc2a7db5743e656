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
from mmrep.systems.masked.fourm.tokens import TokenModality, check_ids, check_modalities, truncate

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "fourm.npz")
SENTINEL = 20
MODALITIES = (
    TokenModality("rgb", 7, (4, 4)), TokenModality("depth", 5, (4, 4)), TokenModality("caption", SENTINEL, length=8),
)  # fmt: skip
NAMES = tuple(m.name for m in MODALITIES)
EVEN = DirichletMixture(alphas(NAMES), alphas(NAMES))
KEY = jax.random.key(0)


def padded(ids, length=8):
    return jnp.asarray([list(ids) + [0] * (length - len(ids))], jnp.int32)


def texts(n, length=8):
    rng = np.random.default_rng(0)
    words = rng.integers(5, SENTINEL, (n, length))
    at, size = np.arange(length), rng.integers(1, length + 1, (n, 1))
    return jnp.asarray(np.where(at < size - 1, words, np.where(at == size - 1, 2, 0)), jnp.int32)


def batch(n):
    rng = np.random.default_rng(1)
    images = {s.name: jnp.asarray(rng.integers(0, s.vocab_size, (n, 16)), jnp.int32) for s in MODALITIES[:2]}
    return images | {"caption": texts(n)}


@cache
def compiled(mixtures, num_inputs, num_targets, modalities):
    return jax.jit(
        lambda key, ids, present: masking.mask_tokens(key, ids, modalities, mixtures, num_inputs, num_targets, present)
    )


def drawn(n=64, mixtures=(EVEN,), num_inputs=12, num_targets=14, modalities=MODALITIES, key=KEY, present=None):
    ids = batch(n)
    run = compiled(mixtures, num_inputs, num_targets, modalities)
    return ids, jax.tree.map(np.asarray, run(key, ids, present))


@pytest.mark.parametrize("row", range(3))
def test_spans_equal_the_authors(row):
    ids, dropped = GOLDEN[f"words{row}"], GOLDEN[f"drop{row}"].astype(bool)
    flags = jnp.zeros((1, 8), bool).at[0, : len(ids)].set(dropped)
    found = masking.mask_spans(padded(ids), flags, SENTINEL)
    np.testing.assert_array_equal(found.inputs[0, : found.num_inputs[0]], GOLDEN[f"span/in{row}"])
    np.testing.assert_array_equal(found.targets[0, : found.num_targets[0]], GOLDEN[f"span/out{row}"])


def test_spans_by_hand():
    found = masking.mask_spans(jnp.asarray([[5, 6, 7, 8]]), jnp.asarray([[False, True, True, False]]), 20)
    np.testing.assert_array_equal(found.inputs[0], [5, 20, 8, 0])
    np.testing.assert_array_equal(found.targets[0], [20, 6, 7, 21, 0, 0])


@pytest.mark.parametrize(
    ("case", "num_inputs", "num_targets", "keep"), [(0, 0, 5, "random"), (1, 0, 20, "random"), (2, 9, 4, "all"), (3, 0, 0, "random"), (4, 1, 3, "all")]
)  # fmt: skip
def test_whole_texts_equal_the_authors(case, num_inputs, num_targets, keep):
    ids = padded([5, 6, 7, 8, 9, 10, 11, 2])
    dropped = masking.span_mask(KEY, ids, jnp.asarray([num_inputs]), keep, max_tries=100)
    found = masking.mask_spans(ids, dropped, SENTINEL)
    start, length = masking.target_window(KEY, found, jnp.asarray([num_targets]), SENTINEL)
    size = int(found.num_inputs[0]) if num_inputs else 0
    np.testing.assert_array_equal(found.inputs[0, :size], GOLDEN[f"text{case}/in"])
    np.testing.assert_array_equal(
        found.targets[0, int(start[0]) : int(start[0] + length[0])], GOLDEN[f"text{case}/out"]
    )


def test_lengths_under_a_budget_have_the_authors_distribution():
    n = 6000
    ids = jnp.broadcast_to(padded([5, 6, 7, 8, 9, 10, 11, 2]), (n, 8))
    found = masking.mask_spans(ids, masking.span_mask(KEY, ids, jnp.full(n, 5)), SENTINEL)
    _, length = masking.target_window(jax.random.key(1), found, jnp.full(n, 4), SENTINEL)
    inside = np.arange(8) < np.asarray(found.num_inputs)[:, None]
    means = found.num_inputs.mean(), length.mean(), ((np.asarray(found.inputs) >= SENTINEL) & inside).sum(1).mean()
    np.testing.assert_allclose(means, GOLDEN["text/mean"], atol=0.07)
    assert found.num_inputs.max() <= 5 and length.max() <= 4


def test_a_long_target_starts_at_a_sentinel_but_never_the_last():
    ids = jnp.broadcast_to(padded([5, 6, 7, 8, 9, 10, 11, 2]), (400, 8))
    dropped = jnp.broadcast_to(jnp.asarray([True, False, True, True, False, True, True, True]), ids.shape)
    found = masking.mask_spans(ids, dropped, SENTINEL)
    np.testing.assert_array_equal(found.targets[0], [20, 5, 21, 7, 8, 22, 10, 11, 2, 23])
    start, length = masking.target_window(KEY, found, jnp.full(400, 3), SENTINEL)
    assert set(np.asarray(start).tolist()) == {0, 2, 5} and (np.asarray(length) == 3).all()
    # 6 tokens: from the third sentinel only 5 are left, so the earliest sentinel whose rest fits is taken, which is that one.
    start, length = masking.target_window(KEY, found, jnp.full(400, 6), SENTINEL)
    assert {*zip(np.asarray(start).tolist(), np.asarray(length).tolist())} == {(0, 6), (2, 6), (5, 5)}


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


@pytest.mark.parametrize("component", [0, 1])
def test_budgets_have_the_authors_distribution(component):
    n, sizes = 4000, jnp.asarray([16, 16, 10])
    alpha_in = jnp.asarray([[1000.0, 0, 0], [0.5, 0.5, 2]][component])
    alpha_out = jnp.asarray([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5]][component])
    n_in = jax.jit(lambda k: masking.token_budgets(k, jnp.broadcast_to(alpha_in, (n, 3)), 12, sizes))(KEY)
    left = jnp.where(jnp.asarray([True, True, False]), sizes - n_in, sizes)
    n_out = masking.token_budgets(jax.random.key(1), jnp.broadcast_to(alpha_out, (n, 3)), 20, left)
    for found, side in ((n_in, "in"), (n_out, "out")):
        np.testing.assert_allclose(found.mean(0), GOLDEN[f"budget/{side}{component}"], atol=0.4)
        np.testing.assert_allclose(found.std(0), GOLDEN[f"budget/{side}{component}std"], atol=0.4)
    assert (np.asarray(n_in).sum(1) <= 12).all()


def test_each_token_is_an_input_or_a_target_at_most_once_and_labels_are_right():
    tokens, m = drawn()
    for b in range(64):
        for t, s in enumerate(MODALITIES[:2]):
            seen = m.inputs.valid[b] & (m.inputs.modality[b] == t)
            target = m.queries.valid[b] & (m.queries.modality[b] == t)
            ids = np.asarray(tokens[s.name][b])
            np.testing.assert_array_equal(ids[m.inputs.position[b][seen]], m.inputs.ids[b][seen])
            np.testing.assert_array_equal(ids[m.queries.position[b][target]], m.target_ids[b][target])
            positions = m.inputs.position[b][seen].tolist() + m.queries.position[b][target].tolist()
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
    (_, a), (_, b), (_, c) = drawn(), drawn(), drawn(key=jax.random.key(5))
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b)) and not np.array_equal(a.inputs.ids, c.inputs.ids)


def test_modalities_of_concentration_0_get_no_tokens():
    _, m = drawn(mixtures=(DirichletMixture(alphas(rgb=1000.0), alphas(("depth", "caption"))),))
    assert (m.inputs.modality[m.inputs.valid] == 0).all() and (m.inputs.valid.sum(1) == 12).all()
    assert (m.queries.modality[m.queries.valid] != 0).all()


def test_mixtures_are_drawn_by_weight():
    all_three = alphas(NAMES, 1.0)
    pair = DirichletMixture(alphas(rgb=1.0), all_three, weight=3.0), DirichletMixture(alphas(depth=1.0), all_three)
    _, m = drawn(n=800, mixtures=pair)
    assert 0.7 < (m.inputs.modality[:, 0] == 0).mean() < 0.8


def test_mixtures_can_keep_whole_texts():
    only = alphas(caption=1.0), alphas(("rgb", "depth"), 1.0)
    both = DirichletMixture(*only), DirichletMixture(*only, keep=(("caption", "all"),))
    alone = [drawn(200, (m,), num_inputs=9)[1].inputs.valid.sum(1) for m in both]
    lengths = np.asarray(batch(200)["caption"] != 0).sum(1)
    np.testing.assert_array_equal(alone[1], lengths)
    assert alone[0].mean() < 0.9 * lengths.mean()
    share = float((drawn(200, both, num_inputs=9)[1].inputs.valid.sum(1) == lengths).mean())
    least = float((alone[0] == lengths).mean())
    assert abs(share - (1 + least) / 2) < 0.12


def test_one_token_budgets():
    _, m = drawn(n=200, num_inputs=1, num_targets=1)
    assert (m.inputs.valid.sum(1) == 1).all()
    text = m.inputs.modality[:, 0] == 2
    assert text.any() and (m.inputs.ids[text, 0] == SENTINEL).mean() > 0.8
    # A text's single target is a sentinel, which is not predicted.
    assert not (m.queries.modality[m.queries.valid] == 2).any()


def test_no_targets_where_the_input_took_the_whole_image():
    _, m = drawn(mixtures=(DirichletMixture(alphas(rgb=1.0), alphas(rgb=1.0)),), num_inputs=16)
    assert m.inputs.valid.all() and not m.queries.valid.any()


def test_an_empty_text_is_its_end():
    ids = padded([2])
    for keep, n in (("all", 1), ("random", 1), ("random", 0)):
        found = masking.mask_spans(ids, masking.span_mask(KEY, ids, jnp.asarray([n]), keep), SENTINEL)
        assert found.num_inputs[0] == 1 and found.inputs[0, 0] in (2, SENTINEL)
    assert not np.isnan(np.asarray(found.targets)).any()


def test_a_long_text_is_cut_and_keeps_its_end():
    ids = jnp.asarray([[1, 5, 6, 7, 8, 2], [1, 5, 2, 0, 0, 0]])
    np.testing.assert_array_equal(truncate(ids, 3), [[5, 6, 2], [5, 2, 0]])
    np.testing.assert_array_equal(truncate(ids[:, 1:], 5), [[5, 6, 7, 8, 2], [5, 2, 0, 0, 0]])
    np.testing.assert_array_equal(truncate(ids, 8)[1], [5, 2, 0, 0, 0, 0, 0, 0])


def test_sentinels_never_run_out():
    ids = padded([5] * 7 + [2])
    worst = jnp.asarray([[True, False] * 4])
    found = masking.mask_spans(ids, worst, SENTINEL)
    assert int(found.targets.max()) < MODALITIES[2].num_embeddings == SENTINEL + 5


def test_absent_modalities_get_no_budget():
    present = jnp.asarray(np.tile([[True, False, True], [False, True, False]], (32, 1)))
    _, m = drawn(present=present)
    for t in range(3):
        absent = ~np.asarray(present)[:, t]
        for tokens in (m.inputs, m.queries):
            assert not ((tokens.modality == t) & tokens.valid)[absent].any()
    assert m.inputs.valid.any(1).all()


def test_ids_outside_the_vocabulary_are_refused():
    tokens = {k: np.asarray(v) for k, v in batch(2).items()}
    check_ids(MODALITIES, tokens)
    tokens["depth"] = tokens["depth"] + 3
    with pytest.raises(DataError, match="depth"):
        check_ids(MODALITIES, tokens)


# From apple/ml-4m at cda590f, chunk_span_masking with its draws replaced: chunks, which of them are dropped, inputs, targets.
CHUNKED = [
    ([[5, 6], [7, 8], [9, 10], [2]], [0, 1, 1, 0], [5, 6, 20, 2], [20, 7, 8, 9, 10, 21]),
    ([[5, 6], [7, 8], [9, 10], [2]], [1, 0, 1, 0], [20, 7, 8, 21, 2], [20, 5, 6, 21, 9, 10, 22]),
    ([[5, 6], [7, 8], [9, 10], [2]], [1, 0, 0, 1], [20, 7, 8, 9, 10, 21], [20, 5, 6, 21, 2, 22]),
    ([[5, 6], [7, 8], [9, 10], [2]], [1, 1, 1, 1], [20], [20, 5, 6, 7, 8, 9, 10, 2, 21]),
    ([[5, 6], [2]], [0, 0], [5, 6, 2], [20]),
    ([[5, 6, 7], [8, 9, 10], [2]], [0, 1, 1], [5, 6, 7, 20], [20, 8, 9, 10, 2, 21]),
]


@pytest.mark.parametrize(("chunks", "dropped", "inputs", "targets"), CHUNKED)
def test_chunked_spans_equal_the_authors(chunks, dropped, inputs, targets):
    ids = [i for c in chunks for i in c]
    flags = [bool(d) for c, d in zip(chunks, dropped) for _ in c]
    flags = jnp.asarray([flags + [False] * (8 - len(flags))])
    found = masking.mask_spans(padded(ids), flags, SENTINEL)
    np.testing.assert_array_equal(found.inputs[0, : found.num_inputs[0]], inputs)
    np.testing.assert_array_equal(found.targets[0, : found.num_targets[0]], targets)


@pytest.mark.parametrize("chunk", [2, 3])
def test_chunks_are_masked_whole_and_the_end_alone(chunk):
    n, size = 500, 6
    ids = jnp.broadcast_to(padded([5, 6, 7, 8, 9, 10, 2], 9), (n, 9))
    dropped = np.asarray(masking.span_mask(KEY, ids, jnp.full(n, 9), chunk=chunk))
    assert not dropped[:, 7:].any()
    whole = dropped[:, :size].reshape(n, -1, chunk)
    assert (whole == whole[..., :1]).all()
    each = np.concatenate([whole[..., 0], dropped[:, 6:7]], axis=1)
    # k ~ U(0, 1): each chunk and the end are dropped half of the time, and not together.
    np.testing.assert_allclose(each.mean(0), 0.5, atol=0.08)
    assert len({*map(tuple, each.tolist())}) == 2 ** each.shape[1]
    plain = masking.span_mask(KEY, ids, jnp.full(n, 9))
    np.testing.assert_array_equal(plain, masking.span_mask(KEY, ids, jnp.full(n, 9), chunk=1))


def test_chunks_fit_their_budget():
    n = 400
    ids = jnp.broadcast_to(padded([5, 6, 7, 8, 9, 10, 2]), (n, 8))
    for budget in (1, 2, 3, 5):
        for keep in ("random", "all", "binary"):
            dropped = masking.span_mask(KEY, ids, jnp.full(n, budget), keep, chunk=2)
            found = masking.mask_spans(ids, dropped, SENTINEL)
            assert found.num_inputs.max() <= budget and found.num_inputs.min() >= 1
    # One token is too few for a pair: it is the sentinel of everything.
    found = masking.mask_spans(ids, masking.span_mask(KEY, ids, jnp.full(n, 1), chunk=2), SENTINEL)
    assert (found.inputs[:, 0] == SENTINEL).all() and (found.num_targets == 9).all()


def test_chunks_beyond_the_length_are_cut():
    body = jnp.asarray([[1, 5, 6, 7, 8, 9, 10, 2], [1, 5, 6, 7, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0], [0] * 8])
    found = truncate(body, 6, chunk=2)
    # Two pairs and the end; the tokenizer's half pair goes; an empty text is its end, no text is nothing.
    np.testing.assert_array_equal(found, [[5, 6, 7, 8, 2, 0], [5, 6, 2, 0, 0, 0], [2, 0, 0, 0, 0, 0], [0] * 6])
    np.testing.assert_array_equal(truncate(body, 7, chunk=2)[0], [5, 6, 7, 8, 9, 10, 2])
    np.testing.assert_array_equal(truncate(body, 7, chunk=3)[0], [5, 6, 7, 8, 9, 10, 2])


def test_chunks_are_never_split():
    modalities = (replace(MODALITIES[2], name="pairs", chunk=2), replace(MODALITIES[2], name="loose"))
    pairs = jnp.asarray([[1, 5, 12, 6, 13, 7, 14, 2]] * 300, jnp.int32)
    even = (DirichletMixture(alphas(("pairs", "loose"), 1.0), alphas(("pairs", "loose"), 1.0)),)
    run = jax.jit(lambda k, t: masking.mask_tokens(k, t, modalities, even, 12, 20))
    m = jax.tree.map(np.asarray, run(KEY, {"pairs": pairs, "loose": pairs}))
    parted = [0, 0]
    for t in (0, 1):
        for b in range(300):
            ids = m.inputs.ids[b][m.inputs.valid[b] & (m.inputs.modality[b] == t)].tolist()
            for first, second in ((5, 12), (6, 13), (7, 14)):
                parted[t] += (first in ids) != (second in ids)
                assert t or first not in ids or ids[ids.index(first) + 1] == second
    assert parted[0] == 0 and parted[1] > 100


def test_text_alone_gives_text_alone_and_no_modality_gives_padding():
    present = jnp.asarray([[False, False, True]] * 60 + [[False] * 3] * 4)
    _, m = drawn(present=present)
    assert (m.inputs.modality[m.inputs.valid] == 2).all() and (m.queries.modality[m.queries.valid] == 2).all()
    assert m.inputs.valid[:60].any(1).all() and m.queries.valid[:60].any()
    assert not m.inputs.valid[60:].any() and not m.queries.valid[60:].any()
    assert (
        (m.inputs.ids[60:] == 0).all() and (m.target_ids[60:] == 0).all() and (m.decoder_attention_mask[60:] == 0).all()
    )


def test_a_modality_without_inputs_can_be_a_target():
    _, m = drawn(n=100, mixtures=(DirichletMixture(alphas(depth=1.0), alphas(("rgb", "caption"), 1.0)),))
    assert (m.inputs.modality[m.inputs.valid] == 1).all()
    text = (m.queries.modality == 2) & m.queries.valid
    # No token of the text is an input, so the target is one sentinel and the whole text.
    first = [b for b in range(100) if text[b].any()]
    assert first and all(m.queries.ids[b][text[b]][0] == SENTINEL for b in first)
    assert ((m.queries.ids[text] >= SENTINEL).sum()) == len(first)


def test_a_budget_of_one_image_target():
    _, m = drawn(n=100, num_inputs=1, num_targets=1, mixtures=(DirichletMixture(alphas(rgb=1.0), alphas(depth=1.0)),))
    assert (m.queries.valid.sum(1) == 1).all() and (m.decoder_attention_mask[m.queries.valid] == 1).all()


def test_over_long_texts_stay_within_their_length():
    modalities = (MODALITIES[0], MODALITIES[1], TokenModality("caption", SENTINEL, length=5))
    _, m = drawn(n=200, modalities=modalities, num_inputs=30, num_targets=40)
    text = (m.inputs.modality == 2) & m.inputs.valid
    assert text.sum(1).max() <= 5
    target = (m.queries.modality == 2) & m.queries.valid
    assert (
        1 < target.sum(1).max() <= 5
    )  # of a budget of 5: the sentinel and four tokens, the first without a query of its own
    assert max(m.inputs.ids[text].max(), m.target_ids[target].max()) < modalities[2].num_embeddings


def test_ids_below_zero_are_refused():
    tokens = {k: np.asarray(v) for k, v in batch(2).items()}
    for name, shift in (("rgb", -7), ("caption", SENTINEL)):
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

"""Generation with a hand-made model whose logits are known, and with a small 4M."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.modality import BOS, EOS, PAD
from mmrep.systems.masked import fourm
from mmrep.systems.masked.fourm.decode import (
    TokenInfer,
    append_open_span,
    condition,
    emptied,
    encoder_inputs,
    generate,
    init_empty_target,
    merge_spans,
    num_compiled,
)  # fmt: skip
from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas
from mmrep.systems.masked.fourm.schedules import Guidance, Target, chained_schedule
from mmrep.systems.masked.fourm.tokens import TokenModality, Tokens

MODALITIES = TokenModality("rgb", 8, (3, 3)), TokenModality("depth", 6, (2, 2)), TokenModality("caption", 12, length=6)
KEY = jax.random.key(0)


def known(n=2, **ids):
    return condition(init_empty_target(MODALITIES, tuple(ids), n), MODALITIES, ids)


@cache
def functions():
    """Predicts (position + sum of the known ids of all modalities, where params["use"]) modulo the vocabulary; for texts 5, 6, EOS, sentinel."""

    def encode(params, tokens, values):
        return jnp.where(tokens.valid, tokens.ids, 0).sum(1)[:, None, None].astype(jnp.float32)

    def logits(params, context, inputs, queries, attention_mask, i):
        m = MODALITIES[i]
        target = (queries.position + context[:, 0, :1].astype(jnp.int32) * params["use"]) % m.vocab_size
        if m.is_sequence:
            text = jnp.asarray([5, 6, EOS, m.sentinel + 1] + [5] * (2 * m.length))
            target = text[queries.position] * jnp.ones_like(queries.ids)
        return params["scale"] * jax.nn.one_hot(target, m.num_embeddings)

    def init_cache(params, context, inputs, length):
        return context, inputs

    def decode_step(params, state, query, i):
        return logits(params, *state, query, None, i)[:, 0], state

    return TokenInfer(MODALITIES, {}, encode, logits, init_cache, decode_step)


def oracle(scale=50.0, use=0):
    return functions()._replace(params={"scale": jnp.float32(scale), "use": jnp.int32(use)})


@pytest.mark.parametrize("scheme", ["maskgit", "roar"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_images_are_decoded_step_by_step(scheme, temperature):
    counts = []
    target = Target("rgb", scheme, 4, temperature=temperature)
    empty = init_empty_target(MODALITIES, ["rgb"], 2)
    found = generate(oracle(), empty, [target], KEY, lambda name, _, state: counts.append(int(state[name].known.sum())))
    np.testing.assert_array_equal(found["rgb"].ids, [np.arange(9) % 8] * 2)
    assert counts[-1] == 18 and counts == sorted(counts) and len(counts) == 4


def test_schedules_of_other_numbers_compile_nothing():
    empty = init_empty_target(MODALITIES, ["rgb"], 1)
    generate(oracle(), empty, [Target("rgb", decoding_steps=3)], KEY)
    before = num_compiled()
    for settings in (
        {"decoding_steps": 8, "temperature": 0.3, "top_k": 3.0},
        {"top_p": 0.9, "temperature_schedule": "linear"},
    ):
        generate(oracle(), empty, [Target("rgb", **settings)], KEY)
    assert num_compiled() == before


def test_in_painting_keeps_the_given_tokens():
    ids, mask = np.full((2, 9), 7, np.int32), np.tile(np.arange(9) < 5, (2, 1))
    empty = init_empty_target(MODALITIES, ["rgb"], 2)
    state = condition(empty, MODALITIES, {"rgb": ids}, known={"rgb": mask})
    found = generate(oracle(), state, [Target("rgb", "roar", 2)], KEY)["rgb"].ids
    np.testing.assert_array_equal(found, [[7] * 5 + [5, 6, 7, 0]] * 2)
    mask[0, 0] = False
    uneven = condition(empty, MODALITIES, {"rgb": ids}, known={"rgb": mask})
    with pytest.raises(ConfigError, match="rows have"):
        generate(oracle(), uneven, [Target("rgb")], KEY)


def test_texts_are_generated_and_open_spans_filled():
    text = [Target("caption", "autoregressive")]
    found = generate(oracle(), init_empty_target(MODALITIES, ["caption"], 2), text, KEY)["caption"]
    np.testing.assert_array_equal(found.ids, [[5, 6, EOS, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(found.known[0], [1, 1, 1, 0, 0, 0])
    found = generate(oracle(), known(caption=np.array([[9, 12, 0, 0, 0, 0]] * 2)), text, KEY)["caption"]
    np.testing.assert_array_equal(found.ids, [[9, 5, 6, EOS, 0, 0]] * 2)


def test_spans_replace_their_sentinels():
    assert merge_spans([20, 7, 21], [20, 5, 21, 8, 9, 22], 20) == [5, 7, 8, 9]
    assert merge_spans([20, 7], [20, 21], 20) == [7]
    assert merge_spans([20], [20, 5, EOS, 6, 21], 20) == [5, EOS]


def test_an_open_span_is_a_sentinel_before_the_end():
    np.testing.assert_array_equal(append_open_span(np.array([BOS, 7, 8, EOS, PAD]), 20), [BOS, 7, 8, 20, EOS])
    np.testing.assert_array_equal(append_open_span(np.array([BOS, 7, 8, EOS]), 20), [BOS, 7, 8, 20])


def test_generated_modalities_condition_the_next():
    schedule = chained_schedule(["rgb", "caption"], decoding_steps=1, temperature=0.0, sequences=("caption",))
    found = generate(oracle(use=1), {"depth": np.ones((2, 4), np.int32)}, schedule, KEY)
    # The ids of depth sum to 4.
    np.testing.assert_array_equal(found["rgb"].ids[0], (np.arange(9) + 4) % 8)
    assert set(found) == {"depth", "rgb", "caption"}


def test_guidance_empties_its_domains_and_scales_the_difference():
    state = known(depth=np.ones((2, 4), np.int32), caption=np.array([[5, EOS, 0, 0, 0, 0]] * 2))
    plain = emptied(state, MODALITIES, ("depth", "caption"))
    assert not plain["depth"].known.any()
    assert plain["caption"].ids[0, 0] == 12 and plain["caption"].known.sum(1).tolist() == [1, 1]
    given = {"depth": np.ones((2, 4), np.int32)}
    # Towards the conditional target (position + 4), away from it.
    for scale, shift in ((3.0, 4), (-1.0, 0)):
        target = Target("rgb", decoding_steps=1, temperature=0.0, guidance=(Guidance(("depth",), scale),))
        found = generate(oracle(scale=1.0, use=1), given, [target], KEY)["rgb"].ids[0]
        np.testing.assert_array_equal(found, (np.arange(9) + shift) % 8)


SMALL = replace(fourm.BASE, width=16, depth=1, heads=2)
EVEN = DirichletMixture(alphas(["rgb", "depth", "caption"]), alphas(["rgb", "depth", "caption"]))
CONFIG = fourm.Config(
    MODALITIES, (EVEN,), num_input_tokens=6, num_target_tokens=6, encoder=SMALL, decoder=replace(SMALL, depth=2)
)
DEPTH = np.arange(8).reshape(2, 4) % 6


@cache
def small():
    params = jax.jit(CONFIG.model().init)(KEY)
    # Larger embeddings of words than of sentinels: texts do not end at once.
    words = jnp.where(jnp.arange(16)[:, None] < 12, 20 * params["decoder_embeddings"]["caption"], 0)
    params["decoder_embeddings"]["caption"] = words
    return fourm.token_infer(CONFIG, params)


@cache
def logits_of(i):
    """(mod_dict of rgb, depth and caption, queries, decoder_attention_mask) -> logits of modality i."""
    infer = small()

    def run(mod_dict, queries, attention_mask):
        tokens, values = encoder_inputs(mod_dict, MODALITIES)
        context = infer.encode(infer.params, tokens, values)
        return infer.logits(infer.params, context, tokens, queries, attention_mask, i)

    return jax.jit(run)


def all_modalities(**ids):
    """Rows of different lengths: some of the context is padding."""
    return init_empty_target(MODALITIES, [m.name for m in MODALITIES], 2) | known(**ids)


def text_queries(ids):
    position = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    return Tokens(ids, jnp.full_like(ids, 2), position, jnp.ones(ids.shape, bool))


def test_guidance_follows_its_formula():
    state = all_modalities(depth=DEPTH)
    position = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32), (2, 9))
    queries = Tokens(jnp.zeros_like(position), jnp.zeros_like(position), position, jnp.ones(position.shape, bool))
    states = state, emptied(state, MODALITIES, ("depth",))
    conditional, plain = (logits_of(0)(x, queries, None) for x in states)
    target = Target("rgb", decoding_steps=1, temperature=0.0, guidance=(Guidance(("depth",), 40.0),))
    found = generate(small(), state, [target], KEY)["rgb"].ids
    np.testing.assert_array_equal(found, (plain + 40.0 * (conditional - plain)).argmax(-1))


def test_rows_are_independent_and_keys_decide():
    infer = small()

    def run(depth, key=KEY, **settings):
        return np.asarray(generate(infer, {"depth": depth}, [Target("rgb", **settings)], key)["rgb"].ids)

    other = np.concatenate([DEPTH[:1], DEPTH[1:] * 0])
    cold = {"scheme": "roar", "decoding_steps": 3, "temperature": 0.0}
    np.testing.assert_array_equal(run(DEPTH, **cold)[:1], run(other, **cold)[:1])
    np.testing.assert_array_equal(run(DEPTH, decoding_steps=3), run(DEPTH, decoding_steps=3))
    assert (run(DEPTH, decoding_steps=3) != run(DEPTH, jax.random.key(1), decoding_steps=3)).any()


def test_decoding_with_a_cache_equals_decoding_at_once():
    infer, state = small(), all_modalities(caption=np.array([[9, 8, 7, 2, 0, 0], [5, 2, 0, 0, 0, 0]]))
    ids = jnp.asarray([[12, 5, 6, 2, 0, 0, 0, 0], [12, 7, 5, 9, 0, 0, 0, 0]], jnp.int32)
    whole = logits_of(2)(state, text_queries(ids), jnp.ones_like(ids))

    @jax.jit
    def start(mod_dict):
        tokens, values = encoder_inputs(mod_dict, MODALITIES)
        return infer.init_cache(infer.params, infer.encode(infer.params, tokens, values), tokens, 8)

    step = jax.jit(lambda cache, query: infer.decode_step(infer.params, cache, query, 2))
    cache = start(state)
    for i in range(4):
        query = jax.tree.map(lambda x, i=i: x[:, i : i + 1], text_queries(ids))
        logits, cache = step(cache, query)
        np.testing.assert_allclose(logits, whole[:, i], rtol=1e-4, atol=1e-5)


def test_generated_texts_equal_those_of_full_passes():
    given = all_modalities(depth=DEPTH)
    state = emptied(given, MODALITIES, ("caption",))
    ids = jnp.zeros((2, 8), jnp.int32).at[:, 0].set(12)
    for i in range(7):
        logits = logits_of(2)(state, text_queries(ids), jnp.ones_like(ids))
        ids = ids.at[:, i + 1].set(logits[:, i, 1:].argmax(-1) + 1)
    found = generate(small(), given, [Target("caption", "autoregressive", temperature=0.0)], KEY)["caption"].ids
    for row, expected in zip(np.asarray(found), np.asarray(ids)[:, 1:7]):
        end = list(expected).index(EOS) + 1 if EOS in expected else 6
        np.testing.assert_array_equal(row[:end], expected[:end])
    assert (found[:, 0] > 0).all()


def test_generation_by_name_takes_and_returns_arrays():
    made = oracle(use=1).generate({"depth": DEPTH}, ["rgb", "caption"], decoding_steps=2, temperature=0.0, guidance=2.0)
    assert made["rgb"].shape == (2, 9) and made["caption"].tolist() == [[5, 6, EOS, 0, 0, 0]] * 2
    assert oracle().generate({}, ["depth"], batch_size=3, decoding_steps=1)["depth"].shape == (3, 4)
    for given, targets, message in (
        ({"depht": DEPTH}, ["rgb"], "did you mean 'depth'"), ({"depth": DEPTH}, ["rbg"], "did you mean 'rgb'"),
        ({"depth": DEPTH}, ["depth"], "leave one out"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            oracle().generate(given, targets)
    with pytest.raises(ConfigError, match="which is not given"):
        oracle().generate({"depth": DEPTH}, ["rgb"], scales={"caption": 2.0})


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([Target("rbg")], "did you mean"), ([Target("rgb", "autoregressive")], "maskgit or roar"),
        ([Target("caption")], "autoregressive"), ([Target("rgb", guidance=(Guidance(("depht",)),))], "guidance"),
    ],
)  # fmt: skip
def test_impossible_schedules_are_refused(schedule, message):
    with pytest.raises(ConfigError, match=message):
        generate(oracle(), {"depth": np.zeros((1, 4), np.int32)}, schedule, KEY)


def test_conditions_that_are_no_tokens_are_refused():
    with pytest.raises(DataError, match="vocabulary"):
        known(1, depth=np.full((1, 4), 6, np.int32))
    with pytest.raises(DataError, match="has 4"):
        known(1, depth=np.zeros((1, 5), np.int32))

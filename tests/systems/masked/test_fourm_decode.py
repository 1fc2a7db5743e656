"""Generation with a hand-made model that always knows what it wants, and with a small 4M."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.modality import EOS
from mmrep.systems.masked import fourm
from mmrep.systems.masked.fourm.canvas import Canvas, blank, emptied, fill, inputs, merge_spans
from mmrep.systems.masked.fourm.decode import TokenInfer, compiled, generate
from mmrep.systems.masked.fourm.masking import Mixture, Stream, Tokens
from mmrep.systems.masked.fourm.model import BASE
from mmrep.systems.masked.fourm.schedules import Guide, Target, chain

STREAMS = Stream("rgb", 8, (3, 3)), Stream("depth", 6, (2, 2)), Stream("caption", 12, length=6)
KEY = jax.random.key(0)


def oracle(streams=STREAMS):
    """Says (place + what is known of the other streams) modulo the vocabulary; in a text, 5, 6, EOS and the next sentinel."""

    def encode(params, tokens, patches):
        return jnp.where(tokens.valid, tokens.ids, 0).sum(1)[:, None, None].astype(jnp.float32)

    def logits(params, context, given, queries, reach, t):
        s = streams[t]
        want = (queries.place + context[:, 0, :1].astype(jnp.int32) * params["use"]) % s.vocab
        if s.length:
            script = jnp.asarray([5, 6, EOS, s.vocab + 1] + [5] * (2 * s.length))
            want = script[queries.place] * jnp.ones_like(queries.ids)
        return params["sure"] * jax.nn.one_hot(want, s.rows)

    def begin(params, context, given, length):
        return context, given

    def read(params, memory, query, t):
        return logits(params, *memory, query, None, t)[:, 0], memory

    return TokenInfer(streams, encode, logits, begin, read, {"sure": jnp.float32(50.0), "use": jnp.int32(0)})


@pytest.mark.parametrize("scheme", ["maskgit", "roar"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_image_is_decided_place_by_place(scheme, temperature):
    seen = []
    watch = lambda name, step, canvas: seen.append(int(canvas.known[name].sum()))  # noqa: E731
    found = generate(
        oracle(), blank(STREAMS, ["rgb"], 2), ["rgb"], [Target("rgb", scheme, 4, temperature=temperature)], KEY, watch
    )
    np.testing.assert_array_equal(found.ids["rgb"], [np.arange(9) % 8] * 2)
    assert seen[-1] == 18 and seen == sorted(seen) and len(seen) == 4


def test_a_schedule_compiles_once_whatever_its_numbers():
    infer = oracle()
    generate(infer, blank(STREAMS, ["rgb"], 1), None, [Target("rgb", steps=3)], KEY)
    before = compiled()
    for x in (Target("rgb", steps=8, temperature=0.3, top_k=3), Target("rgb", steps=2, top_p=0.9, cooling="linear")):
        generate(infer, blank(STREAMS, ["rgb"], 1), None, [x], KEY)
    assert compiled() == before


def test_in_painting_keeps_what_is_given():
    given = np.full((2, 9), 7, np.int32)
    known = np.tile(np.arange(9) < 5, (2, 1))
    canvas = fill(blank(STREAMS, ["rgb"], 2), STREAMS, {"rgb": given}, {"rgb": known})
    found = generate(oracle(), canvas, ["rgb"], [Target("rgb", "roar", 2)], KEY).ids["rgb"]
    np.testing.assert_array_equal(found, [[7] * 5 + [5, 6, 7, 0]] * 2)
    known[0, 0] = False
    uneven = fill(blank(STREAMS, ["rgb"], 2), STREAMS, {"rgb": given}, {"rgb": known})
    with pytest.raises(ConfigError, match="rows have"):
        generate(oracle(), uneven, ["rgb"], [Target("rgb")], KEY)


def test_texts_are_written_and_their_spans_filled():
    found = generate(oracle(), blank(STREAMS, ["caption"], 2), None, [Target("caption", "autoregressive")], KEY)
    np.testing.assert_array_equal(found.ids["caption"], [[5, 6, EOS, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(found.known["caption"][0], [1, 1, 1, 0, 0, 0])
    holes = fill(blank(STREAMS, ["caption"], 1), STREAMS, {"caption": np.array([[9, 12, 0, 0, 0, 0]], np.int32)})
    found = generate(oracle(), holes, None, [Target("caption", "autoregressive")], KEY)
    np.testing.assert_array_equal(found.ids["caption"], [[9, 5, 6, EOS, 0, 0]])


def test_spans_merge_at_their_sentinels():
    assert merge_spans([20, 7, 21], [20, 5, 21, 8, 9, 22], 20) == [5, 7, 8, 9]
    assert merge_spans([20, 7], [20, 21], 20) == [7]
    assert merge_spans([20], [20, 5, EOS, 6, 21], 20) == [5, EOS]


def test_what_is_finished_goes_in_for_the_next():
    infer = oracle()
    infer = infer._replace(params=infer.params | {"use": jnp.int32(1)})
    found = generate(infer, {"depth": np.ones((1, 4), np.int32)}, None, chain(["rgb"], steps=1, temperature=0.0), KEY)
    # The known depth sums to 4.
    np.testing.assert_array_equal(found.ids["rgb"][0], (np.arange(9) + 4) % 8)
    both = generate(infer, {"depth": np.zeros((1, 4), np.int32)}, None, chain(["rgb", "caption"], steps=1)[:1], KEY)
    assert set(both.ids) == {"depth", "rgb"}


def test_guidance_empties_its_streams_and_weighs_the_difference():
    infer = oracle()
    infer = infer._replace(params={"sure": jnp.float32(1.0), "use": jnp.int32(1)})
    canvas = fill(blank(STREAMS, ["depth", "caption"], 1), STREAMS, {"depth": np.ones((1, 4), np.int32)})
    plain = emptied(canvas, STREAMS, ("depth", "caption"))
    assert (
        not plain.known["depth"].any() and plain.ids["caption"][0, 0] == 12 and int(plain.known["caption"].sum()) == 1
    )
    # Away from what depth says (place + 4), towards what nothing says (place).
    away = [Target("rgb", steps=1, temperature=0.0, guides=(Guide(("depth",), -1.0),))]
    found = generate(infer, {"depth": np.ones((1, 4), np.int32)}, None, away, KEY)
    np.testing.assert_array_equal(found.ids["rgb"][0], np.arange(9) % 8)
    towards = [Target("rgb", steps=1, temperature=0.0, guides=(Guide(("depth",), 3.0),))]
    found = generate(infer, {"depth": np.ones((1, 4), np.int32)}, None, towards, KEY)
    np.testing.assert_array_equal(found.ids["rgb"][0], (np.arange(9) + 4) % 8)


def small():
    even, shape = (0.5, 0.5, 0.5), replace(BASE, width=16, depth=1, heads=2)
    return fourm.Config(STREAMS, (Mixture(even, even),), n_input=6, n_target=6, encoder=shape, decoder=shape)


def test_guidance_of_a_model_is_the_formula_over_its_own_passes():
    config = small()
    infer = fourm.token_infer(config, config.model().init(KEY))
    given = fill(blank(STREAMS, ["depth", "rgb"], 2), STREAMS, {"depth": np.arange(8).reshape(2, 4) % 6})

    def logits(canvas):
        tokens = inputs(canvas, STREAMS)
        place = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32), (2, 9))
        queries = type(tokens)(jnp.zeros_like(place), jnp.zeros_like(place), place, jnp.ones(place.shape, bool))
        return infer.logits(infer.params, infer.encode(infer.params, tokens, {}), tokens, queries, None, 0)

    mine, plain = logits(given), logits(emptied(given, STREAMS, ("depth",)))
    want = (plain + 40.0 * (mine - plain)).argmax(-1)
    target = Target("rgb", steps=1, temperature=0.0, guides=(Guide(("depth",), 40.0),))
    np.testing.assert_array_equal(generate(infer, given, None, [target], KEY).ids["rgb"], want)


def test_rows_do_not_depend_on_each_other_and_keys_decide():
    config = small()
    infer = fourm.token_infer(config, config.model().init(KEY))
    depth = np.arange(8).reshape(2, 4) % 6
    go = lambda d, key: np.asarray(  # noqa: E731
        generate(infer, {"depth": d}, None, [Target("rgb", "roar", 3, temperature=0.0)], key).ids["rgb"]
    )
    np.testing.assert_array_equal(go(depth, KEY)[:1], go(depth[:1], KEY))
    hot = lambda key: np.asarray(generate(infer, {"depth": depth}, None, [Target("rgb", steps=3)], key).ids["rgb"])  # noqa: E731
    np.testing.assert_array_equal(hot(KEY), hot(KEY))
    assert (hot(KEY) != hot(jax.random.key(1))).any()


@pytest.mark.parametrize("scan", [False, True])
def test_a_text_read_token_by_token_is_the_text_read_at_once(scan):
    config = small()
    encoder, decoder = replace(config.encoder, scan=scan), replace(config.decoder, depth=3, scan=scan)
    config = replace(config, encoder=encoder, decoder=decoder)
    infer = fourm.token_infer(config, config.model().init(KEY))
    # Rows of different lengths, so that some of the context is padding.
    given = fill(
        blank(STREAMS, ["caption"], 2), STREAMS, {"caption": np.array([[9, 8, 7, 2, 0, 0], [5, 2, 0, 0, 0, 0]])}
    )
    tokens = inputs(given, STREAMS)
    context = infer.encode(infer.params, tokens, {})
    ids = jnp.asarray([[12, 5, 6, 2], [12, 7, 5, 9]], jnp.int32)
    place = jnp.broadcast_to(jnp.arange(4, dtype=jnp.int32), ids.shape)
    queries = Tokens(ids, jnp.full_like(ids, 2), place, jnp.ones(ids.shape, bool))
    whole = infer.logits(infer.params, context, tokens, queries, jnp.ones_like(ids), 2)
    memory = infer.begin(infer.params, context, tokens, 7)  # room for more than is read
    for i in range(4):
        said, memory = infer.read(infer.params, memory, jax.tree.map(lambda x, i=i: x[:, i : i + 1], queries), 2)
        np.testing.assert_allclose(said, whole[:, i], rtol=1e-4, atol=1e-5)


def test_a_text_is_written_as_by_reading_all_of_it_again_for_each_word():
    config = small()
    config = replace(config, decoder=replace(config.decoder, depth=2))
    params = config.model().init(KEY)
    params["out"]["caption"] = jnp.where(jnp.arange(16)[:, None] < 12, 20 * params["out"]["caption"], 0)  # goes on
    infer = fourm.token_infer(config, params)
    given = fill(blank(STREAMS, ["depth", "caption"], 2), STREAMS, {"depth": np.arange(8).reshape(2, 4) % 6})
    tokens = inputs(emptied(given, STREAMS, ("caption",)), STREAMS)
    context = infer.encode(params, tokens, {})
    place = jnp.broadcast_to(jnp.arange(8, dtype=jnp.int32), (2, 8))
    ids = jnp.zeros((2, 8), jnp.int32).at[:, 0].set(12)
    for i in range(7):
        queries = Tokens(ids, jnp.full_like(ids, 2), place, jnp.ones(ids.shape, bool))
        said = infer.logits(params, context, tokens, queries, jnp.ones_like(ids), 2)[:, i, 1:].argmax(-1) + 1
        ids = ids.at[:, i + 1].set(said)
    found = generate(infer, given, None, [Target("caption", "autoregressive", temperature=0.0)], KEY).ids["caption"]
    for row, want in zip(np.asarray(found), np.asarray(ids)[:, 1:7]):
        end = list(want).index(EOS) + 1 if EOS in want else 6
        np.testing.assert_array_equal(row[:end], want[:end])
    assert (found[:, 0] > 0).all()


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ([Target("rbg")], "did you mean"), ([Target("rgb", "autoregressive")], "maskgit or roar"),
        ([Target("caption")], "autoregressive"), ([Target("rgb", guides=(Guide(("depht",)),))], "guide"),
    ],
)  # fmt: skip
def test_what_cannot_be_generated_is_refused(schedule, says):
    with pytest.raises(ConfigError, match=says):
        generate(oracle(), {"depth": np.zeros((1, 4), np.int32)}, None, schedule, KEY)


def test_a_canvas_refuses_what_is_no_token():
    empty = blank(STREAMS, ["depth"], 1)
    with pytest.raises(DataError, match="vocabulary"):
        fill(empty, STREAMS, {"depth": np.full((1, 4), 6, np.int32)})
    with pytest.raises(DataError, match="has 4"):
        fill(empty, STREAMS, {"depth": np.zeros((1, 5), np.int32)})
    with pytest.raises(ConfigError, match="name each once"):
        generate(oracle(), Canvas({}, {}, {}), ["rgb"], [Target("depth")], KEY)

"""4M against numbers from the authors' code (apple/ml-4m at cda590f: FourM.forward with hand-made masks, both losses), and its pitfalls."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.config import flatten
from mmrep.errors import ConfigError, DataError
from mmrep.interop.foreign import read_foreign
from mmrep.systems.masked.fourm import Config, masked_loss, token_infer
from mmrep.systems.masked.fourm import masking as spans
from mmrep.systems.masked.fourm.canvas import blank, emptied, fill
from mmrep.systems.masked.fourm.masking import Mixture, Stream, Tokens
from mmrep.systems.masked.fourm.model import BASE
from mmrep.systems.masked.fourm.predict import whole_stream
from mmrep.systems.masked.fourm.tokens import Levels, patches, tokenise
from mmrep.systems.masked.fourm.weights import from_authors, to_authors

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "fourm.npz")
WEIGHTS = {name[2:]: GOLDEN[name] for name in GOLDEN if name.startswith("w/")}
SENTINEL = 20
STREAMS = (Stream("rgb", 7, (4, 4)), Stream("depth", 5, (4, 4)), Stream("caption", SENTINEL, length=8))
EVEN = (Mixture((0.5,) * 3, (0.5,) * 3),)
SHAPE = replace(BASE, width=16, depth=2, heads=2)
CONFIG = Config(
    STREAMS, EVEN, n_input=14, n_target=14, encoder=SHAPE, decoder=SHAPE, weighting="mod"
)  # fmt: skip
KEY = jax.random.key(0)


def params():
    return jax.tree.map(jnp.asarray, from_authors(WEIGHTS, CONFIG))


def masked():
    """The golden batch: masks by hand, spans cut where the authors cut them."""
    parts = []
    for name in ("rgb", "depth"):
        inputs, targets = jnp.asarray(GOLDEN[f"in/{name}"]), jnp.asarray(GOLDEN[f"tgt/{name}"])
        parts.append(spans.image_parts(jnp.asarray(GOLDEN[f"ids/{name}"], jnp.int32), inputs, targets))
    ids, dropped = np.zeros((3, 8), np.int32), np.zeros((3, 8), bool)
    for b in range(3):
        n = len(GOLDEN[f"words{b}"])
        ids[b, :n], dropped[b, :n] = GOLDEN[f"words{b}"], GOLDEN[f"drop{b}"]
    cut = spans.cut_spans(jnp.asarray(ids), jnp.asarray(dropped), SENTINEL)
    parts.append(spans.text_parts(cut, jnp.zeros(3, jnp.int32), cut.n_target.astype(jnp.int32)))
    return spans.collect(parts, 14, 14)


def batch(n=4):
    rng = np.random.default_rng(1)
    maps = {s.name: rng.integers(0, s.vocab, (n, 4, 4)).astype(np.int32) for s in STREAMS[:2]}
    words = rng.integers(5, SENTINEL, (n, 8)).astype(np.int32)
    words[:, 0], words[:, 6], words[:, 7] = 1, 2, 0
    return maps | {"caption": words}


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(("ours_", "theirs"), [("mod", "mod"), ("token_vocab", "token")])
def test_forward_and_losses_are_the_authors(ours_, theirs, grouped):
    config = replace(CONFIG, weighting=ours_, grouped=grouped)
    total, metrics = jax.jit(lambda p: masked_loss(config, config.model(), p, masked()))(params())
    np.testing.assert_allclose(total, GOLDEN[f"loss/{theirs}"], rtol=2e-5)
    for s in STREAMS:
        np.testing.assert_allclose(metrics[s.name], GOLDEN[f"loss/{theirs}/{s.name}"], rtol=2e-5)


def test_logits_are_the_authors():
    m, model, p = masked(), CONFIG.model(), params()
    encoded, _ = model.encode(p, m.inputs)
    y = model.decode(p, encoded, m.inputs, m.queries, m.reach)
    real = np.asarray(m.queries.valid)
    assert real.sum() > 20 and not real.all() and not np.asarray(m.inputs.valid).all()
    for s, table in zip(STREAMS, model.tables(p)):
        np.testing.assert_allclose((y @ table.T)[real], GOLDEN[f"logits/{s.name}"][real], atol=1e-4, rtol=1e-4)


def test_gradients_are_the_authors():
    model, m = CONFIG.model(), masked()
    g = jax.jit(jax.grad(lambda p: masked_loss(CONFIG, model, p, m)[0]))(params())
    close = {"atol": 2e-5, "rtol": 1e-3}
    theirs = {k[2:]: GOLDEN[k] for k in GOLDEN.files if k.startswith("g/")}
    np.testing.assert_allclose(g["in"]["rgb"], theirs["encoder_embeddings.rgb.token_emb.weight"], **close)
    np.testing.assert_allclose(g["in"]["caption"], theirs["encoder_embeddings.caption.token_emb.weight"], **close)
    np.testing.assert_allclose(g["stream"]["rgb"], theirs["encoder_embeddings.rgb.mod_emb"][0], **close)
    np.testing.assert_allclose(g["out"]["depth"], theirs["decoder_embeddings.depth.token_emb.weight"], **close)
    np.testing.assert_allclose(g["out"]["caption"], theirs["decoder_embeddings.caption.token_emb.weight"], **close)
    np.testing.assert_allclose(g["mask"]["token"], theirs["mask_token"][0], **close)
    np.testing.assert_allclose(g["context"]["bias"], theirs["decoder_proj_context.bias"], **close)
    q, k, v = np.split(theirs["encoder.0.attn.qkv.weight"], 3)
    for name, value in (("query", q), ("key", k), ("value", v)):
        np.testing.assert_allclose(g["encoder"]["block00"]["attn"][name]["kernel"], value.T, **close)
    np.testing.assert_allclose(
        g["decoder"]["block01"]["mlp"]["gate"]["kernel"], theirs["decoder.1.mlp.fc3.weight"].T, **close
    )
    k, v = np.split(theirs["decoder.0.cross_attn.kv.weight"], 2)
    np.testing.assert_allclose(g["decoder"]["block00"]["cross"]["value"]["kernel"], v.T, **close)


def test_parameters_are_the_authors_one_for_one():
    spec = jax.eval_shape(CONFIG.build().init, KEY, batch())[0]
    assert {k: v.shape for k, v in flatten(spec).items()} == {k: v.shape for k, v in flatten(params()).items()}
    assert not any(k.endswith("bias") and not k.startswith("context") for k in flatten(spec))


def test_token_weighting_counts_tokens():
    config, m = replace(CONFIG, weighting="token"), masked()
    total, metrics = masked_loss(config, config.model(), params(), m)
    count = [int((np.asarray(m.queries.valid) & (np.asarray(m.queries.stream) == t)).sum()) for t in range(3)]
    by_hand = sum(n * float(metrics[s.name]) for n, s in zip(count, STREAMS)) / sum(count)
    np.testing.assert_allclose(total, by_hand, rtol=1e-5)
    assert abs(by_hand - float(GOLDEN["loss/token"])) > 1e-3


def test_decoder_leaks_neither_across_streams_nor_from_later_words():
    m, p = masked(), params()
    encoded, _ = CONFIG.model().encode(p, m.inputs)
    text = np.asarray((m.queries.stream == 2) & m.queries.valid)
    row = 0
    last = int(np.nonzero(text[row])[0][-1])
    ids = m.queries.ids.at[row, last].set((m.queries.ids[row, last] + 1) % SENTINEL)
    changed = m.queries._replace(ids=ids)

    def moved(config):
        run = jax.jit(config.model().decode)
        a, b = (run(p, encoded, m.inputs, q, m.reach) for q in (m.queries, changed))
        return np.abs(np.asarray(a - b)).max(-1)[row] > 1e-6

    only = np.zeros(14, bool)
    only[last] = True
    np.testing.assert_array_equal(moved(CONFIG), only)
    leaky = moved(replace(CONFIG, causal=False))
    assert leaky[text[row]].all() and not leaky[~text[row] & np.asarray(m.queries.valid)[row]].any()
    assert moved(replace(CONFIG, causal=False, separate=False))[np.asarray(m.queries.valid)[row]].all()


def test_padding_is_not_seen():
    m, p, model = masked(), params(), CONFIG.model()
    wide = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 5))), m)
    run = jax.jit(lambda m: masked_loss(CONFIG, model, p, m))
    a, b = run(m), run(wide)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    junk = m.inputs._replace(ids=jnp.where(m.inputs.valid, m.inputs.ids, 3))
    np.testing.assert_allclose(run(m._replace(inputs=junk))[0], a[0], rtol=1e-6)


def test_no_target_and_no_input_give_finite_losses_and_gradients():
    m, p, model = masked(), params(), CONFIG.model()
    nothing = m.queries._replace(valid=jnp.zeros_like(m.queries.valid))
    run = jax.jit(jax.value_and_grad(lambda p, m: masked_loss(CONFIG, model, p, m)[0]))
    value, g = run(p, m._replace(queries=nothing))
    assert float(value) == 0 and all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(g))
    empty = m.inputs._replace(valid=jnp.zeros_like(m.inputs.valid))
    value, g = run(p, m._replace(inputs=empty))
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(g))


def test_scanned_layers_are_the_same():
    from mmrep.nn.transformer import stack_blocks

    p, m, fast = params(), masked(), replace(SHAPE, scan=True, remat=True)
    scanned = replace(CONFIG, encoder=fast, decoder=fast)
    a = masked_loss(CONFIG, CONFIG.model(), p, m)[0]
    b = jax.jit(lambda p: masked_loss(scanned, scanned.model(), p, m)[0])(stack_blocks(p))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_numbers_become_ids_and_absent_streams_are_left_out():
    config = replace(CONFIG, streams=(Stream("rgb", 8, (2, 2)), *STREAMS[1:]), levels=(Levels("rgb", (2, 2, 2)),))
    x = np.zeros((1, 4, 4, 3), np.float32)
    x[:, :2, 2:] = 1, 0, 1
    found = tokenise(config.streams, config.levels, {"rgb": x, "depth": np.full((1, 8, 8), 3, np.int32)})
    np.testing.assert_array_equal(found["rgb"], [[0, 5, 0, 0]])
    np.testing.assert_array_equal(found["depth"], np.full((1, 16), 3))
    system, whole = CONFIG.build(), batch()
    p, extras = system.init(KEY, whole)
    one = system.infer["predict"](p, extras, {"depth": whole["depth"]})
    assert set(one) == {"rgb"} and one["rgb"].shape == (4, 4, 4)
    with pytest.raises(ConfigError, match="none of rgb"):
        system.infer["fused"](p, extras, {})


def test_an_absent_stream_changes_nothing():
    system, whole = CONFIG.build(), batch()
    p, extras = system.init(KEY, whole)
    present = {"present": np.array([[1, 0, 1]] * 4, np.float32)}
    other = whole | {"depth": (whole["depth"] + 1) % 5}
    run = jax.jit(lambda b: system.loss(p, extras, b, KEY))
    (a, (_, metrics)), (b, _) = run(whole | present), run(other | present)
    assert float(a) == float(b) and float(metrics["depth"]) == 0.0
    assert float(run(whole)[0]) != float(run(other)[0])


def test_a_few_steps_learn_one_batch():
    wide = replace(SHAPE, width=32)
    system, whole = replace(CONFIG, encoder=wide, decoder=wide).build(), batch()
    p, extras = system.init(KEY, whole)
    step = jax.jit(jax.value_and_grad(lambda p, k: system.loss(p, extras, whole, k)[0]))
    first = float(jnp.mean(jnp.asarray([step(p, jax.random.key(i))[0] for i in range(8)])))
    for i in range(100):
        _, g = step(p, jax.random.key(i))
        p = jax.tree.map(lambda a, b: a - 0.3 * b, p, g)
    last = float(jnp.mean(jnp.asarray([step(p, jax.random.key(i))[0] for i in range(8)])))
    assert last < 0.85 * first


def test_whole_stream_asks_at_every_place():
    given = spans.everything({"rgb": jnp.zeros((2, 16), jnp.int32)}, STREAMS)
    y = whole_stream(token_infer(CONFIG, params()), given, {}, 1)
    assert isinstance(given, Tokens) and y.shape == (2, 16, 5)
    assert len(np.unique(np.asarray(y[0]).round(4), axis=0)) == 16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"streams": ()}, "streams"), ({"mixtures": ()}, "mixtures"), ({"n_input": 0}, "n_input"), ({"heads": 3}, "width"),
        ({"levels": (Levels("caption", (2,)),)}, "caption"),
        ({"levels": (Levels("rgb", (2, 2, 2)),)}, "vocab"), ({"levels": (Levels("rgb", (1,)),)}, "levels"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(CONFIG, **change).build()


def test_weights_go_out_as_they_came_in():
    names = {"rgb": "tok_rgb@224"}
    pixels = Stream("pixels", 0, (4, 4), patch=2)
    config = replace(CONFIG, streams=(pixels, *STREAMS), mixtures=(Mixture((0.5,) * 4, (0.0, 0.5, 0.5, 0.5)),))
    whole = config.model().init(KEY)
    theirs = to_authors(whole, config, names)
    assert theirs["encoder_embeddings.pixels.proj.weight"].shape == (16, 12)
    assert theirs["decoder_embeddings.tok_rgb@224.to_logits.weight"].shape == (7, 16)
    back = from_authors(theirs, config, names)
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, whole))
    order = np.random.default_rng(0).permutation(len(theirs["encoder_embeddings.caption.token_emb.weight"]))
    moved = from_authors(theirs, config, names, {"caption": order})
    np.testing.assert_array_equal(moved["in"]["caption"], whole["in"]["caption"][order])
    with pytest.raises(DataError, match="mask_token"):
        from_authors({k: v for k, v in theirs.items() if k != "mask_token"}, config, names)
    with pytest.raises(DataError, match=r"shape \[4, 16\]"):
        from_authors(theirs | {"decoder_embeddings.depth.token_emb.weight": np.zeros((4, 16))}, config, names)


def test_a_checkpoint_is_recognised_and_its_texts_are_left_out(tmp_path):
    """Names and shapes as apple/ml-4m makes them; the values are ours."""
    streams = Stream("rgb@224", 0, (14, 14), patch=16), Stream("tok_depth@224", 9, (14, 14))
    encoder, decoder = (replace(BASE, width=64, depth=depth, heads=1) for depth in (1, 2))
    config = Config(streams, (Mixture((1.0, 1.0), (0.0, 1.0)),), encoder=encoder, decoder=decoder)
    params = jax.tree.map(np.asarray, config.model().init(KEY))
    theirs = to_authors(params, config)
    for side in ("encoder", "decoder"):
        theirs |= {f"{side}_embeddings.tok_depth@224.pos_emb": np.zeros((1, 196, 64))}
        theirs |= {f"{side}_embeddings.caption.token_emb.weight": np.zeros((30_000, 1))}
    np.savez(tmp_path / "4m.npz", **theirs)
    experiment, found, _ = read_foreign(tmp_path / "4m.npz")
    assert experiment.system == config and [m.name for m in experiment.data.modalities] == [s.name for s in streams]
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_pixels_go_in_by_a_linear_patch_and_are_never_asked():
    pixels = Stream("pixels", 0, (4, 4), patch=2)
    config = replace(
        CONFIG, streams=(pixels, *STREAMS), mixtures=(Mixture((1000.0, 0.0, 0.0, 0.0), (0.0, 0.5, 0.5, 0.5)),)
    )
    system, whole = config.build(), batch() | {"pixels": np.random.default_rng(0).random((4, 8, 8, 3), np.float32)}
    p, extras = system.init(KEY, whole)
    value, (_, metrics) = jax.jit(system.loss)(p, extras, whole, KEY)
    assert float(metrics["pixels"]) == 0.0 and float(metrics["inputs"]) == 1.0 and np.isfinite(value)
    vit = system.infer["tokens"](p, extras, {"pixels": whole["pixels"]})
    assert vit.shape == (4, 16, config.encoder.width)
    np.testing.assert_allclose(
        system.infer["fused"](p, extras, {"pixels": whole["pixels"]}), vit.mean(1), rtol=1e-5, atol=1e-6
    )
    moved = whole["pixels"].copy()
    moved[:, :2, :2] = 1 - moved[:, :2, :2]
    far = np.abs(np.asarray(system.infer["tokens"](p, extras, {"pixels": moved}) - vit)).max((0, 2))
    assert far.argmax() == 0 and far[0] > 3 * np.delete(far, 0).max()  # the patch at the first place is the first token
    brighter = system.infer["predict"](p, extras, {"pixels": whole["pixels"]})
    assert set(brighter) == {"rgb", "depth"}
    with pytest.raises(ConfigError, match="never predicted"):
        replace(config, mixtures=(Mixture((1.0,) * 4, (1.0,) * 4),)).build()
    with pytest.raises(ConfigError, match="0 for pixels"):
        replace(config, streams=(Stream("pixels", 7, (4, 4), patch=2), *STREAMS)).build()


def test_a_text_of_vectors_goes_in_as_a_text_whose_table_they_are():
    n, width = 6, SHAPE.width
    vectors = Stream("vectors", 0, length=n, vectors=width)
    table = Stream("table", vectors.sentinel, length=n)
    values = np.random.default_rng(0).standard_normal((1, n, width)).astype(np.float32)
    values[:, 4:] = 0  # four are real
    models = {s.name: replace(CONFIG, streams=(*STREAMS, s)).model() for s in (vectors, table)}
    ours = models["vectors"].init(KEY)
    # The same numbers as rows of a table, a projection that changes nothing, and nothing where a span is hidden.
    ours = ours | {"vectors_vectors": {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}}
    theirs = models["table"].init(KEY) | {k: ours[k] for k in ("encoder", "context", "decoder", "mask")}
    theirs["stream"] = {k: ours["stream"]["vectors" if k == "table" else k] for k in theirs["stream"]}
    rows = jnp.zeros((table.rows, width)).at[5 : 5 + n].set(values[0])
    theirs["in"] = ours["in"] | {"table": rows}
    ids = tokenise((vectors,), (), {"vectors": values})["vectors"]
    np.testing.assert_array_equal(ids, [[5, 6, 7, 8, 0, 0]])
    cut = spans.cut_spans(ids, jnp.asarray([[False, True, True, False, False, False]]), vectors.sentinel)
    np.testing.assert_array_equal(cut.inputs[0, :4], [5, 11, 8, 0])  # a S d
    at = jnp.arange(n)[None]
    given = spans.Tokens(cut.inputs, jnp.full_like(at, 3), at, at < cut.n_input[:, None])
    read = patches((vectors,), {"vectors": values})
    mine, want = models["vectors"].encode(ours, given, read)[0], models["table"].encode(theirs, given)[0]
    np.testing.assert_allclose(mine[:, :3], want[:, :3], rtol=1e-5, atol=1e-6)
    whole = {"vectors": jnp.roll(values, 1, axis=1)}
    assert np.abs(models["vectors"].encode(ours, given, whole)[0] - mine).max() > 0.1


def test_vectors_are_never_asked_and_leave_one_hidden_span_behind():
    vectors = Stream("vectors", 0, length=6, vectors=9)
    mixture = Mixture((0.5,) * 4, (0.5, 0.5, 0.5, 0.0), keep=(("vectors", "all"),))
    config = replace(CONFIG, streams=(*STREAMS, vectors), mixtures=(mixture,))
    whole = batch() | {"vectors": np.ones((4, 6, 9), np.float32)}
    system = config.build()
    p, extras = system.init(KEY, whole)
    (value, (_, metrics)), slope = jax.jit(jax.value_and_grad(system.loss, has_aux=True))(p, extras, whole, KEY)
    assert np.isfinite(value) and float(metrics["vectors"]) == 0.0
    assert np.abs(slope["vectors_vectors"]["kernel"]).max() > 0
    canvas = fill(blank(config.streams, ["vectors"], 2), config.streams, {"vectors": np.full((2, 6), 7)})
    plain = emptied(canvas, config.streams, ("vectors",))
    np.testing.assert_array_equal(plain.ids["vectors"], [[11, 0, 0, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(plain.known["vectors"].sum(1), [1, 1])
    theirs = to_authors(p, config)
    assert theirs["encoder_embeddings.vectors.emb_proj.weight"].shape == (16, 9)
    jax.tree.map(np.testing.assert_array_equal, from_authors(theirs, config), jax.tree.map(np.asarray, p))
    for change, says in (
        ({"mixtures": (Mixture((0.5,) * 4, (0.5,) * 4),)}, "never predicted"),
        ({"streams": (*STREAMS, replace(vectors, length=0, grid=(2, 3)))}, "vectors for texts"),
    ):
        with pytest.raises(ConfigError, match=says):
            replace(config, **change).build()


def test_learnt_places_belong_to_their_stream_alone():
    vector = Stream("vector", 6, (1, 5), learned=True)
    config = replace(CONFIG, streams=(*STREAMS, vector), mixtures=(Mixture((0.5,) * 4, (0.5,) * 4),))
    model = config.model()
    p = model.init(KEY)
    assert p["place"]["vector"].shape == (5, 16)
    moved = p | {"place": {"vector": p["place"]["vector"] + 1}}
    given = spans.everything({"rgb": jnp.zeros((1, 16), jnp.int32)}, config.streams)
    mine = spans.everything({"vector": jnp.zeros((1, 5), jnp.int32)}, config.streams)
    np.testing.assert_array_equal(model.encode(p, given)[0], model.encode(moved, given)[0])
    assert not np.allclose(model.encode(p, mine)[0], model.encode(moved, mine)[0])


def test_vectors_become_levels_and_come_back():
    levels = Levels("vector", (5,), -1.0, 1.0)
    x = np.array([[-1.0, -0.4, 0.0, 0.6, 3.0]], np.float32)
    ids = tokenise((Stream("vector", 5, (1, 5), learned=True),), (levels,), {"vector": x})["vector"]
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3, 4]])
    np.testing.assert_allclose(levels.values(ids[:, None])[0, 0, :, 0], [-1, -0.5, 0, 0.5, 1])

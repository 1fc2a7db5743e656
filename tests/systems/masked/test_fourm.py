"""4M against numbers from the authors' code (apple/ml-4m at cda590f: FourM.forward with hand-made masks, both losses), and its pitfalls."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.config import flatten
from mmrep.errors import ConfigError, DataError
from mmrep.interop.foreign import read_foreign
from mmrep.nn.config import TransformerConfig
from mmrep.nn.transformer import stack_blocks
from mmrep.systems.masked.fourm import BASE, Config, fourm_loss, token_infer
from mmrep.systems.masked.fourm import masking as masks
from mmrep.systems.masked.fourm.decode import condition, emptied, image_logits, init_empty_target
from mmrep.systems.masked.fourm.heads import per_modality_cross_entropy, token_weights
from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas
from mmrep.systems.masked.fourm.tokens import (
    BinQuantizer,
    TokenModality,
    Tokens,
    all_tokens,
    detokenize,
    input_values,
    token_modality,
    tokenize,
)  # fmt: skip
from mmrep.systems.masked.fourm.weights import from_authors, to_authors

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "fourm.npz")
WEIGHTS = {name[2:]: GOLDEN[name] for name in GOLDEN if name.startswith("w/")}
SENTINEL = 20
MODALITIES = (
    TokenModality("rgb", 7, (4, 4)), TokenModality("depth", 5, (4, 4)), TokenModality("caption", SENTINEL, length=8),
)  # fmt: skip
NAMES = tuple(m.name for m in MODALITIES)
EVEN = DirichletMixture(alphas(NAMES), alphas(NAMES))
SIZE = replace(BASE, width=16, depth=2, heads=2)
CONFIG = Config(MODALITIES, (EVEN,), num_input_tokens=14, num_target_tokens=14, encoder=SIZE, decoder=SIZE)
PIXELS = TokenModality("pixels", grid=(4, 4), patch_size=2)
WORDS = TokenModality("words", length=6, embedding_dim=9)
POSE = TokenModality("pose", 6, (1, 5), bins=BinQuantizer((5,), -1.0, 1.0), learned_positions=True)
KEY = jax.random.key(0)


ALL = (*MODALITIES, PIXELS, WORDS, POSE)
MIXED = DirichletMixture(alphas([m.name for m in ALL]), alphas((*NAMES, "pose")), keep=(("words", "all"),))
ONE = replace(SIZE, depth=1)
EVERY = replace(CONFIG, modalities=ALL, mixtures=(MIXED,), encoder=ONE, decoder=ONE)


@cache
def params():
    return jax.tree.map(jnp.asarray, from_authors(WEIGHTS, CONFIG))


@cache
def masked():
    """The golden batch: masks by hand, spans where the authors have them."""
    parts = []
    for name in ("rgb", "depth"):
        inputs, targets = jnp.asarray(GOLDEN[f"in/{name}"]), jnp.asarray(GOLDEN[f"tgt/{name}"])
        parts.append(masks.image_mask(jnp.asarray(GOLDEN[f"ids/{name}"], jnp.int32), inputs, targets))
    ids, dropped = np.zeros((3, 8), np.int32), np.zeros((3, 8), bool)
    for b in range(3):
        n = len(GOLDEN[f"words{b}"])
        ids[b, :n], dropped[b, :n] = GOLDEN[f"words{b}"], GOLDEN[f"drop{b}"]
    spans = masks.mask_spans(jnp.asarray(ids), jnp.asarray(dropped), SENTINEL)
    parts.append(masks.sequence_mask(spans, jnp.zeros(3, jnp.int32), spans.num_targets.astype(jnp.int32)))
    return masks.pack_modalities(parts, 14, 14)


@cache
def decode(causal=True, sep=True):
    model = replace(CONFIG, decoder_causal_mask=causal, decoder_sep_mask=sep).model()

    def run(p, m):
        return model.decode(p, model.encode(p, m.inputs)[0], m.inputs, m.queries, m.decoder_attention_mask)

    return jax.jit(run)


@cache
def loss_and_gradient():
    model = CONFIG.model()
    return jax.jit(jax.value_and_grad(lambda p, m: fourm_loss(CONFIG, model, p, m), has_aux=True))


def batch(n=4):
    rng = np.random.default_rng(1)
    maps = {m.name: rng.integers(0, m.vocab_size, (n, 4, 4)).astype(np.int32) for m in MODALITIES[:2]}
    words = rng.integers(5, SENTINEL, (n, 8)).astype(np.int32)
    words[:, 0], words[:, 6], words[:, 7] = 1, 2, 0
    return maps | {"caption": words}


def test_loss_and_gradients_equal_the_authors():
    (total, metrics), g = loss_and_gradient()(params(), masked())
    np.testing.assert_allclose(total, GOLDEN["loss/mod"], rtol=2e-5)
    for name in NAMES:
        np.testing.assert_allclose(metrics[name], GOLDEN[f"loss/mod/{name}"], rtol=2e-5)
    close = {"atol": 2e-5, "rtol": 1e-3}
    theirs = {k[2:]: GOLDEN[k] for k in GOLDEN.files if k.startswith("g/")}
    for side, name in (("encoder", "rgb"), ("encoder", "caption"), ("decoder", "depth"), ("decoder", "caption")):
        ours = g[f"{side}_embeddings"][name]
        np.testing.assert_allclose(ours, theirs[f"{side}_embeddings.{name}.token_emb.weight"], **close)
    np.testing.assert_allclose(g["mod_emb"]["rgb"], theirs["encoder_embeddings.rgb.mod_emb"][0], **close)
    np.testing.assert_allclose(g["mask_token"]["token"], theirs["mask_token"][0], **close)
    np.testing.assert_allclose(g["decoder_proj_context"]["bias"], theirs["decoder_proj_context.bias"], **close)
    q, k, v = np.split(theirs["encoder.0.attn.qkv.weight"], 3)
    for name, value in (("query", q), ("key", k), ("value", v)):
        np.testing.assert_allclose(g["encoder"]["block00"]["attn"][name]["kernel"], value.T, **close)
    gate = g["decoder"]["block01"]["mlp"]["gate"]["kernel"]
    np.testing.assert_allclose(gate, theirs["decoder.1.mlp.fc3.weight"].T, **close)
    k, v = np.split(theirs["decoder.0.cross_attn.kv.weight"], 2)
    np.testing.assert_allclose(g["decoder"]["block00"]["cross"]["value"]["kernel"], v.T, **close)


def test_logits_equal_the_authors():
    m, y = masked(), decode()(params(), masked())
    real = np.asarray(m.queries.valid)
    assert real.sum() > 20 and not real.all() and not np.asarray(m.inputs.valid).all()
    for i, name in enumerate(NAMES):
        logits = CONFIG.model().to_logits(params(), y, i)
        np.testing.assert_allclose(logits[real], GOLDEN[f"logits/{name}"][real], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("block", [64, None])
def test_token_loss_equals_the_authors(block):
    m, y = masked(), decode()(params(), masked())
    kinds = jnp.where(m.queries.valid, m.queries.modality, 3).reshape(-1)
    sizes = [x.num_embeddings for x in MODALITIES]
    flat = y.reshape(-1, 16), CONFIG.model().embeddings(params()), m.target_ids.reshape(-1), kinds
    total, losses = per_modality_cross_entropy(*flat, token_weights(kinds, sizes, "token_vocab")[0], block)
    np.testing.assert_allclose(total, GOLDEN["loss/token"], rtol=2e-5)
    plain, _ = per_modality_cross_entropy(*flat, token_weights(kinds, sizes, "token")[0], block)
    np.testing.assert_allclose(plain, losses[kinds < 3].mean(), rtol=1e-5)
    assert abs(float(plain) - float(total)) > 1e-3


def test_parameters_are_the_authors_one_for_one():
    spec = jax.eval_shape(CONFIG.build().init, KEY, batch())[0]
    assert {k: v.shape for k, v in flatten(spec).items()} == {k: v.shape for k, v in flatten(params()).items()}
    assert not any(k.endswith("bias") and not k.startswith("decoder_proj") for k in flatten(spec))


def test_decoder_leaks_neither_across_modalities_nor_from_later_tokens():
    m, row = masked(), 0
    valid = np.asarray(m.queries.valid)[row]
    text = np.asarray(m.queries.modality == 2)[row] & valid
    last = int(np.nonzero(text)[0][-1])
    ids = m.queries.ids.at[row, last].set((m.queries.ids[row, last] + 1) % SENTINEL)
    changed = m._replace(queries=m.queries._replace(ids=ids))

    def moved(*mask):
        a, b = (decode(*mask)(params(), x) for x in (m, changed))
        return np.abs(np.asarray(a - b)).max(-1)[row] > 1e-6

    np.testing.assert_array_equal(moved(), np.arange(14) == last)
    leaky = moved(False)
    assert leaky[text].all() and not leaky[~text & valid].any()
    assert moved(False, False)[valid].all()


def test_padding_does_not_change_the_loss():
    m, run = masked(), loss_and_gradient()
    (a, _), _ = run(params(), m)
    junk = m.inputs._replace(ids=jnp.where(m.inputs.valid, m.inputs.ids, 3))
    np.testing.assert_allclose(run(params(), m._replace(inputs=junk))[0][0], a, rtol=1e-6)
    wide = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 5))), m)
    np.testing.assert_allclose(decode()(params(), wide)[:, :14], decode()(params(), m), atol=1e-5)


def test_no_target_and_no_input_give_finite_losses_and_gradients():
    m, run = masked(), loss_and_gradient()
    nothing = m.queries._replace(valid=jnp.zeros_like(m.queries.valid))
    (value, _), g = run(params(), m._replace(queries=nothing))
    assert float(value) == 0 and all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(g))
    empty = m.inputs._replace(valid=jnp.zeros_like(m.inputs.valid))
    (value, _), g = run(params(), m._replace(inputs=empty))
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(g))


def test_scanned_layers_give_the_same_loss():
    scan = replace(SIZE, scan=True, remat=True)
    scanned = replace(CONFIG, encoder=scan, decoder=scan)
    a = loss_and_gradient()(params(), masked())[0][0]
    b = jax.jit(lambda p: fourm_loss(scanned, scanned.model(), p, masked())[0])(stack_blocks(params()))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_token_modalities_have_the_sizes_of_their_modalities():
    rgb = modality.image("rgb", 32, patch=4)
    assert token_modality(rgb, (6, 6, 6)) == TokenModality("rgb", 216, (8, 8), bins=BinQuantizer((6, 6, 6)))
    assert token_modality(rgb, (2,) * 3, vocab_size=9).num_embeddings == 9
    pixels = token_modality(modality.image("depth", 32, 1, patch=4))
    assert pixels == TokenModality("depth", grid=(8, 8), patch_size=4, num_channels=1) and pixels.num_values == 16
    assert token_modality(modality.label_map("semseg", 32, 13, patch=4)) == TokenModality("semseg", 13, (8, 8))
    text = token_modality(modality.text("caption", 9, 20), keep="binary")
    assert text == TokenModality("caption", 20, length=8, keep="binary") and text.num_embeddings == 25
    pose = token_modality(modality.vector("pose", 6), (5,), low=-1.0)
    assert pose.grid == (1, 6) and pose.learned_positions and pose.bins == BinQuantizer((5,), low=-1.0)
    words = token_modality(modality.vector("words", 7, 32))
    assert words == TokenModality("words", length=7, embedding_dim=32) and words.input_only
    for m in (modality.vector("pose", 6), modality.label("kind", 3)):
        with pytest.raises(ConfigError, match="has no tokens"):
            token_modality(m)


def test_numbers_become_ids_and_ids_numbers():
    rgb = TokenModality("rgb", 8, (2, 2), bins=BinQuantizer((2, 2, 2)))
    x = np.zeros((1, 4, 4, 3), np.float32)
    x[:, :2, 2:] = 1, 0, 1
    found = tokenize((rgb, *MODALITIES[1:]), {"rgb": x, "depth": np.full((1, 8, 8), 3, np.int32)})
    np.testing.assert_array_equal(found["rgb"], [[0, 5, 0, 0]])
    np.testing.assert_array_equal(found["depth"], np.full((1, 16), 3))
    np.testing.assert_array_equal(detokenize((rgb,), found)["rgb"][0, 0], [[0, 0, 0], [1, 0, 1]])
    ids = tokenize((POSE,), {"pose": np.array([[-1.0, -0.4, 0.0, 0.6, 3.0]], np.float32)})["pose"]
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3, 4]])
    np.testing.assert_allclose(detokenize((POSE,), {"pose": ids})["pose"][0, 0, :, 0], [-1, -0.5, 0, 0.5, 1])


@cache
def every():
    """Parameters of a system with every kind of modality."""
    return jax.jit(EVERY.model().init)(KEY)


@cache
def few():
    """(params, loss) of a system of one target and two input-only modalities."""
    names = ("depth", "pixels", "words")
    mixture = DirichletMixture(alphas(names), alphas(depth=1.0), keep=(("words", "all"),))
    config = replace(EVERY, modalities=tuple(m for m in ALL if m.name in names), mixtures=(mixture,))
    return jax.jit(config.model().init)(KEY), jax.jit(config.build().loss)


def whole_batch():
    rng = np.random.default_rng(0)
    pixels, pose = rng.random((4, 8, 8, 3), np.float32), rng.uniform(-1, 1, (4, 5)).astype(np.float32)
    return batch() | {"pixels": pixels, "pose": pose, "words": np.ones((4, 6, 9), np.float32)}


def test_input_only_modalities_are_inputs_and_no_targets():
    (p, loss), present = few(), {"present": np.ones((4, 3), np.float32)}
    value, (_, metrics) = loss(p, {}, whole_batch() | present, KEY)
    assert np.isfinite(value) and float(metrics["pixels"]) == float(metrics["words"]) == 0.0
    for name in ("pixels", "words"):
        other = whole_batch() | {name: 0.5 * whole_batch()[name]}
        assert abs(float(loss(p, {}, other | present, KEY)[0]) - float(value)) > 1e-6


def test_absent_modalities_change_nothing():
    (p, loss), whole = few(), whole_batch()
    other = whole | {"pixels": 1 - whole["pixels"]}
    for present, equal in (([1, 0, 1], True), ([1, 1, 1], False)):
        absent = {"present": np.array([present] * 4, np.float32)}
        a, b = (float(loss(p, {}, x | absent, KEY)[0]) for x in (whole, other))
        assert (a == b) == equal
    nothing = {"present": np.array([[0, 1, 1]] * 4, np.float32)}
    assert float(loss(p, {}, whole | nothing, KEY)[0]) == 0.0


def test_infer_uses_the_modalities_of_the_batch():
    system, p = EVERY.build(), every()
    pixels = {"pixels": whole_batch()["pixels"]}
    tokens = jax.jit(lambda *inputs: system.infer["fused_tokens"](*inputs)[0])
    vit = tokens(p, {}, pixels)
    assert vit.shape == (4, 16, 16)
    np.testing.assert_allclose(jax.jit(system.infer["fused"])(p, {}, pixels), vit.mean(1), rtol=1e-5, atol=1e-6)
    moved = pixels["pixels"].copy()
    moved[:, :2, :2] = 1 - moved[:, :2, :2]
    far = np.abs(np.asarray(tokens(p, {}, {"pixels": moved}) - vit)).max((0, 2))
    assert far.argmax() == 0 and far[0] > 3 * np.delete(far, 0).max()  # the first patch is the first token
    found = jax.eval_shape(system.infer["predict"], p, {}, pixels)
    assert {k: v.shape for k, v in found.items()} == {"rgb": (4, 4, 4), "depth": (4, 4, 4), "pose": (4, 1, 5)}
    with pytest.raises(ConfigError, match="none of rgb"):
        system.infer["fused"](p, {}, {})


def test_image_logits_differ_by_position():
    given = all_tokens({"rgb": jnp.zeros((2, 16), jnp.int32)}, MODALITIES)
    infer = token_infer(CONFIG, params())
    y = jax.jit(lambda given: image_logits(infer, given, {}, 1))(given)
    assert isinstance(given, Tokens) and y.shape == (2, 16, 5)
    assert len(np.unique(np.asarray(y[0]).round(4), axis=0)) == 16


TWO_BINS = replace(MODALITIES[0], bins=BinQuantizer((2, 2, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ()}, "modalities"), ({"mixtures": ()}, "mixtures"), ({"num_input_tokens": 0}, "num_input_tokens"),
        ({"encoder": TransformerConfig(18, 2, 2)}, "width"), 
        ({"modalities": (TWO_BINS, *MODALITIES[1:])}, "vocab_size must hold them"),
        ({"modalities": (replace(TWO_BINS, bins=BinQuantizer((1,))), *MODALITIES[1:])}, "levels"),
        ({"modalities": (*MODALITIES[:2], replace(MODALITIES[2], bins=BinQuantizer((2,))))}, "bins are for images"),
        ({"modalities": (replace(PIXELS, vocab_size=7), *MODALITIES)}, "0 for pixels"),
        ({"modalities": (*MODALITIES, replace(WORDS, length=0, grid=(2, 3)))}, "embedding_dim needs a length"),
        ({"modalities": ALL, "mixtures": (replace(MIXED, targets=alphas(pixels=1.0)),)}, "never predicted"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change).build()


def test_weights_survive_the_way_to_the_authors_and_back():
    names, whole = {"rgb": "tok_rgb@224"}, every()
    theirs = to_authors(whole, EVERY, names)
    assert theirs["encoder_embeddings.pixels.proj.weight"].shape == (16, 12)
    assert theirs["encoder_embeddings.words.emb_proj.weight"].shape == (16, 9)
    assert theirs["decoder_embeddings.tok_rgb@224.to_logits.weight"].shape == (7, 16)
    back = from_authors(theirs, EVERY, names)
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, whole))
    order = np.random.default_rng(0).permutation(len(theirs["encoder_embeddings.caption.token_emb.weight"]))
    moved = from_authors(theirs, EVERY, names, {"caption": order})["encoder_embeddings"]["caption"]
    np.testing.assert_array_equal(moved, whole["encoder_embeddings"]["caption"][order])
    with pytest.raises(DataError, match="mask_token"):
        from_authors({k: v for k, v in theirs.items() if k != "mask_token"}, EVERY, names)
    with pytest.raises(DataError, match=r"shape \[4, 16\]"):
        from_authors(theirs | {"decoder_embeddings.depth.token_emb.weight": np.zeros((4, 16))}, EVERY, names)


def test_a_checkpoint_is_recognised_and_its_texts_are_left_out(tmp_path):
    """Names and shapes of apple/ml-4m; the values are ours."""
    tokens = TokenModality("rgb@224", grid=(14, 14), patch_size=16), TokenModality("tok_depth@224", 9, (14, 14))
    mixture = DirichletMixture(alphas([m.name for m in tokens], 1.0), alphas(["tok_depth@224"], 1.0))
    one = replace(BASE, width=64, depth=1, heads=1)
    config = Config(tokens, (mixture,), encoder=one, decoder=replace(one, depth=2))
    params = jax.tree.map(np.asarray, jax.jit(config.model().init)(KEY))
    theirs = to_authors(params, config)
    for side in ("encoder", "decoder"):
        theirs |= {f"{side}_embeddings.tok_depth@224.pos_emb": np.zeros((1, 196, 64))}
        theirs |= {f"{side}_embeddings.caption.token_emb.weight": np.zeros((30_000, 1))}
    np.savez(tmp_path / "4m.npz", **theirs)
    experiment, found, _ = read_foreign(tmp_path / "4m.npz")
    assert experiment.system == config and [m.name for m in experiment.data.modalities] == [m.name for m in tokens]
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_sequence_of_embeddings_equals_a_text_with_these_embeddings():
    n, width = 6, 16
    vectors = TokenModality("vectors", length=n, embedding_dim=width)
    table = TokenModality("table", vectors.sentinel, length=n)
    values = np.random.default_rng(0).standard_normal((1, n, width)).astype(np.float32)
    values[:, 4:] = 0  # padding
    models = {m.name: replace(CONFIG, modalities=(*MODALITIES, m)).model() for m in (vectors, table)}
    ours = jax.jit(models["vectors"].init)(KEY)
    # The same numbers as an embedding table, an identity projection, and zeros for masked spans.
    ours = ours | {"proj_vectors": {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}}
    theirs = {k: ours[k] for k in ("encoder", "decoder_proj_context", "decoder", "mask_token")}
    theirs["mod_emb"] = {k: ours["mod_emb"]["vectors" if k == "table" else k] for k in (*NAMES, "table")}
    rows = jnp.zeros((table.num_embeddings, width)).at[5 : 5 + n].set(values[0])
    theirs["encoder_embeddings"] = ours["encoder_embeddings"] | {"table": rows}
    ids = tokenize((vectors,), {"vectors": values})["vectors"]
    np.testing.assert_array_equal(ids, [[5, 6, 7, 8, 0, 0]])
    cut = masks.mask_spans(ids, jnp.asarray([[False, True, True, False, False, False]]), vectors.sentinel)
    np.testing.assert_array_equal(cut.inputs[0, :4], [5, 11, 8, 0])  # a, sentinel, d
    at = jnp.arange(n)[None]
    given = Tokens(cut.inputs, jnp.full_like(at, 3), at, at < cut.num_inputs[:, None])
    encode = jax.jit(models["vectors"].encode)
    mine = encode(ours, given, input_values((vectors,), {"vectors": values}))[0]
    np.testing.assert_allclose(
        mine[:, :3], jax.jit(models["table"].encode)(theirs, given)[0][:, :3], rtol=1e-5, atol=1e-6
    )
    assert np.abs(encode(ours, given, {"vectors": jnp.roll(values, 1, axis=1)})[0] - mine).max() > 0.1


def test_an_emptied_sequence_of_embeddings_is_one_sentinel():
    state = condition(init_empty_target(ALL, ["words"], 2), ALL, {"words": np.full((2, 6), 7)})
    plain = emptied(state, ALL, ("words",))["words"]
    np.testing.assert_array_equal(plain.ids, [[11, 0, 0, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(plain.known.sum(1), [1, 1])


def test_learned_positions_belong_to_their_modality_alone():
    model, p = EVERY.model(), every()
    assert p["pos_emb"]["pose"].shape == (5, 16)
    moved = p | {"pos_emb": {"pose": p["pos_emb"]["pose"] + 1}}
    encode = jax.jit(lambda p, given: model.encode(p, given)[0])
    given, own = (all_tokens({name: jnp.zeros((1, 5), jnp.int32)}, ALL) for name in ("rgb", "pose"))
    np.testing.assert_array_equal(encode(p, given), encode(moved, given))
    assert not np.allclose(encode(p, own), encode(moved, own))


def test_embedding_stds_are_those_of_the_encoders_and_of_the_decoders_tokens():
    def sizes(**settings: float) -> list[float]:
        p = replace(CONFIG, **settings).model().init(jax.random.key(0))
        return [float(np.std(np.concatenate(jax.tree.leaves(p[f"{k}_embeddings"])))) for k in ("encoder", "decoder")]

    (encoder, decoder), own = sizes(), sizes(embedding_std=0.5)
    assert encoder == pytest.approx(0.02, rel=0.1) == decoder
    assert own == pytest.approx([25 * encoder, decoder], rel=1e-4)
    assert sizes(decoder_embedding_std=0.1) == pytest.approx([encoder, 5 * decoder], rel=1e-4)


def test_pixels_are_standardised_by_their_modality():
    picture = np.random.default_rng(0).uniform(0, 1, (2, 4, 4, 3)).astype(np.float32)
    usual, own = (
        token_modality(modality.image("pixels", 4, patch=2, **numbers))
        for numbers in ({}, {"mean": (0.8, 0.7, 0.6), "std": (0.2,)})
    )
    values = [input_values((m,), {"pixels": picture})["pixels"] for m in (usual, own)]
    np.testing.assert_allclose(values[0][0, 0, :3], picture[0, 0, 0] * 2 - 1, atol=1e-6)
    np.testing.assert_allclose(values[1][0, 0, :3], (picture[0, 0, 0] - [0.8, 0.7, 0.6]) / 0.2, atol=1e-5)

"""4M against numbers from the authors' code (apple/ml-4m at cda590f: FourM.forward with hand-made masks, both losses), and its pitfalls."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.config import flatten
from mmrep.errors import ConfigError
from mmrep.masking import spans
from mmrep.masking.spans import Mixture, Stream, Tokens
from mmrep.systems.masked.fourm import Config, Levels, masked_loss, tokenise, whole_stream

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "fourm.npz")
SENTINEL = 20
STREAMS = (Stream("rgb", 7, (4, 4)), Stream("depth", 5, (4, 4)), Stream("caption", SENTINEL, length=8))
EVEN = (Mixture((0.5,) * 3, (0.5,) * 3),)
CONFIG = Config(
    STREAMS, EVEN, n_input=14, n_target=14, width=16, encoder_depth=2, decoder_depth=2, heads=2, weighting="mod"
)  # fmt: skip
KEY = jax.random.key(0)


def ours(w):
    """Parameters from the authors' names; `w` gives a weight by its name."""
    names = [s.name for s in STREAMS]

    def attention(at, cross=False):
        parts = ["query"] * cross + ["key", "value"] if cross else ["query", "key", "value"]
        stacked = (
            [w(f"{at}.q.weight"), *np.split(w(f"{at}.kv.weight"), 2)] if cross else np.split(w(f"{at}.qkv.weight"), 3)
        )
        kernels = dict(zip(parts, stacked)) | {"out": w(f"{at}.proj.weight")}
        return {k: {"kernel": v.T} for k, v in kernels.items()}

    def mlp(at):
        return {
            k: {"kernel": w(f"{at}.mlp.{n}.weight").T} for k, n in (("up", "fc1"), ("gate", "fc3"), ("down", "fc2"))
        }

    def norm(at):
        return {"scale": w(f"{at}.weight")}

    found = {
        "in": {n: w(f"encoder_embeddings.{n}.token_emb.weight") for n in names},
        "out": {n: w(f"decoder_embeddings.{n}.token_emb.weight") for n in names},
        "stream": {n: w(f"encoder_embeddings.{n}.mod_emb")[0] for n in names},
        "mask": {"token": w("mask_token")[0]},
        "context": {"kernel": w("decoder_proj_context.weight").T, "bias": w("decoder_proj_context.bias")},
        "encoder": {"norm": norm("encoder_norm")}, "decoder": {"norm": norm("decoder_norm")},
    }  # fmt: skip
    for i in range(2):
        e, d = f"encoder.{i}", f"decoder.{i}"
        found["encoder"][f"block{i:02d}"] = {
            "attn": attention(f"{e}.attn"), "mlp": mlp(e), "norm_attn": norm(f"{e}.norm1"), "norm_mlp": norm(f"{e}.norm2"),
        }  # fmt: skip
        found["decoder"][f"block{i:02d}"] = {
            "attn": attention(f"{d}.self_attn"), "cross": attention(f"{d}.cross_attn", True), "mlp": mlp(d),
            "norm_attn": norm(f"{d}.norm1"), "norm_cross": norm(f"{d}.query_norm"),
            "norm_context": norm(f"{d}.context_norm"), "norm_mlp": norm(f"{d}.norm2"),
        }  # fmt: skip
    return jax.tree.map(jnp.asarray, found)


def params():
    return ours(lambda name: GOLDEN[f"w/{name}"])


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

    p, m = params(), masked()
    scanned = replace(CONFIG, scan=True, remat=True)
    a = masked_loss(CONFIG, CONFIG.model(), p, m)[0]
    b = jax.jit(lambda p: masked_loss(scanned, scanned.model(), p, m)[0])(stack_blocks(p))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_numbers_become_ids_and_absent_streams_are_left_out():
    config = replace(CONFIG, streams=(Stream("rgb", 8, (2, 2)), *STREAMS[1:]), levels=(Levels("rgb", (2, 2, 2)),))
    x = np.zeros((1, 4, 4, 3), np.float32)
    x[:, :2, 2:] = 1, 0, 1
    found = tokenise(config, {"rgb": x, "depth": np.full((1, 8, 8), 3, np.int32)})
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
    system, whole = replace(CONFIG, width=32).build(), batch()
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
    y = whole_stream(CONFIG.model(), params(), given, STREAMS, 1)
    assert isinstance(given, Tokens) and y.shape == (2, 16, 16)
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

"""LLM2CLIP against the authors' adapter, pooling and losses; its masks, stored vectors, and captions."""

import pickle
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.llm2clip import captioned, experiment, get_config
from mmrep import modality
from mmrep.config import flatten, unflatten
from mmrep.data import text
from mmrep.data.contents import contents
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Arrays, Table
from mmrep.errors import ConfigError, DataError
from mmrep.evals import index
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn.pooling import mean_pool
from mmrep.systems.contrastive.llm2clip.data import Embedded, TwoCaptions
from mmrep.systems.contrastive.llm2clip.model import Adapter, caption_loss, sentence

GOLDEN = {
    k: jnp.asarray(v) for k, v in np.load(Path(__file__).parents[2] / "golden" / "llm2clip.npz").items() if k != "note"
}
TINY = get_config("tiny")
CONFIG = replace(TINY.system, objective="align")
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def tiny():
    """(system, parameters whose adapters differ from 0, batch, compiled infer functions)."""
    batch = jax.tree.map(jnp.asarray, modality.example(TINY.data.modalities, 4))
    system = CONFIG.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    params["lora"] = jax.tree.map(lambda x: x + 0.1, params["lora"])
    return system, params, batch, {n: jax.jit(lambda p, b, f=f: f(p, {}, b)) for n, f in system.infer.items()}


def test_the_authors_adapter():
    w = {k.removeprefix("w/text_adaptor."): v for k, v in GOLDEN.items() if k.startswith("w/")}
    flat = {}
    for i in (0, 1):
        flat |= {f"norm{i}/scale": w[f"{i}.ln.weight"], f"norm{i}/bias": w[f"{i}.ln.bias"]}
        for name, k in (("up", 0), ("down", 3)):
            flat |= {f"{name}{i}/kernel": w[f"{i}.fn.{k}.weight"].T, f"{name}{i}/bias": w[f"{i}.fn.{k}.bias"]}
    flat |= {
        "norm/scale": w["2.weight"],
        "norm/bias": w["2.bias"],
        "out/kernel": w["3.weight"].T,
        "out/bias": w["3.bias"],
    }
    apply = jax.jit(lambda x: Adapter(8, 2).apply({"params": unflatten(flat)}, x))
    x = GOLDEN["x"]
    np.testing.assert_allclose(apply(x / jnp.linalg.norm(x, axis=1, keepdims=True)), GOLDEN["y"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apply(x), GOLDEN["y_raw"], rtol=1e-4, atol=1e-5)


def test_the_authors_pooling_and_losses():
    np.testing.assert_allclose(
        mean_pool(GOLDEN["tokens"], GOLDEN["embedded"] > 0), GOLDEN["pooled"], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        symmetric_info_nce(GOLDEN["image"], GOLDEN["text"], 14.3).mean(), GOLDEN["clip"], rtol=1e-5
    )
    value, right = caption_loss(GOLDEN["q"], GOLDEN["docs"], jnp.zeros((5, 10), bool), 50.0)
    np.testing.assert_allclose(value.mean(), GOLDEN["captions"], rtol=1e-5)
    assert right.tolist() == ((GOLDEN["q"] @ GOLDEN["docs"].T).argmax(1) == jnp.arange(5)).tolist()


def test_equal_captions_are_no_negatives():
    x = jnp.eye(3)
    docs = jnp.concatenate([x, x[:1], -x[1:]])
    equal = jnp.zeros((3, 6), bool).at[0, 3].set(True)
    value, right = caption_loss(x, docs, equal, 50.0)
    assert value.max() < 1e-6 and right.all()
    assert caption_loss(x, docs, jnp.zeros((3, 6), bool), 50.0)[0][0] == pytest.approx(np.log(2), rel=1e-5)


def test_the_mask_is_switched_and_the_parameters_are_the_same(tiny):
    _, params, batch, _ = tiny
    model, ids = TINY.system.language.module(), batch["text"]
    both = [jax.jit(lambda i, b=b: sentence(model, params["language"], i, None, b)) for b in (False, True)]
    causal = jax.jit(lambda i: model.apply({"params": params["language"]}, i, valid=i > 0)[1]["tokens"])(ids)
    np.testing.assert_allclose(both[0](ids), mean_pool(causal, ids > 0), atol=1e-5)
    assert np.abs(both[0](ids) - both[1](ids)).max() > 1e-3
    for stage in ("language", "captions"):
        made = jax.eval_shape(replace(CONFIG, objective=stage).build().init, KEY, batch)[0]
        assert jax.tree.structure(made) == jax.tree.structure(params)


def test_instructions_are_attended_to_and_not_pooled(tiny):
    params, ids = tiny[1]["language"], tiny[2]["text"]
    model = TINY.system.language.module()
    told = jnp.array([[1, 9, 8, 2, 0, 0]] * 4, jnp.int32)
    run = jax.jit(lambda told: sentence(model, params, ids, told, True))
    plain = jax.jit(lambda: sentence(model, params, ids, None, True))()
    assert np.abs(run(told) - plain).max() > 1e-3
    np.testing.assert_allclose(run(jnp.zeros_like(told)), plain, atol=1e-5)
    whole = jnp.concatenate([told[:1, :4], ids[:1, : int((ids[0] > 0).sum())]], axis=1)
    every = jnp.ones((1, 1, whole.shape[1], whole.shape[1]), bool)
    tokens = jax.jit(lambda: model.apply({"params": params}, whole, mask=every)[1]["tokens"])()
    np.testing.assert_allclose(run(told)[0], tokens[0, 4:].mean(0), atol=1e-5)


def test_adapters_start_as_the_frozen_model_and_align_leaves_it_alone(tiny):
    system, params, batch, infer = tiny
    fresh = jax.jit(system.init)(jax.random.key(0), batch)[0]
    without = {k: v for k, v in fresh.items() if k != "lora"}
    np.testing.assert_array_equal(infer["text_sentence"](fresh, batch), infer["text_sentence"](without, batch))
    assert np.abs(infer["text_sentence"](params, batch) - infer["text_sentence"](fresh, batch)).max() > 1e-3
    slopes = flatten(jax.jit(jax.grad(lambda p: system.loss(p, {}, batch, KEY)[0]))(params))
    assert all((float(jnp.abs(v).max()) > 0) == (not k.startswith(("language", "lora"))) for k, v in slopes.items())
    np.testing.assert_allclose(jnp.linalg.norm(infer["long_sentence"](params, batch), axis=1), 1, rtol=1e-5)


def test_stored_vectors_give_the_same_loss_whatever_their_length(tiny):
    system, params, batch, infer = tiny
    stored = {f"{n}_vector": 3.0 * infer[f"{n}_sentence"](params, batch) for n in ("text", "long")} | {
        "image": batch["image"]
    }
    few = {k: v for k, v in params.items() if k not in ("language", "lora")}
    other = replace(CONFIG, precomputed=True).build()
    assert jax.tree.structure(jax.eval_shape(other.init, KEY, stored)[0]) == jax.tree.structure(few)
    losses = [
        jax.jit(lambda p, b, s=s: s.loss(p, {}, b, KEY)[0])(p, b)
        for s, p, b in ((system, params, batch), (other, few, stored))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(other.infer["long_vector"](few, {}, stored), infer["long"](params, batch), atol=1e-5)


def test_captions_are_tuned_in_both_directions_with_instructions(tiny):
    _, params, batch, _ = tiny
    told = {n: jnp.array([[1, t, 2]] * 4, jnp.int32) for n, t in (("instruction", 7), ("long_instruction", 8))}
    loss = jax.jit(lambda b, key: replace(CONFIG, objective="captions").build().loss(params, {}, b, key)[0])
    values = [float(loss(batch | told, jax.random.key(i))) for i in range(4)]
    assert np.isfinite(values).all() and len({*values}) > 1
    assert loss(batch, jax.random.key(0)) != values[0]


def test_two_captions_are_of_the_same_thing():
    pairs = captioned(20)
    records = pairs.open("train")
    for i in (0, 7):
        shown = pairs.view(records[i], None)
        assert len(shown["text"].split()) == 3 and len(shown["long"].split()) == 10
        assert {*shown["text"].split()} <= {*shown["long"].split()} and "instruction" in shown
    assert "retrieve a short sentence" in [*pairs.texts("val")]
    with pytest.raises(DataError, match="equal"):
        TwoCaptions(pairs.source, replace(pairs.other, n_train=3)).open("train")


def test_vectors_belong_to_record_numbers(tmp_path):
    one = {"x": np.arange(5), "text": [str(i) for i in range(5)]}
    source = Arrays(one, one, one)
    about = {"records": 5, "shard_size": 2, "split": "train", "contents": contents(source.open("train"))}
    numbers = {0: [1, 0], 2: [3], 4: [4]}  # record 2 is a bad one, and the order within a shard is another
    index.write(
        tmp_path / "train",
        about,
        lambda low, high: (np.array(numbers[low]), np.array(numbers[low])[:, None] + np.zeros((1, 3))),
    )
    data = Embedded(source, (("text_vector", str(tmp_path)),))
    records = pickle.loads(pickle.dumps(data.open("train")))
    for i in (0, 1, 3, 4):
        shown = data.view(records[i], None)
        assert shown["x"] == i and shown["text_vector"].tolist() == [i] * 3 and shown["text_vector"].dtype == np.float32
    with pytest.raises(DataError, match="record 2"):
        records[2]
    with pytest.raises(DataError, match=r"experiments\.embed"):
        data.open("val")
    more = {"x": np.arange(6), "text": ["a"] * 6}
    with pytest.raises(DataError, match="other data"):
        Embedded(Arrays(more, one, one), data.folders).open("train")


def test_a_table_of_eight_pictures(tmp_path):
    from PIL import Image

    rows = ["image,text,long"]
    for i in range(8):
        Image.fromarray(np.full((16, 16, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,grey {i},a picture all of whose pixels are grey {i}")
    (tmp_path / "pictures.csv").write_text("\n".join(rows) + "\n")
    table = Table(tmp_path / "pictures.csv", text=("text", "long"), fractions=(1.0, 0.0, 0.0))
    parts = tuple(replace(m, field=m.name) for m in TINY.data.modalities)
    tokenize = lambda w, n: np.pad(np.arange(1, 2 + len(w.split())), (0, n))[:n].astype(np.int32)  # noqa: E731
    split = open_split(replace(TINY.data, source=table, modalities=parts), tokenize, "train")
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(8)]))
    assert ((batch["long"] > 0).sum(1) > (batch["text"] > 0).sum(1)).all()
    for phase in TINY.phases:
        system = phase.system.build()
        value, _ = jax.jit(system.loss)(jax.jit(system.init)(KEY, batch)[0], {}, batch, KEY)
        assert np.isfinite(value)


@pytest.mark.parametrize(
    "change, words", [({"layers": -1}, "layers"), ({"precomputed": True, "frozen": False}, "precomputed"), ({"caption_scale": 0.0}, "caption_scale")]
)  # fmt: skip
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **change).build()


def test_stages_of_the_proof_have_one_id_for_a_word():
    """The language model is trained on more captions than the alignment."""
    rows = []
    for n in (50, 400):
        data = experiment("align", n=n).data
        model = text.fit(data.source.texts("train"), data.tokenizer)
        rows.append(text.tokenizer(model, data.tokenizer)("a0 c7 of3 f9", 8))
    np.testing.assert_array_equal(*rows)
    assert len({*rows[0].tolist()}) == 7  # four words, BOS, EOS, padding

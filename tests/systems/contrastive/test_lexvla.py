"""LexVLA by hand: no code is published."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.lexvla import get_config
from mmrep import modality
from mmrep.config import Data, Tokenizer, flatten
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError, DataError
from mmrep.model import Model
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.systems.contrastive.lexvla import ALIGN, Config, start_image_table
from mmrep.systems.contrastive.lexvla.evals import ActiveWords, PatchDis, PatchWords
from mmrep.systems.contrastive.lexvla.model import MaskedEncoder, flops, keyword_loss, overuse, sparse
from mmrep.training.state import split as split_params

S = jnp.array([[0.6, 0.0, 0.8], [0.0, 0.6, 0.8]])


def test_hand_values_of_both_penalties():
    np.testing.assert_allclose(overuse(S), 0.4042857, rtol=1e-6)
    np.testing.assert_allclose(flops(S), 0.82, rtol=1e-6)


def test_penalties_do_not_depend_on_the_batch_size_and_fall_when_a_common_word_gives_way_to_a_rare_one():
    np.testing.assert_allclose(overuse(jnp.concatenate([S, S])), overuse(S), rtol=1e-6)
    moved = S + jnp.array([0.1, 0.0, -0.1])
    assert overuse(moved) < overuse(S)
    # FLOPs charges every word; over-use rewards rare ones (3 a^2 sum(a) < sum(a^3)).
    slope, plain = (np.asarray(jax.grad(f)(S)[0]) for f in (overuse, flops))
    assert slope[0] < 0 < slope[2] and (plain > 0).all()
    assert np.isfinite(jax.grad(overuse)(jnp.zeros((2, 3)))).all()


def test_sparse_vectors_keep_words_above_chance_and_always_one():
    x = jnp.array([[0.9, 0.4, 0.1, 0.1], [0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(sparse(x) > 0, [[1, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    np.testing.assert_array_equal(sparse(x, 2)[0], x[0] * jnp.array([1, 1, 0, 0]))
    np.testing.assert_array_equal(sparse(x, 9)[:2], x[:2])
    assert (sparse(jnp.full((1, 7), 7**-0.5 * 0.99)) > 0).any()


def test_keywords_are_the_mean_over_all_orders_of_a_list():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((1, 9)), jnp.float32)
    ids = jnp.array([[1, 6, 8, 6, 2, 0]])
    log_p = jax.nn.log_softmax(logits[:, 5:])[0]
    np.testing.assert_allclose(keyword_loss(logits, ids), [-(log_p[1] + log_p[3]) / 2], rtol=1e-5)


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = jax.tree.map(jnp.asarray, modality.example(config.data.modalities, 4))
    system = config.system.build()
    params, extras = jax.jit(system.init)(jax.random.key(0), batch)
    return config, batch, system, start_image_table(params, extras)[0]


def test_both_codebooks_start_from_the_words_and_lora_changes_nothing_yet(tiny):
    config, batch, system, params = tiny
    words = params["lm"]["embed"]["embedding"][5:]
    np.testing.assert_array_equal(params["image_head"]["table"], words)
    bare = config.system.text.module().apply({"params": params["lm"]}, batch["text"], None, batch["text"] > 0)[1]
    scores = bare["pooled"] @ words.T
    expected = jnp.where(scores > 0, scores + 1, jnp.exp(scores))
    expected = sparse(expected / jnp.linalg.norm(expected, axis=1, keepdims=True))
    np.testing.assert_allclose(system.infer["text"](params, {}, batch), expected, atol=1e-5)


def test_what_is_frozen_gets_no_gradient_and_stays_bit_for_bit(tiny):
    config, batch, _, params = tiny
    learnt, frozen = split_params(params, ALIGN)
    assert {p.split("/")[0] for p in frozen} == {"image", "lm"}
    assert {p.split("/")[0] for p in learnt} == {"adapter", "image_head", "lora", "scale"}
    one = jax.eval_shape(replace(config.system, own_table=False).build().init, jax.random.key(0), batch)[0]
    assert set(params["image_head"]) - set(one["image_head"]) == {"table"}
    assert config.phases[0].trainable == ("lm/.*",) and config.phases[1].trainable == ALIGN


def test_losses_add_up_and_patches_have_the_maximum_of_the_picture(tiny):
    config, batch, system, params = tiny

    def both(params):
        value, (_, metrics) = system.loss(params, {}, batch, jax.random.key(0))
        found = {n: system.infer[n](params, {}, batch) for n in ("image", "image_tokens", "bag")}
        return value, metrics, found

    value, metrics, found = jax.jit(both)(params)
    expected = metrics["contrast"] + config.system.strength * (metrics["image_penalty"] + metrics["text_penalty"])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    tokens, valid = found["image_tokens"]
    assert tokens.shape == (4, 4, 59) and valid.all()
    np.testing.assert_allclose(jnp.linalg.norm(tokens, axis=-1), 1, rtol=1e-5)
    assert ((found["image"] > 0).sum(1) >= 1).all()
    np.testing.assert_allclose(jnp.linalg.norm(found["bag"], axis=-1), 1, rtol=1e-5)


def test_the_language_phase_moves_the_language_model_alone(tiny):
    config, batch, _, params = tiny
    system = replace(config.system, objective="language").build()
    value, grads = jax.jit(jax.value_and_grad(lambda p: system.loss(p, {}, batch, jax.random.key(0))[0]))(params)
    moved = {k.split("/")[0] for k, g in flatten(grads).items() if jnp.abs(g).max() > 0}
    assert np.isfinite(value) and moved == {"lm", "lora"}
    alone = replace(config.system, objective="language", keywords=0.0).build()
    assert set(jax.eval_shape(alone.loss, params, {}, batch, jax.random.key(0))[1][1]) == {"next"}


def test_a_masked_autoencoder_gives_the_frozen_patches():
    from configs.masked import _multimae as mae

    encoder = MaskedEncoder(mae.transformer(64, 3, 4), 4, 10.0)
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    donor = mae.MAE.build()
    theirs = jax.jit(donor.init)(jax.random.key(1), {"rgb": images})[0]
    ours = {name: theirs[name] for name in ("in_rgb", "global", "encoder")}
    shapes = jax.eval_shape(encoder.module(jnp.float32).init, jax.random.key(0), images)["params"]
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, shapes)
    found = jax.jit(lambda p: encoder.module(jnp.float32).apply({"params": p}, images)[1]["patches"])(ours)
    tokens = jax.jit(lambda p: donor.infer["fused_tokens"](p, {}, {"rgb": images}))(theirs)[0]
    np.testing.assert_allclose(found, tokens[:, :64], atol=1e-4)


class Fake(Model):
    """Two records of two patches, with words as one-hot vectors."""

    def __init__(self, **columns):
        self.columns = columns

    def embed_split(self, name, split="test", fields=()):
        patches = np.eye(3)[[[0, 1], [1, 1]]]
        return (patches, np.ones((2, 2), bool)) if name == "image_tokens" else np.array([[0.5, 0.0, 0.5], [1.0, 0, 0]])

    def column(self, field, split="test"):
        return self.columns[field]

    def call(self, name, /, text):
        return np.eye(3)[[["red", "blue", "of"].index(word) for word in text]]


def test_evaluators_by_hand():
    classes = [np.array([[1, 1, 2, 2]] * 2), np.array([[2, 2, 1, 0]] * 2)]
    found = PatchDis(("red", "blue"), 2).run(Fake(semseg=classes))
    # Pixels red: 4 right, 2 taken for blue; blue: 8 right of 10 that are called so.
    assert found["PatchDis mIoU"] == pytest.approx((4 / 6 + 8 / 10) / 2)
    text = {"text": ["blue of red", "red"], "owner": [np.array([1, -1, 0]), np.array([1])]}
    found = PatchWords().run(Fake(**text))
    assert found == pytest.approx({"patch words accuracy": 2 / 3, "patch words chance": 1 / 3})
    with pytest.raises(DataError, match="no caption"):
        PatchWords().run(Fake(text=["of"], owner=[np.array([-1])]))
    with pytest.raises(DataError, match="no pixel"):
        PatchDis(("red",), 2, first=7).run(Fake(semseg=classes))
    found = ActiveWords(("image",), ("of",), name="x").run(Fake())
    assert found == {"x active image": 1.5, "x mass image": 0.25}


def test_a_table_of_eight_captions(tmp_path, tiny):
    from PIL import Image

    _, _, system, params = tiny
    rows = ["image,caption"]
    for i in range(8):
        Image.fromarray(np.full((40, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,a grey picture number {i}")
    Path(tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    parts = (modality.image("image", 16), modality.text("text", 40, 64))
    table = Table(tmp_path / "table.csv", fractions=(1.0, 0.0, 0.0))
    tokenize = lambda text, length: np.minimum(np.arange(length) + 1, 60).astype(np.int32)  # noqa: E731
    split = open_split(Data(table, parts, Tokenizer(64, kind="word"), batch_size=8), tokenize, "train")
    batch = collate([split.entry(i) for i in range(8)])
    assert np.isfinite(jax.jit(system.loss)(params, {}, batch, jax.random.key(1))[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"strength": -1.0}, "system.strength is -1"), ({"lora_rank": 0}, "system.lora_rank is 0"), ({"top_k": 0}, "system.top_k is 0"),
        ({"temperature": 0.0}, "system.temperature is 0"), ({"text": DecoderLM(tied=False)}, "have one table"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(Config(), **change).build()

"""FILIP's similarity, loss and token selection against hand-made numbers and loops, and what the system compares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.errors import ConfigError
from mmrep.losses.blocks import Blocks
from mmrep.losses.contrastive import info_nce
from mmrep.losses.large_batch import LargeBatch
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive import filip
from mmrep.systems.contrastive.filip import model as functions

late_similarity = jax.jit(functions.late_similarity, static_argnames="chunk")
filip_similarity = jax.jit(functions.filip_similarity)
filip_loss = jax.jit(functions.filip_loss)
pair_similarity = jax.jit(functions.pair_similarity)
select_tokens = jax.jit(functions.select_tokens, static_argnums=2)
select_tokens_locally = jax.jit(functions.select_tokens_locally, static_argnums=(2, 3, 4))
TINY = filip.Config(
    ImageEncoder(TransformerConfig(width=32, depth=1, heads=4), patch=8),
    TextEncoder(TransformerConfig(width=32, depth=1, heads=4), vocab=64, length=12),
    16,
)
PAIR = (modality.image("image", 16), modality.text("text", 12, 64))
# Two images of two tokens, two texts of three, the first text's last token padding.
IMAGES = jnp.array([[[1, 0], [0, 1]], [[0.6, 0.8], [0.8, -0.6]]], jnp.float32), jnp.ones((2, 2), bool)
TEXTS = (
    jnp.array([[[1, 0], [0, -1], [0, 1]], [[0, 1], [0.6, 0.8], [0.8, 0.6]]], jnp.float32),
    jnp.array([[True, True, False], [True, True, True]]),
)
S_IMAGE, S_TEXT = [[0.5, 0.9], [0.7, 0.64]], [[0.5, 2.6 / 3], [0.7, 0.92]]


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def test_golden_numbers():
    s_image, s_text = late_similarity(IMAGES, TEXTS)
    np.testing.assert_allclose(s_image, S_IMAGE, rtol=1e-6)
    np.testing.assert_allclose(s_text, S_TEXT, rtol=1e-6)
    np.testing.assert_allclose(info_nce(s_image / 0.5).mean(), 0.9630234, rtol=1e-6)
    np.testing.assert_allclose(info_nce(s_text.T / 0.5).mean(), 0.7771253, rtol=1e-6)
    loss, own = filip_loss(IMAGES, TEXTS, 2.0)
    np.testing.assert_allclose(loss.mean(), 0.8700744, rtol=1e-6)
    np.testing.assert_allclose(own, [0.5, 0.78], rtol=1e-6)
    np.testing.assert_allclose(pair_similarity(IMAGES, TEXTS), [[0.5, 0.64], [0.5, 0.92]], rtol=1e-6)
    one_matrix = 0.5 * (info_nce(s_image / 0.5) + info_nce(s_image.T / 0.5)).mean()
    assert abs(float(one_matrix) - 0.8700744) > 0.05, "one matrix and its transpose is another method"


def test_padding_without_its_mask_would_be_matched():
    s_image, s_text = late_similarity(IMAGES, (TEXTS[0], jnp.ones((2, 3), bool)))
    np.testing.assert_allclose(s_image[0, 0], 1.0, atol=1e-6)  # the second patch equals the padding (0, 1)
    np.testing.assert_allclose(s_text[0, 0], 2 / 3, atol=1e-6)  # and the mean runs over three tokens


def test_selection_keeps_the_best_valid_tokens():
    tokens = jnp.array([[[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]]], jnp.float32)
    others = jnp.array([[[1, 0], [0, 1]]], jnp.float32), jnp.array([[True, False]])
    valid = jnp.array([[True, True, True, False]])
    (kept, kept_valid), _ = select_tokens((tokens, valid), others, 0.5)
    np.testing.assert_allclose(kept, [[[1, 0], [0.6, 0.8]]])
    assert kept_valid.all()
    assert not select_tokens((tokens, valid), others, 1.0)[0][1][0, 3]  # padding comes last and stays masked
    with pytest.raises(ConfigError, match=r"be in \(0, 1\]"):
        select_tokens((tokens, valid), others, 0.0)


def test_maxima_run_over_selected_keys_and_means_over_all_queries():
    keys = select_tokens(IMAGES, TEXTS, 0.5)
    half, full = filip_similarity(IMAGES, TEXTS, keys), filip_similarity(IMAGES, TEXTS)
    assert (half[0] <= full[0] + 1e-6).all() and (half[1] <= full[1] + 1e-6).all()
    assert not np.allclose(half[1], full[1])
    np.testing.assert_allclose(half[0], late_similarity(IMAGES, keys[1])[0], atol=1e-6)
    np.testing.assert_allclose(half[1], late_similarity(keys[0], TEXTS)[1], atol=1e-6)


@pytest.mark.parametrize("blocks", [None, Blocks(2)])
def test_local_selection_is_that_of_each_group_alone(blocks):
    x, y = (unit(0, 6, 4, 5), jnp.ones((6, 4), bool)), (unit(1, 6, 5, 5), jnp.arange(5) < jnp.arange(1, 7)[:, None])
    found = select_tokens_locally(x, y, 0.5, 3, blocks)
    part = lambda of, i: jax.tree.map(lambda v: v[3 * i : 3 * i + 3], of)  # noqa: E731
    for i in range(2):
        expected = select_tokens(part(x, i), part(y, i), 0.5)
        jax.tree.map(np.testing.assert_array_equal, part(found, i), expected)
    assert not np.array_equal(found[0][0], select_tokens(x, y, 0.5)[0][0]), "the whole batch selects other tokens"
    with pytest.raises(ConfigError, match="system.local_batch is 4"):
        select_tokens_locally(x, y, 0.5, 4, blocks)


@pytest.fixture(scope="module")
def made():
    batch = {k: jnp.asarray(v) for k, v in modality.example(PAIR, 6).items()}
    system = TINY.build()
    params = jax.jit(system.init)(jax.random.key(0), batch)[0]
    sets = {n: jax.jit(system.infer[f"{n}_tokens"])(params, {}, batch) for n in ("image", "text")}
    return system, params, batch, sets


def test_the_system_wires_tokens_loss_and_score(made):
    system, params, batch, sets = made
    loss, (_, metrics) = jax.jit(system.loss)(params, {}, batch, jax.random.key(0))
    expected, own = filip_loss(sets["image"], sets["text"], 1 / 0.07)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["similarity"], own.mean(), rtol=1e-5)
    np.testing.assert_array_equal(sets["text"][1], batch["text"] > 0)
    pairs = {f"{n}_{kind}": v for n in sets for kind, v in zip(("tokens", "valid"), sets[n])}
    both = pair_similarity(sets["image"], sets["text"])
    for name, expected in (("score", own), ("score_image", both[0]), ("score_text", both[1])):
        np.testing.assert_allclose(jax.jit(system.infer[name])(params, {}, pairs), expected, rtol=1e-5)
    assert system.infer["image"](params, {}, batch).shape == (6, 16)


def test_each_similarity_compares_its_own_vectors(made):
    _, params, batch, sets = made
    tokens = {n: np.asarray(t) for n, (t, _) in sets.items()}
    real = np.asarray(sets["text"][1])
    naive = np.einsum("ind,jld->ijnl", tokens["image"], tokens["text"]).mean(2).sum(-1) / real.sum(1)
    for similarity in ("token_mean", "global"):
        config = filip.Config(TINY.image, TINY.text, 16, similarity=similarity)
        infer = config.build().infer
        assert "score" not in infer
        x, y = (jax.jit(infer[n])(params, {}, batch) for n in ("image", "text"))
        if similarity == "token_mean":  # the mean over both sides' valid tokens
            np.testing.assert_allclose(x @ y.T, naive, atol=1e-5)
        else:
            np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0), ("similarity", "sum"), ("token_keep_ratio", 0.0), ("token_keep_ratio", 1.5), ("chunk", 0),
        ("local_batch", 0), ("dim", 0), ("dtype", "int8"),
    ],
)  # fmt: skip
def test_impossible_fields_are_named(field, value):
    with pytest.raises(ConfigError, match=f"system.{field}"):
        wrong = filip.Config()
        object.__setattr__(wrong, field, value)  # past the type check of the constructor
        wrong.build()


def test_impossible_selections_are_named():
    with pytest.raises(ConfigError, match="system.token_keep_ratio"):
        filip.Config(token_keep_ratio=0.5, similarity="token_mean").build()
    with pytest.raises(ConfigError, match="system.local_batch is None"):
        filip.Config(token_keep_ratio=0.5, large_batch=LargeBatch("ring")).build()

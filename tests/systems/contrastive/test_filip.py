"""FILIP: the two similarities by hand, the loss through the system, masks, token selection, and where words find their objects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce, symmetric_info_nce_of_logits
from mmrep.model import Model
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.filip import Config
from mmrep.systems.contrastive.filip.evals import Localisation, alignment, shown
from mmrep.systems.contrastive.filip.model import late_similarity

IMAGE, TEXT = (
    ImageEncoder(TransformerConfig(width=32, depth=1, heads=4), patch=8),
    TextEncoder(TransformerConfig(width=32, depth=1, heads=4), vocab=64, length=12),
)
PAIR = (modality.image("image", 16), modality.text("text", 12, 64))
BATCH = {k: jnp.asarray(v) for k, v in modality.example(PAIR, 6).items()}
I = jnp.array([[[1, 0], [0, 1]], [[0.6, 0.8], [0.8, -0.6]]], jnp.float32)
T = jnp.array([[[1, 0], [0, -1], [0, 1]], [[0, 1], [0.6, 0.8], [0.8, 0.6]]], jnp.float32)
SEEN, REAL = jnp.ones((2, 2), bool), jnp.array([[True, True, False], [True, True, True]])
S_IMAGE, S_TEXT = np.array([[0.5, 0.9], [0.7, 0.64]]), np.array([[0.5, 2.6 / 3], [0.7, 0.92]])


def system(**changes):
    made = Config(IMAGE, TEXT, 16, **changes).build()
    return made, made.init(jax.random.key(0), BATCH)[0]


def test_both_similarities_and_the_loss_by_hand():
    s_image, s_text = Config(chunk=1).similarities((I, SEEN), (T, REAL))
    np.testing.assert_allclose(s_image, S_IMAGE, atol=1e-6)
    np.testing.assert_allclose(s_text, S_TEXT, atol=1e-6)
    rows = symmetric_info_nce_of_logits(s_image / 0.5, s_text.T / 0.5)
    np.testing.assert_allclose(rows.mean(), 0.8700744, atol=1e-6)
    one_matrix = symmetric_info_nce_of_logits(s_image / 0.5, s_image.T / 0.5).mean()
    assert abs(float(one_matrix) - 0.8700744) > 0.05, "one matrix and its transpose is another method"


def test_padding_would_speak_without_its_mask():
    s_image, s_text = Config().similarities((I, SEEN), (T, jnp.ones_like(REAL)))
    np.testing.assert_allclose(s_image[0, 0], 1.0, atol=1e-6)  # the second patch finds the padding (0, 1)
    np.testing.assert_allclose(s_text[0, 0], 2 / 3, atol=1e-6)  # and the mean runs over three


def test_loss_is_the_mean_over_pairs_of_both_directions_on_every_token():
    made, params = system()
    loss, (_, metrics) = made.loss(params, {}, BATCH, jax.random.key(0))
    x, y = (np.asarray(made.infer[n](params, {}, BATCH)["tokens"]) for n in ("image", "text"))
    real = BATCH["text"] > 0
    s = np.einsum("ind,jld->ijnl", x, y)
    best_word = np.where(real[None, :, None], s, -9).max(-1).mean(-1)
    best_patch = np.where(real[None], s.max(2), 0).sum(-1) / real.sum(1)

    def cross_entropy(rows):
        rows = rows / 0.07
        return np.mean(np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1) - np.diagonal(rows))

    np.testing.assert_allclose(loss, (cross_entropy(best_word) + cross_entropy(best_patch.T)) / 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["scale"], 1 / 0.07, rtol=1e-5)
    assert abs(cross_entropy(best_patch) - cross_entropy(best_patch.T)) > 1e-3, "the direction of the softmax matters"


def test_mean_is_the_dot_product_of_mean_tokens_and_global_is_clip():
    made, params = system(interaction="mean")
    out = {n: made.infer[n](params, {}, BATCH) for n in ("image", "text")}
    tokens = {n: made.infer[f"{n}_tokens"](params, {}, BATCH) for n in ("image", "text")}
    s = np.einsum("ind,jld->ijnl", tokens["image"]["tokens"], tokens["text"]["tokens"])
    real = BATCH["text"] > 0
    naive = s.mean(2).sum(-1) / real.sum(1)  # the mean over both sides' real tokens; padding is zero
    sides = [(out[n]["tokens"], out[n]["valid"]) for n in ("image", "text")]
    np.testing.assert_allclose(late_similarity(*sides[0], *sides[1])[0], naive, atol=1e-5)

    made, params = system(interaction="global")
    x, y = (made.infer[n](params, {}, BATCH)["tokens"] for n in ("image", "text"))
    assert x.shape == (6, 1, 16)
    loss, _ = made.loss(params, {}, BATCH, jax.random.key(0))
    np.testing.assert_allclose(loss, symmetric_info_nce(x[:, 0], y[:, 0], 1 / 0.07).mean(), rtol=1e-5)


def test_padding_changes_neither_loss_nor_gradient_unless_the_mask_is_off():
    longer = BATCH | {"text": jnp.where(jnp.arange(12) < 9, BATCH["text"], 0)}
    shorter = longer | {"text": longer["text"][:, :9]}
    for mask in (True, False):
        made, params = system(mask=mask)
        run = jax.value_and_grad(lambda p, b, loss=made.loss: loss(p, {}, b, jax.random.key(0))[0])
        (a, da), (b, db) = run(params, longer), run(params, shorter)
        far = max(float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(da), jax.tree.leaves(db)))
        assert (abs(float(a - b)) < 1e-5 and far < 1e-4) is mask


def test_selection_shortens_what_is_looked_among_and_never_who_asks():
    half = Config(keep=0.5).similarities((I, SEEN), (T, REAL))
    # Kept: the patch (1,0) of image 0 and (0.8,-0.6) or (0.6,0.8) of image 1, whichever matches best; two of three words.
    assert half[0].shape == half[1].shape == (2, 2)
    full = Config().similarities((I, SEEN), (T, REAL))
    assert (half[0] <= full[0] + 1e-6).all() and (half[1] <= full[1] + 1e-6).all()
    assert not np.allclose(half[1], full[1])
    np.testing.assert_allclose(Config(keep=1.0, chunk=1).similarities((I, SEEN), (T, REAL))[1], full[1], atol=1e-6)
    kept, params = system(keep=0.5)
    whole, _ = system()
    for name in kept.infer:  # evaluation always sees every token: a choice by the batch would leak
        jax.tree.map(
            np.testing.assert_array_equal, kept.infer[name](params, {}, BATCH), whole.infer[name](params, {}, BATCH)
        )


def test_shown_and_alignment():
    instances = np.zeros((4, 4), np.uint8)
    instances[0, 0], instances[1, 2:], instances[3, 3] = 1, 2, 2
    found = shown(instances, 2)
    np.testing.assert_array_equal(found[:, 0], [True, False, False, False])
    np.testing.assert_array_equal(found[:, 1], [False, True, False, True])
    assert not found[:, 2:].any()
    best_patch, best_word = alignment(np.eye(3)[[0, 1]], np.eye(3)[[1, 0, 1]])
    np.testing.assert_array_equal(best_patch, [1, 0, 1])
    np.testing.assert_array_equal(best_word, [1, 0])


class Fake(Model):
    """One pair, its tokens and its record."""

    def __init__(self, tokens, columns):
        self.tokens, self.columns = tokens, columns

    def embed_split(self, name, split="test", fields=()):
        return {"tokens": self.tokens[name][None].astype(np.float32)}

    def column(self, field, split="test"):
        return [self.columns[field]]


def model_of(patches, words, caption="a red circle, and a dot"):
    instances = np.zeros((4, 4), np.uint8)
    instances[:2, :2], instances[2:, 2:] = 1, 2  # patches 0 and 3
    columns = {"caption": caption, "caption_objects": np.array([0, 0, 0, -1, 1, 1]), "instances": instances}
    tokens = {"image_tokens": np.eye(5)[patches], "text_tokens": np.eye(5)[words]}
    return Fake(tokens, columns)


def test_localisation_counts_named_words_and_lone_patches():
    # BOS a red circle, and a dot EOS: "red" -> patch 0 (right), "circle" -> patch 1 (wrong), "dot" is not asked.
    found = Localisation(("red", "circle"), 2).run(model_of([1, 2, 0, 3], [0, 0, 1, 2, 0, 0, 3, 4]))
    assert found["localisation word->patch"] == 0.5
    assert found["localisation chance"] == 0.25
    assert found["localisation patch->word"] == 1.0  # patch 0 chooses "red", patch 3 "dot"
    shifted = Localisation(("red", "circle"), 2).run(model_of([1, 2, 0, 3], [0, 1, 2, 0, 0, 3, 4, 4]))
    assert shifted["localisation word->patch"] == 0.0, "a word read one place off would go unnoticed"


def test_localisation_wants_a_token_for_each_word():
    with pytest.raises(ConfigError, match="data.tokenizer.kind"):
        Localisation(("red",), 2).run(model_of([1, 2, 0, 3], [0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0.0), ("interaction", "sum"), ("keep", 0.0), ("keep", 1.5), ("chunk", 0), ("dim", 0), ("dtype", "int8")],
)  # fmt: skip
def test_impossible_fields_are_named(field, value):
    with pytest.raises(ConfigError, match=f"system.{field}"):
        wrong = Config()
        object.__setattr__(wrong, field, value)  # past the type check of the constructor
        wrong.build()
    with pytest.raises(ConfigError, match="system.keep"):
        Config(keep=0.5, interaction="mean").build()

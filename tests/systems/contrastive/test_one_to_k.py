"""1-to-K: hand values, the authors' numbers, missing languages, and the samplers of matching."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.one_to_k import get_config
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.model import Model
from mmrep.nn.encoders.ngram import NgramEncoder
from mmrep.systems.contrastive.one_to_k import Config, chosen, one_to_k_loss, pivot_loss
from mmrep.systems.contrastive.one_to_k.evals import Languages
from mmrep.systems.contrastive.one_to_k.matching import hard_pairs, worst_language

GOLDEN = Path(__file__).parents[2] / "golden" / "one_to_k.npz"
X = jnp.eye(2)
Y = jnp.array([[[0.8, 0.6], [0.6, 0.8]], [[0.0, 1.0], [-0.6, 0.8]]])


def test_hand_values_of_both_weightings():
    to_text, to_image = 2.0851175, 0.4029978  # the sum over K, and the mean over texts
    np.testing.assert_allclose(one_to_k_loss(X, Y, 2.0, weighting="code"), 0.6220288, rtol=1e-6)
    np.testing.assert_allclose(one_to_k_loss(X, Y, 2.0), (to_text / 2 + to_image) / 2, rtol=1e-6)


def test_the_authors_loss():
    with np.load(GOLDEN) as golden:
        x, y, scale = golden["image"], golden["text"], 1 / golden["temperature"]
        found = one_to_k_loss(
            jnp.asarray(x), jnp.asarray(y.reshape(len(x), -1, x.shape[1])), float(scale), weighting="code"
        )
        np.testing.assert_allclose(found, golden["loss"], rtol=1e-5)


def test_from_picture_to_texts_the_sum_is_at_least_k_log_k():
    same = jnp.repeat(X[:, None], 3, axis=1)
    perfect = one_to_k_loss(X, same, 200.0, weighting="code")
    np.testing.assert_allclose(perfect, 0.5 * 3 * np.log(3) / 3, rtol=1e-5)


def test_absent_texts_are_neither_positives_nor_negatives():
    there = jnp.array([[True, False], [True, True]])
    moved = Y.at[0, 1].set(jnp.array([0.0, -1.0]))
    np.testing.assert_allclose(one_to_k_loss(X, Y, 3.0, there), one_to_k_loss(X, moved, 3.0, there), rtol=1e-6)
    first = jnp.array([[True, False], [True, False]])
    np.testing.assert_allclose(one_to_k_loss(X, Y, 3.0, first), symmetric_info_nce(X, Y[:, 0], 3.0).mean(), rtol=1e-6)


def test_one_positive_keeps_the_others_as_negatives():
    one = jnp.array([[True, False], [False, True]])
    logits = np.asarray(3.0 * X @ Y.reshape(4, 2).T, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    log_q = logits.T - np.log(np.exp(logits.T).sum(1, keepdims=True))
    expected = -(log_p[0, 0] + log_p[1, 3]) / 2, -(log_q[0, 0] + log_q[3, 1]) / 2
    np.testing.assert_allclose(one_to_k_loss(X, Y, 3.0, positive=one), sum(expected) / 2, rtol=1e-5)


def test_pivot_contrasts_the_first_language_with_the_others():
    found = pivot_loss(X, jnp.concatenate([Y, Y[:, 1:]], 1), 3.0)
    expected = symmetric_info_nce(X, Y[:, 0], 3.0) + symmetric_info_nce(Y[:, 0], Y[:, 1], 3.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_worst_language_is_drawn_most_and_absent_ones_never():
    logits = jnp.log(jnp.array([[0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]]))
    draw = jax.jit(jax.vmap(lambda key, there: worst_language(key, logits, there), (0, None)))
    keys = jax.random.split(jax.random.key(0), 2000)
    share = np.mean(np.asarray(draw(keys, jnp.ones((2, 2), bool))), 0)
    np.testing.assert_allclose(share, [0.5 / 0.6, 0.0], atol=0.03)  # max weight 0.7: (0.1, 0.5) and (0.6, 0)
    assert not np.asarray(draw(keys[:50], jnp.array([[True, False], [True, True]])))[:, 0].any()


def test_pairs_are_wrong_and_present():
    rng = np.random.default_rng(0)
    to_text, to_image = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((4, 12), (4, 4)))
    there = jnp.ones((4, 3), bool).at[1, 2].set(False)
    draw = jax.jit(lambda key: hard_pairs(key, to_text, to_image, there))
    for key in jax.random.split(jax.random.key(1), 40):
        image, text, fine = draw(key)
        assert (image != np.arange(4)).all() and (text // 3 != np.arange(4)).all() and (text != 5).all() and fine.all()
    assert not hard_pairs(key, to_text[:1, :3], to_image[:1, :1], there[:1])[2].any()


def test_rows_are_chosen_by_language():
    texts = jnp.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(chosen(texts, jnp.array([2, 0])), [[4, 5], [6, 7]])


def test_one_encoder_for_all_languages():
    tiny = get_config("tiny")
    batch = modality.example(tiny.data.modalities, 3)
    system = tiny.system.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    assert {"image", "text", "scale", "fusion", "match", "mlm"} == {*params}
    moved = batch | {"text_2": batch["text"]}
    np.testing.assert_array_equal(system.infer["text_2"](params, {}, moved), system.infer["text"](params, {}, batch))


class Fake(Model):
    """The part of Model that the evaluator uses."""

    def __init__(self, sets):
        self.sets = sets

    def embed_split(self, name, split="test", fields=()):
        return self.sets[name]


def test_languages_by_hand():
    x = np.eye(4, dtype=np.float32)
    found = Languages(("a", "b"), k=1).run(Fake({"image": x, "a": x, "b": x[[1, 0, 2, 3]]}))
    assert (
        found["languages R@1"] == 0.75 and found["languages worst R@1"] == 0.5 and found["languages spread R@1"] == 0.25
    )
    # In b the first two records have one target above theirs and two level with it: rank 1 + 1 + 2 / 2.
    assert found["languages rank variance image->text"] == pytest.approx(0.5 * ((3 - 1) / 2) ** 2)


def test_a_table_of_eight_pictures_in_two_languages(tmp_path):
    from PIL import Image

    rows = ["image,english,german"]
    for i in range(8):
        Image.fromarray(np.full((40, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,grey number {i},grau Nummer {i}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    table = Table(tmp_path / "pairs.csv", text=("english", "german"), fractions=(1.0, 0.0, 0.0))
    tiny = get_config("tiny")
    parts = (
        modality.image("image", (24, 16)), modality.text("text", 8, 160, field="english"), modality.text("text_1", 8, 160, field="german")
    )  # fmt: skip
    split = open_split(
        replace(tiny.data, source=table, modalities=parts), lambda w, n: np.arange(1, n + 1, dtype=np.int32), "train"
    )
    batch = collate([split.entry(i) for i in range(8)])
    system = replace(tiny.system, languages=("text", "text_1")).build()
    value, _ = system.loss(system.init(jax.random.key(0), batch)[0], {}, batch, jax.random.key(0))
    assert np.isfinite(value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"languages": ("text",)}, "languages"),
        ({"temperature": 0.6}, "temperature"),
        ({"text": NgramEncoder(), "fusion_depth": 1}, "fusion_depth"),
        ({"objective": "pivot", "present": True}, "present"),
    ],
)
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(Config(), **change).build()

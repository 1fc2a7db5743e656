"""IRRA against the authors' numbers, its masking, and masked words by hand."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.irra import get_config
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.nn.config import TransformerConfig
from mmrep.systems.contrastive.irra import Config, CrossEncoder, id_loss, mask_words, match_loss, sdm_loss

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "irra.npz"))
X, Y, IDS = (jnp.asarray(GOLDEN[k]) for k in ("image", "text", "ids"))
IDS = IDS.astype(jnp.int32)


def test_the_authors_losses():
    for name, objective in (("sdm", "sdm"), ("cmpm", "cmpm"), ("itc", "infonce")):
        found = match_loss(X, Y, IDS, 50.0, objective).mean()
        np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-5, err_msg=name)
    found = id_loss(jnp.asarray(GOLDEN["image_logits"]), jnp.asarray(GOLDEN["text_logits"]), IDS).mean()
    np.testing.assert_allclose(found, GOLDEN["id"], rtol=1e-5)
    labels = jnp.asarray(GOLDEN["labels"], jnp.int32)
    found = masked_mean(token_loss(jnp.asarray(GOLDEN["scores"]), labels, labels > 0), labels > 0)
    np.testing.assert_allclose(found, GOLDEN["mlm"], rtol=1e-5)


def test_closed_form_of_equal_features():
    x = jnp.ones((2, 4)) / 2
    np.testing.assert_allclose(sdm_loss(x, x, jnp.arange(2), 50.0), 2 * 8.5172, atol=2e-4)


def test_the_divergence_is_the_reverse_one():
    # All mass on one of two positives is allowed (log 2 - eps); mass on a negative is not.
    x, y = jnp.eye(3), jnp.eye(3)
    ids = jnp.array([0, 0, 1])
    np.testing.assert_allclose(sdm_loss(x, y, ids, 50.0), [2 * np.log(2), 2 * np.log(2), 0], atol=1e-4)
    assert match_loss(x, y, ids, 50.0, "multi_positive")[0] > 20


def test_the_same_person_may_be_left_out_of_the_negatives():
    x, y = X[jnp.array([0, 2])], Y[jnp.array([0, 2])]  # one person: no negatives are left
    np.testing.assert_allclose(match_loss(x, y, jnp.zeros(2, jnp.int32), 50.0, "excluded"), 0, atol=1e-6)
    distinct = jnp.arange(6)
    u, v = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (X, Y))
    for objective in ("excluded", "multi_positive", "infonce"):
        np.testing.assert_allclose(match_loss(X, Y, distinct, 5.0, objective), symmetric_info_nce(u, v, 5.0), rtol=1e-4)


def test_persons_outside_of_the_classes_cost_nothing():
    x = jnp.asarray(GOLDEN["image_logits"])
    found = id_loss(x, x, jnp.array([0, 1, 2, 3, 4, 9]))
    assert (found[:4] > 0).all() and not found[4:].any()


def test_words_are_masked_and_one_at_least():
    ids = jnp.array([[1, 7, 8, 9, 2, 0], [1, 7, 2, 0, 0, 0]] * 50, jnp.int32)
    corrupted, target = jax.jit(lambda key: mask_words(key, ids, 20, 0.15))(jax.random.key(0))
    assert target.any(1).all() and not target[ids < 5].any()
    assert (corrupted[~target] == ids[~target]).all() and corrupted.dtype == ids.dtype
    alone = np.asarray(target.sum(1) == 1) & np.asarray(target[:, 1])
    assert (np.asarray(corrupted)[alone, 1] == 3).mean() > 0.8


def test_words_are_told_by_the_picture_alone():
    shape = TransformerConfig(width=16, depth=1, heads=2, activation="quick_gelu")
    words, patches = (jax.random.normal(jax.random.key(i), (2, n, 16)) for i, n in ((0, 4), (1, 3)))
    valid = jnp.array([[True] * 4, [True, True, False, False]])
    module = CrossEncoder(shape)
    params = jax.jit(module.init)(jax.random.key(2), words, patches, valid)
    run = jax.jit(module.apply)
    found = run(params, words, patches, valid)
    moved = run(params, words.at[1, 2:].set(5.0), patches, valid)
    np.testing.assert_allclose(found[1, :2], moved[1, :2], atol=1e-5)
    # No residual connection: equal patches leave nothing of the words.
    flat = run(params, words, jnp.ones_like(patches), valid)
    np.testing.assert_allclose(flat[0], jnp.broadcast_to(flat[0, :1], flat[0].shape), atol=1e-5)


def test_the_pooled_text_is_its_last_token_and_retrieval_has_no_cross_encoder():
    tiny = get_config("tiny")
    batch = modality.example(tiny.data.modalities, 3)
    system = tiny.system.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    assert "scale" not in params
    dual = {k: params[k] for k in ("image", "text")}
    embed = jax.jit(system.infer["text"])
    y = embed(dual, {}, batch)
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=1), 1, rtol=1e-5)
    longer = np.pad(batch["text"][:, :-1], ((0, 0), (0, 1)))
    short = batch["text"][:, -1] == 0
    np.testing.assert_allclose(embed(dual, {}, batch | {"text": longer})[short], y[short], atol=1e-5)


def test_a_table_of_eight_persons(tmp_path):
    from PIL import Image

    rows = ["image,caption,label"]
    for i in range(8):
        Image.fromarray(np.full((48, 16, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,a person in grey number {i},{i // 2}")
    (tmp_path / "persons.csv").write_text("\n".join(rows) + "\n")
    tiny = get_config("tiny")
    table = Table(tmp_path / "persons.csv", label="label", group="label", fractions=(1.0, 0.0, 0.0))
    image, text, identity = tiny.data.modalities
    parts = replace(image, field="image"), text, replace(identity, field="label")
    split = open_split(
        replace(tiny.data, source=table, modalities=parts), lambda w, n: np.arange(1, n + 1, dtype=np.int32), "train"
    )
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(8)]))
    np.testing.assert_array_equal(np.bincount(batch["identity"]), 2)
    system = tiny.system.build()
    value, (_, metrics) = system.loss(system.init(jax.random.key(0), batch)[0], {}, batch, jax.random.key(0))
    assert np.isfinite(value) and {"match", "id", "mlm", "mlm_accuracy"} == {*metrics}


@pytest.mark.parametrize(
    "change, words",
    [({"temperature": 0.0}, "temperature"), ({"mask_rate": 0.0}, "mask_rate"), ({"dim": 32}, "cross.width")],
)  # fmt: skip
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        Config(**change).build()

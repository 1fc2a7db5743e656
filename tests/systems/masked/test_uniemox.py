"""UniEmoX: closed forms of its losses, crops, what the teacher sees, and its probe."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.masked.uniemox import get_config, moods
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.losses.masked import normalise_patches
from mmrep.systems.masked.uniemox import Config
from mmrep.systems.masked.uniemox.data import Cropped, Moods, crop
from mmrep.systems.masked.uniemox.model import AttentionFusion, alignment_loss, mae_loss, structure_loss


def test_closed_forms():
    e, tau = jnp.eye(2), 0.5
    p = 1 / (1 + np.exp(-1 / tau))
    # Rows (1, 0) / tau of the teacher and (0, 1) / tau of the student.
    np.testing.assert_allclose(structure_loss(e[::-1], e, e, tau), (2 * p - 1) / tau, rtol=1e-5)
    np.testing.assert_allclose(structure_loss(e, 3 * e, 2 * e, tau), 0, atol=1e-6)
    np.testing.assert_allclose(structure_loss(e, e, e, tau, e[::-1]), (2 * p - 1) / tau, rtol=1e-5)
    np.testing.assert_allclose(alignment_loss(e, 5 * e), 0, atol=1e-6)
    np.testing.assert_allclose(alignment_loss(e, -e), 2, atol=1e-6)
    assert np.isfinite(structure_loss(0 * e, e, e, 0.01)).all() and np.isfinite(alignment_loss(0 * e, e)).all()
    # Equal texts: unpaired ones equal the paired one, and the similarities are uniform.
    np.testing.assert_allclose(structure_loss(e, e, jnp.ones((2, 2)), tau), 0, atol=1e-6)


def test_only_hidden_patches_count():
    patches = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6)), jnp.float32)
    target = normalise_patches(patches)
    hidden = jnp.array([[True, True, False, False], [False, False, False, True]])
    np.testing.assert_allclose(mae_loss(jnp.where(hidden[..., None], target, 9.0), patches, hidden), 0, atol=1e-6)
    np.testing.assert_allclose(mae_loss(target + 1.0, patches, hidden), 1, rtol=1e-5)


def test_fusion_by_hand():
    parts = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4)), jnp.float32)
    params = AttentionFusion().init(jax.random.key(0), parts)["params"]
    hidden = np.tanh(parts @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    weights = np.exp(hidden @ params["weight"]["kernel"])
    np.testing.assert_allclose(
        AttentionFusion().apply({"params": params}, parts),
        (weights / weights.sum(1, keepdims=True) * parts).sum(1),
        atol=1e-5,
    )
    one = jnp.repeat(parts[:, :1], 2, 1)  # no person: the scene itself
    np.testing.assert_allclose(AttentionFusion().apply({"params": params}, one), parts[:, 0], atol=1e-5)


def test_crops():
    picture = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(8, 4, 3)
    boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0.25, 1, 1], [np.nan] * 4])
    np.testing.assert_array_equal(crop(picture, boxes), picture[2:8, 2:4])
    for none in (np.zeros((0, 4)), np.full((1, 4), np.nan), np.zeros((2, 4))):
        assert crop(picture, none) is picture
    assert crop(picture, np.array([[0.1, 0.1, 0.11, 0.11]])).shape == (1, 1, 3)

    class Source:
        def view(self, record, rng):
            return record

    source = Cropped(Source(), "rgb")
    found = source.view({"rgb": picture, "boxes": boxes[:2], "boxes_valid": np.array([True, False])}, None)
    np.testing.assert_array_equal(found["person"], picture[:4, :2])
    assert source.view({"rgb": picture}, None)["person"] is picture


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = {k: jnp.asarray(v) for k, v in modality.example(config.data.modalities, 4).items()}
    system = config.system.build()
    return system, jax.jit(system.init)(jax.random.key(0), batch)[0], batch


def test_gradients_and_what_the_teacher_sees(tiny):
    system, params, batch = tiny
    loss = jax.jit(jax.value_and_grad(lambda p, key: system.loss(p, {}, batch, key)[0]))
    (first, grads), (second, _) = loss(params, jax.random.key(0)), loss(params, jax.random.key(1))
    assert first != second  # another mask
    touched = {k: any(np.asarray(x).any() for x in jax.tree.leaves(v)) for k, v in grads.items()}
    assert touched == {"encoder": True, "decoder": True, "project": True, "fusion": True, "teacher": False}
    # The teacher encodes the whole picture: its vector has nothing to do with the mask, and the person is not reconstructed.
    mae = jax.jit(jax.grad(lambda x: system.loss(params, {}, batch | {"person": x}, jax.random.key(0))[1][1]["mae"]))
    assert not mae(batch["person"]).any()
    with pytest.raises(ConfigError, match="both"):
        replace(get_config("tiny").system, teacher_text=None).build()


def test_the_scene_alone(tiny):
    config = moods(person=False)
    system, batch = config.system.build(), modality.example(config.data.modalities, 4)
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    assert "fusion" not in params and "teacher" not in params
    other = batch | {"person": 1 - batch["person"]}
    for name in ("fused", "features"):
        np.testing.assert_array_equal(system.infer[name](params, {}, batch), system.infer[name](params, {}, other))


def test_moods_need_both():
    records = Moods(n_train=2000).open("train").columns
    label, context, state = (records[k] for k in ("label", "context", "state"))
    np.testing.assert_array_equal(label, 4 * context + state)
    joint = np.histogram2d(context, state, bins=4)[0] / len(label)
    assert np.abs(joint - 1 / 16).max() < 0.02
    # Random signs: the mean of the pictures of a state is that of all.
    person = records["person"].astype(np.float32)
    assert max(np.abs(person[state == s].mean(0) - person.mean(0)).max() for s in range(4)) < 25


def test_a_table_of_eight_pictures_with_boxes(tmp_path):
    import json

    from PIL import Image

    rows = []
    for i in range(8):
        Image.fromarray(np.full((40, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(
            {"image": f"{i}.png", "caption": f"grey number {i}", "box": [0.25, 0.0, 0.75, 1.0] if i % 2 else [0.0] * 4}
        )
    (tmp_path / "moods.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    tiny = get_config("tiny")
    source = Cropped(Table(tmp_path / "moods.jsonl", extra=("box",), fractions=(1.0, 0.0, 0.0)), boxes="box")
    parts = tuple(replace(m, field=m.name) for m in tiny.data.modalities)
    split = open_split(
        replace(tiny.data, source=source, modalities=parts),
        lambda words, length: np.arange(length, dtype=np.int32),
        "train",
    )
    batch, system = collate([split.entry(i) for i in range(8)]), tiny.system.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    assert np.isfinite(jax.jit(system.loss)(params, {}, batch, jax.random.key(0))[0])


@pytest.mark.parametrize(
    "change, words",
    [({"mask": 1.0}, "mask"), ({"temperature": 0.0}, "temperature"), ({"mae": 0.0, "alignment": 0.0, "structure": 0.0}, "weight"), ({"dim": 0}, "dim")],
)  # fmt: skip
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(Config(), **change).build()

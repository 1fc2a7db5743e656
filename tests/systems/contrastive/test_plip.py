"""PLIP: the authors' fine-tuning losses, closed forms of the others, and colours by hand."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.plip import base, get_config
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.data.things import colours
from mmrep.errors import ConfigError
from mmrep.model import Model
from mmrep.nn.patches import patchify
from mmrep.systems.contrastive.plip import Config, losses
from mmrep.systems.contrastive.plip.evals import Colouring

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "plip.npz"))
X, Y, KERNEL = (jnp.asarray(GOLDEN[k]) for k in ("image", "text", "kernel"))
IDS = jnp.asarray(GOLDEN["ids"], jnp.int32)


def test_the_authors_fine_tuning_losses():
    np.testing.assert_allclose(losses.cmpm_loss(X, Y, IDS).mean(), GOLDEN["cmpm"], rtol=1e-5)
    np.testing.assert_allclose(losses.cmpc_loss(X, Y, KERNEL, IDS).mean(), GOLDEN["cmpc"], rtol=1e-5)
    assert losses.cmpc_loss(X, Y, KERNEL, IDS.at[0].set(7))[0] == 0


def test_identities_share_the_target_and_sum_to_one():
    x = jnp.ones((4, 3)) / 3**0.5
    np.testing.assert_allclose(losses.identity_loss(x, x, 20.0, jnp.zeros(4, jnp.int32)), 0, atol=1e-5)
    unit = losses.cmpm_loss(x, x, jnp.zeros(4, jnp.int32))
    np.testing.assert_allclose(unit, 2 * np.log(0.25 / 0.5), rtol=1e-5)  # labels of norm 1 are 0.5 each, their sum is 2


def test_colours_have_a_closed_form_and_grey_tells_none():
    images = jax.random.uniform(jax.random.key(0), (2, 8, 4, 3))
    patches = patchify(images, 4)
    assert losses.colour_loss(patches, images, 4) == 0
    mean = jnp.broadcast_to(images.mean(), patches.shape)
    np.testing.assert_allclose(losses.colour_loss(mean, images, 4), images.var(), rtol=1e-5)
    named = jnp.asarray(colours(6), jnp.float32)[:, None, None]
    np.testing.assert_allclose(losses.grey(named), 0.5, atol=1e-6)


def test_attributes_alone_are_masked():
    ids = jnp.array([[1, 7, 4, 9, 2, 0]] * 400, jnp.int32)  # 4 is an unknown word
    masked, target = losses.mask_attributes(jax.random.key(0), ids, 0.3)
    assert not target[:, jnp.array([0, 2, 4, 5])].any() and (masked[target] == 3).all()
    assert (masked[~target] == ids[~target]).all()
    assert float(target[:, 1].mean()) == pytest.approx(0.3, abs=0.08)


def test_the_mask_rate_is_scheduled():
    at = lambda step, how: float(losses.mask_rate_at(jnp.int32(step), 8, (0.2, 0.6), how))  # noqa: E731
    assert [at(2, how) for how in ("linear", "square", "squareroot")] == pytest.approx([0.3, 0.225, 0.4])
    assert at(20, "square") == pytest.approx(0.6)
    assert float(losses.mask_rate_at(jnp.int32(5), 0, (0.2, 0.6), "linear")) == pytest.approx(0.2)


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = jax.tree.map(jnp.asarray, modality.example(config.data.modalities, 4))
    system = config.system.build()
    return config, system, batch, *jax.jit(system.init)(jax.random.key(0), batch)


def test_no_masked_attribute_costs_nothing(tiny):
    _, system, batch, params, extras = tiny
    run = jax.jit(system.loss)
    value, (_, metrics) = run(params, extras, batch, jax.random.key(0))
    expected = metrics["contrast"] + 10 * metrics["colour"] + metrics["attribute"]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    none = batch | {"attributes": jnp.zeros_like(batch["attributes"]).at[:, 0].set(1).at[:, 1].set(2)}
    value, (_, metrics) = run(params, extras, none, jax.random.key(0))
    assert metrics["attribute"] == 0 and np.isfinite(value)


def test_colouring_sees_the_grey_picture_alone(tiny):
    _, system, batch, params, extras = tiny
    colour = jax.jit(system.infer["colours"])
    found = colour(params, extras, batch)
    assert found.shape == batch["image"].shape
    grey = batch | {"image": losses.grey(batch["image"])}
    np.testing.assert_allclose(found, colour(params, extras, grey), atol=1e-5)
    other = batch | {"text": jnp.flip(batch["text"], 0)}
    assert np.abs(found - colour(params, extras, other)).max() > 1e-4
    assert system.update(params, extras)["step"] == 1


def test_fine_tuning_has_the_pretrained_parameters():
    config = get_config("small")
    shapes = []
    for phase in config.phases:
        system = (phase.system or config.system).build()
        batch = modality.example(config.data.modalities, 4)
        shapes.append(jax.eval_shape(system.init, jax.random.key(0), batch))
        value = jax.eval_shape(system.loss, *shapes[-1], batch, jax.random.key(0))[1][1]
        assert ("colour" in value) == (phase.name == "pretrain")
    assert shapes[0] == shapes[1] and "classes" in shapes[0][0]


class Fake(Model):
    """Colours each band by the words of the text: value v of a band is v / 10."""

    def __init__(self):
        bands = [[0, 1], [1, 0], [1, 1]]
        self.found = [
            {"picture": np.repeat(np.array(b, np.float32) / 10, 2)[:, None, None] * np.ones((4, 2, 3)), "text": f"a{b[0]} b{b[1]} x"}
            for b in bands
        ]  # fmt: skip

    def modality(self, name):
        return modality.image("image", (4, 2), field="picture") if name == "image" else modality.text("text", 5, 9)

    def records(self, split="test", limit=0):
        return self.found

    def preprocess(self, name, value):
        return value

    def call(self, name, /, image, text):
        made = []
        for words in text:
            value = {w[0]: int(w[1]) / 10 for w in words.split() if w[0] in "ab"}
            made.append(np.repeat([value.get("a", 0.5), value.get("b", 0.5)], 2)[:, None, None] * np.ones((4, 2, 3)))
        return np.stack(made)


def test_colouring_by_hand():
    found = Colouring((("a0", "a1"), ("b0", "b1")), "x").run(Fake())
    assert found["colouring true"] == pytest.approx(0, abs=1e-9) and found["colouring other"] == pytest.approx(0.01)
    assert found["colouring none"] > 0.15


def test_a_table_of_eight_persons(tmp_path):
    from PIL import Image

    rows = ["image,caption,attributes,label"]
    for i in range(8):
        Image.fromarray(np.full((48, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,a person in grey,grey jacket,{i // 2}")
    (tmp_path / "persons.csv").write_text("\n".join(rows) + "\n")
    tiny = base.tiny()
    table = Table(
        tmp_path / "persons.csv", text=("caption", "attributes"), label="label", group="label", fractions=(1.0, 0.0, 0.0)
    )  # fmt: skip
    fields = {"image": "image", "text": "caption", "attributes": "attributes", "identity": "label"}
    parts = tuple(replace(m, field=fields[m.name]) for m in tiny.data.modalities)
    split = open_split(
        replace(tiny.data, source=table, modalities=parts), lambda w, n: np.arange(1, n + 1, dtype=np.int32), "train"
    )
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(8)]))
    system = tiny.system.build()
    value, _ = system.loss(*system.init(jax.random.key(0), batch), batch, jax.random.key(0))
    assert np.isfinite(value)


@pytest.mark.parametrize(
    "change, words",
    [({"mask_rate": (0.0, 0.5)}, "mask_rate"), ({"fusion": 0}, "fusion"), ({"temperature": 0.0}, "temperature"), ({"mask_steps": -1}, "mask_steps")],
)  # fmt: skip
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        Config(**change).build()

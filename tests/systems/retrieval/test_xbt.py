import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.retrieval import xbt as config
from mmrep import modality, solvers
from mmrep.config import Data, Phase, Tokenizer
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.evals.suite import evaluate
from mmrep.nn import lora
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.retrieval.xbt import Config, DualConfig, procrustes_phi
from mmrep.systems.retrieval.xbt.model import noisy, pairs_loss, text_loss
from mmrep.training import loop

SMALL = Config(
    DualConfig(VectorEncoder(), VectorEncoder(), 3), DualConfig(VectorEncoder((8,)), VectorEncoder((8,)), 5), hidden=8, lora_rank=2,
    lora_pattern=".*/(dense0|out)",
)  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    image, text = jax.random.normal(jax.random.key(3), (2, 6, 4))
    return {"image": image, "text": text}


def grads(system, batch, at=1.0):
    built = system.build()
    params, extras = built.init(jax.random.key(0), batch)
    params["lora"] = jax.tree.map(lambda x: x + at * 0.1, params["lora"])
    found = jax.jit(jax.grad(lambda p: built.loss(p, extras, batch, jax.random.key(1))[0]))(params)
    return {k: float(sum(jnp.abs(g).sum() for g in jax.tree.leaves(v))) for k, v in found.items()}


def test_losses_by_hand():
    # Cosines [[.9, .1], [.4, .7]] at a temperature of 0.1, of unit rows x and y.
    x = jnp.eye(4)[:2]
    y = jnp.array([[0.9, 0.4, (1 - 0.97) ** 0.5, 0], [0.1, 0.7, 0, 0.5**0.5]])
    value = text_loss(x, y, 10.0)
    rows = [np.log1p(np.exp(-8.0)), np.log1p(np.exp(-3.0))]
    columns = [np.log1p(np.exp(-5.0)), np.log1p(np.exp(-6.0))]
    np.testing.assert_allclose(value, np.add(rows, columns) / 2, rtol=1e-4)
    np.testing.assert_allclose(text_loss(x, y, 10.0, 2.0) - value, 2 * np.square(x - y).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(pairs_loss(x, y, y, 10.0), 2 * value, rtol=1e-5)


def test_the_surrogate_gets_no_gradient():
    x, y, s = jax.random.normal(jax.random.key(0), (3, 4, 5))
    assert not jnp.any(jax.grad(lambda s: pairs_loss(x, y, s, 5.0).sum())(s))
    assert jnp.any(jax.grad(lambda y: pairs_loss(x, y, s, 5.0).sum())(y))


def test_each_stage_reaches_its_parts(batch):
    text = grads(SMALL, batch)
    assert text["phi"] > 0 and text["old"] == text["new"] == text["lora"] == 0
    pairs = grads(dataclasses.replace(SMALL, stage="pairs"), batch)
    assert pairs["phi"] > 0 and pairs["lora"] > 0 and pairs["old"] == 0  # the old model is not needed
    old = grads(dataclasses.replace(SMALL, stage="old"), batch)
    assert old["old"] > 0 and old["new"] == old["phi"] == 0


def test_adapters_start_from_the_solution_of_the_texts_and_leave_the_new_model_as_it_is(batch):
    system = SMALL.build()
    params, extras = system.init(jax.random.key(0), batch)
    plain = dataclasses.replace(SMALL, lora_rank=0).build()
    for name in ("image", "text"):
        np.testing.assert_array_equal(
            system.infer[name](params, extras, batch), plain.infer[name](params, extras, batch)
        )
    trained = params | {"lora": jax.tree.map(lambda x: x + 0.3, params["lora"])}
    assert not np.array_equal(
        system.infer["image"](params, extras, batch), system.infer["image"](trained, extras, batch)
    )
    for name in ("old_image", "new_image", "new_text"):
        np.testing.assert_array_equal(
            system.infer[name](params, extras, batch), system.infer[name](trained, extras, batch)
        )
    assert lora.merge(params["new"], {}, 1.0) is params["new"]


def test_noise_is_relative_to_the_length():
    x = jnp.zeros((4000, 16)).at[:, 0].set(1.0)
    cosine = np.asarray(noisy(jax.random.key(0), x, 0.5)[:, 0])
    assert abs(cosine.mean() - 1 / np.sqrt(1 + 0.25)) < 0.02


def test_procrustes_recovers_a_rotation_and_keeps_a_subspace():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 5))
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    np.testing.assert_allclose(solvers.procrustes(x, x @ rotation), rotation, atol=1e-6)
    with pytest.raises(ConfigError, match=r"system\.hidden = None"):
        procrustes_phi({"phi": {"hidden": {}, "out": {}}}, {}, None)


def test_a_users_own_pairs(tmp_path):
    from PIL import Image

    lines = ["file,caption,split"]
    for i in range(24):
        Image.new("RGB", (16, 16), (10 * i, 0, 255 - 10 * i)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,picture number {i},{'train' if i < 8 else 'val' if i < 16 else 'test'}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    tiny = config.get_config("tiny")
    source = Table(tmp_path / "table.csv", image="file")
    pair = (modality.image("image", 32), modality.text("text", 40, 64))
    phases = tuple(dataclasses.replace(p, steps=1, data=None) for p in tiny.phases[3:])
    data = Data(source, pair, Tokenizer(64, kind="word"), batch_size=8)
    found = loop.train(dataclasses.replace(tiny, data=data, phases=phases), progress=False, evaluate=evaluate).metrics
    assert found["chance"] == 1 / 8 and -1 <= found["image->text gain"] <= 1
    assert found["text->image negative flips"] <= found["text->image old/old R@1"]


def test_impossible_configs_are_refused(batch):
    for change, says in (
        ({"hidden": 0}, "system.hidden is 0"), ({"noise": -1.0}, "system.noise is -1"),
        ({"lora_rank": -1}, "system.lora_rank is -1"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            dataclasses.replace(SMALL, **change).build()
    with pytest.raises(ConfigError, match="batch_size is 1"):
        grads(SMALL, {k: v[:1] for k, v in batch.items()})
    assert isinstance(config.get_config("tiny").phases[0], Phase)

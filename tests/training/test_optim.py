import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.config import Optim
from mmrep.errors import ConfigError
from mmrep.training.optim import by_layer, check_factors, optimizer, schedule


def test_warmup_then_cosine_ends_at_its_final_share():
    lr = schedule(Optim(lr=1.0, warmup=10, final=0.1), 110)
    assert [float(lr(s)) for s in (0, 5, 10)] == pytest.approx([0, 0.5, 1.0])
    assert float(lr(60)) == pytest.approx(0.1 + 0.9 * 0.5) and float(lr(110)) == pytest.approx(0.1)


@pytest.mark.parametrize(("name", "at", "value"), [("linear", 50, 0.5), ("constant", 99, 1.0), ("rsqrt", 300, 0.5)])
def test_other_schedules(name, at, value):
    warmup = 100 if name == "rsqrt" else 0
    assert float(
        schedule(Optim(lr=1.0, schedule=name, warmup=warmup), 1000 if name == "rsqrt" else 100)(at + warmup)
    ) == pytest.approx(value)


def test_adamw_is_the_published_update_and_spares_vectors_from_decay():
    config = Optim(lr=0.1, weight_decay=0.5, clip=None, b1=0.9, b2=0.98, schedule="constant")
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 2.0)}
    grads = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((2,), 3.0)}
    tx = optimizer(config, 10)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["kernel"], -0.1 * (1 + 0.5 * 2.0), rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "sgd", "adafactor"])
def test_every_optimiser_descends(name):
    tx = optimizer(Optim(name=name, lr=0.05, schedule="constant", weight_decay=0.0), 50)
    params = {"x": jnp.ones((4, 4))}
    state = tx.init(params)
    for _ in range(50):
        updates, state = tx.update({"x": params["x"]}, state, params)
        params = {"x": params["x"] + updates["x"]}
    assert float(jnp.abs(params["x"]).mean()) < 0.9


def test_what_cannot_work_is_told():
    with pytest.raises(ConfigError, match=r"optim.warmup is 50: it must lie in \[0, 50\)"):
        schedule(Optim(warmup=50), 50)
    with pytest.raises(ConfigError, match=r"optim.clip is 0"):
        optimizer(Optim(clip=0.0), 5)


def test_layer_decay_is_that_of_the_layers_above():
    """The authors' rule (BEiT, MAE, MultiMAE): scale = decay^(depth + 1 - layer)."""
    ones = {
        "in_rgb/embed/kernel": jnp.ones((2, 2)), "encoder/block00/mlp/up/kernel": jnp.ones((2, 2)),
        "encoder/block02/norm/scale": jnp.ones(2), "encoder/norm/scale": jnp.ones(2), "global/tokens": jnp.ones((1, 2)),
        "head/block00/mlp/up/kernel": jnp.ones((2, 2)), "text/blocks/mlp/up/kernel": jnp.ones((2, 2, 2)),
    }  # fmt: skip
    found = {k: np.asarray(v).reshape(len(v), -1)[:, 0] for k, v in by_layer(ones, 0.5).items()}
    assert found["in_rgb/embed/kernel"][0] == found["global/tokens"][0] == 0.5**4
    assert found["encoder/block00/mlp/up/kernel"][0] == 0.5**3 and found["encoder/block02/norm/scale"][0] == 0.5
    assert found["encoder/norm/scale"][0] == found["head/block00/mlp/up/kernel"][0] == 1
    assert found["text/blocks/mlp/up/kernel"].tolist() == [
        0.25,
        0.5,
    ]  # a scanned stack, its layers along the first axis
    nested = {"encoder": {"block00": {"a": jnp.ones(1)}, "block01": {"a": jnp.ones(1)}}}
    assert float(by_layer(nested, 0.5)["encoder"]["block00"]["a"][0]) == 0.25


def test_layer_decay_scales_the_whole_update_and_its_state_is_empty():
    config = Optim(lr=0.1, weight_decay=0.5, clip=None, schedule="constant", layer_decay=0.5)
    params = {"encoder/block00/kernel": jnp.full((2, 2), 2.0), "head/kernel": jnp.full((2, 2), 2.0)}
    tx = optimizer(config, 10)
    updates, _ = tx.update({k: jnp.full((2, 2), 3.0) for k in params}, tx.init(params), params)
    np.testing.assert_allclose(updates["head/kernel"], -0.2, rtol=1e-5)
    np.testing.assert_allclose(updates["encoder/block00/kernel"], -0.1, rtol=1e-5)
    with pytest.raises(ConfigError, match="layer_decay"):
        optimizer(Optim(layer_decay=0.0), 5)


def test_factors_scale_the_rate_of_the_paths_that_they_match():
    config = Optim(
        lr=0.1, weight_decay=0.5, clip=None, schedule="constant", factors=(("image/out/.*", 1.0), ("image/.*", 0.2))
    )
    params = {path: jnp.full((2, 2), 2.0) for path in ("image/kernel", "image/out/kernel", "head/image/kernel")}
    check_factors(config, params)
    tx = optimizer(config, 10)
    updates, _ = tx.update({k: jnp.full((2, 2), 3.0) for k in params}, tx.init(params), params)
    np.testing.assert_allclose(updates["image/kernel"], -0.2 * 0.2, rtol=1e-5)  # decay too
    np.testing.assert_allclose(updates["image/out/kernel"], -0.2, rtol=1e-5)  # the first match counts
    np.testing.assert_allclose(updates["head/image/kernel"], -0.2, rtol=1e-5)  # a regex matches the whole path
    with pytest.raises(ConfigError, match=r"optim.factors\['text/.\*'\] matches no parameter; .* are head, image"):
        check_factors(Optim(factors=(("text/.*", 0.1),)), params)
    with pytest.raises(ConfigError, match=r"optim.factors\['image/.\*'\] is -1: give a finite factor"):
        check_factors(Optim(factors=(("image/.*", -1),)), params)

"""MultiMAE's transfer: the encoder as pretrained, any of its maps, three heads."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmrep.config import flatten
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import Map
from mmrep.systems.masked.multimae import Config as Pretraining
from mmrep.systems.masked.multimae import Task
from mmrep.systems.recipes.multimae_transfer import Config, berhu, parts
from mmrep.training.loop import transplant

RGB, DEPTH = Map("rgb", (16, 16), 4, 3), Map("depth", (16, 16), 4, 1, mean=(0.8,), std=(0.25,))
SEMSEG = Map("semseg", (16, 16), 4, classes=5, class_dim=6)
ENCODER = TransformerConfig(width=16, depth=2, heads=2, epsilon=1e-6)
HEAD = {"head_width": 64, "head_depth": 1, "hooks": (0, 0, 1, 1), "head_dims": (4, 4, 4, 4), "features": 8}
CONFIG = Config((RGB, DEPTH), target=SEMSEG, encoder=ENCODER, **HEAD)
CONFIGS = {
    "segmentation": CONFIG,
    "depth": replace(CONFIG, maps=(RGB,), task="depth", target=DEPTH),
    "classification": replace(CONFIG, task="classification", target=None, classes=3),
}


def batch(b=3):
    rng = np.random.default_rng(0)
    return {
        "rgb": rng.random((b, 16, 16, 3), np.float32), "depth": rng.random((b, 16, 16, 1), np.float32),
        "semseg": rng.integers(0, 5, (b, 16, 16)).astype(np.int32), "label": rng.integers(0, 3, b).astype(np.int32),
    }  # fmt: skip


def init(system, seed=0):
    return jax.jit(system.init)(jax.random.key(seed), batch())[0]


def without(values, *names):
    return {k: v for k, v in values.items() if k not in names}


def test_the_encoder_is_the_pretrained_one():
    pretraining = Pretraining(
        (RGB, DEPTH, SEMSEG),
        (Task("rgb"),),
        visible=8,
        encoder=ENCODER,
        decoder=TransformerConfig(width=8, depth=1, heads=2, epsilon=1e-6),
    )
    first, then = pretraining.build(), CONFIG.build()
    donor, params = init(first, 1), init(then, 2)
    moved = transplant(params, donor, parts(("rgb", "depth")))
    given = without(batch(), "semseg")
    np.testing.assert_allclose(
        jax.jit(then.infer["tokens"])(moved, {}, given), jax.jit(first.infer["tokens"])(donor, {}, given), atol=1e-6
    )
    flat, new = flatten(params), flatten(moved)
    assert {k for k in flat if np.array_equal(flat[k], new[k]) and flat[k].any() and np.ptp(flat[k])} == {
        k for k in flat if k.startswith("head/") and flat[k].any() and np.ptp(flat[k])
    }
    # A map that the donor never had: its adapter stays fresh.
    fresh = transplant(params, donor, parts(("rgb",)))
    np.testing.assert_array_equal(fresh["in_depth"]["embed"]["kernel"], params["in_depth"]["embed"]["kernel"])


def test_a_missing_map_changes_what_the_head_hears_but_not_what_it_needs():
    system = CONFIG.build()
    params = init(system)
    predict = jax.jit(system.infer["predict"])
    both, alone = predict(params, {}, batch()), predict(params, {}, without(batch(), "depth"))
    assert both.shape == alone.shape == (3, 16, 16, 5) and not np.allclose(both, alone, atol=1e-4)
    with pytest.raises(ConfigError, match="the head reads rgb"):
        system.infer["predict"](params, {}, without(batch(), "rgb"))
    wide = replace(CONFIG, read=("rgb", "depth")).build()
    kernel = jax.eval_shape(wide.init, jax.random.key(0), batch())[0]["head"]["spread"]["kernel"]
    assert kernel.shape == (32, 64) and params["head"]["spread"]["kernel"].shape == (16, 64)


def test_losses_are_cross_entropy_and_reversed_huber():
    b, rng = batch(), jax.random.key(0)
    b["semseg"][0, :3] = 255

    def both(*systems):
        """The first one's answer, and all losses and metrics."""
        params = init(systems[0])
        run = jax.jit(lambda p: (systems[0].infer["predict"](p, {}, b), [s.loss(p, {}, b, rng) for s in systems]))
        return jax.tree.map(lambda x: np.asarray(x, np.float64), run(params))

    logits, [(loss, (_, metrics))] = both(CONFIG.build())
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    kept = b["semseg"] != 255
    picked = np.take_along_axis(log_p, np.where(kept, b["semseg"], 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, -picked[kept].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["pixel_accuracy"], (logits.argmax(-1) == b["semseg"])[kept].mean(), rtol=1e-5)

    config = CONFIGS["depth"]
    depth, [(loss, (_, metrics)), (l1, _)] = both(config.build(), replace(config, loss="l1").build())
    e = np.abs(depth - b["depth"]) / 0.25
    c = 0.2 * e.max()
    np.testing.assert_allclose(loss, np.where(e < c, e, (e**2 + c**2) / (2 * c)).mean(), rtol=1e-5)
    np.testing.assert_allclose([metrics["l1"], l1], e.mean(), rtol=1e-5)


def test_reversed_huber_is_the_authors():
    """masked_berhu_loss of run_finetuning_depth.py (EPFL-VILAB/MultiMAE at 66910f5)."""
    from pathlib import Path

    g = np.load(Path(__file__).parents[2] / "golden" / "dense_heads.npz")
    found = berhu(jnp.asarray(g["berhu/p"] - g["berhu/t"]), jnp.asarray(g["berhu/v"]))
    np.testing.assert_allclose(found, g["berhu/l"], rtol=1e-5)


@pytest.mark.parametrize("task", CONFIGS)
def test_every_head_learns_and_its_gradient_reaches_the_adapters(task):
    system, b, rng = CONFIGS[task].build(), batch(), jax.random.key(0)
    params = init(system)
    tx = optax.adam(1e-3)

    @jax.jit
    def step(params, state):
        value, g = jax.value_and_grad(lambda p: system.loss(p, {}, b, rng)[0])(params)
        updates, state = tx.update(g, state)
        return optax.apply_updates(params, updates), state, value, jnp.abs(g["in_rgb"]["embed"]["kernel"]).max()

    state, values = tx.init(params), []
    for _ in range(20):
        params, state, value, reached = step(params, state)
        values.append(float(value))
        assert float(reached) > 0
    assert values[-1] < 0.97 * values[0], values


def test_stochastic_depth_acts_in_training_alone():
    b, plain, dropped = batch(), CONFIG.build(), replace(CONFIG, encoder=replace(ENCODER, drop_path=0.5)).build()
    params, extras = plain.init(jax.random.key(0), b)
    one, other = (dropped.loss(params, extras, b, jax.random.key(k))[0] for k in (1, 2))
    assert one != other and one != plain.loss(params, extras, b, jax.random.key(1))[0]
    np.testing.assert_array_equal(
        dropped.infer["predict"](params, extras, b), plain.infer["predict"](params, extras, b)
    )
    with pytest.raises(ConfigError, match="drop_path"):
        replace(ENCODER, drop_path=1.0)


def test_a_scanned_encoder_gives_the_head_the_same_layers():
    from mmrep.nn.transformer import stack_blocks

    config = CONFIGS["depth"]
    system, scanned = config.build(), replace(config, encoder=replace(ENCODER, scan=True)).build()
    params = init(system)
    same = params | {"encoder": stack_blocks(params["encoder"])}
    np.testing.assert_allclose(
        jax.jit(scanned.infer["predict"])(same, {}, batch()),
        jax.jit(system.infer["predict"])(params, {}, batch()),
        atol=2e-5,
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": None}, "target"), ({"target": DEPTH}, "target"), ({"read": ("thermal",)}, "read"), ({"maps": ()}, "maps"),
        ({"target": replace(SEMSEG, name="rgb")}, "also goes in"), ({"task": "classification"}, "classes"),
        ({"task": "depth", "target": replace(DEPTH, name="far"), "hooks": (0, 1, 1, 2)}, "hooks"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(CONFIG, **change).build()

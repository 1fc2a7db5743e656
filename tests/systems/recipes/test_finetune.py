"""Fine-tuning and probing: any encoder, four heads, the encoder as pretrained, and never the target as input."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Tokenizer, Train, flatten
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.maps import dense
from mmrep.nn.transformer import stack_blocks
from mmrep.systems.contrastive import clip
from mmrep.systems.masked import multimae
from mmrep.systems.recipes import finetune
from mmrep.systems.recipes.finetune import Config, start
from mmrep.systems.recipes.finetune.dpt import Dpt
from mmrep.systems.recipes.finetune.heads import ConvNeXt, Linear, Mlp
from mmrep.systems.recipes.finetune.model import berhu
from mmrep.training import state
from mmrep.training.loop import load_pretrained
from mmrep.training.optim import optimizer

PARTS = (
    modality.image("rgb", 16, patch=4), modality.image("depth", 16, 1, patch=4, mean=(0.8,), std=(0.25,)),
    modality.label_map("semseg", 16, 5, patch=4),
)  # fmt: skip
KIND = modality.label("kind", 3)
SHAPE = TransformerConfig(width=16, depth=2, heads=2, epsilon=1e-6)
ENCODER = multimae.Config(
    tuple(dense(m, class_dim=6) for m in PARTS), (multimae.Task("rgb"),), num_encoded_tokens=8, encoder=SHAPE,
    decoder=TransformerConfig(width=8, depth=1, heads=2, epsilon=1e-6),
)  # fmt: skip
SEGMENTATION = Config(ENCODER, PARTS, "fused_tokens", ("rgb", "depth"), PARTS[2], ConvNeXt(64, 1))
CONFIGS = {
    "segmentation": SEGMENTATION,
    "depth": replace(SEGMENTATION, inputs=("rgb",), target=PARTS[1], features="fused_token_layers", head=Dpt((0, 0, 1, 1), (4,) * 4, 8)),
    "classification": replace(SEGMENTATION, target=KIND, features="fused", head=Linear()),
    "mlp": replace(SEGMENTATION, target=KIND, features="rgb_tokens", inputs=("rgb",), head=Mlp(8)),
}  # fmt: skip
BATCH = modality.example((*PARTS, KIND), 3)


def made(config, seed=0):
    system = config.build()
    return system, *jax.jit(system.init)(jax.random.key(seed), BATCH)


def test_the_encoder_is_the_pretrained_one_and_never_has_the_target():
    first = ENCODER.build()
    donor, _ = jax.jit(first.init)(jax.random.key(1), BATCH)
    then, params, _ = made(SEGMENTATION, 2)
    moved = load_pretrained(params, donor, start.pretrained_parts(SEGMENTATION))
    assert {*moved["encoder"]} == {
        "encoder",
        "global",
        "in_rgb",
        "in_depth",
    }  # no decoder, and no adapter of the target
    given = {k: v for k, v in BATCH.items() if k != "semseg"}
    np.testing.assert_allclose(
        then.infer["fused_tokens"](moved, {"encoder": {}}, BATCH)[0], first.infer["fused_tokens"](donor, {}, given)[0], atol=1e-6
    )  # fmt: skip
    flat, new = flatten(params), flatten(moved)
    assert all(np.array_equal(new[f"encoder/{k}"], v) for k, v in flatten(donor).items() if f"encoder/{k}" in new)
    assert all(np.array_equal(new[k], v) for k, v in flat.items() if k.startswith("head/"))
    fresh = load_pretrained(params, donor, start.pretrained_parts(SEGMENTATION, absent=("in_depth",)))
    kernel = "encoder/in_depth/embed/kernel"
    np.testing.assert_array_equal(flatten(fresh)[kernel], flat[kernel])


def test_a_missing_input_changes_the_features_and_one_that_the_head_reads_is_required():
    system, params, extras = made(SEGMENTATION)
    predict = jax.jit(system.infer["predict"])
    both, alone = (predict(params, extras, {k: v for k, v in BATCH.items() if k != out}) for out in ("", "depth"))
    assert both.shape == alone.shape == (3, 16, 16, 5) and not np.allclose(both, alone, atol=1e-4)
    with pytest.raises(ConfigError, match="the head needs rgb"):
        system.infer["predict"](params, extras, {"depth": BATCH["depth"]})
    wide = replace(SEGMENTATION, read=("rgb", "depth")).build()
    kernel = jax.eval_shape(wide.init, jax.random.key(0), BATCH)[0]["head"]["spread"]["kernel"]
    assert kernel.shape == (32, 64) and params["head"]["spread"]["kernel"].shape == (16, 64)


def test_losses_are_cross_entropy_and_reversed_huber():
    batch, rng = {k: np.array(v) for k, v in BATCH.items()}, jax.random.key(0)
    batch["semseg"][0, :3] = 255

    def run(config):
        system, params, extras = made(config)
        both = jax.jit(lambda p: (system.infer["predict"](p, extras, batch), system.loss(p, extras, batch, rng)))
        predicted, (loss, (_, metrics)) = both(params)
        return np.asarray(predicted, np.float64), float(loss), metrics

    logits, loss, metrics = run(SEGMENTATION)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    kept = batch["semseg"] != 255
    picked = np.take_along_axis(log_p, np.where(kept, batch["semseg"], 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, -picked[kept].mean(), rtol=1e-5)
    right = (logits.argmax(-1) == batch["semseg"])[kept].mean()
    np.testing.assert_allclose(metrics["pixel_accuracy"], right, rtol=1e-5)
    depth, loss, metrics = run(CONFIGS["depth"])
    e = np.abs(depth - batch["depth"]) / 0.25
    c = 0.2 * e.max()
    np.testing.assert_allclose(loss, np.where(e < c, e, (e**2 + c**2) / (2 * c)).mean(), rtol=1e-5)
    np.testing.assert_allclose([metrics["l1"], run(replace(CONFIGS["depth"], loss="l1"))[1]], e.mean(), rtol=1e-5)


def test_reversed_huber_is_the_authors():
    """masked_berhu_loss of run_finetuning_depth.py (EPFL-VILAB/MultiMAE at 66910f5)."""
    g = np.load(Path(__file__).parents[2] / "golden" / "dense_heads.npz")
    found = berhu(jnp.asarray(g["berhu/p"] - g["berhu/t"]), jnp.asarray(g["berhu/v"]))
    np.testing.assert_allclose(found, g["berhu/l"], rtol=1e-5)


@pytest.mark.parametrize("task", CONFIGS)
def test_every_head_learns_and_its_gradient_reaches_the_encoder(task):
    (system, params, extras), rng, tx = made(CONFIGS[task]), jax.random.key(0), optax.adam(3e-3)

    @jax.jit
    def step(params, opt):
        value, g = jax.value_and_grad(lambda p: system.loss(p, extras, BATCH, rng)[0])(params)
        updates, opt = tx.update(g, opt)
        return (
            optax.apply_updates(params, updates),
            opt,
            value,
            jnp.abs(g["encoder"]["in_rgb"]["embed"]["kernel"]).max(),
        )

    opt, values = tx.init(params), []
    for _ in range(40):
        params, opt, value, reached = step(params, opt)
        values.append(float(value))
        assert float(reached) > 0
    assert values[-1] < 0.97 * values[0], values


def test_stochastic_depth_acts_in_training_alone():
    plain, params, extras = made(SEGMENTATION)
    encoder = replace(ENCODER, encoder=replace(SHAPE, drop_path=0.5))
    dropped = replace(SEGMENTATION, encoder=encoder).build()
    one, other = (dropped.loss(params, extras, BATCH, jax.random.key(k))[0] for k in (1, 2))
    assert one != other and one != plain.loss(params, extras, BATCH, jax.random.key(1))[0]
    a, b = (s.infer["predict"](params, extras, BATCH) for s in (dropped, plain))
    np.testing.assert_array_equal(a, b)


def test_stochastic_depth_acts_on_a_dual_encoder_too():
    image, text = modality.image("image", 16), modality.text("text", 8, 64)
    batch, found = modality.example((image, KIND), 4), {}
    for rate in (0.0, 0.5):
        shape = TransformerConfig(width=16, depth=2, heads=2, drop_path=rate)
        system = clip.Config(ImageEncoder(shape, patch=8, pool="cls"), TextEncoder(shape, vocab=64, length=8), 8)
        tuned = start.over(Experiment(system, Data(None, (image, text), Tokenizer(64))), KIND, "linear").build()
        params, extras = tuned.init(jax.random.key(0), batch)
        predict = tuned.infer["predict"](params, extras, batch)
        found[rate] = [tuned.loss(params, extras, batch, jax.random.key(k))[0] for k in (1, 2)], predict
    assert found[0.0][0][0] == found[0.0][0][1] and found[0.5][0][0] != found[0.5][0][1]
    np.testing.assert_array_equal(found[0.0][1], found[0.5][1])


def test_a_scanned_encoder_gives_the_head_the_same_layers():
    system, params, extras = made(CONFIGS["depth"])
    scanned = replace(CONFIGS["depth"], encoder=replace(ENCODER, encoder=replace(SHAPE, scan=True))).build()
    same = params | {"encoder": params["encoder"] | {"encoder": stack_blocks(params["encoder"]["encoder"])}}
    a, b = (s.infer["predict"](p, extras, BATCH) for s, p in ((scanned, same), (system, params)))
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_clip_s_image_encoder_is_probed_and_fine_tuned():
    shape = TransformerConfig(width=16, depth=1, heads=2)
    image, text = modality.image("image", 16), modality.text("text", 8, 64)
    system = clip.Config(ImageEncoder(shape, patch=8, pool="cls"), TextEncoder(shape, vocab=64, length=8), 8)
    base = Experiment(system, Data(None, (image, text), Tokenizer(64)))
    batch = modality.example((image, KIND), 4)
    for head in ("linear", "mlp"):
        config = start.over(base, KIND, head)
        assert (config.features, config.inputs) == ("image", ("image",))
        tuned = config.build()
        params, extras = jax.jit(tuned.init)(jax.random.key(0), batch)  # no text in the batch
        assert {*params["encoder"]} == {"image"}
        for trainable, optim in ((finetune.HEAD_ONLY, Optim()), ((".*",), Optim(layer_decay=0.5))):
            tx = optimizer(optim, 10)
            step = jax.jit(state.make_step(tuned, tx, trainable, Train()))
            before = state.create(params, extras, tx, trainable, Train())
            after, _ = step(before, batch, jax.random.key(1))
            moved = {k for k, v in flatten(after["params"]).items() if not np.array_equal(v, flatten(params)[k])}
            assert any(k.startswith("head/") for k in moved)
            assert any(k.startswith("encoder/") for k in moved) == (trainable == (".*",))
    with pytest.raises(ConfigError, match="no infer function for a dense head"):
        start.over(base, modality.label_map("semseg", 16, 3), "dense", features="patches")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": PARTS[1]}, "also an input"), ({"head": Linear()}, "ConvNeXt"), ({"target": modality.text("t", 4, 9)}, "kind"),
        ({"read": ("thermal",)}, "read"), ({"inputs": ()}, "inputs"), ({"inputs": ("thermal",)}, "inputs"), ({"features": "tokens"}, "features"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(SEGMENTATION, **change).build()


def test_layers_that_the_encoder_does_not_have_are_refused():
    with pytest.raises(ConfigError, match="hooks"):
        made(replace(CONFIGS["depth"], head=Dpt((0, 1, 1, 2), (4,) * 4, 8)))

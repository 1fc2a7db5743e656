"""ALBEF: what the system wires together, held to its own functions and to pairs judged one by one."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.fusion.albef import Config, losses, momentum_update

TINY = Config(
    ImageEncoder(TransformerConfig(width=32, depth=1, heads=2), patch=8, pool="cls"),
    TextEncoder(TransformerConfig(width=32, depth=1, heads=2, norm="post"), vocab=20, length=8, pool="cls"),
    dim=16, fusion_depth=1, queue=3, alpha_warmup_steps=10,
)  # fmt: skip
PAIR = (modality.image("image", 16), modality.text("text", 8, 20))
# Two rows: each one's only negative is the other, so that chance decides nothing. The texts differ in length.
TEXT = jnp.array([[1, 6, 7, 8, 9, 10, 11, 2], [1, 12, 2, 0, 0, 0, 0, 0]], jnp.int32)


@pytest.fixture(scope="module")
def made():
    batch = {k: jnp.asarray(v) for k, v in modality.example((*PAIR, modality.label("id", 100)), 2).items()}
    batch |= {"id": jnp.array([3, 7], jnp.int32), "text": TEXT}
    system = TINY.build()
    params, extras = jax.jit(system.init)(jax.random.key(1), batch)
    # At the start teacher and student are one.
    extras |= {"teacher": jax.tree.map(lambda x: 1.3 * x, extras["teacher"]), "step": jnp.int32(5)}
    infer = {name: jax.jit(function) for name, function in system.infer.items()}
    return SimpleNamespace(
        system=system, params=params, extras=extras, batch=batch, loss=jax.jit(system.loss), infer=infer
    )


def features(m, params):
    return tuple(m.infer[n](params, m.extras, m.batch) for n in ("image", "text"))


def scores(m, images, texts, **changes):
    """The log-odds of the pairs (images[i], texts[i]) of the batch's rows."""
    (pixels, seen), (tokens, valid) = (m.infer[f"{n}_tokens"](m.params, m.extras, m.batch) for n in ("image", "text"))
    i, t = jnp.array(images), jnp.array(texts)
    pairs = {"image_tokens": pixels[i], "image_valid": seen[i], "text_tokens": tokens[t], "text_valid": valid[t]}
    return np.asarray(m.infer["score"](m.params, m.extras, pairs | changes))


def test_losses_are_those_of_the_functions(made):
    m = made
    extras = m.extras | {"queue": m.extras["queue"] | {"id": jnp.array([7, 3, -1], jnp.int32)}}
    value, (_, metrics) = m.loss(m.params, extras, m.batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["alpha"], 0.2, rtol=1e-6)
    expected = losses.itc_loss(
        features(m, m.params), features(m, m.params | extras["teacher"]), 1 / 0.07, 0.2, m.batch["id"], extras["queue"]
    )
    np.testing.assert_allclose(metrics["itc"], expected.mean(), rtol=1e-4)
    # True pairs; each text with its wrong image, each image with its wrong text.
    found = scores(m, [0, 1, 1, 0, 0, 1], [0, 1, 0, 1, 1, 0])
    itm = np.log1p(np.exp(-found * np.array([1, 1, -1, -1, -1, -1]))).mean()
    np.testing.assert_allclose(metrics["itm"], itm, rtol=1e-4)
    np.testing.assert_allclose(value, metrics["itc"] + metrics["itm"] + metrics["mlm"], rtol=1e-6)


def test_rows_of_one_id_are_no_negatives_of_one_another(made):
    m = made
    _, (_, metrics) = m.loss(m.params, m.extras, m.batch | {"id": jnp.array([5, 5], jnp.int32)}, jax.random.key(0))
    found = scores(m, [0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1])
    np.testing.assert_allclose(metrics["itm"], np.log1p(np.exp(-found)).mean(), rtol=1e-4)


def test_score_is_that_of_the_pair_alone_without_padding(made):
    m = made
    rows = [0, 1] * 3
    found = scores(m, rows, rows)
    alone = {"image": m.batch["image"][1:], "text": m.batch["text"][1:, :3]}  # the second text has 3 tokens

    @jax.jit
    def score(params):
        tokens = {n: m.system.infer[f"{n}_tokens"](params, m.extras, alone) for n in ("image", "text")}
        pairs = {f"{n}_{kind}": v for n in tokens for kind, v in zip(("tokens", "valid"), tokens[n])}
        return m.system.infer["score"](params, m.extras, pairs)

    np.testing.assert_allclose(score(m.params), found[1:2], rtol=1e-4, atol=1e-5)
    swapped = jnp.concatenate([m.batch["text"][::-1] > 0] * 3)
    assert np.abs(scores(m, rows, rows, text_valid=swapped) - found).max() > 1e-4


def test_mlm_mixes_labels_and_teacher_in_proportion_to_alpha(made):
    m = made
    values = [
        m.loss(m.params, m.extras | {"step": jnp.int32(s)}, m.batch, jax.random.key(4))[1][1]["mlm"] for s in (0, 5, 10)
    ]
    np.testing.assert_allclose(values[1], (values[0] + values[2]) / 2, rtol=1e-5)
    assert abs(values[2] - values[0]) > 1e-3


def test_the_queue_holds_the_teachers_features_and_ids(made):
    m = made
    new = dict(zip(("image", "text"), features(m, m.params | m.extras["teacher"]))) | {"id": m.batch["id"]}
    _, (once, _) = m.loss(m.params, m.extras, m.batch, jax.random.key(0))
    _, (twice, _) = m.loss(m.params, once, m.batch, jax.random.key(0))
    assert int(once["pointer"]) == 2 and int(twice["pointer"]) == 1
    for name, rows in new.items():
        np.testing.assert_allclose(once["queue"][name][:2], rows, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(twice["queue"][name], jnp.stack([rows[1], rows[1], rows[0]]), rtol=1e-4, atol=1e-6)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, once["teacher"], m.extras["teacher"]))  # only `update` moves it


def test_the_teacher_is_the_references():
    # The reference averages just before the teacher encodes a batch; here it is done just after the optimiser: the same teacher encodes.
    params = {n: {"w": jnp.ones(2)} for n in ("image", "text", "fusion", "mlm", "match", "scale")}
    extras = {"teacher": {n: {"w": jnp.zeros(2)} for n in ("image", "text", "fusion", "mlm")}, "step": jnp.int32(0)}
    reference = 0.0
    for step in range(3):
        params = jax.tree.map(lambda p: p + 0.1, params)  # an optimiser step
        extras = momentum_update(0.9, params, extras)
        reference = 0.9 * reference + 0.1 * (1.1 + 0.1 * step)
        jax.tree.map(lambda x, r=reference: np.testing.assert_allclose(x, r, rtol=1e-5), extras["teacher"])
    assert int(extras["step"]) == 3 and set(extras["teacher"]) == {"image", "text", "fusion", "mlm"}


def shapes(config, rows, parts=PAIR):
    system = config.build()
    batch = {k: jnp.asarray(v) for k, v in modality.example(parts, rows).items()}
    params, extras = jax.eval_shape(system.init, jax.random.key(0), batch)
    return jax.eval_shape(system.loss, params, extras, batch, jax.random.key(0))


def test_it_builds_without_ids_without_queue_and_without_distillation():
    value, (extras, _) = shapes(replace(TINY, queue=0, alpha=0.0, negatives="random"), 3)
    assert value.shape == () and set(extras["queue"]) == {"image", "text"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("fusion_depth", 0), ("temperature", 0.6), ("queue", -1), ("momentum", 1.0), ("alpha", 1.1), ("alpha_warmup_steps", -1),
     ("mask_rate", 0.0), ("itc_weight", -1.0), ("dim", 0)],
)  # fmt: skip
def test_impossible_fields_are_named(field, value):
    with pytest.raises(ConfigError, match=f"system.{field} is"):
        replace(TINY, **{field: value}).build()


@pytest.mark.parametrize("rows", [1, 5])
def test_batches_that_cannot_work_are_named(rows):
    with pytest.raises(ConfigError, match=f"data.batch_size is {rows}"):
        shapes(TINY, rows)

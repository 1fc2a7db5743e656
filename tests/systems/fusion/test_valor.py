"""VALOR: its fine score against the authors' numbers, groups, masks of captions, and captions."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from configs.fusion.valor import get_config
from mmrep.config import Data, Phase
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_among
from mmrep.modality import BOS, EOS, MASK, PAD
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import CodesEncoder
from mmrep.systems.fusion.valor import Config, caption_loss
from mmrep.systems.fusion.valor.model import fine_score, joined, mask_caption, weights


def test_score_and_loss_equal_the_authors():
    g = dict(np.load(Path(__file__).parents[2] / "golden" / "valor.npz"))
    sides = [
        (jnp.asarray(g[k]), jnp.asarray(g[f"mask_{k}"] > 0), jnp.asarray(g[f"weight_{k}"])) for k in ("a", "b")
    ]  # fmt: skip
    found = fine_score(*sides, padding="zero")
    np.testing.assert_allclose(found, g["score"], atol=1e-6)
    own = jnp.eye(4, dtype=bool)
    np.testing.assert_allclose(symmetric_among(found / 0.07, jnp.ones(4, bool), own), g["loss"], rtol=1e-5)
    # Excluded padding differs only where all similarities of a token are negative.
    assert np.abs(np.asarray(fine_score(*sides)) - g["score"]).max() > 1e-3
    np.testing.assert_allclose(fine_score(*sides, chunk=3), fine_score(*sides), atol=1e-6)


def test_a_score_by_hand_and_the_softmax_over_both_modalities():
    e, flat = jnp.eye(2), jnp.zeros((1, 2))
    a, b = (e[None], jnp.ones((1, 2), bool), flat), (e[None, :1], jnp.ones((1, 1), bool), flat[:, :1])
    assert float(fine_score(a, b)[0, 0]) == pytest.approx(0.75)
    both = joined(b, (e[None, 1:], jnp.ones((1, 1), bool), jnp.full((1, 1), np.log(3.0))))
    np.testing.assert_allclose(weights(both[1], both[2]), [[0.25, 0.75]], rtol=1e-6)
    nothing = weights(jnp.zeros((1, 2), bool), flat)
    assert not nothing.any() and np.isfinite(nothing).all()


def test_groups_use_rows_that_have_their_modalities():
    logits, own = jax.random.normal(jax.random.key(0), (4, 4)), jnp.eye(4, dtype=bool)
    here = jnp.array([True, True, False, True])
    kept = np.array([0, 1, 3])
    small = symmetric_among(logits[kept][:, kept], jnp.ones(3, bool), own[:3, :3])
    np.testing.assert_allclose(symmetric_among(logits, here, own), small, rtol=1e-5)
    changed = logits.at[2].add(9.0).at[:, 2].add(-9.0)
    np.testing.assert_allclose(symmetric_among(changed, here, own), small, rtol=1e-5)
    assert float(symmetric_among(logits, jnp.zeros(4, bool), own)) == 0
    # Another true pair is no negative, and no target.
    true = own.at[0, 1].set(True)
    assert float(symmetric_among(logits.at[0, 1].set(50.0), here, true)) < 40


def test_masks_of_captions():
    ids = np.full((300, 6), PAD, np.int32)
    ids[:, 0], ids[:, 1:4], ids[:, 4] = BOS, np.random.default_rng(0).integers(5, 30, (300, 3)), EOS
    ids[1, 1:] = PAD
    masked, target = map(np.asarray, jax.jit(lambda k, x: mask_caption(k, x, 30))(jax.random.key(0), jnp.asarray(ids)))
    assert not target[:, 0].any() and not target[ids == PAD].any() and not target[1].any()
    assert target[np.arange(300) != 1].any(1).all() and abs(target[2:, 1:5].mean() - 0.6) < 0.05
    np.testing.assert_array_equal(masked[~target], ids[~target])
    few, one = map(np.asarray, jax.jit(lambda k, x: mask_caption(k, x, 30, 1e-6))(jax.random.key(0), jnp.asarray(ids)))
    assert (one[np.arange(300) != 1].sum(1) == 1).all() and (few[one] == MASK).all()


def test_caption_loss_is_a_mean_over_the_groups_that_are_there():
    logits, ids = jnp.zeros((2, 2, 3, 5)), jnp.ones((2, 3), jnp.int32)
    logits = logits.at[0, :, :, 1].set(4.0)
    target, here = jnp.ones((2, 3), bool), jnp.array([[True, False], [False, False]])
    known = float(np.log(1 + 4 * np.exp(-4.0)))
    assert float(caption_loss(logits, ids, target, here)) == pytest.approx(known, rel=1e-4)
    assert float(caption_loss(logits, ids, target, ~here)) == pytest.approx((known + np.log(5)) / 2, rel=1e-4)


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = jax.tree.map(jnp.asarray, mmrep.modality.example(config.data.modalities, 4))
    batch["sounds"] = jnp.array([0, 1, 2, 1])
    return config.system, batch, jax.jit(config.system.build().init)(jax.random.key(0), batch)[0]


def test_a_clip_without_sound_is_its_picture(tiny):
    config, batch, params = tiny
    system = config.build()
    other = batch | {"sound": batch["sound"].at[0].add(3.0)}
    names = ("fused", "written", "video")
    run = jax.jit(
        lambda b: ({n: system.infer[n](params, {}, b) for n in names}, system.loss(params, {}, b, jax.random.key(0))[0])
    )
    (one, loss), (two, again) = run(batch), run(other)
    np.testing.assert_array_equal(one["fused"], two["fused"])
    np.testing.assert_array_equal(one["written"], two["written"])
    np.testing.assert_allclose(one["fused"][0], one["video"][0], atol=1e-5)
    np.testing.assert_allclose(loss, again, rtol=1e-6)


def test_captions_are_causal_and_their_placeholder_is_predicted(tiny):
    config, batch, params = tiny
    system = config.build()
    module = config.decoder.module()
    ids = np.asarray(jax.jit(system.infer["written"])(params, {}, batch))
    assert ids.shape == (4, config.text.length - 1)
    context = jax.random.normal(jax.random.key(0), (4, 3, 32))
    run = jax.jit(lambda x: module.apply({"params": params["decoder"]}, x, context=context)[0])
    text = jnp.asarray(batch["text"])
    later = text.at[:, 4:].set(7)
    np.testing.assert_allclose(run(text)[:, :4], run(later)[:, :4], atol=1e-5)


def test_coarse_and_two_groups_have_no_other_parameters(tiny):
    config, batch, _ = tiny
    trees = {}
    for name, fields in {
        "coarse": {"score": "coarse"},
        "pairs": {"score": "coarse", "groups": ("tv", "ta")},
        "mute": {"mgc_weight": 0.0},
    }.items():
        trees[name] = jax.eval_shape(replace(config, **fields).build().init, jax.random.key(0), batch)[0]
    assert "both" in trees["coarse"] and "weigh_text" not in trees["coarse"] and "both" not in trees["pairs"]
    assert "decoder" not in trees["mute"] and "written" not in replace(config, mgc_weight=0.0).build().infer


def test_trains_on_a_users_own_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"caption": f"clip {i}", "video": rng.normal(size=(3, 4)).tolist(), "sound": rng.normal(size=(2, 5)).tolist()}
        for i in range(8)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = Table(tmp_path / "t.jsonl", image=None, extra=("video", "sound"), fractions=(1.0, 0.0, 0.0))
    parts = (
        mmrep.modality.vector("video", 3, 4),
        mmrep.modality.vector("sound", 2, 5),
        mmrep.modality.text("text", 6, 280),
    )
    shape = TransformerConfig(width=16, depth=1, heads=2)
    system = Config(
        CodesEncoder(16), CodesEncoder(16), TextEncoder(replace(shape, norm="post"), 280, 6, pool="cls"), DecoderLM(shape, 280, 6, cross=True), dim=16
    )  # fmt: skip
    data = Data(table, parts, mmrep.Tokenizer(280, kind="word"), batch_size=8)
    model = mmrep.train(mmrep.Experiment(system, data, (Phase(steps=2),)))
    assert model.embed(text=["clip 1"]).shape == (1, 16)


@pytest.mark.parametrize(
    "fields, words",
    [({"groups": ("va",)}, "system.groups"), ({"beams": 0}, "system.beams"), ({"decoder": DecoderLM(length=64)}, "cross=True")],
)  # fmt: skip
def test_impossible_configs_are_explained(fields, words):
    config = Config()
    for name, value in fields.items():
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError, match=words):
        config.build()

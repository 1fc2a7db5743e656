"""CoAVT's joint layer, scores and pairs, by closed forms: no code was published."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from configs.fusion.coavt import get_config
from mmrep.config import Data, Phase
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.video import CodesEncoder
from mmrep.nn.norms import layer_norm
from mmrep.nn.transformer import Block
from mmrep.systems.fusion.coavt import Config, language_loss, match_rows
from mmrep.systems.fusion.coavt.model import JointLayer, query_score

SHAPE = TransformerConfig(width=16, depth=1, heads=2)


def test_one_block_serves_three_streams_behind_norms_of_their_own():
    sound, video = jax.random.normal(jax.random.key(0), (2, 3, 16)), jax.random.normal(jax.random.key(1), (2, 4, 16))
    tokens = {"sound": (sound, jnp.ones((2, 3), bool)), "video": (video, jnp.ones((2, 4), bool))}
    layer = JointLayer(SHAPE)
    params = jax.jit(layer.init)(jax.random.key(2), tokens)["params"]
    assert sorted(params) == ["block", "norm_a", "norm_av", "norm_v", "type_sound", "type_video"]
    params["norm_av"]["scale"] = 1.5 * params["norm_av"]["scale"]
    found = jax.jit(layer.apply)({"params": params}, tokens)
    assert [found[s][0].shape[1] for s in ("av", "a", "v")] == [7, 3, 4]
    typed = jnp.concatenate([sound + params["type_sound"], video + params["type_video"]], 1)
    normed = layer_norm(jnp.float32, "n").apply({"params": params["norm_av"]}, typed)
    np.testing.assert_allclose(found["av"][0], Block(SHAPE).apply({"params": params["block"]}, normed)[0], atol=1e-5)


def test_scores_are_the_largest_or_the_mean_product():
    queries, text = jnp.array([[[1.0, 0.0], [0.0, 1.0]]]), jnp.array([[0.6, 0.8], [1.0, 0.0]])
    np.testing.assert_allclose(query_score(queries, text), [[0.8, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(query_score(queries, text, "mean"), [[0.7, 0.5]], rtol=1e-6)


def test_wrong_pairs_are_never_true():
    true = jnp.eye(4, dtype=bool).at[0, 1].set(True).at[2, 3].set(True)
    scores = jnp.zeros((4, 4)).at[0, 1].set(90.0).at[2, 3].set(90.0)
    draw = jax.jit(jax.vmap(lambda k: match_rows(k, scores, true)))
    clip, text, is_match, counts = map(np.asarray, draw(jax.random.split(jax.random.key(0), 200)))
    assert is_match[:, :4].all() and not is_match[:, 4:].any() and counts.all()
    assert not np.asarray(true)[clip, text][:, 4:].any()
    all_true = jnp.ones((3, 3), bool)
    assert match_rows(jax.random.key(0), jnp.zeros((3, 3)), all_true)[3].tolist() == [True] * 3 + [False] * 6


def test_language_loss_predicts_the_next_token():
    ids = jnp.array([[1, 5, 2, 0]])
    logits = jnp.zeros((1, 4, 8)).at[0, 0, 5].set(50.0).at[0, 1, 2].set(50.0)
    assert float(language_loss(logits, ids, 0.0)) < 1e-6
    assert float(language_loss(jnp.zeros((1, 4, 8)), ids)) == pytest.approx(np.log(8), rel=1e-5)


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = jax.tree.map(jnp.asarray, mmrep.modality.example(config.data.modalities, 4))
    batch["sounds"] = jnp.array([0, 1, 2, 1])
    return config.system, batch, jax.jit(config.system.build().init)(jax.random.key(0), batch)[0]


def test_a_clip_without_sound_has_no_trace_of_it(tiny):
    config, batch, params = tiny
    system = config.build()
    other = batch | {"sound": batch["sound"].at[0].add(3.0)}
    run = jax.jit(lambda b: (system.infer["fused"](params, {}, b), system.loss(params, {}, b, jax.random.key(0))[0]))
    (one, loss), (two, again) = run(batch), run(other)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(loss, again, rtol=1e-6)


def test_captions_do_not_look_ahead(tiny):
    config, batch, params = tiny
    ids = np.asarray(jax.jit(config.build().infer["written"])(params, {}, batch))
    assert ids.shape == (4, config.length - 1)


def test_trains_on_a_users_own_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"caption": f"clip {i}", "video": rng.normal(size=(3, 4)).tolist(), "sound": rng.normal(size=(2, 5)).tolist()} for i in range(8)
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = Table(tmp_path / "t.jsonl", image=None, extra=("video", "sound"), fractions=(1.0, 0.0, 0.0))
    parts = (
        mmrep.modality.vector("video", 3, 4),
        mmrep.modality.vector("sound", 2, 5),
        mmrep.modality.text("text", 6, 280),
    )
    system = Config(
        CodesEncoder(16), CodesEncoder(16), SHAPE, replace(SHAPE, norm="post"), 2, 280, 6, dim=16, lm_weight=0.0
    )
    data = Data(table, parts, mmrep.Tokenizer(280, kind="word"), batch_size=8)
    model = mmrep.train(mmrep.Experiment(system, data, (Phase(steps=2),)))
    assert model.embed(text=["clip 1"]).shape == (1, 16) and "written" not in model.names


@pytest.mark.parametrize(
    "fields, words",
    [({"streams": ("a",)}, "system.streams"), ({"pool": "last"}, "system.pool"), ({"queries": 0}, "system.queries")],
)
def test_impossible_configs_are_explained(fields, words):
    config = Config()
    for name, value in fields.items():
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError, match=words):
        config.build()

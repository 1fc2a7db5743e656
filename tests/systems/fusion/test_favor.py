"""FAVOR's windows, masks and losses by closed forms."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from configs.fusion.favor import get_config, get_proof
from mmrep.config import Data, Phase
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.systems.fusion.favor import Config, drop_modalities
from mmrep.systems.fusion.favor.model import CausalBlock, diversity_loss, synchronised, windows


def test_streams_are_joined_in_step_along_channels():
    video, sound = jnp.arange(12.0).reshape(1, 3, 2, 2), -jnp.arange(1.0, 4.0).reshape(1, 3, 1)
    both = synchronised(video, sound, jnp.ones((1, 2), bool))
    assert both.shape == (1, 3, 2, 3)
    np.testing.assert_array_equal(both[0, :, :, :2], video[0])
    assert both[0, :, :, 2].tolist() == [[-1, 0], [-2, 0], [-3, 0]]  # the second sound token of a frame is padding
    deaf = synchronised(video, sound, jnp.array([[True, False]]))
    assert not deaf[..., 2].any() and (deaf[..., :2] == video).all()
    tokens, real = windows(both, 2)
    assert tokens.shape == (1, 2, 4, 3) and real.tolist() == [[True] * 4, [True, True, False, False]]
    np.testing.assert_array_equal(tokens[0, 0, :2], both[0, 0])


@pytest.mark.parametrize("causal, moved", [("past", [False, True, True]), ("future", [True, True, False])])
def test_a_frame_attends_to_its_own_and_earlier_frames(causal, moved):
    block = CausalBlock(3, causal, 2)
    x, valid = jax.random.normal(jax.random.key(0), (1, 6, 4)), jnp.ones((1, 6), bool)
    params = jax.jit(block.init)(jax.random.key(1), x, valid)
    run = jax.jit(block.apply)
    changed = np.abs(np.asarray(run(params, x, valid) - run(params, x.at[:, 2].add(3.0), valid))).max((0, 2)) > 1e-6
    assert changed.reshape(3, 2).any(1).tolist() == moved
    assert changed[3]  # the other token of the same frame


def test_diversity_is_the_mean_cosine_of_two_queries():
    queries = jnp.array([[[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]])
    expected = (0 + 2 * np.sqrt(0.5)) / 3
    assert float(diversity_loss(queries)) == pytest.approx(expected, abs=1e-5)
    assert float(diversity_loss(queries[:, :1])) == 0
    zero = jnp.zeros((1, 3, 2))
    assert np.isfinite(diversity_loss(zero)) and np.isfinite(jax.grad(lambda x: diversity_loss(x))(zero)).all()


def test_one_modality_is_left_out_never_both():
    present = jnp.array([[True, True], [True, False]] * 500)
    left = np.asarray(drop_modalities(jax.random.key(0), present, 0.4))
    assert left.any(1).all() and left[1::2, 0].all()
    assert abs((~left[::2].all(1)).mean() - 0.4) < 0.08 and abs(left[::2, 0].mean() - 0.8) < 0.06


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = jax.tree.map(jnp.asarray, mmrep.modality.example(config.data.modalities, 4))
    batch["sounds"] = jnp.array([0, 1, 2, 1])
    return config.system, batch, jax.jit(config.system.build().init)(jax.random.key(0), batch)[0]


def test_only_answers_count_and_a_missing_sound_has_no_trace(tiny):
    config, batch, params = tiny
    system = replace(config, drop=0.0).build()
    run = jax.jit(lambda b: system.loss(params, {}, b, jax.random.key(0))[0])
    loss = run(batch)
    np.testing.assert_allclose(run(batch | {"sound": batch["sound"].at[0].add(3.0)}), loss, rtol=1e-6)
    assert not np.allclose(run(batch | {"sound": batch["sound"].at[1].add(3.0)}), loss)
    empty = batch | {"answer": jnp.zeros_like(batch["answer"])}
    assert np.isfinite(run(empty)) and float(run(empty)) < 0.1  # the diversity of queries alone


def test_answers_do_not_depend_on_the_questions_padding(tiny):
    config, batch, params = tiny
    question = batch["question"].at[:, 4:].set(0)
    run = jax.jit(lambda q: config.build().infer["written"](params, {}, batch | {"question": q}))
    np.testing.assert_array_equal(run(question), run(question[:, :4]))


def test_trains_on_a_users_own_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"question": "what is it", "answer": f"thing {i}", "video": rng.normal(size=(3, 4)).tolist(), "sound": rng.normal(size=(3, 4)).tolist()}
        for i in range(8)
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = Table(
        tmp_path / "t.jsonl", image=None, text=("question", "answer"), extra=("video", "sound"), fractions=(1.0, 0.0, 0.0)
    )  # fmt: skip
    parts = (
        mmrep.modality.vector("video", 3, 4), mmrep.modality.vector("sound", 3, 4), mmrep.modality.text("question", 6, 280),
        mmrep.modality.text("answer", 4, 280),
    )  # fmt: skip
    shape = TransformerConfig(width=16, depth=1, heads=2)
    system = Config(replace(shape, norm="post"), DecoderLM(shape, 280, 32), 2, 2)
    data = Data(table, parts, mmrep.Tokenizer(280, kind="word"), batch_size=8)
    model = mmrep.train(mmrep.Experiment(system, data, (Phase(steps=2),)))
    clip = {"video": [np.ones((3, 4))], "sound": [np.ones((3, 4))], "question": ["what is it"]}
    assert model.call("written", **clip).shape[0] == 1


@pytest.mark.parametrize(
    "fields, words",
    [({"causal": "both"}, "system.causal"), ({"drop": 1.0}, "system.drop"), ({"queries": 0}, "system.queries")],
)
def test_impossible_configs_are_explained(fields, words):
    config = Config()
    for name, value in fields.items():
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError, match=words):
        config.build()


def test_no_question_is_cut():
    source, model = get_proof().arms[0].experiment.data.source, mmrep.create("favor", "tiny")
    records = source.open("test")
    questions = {str(records[i]["question"]) for i in range(0, len(records), 7)}
    assert len({q.split()[-1] for q in questions}) == 7, "each names one of six tones, or asks for the first shape"
    ids = model.tokenizer(sorted(questions), "question")
    assert len({tuple(row) for row in ids.tolist()}) == len(questions)

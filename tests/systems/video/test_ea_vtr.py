"""EA-VTR by closed forms (no code was published), its traps, and a table of one's own."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from configs.video import ea_vtr as config
from mmrep.config import Optim, Phase
from mmrep.data.sources import Table
from mmrep.evals.suite import Retrieval
from mmrep.modality import example
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import l2_normalise
from mmrep.systems.video.ea_vtr import content_loss, equal_texts, temporal_loss

RNG = np.random.default_rng(0)
VIDEO, TEXT, FOIL = (l2_normalise(jnp.asarray(RNG.standard_normal((3, 4)), jnp.float32)) for _ in range(3))


def lse(*values):
    return np.log(np.sum(np.exp(np.array(values, np.float64))))


def test_a_foil_equal_to_the_text_costs_log_2_and_is_dropped_where_the_clauses_are_equal():
    one = temporal_loss(VIDEO[:1], TEXT[:1], 20.0, TEXT[:1])
    np.testing.assert_allclose(one, 0.5 * np.log(2), rtol=1e-5)
    forth = 2 * temporal_loss(VIDEO, TEXT, 5.0, TEXT) - temporal_loss_back(5.0)
    assert (forth >= np.log(2)).all()
    keep = jnp.array([True, False, False])
    found, plain = temporal_loss(VIDEO, TEXT, 5.0, FOIL, keep), temporal_loss(VIDEO, TEXT, 5.0)
    np.testing.assert_allclose(found[1:], plain[1:], rtol=1e-5)
    assert found[0] > plain[0]


def temporal_loss_back(scale):
    s = scale * np.asarray(VIDEO @ TEXT.T, np.float64)
    return np.array([lse(*s[:, j]) - s[j, j] for j in range(3)])


def test_losses_by_hand():
    s, f = 3 * np.asarray(VIDEO @ TEXT.T, np.float64), 3 * np.asarray((VIDEO * FOIL).sum(-1), np.float64)
    expected = [0.5 * (lse(*s[i], f[i]) - s[i, i]) + 0.5 * (lse(*s[:, i]) - s[i, i]) for i in range(3)]
    np.testing.assert_allclose(temporal_loss(VIDEO, TEXT, 3.0, FOIL), expected, rtol=1e-5)
    same = equal_texts(jnp.array([[1, 5, 2], [1, 6, 2], [1, 5, 2]]))
    assert same.tolist() == [[False, False, True], [False, False, False], [True, False, False]]
    first = 0.5 * (lse(s[0, 0], s[0, 1]) - s[0, 0]) + 0.5 * (lse(s[0, 0], s[1, 0]) - s[0, 0])
    np.testing.assert_allclose(content_loss(VIDEO, TEXT, 3.0, same)[0], first, rtol=1e-5)


@pytest.fixture(scope="module")
def tiny():
    experiment = config.get_config("tiny")
    return experiment, example(experiment.data.modalities, 4)


def test_each_part_of_the_loss_uses_its_own_annotations(tiny):
    experiment, batch = tiny
    without = {"none": set(), "video": {"frame_captions"}, "frame": {"frame_captions"}}
    order = {"none": set(), "plain": {"order"}, "swaps": {"order", "order_foil"}}
    for content, temporal in (("none", "none"), ("video", "plain"), ("frame", "swaps")):
        system = replace(experiment.system, content=content, temporal=temporal).build()
        given = {k: batch[k] for k in {"video", "text"} | without[content] | order[temporal]}
        params = system.init(jax.random.key(0), given)[0]
        loss, (_, metrics) = jax.jit(system.loss)(params, {}, given, jax.random.key(1))
        parts = [metrics[k] for k in ("vtc", "content", "temporal") if k in metrics]
        np.testing.assert_allclose(loss, sum(parts), rtol=1e-5)
        assert len(parts) == 1 + (content != "none") + (temporal != "none")


def test_padded_frames_are_never_contrasted_and_empty_captions_are_left_out(tiny):
    experiment, batch = tiny
    system = experiment.system.build()
    params = system.init(jax.random.key(0), batch)[0]
    short = batch | {"video_length": np.full(4, 3, np.int32)}
    loss = jax.jit(system.loss)
    other = dict(short)
    other["frame_captions"] = short["frame_captions"].copy()
    other["frame_captions"][:, 3:] = 7
    other["video"] = np.where(np.arange(8)[None, :, None] < 3, short["video"], 5.0).astype(np.float32)
    for seed in range(3):
        a, b = (loss(params, {}, x, jax.random.key(seed))[0] for x in (short, other))
        np.testing.assert_allclose(a, b, rtol=1e-5)
    silent = dict(batch) | {"frame_captions": np.zeros_like(batch["frame_captions"])}
    assert loss(params, {}, silent, jax.random.key(0))[1][1]["content"] == 0
    scores = system.infer["saliency"](params, {}, short)
    assert scores.shape == (4, 8) and (scores[:, 3:] == -1).all()


def test_a_table_of_ones_own_clips(tmp_path):
    rows = []
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", RNG.integers(0, 255, (9, 8, 8, 3), np.uint8))
        a, b = f"cat {i} sits", f"dog {i} runs"
        rows.append({
            "video": f"{i}.npy", "caption": "cat and dog", "order": f"{a} then {b}", "order_foil": f"{b} then {a}",
            "frame_captions": [a] * 4 + [b] * 4, "split": "train" if i < 6 else "test",
        })  # fmt: skip
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = config.get_config("small")
    system, shape = config.get_config("tiny").system, TransformerConfig(16, 1, 2)
    video = replace(small.system.video, image=replace(small.system.video.image, transformer=shape))
    system = replace(system, video=video)
    columns = ("caption", "order", "order_foil")
    table = Table(tmp_path / "clips.jsonl", image=None, video="video", text=columns, extra=("frame_captions",))
    experiment = replace(
        small, system=system, evals=(Retrieval("order", "video"),), phases=(Phase(steps=2),), optim=Optim(),
        data=replace(small.data, source=table, modalities=config.parts(config.clips(size=8), system, table=True), batch_size=4),
    )  # fmt: skip
    assert mmrep.train(experiment, tmp_path / "run").metrics["order->video candidates"] == 2

"""Prompt Switch against the authors' numbers (bladewaltz1/PromptSwitch at 6420d3f), its traps, and a table of one's own."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from configs.video import prompt_switch as config
from mmrep.config import Optim, Phase
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.evals.suite import Retrieval
from mmrep.modality import example
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.systems.video.prompt_switch import caption_loss, video_vector
from mmrep.systems.video.prompt_switch.model import PromptFrames, SwitchBlock, chunks, switched

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "prompt_switch.npz")
SHAPE = TransformerConfig(8, 2, 2, mlp_dim=16, activation="quick_gelu")


def dense(name):
    return {"kernel": jnp.asarray(GOLDEN[f"{name}.weight"].T), "bias": jnp.asarray(GOLDEN[f"{name}.bias"])}


def norm(name):
    return {"scale": jnp.asarray(GOLDEN[f"{name}.weight"]), "bias": jnp.asarray(GOLDEN[f"{name}.bias"])}


def block(i):
    at = f"enc.layers.{i}"
    attn = {n: dense(f"{at}.self_attn.{n[0]}_proj") for n in ("query", "key", "value")}
    del attn["key"]["bias"]  # softmax cancels it
    return {
        "norm_attn": norm(f"{at}.layer_norm1"), "norm_mlp": norm(f"{at}.layer_norm2"),
        "attn": attn | {"out": dense(f"{at}.self_attn.out_proj")},
        "mlp": {"up": dense(f"{at}.mlp.fc1"), "down": dense(f"{at}.mlp.fc2")},
    }  # fmt: skip


def test_a_layer_is_the_authors():
    cube = np.tile(GOLDEN["enc.prompt_embedding"], (4, 1, 1))
    x = jnp.asarray(np.concatenate([GOLDEN["x"], cube], axis=1))
    found = jax.jit(SwitchBlock(SHAPE, 3).apply)({"params": block(0)}, x)
    np.testing.assert_allclose(found, GOLDEN["layer"], atol=1e-4)


def test_encoder_and_aggregation_are_the_authors():
    # Their tokens enter as embedded patches: a class token of the first and an embedding that is the identity are not theirs to compare, so
    # the blocks and what follows them are applied to the same tokens.
    x = jnp.asarray(np.concatenate([GOLDEN["x"], np.tile(GOLDEN["enc.prompt_embedding"], (4, 1, 1))], axis=1))
    for i in range(2):
        x = SwitchBlock(SHAPE, 3).apply({"params": block(i)}, x)
    np.testing.assert_allclose(x, GOLDEN["hidden"], atol=1e-4)
    memory, cls = x[:, -3:].reshape(-1, 9, 8), x[:, 0].reshape(-1, 3, 8)
    w, b = GOLDEN["attn.in_proj_weight"], GOLDEN["attn.in_proj_bias"]
    parts = {
        n: {
            "kernel": jnp.asarray(w[8 * i : 8 * i + 8].T).reshape(8, 2, 4),
            "bias": jnp.asarray(b[8 * i : 8 * i + 8]).reshape(2, 4),
        }
        for i, n in enumerate(("query", "key", "value"))
    }
    out = dense("attn.out_proj")
    parts["out"] = {"kernel": out["kernel"].reshape(2, 4, 8), "bias": out["bias"]}
    from flax import linen as nn

    pooled = cls + nn.MultiHeadDotProductAttention(2).apply({"params": parts}, cls, memory)
    pooled = nn.LayerNorm(epsilon=1e-5).apply({"params": norm("post")}, pooled)
    np.testing.assert_allclose(pooled.reshape(-1, 8), GOLDEN["pooled"], atol=1e-4)


def test_caption_loss_is_the_authors():
    found = caption_loss(jnp.asarray(GOLDEN["logits"]), jnp.asarray(GOLDEN["ids"]), GOLDEN["weights"])
    np.testing.assert_allclose(found, GOLDEN["caption"], rtol=1e-5)


def test_the_switch_exchanges_frames_and_prompts_and_chunks_span_the_clip():
    x = jnp.arange(2 * 9 * 2.0).reshape(2 * 3, 3, 2)
    x = jnp.concatenate([jnp.full((6, 1, 2), -1.0), x], axis=1)
    y = switched(x, 3)
    assert (y[:, 0] == -1).all()
    for c, i, j in np.ndindex(2, 3, 3):
        np.testing.assert_array_equal(y[3 * c + i, 1 + j], x[3 * c + j, 1 + i])
    np.testing.assert_array_equal(switched(y, 3), x)
    frames = jnp.arange(6.0)[None, :, None]
    assert chunks(frames, 3)[:, 0].tolist() == [0, 2, 4, 1, 3, 5]
    with pytest.raises(ConfigError, match="prompts is 4 and the video has 6"):
        chunks(frames, 4)


def encode(video, **settings):
    module = PromptFrames(ImageEncoder(TransformerConfig(16, 2, 2), patch=4), **{"prompts": 3} | settings)
    params = jax.jit(module.init)(jax.random.key(0), video)
    return jax.jit(lambda p, v: module.apply(p, v)), params


def test_which_frames_a_frame_depends_on():
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.random((1, 6, 8, 8, 3)), jnp.float32)
    changed = video.at[:, 2].set(0.3)
    for settings, expected in (
        ({}, {0, 2, 4}), ({"switch": False, "aggregate": "own"}, {2}), ({"switch": False}, {0, 2, 4}),
        ({"aggregate": "own"}, {0, 2, 4}), ({"prompts": 0}, {2}),
    ):  # fmt: skip
        apply, params = encode(video, **settings)
        if "aggregate" in params["params"]:  # it is zero at the start
            out = params["params"]["aggregate"]["out"]
            start = apply(params, video)
            out["kernel"] = jnp.asarray(rng.standard_normal(out["kernel"].shape), jnp.float32)
            assert not np.allclose(start, apply(params, video), atol=1e-3)
        moved = np.abs(apply(params, video) - apply(params, changed)).max((0, 2)) > 1e-5
        assert set(np.flatnonzero(moved)) == expected


def test_the_video_vector_is_the_mean_of_unit_frames_and_depends_on_no_text():
    experiment = config.get_config("tiny")
    system, batch = experiment.system.build(), example(experiment.data.modalities, 4)
    params = system.init(jax.random.key(0), batch)[0]
    found = system.infer["video"](params, {}, {"video": batch["video"]})
    frames, _ = system.infer["video_tokens"](params, {}, {"video": batch["video"]})
    np.testing.assert_allclose(found, l2_normalise(frames.mean(1)), atol=1e-5)
    np.testing.assert_allclose(video_vector(3 * frames), found, atol=1e-5)
    saliency = system.infer["saliency"](params, {}, {k: batch[k] for k in ("video", "text")})
    text = system.infer["text"](params, {}, {"text": batch["text"]})
    length = np.linalg.norm(frames.mean(1), axis=1)
    np.testing.assert_allclose(saliency.mean(1), length * (found * text).sum(1), atol=1e-5)
    loss, (_, metrics) = jax.jit(system.loss)(params, {}, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, metrics["contrast"] + 0.5 * metrics["caption"], rtol=1e-5)
    bare = replace(experiment.system, caption_weight=0.0).build()
    assert "captioner" not in bare.init(jax.random.key(0), batch)[0]


def test_a_table_of_ones_own_clips(tmp_path):
    lines, rng = ["video,caption,split"], np.random.default_rng(0)
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", rng.integers(0, 255, (5, 12, 12, 3), np.uint8))
        lines.append(f"{i}.npy,clip number {i},{'train' if i < 6 else 'test'}")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    tiny = config.get_config("tiny")
    image = ImageEncoder(TransformerConfig(32, 1, 2), patch=6, pool="cls")
    system = replace(tiny.system, image=image)
    parts = config.pair(config.clips(4, size=12), system, table=True)
    table = Table(tmp_path / "clips.csv", image=None, video="video")
    experiment = replace(
        tiny, system=system, evals=(Retrieval("text", "video"),), phases=(Phase(steps=2),), optim=Optim(),
        data=replace(tiny.data, source=table, modalities=parts, batch_size=4),
    )  # fmt: skip
    assert mmrep.train(experiment, tmp_path / "run").metrics["text->video candidates"] == 2

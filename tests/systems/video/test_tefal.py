"""TEFAL by closed forms (no code was published; its pool is X-Pool's, see test_xpool), its traps, and a table of one's own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import mmrep
from configs.video import _clips
from configs.video import tefal as config
from mmrep.config import Optim, Phase
from mmrep.data.sources import Table
from mmrep.evals.suite import Retrieval
from mmrep.modality import example
from mmrep.model import Model
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import TextConditionedPool
from mmrep.systems.video.tefal import FUSIONS, Fusion

RNG = np.random.default_rng(0)
TEXT, FRAMES, SOUND = (jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in ((3, 8), (2, 4, 8), (2, 5, 8)))
SEEN, HEARD = jnp.ones((2, 4), bool), jnp.ones((2, 5), bool)


def fused(fusion, params=None, text=TEXT, frames=FRAMES, seen=SEEN, sound=SOUND, heard=HEARD):
    module = Fusion(fusion, 8, 2, 0.0, jnp.float32)
    params = jax.jit(module.init)(jax.random.key(0), TEXT, FRAMES, SEEN, SOUND, HEARD) if params is None else params
    return jax.jit(module.apply)(params, text, frames, seen, sound, heard), params


def test_the_sum_of_two_pools_with_weights_of_their_own():
    params = fused("separate")[1]
    noisy = jax.tree.map(lambda x: x + 0.3 * jnp.asarray(RNG.standard_normal(x.shape), jnp.float32), params)
    found, _ = fused("separate", noisy)
    parts = [
        TextConditionedPool(2).apply({"params": noisy["params"][name]}, TEXT, x)
        for name, x in (("pool", FRAMES), ("sound_pool", SOUND))
    ]
    np.testing.assert_allclose(found, parts[0] + parts[1], atol=1e-5)
    assert {*noisy["params"]} == {"pool", "sound_pool"}


def test_the_attention_to_frames_and_to_sound_is_that_of_the_pools():
    model = mmrep.create("tefal", "tiny")
    for name, pool in (("attention", "pool"), ("sound_attention", "sound_pool")):
        found = np.asarray(model.embed_split(name))
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
        other = {**model.params["fusion"], pool: jax.tree.map(lambda x: x * 0, model.params["fusion"][pool])}
        even = np.asarray(Model(model.experiment, model.params | {"fusion": other}, {}).embed_split(name))
        assert np.ptp(found, axis=1).max() > 1e-4
        assert max(np.ptp(row[row > 1e-6]) for row in even) < 1e-6
    assert not {"attention", "sound_attention"} & {
        *replace(config.get_config("tiny").system, fusion="joint").build().infer
    }


def test_at_the_start_silent_tokens_give_x_pools_similarity():
    alone, _ = fused("none")
    found, _ = fused("separate", sound=jnp.zeros_like(SOUND))
    np.testing.assert_allclose(found, alone, atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padded_audio_has_no_effect_and_a_clip_without_sound_is_its_frames(fusion):
    _, params = fused(fusion)
    some = HEARD.at[0, 3:].set(False)
    found, _ = fused(fusion, params, heard=some)
    again, _ = fused(fusion, params, heard=some, sound=SOUND.at[0, 3:].set(99.0))
    np.testing.assert_allclose(found, again, atol=1e-5)
    none, _ = fused(fusion, params, heard=HEARD.at[0].set(False))
    loud, _ = fused(fusion, params, heard=HEARD.at[0].set(False), sound=SOUND.at[0].set(7.0))
    assert np.isfinite(none).all()
    np.testing.assert_allclose(none, loud, atol=1e-5)
    if fusion not in ("none", "joint"):
        alone, _ = fused("none", {"params": {"pool": params["params"]["pool"]}})
        np.testing.assert_allclose(none[0], alone[0], atol=1e-5)


def test_only_tefals_sound_depends_on_the_text():
    for fusion, depends in (("separate", True), ("constant", False), ("mean", False)):
        found, params = fused(fusion)
        alone, _ = fused("none", {"params": {"pool": params["params"]["pool"]}})
        of_sound = found - alone
        assert np.allclose(of_sound[:, 0], of_sound[:, 1], atol=1e-5) != depends


def test_scores_of_pairs_are_the_losss_matrix_and_the_missing_flag_is_the_datas():
    experiment = config.get_config("tiny")
    for fusion in ("separate", "first"):
        system = replace(experiment.system, fusion=fusion).build()
        batch = example(experiment.data.modalities, 4) | {"sounds": np.array([0, 1, 2, 1], np.int32)}
        params = system.init(jax.random.key(0), batch)[0]
        video, valid = system.infer["video_tokens"](params, {}, batch)
        text, _ = system.infer["text_tokens"](params, {}, batch)
        assert valid[0].tolist() == [True] * 4 + [False] * 4 and valid[1:].all()
        i, j = np.divmod(np.arange(16), 4)
        sides = {"video_tokens": video[j], "video_valid": valid[j], "text_tokens": text[i]}
        scores = jax.jit(system.infer["score"])(params, {}, sides).reshape(4, 4)
        module = Fusion(fusion, 32, 1, 0.0, jnp.float32)
        x, y = video[..., :4, :32], video[..., 4:, :32]
        z = module.apply({"params": params["fusion"]}, text[:, 0], x, valid[:, :4], y, valid[:, 4:])
        expected = jnp.einsum("td,vtd->tv", l2_normalise(text[:, 0]), l2_normalise(z))
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        louder = batch | {"sound": batch["sound"] * np.array([5, 1, 1, 1], np.float32)[:, None, None]}
        tokens, _ = system.infer["video_tokens"](params, {}, louder)
        moved = jax.jit(system.infer["score"])(params, {}, sides | {"video_tokens": tokens[j]}).reshape(4, 4)
        np.testing.assert_allclose(moved, scores, atol=1e-5)


def test_a_table_of_ones_own_clips(tmp_path):
    lines = ["video,audio,caption,split"]
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", RNG.integers(0, 255, (5, 12, 12, 3), np.uint8))
        soundfile.write(tmp_path / f"{i}.wav", 0.5 * np.sin(np.arange(900 + 100 * i) * (i + 1) / 10), 4000)
        lines.append(f"{i}.npy,{i}.wav,clip number {i},{'train' if i < 6 else 'test'}")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    small, system = config.get_config("small"), config.get_config("tiny").system
    image = replace(small.system.video.image, transformer=config.TransformerConfig(16, 1, 2))
    sound = AudioEncoder(config.TransformerConfig(16, 1, 2), 4000, n_fft=64, hop=64, n_mels=8)
    system = replace(system, video=replace(small.system.video, image=image), sound=sound)
    table = Table(tmp_path / "clips.csv", image=None, video="video", audio="audio", rate=4000)
    parts = _clips.with_sound(
        config.clips(frames=4, events=1, size=12), system.text.length, system.text.vocab, table=True
    )
    experiment = replace(
        small, system=system, evals=(Retrieval("text", "video", score="score"),), phases=(Phase(steps=2),), optim=Optim(),
        data=replace(small.data, source=table, modalities=parts, batch_size=4),
    )  # fmt: skip
    model = mmrep.train(experiment, tmp_path / "run")
    assert model.metrics["text->video candidates"] == 2

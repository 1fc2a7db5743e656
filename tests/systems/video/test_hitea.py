"""HiTeA by closed forms (its losses were not published), its traps, and a table of one's own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mmrep
from configs.video import hitea as config
from mmrep.config import Optim, Phase
from mmrep.data.sources import Table
from mmrep.errors import DataError
from mmrep.evals.suite import Retrieval
from mmrep.modality import example
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import l2_normalise
from mmrep.systems.video.hitea.evals import places
from mmrep.systems.video.hitea.losses import cme_loss, contrast, moment_similarity, moment_view, mtre_loss

RNG = np.random.default_rng(0)
V, W = (l2_normalise(jnp.asarray(RNG.standard_normal(s), jnp.float32)) for s in ((3, 4), (3, 5, 4)))
NONE = jnp.zeros((3, 3), bool)


def test_of_one_word_sentences_cme_is_info_nce():
    valid = jnp.zeros((3, 5), bool).at[:, 2].set(True)
    found = moment_similarity(V, W, valid, 0.1)
    np.testing.assert_allclose(found, V @ W[:, 2].T, atol=1e-5)
    np.testing.assert_allclose(cme_loss(found, 9.0, NONE), contrast(V, W[:, 2], 9.0, NONE), rtol=1e-4)


def test_the_pooled_sentence_depends_on_both_rows_and_leaves_out_what_is_no_word():
    valid = jnp.asarray(RNG.random((3, 5)) < 0.7).at[:, 0].set(True)
    for temperature in (0.1, None):
        found = moment_similarity(V, W, valid, temperature)
        for i, j in np.ndindex(3, 3):
            words = np.asarray(W[j])[np.asarray(valid[j])]
            a = np.ones(len(words)) if temperature is None else np.exp(words @ np.asarray(V[i]) / temperature)
            pooled = a @ words / a.sum()
            assert float(found[i, j]) == pytest.approx(float(V[i] @ (pooled / np.linalg.norm(pooled))), abs=1e-5)
    other = moment_similarity(V, W.at[0, 1:].set(jnp.where(valid[0, 1:, None], W[0, 1:], 7.0)), valid, 0.1)
    np.testing.assert_allclose(other, moment_similarity(V, W, valid, 0.1), atol=1e-6)
    assert (moment_similarity(V, W, valid.at[1].set(False), 0.1)[:, 1] == 0).all()


def test_mtre_is_0_for_equal_views_and_2_for_orthogonal_ones_and_its_targets_get_no_gradient():
    np.testing.assert_allclose(mtre_loss(V, V, V, V), 0, atol=1e-5)
    x, y = jnp.eye(4)[:2], jnp.eye(4)[2:]
    np.testing.assert_allclose(mtre_loss(x, x, y, y), 2, atol=1e-6)
    gradient = lambda stop: jax.grad(lambda z: mtre_loss(V, z, V, z, stop).sum())(V[::-1] + 0.1)  # noqa: E731
    assert not np.any(gradient(True)) and np.any(gradient(False))


def test_a_moment_is_a_stretch_of_successive_frames_and_at_most_the_clip():
    clip = jnp.broadcast_to(jnp.arange(12.0)[None, :, None], (50, 12, 2))
    view = np.asarray(moment_view(jax.random.key(0), clip, 4))[..., 0]
    assert view.shape == (50, 12) and {len(set(v)) for v in view} == {4}
    assert all((np.unique(v) == v[0] + np.arange(4)).all() and (np.diff(v) >= 0).all() for v in view)
    assert set(view[:, 0]) == set(range(9))
    np.testing.assert_array_equal(moment_view(jax.random.key(0), clip, 99), clip)


def test_a_phrase_is_found_in_its_caption_and_nowhere_else():
    caption = np.array([1, 7, 8, 5, 7, 9, 2, 0])
    np.testing.assert_array_equal(places(caption, np.array([1, 7, 9, 2, 0, 0, 0, 0])), np.isin(np.arange(8), (4, 5)))
    with pytest.raises(DataError, match="does not contain"):
        places(caption, np.array([1, 9, 7, 2, 0, 0, 0, 0]))


@pytest.fixture(scope="module")
def tiny():
    experiment = config.get_config("tiny")
    system = experiment.system.build()
    batch = example(experiment.data.modalities, 4)
    return experiment, system, system.init(jax.random.key(0), batch)[0], batch


def test_losses_without_weight_have_no_parameters_and_the_whole_is_their_sum(tiny):
    experiment, system, params, batch = tiny
    loss, (_, metrics) = jax.jit(system.loss)(params, {}, batch, jax.random.key(1))
    parts = {"vtc", "cme", "mtre", "vtm", "mlm", "plm"}
    assert parts <= {*metrics}
    np.testing.assert_allclose(loss, sum(metrics[k] for k in parts), rtol=1e-5)
    bare = replace(experiment.system, **config.NO_FUSION).build()
    assert {*bare.init(jax.random.key(0), batch)[0]} == {"video", "text", "scale"}
    assert {"score", "fused"} <= {*system.infer} and not {"score", "fused"} & {*bare.infer}


def test_words_are_all_tokens_but_bos_eos_and_padding(tiny):
    _, system, params, batch = tiny
    words, valid = system.infer["words"](params, {}, batch)
    assert words.shape == (4, config.LENGTH, 32)
    np.testing.assert_array_equal(valid, batch["text"] >= 5)


def test_saliency_is_cme_of_the_moment_around_a_frame(tiny):
    experiment, system, params, batch = tiny
    batch = batch | {"video": jax.random.normal(jax.random.key(1), batch["video"].shape)}
    found = system.infer["saliency"](params, {}, batch)
    steps, n = batch["video"].shape[1], experiment.system.moment
    assert found.shape == batch["video"].shape[:2] and steps > n
    words, valid = system.infer["words"](params, {}, batch)
    for t, start in ((0, 0), (5, 5 - n // 2), (steps - 1, steps - n)):
        moment = moment_view(jax.random.key(0), batch["video"][:, start : start + n], n)
        moment = jnp.repeat(moment, steps // n, axis=1)
        vector = system.infer["video"](params, {}, {"video": moment})
        expected = jnp.diag(moment_similarity(vector, words, valid, experiment.system.word_temperature))
        np.testing.assert_allclose(found[:, t], expected, atol=1e-5)


def test_a_table_of_ones_own_clips(tmp_path):
    lines = ["video,caption,split"]
    for i in range(8):
        frames = [Image.fromarray(RNG.integers(0, 255, (12, 12, 3), np.uint8)) for _ in range(4)]
        frames[0].save(tmp_path / f"{i}.gif", save_all=True, append_images=frames[1:])
        lines.append(f"{i}.gif,a dog runs then {i} sits,{'train' if i < 6 else 'test'}")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    small, system = config.get_config("small"), config.get_config("tiny").system
    image = replace(small.system.video.image, transformer=TransformerConfig(32, 1, 2), patch=12)
    system = replace(system, video=replace(small.system.video, image=image), **config.NO_FUSION)
    data = config.clips(size=12)
    parts = config.pair(replace(data, spec=replace(data.spec, frames=8)), system, table=True)
    table = Table(tmp_path / "clips.csv", image=None, video="video")
    experiment = replace(
        small, system=system, evals=(Retrieval("text", "video"),), phases=(Phase(steps=2),), optim=Optim(),
        data=replace(small.data, source=table, modalities=parts, batch_size=4),
    )  # fmt: skip
    assert mmrep.train(experiment, tmp_path / "run").metrics["text->video candidates"] == 2

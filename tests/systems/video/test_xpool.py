"""X-Pool against the authors' numbers (layer6ai-labs/xpool at bc88718), its traps, and a table of one's own."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mmrep
from configs.video import xpool as config
from mmrep.config import Optim, Phase
from mmrep.data.clips import ClipSpec
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.evals.suite import Retrieval
from mmrep.losses.contrastive import symmetric_info_nce_of_logits as loss_of
from mmrep.losses.contrastive import true_of
from mmrep.modality import example
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import TextConditionedPool, conditioned_similarity, mean_pool
from mmrep.systems.video.xpool import POOLS, top_pool

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "xpool.npz")
TEXT, FRAMES = jnp.asarray(GOLDEN["text"]), jnp.asarray(GOLDEN["frames"])
EVERY = jnp.ones(FRAMES.shape[:2], bool)
NAMES = {
    "query": "cross_attn.q_proj", "key": "cross_attn.k_proj", "value": "cross_attn.v_proj", "out": "cross_attn.out_proj",
    "linear": "linear_proj", "norm_in": "layer_norm1", "norm_attn": "layer_norm2", "norm_out": "layer_norm3",
}  # fmt: skip


@pytest.mark.parametrize("heads", [1, 4])
def test_pool_similarity_and_loss_are_the_authors(heads):
    def array(name, part):
        return jnp.asarray(GOLDEN[f"{heads}/{name}.{part}"])

    params = {ours: {"bias": array(theirs, "bias")} for ours, theirs in NAMES.items()}
    for ours, theirs in NAMES.items():
        norm = "norm" in ours
        params[ours]["scale" if norm else "kernel"] = array(theirs, "weight") if norm else array(theirs, "weight").T
    pool = jax.jit(lambda t: TextConditionedPool(heads).apply({"params": params}, t, FRAMES, EVERY))
    np.testing.assert_allclose(pool(TEXT), GOLDEN[f"{heads}/pooled"], atol=1e-5)
    found = conditioned_similarity(pool, TEXT)
    np.testing.assert_allclose(found, GOLDEN[f"{heads}/sims"], atol=1e-5)
    np.testing.assert_allclose(
        loss_of(found * np.exp(1.5), found.T * np.exp(1.5)).mean(), GOLDEN[f"{heads}/loss"], atol=1e-5
    )


def test_mean_and_top_pooling_are_the_authors():
    top = top_pool(TEXT, FRAMES, EVERY, 3)
    np.testing.assert_allclose(top, GOLDEN["base/topk"], atol=1e-5)
    np.testing.assert_allclose(conditioned_similarity(lambda t: top, TEXT), GOLDEN["base/topk sims"], atol=1e-5)
    mean = mean_pool(l2_normalise(FRAMES), EVERY)
    np.testing.assert_allclose(mean, GOLDEN["base/avg"], atol=1e-5)
    np.testing.assert_allclose(l2_normalise(TEXT) @ l2_normalise(mean).T, GOLDEN["base/avg sims"], atol=1e-5)
    two = top_pool(TEXT, FRAMES, EVERY.at[:, 2:].set(False), 3)
    np.testing.assert_allclose(two, jnp.broadcast_to(l2_normalise(FRAMES)[:, None, :2].sum(2), two.shape), atol=1e-5)


def test_true_pairs_are_left_out_of_the_denominators():
    told, shown = jnp.array([[3, 0], [3, 5], [0, 5]]), jnp.array([[3, 4, 0, 0], [3, 1, 5, 0], [5, 9, 2, 0]])
    known = true_of(told, shown)
    assert known.tolist() == [[True, True, False], [False, True, False], [False, True, True]]
    s = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3)), jnp.float32)
    rows = [s[0, [0, 2]], s[1], s[2, [0, 2]]]
    columns = [s[:, 0], s[[1], 1], s[:, 2]]
    own = jnp.diagonal(s)
    expected = [
        0.5 * (jax.nn.logsumexp(2 * r) + jax.nn.logsumexp(2 * c)) - 2 * d for r, c, d in zip(rows, columns, own)
    ]
    np.testing.assert_allclose(loss_of(2.0 * s, 2.0 * s.T, true=known), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def models():
    tiny = config.get_config("tiny")
    found = {}
    for pool in POOLS:
        experiment = replace(tiny, system=replace(tiny.system, pool=pool, chunk=2 if pool == "text" else 0))
        system = experiment.system.build()
        batch = example(experiment.data.modalities, 4)
        found[pool] = system, system.init(jax.random.key(0), batch)[0], batch
    return found


def test_scores_of_pairs_are_those_of_the_loss_and_only_the_texts_pool_depends_on_the_text(models):
    for pool, (system, params, batch) in models.items():
        video, valid = system.infer["video_tokens"](params, {}, batch)
        text, _ = system.infer["text_tokens"](params, {}, batch)
        i, j = np.divmod(np.arange(16), 4)
        sides = {
            "video_tokens": video[j],
            "video_valid": valid[j],
            "text_tokens": text[i],
            "text_valid": jnp.ones((16, 1), bool),
        }
        scores = jax.jit(system.infer["score"])(params, {}, sides).reshape(4, 4)
        scale = 1 / 0.07
        known = true_of(batch["told"], batch["shown"])
        loss = jax.jit(system.loss)(params, {}, batch, jax.random.key(1))[0]
        if pool not in ("text", "constant"):  # whose loss has dropout
            np.testing.assert_allclose(loss_of(scale * scores, scale * scores.T, true=known).mean(), loss, rtol=1e-4)
        other = sides | {"video_tokens": jnp.roll(video, 1, axis=1)[j]}
        moved = jax.jit(system.infer["score"])(params, {}, other).reshape(4, 4)
        if pool != "self":  # whose layer has positions
            np.testing.assert_allclose(moved, scores, atol=1e-5)


def test_attention_is_over_frames_and_depends_on_the_text(models):
    system, params, batch = models["text"]
    weights = system.infer["attention"](params, {}, batch)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    swapped = system.infer["attention"](params, {}, batch | {"text": batch["text"][::-1]})
    assert not np.allclose(weights, swapped, atol=1e-4)
    system, params, batch = models["constant"]
    swapped = system.infer["attention"](params, {}, batch | {"text": batch["text"][::-1]})
    np.testing.assert_allclose(system.infer["attention"](params, {}, batch), swapped, atol=1e-6)


def test_a_table_of_ones_own_clips(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["video,caption,split"]
    for i in range(8):
        frames = [Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)) for _ in range(5)]
        if i % 2:
            frames[0].save(tmp_path / f"{i}.gif", save_all=True, append_images=frames[1:])
        else:
            (tmp_path / str(i)).mkdir()
            for t, frame in enumerate(frames):
                frame.save(tmp_path / str(i) / f"{t:02d}.png")
        lines.append(f"{i}{'.gif' if i % 2 else ''},clip number {i},{'train' if i < 6 else 'test'}")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    small = config.get_config("small")
    table = Table(tmp_path / "clips.csv", image=None, video="video")
    system = config.get_config("tiny").system
    parts = config.pair(config.clips(1, False, size=12, frames_each=4), system, table=True)
    video = replace(
        small.system.video, image=replace(small.system.video.image, transformer=config.TransformerConfig(16, 1, 2))
    )
    experiment = replace(
        small, system=replace(system, video=video), evals=(Retrieval("text", "video", score="score"),),
        data=replace(small.data, source=table, modalities=parts, batch_size=4), phases=(Phase(steps=2),), optim=Optim(),
    )  # fmt: skip
    model = mmrep.train(experiment, tmp_path / "run")
    assert model.similarity(video=[str(tmp_path / "7.gif")], text=["clip number 7", "another"]).shape == (1, 2)
    assert model.embed(text=["clip number 7"]).shape == (1, 32)


def test_settings_that_cannot_work_are_one_sentence():
    for match, changes in {"heads is 3": {"heads": 3}, "top is 0": {"top": 0}}.items():
        with pytest.raises(ConfigError, match=match):
            replace(config.get_config("tiny").system, **changes).build()
    assert ClipSpec().told_items == 2

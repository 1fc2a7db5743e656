"""MMTrail's dual encoder and its synthetic trailers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.video import mmtrail as configs
from configs.video.mmtrail.proof import merging
from mmrep import modality
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Embedder
from mmrep.nn.encoders.video import CodesEncoder
from mmrep.systems.video.mmtrail.data import SLOTS, TrailerData, boundary_f1, contradictions, slot_recall, trailer

TINY = configs.get_config("tiny")


def test_loss_is_the_sum_over_pairs_and_a_clip_is_both_of_its_sides():
    system, batch = TINY.system.build(), jax.tree.map(jnp.asarray, modality.example(TINY.data.modalities, 4))
    params, extras = system.init(jax.random.key(0), batch)
    x = {n: system.infer[n](params, extras, batch) for n in ("video", "audio", "text", "clip")}
    value, (_, metrics) = jax.jit(system.loss)(params, extras, batch, jax.random.key(1))
    pairs = (("video", "text"), ("video", "audio"), ("text", "audio"))
    expected = sum(symmetric_info_nce(x[a], x[b], metrics["scale"]).mean() for a, b in pairs)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    both = x["video"] + x["audio"]
    np.testing.assert_allclose(x["clip"], both / jnp.linalg.norm(both, axis=1, keepdims=True), atol=1e-5)
    silent = replace(TINY.system, audio=None).build()
    params, extras = silent.init(jax.random.key(0), {k: v for k, v in batch.items() if k != "audio"})
    assert "audio" not in params and "audio" not in silent.infer
    with pytest.raises(ConfigError, match="must be positive"):
        replace(TINY.system, temperature=0.0).build()


def test_saliency_is_the_similarity_of_the_text_to_each_frame():
    shape = TransformerConfig(width=16, depth=1, heads=2)
    c = replace(TINY.system, video=CodesEncoder(16, shape), audio=None, dim=16)
    parts = modality.vector("video", 5, 8), modality.text("text", c.text.length, c.text.vocab)
    system, batch = c.build(), jax.tree.map(jnp.asarray, modality.example(parts, 3))
    batch["video"] = jax.random.normal(jax.random.key(1), (3, 5, 8))
    params, extras = system.init(jax.random.key(0), batch)
    found = system.infer["saliency"](params, extras, batch)
    text = system.infer["text"](params, extras, batch)
    frames = Embedder(c.video, 16, tokens=True).apply({"params": params["video"]}, batch["video"])[1]["projected"]
    np.testing.assert_allclose(found, jnp.einsum("btd,bd->bt", frames, text), atol=1e-5)
    assert float(jnp.ptp(found, axis=1).min()) > 1e-3 and "saliency" not in TINY.system.build().infer


def test_clips_of_a_trailer_share_their_music_and_splits_share_no_trailer():
    data = TrailerData(n_train=40)
    truth, columns = data.truth("train"), data.open("train").columns
    assert (truth.reshape(10, 4, 7)[:, :, 4:] == truth[::4, None, 4:]).all() and len(np.unique(columns["seen"])) > 30
    assert (columns["music"].reshape(10, 4) == columns["music"][::4, None]).all()
    assert not (truth[:, :4] == TrailerData(n_test=40).truth("test")[:, :4]).all()
    assert set(columns["music_query"][0].split()) <= {w for slot in SLOTS[4:] for w in slot}


def test_captions_of_the_arms():
    words = {}
    for captions in ("merged", "visual", "shuffled", "joined"):
        words[captions] = TrailerData(n_train=200, captions=captions).open("train").columns["text"]
        assert {w for text in words[captions] for w in text.split()} <= {
            w for t in TrailerData().texts("train") for w in t.split()
        }
    truth = TrailerData(n_train=200).truth("train")
    recall = {k: slot_recall(v, truth) for k, v in words.items()}
    assert recall["joined"] >= recall["merged"] > 0.85 > recall["shuffled"] > recall["visual"] > 0.4
    assert max(len(t.split()) for t in words["merged"]) <= 14 < max(len(t.split()) for t in words["joined"])
    # By hand: one clip, one text with a true, a false and a missing value.
    row = np.zeros((1, 7), np.int64)
    text = f"{SLOTS[0][0]} {SLOTS[0][1]} {SLOTS[1][2]}"
    assert slot_recall([text], row) == pytest.approx(1 / 7) and contradictions([text], row) == 2.0
    found = merging(200)
    assert found["merged false"] < found["joined false"] and found["merged words"] < found["joined words"]


def test_synthetic_cuts():
    frames, cuts = trailer(np.random.default_rng(0))
    assert len(cuts) >= 5 and frames.dtype == np.uint8 and cuts[-1] < len(frames)
    assert boundary_f1([10, 31], [10, 30, 50]) == pytest.approx(0.8) and boundary_f1([10, 11], [10]) == pytest.approx(
        2 / 3
    )
    assert boundary_f1([], []) == 1.0
    with pytest.raises(ConfigError, match="at least 1"):
        TrailerData(per=0)

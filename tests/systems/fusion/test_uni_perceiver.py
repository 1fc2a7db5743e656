"""Uni-Perceiver: the authors' mask, candidate sets, and captions that are predicted without a leak."""

import csv
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmrep import modality
from mmrep.config import Data, Experiment, Mesh, Phase, Tokenizer
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.evals.suite import evaluate
from mmrep.modality import BOS, EOS, PAD
from mmrep.nn.config import TransformerConfig
from mmrep.systems.fusion.uni_perceiver import Config
from mmrep.systems.fusion.uni_perceiver.data import Named
from mmrep.systems.fusion.uni_perceiver.evals import Names, Written
from mmrep.systems.fusion.uni_perceiver.model import Unified, candidates, caption_mask, cross_entropy
from mmrep.training import loop

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "uni_perceiver.npz")
TINY = Config(TransformerConfig(width=16, depth=1, heads=2), 8, 4, 20, 6, classes=3)
NAMES = np.array([[BOS, 7, EOS], [BOS, 8, EOS], [BOS, 9, EOS]], np.int32)
BATCH = {
    "image": np.random.default_rng(0).random((4, 8, 8, 3), np.float32),
    "text": np.array([[BOS, 5, 7, EOS, PAD, PAD], [BOS, 5, 6, 8, EOS, PAD], [BOS, 9, EOS, PAD, PAD, PAD], [BOS, 5, 6, 10, 11, EOS]], np.int32),
    "label": np.array([0, 1, 2, 0], np.int32), "names": np.stack([NAMES] * 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    system = TINY.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), BATCH)
    return system, params


def loss_of(config, params, batch=BATCH, key=0):
    system = config.build()
    return jax.jit(lambda p, b: system.loss(p, {}, b, jax.random.key(key))[0])(params, batch)


def test_the_authors_mask():
    for name in GOLDEN:
        if name != "note":
            np.testing.assert_array_equal(caption_mask(*map(int, name.split("_"))), GOLDEN[name])
    peek, plain = caption_mask(1, 1, 3, peek=True), caption_mask(1, 1, 3)
    assert np.argwhere(peek != plain).tolist() == [[5 + i, 2 + i] for i in range(3)]  # copy i and word i


def test_a_word_is_predicted_from_the_words_before_it_alone(made):
    _, params = made
    net = Unified(TINY.transformer, 8, 4, 20, 6)
    run = jax.jit(
        lambda text, peek: net.apply(
            {"params": params["net"]}, jnp.asarray(BATCH["image"]), text, peek, method=Unified.of_caption
        ),
        static_argnums=1,
    )
    other = BATCH["text"].copy()
    other[:, 2:] = 13
    whole, changed = run(BATCH["text"], False), run(other, False)
    np.testing.assert_allclose(whole[:, :3], changed[:, :3], atol=1e-6)
    assert np.abs(whole[:, 3] - changed[:, 3]).max() > 1e-4
    assert np.abs(run(BATCH["text"], True)[:, 2] - run(other, True)[:, 2]).max() > 1e-4


def test_captions_are_written_as_their_words_are_predicted(made):
    system, params = made
    written = jax.jit(system.infer["write"])(params, {}, BATCH)
    assert written.shape == (4, 6) and (written[:, 0] == BOS).all()
    forced = jax.jit(system.infer["forced"])(params, {}, BATCH | {"text": written})
    np.testing.assert_allclose(forced, 1.0)  # teacher-forced on its own words, it predicts each of them
    ended = np.cumsum(np.asarray(written) == EOS, 1) - (np.asarray(written) == EOS) > 0
    assert (np.asarray(written)[ended] == PAD).all()


def test_the_loss_of_names_is_a_softmax_over_their_texts(made):
    system, params = made
    config = replace(TINY, tasks=(("names", 1.0),), smoothing=0.2, unseen=(2,))
    infer = {n: jax.jit(f) for n, f in system.infer.items()}
    x, y = infer["image"](params, {}, BATCH), infer["text"](params, {}, {"text": NAMES})
    logits = np.asarray(x @ y.T)[:, :2] / TINY.temperature
    np.testing.assert_allclose(infer["name_logits"](params, {}, BATCH)[:, :2], logits, rtol=1e-4, atol=1e-4)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = np.array([0, 1, 3])  # the third has an unseen name
    want = -0.8 * log_p[rows, BATCH["label"][rows]] - 0.1 * log_p[rows].sum(1)
    np.testing.assert_allclose(loss_of(config, params), want.mean(), rtol=1e-4)


def test_the_scale_is_capped_by_its_value(made):
    system, params = made
    hot = params | {"scale": jax.tree.map(lambda x: x + 9.0, params["scale"])}
    x, y = (jax.jit(system.infer[n])(params, {}, b) for n, b in (("image", BATCH), ("text", {"text": NAMES})))
    found = jax.jit(system.infer["name_logits"])(hot, {}, BATCH)
    np.testing.assert_allclose(found, 100 * x @ y.T, rtol=1e-3, atol=1e-2)


def test_captions_that_are_equal_are_no_negatives(made):
    _, params = made
    config = replace(TINY, tasks=(("retrieve", 1.0),), smoothing=0.0)
    same = {k: np.concatenate([v[:1], v[:1]]) for k, v in BATCH.items()}
    assert abs(loss_of(config, params, same) - np.log(2)) < 1e-4  # both are positives of both
    np.testing.assert_allclose(loss_of(config, params, {k: v[:1] for k, v in BATCH.items()}), 0, atol=1e-5)


def test_a_batch_without_masked_words_has_a_finite_loss(made):
    _, params = made
    config = replace(TINY, tasks=(("masked", 1.0),), masked=0.5)
    empty = BATCH | {"text": np.array([[BOS, EOS, PAD, PAD, PAD, PAD]] * 4, np.int32)}
    assert loss_of(config, params, empty) == 0.0 and loss_of(config, params) > 0


def test_sampled_words_are_those_of_the_batch_and_others_each_once():
    ids, distinct = candidates(jnp.asarray(BATCH["text"]), 20, 16, jax.random.key(0))
    assert {*np.unique(BATCH["text"]).tolist()} <= {*np.asarray(ids)[np.asarray(distinct)].tolist()}
    kept = np.asarray(ids)[np.asarray(distinct)]
    assert len({*kept.tolist()}) == len(kept) and len(ids) == 16
    few, _ = candidates(jnp.asarray(BATCH["text"]), 20, 4, jax.random.key(0))
    assert len(few) == 4
    everything, distinct = candidates(jnp.asarray(BATCH["text"]), 20, 0, None)
    assert everything.tolist() == list(range(20)) and distinct.all()


def test_smoothing_is_spread_over_the_allowed_classes():
    found = cross_entropy(jnp.array([[0.0, 0.0, -1e9]]), jnp.array([0]), jnp.array([True, True, False]), 0.3)
    np.testing.assert_allclose(found, np.log(2), rtol=1e-6)


def test_prompts_in_front_change_the_vectors_and_tuning_moves_them_and_the_norms_alone():
    config = replace(TINY, prompts=2, prompt_depth=1)
    system, plain = config.build(), TINY.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), BATCH)
    assert {k: v.shape for k, v in params["prompts"].items()} == {"encoder": (1, 2, 16)}
    x = jax.jit(system.infer["image"])(params, {}, BATCH)
    assert np.abs(x - jax.jit(plain.infer["image"])(params, {}, BATCH)).max() > 1e-3
    from configs.fusion.uni_perceiver import get_config
    from mmrep.config import flatten
    from mmrep.training.state import split

    tuned = get_config("tiny", "prompt")
    shapes = jax.eval_shape(lambda: loop.initial(tuned))[0]
    learnt, frozen = split(shapes, tuned.phases[0].trainable)
    assert all("norm" in p or p.startswith("prompts/") for p in learnt) and "net/words" in frozen
    assert any("norm_attn" in p for p in learnt) and len(flatten(shapes)) == len(learnt) + len(frozen)


def test_separate_encoders_and_heads_have_their_own_parameters():
    own, _ = jax.eval_shape(replace(TINY, shared=False).build().init, jax.random.key(0), BATCH)
    assert {"encoder", "targets"} <= own["net"].keys()
    heads, _ = jax.eval_shape(replace(TINY, heads=True).build().init, jax.random.key(0), BATCH)
    assert heads["heads"]["names"]["kernel"].shape == (16, 3) and {*heads["scale"]} == {"retrieve"}


def test_a_table_of_ones_own(tmp_path):
    rows = [["image", "caption", "label", "split"]]
    for i in range(8):
        Image.fromarray(np.full((8, 8, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(
            [
                f"{i}.png",
                f"a {'dark' if i < 4 else 'light'} square number {i}",
                int(i >= 4),
                "train" if i % 4 else "test",
            ]
        )
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    source = Named(Table(tmp_path / "t.csv", label="label"), ("dark", "light"))
    parts = (
        modality.image("image", 8), modality.text("text", 8, 20), modality.label("label", 2), modality.texts("names", 2, 3, 20),
    )  # fmt: skip
    config = Experiment(
        replace(TINY, length=8, classes=2), Data(source, parts, Tokenizer(20, kind="word"), batch_size=4, eval_batch_size=2),
        phases=(Phase(steps=2),), evals=(Names(()), Written()), mesh=Mesh(1, 1),
    )  # fmt: skip
    metrics = loop.train(config, progress=False, evaluate=evaluate).metrics
    assert {*metrics} == {"names seen", "forced", "written"}


def test_what_cannot_work_is_one_sentence():
    for options, sentence in (
        ({"patch": 3}, "divide size"), ({"tasks": (("name", 1.0),)}, "choose from"), ({"masked": 0.0}, r"in \(0, 1\)"),
        ({"unseen": (0, 1, 2)}, "a name that is seen"), ({"sampled": 30}, r"\[2, 20\]"), ({"temperature": 0.005}, "capped"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=sentence):
            replace(TINY, **options).build()
    with pytest.raises(ConfigError, match="equal candidates tie"):
        Named(None, ("Circle", "circle "))

"""UnIVAL: the authors' loss and average, prompts and regions, and rows that see their own modality alone."""

import csv
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.fusion.unival import get_config
from configs.fusion.unival.base import parts
from configs.fusion.unival.proof import few
from mmrep.config import Data, Experiment, Mesh, Phase, Tokenizer
from mmrep.data.rooms import Rooms
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.evals.suite import evaluate
from mmrep.generation.text import trie
from mmrep.interop.merge import mix
from mmrep.modality import EOS, example
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.systems.fusion.unival import answer_loss
from mmrep.systems.fusion.unival.data import Tasks, bins, negative
from mmrep.systems.fusion.unival.evals import TaskAnswers
from mmrep.training import loop

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "unival.npz")
CONFIG = get_config("tiny")
BATCH = example(CONFIG.data.modalities, 4) | {"shown": np.array([0, 1, 0, 1], np.int32)}


@pytest.fixture(scope="module")
def made():
    system = CONFIG.system.build()
    return system, jax.jit(system.init)(jax.random.key(0), BATCH)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_authors_smoothed_loss(smoothing):
    logits, labels = jnp.asarray(GOLDEN["logits"])[None], jnp.asarray(GOLDEN["labels"], jnp.int32)[None]
    found = answer_loss(logits, labels, labels >= 0, jnp.zeros(1, jnp.int32), (0,), smoothing)
    np.testing.assert_allclose(7 * found, GOLDEN[f"loss_{smoothing}"], rtol=1e-5)
    flat = answer_loss(
        jnp.zeros((1, 2, 3)),
        jnp.zeros((1, 2), jnp.int32),
        jnp.ones((1, 2), bool),
        jnp.zeros(1, jnp.int32),
        (0,),
        smoothing,
    )
    np.testing.assert_allclose(flat, np.log(3), rtol=1e-6)


def test_each_modality_has_the_same_weight():
    logits = jnp.stack([jnp.eye(4)[jnp.array([0, 1])] * k for k in (0.0, 2.0, 2.0)])
    labels, valid = jnp.tile(jnp.array([0, 1]), (3, 1)), jnp.array([[True, False], [True, True], [True, True]])
    shown = jnp.array([0, 1, 1])
    low = np.log(1 + 3 * np.exp(-2))
    np.testing.assert_allclose(answer_loss(logits, labels, valid, shown, (0, 1)), (np.log(4) + low) / 2, rtol=1e-5)
    np.testing.assert_allclose(answer_loss(logits, labels, valid, shown, (1, 2)), low, rtol=1e-5)  # no sound occurs
    assert answer_loss(logits, labels, valid & False, shown, (0, 1)) == 0


def test_the_authors_average_of_weights():
    trees = [{k: GOLDEN[f"in{i}_{k}"] for k in "ab"} for i in range(3)]
    found = mix(trees, (0.5, 0.3, 0.2))
    for k in "ab":
        np.testing.assert_allclose(found[k], GOLDEN[f"three_{k}"], rtol=1e-6)
    half = jnp.ones(3, jnp.bfloat16)
    assert mix([{"a": half}], [2.0])["a"].dtype == jnp.bfloat16
    for other in (
        {"a": trees[0]["a"]},
        {"a": trees[0]["a"][:2], "b": trees[0]["b"]},
        {**trees[0], "c": half},
        {"a": half, "b": trees[0]["b"]},
    ):
        with pytest.raises(ConfigError, match="tree 1 differs"):
            mix([trees[0], other], (0.5, 0.5))
    with pytest.raises(ConfigError, match="one weight for each"):
        mix(trees, (0.5, 0.5))


def test_regions_are_bins():
    assert bins([0.0, 0.5, 1.0, 2.0]) == "<bin_0> <bin_500> <bin_999> <bin_999>"  # 499.5 is rounded to even


def test_negative_texts_are_false():
    rng, names = np.random.default_rng(0), ("k1", "k2", "k3")
    for _ in range(50):
        text, false = negative("k1 p0 k2 p3", "k3 p0", names, 0.5, rng)
        assert false and text in ("k3 p0", "k3 p0 k2 p3", "k1 p0 k3 p3")
    assert negative("k1 p0", "k1 p0", names, 0.0, rng) == ("k1 p0", False)  # another record of the same text
    assert negative("a b", "c", names, 1.0, rng) == ("c", True)  # no name to replace


def test_prompts_and_answers_of_a_record():
    source = CONFIG.data.source
    assert source.modalities == ("image", "video")
    records, rng = source.open("train"), np.random.default_rng(0)
    still = source.view(records[0], None)
    assert still["caption_prompt"] == "what does the image describe" and still["caption_answer"] == still["caption"]
    assert still["question_answer"] == still["reply"] and still["ground_prompt"].endswith(
        f"text {still['thing']} describe"
    )
    column = int(still["caption"].split()[1][1:]) % 3
    assert still["ground_answer"].split()[0] == f"<bin_{round(column / 3 * 15)}>" and still["shown_video"] == 1
    drawn = [source.view(records[0], rng) for _ in range(80)]
    assert {d["shown"] for d in drawn} == {0, 1} and len({d["prompt"] for d in drawn}) == 4  # captions of both
    share = np.mean([d["match_answer"] == "yes" for d in drawn])
    assert 0.3 < share < 0.7 and all(
        d["match_prompt"].endswith(d["caption"]) == (d["match_answer"] == "yes") for d in drawn
    )
    alone = few(balance=False).data.source
    kept = alone.open("train")
    owned = [int(np.argmax(kept[i]["present"])) for i in range(len(kept.records))]
    assert np.bincount(owned).tolist() == [8000, 800, 400]


def test_a_row_sees_its_own_modality_alone(made):
    system, params = made
    fused = jax.jit(lambda b: system.infer["fused"](params, {}, b))
    whole = fused(BATCH)
    changed = fused(BATCH | {"video": BATCH["video"][::-1].copy()})
    same = (np.abs(whole - changed) < 1e-6).all(1)
    assert same.tolist() == [True, False, True, False]
    both = jax.jit(lambda p: system.loss(p, {}, BATCH, jax.random.key(0))[0])
    assert jnp.isfinite(both(params))


def test_answers_among_given_ones(made):
    system, params = made
    wanted = [[12, 13, EOS], [7, EOS]]
    table = jnp.asarray(trie(wanted, 80))
    found = jax.jit(lambda b: system.infer["written"](params, {}, b, beams=2, allowed=table))(BATCH)
    assert all(row[: row.index(EOS) + 1] in wanted for row in found.tolist())


def test_a_table_of_ones_own(tmp_path):
    rows = [["image", "caption", "question", "reply", "split"]]
    for i in range(8):
        Image.fromarray(np.full((12, 12, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append([f"{i}.png", f"shade {i}", "how bright is it", f"{i}", "train" if i % 4 else "test"])
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    table = Table(tmp_path / "t.csv", text=("caption", "question", "reply"))
    source = Tasks(table, tasks=("caption", "question"))
    system = few().system
    config = Experiment(
        system, Data(source, parts(system, 12), Tokenizer(80, "word"), batch_size=4, eval_batch_size=2),
        phases=(Phase(steps=1),), evals=(TaskAnswers(("caption", "question")),), mesh=Mesh(1, 1),
    )  # fmt: skip
    metrics = loop.train(config, progress=False, evaluate=evaluate).metrics
    floors = {"caption commonest", "question commonest", "mean of commonest"}
    assert {*metrics} == {"caption exact", "question exact", "worst task", "mean of tasks"} | floors


def test_stages_and_what_cannot_work():
    first, second = CONFIG.phases
    assert first.system.used == ("image",) and second.system.used == ("image", "video")
    sound = get_config("tiny", "sound")
    assert sound.system.used == ("sound",) and not any("image" in pattern for pattern in sound.phases[0].trainable)
    for options, sentence in (
        ({"modalities": ("sound",)}, "with an encoder"), ({"decoder": DecoderLM()}, "cross=True"), ({"smoothing": 1.0}, r"\[0, 1\)"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=sentence):
            replace(CONFIG.system, **options).build()
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        Tasks(Rooms(), ("imge",))

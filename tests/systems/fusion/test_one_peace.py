"""ONE-PEACE: the authors' losses and layer, masks, and a stage that leaves images and text as they are."""

import csv
import wave
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.fusion.one_peace import after, get_config, images, parts, without_words
from mmrep.config import Data, Experiment, Mesh, Phase, Tokenizer, flatten
from mmrep.data.rooms import Rooms
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.evals.suite import Retrieval, evaluate
from mmrep.modality import example
from mmrep.nn.config import TransformerConfig
from mmrep.nn.positions import grid_offsets, with_cls
from mmrep.systems.fusion.one_peace import SOUND
from mmrep.systems.fusion.one_peace.blocks import MultiwayBlock
from mmrep.systems.fusion.one_peace.losses import dcl_loss, itc_loss
from mmrep.training import loop
from mmrep.training.state import merge, split

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "one_peace.npz")
CONFIG = get_config("tiny")
BATCH = example(CONFIG.data.modalities, 4)


@pytest.fixture(scope="module")
def made():
    system = CONFIG.system.build()
    return system, jax.jit(system.init)(jax.random.key(0), BATCH)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_authors_denoising_contrast(smoothing):
    student, teacher, masked = (jnp.asarray(GOLDEN[n]) for n in ("student", "teacher", "masked"))
    everything = jnp.ones(masked.shape, bool)
    for name, valid in (("dcl", everything), ("dcl_padded", everything.at[:, 1:].set(~jnp.asarray(GOLDEN["pad"])))):
        for most in (2, 5):  # more places than masked tokens
            found = dcl_loss(student, teacher, masked & valid, valid, most=most, smoothing=smoothing)
            np.testing.assert_allclose(found, GOLDEN[f"{name}_{smoothing}"], rtol=1e-5)


def test_the_denoising_contrast_by_hand():
    x = jnp.eye(3)[None]  # [CLS] and two tokens, each its own direction
    masked = jnp.array([[False, True, True]])
    own = dcl_loss(x, x, masked, jnp.ones((1, 3), bool), most=2, smoothing=0.0)
    np.testing.assert_allclose(own, np.log1p(np.exp(-2.5)), rtol=1e-6)
    assert dcl_loss(x, x, masked & False, jnp.ones((1, 3), bool), most=2) == 0
    two = jnp.concatenate([x, x])
    valid, masked = jnp.ones((2, 3), bool), jnp.concatenate([masked, masked])
    apart = dcl_loss(two, two, masked, valid, most=2, smoothing=0.0, groups=2)
    np.testing.assert_allclose(apart, own, rtol=1e-6)  # a part's negatives are its own
    assert dcl_loss(two, two, masked, valid, most=2, smoothing=0.0) > own + 0.5
    slope = jax.grad(lambda t: dcl_loss(x, t, masked[:1], valid[:1], most=2))(x)
    assert not slope.any()


def test_the_authors_aligning_contrast_has_no_gradient_in_its_keys():
    x, y = jnp.asarray(GOLDEN["x"]), jnp.asarray(GOLDEN["y"])
    np.testing.assert_allclose(itc_loss(x, y, jnp.float32(3)), GOLDEN["itc"], rtol=1e-5)
    slope = jax.grad(lambda x: itc_loss(x, y, jnp.float32(3)))(x)
    p = np.exp(3 * GOLDEN["x"] @ GOLDEN["y"].T)
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(slope, 0.5 * 3 * (p - np.eye(4)) @ GOLDEN["y"] / 4, atol=1e-6)


def test_the_authors_layer():
    weights = {k[2:]: GOLDEN[k] for k in GOLDEN if k.startswith("w:")}

    def dense(name):
        found = {"kernel": weights[f"{name}.weight"].T}
        return found | ({"bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {})

    def norm(name):
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    attn = {n: dense(f"self_attn.{n[0]}_proj") for n in ("query", "key", "value")}
    params = {
        "attn": attn | {"out": dense("self_attn.out_proj"), "norm_out": norm("self_attn.ln")},
        "norm_attn": norm("self_attn_layer_norm"), "norm_ffn": norm("final_layer_norm"),
        "gamma1": weights["gamma_1"], "gamma2": weights["gamma_2"],
    }  # fmt: skip
    for name in ("text", "image"):
        own = {"up": dense(f"{name}_ffn.0.wi_0"), "gate": dense(f"{name}_ffn.0.wi_1")}
        params[f"{name}_ffn"] = own | {"norm": norm(f"{name}_ffn.2"), "down": dense(f"{name}_ffn.3")}
    table = np.moveaxis(GOLDEN["layer_bias"], 0, -1).reshape(81, 2)
    params |= {f"{name}_bias": table for name in ("text", "image")}
    block = MultiwayBlock(TransformerConfig(8, 1, 2, mlp_dim=12, sub_norm=True), 0.1, (("text", 81), ("image", 81)))
    x, at = jnp.asarray(GOLDEN["layer_in"]), jnp.arange(81).reshape(1, 9, 9)
    mask = jnp.ones((2, 1, 9, 9), bool).at[1, :, :, 3].set(False)
    found = block.apply({"params": params}, x, (("text", 9),), mask, {"text": at})
    np.testing.assert_allclose(found, GOLDEN["layer_text"], atol=2e-5)
    buckets = {"text": at[:, :4, :4], "image": at[:, 4:, 4:]}
    found = block.apply({"params": params}, x, (("text", 4), ("image", 5)), mask, buckets)
    np.testing.assert_allclose(found, GOLDEN["layer_vl"], atol=2e-5)


def test_relative_positions():
    offsets = grid_offsets(3)
    assert offsets.min() == 0 and offsets.max() == 24 and len(np.unique(offsets)) == 25
    assert offsets[0, 4] == offsets[4, 8] != offsets[4, 0]  # one down and one right, twice
    found = with_cls(offsets, 25)
    assert {*found[0, 1:]} == {25} and {*found[1:, 0]} == {26} and found[0, 0] == 27
    np.testing.assert_array_equal(found[1:, 1:], offsets)


def test_a_pass_for_both_is_that_of_each_alone_and_of_the_pair(made):
    from mmrep.systems.fusion.one_peace.model import OnePeace

    _, params = made
    net = OnePeace(CONFIG.system)

    def run(names, together):
        return net.apply({"params": params["net"]}, BATCH, names, together=together, method=OnePeace.encode)[0]

    found = jax.jit(
        lambda: (
            run(("text", "sound"), (False, True)),
            run(("text",), (True,)),
            run(("sound",), (True,)),
            run(("text", "sound"), (True,)),
        )
    )()
    both, text, sound, pair = found
    for name, alone in (("text", text), ("sound", sound)):
        np.testing.assert_allclose(both[name][::2], alone[name], atol=1e-5)
        np.testing.assert_allclose(both[name][1::2], pair[name], atol=1e-5)
        assert np.abs(pair[name] - alone[name]).max() > 1e-4


def test_the_stage_of_sounds_leaves_images_and_text_bit_for_bit(made):
    system, params = made
    sound = CONFIG.phases[1].system.build()
    learnt, _ = split(params, SOUND)
    assert any("sound_ffn" in p for p in learnt) and not any("text_ffn" in p for p in learnt if "encoder" in p)

    def after(params, batch):
        learnt, frozen = split(params, SOUND)
        slopes = jax.grad(lambda p: sound.loss(merge(p, frozen), {}, batch, jax.random.key(0))[0])(learnt)
        return merge({k: v - slopes[k] for k, v in learnt.items()}, frozen), slopes

    moved, slopes = jax.jit(after)(params, BATCH)
    assert [p for p, x in slopes.items() if not x.any()] == []
    for name in ("text", "image", "sound"):
        run = jax.jit(lambda p, n=name: system.infer[n](p, {}, BATCH))
        assert np.array_equal(run(params), run(moved)) == (name != "sound")


def test_the_stage_of_images_trains_all_but_sounds(made):
    system, params = made
    (loss, (_, metrics)), slopes = jax.jit(
        jax.value_and_grad(lambda p: system.loss(p, {}, BATCH, jax.random.key(0)), has_aux=True)
    )(params)
    still = {p for p, x in flatten(slopes).items() if not x.any()}
    assert still and all("sound" in p for p in still)
    parts = [metrics[n] for n in ("itc", "dcl_text", "dcl_image", "dcl_pair_text", "dcl_pair_image")]
    np.testing.assert_allclose(loss, np.dot([1, 0.5, 1, 0.5, 0.5], parts), rtol=1e-5)
    one = jax.tree.map(lambda x: x[:1] * 0 + 1 if x.ndim == 2 else x[:1], {k: jnp.asarray(v) for k, v in BATCH.items()})
    assert jnp.isfinite(jax.jit(lambda p: system.loss(p, {}, one, jax.random.key(0))[0])(params))


def test_the_control_changes_the_text_branch_alone(made):
    _, params = made
    changed, _ = without_words(params, {})
    differ = {p for p, x in flatten(changed).items() if not np.array_equal(x, flatten(params)[p])}
    assert differ and all("text" in p and "filler" not in p for p in differ)
    assert (
        any("text_ffn" in p for p in differ) and after(images(), begin=without_words).phases[0].begin is without_words
    )


def test_rooms_show_say_and_sound_the_same():
    records = Rooms(20, 5, 5).open("train")
    first = records[0]
    words = first["caption"].split()
    for kind, place in zip(words[::2], words[1::2]):
        assert first["kinds"][int(place[1:])] == int(kind[1:])
    assert (first["kinds"] >= 0).sum() == 2 and first["other"] == records[1]["caption"]
    loud = (first["sound"].reshape(9, -1) ** 2).mean(1)
    assert {*np.argsort(-loud)[:2]} == {*np.flatnonzero(first["kinds"] >= 0)}
    with pytest.raises(ConfigError, match="9 cells"):
        Rooms(things=10)


def test_a_table_of_ones_own(tmp_path):
    rows, rng = [["image", "audio", "caption", "split"]], np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (12, 12, 3)).astype(np.uint8)).save(tmp_path / f"{i}.png")
        with wave.open(str(tmp_path / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, 4000, 0, "NONE", ""))
            file.writeframes(rng.integers(-9000, 9000, 100 + 10 * i).astype("<i2").tobytes())
        rows.append([f"{i}.png", f"{i}.wav", f"thing number {i}", "train" if i % 4 else "test"])
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    source = Table(tmp_path / "t.csv", audio="audio", rate=4000)
    system = CONFIG.phases[1].system
    config = Experiment(
        system, Data(source, parts(system, table=True), Tokenizer(40, "word"), batch_size=4, eval_batch_size=2),
        phases=(Phase(steps=1, trainable=SOUND),), evals=(Retrieval("image", "sound", ks=(1,)),), mesh=Mesh(1, 1),
    )  # fmt: skip
    metrics = loop.train(config, progress=False, evaluate=evaluate).metrics
    assert metrics["image->sound candidates"] == 2


def test_what_cannot_work_is_one_sentence():
    for options, sentence in (
        ({"stage": "video"}, "image or sound"), ({"strides": (5,)}, "divide size"), ({"sound_strides": (7,)}, "divide samples"),
        ({"ratios": (0.1, 0.2, 1.0, 0.3)}, "four numbers"), ({"temperature": 0.001}, "capped"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=sentence):
            replace(CONFIG.system, **options).build()

"""BridgeTower's fusion against transformers' port of the authors' model, its pairs and levels."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mmrep
from configs.fusion.bridgetower import get_config, levels
from mmrep.config import Data, Phase
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.interop import names as n
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.fusion import PairFusion
from mmrep.systems.fusion.bridgetower import Config, answer_loss, match_pairs, model
from mmrep.systems.fusion.bridgetower.data import LevelsData

SHAPE = TransformerConfig(width=16, depth=3, heads=2, norm="post", mlp_dim=24)


def table():
    def stream(theirs, ours):
        def attention(a, b, norm):
            return (
                *(row for k in ("query", "value") for row in n.dense(f"{a}.self.{k}", f"{b}/{k}")),
                n.Row(f"{a}.self.key.weight", f"{b}/key/kernel", n.DENSE), n.unused(f"{a}.self.key.bias"),
                *n.dense(f"{a}.output.dense", f"{b}/out"), *n.norm(f"{a}.output.LayerNorm", norm),
            )  # fmt: skip

        block = (
            *attention("attention", "attn", "norm_attn"), *attention("crossattention", "cross", "norm_cross"),
            *n.dense("intermediate.dense", "mlp/up"), *n.dense("output.dense", "mlp/down"), *n.norm("output.LayerNorm", "norm_mlp"),
        )  # fmt: skip
        return n.within(f"{theirs}.{{i}}", f"layers/block{{i:02d}}/{ours}", block)

    rows = [n.unused("ln_post.weight", "ln_post.bias")]
    for side, ours in (("text", "a"), ("image", "b")):
        rows += [
            *stream(f"cross_modal_{side}_layers", ours), *n.dense(f"cross_modal_{side}_transform", side),
            *n.norm(f"cross_modal_{side}_layernorm", f"norm_{side}"), *n.dense(f"cross_modal_{side}_pooler.dense", f"pool_{side}"),
            *(row for i in range(2) for row in n.norm(f"cross_modal_{side}_link_tower.{i}.LayerNorm", f"layers/bridge_{ours}{i + 1:02d}")),
        ]  # fmt: skip
    return (*rows, n.Row("token_type_embeddings.weight", ("type_text", "type_image"), types()))


def types():
    return n.Layout(lambda arrays: [*arrays[0]], lambda arrays: [np.stack(arrays)])


def test_levels_bridges_and_poolers_equal_the_port_of_the_authors_model():
    g = dict(np.load(Path(__file__).parents[2] / "golden" / "bridgetower.npz"))
    arrays = {k.partition("/")[2]: v for k, v in g.items() if k.startswith("weights/")}
    text = [jnp.asarray(x) for x in g["text_levels"]]
    raw = np.swapaxes(g["image_levels"], 1, 2).astype(np.float64)
    centred = (raw - raw.mean(-1, keepdims=True)) / np.sqrt(raw.var(-1, keepdims=True) + 1e-5)
    image = [jnp.asarray(x, jnp.float32) for x in centred * arrays["ln_post.weight"] + arrays["ln_post.bias"]]
    module, valid = PairFusion(replace(SHAPE, epsilon=1e-5), first_norm=True), jnp.asarray(g["valid"] > 0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), text, image, valid)["params"]
    params = n.to_params(table(), arrays, shapes)
    words, pixels, pooled, out = jax.jit(module.apply)({"params": params}, text, image, valid)
    seen = g["valid"] > 0
    np.testing.assert_allclose(np.asarray(out["a"]["block01"])[seen], g["layer_text"][seen], atol=1e-3)
    np.testing.assert_allclose(pixels, g["image"], atol=1e-3)
    np.testing.assert_allclose(np.asarray(words)[seen], g["text"][seen], atol=1e-3)
    np.testing.assert_allclose(pooled, g["pooled"], atol=1e-3)


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = jax.tree.map(jnp.asarray, mmrep.modality.example(config.data.modalities, 4))
    params = jax.jit(config.system.build().init)(jax.random.key(0), batch)[0]
    return config.system, batch, params


def test_the_final_norm_of_an_encoder_is_applied_to_every_level(tiny):
    config, batch, params = tiny
    parts = model.bridgetower(config.image, config.text, config.fusion, "bridges", 12, 16, 1.0, "float32")
    found, _, _ = jax.jit(lambda p: model.encode(parts, p, "image", batch["image"]))(params)
    _, out = jax.jit(parts.encoders["image"].apply)({"params": params["image"]}, batch["image"])
    np.testing.assert_allclose(found[:, 1], out["tokens"], atol=1e-5)
    x = np.asarray(out["block00"], np.float64)
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found[:, 0], normed, atol=1e-4)
    with pytest.raises(ConfigError, match="has 2 levels and fusion.depth is 3"):
        model.encode(
            parts._replace(fusion=PairFusion(replace(config.fusion, depth=3))), params, "image", batch["image"]
        )


def test_k_levels_have_k_minus_one_bridges_and_the_arms_differ_by_norms_alone(tiny):
    config, batch, params = tiny
    assert {"bridge_a01", "bridge_b01"} == {k for k in params["fusion"]["layers"] if k.startswith("bridge")}
    plain = jax.eval_shape(replace(config, levels="last").build().init, jax.random.key(0), batch)[0]
    copies = jax.eval_shape(replace(config, levels="copies").build().init, jax.random.key(0), batch)[0]
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(params) == count(copies) == count(plain) + 4 * config.fusion.width


def test_wrong_pairs_are_random_images_or_hard_on_both_sides():
    keys = jnp.array([[1, 5], [1, 6], [1, 5], [1, 7]])
    t, i, is_match, counts = match_pairs(jax.random.key(1), keys, None)
    assert t.tolist() == [0, 1, 2, 3] and counts.all()
    np.testing.assert_array_equal(is_match, (keys[i] == keys).all(1))
    logits = jnp.full((4, 4), -50.0).at[0, 3].set(0.0).at[2, 1].set(0.0)
    t, i, is_match, counts = match_pairs(jax.random.key(1), jnp.arange(4), logits)
    assert is_match.tolist() == [True] * 4 + [False] * 8 and counts.all()
    assert i[4].item() == 3 and t[8 + 1].item() == 2 and (t[4:] != i[4:]).all()


def test_answer_loss_is_a_sum_over_answers_and_a_mean_over_questions():
    logits = jnp.array([[0.0, 2.0], [3.0, 3.0]])
    expected = np.log(2) + np.log1p(np.exp(-2.0))
    assert float(answer_loss(logits, jnp.array([2, 0]))) == pytest.approx(expected, rel=1e-5)
    assert float(answer_loss(logits, jnp.array([0, 0]))) == 0


def test_score_of_stored_levels_is_that_of_the_pair(tiny):
    config, batch, params = tiny
    infer = config.build().infer

    @jax.jit
    def run(params):
        tokens = {n: infer[f"{n}_tokens"](params, {}, batch) for n in ("image", "text")}
        pairs = {f"{n}_{k}": v for n, both in tokens.items() for k, v in zip(("tokens", "valid"), both)}
        return infer["score"](params, {}, pairs), infer["fused"](params, {}, batch)

    score, fused = run(params)
    match = params["match"]
    logits = np.asarray(fused) @ match["kernel"] + match["bias"]
    np.testing.assert_allclose(score, logits[:, 1] - logits[:, 0], atol=1e-5)


def test_each_made_level_has_one_factor():
    data = LevelsData(400, 20, 20, noise=0.0)
    columns, whole = data.open("train").columns, replace(data, last_has_all=True).open("train").columns
    rows = np.arange(400)
    for i in rows[:50]:
        level, place = (int(word[-1]) for word in columns["text"][i].split(" of "))
        assert level == columns["level"][i]
        same = [
            j for j in rows if columns["text"][j] == columns["text"][i] and columns["reply"][j] == columns["reply"][i]
        ]
        codes = columns["levels"][same, level, place]
        assert np.ptp(codes, axis=0).max() < 1e-5
    assert (columns["answer"] == columns["reply"] + 1).all()
    np.testing.assert_allclose(whole["levels"][:, :2], columns["levels"][:, :2])
    with pytest.raises(ConfigError, match="levels, objects"):
        LevelsData(levels=0)


def test_trains_on_a_users_own_table(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / f"{i}.png")
    rows = [{"image": f"{i}.png", "caption": f"a thing {i}"} for i in range(8)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shape = TransformerConfig(width=16, depth=1, heads=2, norm="post")
    system = Config(ImageEncoder(replace(shape, norm="pre"), pool="cls"), TextEncoder(shape, 280, 8, pool="cls"), shape)
    parts = mmrep.modality.image("image", 16), mmrep.modality.text("text", 8, 280)
    table = Table(tmp_path / "t.jsonl", fractions=(1.0, 0.0, 0.0))
    data = Data(table, parts, mmrep.Tokenizer(280, kind="word"), batch_size=8)
    model = mmrep.train(mmrep.Experiment(system, data, (Phase(steps=2),)))
    assert model.embed(image=[np.zeros((16, 16, 3), np.uint8)], text=["a thing"]).shape == (1, 32)


@pytest.mark.parametrize(
    "fields, words",
    [({"levels": "all"}, "system.levels"), ({"negatives": "hard"}, "itc_weight 0"), ({"itm_weight": -1.0}, "system.itm_weight")],
)  # fmt: skip
def test_impossible_configs_are_explained(fields, words):
    config = levels().system
    for name, value in fields.items():
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError, match=words):
        config.build()

"""LXMERT against the authors' numbers, and its masks and pairs."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from configs.masked.lxmert import get_config, source
from mmrep.config import Data, Phase
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.interop import names as n
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.fusion import CoAttention
from mmrep.systems.masked.lxmert import TASKS, Config, losses
from mmrep.systems.masked.lxmert.model import Lxmert, ObjectEmbedding, valid_objects

SHAPE = TransformerConfig(width=8, depth=1, heads=2, norm="post", mlp_dim=16, epsilon=1e-12)
MODEL = Lxmert(TextEncoder(SHAPE, 13, 7, pool="cls"), 1, 2, (("features", 6), ("classes", 5), ("attributes", 4)), 3)


def layer(theirs, ours):
    """Their attention and MLP of one stream; `theirs` are (self-attention, its output, MLP in, MLP out)."""
    query, out, up, down = theirs
    return (
        *(row for k in ("query", "value") for row in n.dense(f"{query}.{k}", f"{ours}/attn/{k}")),
        n.Row(f"{query}.key.weight", f"{ours}/attn/key/kernel", n.DENSE), n.unused(f"{query}.key.bias"),
        *n.dense(f"{out}.dense", f"{ours}/attn/out"), *n.norm(f"{out}.LayerNorm", f"{ours}/norm_attn"),
        *n.dense(f"{up}.dense", f"{ours}/mlp/up"), *n.dense(f"{down}.dense", f"{ours}/mlp/down"), *n.norm(f"{down}.LayerNorm", f"{ours}/norm_mlp"),
    )  # fmt: skip


def table():
    plain = "attention.self", "attention.output", "intermediate", "output"
    cross = "visual_attention.att", "visual_attention.output"
    crossed = (
        *(row for k in ("query", "value") for row in n.dense(f"{cross[0]}.{k}", f"cross/cross/{k}")),
        n.Row(f"{cross[0]}.key.weight", "cross/cross/key/kernel", n.DENSE), n.unused(f"{cross[0]}.key.bias"),
        *n.dense(f"{cross[1]}.dense", "cross/cross/out"), *n.norm(f"{cross[1]}.LayerNorm", "cross/norm"),
        *layer(("lang_self_att.self", "lang_self_att.output", "lang_inter", "lang_output"), "a"),
        *layer(("visn_self_att.self", "visn_self_att.output", "visn_inter", "visn_output"), "b"),
    )  # fmt: skip
    encoder = "bert.encoder"
    return (
        n.Row("bert.embeddings.word_embeddings.weight", "words/embed/embedding"), n.unused("cls.predictions.decoder.weight"),
        n.Row("positions", "words/positions/embedding"), *n.norm("bert.embeddings.LayerNorm", "words/embed_norm"),
        *n.within(f"{encoder}.layer.{{i}}", "words/transformer/block{i:02d}", [r for r in _bare(layer(plain, ""))]),
        *n.within(f"{encoder}.r_layers.{{i}}", "relations/block{i:02d}", [r for r in _bare(layer(plain, ""))]),
        *n.within(f"{encoder}.x_layers.{{i}}", "fusion/block{i:02d}", crossed),
        *n.dense(f"{encoder}.visn_fc.visn_fc", "objects/feature"), *n.norm(f"{encoder}.visn_fc.visn_layer_norm", "objects/norm_feature"),
        *n.dense(f"{encoder}.visn_fc.box_fc", "objects/box"), *n.norm(f"{encoder}.visn_fc.box_layer_norm", "objects/norm_box"),
        *n.dense("bert.pooler.dense", "pooler"), *n.dense("cls.seq_relationship", "match"), n.Row("cls.predictions.bias", "mlm/bias"),
        *n.dense("cls.predictions.transform.dense", "mlm/transform"), *n.norm("cls.predictions.transform.LayerNorm", "mlm/norm"),
        *n.dense("obj_predict_head.transform.dense", "object_head/transform"), *n.norm("obj_predict_head.transform.LayerNorm", "object_head/norm"),
        *n.dense("obj_predict_head.decoder_dict.obj", "object_head/classes"), *n.dense("obj_predict_head.decoder_dict.attr", "object_head/attributes"),
        *n.dense("obj_predict_head.decoder_dict.feat", "object_head/features"),
        *n.dense("answer_head.logit_fc.0", "answer_head/hidden"), *n.norm("answer_head.logit_fc.2", "answer_head/norm"),
        *n.dense("answer_head.logit_fc.3", "answer_head/out"),
    )  # fmt: skip


def _bare(rows):
    """Rows whose own paths start at the block."""
    strip = lambda p: tuple(x.lstrip("/") for x in p) if isinstance(p, tuple) else p.lstrip("/")  # noqa: E731
    return [r._replace(ours=strip(r.ours)) for r in rows]


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(Path(__file__).parents[2] / "golden" / "lxmert.npz"))


@pytest.fixture(scope="module")
def params(golden):
    arrays = {k.partition("/")[2]: v for k, v in golden.items() if k.startswith("weights/")}
    rows, types = (arrays.pop(f"bert.embeddings.{k}_embeddings.weight") for k in ("position", "token_type"))
    arrays["positions"] = rows + types[0]
    ids, image = jnp.ones((1, 7), jnp.int32), jnp.ones((1, 4, 10))
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), ids, image)["params"]
    return n.to_params(table(), arrays, shapes)


def test_backbone_heads_and_losses_equal_the_authors(golden, params):
    g = {k: jnp.asarray(v) for k, v in golden.items() if v.dtype.kind in "fi"}
    ids, image = g["ids"].astype(jnp.int32), jnp.concatenate([g["feats"], g["boxes"]], -1)
    target, valid = g["feat_mask"] > 0, jnp.ones(g["obj"].shape, bool)

    @jax.jit
    def whole(params):
        def call(method, *inputs):
            return MODEL.apply({"params": params}, *inputs, method=method)

        text = call("encode_text", ids)
        fused = call("fuse", *text, call("encode_image", image)[0], valid)
        found = call("heads", *fused, params["words"]["embed"]["embedding"])
        labels = g["labels"].astype(jnp.int32)
        weights = {"classes": ("obj", g["conf"]), "attributes": ("attr", g["conf"])}
        sums = [
            losses.word_loss(found["words"], labels, labels >= 0),
            losses.choice_loss(found["match"], g["matched"].astype(jnp.int32), jnp.ones(3, bool)),
            *(
                losses.object_loss(losses.token_loss(found[k], g[name].astype(jnp.int32), valid), w, valid)
                for k, (name, w) in weights.items()
            ),
            losses.object_loss(losses.smooth_l1(found["features"], g["target"]), g["feat_mask"], valid),
            losses.choice_loss(found["answers"], g["answer"].astype(jnp.int32), g["answer"] >= 0),
        ]
        return fused, found, jnp.stack(sums)

    (words, objects, pooled), found, sums = whole(params)
    seen = golden["ids"] > 0
    np.testing.assert_allclose(np.asarray(words)[seen], golden["language"][seen], atol=2e-4)
    np.testing.assert_allclose(objects, golden["vision"], atol=2e-4)
    np.testing.assert_allclose(pooled, golden["pooled"], atol=2e-4)
    for ours, theirs in (
        ("match", "match"),
        ("answers", "answers"),
        ("classes", "head_obj"),
        ("features", "head_feat"),
    ):
        np.testing.assert_allclose(found[ours], golden[theirs], atol=3e-3)
    np.testing.assert_allclose(sums, golden["losses"], rtol=2e-3)  # in their order: words, match, obj, attr, feat, QA
    assert target.any()


def test_one_layer_and_the_objects_embedding_equal_the_authors(golden, params):
    run = jax.jit(CoAttention(SHAPE, "cross, self, mlp", True).apply)
    q, r = run({"params": params["fusion"]["block00"]}, golden["q"], golden["r"], jnp.asarray(golden["ids"] > 0))
    np.testing.assert_allclose(q, golden["layer_q"], atol=2e-5)
    np.testing.assert_allclose(r, golden["layer_r"], atol=2e-5)
    image = jnp.concatenate([golden["feats"], golden["boxes"]], -1)
    found = ObjectEmbedding(SHAPE).apply({"params": params["objects"]}, image)
    np.testing.assert_allclose(found, golden["region"], atol=1e-5)


def test_objects_are_hidden_in_the_shares_of_the_paper_and_boxes_stay():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(400, 8, 7)).astype(np.float32)
    image[..., 3:] = [0.1, 0.2, 0.5, 0.9]
    image[:, 6:] = 0
    valid = valid_objects(jnp.asarray(image))
    assert valid.sum() == 400 * 6 and not valid_objects(jnp.asarray([[[1.0, 0.5, 0.2, 0.5, 0.9]]])).any()
    masked, target = jax.jit(losses.mask_objects)(jax.random.key(0), jnp.asarray(image), valid)
    masked, target = np.asarray(masked), np.asarray(target)
    assert not target[:, 6:].any() and abs(target[:, :6].mean() - 0.15) < 0.02
    np.testing.assert_array_equal(masked[..., 3:], image[..., 3:])
    np.testing.assert_array_equal(masked[~target], image[~target])
    zero, same = (masked[target][:, :3] == 0).all(1), (masked[target] == image[target]).all(1)
    assert abs(zero.mean() - 0.8) < 0.06 and abs(same.mean() - 0.1) < 0.05
    known = {row.tobytes() for row in image[:, :6, :3].reshape(-1, 3)}
    assert all(row.tobytes() in known for row in masked[target][~zero][:, :3])  # never padding
    nothing = jax.jit(losses.mask_objects)(jax.random.key(0), jnp.zeros((2, 3, 7)), jnp.zeros((2, 3), bool))
    assert not nothing[1].any()


def test_guarded_means_and_padding():
    logits = jnp.ones((2, 3))
    assert float(losses.choice_loss(logits, jnp.array([-1, -1]), jnp.zeros(2, bool))) == 0
    values, weight = jnp.ones((1, 4)), jnp.ones((1, 4))
    valid = jnp.array([[True, True, False, False]])
    assert float(losses.object_loss(values, weight, valid, 0.5)) == pytest.approx(2.0)
    error = jnp.array([[[0.5, -2.0]]])
    assert float(losses.smooth_l1(error, jnp.zeros((1, 1, 2)))[0, 0]) == pytest.approx((0.125 + 1.5) / 2)


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    system = config.system.build()
    batch = jax.tree.map(jnp.asarray, mmrep.modality.example(config.data.modalities, 4))
    batch["image"] = batch["image"].at[..., -4:].set(jnp.array([0.1, 0.2, 0.5, 0.9])).at[0, 3].set(0.0)
    batch["confidence"] = jnp.full_like(batch["confidence"], 0.5)
    return config.system, batch, jax.jit(system.init)(jax.random.key(0), batch)[0]


def test_padded_objects_have_no_effect(tiny):
    config, batch, params = tiny
    other = batch | {
        "image": batch["image"].at[0, 3, :-4].set(7.0), "classes": batch["classes"].at[0, 3].add(1),
        "attributes": batch["attributes"].at[0, 3].add(1),
    }  # fmt: skip
    system = replace(config, label_weight="confidence").build()
    both = jax.jit(lambda b: (system.loss(params, {}, b, jax.random.key(1))[0], system.infer["fused"](params, {}, b)))
    for one, two in zip(both(batch), both(other)):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_hidden_things_are_not_seen(tiny):
    config, batch, params = tiny
    infer = config.build().infer
    objects = jax.jit(lambda image: infer["hidden_objects"](params, {}, batch | {"image": image})["attributes"])
    changed = np.abs(objects(batch["image"]) - objects(batch["image"].at[:, 1, :-4].add(3.0))).max((0, 2))
    assert changed[1] == 0 and (changed[[0, 2, 3]] > 0).all()
    words = jax.jit(lambda ids: infer["hidden_words"](params, {}, batch | {"text": ids}))
    logits = np.asarray(words(batch["text"]))
    assert logits.shape == batch["text"].shape and np.isfinite(logits).all()


def test_labels_on_masked_objects_only_or_on_all(tiny):
    config, batch, params = tiny
    sums = {}
    for rule in ("masked", "confidence"):
        system = replace(config, label_weight=rule, tasks=("classes",), object_rate=1e-6).build()
        sums[rule] = float(jax.jit(system.loss)(params, {}, batch, jax.random.key(0))[0])
    assert sums["masked"] == 0 < sums["confidence"]


def test_questions_have_one_answer():
    data = source(200, 50)
    records = [data.open("train")[i] for i in range(200)]
    asked = [r for r in records if r["answer"] > 0]
    assert 0.3 < len(asked) / 200 < 0.7
    for r in asked:
        *_, about = r["text"].split()
        kinds = {"colour": ("shape", "colour"), "shape": ("colour", "shape")}[r["kind"]]
        names = {"shape": data.scenes.world.shapes, "colour": data.scenes.world.colours}
        here = r[f"object_{kinds[0]}"] == names[kinds[0]].index(about)
        assert here.sum() == 1 and r["answer"] - 1 == r["reply"]
        answer = names[kinds[1]][int(r[f"object_{kinds[1]}"][here][0])]
        assert data.answers[r["reply"]] == answer
    assert all(r["text"] == r["caption"] for r in data.open("test"))


def test_trains_on_a_users_own_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"caption": f"a red thing {i}", "regions": [[*rng.normal(size=3), 0.1, 0.1, 0.5, 0.5]] * (1 + i % 2) + [[0.0] * 7] * (1 - i % 2)}
        for i in range(8)
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = Table(tmp_path / "t.jsonl", image=None, extra=("regions",), fractions=(1.0, 0.0, 0.0))
    text = mmrep.modality.text("text", 8, 280)
    system = Config(TextEncoder(replace(SHAPE, depth=1), 280, 8, pool="cls"), depth=1)
    data = Data(
        table,
        (mmrep.modality.vector("image", 2, 7, field="regions"), text),
        mmrep.Tokenizer(280, kind="word"),
        batch_size=8,
    )
    model = mmrep.train(mmrep.Experiment(system, data, (Phase(steps=2),)))
    assert model.embed(image=[np.ones((2, 7))], text=["a red thing"]).shape == (1, 8)


@pytest.mark.parametrize(
    "fields, words",
    [({"tasks": ("word",)}, "system.tasks"), ({"object_rate": 0.0}, "system.object_rate"), ({"answers": -1}, "system.answers")],
)  # fmt: skip
def test_impossible_configs_are_explained(fields, words):
    assert {*TASKS} > {"words"}
    with pytest.raises(ConfigError, match=words):
        Config(**fields).build()

"""M3EL's matchers against the authors' numbers, masks, missing images, and eight rows of a user's table."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.fusion import m3el as configs
from mmrep import api, modality
from mmrep.config import Data
from mmrep.data.mentions import MentionData
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import info_nce, nt_xent
from mmrep.systems.fusion.m3el import Config, m3el_loss
from mmrep.systems.fusion.m3el.model import Described, Item, Matchers, mean_score, multi_temperature_pool
from mmrep.systems.fusion.m3el.rows import pack, unpack

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "m3el.npz"))


def item(side):
    g = {k: jnp.asarray(v) for k, v in GOLDEN.items() if k[0] == side}
    text, image = g[f"{side}T"], g[f"{side}P"]
    return Item(
        g[f"{side}t"], text, jnp.ones(text.shape[:2], bool), g[f"{side}v"], image, jnp.ones(image.shape[:2], bool)
    )


def dense(name):
    found = {"kernel": GOLDEN[f"w/{name}.weight"].T}
    return found | ({"bias": GOLDEN[f"w/{name}.bias"]} if f"w/{name}.bias" in GOLDEN else {})


def norm(name):
    return {"scale": GOLDEN[f"w/{name}.weight"], "bias": GOLDEN[f"w/{name}.bias"]}


def authors(part):
    """The authors' weights as parameters of Matchers."""
    names = {"text": "text_cls", "text_tokens": "text_tokens", "image": "image_cls", "image_tokens": "image_tokens"}
    params = {f"norm_{n}": norm(f"{theirs}_layernorm") for n, theirs in names.items()}
    for ours, theirs in (("by_text", "timm"), ("by_image", "iimm")):
        params[ours] = {
            n: dense(f"{theirs}.fc_{n if n != 'global' else 'cls'}") for n in ("query", "key", "value", "global")
        }
        params[ours]["norm"] = norm(f"{theirs}.layer_norm")
    params["crossed"] = {
        "text": dense(f"{part}.text_fc"), "image": dense(f"{part}.image_fc"), "gate": dense(f"{part}.gate_fc"),
        "norm": norm(f"{part}.gate_layer_norm"), "match": {"dense": dense(f"{part}.match_module.trans_linear")},
    }  # fmt: skip
    if part == "cmm":
        params["crossed"]["fuse"] = {"dense": dense("cmm.fusion_module.linear")}
    return params


def test_all_scores_are_the_authors():
    found = jax.jit(Matchers(8).apply)({"params": authors("cmmb")}, item("m"), item("e"))
    for i, name in enumerate(("text", "image", "text_image", "image_text")):
        np.testing.assert_allclose(found[name], GOLDEN[f"part{i}"], atol=2e-5)
    everywhere = jnp.ones(4, bool)
    np.testing.assert_allclose(mean_score(found, everywhere, everywhere), GOLDEN["score"], atol=2e-5)
    one = jax.jit(Matchers(8, cross="text").apply)({"params": authors("cmm")}, item("m"), item("e"))
    np.testing.assert_allclose(one["text_image"], GOLDEN["part_one"], atol=2e-5)


def test_pooling_is_the_authors_and_ignores_padding():
    x = jnp.asarray(GOLDEN["pool_in"])
    np.testing.assert_allclose(multi_temperature_pool(x, jnp.ones((3, 4), bool)), GOLDEN["pool"], atol=1e-6)
    valid = jnp.arange(4) < jnp.array([4, 2, 0])[:, None]
    changed = jnp.where(valid[..., None], x, 9.0)
    np.testing.assert_allclose(multi_temperature_pool(x, valid), multi_temperature_pool(changed, valid), atol=1e-6)
    np.testing.assert_array_equal(multi_temperature_pool(x, valid)[2], 0.0)


def test_contrast_differs_from_the_authors_by_their_logit_of_the_self_entry_alone():
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    theirs = 0.0
    for kind in ("t", "v"):
        m, e = (jnp.asarray(unit(GOLDEN[f"{side}{kind}"])) for side in "me")
        for x, y in ((m, e), (e, m)):
            own = jnp.where(jnp.eye(4, dtype=bool), 0.0, 0.8 * x @ x.T)
            theirs += 0.25 * info_nce(jnp.concatenate([x @ y.T, own], 1) / 0.03).mean()
            clean = jnp.where(jnp.eye(4, dtype=bool), -1e9, own)
            ours = info_nce(jnp.concatenate([x @ y.T, clean], 1) / 0.03)
            np.testing.assert_allclose(0.5 * ours + 0.5 * info_nce(jnp.concatenate([y @ x.T, jnp.where(jnp.eye(4, dtype=bool), -1e9, 0.8 * y @ y.T)], 1) / 0.03), nt_xent(x, y, 1 / 0.03, 0.8), rtol=1e-4, atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(theirs, GOLDEN["cl"], rtol=1e-5)


def test_a_missing_image_leaves_the_mean_and_changes_nothing():
    params, mention = authors("cmmb"), item("m")
    gone = mention.image_valid & (jnp.arange(4) != 1)[:, None]
    score = jax.jit(
        lambda m: mean_score(Matchers(8).apply({"params": params}, m, item("e")), m.seen, jnp.ones(4, bool))
    )
    a = score(mention._replace(image_valid=gone))
    other = mention._replace(image_valid=gone, image=mention.image + 1, image_tokens=mention.image_tokens + 1)
    np.testing.assert_allclose(a[1], GOLDEN["part0"][1], atol=2e-5)
    np.testing.assert_allclose(a[1], score(other)[1], atol=1e-6)
    np.testing.assert_allclose(a[0], GOLDEN["score"][0], atol=2e-5)


def test_pack_and_unpack():
    described = Described(item("m"), jnp.asarray(GOLDEN["pool_in"][[0, 1, 2, 0]]))
    again = unpack(*pack(described), (12, 10, 8), 4)
    np.testing.assert_array_equal(again.contexts, described.contexts)
    for name, x in described.item._asdict().items():
        np.testing.assert_array_equal(getattr(again.item, name)[:, : x.shape[1]], x)


def test_equal_entities_are_no_negatives():
    s = jnp.array([[1.0, 5.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    both, ids = jnp.ones(3, bool), jnp.array([4, 4, 2])
    np.testing.assert_allclose(
        m3el_loss({"text": s}, both, ids), (2 * np.log(1 + np.exp(-1)) + np.log(1 + 2 * np.exp(-1))) / 3, rtol=1e-5
    )
    assert float(m3el_loss({"text": s}, both)) > 2
    # A pair without both images counts in no image matcher, neither as an anchor nor as a negative.
    part = m3el_loss({"image": s}, jnp.array([True, False, True]))
    np.testing.assert_allclose(part, np.log(1 + np.exp(-1)), rtol=1e-5)


def test_attention_to_one_global_gives_equal_rows():
    params, m = {"params": authors("cmmb")}, item("m")
    a = Matchers(8).apply(params, m, method="describe").contexts
    b = Matchers(8, residual=True).apply(params, m, method="describe").contexts
    assert not np.allclose(a, b), "with the residual the rows differ"


def test_synthetic_mentions():
    data = MentionData(n_train=60, n_val=9, n_test=30, names=20)
    train, test = (data.open(s).columns for s in ("train", "test"))
    assert not {*train["name"].tolist()} & {*test["name"].tolist()}, "the entities of test were not trained on"
    words = {w for t in train["entity_text"] for w in t.split()}
    assert {w for t in test["entity_text"] for w in t.split() if w[0] in "ab" and w[1:].isdigit()} <= words
    for text, kind in zip(test["mention_text"], test["kind"]):
        assert (len(text.split()) == 2) == (kind == "image")
    assert (MentionData(n_train=90, missing=0.5).open("train").columns["present"] == 0).any()


def test_on_eight_rows_of_a_users_table(tmp_path):
    rows = [
        {"mention_text": f"name {w}", "entity_text": f"name {w} thing", "mention_image": np.eye(3)[[i % 3, 0]].tolist(),
         "entity_image": np.eye(3)[[i % 3, 1]].tolist(), "entity_id": i, "split": "test" if i % 2 else "train"}
        for i, w in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight"])
    ]  # fmt: skip
    path = tmp_path / "mentions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = Table(
        path, image=None, text=("mention_text", "entity_text"), extra=("mention_image", "entity_image", "entity_id")
    )
    base = configs.get_config("tiny")
    parts = (
        *base.data.modalities[:2],
        *(modality.vector(f"{s}_image", 2, 3) for s in ("mention", "entity")),
        modality.label("entity_id", 8),
    )
    data = Data(source, parts, base.data.tokenizer, batch_size=4, eval_batch_size=4)
    config = replace(base, data=data, evals=(configs.Linking(),))
    model = api.create(config)
    found = api.evaluate(model)
    assert found["entities"] == 4.0 and 0 <= found["H@1"] <= 1


def test_errors():
    with pytest.raises(ConfigError, match=r"system.image is None: give"):
        Config().build()
    with pytest.raises(ConfigError, match="names is 2"):
        MentionData(names=2)

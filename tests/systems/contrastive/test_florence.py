"""Florence: UniCL by hand, its gradient, its two stages, and the inflated encoder."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.florence import base, get_config
from configs.contrastive.florence.proof import LABELLED, NAMES, things
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Arrays, Table
from mmrep.data.things import Things
from mmrep.errors import ConfigError, DataError
from mmrep.losses.contrastive import cross_entropy, symmetric_info_nce
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Embedder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.florence import Config, text_ids, two_heads_loss, unicl_loss
from mmrep.systems.contrastive.florence.data import Descriptions

X = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
Y = jnp.array([[0.8, 0.6], [1.0, 0.0], [-0.6, 0.8]])


def test_hand_values_of_unicl():
    np.testing.assert_allclose(unicl_loss(X, Y, 5.0, jnp.array([0, 0, 1])).mean(), 1.2343571, rtol=1e-6)
    np.testing.assert_allclose(unicl_loss(X, Y, 5.0, jnp.arange(3)).mean(), 1.9010238, rtol=1e-6)


def test_the_floor_is_the_logarithm_of_the_positives():
    same = jnp.tile(X[:1], (4, 1))
    np.testing.assert_allclose(unicl_loss(same, same, 7.0, jnp.zeros(4, jnp.int32)), 2 * np.log(4), rtol=1e-6)


def test_with_equal_texts_the_gradient_is_that_of_info_nce():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((6, 4)), jnp.float32)
    ids = jnp.array([0, 0, 1, 2, 2, 2])
    table = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)
    of = lambda loss: jax.grad(lambda x, t: loss(x, t[ids]).mean(), argnums=(0, 1))(x, table)  # noqa: E731
    unicl = of(lambda x, y: unicl_loss(x, y, 2.0, ids))
    plain = of(lambda x, y: 2 * symmetric_info_nce(x, y, 2.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), unicl, plain)


def test_ids_are_those_of_equal_texts():
    tokens = np.array([[1, 5, 2, 0], [1, 6, 2, 0], [1, 5, 2, 0], [1, 5, 2, 2]], np.int32)
    np.testing.assert_array_equal(text_ids(tokens), [0, 1, 0, 3])


def test_two_heads_contrast_captions_alone():
    logits, named = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32), jnp.array([3, 1, 3, 0])
    x, y = (jnp.concatenate([v, v[:1]]) for v in (X, Y))
    found = two_heads_loss(x, y, 5.0, logits, named)
    kept = jnp.array([0, 2])
    rows = 2 * symmetric_info_nce(x[kept], y[kept], 5.0).mean()
    heads = cross_entropy(logits[jnp.array([1, 3])], jnp.eye(3)[jnp.array([1, 0])]).mean()
    np.testing.assert_allclose(found, rows + heads, rtol=1e-5)


def test_a_static_clip_has_the_embedding_of_its_picture():
    shape = TransformerConfig(width=16, depth=1, heads=2)
    pictures = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 3)), jnp.float32)
    system = Config(ImageEncoder(shape, patch=4), TextEncoder(shape, vocab=8, length=4), dim=8, tube=2)
    params = Embedder(system.image, 8).init(jax.random.key(0), pictures)["params"]
    still = Embedder(system.image, 8).apply({"params": params}, pictures)[0]
    clip = jnp.repeat(pictures[:, None], 4, 1)
    for how in ("centre", "mean"):
        embed = jax.jit(replace(system, inflation=how).build().infer["video"])
        np.testing.assert_allclose(embed({"image": params}, {}, {"video": clip}), still, atol=1e-5)
        moving = clip.at[:, 1].set(clip[:, 1, ::-1])
        assert np.abs(embed({"image": params}, {}, {"video": moving}) - still).max() > 1e-3
    for image in (replace(system.image, pool="cls"), replace(system.image, pre_norm=True)):
        with pytest.raises(ConfigError, match="system.tube"):
            replace(system, image=image).build()


WORLD = Things(60, 20, 20, factors=(4, 3, 3))
NAMED = Descriptions(WORLD, label="label", names=("w0", "w1", "w2", "w3"), by_name=(0, 2))


def test_classes_known_by_name():
    records = NAMED.open("train")
    for i in range(60):
        record, label = records[i], WORLD.open("train")[i]["label"]
        assert record["named"] == (label if label in (0, 2) else 4)
        assert record["text"] == (f"w{label}" if label in (0, 2) else WORLD.open("train")[i]["text"])
    assert all(r["named"] == 4 and len(r["text"].split()) == 3 for r in NAMED.open("test"))
    names, natural = (replace(NAMED, keep=k).open("train") for k in ("names", "natural"))
    assert (
        len(names) + len(natural) == 60 and all(r["named"] < 4 for r in names) and all(r["named"] == 4 for r in natural)
    )
    half = replace(NAMED, by_name=(), share=0.5)
    assert 20 < len(replace(half, keep="names").open("train")) < 40
    assert "w3" in set(half.texts("train"))


def test_short_texts_are_put_into_templates_in_the_first_stage():
    short, long = {"text": "w0"}, {"text": "a b c"}
    drawn = {NAMED.view(short, np.random.default_rng(i))["text"] for i in range(40)}
    assert drawn == {t.format("w0") for t in NAMED.templates}
    assert NAMED.view(short, None) == short and NAMED.view(long, np.random.default_rng(0)) == long
    assert replace(NAMED, keep="natural").view(short, np.random.default_rng(0)) == short


def test_emoji_of_every_second_category_are_described_by_it():
    """A record of each category in the place of the emoji."""
    rows = {
        "gradients": np.zeros((9, 128), np.float32),
        "text": [f"name {k}" for k in range(9)],
        "category": np.arange(9),
    }
    found = {}
    for variant in ("emoji", "emoji_captions"):
        data = get_config("small", variant).data
        source = replace(data.source, source=Arrays(rows, test=rows))
        records = source.open("train")
        found[variant] = [source.view(r, np.random.default_rng(0))["text"] for r in records]
        assert [r["text"] for r in source.open("test")] == rows["text"]
    assert found["emoji_captions"] == ["name 0", "name 2", "name 4", "name 6", "name 8"]
    assert found["emoji"][0::2] == found["emoji_captions"]
    assert found["emoji"][1::2] == [base.KINDS[k] for k in base.LABELLED] and base.KINDS[3] == "food and drink"
    with pytest.raises(ConfigError, match="of size tiny"):
        get_config("tiny", "emoji")


@pytest.mark.parametrize(
    "change, words",
    [({"names": ()}, "give names"), ({"by_name": (4,)}, "ids of"), ({"share": 2.0}, "share is 2")],
)  # fmt: skip
def test_impossible_descriptions_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(NAMED, **change)
    with pytest.raises(DataError, match="none of 60"):
        replace(NAMED, by_name=(), share=0.0, keep="names").open("train")


def test_the_arms_of_the_proof_share_their_batches():
    names, captions = (things(k, n=400).data.source.open("train") for k in ("names", "natural"))
    assert {r["text"] for r in names} <= {*NAMES[: len(LABELLED)]}
    assert not {w for r in captions for w in r["text"].split()} & {*NAMES[: len(LABELLED)]}


def test_a_table_of_eight_pictures(tmp_path):
    from PIL import Image

    rows = ["image,caption,label"]
    for i in range(8):
        Image.fromarray(np.full((40, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,a grey picture number {i},{i % 2}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    table = Table(tmp_path / "pairs.csv", label="label", fractions=(1.0, 0.0, 0.0))
    tiny = get_config("tiny")
    parts = modality.image("image", 32), modality.text("text", 40, 64, field="text")
    source = Descriptions(table, "text", "label", ("dark", "bright"), by_name=(0,), templates=())
    split = open_split(
        replace(tiny.data, source=source, modalities=parts), lambda w, n: np.full(n, len(w), np.int32), "train"
    )
    batch = collate([split.entry(i) for i in range(8)])
    assert len(np.unique(text_ids(batch["text"]))) == 2  # "dark" four times, and captions of one length
    system = tiny.system.build()
    value, _ = system.loss(system.init(jax.random.key(0), batch)[0], {}, batch, jax.random.key(0))
    assert np.isfinite(value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"objective": "heads"}, "classes"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        Config(**change).build()

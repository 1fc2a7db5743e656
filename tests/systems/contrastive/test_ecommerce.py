"""eSSPR against the authors' losses, its masked forms, pairs of listings, and the filter of clicks."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.ecommerce import get_config
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Arrays, Table
from mmrep.data.things import Things
from mmrep.errors import ConfigError, DataError
from mmrep.nn.heads import l2_normalise
from mmrep.systems.contrastive.ecommerce import Config, lcc_loss, pdc_loss, ppm_loss, titled
from mmrep.systems.contrastive.ecommerce.clicks import Listings, Relevant, WrongClicks, relevance
from mmrep.systems.contrastive.ecommerce.evals import overlap

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "ecommerce.npz"))
WHOLE, OTHER, MASKED = (l2_normalise(jnp.asarray(GOLDEN[k])) for k in ("whole", "other", "masked"))
TINY = get_config("tiny")


@pytest.fixture(scope="module")
def model():
    batch = modality.example(TINY.data.modalities, 6)
    system = TINY.system.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    infer = {n: jax.jit(lambda p, b, f=f: f(p, {}, b)) for n, f in system.infer.items()}
    return system, params, batch, infer


def test_the_authors_losses():
    np.testing.assert_allclose(ppm_loss(WHOLE, OTHER, 0.2), GOLDEN["ppm"], rtol=1e-5)
    np.testing.assert_allclose(pdc_loss(MASKED, WHOLE, 0.2), GOLDEN["pdc"], rtol=1e-5)
    np.testing.assert_allclose(lcc_loss(WHOLE, MASKED, OTHER, 0.01), GOLDEN["lcc"], rtol=1e-5)


def test_values_by_hand():
    eye = jnp.eye(2)
    assert not ppm_loss(eye, eye, 1.0).any()
    np.testing.assert_allclose(ppm_loss(eye, eye, 1.5), 0.25)
    assert not lcc_loss(WHOLE, WHOLE, OTHER, 0.0).any()
    # Fewer products than neighbours, and a difference of 1 in one of two cosines.
    np.testing.assert_allclose(lcc_loss(eye, eye[::-1], eye, 0.25), 0.75)


def test_listings_of_one_product_are_no_negatives():
    ids = jnp.array([7, 7, 8])
    x = jnp.eye(3).at[1].set(jnp.eye(3)[0])
    assert ppm_loss(x, x, 0.2)[:2].min() > 0
    np.testing.assert_allclose(ppm_loss(x, x, 0.2, ids), 0)


def test_gradients_reach_similarities_and_not_the_selection():
    slopes = jax.grad(lambda w, m, o: lcc_loss(w, m, o, 0.0, 3).sum(), (0, 1, 2))(WHOLE, MASKED, OTHER)
    assert all(float(jnp.abs(s).max()) > 0 for s in slopes)
    # Nearest products alone count: changing one that is far away has no effect.
    far = int(jnp.argmin(WHOLE[0] @ OTHER.T))
    moved = OTHER.at[far].multiply(-0.01)
    np.testing.assert_allclose(lcc_loss(WHOLE, MASKED, moved, 0.0, 3)[0], lcc_loss(WHOLE, MASKED, OTHER, 0.0, 3)[0])
    at_zero = jax.grad(lambda x: ppm_loss(l2_normalise(x), OTHER, 0.2).sum())(jnp.zeros_like(WHOLE))
    assert jnp.isfinite(at_zero).all()


def test_a_missing_title_is_the_learned_mask(model):
    _, params, batch, infer = model
    empty = np.zeros_like(batch["text"])
    empty[:, :2] = modality.BOS, modality.EOS
    assert not titled(empty).any() and titled(batch["text"]).all()
    np.testing.assert_allclose(
        infer["fused"](params, batch | {"text": empty}), infer["image"](params, batch), atol=1e-6
    )
    other = params | {"joint0": params["joint0"] | {"absent_text": jnp.sin(jnp.arange(16.0))}}
    assert np.abs(infer["image"](other, batch) - infer["image"](params, batch)).max() > 1e-3
    np.testing.assert_array_equal(infer["text"](other, batch), infer["text"](params, batch))


def test_a_pair_without_title_costs_nothing_as_a_title(model):
    system, params, batch, _ = model
    text = np.array(batch["text"])
    text[0] = 0
    loss = jax.jit(lambda p, b: system.loss(p, {}, b, jax.random.key(0))[0])
    value = loss(params, batch | {"text": text})
    assert np.isfinite(value) and value != loss(params, batch)
    # The losses' three parts are there, and with ids of products they are smaller.
    assert loss(params, batch | {"product": np.zeros(6, np.int32)}) < loss(params, batch)


def test_late_sum_adds_unit_vectors_of_the_parts(model):
    batch = model[2]
    system = replace(TINY.system, fusion="late").build()
    params, _ = jax.jit(system.init)(jax.random.key(1), batch)
    x, y, both = (jax.jit(system.infer[n])(params, {}, batch) for n in ("image", "text", "fused"))
    np.testing.assert_allclose(both, l2_normalise(x + y), atol=1e-5)


def test_wrong_clicks_and_their_filter():
    things = Things(300, 8, 8, (4,) * 6, (0, 1, 2), (3, 4, 5), listings=2)
    noisy = WrongClicks(things, 0.2)
    plain, records = things.open("train"), noisy.open("train")
    wrong = np.array([a["text_b"] != b["text_b"] for a, b in zip(plain, records)])
    assert 0.1 < wrong.mean() < 0.3
    assert all(r["label"] == r["label_b"] for r in records)
    for i in np.flatnonzero(wrong)[:5].tolist():
        j = next(j for j, r in enumerate(plain) if np.array_equal(r["regions_b"], records[i]["regions_b"]))
        assert j != i and plain[j]["text_b"] == records[i]["text_b"]
    assert [r["text_b"] for r in noisy.open("test")] == [r["text_b"] for r in things.open("test")]
    kept = Relevant(noisy, ("label", "label_b"), least=0.9).open("train")
    assert len(kept) == (~wrong).sum() + sum(
        relevance(r["text"], r["text_b"]) == 1 for r, w in zip(records, wrong) if w
    )


def test_relevance_and_the_filters_errors():
    assert relevance("red dress 32oz", "dress Red") == 1 and relevance("a b", "b c") == 0.5 and relevance("", "a") == 0
    one = {"text": ["a", "b"], "text_b": ["c", "d"], "kind": [0, 1]}
    with pytest.raises(DataError, match="least"):
        Relevant(Arrays(one, one, one)).open("train")
    with pytest.raises(ConfigError, match="least"):
        Relevant(None, least=2.0)
    with pytest.raises(DataError, match="two listings"):
        Listings(Arrays(one, one, one), "kind").open("train")
    with pytest.raises(DataError, match="lacks"):
        Listings(Arrays(one, one, one), "product").open("train")


def test_neighbours_that_are_kept():
    scores = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3]])
    assert overlap(scores, scores, 2) == 1 and overlap(scores, -scores, 2) == 0
    assert overlap(scores, scores[:1].repeat(2, 0), 3) == pytest.approx(5 / 6)


def test_a_table_of_eight_listings(tmp_path):
    from PIL import Image

    rows = ["image,caption,label"]
    for i in range(8):
        Image.fromarray(np.full((16, 8, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,a red dress number {i},{i // 2}")
    (tmp_path / "listings.csv").write_text("\n".join(rows) + "\n")
    table = Table(tmp_path / "listings.csv", label="label", group="label", fractions=(1.0, 0.0, 0.0))
    fields = {"image": "image", "text": "text", "image_b": "image_b", "text_b": "text_b"}
    parts = (
        *(replace(m, field=fields[m.name]) for m in TINY.data.modalities), modality.label("product", 4, field="label"),
    )  # fmt: skip
    source = Relevant(Listings(table), ("label", "label_b"))
    split = open_split(
        replace(TINY.data, source=source, modalities=parts), lambda w, n: np.arange(1, n + 1, dtype=np.int32), "train"
    )
    assert len(split) == 8
    first = split.record(0)
    assert first["text"].endswith("0") and first["text_b"].endswith("1") and first["label"] == first["label_b"]
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(8)]))
    system = TINY.system.build()
    value, (_, metrics) = system.loss(system.init(jax.random.key(0), batch)[0], {}, batch, jax.random.key(0))
    assert np.isfinite(value) and {"ppm", "pdc", "lcc", "active"} == {*metrics}


@pytest.mark.parametrize(
    "change, words",
    [({"image_tokens": 0}, "image_tokens"), ({"margins": (-1.0, 0.2, 0.1)}, "margins"), ({"joint": replace(TINY.system.joint, width=32)}, "joint.width")],
)  # fmt: skip
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(TINY.system, **change).build()


def test_a_picture_of_another_size_is_explained():
    with pytest.raises(ConfigError, match="image_tokens"):
        system = replace(TINY.system, image_tokens=3).build()
        jax.eval_shape(system.init, jax.random.key(0), modality.example(TINY.data.modalities, 2))
    assert Config().build()

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive import vdr as config
from mmrep import modality
from mmrep.config import Data, Tokenizer
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.evals.suite import evaluate
from mmrep.nn import lexical
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.vdr import Config, sides
from mmrep.systems.contrastive.vdr.model import contrastive_mask, vdr_loss
from mmrep.training import loop

GOLDEN = np.load(Path(__file__).parents[2] / "golden/vdr.npz")
SHAPE = TransformerConfig(width=16, depth=1, heads=2)
TEXT = TextEncoder(SHAPE, vocab=23, length=8)


def test_activations_masks_and_bags_are_the_authors():
    np.testing.assert_allclose(lexical.elu1p(jnp.asarray(GOLDEN["x"])), GOLDEN["elu1p"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(lexical.top_k_mask(jnp.asarray(GOLDEN["q"]), 6), GOLDEN["top"])
    ids = jnp.asarray(GOLDEN["q_ids"])
    np.testing.assert_array_equal(lexical.bag(ids, 23, 0), GOLDEN["q_bag"])
    np.testing.assert_array_equal(lexical.bag(ids, 23, 3), GOLDEN["shifted"])
    np.testing.assert_array_equal(contrastive_mask(jnp.asarray(GOLDEN["q_bag"])), GOLDEN["mask"])


@pytest.mark.parametrize(
    ("name", "options"), [("semi", {}), ("queries", {"semi": False}), ("masked", {"mask_weight": 0.5})]
)
def test_losses_with_hard_negatives_are_the_authors(name, options):
    n = len(GOLDEN["q"])
    q, p, qb, pb = (jnp.asarray(GOLDEN[k]) for k in ("q", "p", "q_bag", "p_bag"))
    queries, passages, hard = (sides(x, b, 6) for x, b in ((q, qb), (p[:n], pb[:n]), (p[n:], pb[n:])))
    value = vdr_loss(queries, passages, 1.0, hard, **options).mean()
    np.testing.assert_allclose(value, GOLDEN[name], rtol=1e-5)


def test_equal_values_keep_exactly_k():
    x = jnp.ones((2, 7))
    assert lexical.top_k_mask(x, 3).sum(1).tolist() == [3, 3] and lexical.top_k_mask(x, 30).all()


def test_a_sparse_vector_has_the_words_of_its_text_and_no_new_length():
    dense = jnp.asarray(GOLDEN["q"]) / 10
    side = sides(dense, jnp.asarray(GOLDEN["q_bag"]), 2)
    assert ((side.sparse > 0) >= (np.asarray(GOLDEN["q_bag"]) > 0) * (dense > 0)).all()
    assert (jnp.linalg.norm(side.sparse, axis=1) < jnp.linalg.norm(dense, axis=1)).all()
    assert sides(dense, None, None).sparse is dense


def test_padding_has_no_words():
    tokens, table = jax.random.normal(jax.random.key(1), (1, 4, 6)), jax.random.normal(jax.random.key(2), (5, 6))
    valid = jnp.array([[True, True, False, False]])
    np.testing.assert_allclose(lexical.lexical(tokens, table, valid), lexical.lexical(tokens[:, :2], table), rtol=1e-5)
    assert not lexical.lexical(tokens, table, valid & False).any()


def test_tied_tables_get_gradients_from_both_uses_and_reserved_ids_have_no_dimension():
    ids = jax.random.randint(jax.random.key(0), (4, 8), 5, 23)
    both = (("query", TEXT), ("text", TEXT))
    batch = {"query": ids, "text": jnp.roll(ids, 1, 1)}
    for tied in (True, False):
        system = Config(both, tied=tied).build()
        params, _ = system.init(jax.random.key(0), batch)
        assert ("table" in params["text_head"]) is not tied
        assert system.infer["text"](params, {}, batch).shape == system.infer["bag"](params, {}, batch).shape == (4, 18)
    hard = Config(both, hard="other", contrastive_mask=0.5, normalise=False).build()
    loss = hard.loss(params, {}, batch | {"other": ids}, jax.random.key(0))[0]
    assert jnp.isfinite(loss)


def test_a_users_own_captions(tmp_path):
    from PIL import Image

    lines = ["image,caption,split"]
    for i in range(24):
        Image.new("RGB", (16, 16), (10 * i, 0, 255 - 10 * i)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,a red circle number {i},{'train' if i < 8 else 'val' if i < 16 else 'test'}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    tiny = config.get_config("tiny")
    pair = (modality.image("image", 32), modality.text("text", 40, 64))
    data = Data(Table(tmp_path / "table.csv"), pair, Tokenizer(64, kind="word"), batch_size=8)
    evals = (config.RETRIEVAL[2], dataclasses.replace(tiny.evals[-1], fields=("text",)))
    phases = (dataclasses.replace(tiny.phases[0], steps=1),)
    found = loop.train(
        dataclasses.replace(tiny, data=data, phases=phases, evals=evals), progress=False, evaluate=evaluate
    )
    assert 0 <= found.metrics["readability precision"] <= 1 and "words->image R@1" in found.metrics


def test_impossible_configs_are_refused():
    for change, says in (
        ({"top_k": 0}, "system.top_k is 0"), ({"temperature": 0.0}, "system.temperature is 0"),
        ({"encoders": (("a", TEXT), ("b", dataclasses.replace(TEXT, vocab=9)))}, "of the same vocab"),
        ({"bags": False, "contrastive_mask": 1.0}, "set system.bags"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            dataclasses.replace(Config(), **change).build()

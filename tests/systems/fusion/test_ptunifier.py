"""PTUnifier: choice of prompts, inputs with stand-ins, and the contrast against the authors' numbers."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mmrep
from configs.fusion.ptunifier import get_config
from mmrep.config import Data, Phase
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.modality import BOS, EOS
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import l2_normalise
from mmrep.systems.fusion.ptunifier import Config
from mmrep.systems.fusion.ptunifier.evals import Judged
from mmrep.systems.fusion.ptunifier.model import chosen_rows, token_mean


def test_prompts_and_contrast_equal_the_authors():
    g = dict(np.load(Path(__file__).parents[2] / "golden" / "ptunifier.npz"))
    rows = chosen_rows(jnp.asarray(g["query"]), jnp.asarray(g["pool"]), 3)
    np.testing.assert_array_equal(g["pool"][np.asarray(rows)], g["prompts"])

    def project(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = x * g[f"weights/{name}_ln.weight"] + g[f"weights/{name}_ln.bias"]
        return l2_normalise(jnp.asarray(x @ g[f"weights/{name}_proj.weight"].T))

    x, y = project(g["image"], "vision"), project(g["text"], "language")
    np.testing.assert_allclose(10 * x @ y.T, g["logits"], atol=1e-4)
    np.testing.assert_allclose(symmetric_info_nce(x, y, 10.0).mean(), g["loss"], rtol=1e-5)


def test_rows_are_chosen_by_dot_product_in_descending_order():
    query, pool = jnp.array([[1.0, 0.0]]), jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 9.0]])
    assert chosen_rows(query, pool, 2).tolist() == [[0, 2]]  # a long row is chosen, whatever its direction
    assert chosen_rows(query, pool, 2, cosine=True).tolist() == [[0, 1]]
    tokens = jnp.arange(8.0).reshape(1, 4, 2)
    valid = jnp.array([[True, True, True, False]])
    np.testing.assert_allclose(token_mean(tokens, valid), [[3.0, 4.0]])
    nothing = token_mean(tokens, jnp.array([[True, False, False, False]]))
    assert chosen_rows(nothing, pool, 2).tolist() == [[0, 1]] and not nothing.any()


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = jax.tree.map(jnp.asarray, mmrep.modality.example(config.data.modalities, 4))
    return config.system, batch, jax.jit(config.system.build().init)(jax.random.key(0), batch)[0]


def module(config):
    from mmrep.systems.fusion.ptunifier.model import PTUnifier

    return PTUnifier(
        config.image, config.text, config.fusion, config.patch, config.vocab, config.length, config.pool, config.image_prompts,
        config.text_prompts, config.stand_in, config.cosine, config.dim,
    )  # fmt: skip


def test_stand_ins_have_first_tokens_prompts_and_a_full_mask(tiny):
    config, batch, params = tiny
    model = module(config)

    def call(method, *inputs):
        return jax.jit(lambda p: model.apply({"params": p}, *inputs, method=method))(params)

    text, image = call("pseudo_text", batch["image"]), call("pseudo_image", batch["text"])
    assert text.shape == (4, config.text_prompts + 2, 32) and image.shape == (4, 1 + config.image_prompts, 32)
    rows = call("rows_for_image", batch["image"])
    # The text encoder over BOS at place 0, the chosen rows as they are, and EOS at place 0.
    words = jnp.concatenate([jnp.full((4, 1), i, jnp.int32) for i in (BOS, EOS)])
    ends = model.apply({"params": params}, words, method=lambda m, ids: m.words(ids))
    tokens = jnp.concatenate([ends[:4], params["text_pool"][rows], ends[4:]], axis=1)
    expected = model.apply({"params": params}, tokens, method=lambda m, x: m.text_blocks(x)[0])
    np.testing.assert_allclose(text, expected, atol=1e-5)


def test_gradients_reach_the_chosen_rows_alone(tiny):
    config, batch, params = tiny
    system = replace(config, mlm_weight=0.0, itm_weight=0.0).build()
    grads = jax.jit(jax.grad(lambda p: system.loss(p, {}, batch, jax.random.key(0))[0]))(params)
    for name in ("image", "text"):
        pool = f"{'text' if name == 'image' else 'image'}_pool"
        rows = np.unique(np.asarray(system.infer[f"rows_for_{name}"](params, {}, batch)))
        moved = np.flatnonzero(np.abs(np.asarray(grads[pool])).max(1) > 0)
        np.testing.assert_array_equal(moved, rows)


def test_an_image_needs_no_text_and_arms_without_contrast_have_no_pools(tiny):
    config, batch, params = tiny
    infer = config.build().infer
    alone = jax.jit(infer["image"])(params, {}, {"image": batch["image"]})
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-5)
    plain = replace(config, itc_weight=0.0).build()
    shapes = jax.eval_shape(plain.init, jax.random.key(0), batch)[0]
    assert not {"image_pool", "text_pool"} & {*shapes}
    for name in ("image", "text"):
        assert jax.eval_shape(plain.infer[name], shapes, {}, batch).shape == (4, 64)
    assert "rows_for_image" not in plain.infer
    for stand_in, rows in (("static", 4), ("none", None)):
        shapes = jax.eval_shape(replace(config, stand_in=stand_in).build().init, jax.random.key(0), batch)[0]
        assert (shapes["image_pool"].shape[0] if rows else "image_pool" not in shapes) == (rows or True)


def test_judged_counts_true_pairs_and_those_with_another_text():
    class Seen(mmrep.model.Model):
        def __init__(self):
            pass

        def embed_split(self, name, split="test", fields=()):
            return name

        def column(self, field, split="test"):
            return ["a", "a", "b", "c"]

        def score_pairs(self, image, text, rows, columns, **_):
            self.other = columns
            return np.where(rows == columns, [1, 1, 1, -1], [-1, 1, -1, -1])

    seen = Seen()
    assert Judged().run(seen) == {"judged accuracy": 0.75}
    assert seen.other.tolist() == [2, 2, 3, 0]


def test_trains_on_a_users_own_table(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / f"{i}.png")
    rows = [{"image": f"{i}.png", "caption": f"no finding {i}"} for i in range(8)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shape = TransformerConfig(width=16, depth=1, heads=2)
    post = replace(shape, norm="post")
    system = Config(shape, post, post, vocab=280, length=8, pool=6, image_prompts=2, text_prompts=2, dim=8)
    parts = mmrep.modality.image("image", 16), mmrep.modality.text("text", 8, 280)
    table = Table(tmp_path / "t.jsonl", fractions=(1.0, 0.0, 0.0))
    data = Data(table, parts, mmrep.Tokenizer(280, kind="word"), batch_size=8)
    model = mmrep.train(mmrep.Experiment(system, data, (Phase(steps=2),)))
    assert model.similarity([np.zeros((16, 16, 3), np.uint8)], ["no finding"]).shape == (1, 1)


@pytest.mark.parametrize(
    "fields, words",
    [({"stand_in": "zeros"}, "system.stand_in"), ({"temperature": 0.0}, "system.temperature"), ({"pool": 0}, "system.pool")],
)  # fmt: skip
def test_impossible_configs_are_explained(fields, words):
    config = Config()
    for name, value in fields.items():
        object.__setattr__(config, name, value)
    with pytest.raises(ConfigError, match=words):
        config.build()


def test_more_prompts_than_rows_is_explained(tiny):
    config, batch, _ = tiny
    with pytest.raises(ConfigError, match="pool is 3"):
        jax.eval_shape(replace(config, pool=3).build().init, jax.random.key(0), batch)

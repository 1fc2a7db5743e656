"""FDT against the authors' query model, sparsemax and logits, and by hand."""

import warnings
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.fdt import encoders, get_config
from mmrep import modality
from mmrep.config import Data, Tokenizer
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError, DataError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.model import Model
from mmrep.nn.config import TransformerConfig
from mmrep.systems.contrastive.fdt import Config, features
from mmrep.systems.contrastive.fdt.evals import CodeAgreement, CodeUse, shared_top
from mmrep.systems.contrastive.fdt.model import (
    QueryHead,
    active_share,
    code_scores,
    code_weights,
    pool_scores,
    sparsemax,
)

GOLDEN = {k: v for k, v in np.load(Path(__file__).parents[2] / "golden" / "fdt.npz").items() if k != "note"}
CODES = jnp.asarray(GOLDEN["codes"])
VALID = {
    "image": np.ones((4, 6), bool),
    "text": np.arange(5) < GOLDEN["lengths"][:, None],
}


def queries(side):
    rows = {"norm_in": "0", "hidden": "1", "norm_hidden": "3", "out": "4"}
    params = {}
    for ours, theirs in rows.items():
        weight, bias = (GOLDEN[f"{side}/q_map.{theirs}.{k}"] for k in ("weight", "bias"))
        params[ours] = {"scale": weight, "bias": bias} if "norm" in ours else {"kernel": weight.T, "bias": bias}
    return QueryHead(8).apply({"params": params}, jnp.asarray(GOLDEN[side]))


@jax.jit
def everything():
    scores = {side: code_scores(queries(side), CODES, 2.0) for side in VALID}
    return {
        (side, act, pool): code_weights(pool_scores(scores[side], jnp.asarray(VALID[side]), pool, True), act)
        for side in VALID for act in ("softmax", "sigmoid", "sparsemax") for pool in ("sum", "mean", "max")
    }  # fmt: skip


def test_weights_of_every_activation_and_pool_are_the_authors():
    for (side, act, pool), found in everything().items():
        # Of "sigmoid" theirs are not divided by their sum, which they do to the feature.
        theirs = GOLDEN[f"{side}/{act}/{pool}/weights"]
        expected = theirs / theirs.sum(1, keepdims=True) if act == "sigmoid" else theirs
        np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=f"{side} {act} {pool}")
        np.testing.assert_allclose(found @ CODES, GOLDEN[f"{side}/{act}/{pool}/feature"], atol=2e-5)


def test_logits_and_loss_are_the_authors():
    found = everything()
    x, y = (features(found[side, "sparsemax", "max"], CODES) for side in VALID)
    np.testing.assert_allclose(x @ y.T / 0.07, GOLDEN["logits_image"], atol=2e-4)
    np.testing.assert_allclose(y @ x.T / 0.07, GOLDEN["logits_text"], atol=2e-4)
    np.testing.assert_allclose(symmetric_info_nce(x, y, 1 / 0.07).mean(), GOLDEN["loss"], rtol=1e-5)


def test_sparsemax_by_hand_and_its_gradient():
    given = jnp.array([[0.5, 0.3, -0.2, 0.1], [2.0, 1.0, 0.1, -9.0], [3.0, 3.0, 3.0, 3.0]])
    expected = [[0.5333333, 0.3333333, 0, 0.1333333], [1, 0, 0, 0], [0.25] * 4]
    np.testing.assert_allclose(sparsemax(given), expected, atol=1e-6)
    found, back = jax.vjp(sparsemax, jnp.asarray(GOLDEN["scores"]))
    np.testing.assert_allclose(found, GOLDEN["sparsemax"], atol=1e-6)
    np.testing.assert_allclose(back(jnp.asarray(GOLDEN["cotangent"]))[0], GOLDEN["sparsemax_grad"], atol=2e-6)


def test_padding_is_excluded_unless_it_is_a_floor():
    scores = -jnp.arange(1.0, 7.0).reshape(1, 3, 2)
    valid = jnp.array([[False, True, True]])
    for pool, plain, floor in (("max", [-3, -4], [0, 0]), ("mean", [-4, -5], [-8 / 3, -10 / 3]), ("sum", [-8, -10], [-8, -10])):  # fmt: skip
        np.testing.assert_allclose(pool_scores(scores, valid, pool)[0], plain, rtol=1e-6)
        np.testing.assert_allclose(pool_scores(scores, valid, pool, True)[0], floor, rtol=1e-6)
        assert not pool_scores(scores, valid & False, pool).any()
    assert not features(jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 2.0], [-1.0, -2.0]])).any()


def test_temperature_is_tied_to_the_number_of_codes():
    assert active_share(96, 30.0) > 0.2 > 0.06 > active_share(96, 1.0)
    assert active_share(512, 1000.0) == 1.0 and 0.1 < active_share(16_384, 1000.0) < 0.4
    with pytest.warns(UserWarning, match="system.code_temperature is 1.0: a token activates"):
        Config(codes=96, dim=32, code_temperature=1.0).check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Config(codes=96, dim=32, code_temperature=30.0).check()
        get_config("paper").system.check()


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = jax.tree.map(jnp.asarray, modality.example(config.data.modalities, 4))
    system = config.system.build()
    return config, batch, system, *jax.jit(system.init)(jax.random.key(0), batch)


def test_the_scale_stays_in_its_range_and_can_return(tiny):
    _, batch, system, params, _ = tiny
    run = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    for start, expected in ((9.0, 100.0), (0.0, np.exp(3.0))):
        moved = params | {"scale": {"log_scale": jnp.float32(start)}}
        (_, (_, metrics)), grads = run(moved, {}, batch, jax.random.key(0))
        assert float(metrics["scale"]) == pytest.approx(expected, rel=1e-5)
        slope = float(grads["scale"]["log_scale"])
        assert slope >= 0 if start else slope <= 0
    assert 0 < float(metrics["active_text"]) <= 1


def test_one_codebook_or_two(tiny):
    config, batch, system, params, _ = tiny
    assert set(params["codes"]) == {"shared"}
    two = jax.eval_shape(replace(config.system, shared=False).build().init, jax.random.key(0), batch)[0]
    assert set(two["codes"]) == {"image", "text"}
    found = jax.jit(lambda p: {n: system.infer[n](p, {}, batch) for n in ("image_codes", "text_code_scores", "text")})(
        params
    )
    np.testing.assert_allclose(found["image_codes"].sum(1), 1, rtol=1e-5)
    assert found["text_code_scores"].shape == (4, 40, 32)
    np.testing.assert_allclose(jnp.linalg.norm(found["text"], axis=1), 1, rtol=1e-5)


class Fake(Model):
    """Two records of one word each; word i has the codes of region i."""

    def __init__(self, **found):
        self.found = found

    def embed_split(self, name, split="test", fields=()):
        return self.found[name]

    def column(self, field, split="test"):
        return {"text": ["red", "blue"], "owner": [np.array([0]), np.array([1])]}[field]


def test_agreement_and_use_by_hand():
    scores = np.array([[5.0, 4, 0, 0], [0, 0, 5, 4]])
    words = np.stack([np.stack([np.zeros(4), s, np.zeros(4)]) for s in scores])
    model = Fake(
        text_code_scores=words, image_code_scores=np.stack([scores, scores]), text_tokens=(words, np.ones((2, 3), bool)),
        image_codes=np.array([[0.5, 0.5, 0, 0], [1, 0, 0, 0]]), text_codes=np.array([[0.25] * 4] * 2),
    )  # fmt: skip
    assert CodeAgreement(k=2).run(model) == {"codes agreement": 1.0, "codes control": 0.0, "codes chance": 0.5}
    np.testing.assert_allclose(shared_top(scores, np.array([[0, 5, 4, 0], [0, 5, 4, 0.0]]), 2), [0.5, 0.5])
    found = CodeUse().run(model)
    assert found == {
        "codes active image": 0.375, "codes dead image": 0.5, "codes active text": 1.0, "codes dead text": 0.0,
    }  # fmt: skip
    model.column = lambda field, split="test": {"text": ["red", "red"], "owner": [np.array([0])] * 2}[field]
    with pytest.raises(DataError, match="fewer than two words"):
        CodeAgreement().run(model)


def test_a_table_of_eight_captions(tmp_path, tiny):
    from PIL import Image

    rows = ["image,caption"]
    for i in range(8):
        Image.fromarray(np.full((40, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,a grey picture number {i}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    parts = (modality.image("image", 32), modality.text("text", 12, 64))
    data = Data(
        Table(tmp_path / "table.csv", fractions=(1.0, 0.0, 0.0)), parts, Tokenizer(64, kind="word"), batch_size=8
    )
    tokenize = lambda text, length: np.minimum(np.arange(length) + 1, 60).astype(np.int32)  # noqa: E731
    split = open_split(data, tokenize, "train")
    batch = collate([split.entry(i) for i in range(8)])
    shape = TransformerConfig(width=16, depth=1, heads=2)
    system = Config(
        **encoders(shape, shape, patch=8, vocab=64, length=12), codes=16, dim=8, code_temperature=10.0
    ).build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    assert np.isfinite(jax.jit(system.loss)(params, {}, batch, jax.random.key(1))[0])


@pytest.mark.parametrize(
    "change", [{"codes": 1}, {"code_temperature": 0.0}, {"min_scale": 200.0}, {"temperature": 0.0}, {"dim": 0}]
)
def test_impossible_configs_are_refused(change):
    with pytest.raises(ConfigError, match=f"system.{next(iter(change))}"):
        Config(**change).build()

"""MGCA: the authors' forward pass and Sinkhorn iterations, and by hand."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.mgca import get_config
from mmrep import modality
from mmrep.config import Data, Tokenizer
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.model import Model
from mmrep.nn.heads import l2_normalise
from mmrep.systems.contrastive.mgca import WARM, Config
from mmrep.systems.contrastive.mgca.evals import SamePrototype
from mmrep.systems.contrastive.mgca.losses import (
    attended,
    cpa_loss,
    cta_loss,
    ita_loss,
    prototype_scores,
    sinkhorn,
    token_contrast,
)
from mmrep.training.state import split as split_params

GOLDEN = {
    k: jnp.asarray(v)
    for k, v in np.load(Path(__file__).parents[2] / "golden" / "mgca.npz").items()
    if k != "note"
}  # fmt: skip
V, T, P, W = (l2_normalise(GOLDEN[k]) for k in "vtpw")
VALID = jnp.arange(6) < GOLDEN["lengths"][:, None]


def test_sinkhorn_is_the_authors_and_balances():
    np.testing.assert_allclose(sinkhorn(GOLDEN["scores"], 0.5), GOLDEN["codes"], rtol=2e-5, atol=1e-7)
    found = sinkhorn(GOLDEN["scores"], 0.5, 200)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.sum(0), 9 / 6, rtol=1e-3)
    np.testing.assert_allclose(sinkhorn(GOLDEN["scores"] + 1000, 0.5), sinkhorn(GOLDEN["scores"], 0.5), rtol=1e-3)
    assert np.isfinite(sinkhorn(1e4 * GOLDEN["scores"].astype(jnp.float16))).all()
    assert not jax.grad(lambda z: (sinkhorn(z) ** 2).sum())(GOLDEN["scores"]).any()


@pytest.mark.parametrize("name", ["vit_base", "resnet_50"])
def test_the_three_losses_are_those_of_the_authors_forward_pass(name):
    vit = name == "vit_base"
    np.testing.assert_allclose(ita_loss(V, T, 1 / 0.07).mean(), GOLDEN[f"{name}/ita"], rtol=1e-5)
    found = cta_loss(
        P, W, VALID, 0.1, normalise_patches=not vit, patch_weights=GOLDEN["patch_weights"] if vit else None,
        word_weights=GOLDEN["word_weights"], mask_columns=False,
    )  # fmt: skip
    np.testing.assert_allclose(found.mean(), GOLDEN[f"{name}/local"], rtol=1e-5)
    z_v, z_t = (prototype_scores(x, GOLDEN["prototypes"]) for x in (V, T))
    np.testing.assert_allclose(cpa_loss(z_v, z_t, 0.2).mean(), GOLDEN[f"{name}/proto"], rtol=1e-5)


def test_padding_is_no_negative_and_gets_no_attention():
    def both(words, valid):
        return token_contrast(words, P, valid, jnp.ones((5, 4), bool), 0.1), token_contrast(P, words, jnp.ones((5, 4), bool), valid, 0.1)  # fmt: skip

    other = jnp.where(VALID[..., None], W, 9.0)
    np.testing.assert_allclose(both(W, VALID), both(other, VALID), rtol=1e-5)
    np.testing.assert_allclose(
        token_contrast(W[:, :3], P, VALID[:, :3], jnp.ones((5, 4), bool), 0.1),
        token_contrast(W, P, jnp.arange(6) < 3 * jnp.ones((5, 1)), jnp.ones((5, 4), bool), 0.1), rtol=1e-5,
    )  # fmt: skip
    none = jnp.zeros((5, 6), bool)
    value, slope = jax.value_and_grad(lambda w: token_contrast(w, P, none, jnp.ones((5, 4), bool), 0.1).sum())(W)
    assert value == 0 and not slope.any()


def test_attention_and_contrast_by_hand():
    x, y = jnp.eye(2)[None], jnp.array([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]])
    all_of = jnp.ones((1, 3), bool)
    a = np.exp(np.array([1, 0, 0.6])) / np.exp(np.array([1, 0, 0.6])).sum()
    np.testing.assert_allclose(attended(x, y, all_of, 1.0)[0, 0], a @ np.asarray(y[0]), rtol=1e-6)
    # Two equal tokens cannot be told apart: log 2.
    same = jnp.broadcast_to(x[:, :1], (1, 2, 2))
    np.testing.assert_allclose(token_contrast(same, y, all_of[:, :2], all_of, 0.1), [np.log(2)], rtol=1e-6)
    both = cta_loss(y, x, all_of[:, :2], 0.1, bidirectional=False)
    np.testing.assert_allclose(both, token_contrast(x, y, all_of[:, :2], all_of, 0.1), rtol=1e-6)


@pytest.fixture(scope="module")
def tiny():
    config = get_config("tiny")
    batch = jax.tree.map(jnp.asarray, modality.example(config.data.modalities, 4))
    system = config.system.build()
    return config, batch, system, jax.jit(system.init)(jax.random.key(0), batch)[0]


def test_losses_add_up_and_prototypes_are_frozen_at_first(tiny):
    config, batch, system, params = tiny

    def run(params):
        value, (_, metrics) = system.loss(params, {}, batch, jax.random.key(0))
        return value, metrics, {n: system.infer[n](params, {}, batch) for n in ("text_tokens", "image_prototypes")}

    value, m, found = jax.jit(run)(params)
    np.testing.assert_allclose(value, m["ita"] + 0.7 * m["cta"] + 0.5 * m["cpa"], rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(found["text_tokens"][0], axis=-1), 1, rtol=1e-5)
    scaled = params | {"prototypes": 7 * params["prototypes"]}
    np.testing.assert_allclose(found["image_prototypes"], system.infer["image_prototypes"](scaled, {}, batch), atol=1e-6)  # fmt: skip
    learnt, frozen = split_params(params, WARM)
    assert set(frozen) == {"prototypes"} and {p.split("/")[0] for p in learnt} == set(params) - {"prototypes"}
    alone = replace(config.system, cta=0.0, cpa=0.0).build()
    assert set(jax.eval_shape(alone.loss, params, {}, batch, jax.random.key(0))[1][1]) == {"cosine", "ita"}
    # Without the token loss tokens have the trained head, that of whole inputs: BERT's first token is the report.
    np.testing.assert_allclose(
        alone.infer["text_tokens"](params, {}, batch)[0][:, 0], alone.infer["text"](params, {}, batch), atol=1e-6
    )


class Fake(Model):
    def __init__(self, image, text):
        self.found = {"image_prototypes": np.eye(3)[image], "text_prototypes": np.eye(3)[text]}

    def embed_split(self, name, split="test", fields=()):
        return self.found[name]


def test_same_prototype_by_hand():
    found = SamePrototype().run(Fake([0, 0, 1, 2], [0, 0, 1, 1]))
    assert found == {"prototypes same": 0.75, "prototypes shuffled": 0.375, "prototypes used": 2.5}


def test_a_table_of_eight_reports(tmp_path, tiny):
    from PIL import Image

    _, _, system, params = tiny
    rows = ["image,caption"]
    for i in range(8):
        Image.fromarray(np.full((40, 32), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,no effusion in the left lung")
    Path(tmp_path / "reports.csv").write_text("\n".join(rows) + "\n")
    parts = (modality.image("image", 18), modality.text("text", 14, 64))
    table = Table(tmp_path / "reports.csv", fractions=(1.0, 0.0, 0.0))
    tokenize = lambda text, length: np.minimum(np.arange(length) + 1, 60).astype(np.int32)  # noqa: E731
    split = open_split(Data(table, parts, Tokenizer(64, kind="word"), batch_size=8), tokenize, "train")
    batch = collate([split.entry(i) for i in range(8)])
    assert np.isfinite(jax.jit(system.loss)(params, {}, batch, jax.random.key(1))[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cta": -1.0}, "at least 0"), ({"ita": 0.0, "cta": 0.0, "cpa": 0.0}, "are all 0"), ({"epsilon": 0.0}, "positive and finite"),
        ({"prototypes": 1}, "system.prototypes is 1"), ({"iterations": 0}, "system.iterations is 0"), ({"hidden": 0}, "system.hidden is 0"),
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(Config(), **change).build()

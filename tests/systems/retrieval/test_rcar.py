"""RCAR: the authors' similarities with their weights, hand values, padding, absent regions, its evaluator and its loss."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.retrieval.rcar import get_config, sets
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.losses.ranking import hinge
from mmrep.model import Model
from mmrep.nn.encoders.gru import GruText
from mmrep.systems.retrieval.rcar import Config
from mmrep.systems.retrieval.rcar.evals import Regulation
from mmrep.systems.retrieval.rcar.model import HIDDEN, Matcher, cross_attention

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "rcar.npz"))


def linear(name):
    found = {"kernel": jnp.asarray(GOLDEN[f"{name}.weight"].T)}
    return found | ({"bias": jnp.asarray(GOLDEN[f"{name}.bias"])} if f"{name}.bias" in GOLDEN else {})


def weights(mode, kind, steps=2):
    """The authors' parameters under our names."""
    at, found = f"{mode}/{kind}", {}
    for t in range(steps):
        if (name := f"{at}/alv_modules.{t}.sim_transform_w") + ".weight" in GOLDEN:
            found[f"alignment{t}"] = {"linear": linear(name)}
        if f"{(name := f'{at}/rcr_modules.{t}')}.rcr_smooth_w.0.weight" in GOLDEN:
            parts = {
                "temperature_in": "rcr_smooth_w.0",
                "temperature_out": "rcr_smooth_w.2",
                "channels_in": "rcr_matrix_w.0",
                "channels_out": "rcr_matrix_w.2",
            }
            found[f"correspondence{t}"] = {k: linear(f"{name}.{v}") for k, v in parts.items()}
        if f"{(name := f'{at}/rar_modules.{t}')}.rar_q_w.0.weight" in GOLDEN:
            parts = {"query": "rar_q_w.0", "key": "rar_k_w.0", "weight": "rar_v_w.0"}
            found[f"aggregation{t}"] = {k: linear(f"{name}.{v}") for k, v in parts.items()}
            del found[f"aggregation{t}"]["weight"]["bias"]
    return found | ({} if mode == "only_rcr" else {"score": linear(f"{at}/sim_eval_w")})


@pytest.mark.parametrize("mode, ours", [("only_rar", "rar"), ("only_rcr", "rcr"), ("coop_rcar", "rcar")])
def test_the_authors_similarities_with_padding(mode, ours):
    image, text = jnp.asarray(GOLDEN["image"]), jnp.asarray(GOLDEN["text"])
    regions, words = jnp.ones(image.shape[:2], bool), jnp.arange(text.shape[1]) < GOLDEN["lengths"][:, None]
    for kind, lam in (("t2i", 10.0), ("i2t", 3.0)):
        matcher, params = Matcher(ours, 2, 6, lam), {"params": weights(mode, kind)}

        def score(i, iv, t, tv, matcher=matcher, params=params, kind=kind):
            return matcher.apply(params, *((t, i, tv, iv) if kind == "t2i" else (i, t, iv, tv)))[0]

        every = jax.vmap(jax.vmap(score, (None, None, 0, 0)), (0, 0, None, None))
        np.testing.assert_allclose(
            jax.jit(every)(image, regions, text, words), GOLDEN[f"{mode}/{kind}/scores"], atol=2e-5
        )


def test_the_authors_attention_and_loss():
    for i in range(2):
        q, c, m, s = (jnp.asarray(GOLDEN[k][i]) for k in ("q", "c", "m", "s"))
        found = cross_attention(q, c, m, s, jnp.ones(len(q), bool), jnp.ones(len(c), bool))[0]
        np.testing.assert_allclose(found, GOLDEN["w"][i], atol=1e-5)
    for hardest in (False, True):
        found = sum(v.sum() for v in hinge(jnp.asarray(GOLDEN["sims"]), 0.2, hardest))
        np.testing.assert_allclose(found, GOLDEN[f"loss_{hardest}"], rtol=1e-5)


def test_the_authors_words():
    def cell(end):
        of = {k: GOLDEN[f"gru/rnn.{k}_l0{end}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        ih, hh, bi, bh = (np.split(v, 3) for v in of.values())
        found = {f"i{n}": {"kernel": ih[k].T, "bias": bi[k] + (bh[k] if n != "n" else 0)} for k, n in enumerate("rzn")}
        return found | {
            f"h{n}": {"kernel": hh[k].T} | ({"bias": bh[k]} if n == "n" else {}) for k, n in enumerate("rzn")
        }

    params = {"embed": {"embedding": GOLDEN["gru/embed.weight"]}, "forward": cell(""), "backward": cell("_reverse")}
    ids = GOLDEN["gru/ids"].astype(np.int32)
    modules = [GruText(10, 12, 7, merge=how).module(jnp.float32) for how in ("mean", "concat")]
    (pooled, out), wide = jax.jit(lambda p: [m.apply({"params": p}, ids) for m in modules])(params)
    tokens = np.asarray(out["tokens"])
    norm = np.linalg.norm(tokens, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        np.divide(tokens, norm, where=norm > 0, out=np.zeros_like(tokens)), GOLDEN["gru/tokens"], atol=1e-5
    )
    np.testing.assert_allclose(pooled, tokens.sum(1) / GOLDEN["lengths"][:, None], atol=1e-6)
    np.testing.assert_allclose(0.5 * (wide[0][:, :10] + wide[0][:, 10:]), pooled, atol=1e-6)


def test_attention_by_hand():
    yes, q = jnp.ones(3, bool), jnp.eye(3, 4)
    same = jnp.broadcast_to(jnp.array([0.6, 0.8, 0, 0]), (3, 4))
    np.testing.assert_allclose(
        cross_attention(q, same, jnp.ones((1, 4)), jnp.full((1, 1), 9.0), yes, yes)[0], same, atol=1e-6
    )
    uniform = cross_attention(q, q, jnp.ones((1, 4)), jnp.zeros((1, 1)), yes, yes & jnp.array([1, 1, 0], bool))[1]
    np.testing.assert_allclose(uniform, np.broadcast_to([0.5, 0.5, 0], (3, 3)), atol=1e-6)
    # A word equal to its context, without anything to align, has a finite gradient.
    matcher = Matcher("rcar", 2, 4, 10.0)
    params = jax.jit(matcher.init)(jax.random.key(0), q, q, yes, yes)
    slope = jax.jit(jax.grad(lambda x: matcher.apply(params, x, x, yes, yes)[0]))(jnp.zeros((3, 4)))
    assert np.isfinite(slope).all() and HIDDEN < -1e20


@pytest.fixture(scope="module")
def trained():
    config = sets("rcar", 2)
    config = replace(config, data=replace(config.data, source=replace(config.data.source, n_train=16, n_test=8)))
    batch = modality.example(config.data.modalities, 4)
    system = replace(config.system, warm=2).build()
    return system, *jax.jit(system.init)(jax.random.key(0), batch), batch


def test_an_absent_region_has_no_effect(trained):
    system, params, extras, batch = trained
    image = np.concatenate([batch["image"], np.full_like(batch["image"][:, :1], np.nan)], 1)
    own = jax.jit(system.infer["regulation"])
    before, after = own(params, extras, batch), own(params, extras, batch | {"image": image})
    np.testing.assert_allclose(after["attention"][..., :-1], before["attention"], atol=1e-6)
    assert not after["attention"][..., -1].any()
    np.testing.assert_allclose(before["attention"].sum(-1), 1, atol=1e-5)
    padded = np.asarray(batch["text"] == 0)
    weights = np.asarray(before["weights"])
    assert not weights[np.broadcast_to(padded[:, None], weights.shape)].any()


def test_all_negatives_count_first(trained):
    system, params, extras, batch = trained
    loss = jax.jit(lambda step: system.loss(params, {"step": step}, batch, jax.random.key(1))[0])
    first, second, later = (float(loss(jnp.int32(k))) for k in (0, 1, 2))
    assert first == second > later > 0
    assert int(system.update(params, extras)["step"]) == 1


def test_blocks_of_captions_change_nothing(trained):
    _, params, extras, batch = trained
    other = (
        replace(sets("rcar", 2).system, block=3, dropout=0.0).build(),
        replace(sets("rcar", 2).system, dropout=0.0).build(),
    )
    a, b = (jax.jit(s.loss)(params, extras, batch, jax.random.key(1))[0] for s in other)
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_regulation_by_hand():
    attention = np.zeros((1, 2, 5, 2), np.float32)
    attention[0, 0], attention[0, 1, 1], attention[0, 1, 2] = 0.5, [0.2, 0.8], [0.9, 0.1]
    weights = np.array([[[0.2] * 5, [0.1, 0.4, 0.3, 0.1, 0.1]]], np.float32)

    class Fake(Model):
        def __init__(self):
            self.experiment = sets("rcar", 2)

        def embed_split(self, name, split):
            return {"attention": attention, "weights": weights}

        def column(self, name, split):
            return ["a b c"] if name == "text" else [np.array([1, 0, -1, -1])]

    found = Regulation().run(Fake())
    expected = {
        "attention first": 0.5,
        "attention last": 0.85,
        "rise": 0.35,
        "chance": 0.5,
        "filler weight": 0.1 / 0.35,
    }
    assert found == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}


def test_a_table_of_eight_pictures(tmp_path):
    from PIL import Image

    rows = ["image,caption"]
    for i in range(8):
        Image.fromarray(np.full((40, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,grey number {i}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    tiny = get_config("tiny")
    parts = tuple(replace(m, field=m.name) for m in tiny.data.modalities)
    data = replace(tiny.data, source=Table(tmp_path / "pairs.csv", fractions=(1.0, 0.0, 0.0)), modalities=parts)
    split = open_split(data, lambda words, length: np.arange(length, dtype=np.int32), "train")
    batch, system = collate([split.entry(i) for i in range(8)]), tiny.system.build()
    params, extras = jax.jit(system.init)(jax.random.key(0), batch)
    assert np.isfinite(jax.jit(system.loss)(params, extras, batch, jax.random.key(0))[0])


@pytest.mark.parametrize(
    "change, words",
    [({"steps": 0}, "steps"), ({"warm": -1}, "warm"), ({"dim": 0}, "dim"), ({"margin": 0.0}, "margin")],
)  # fmt: skip
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(Config(), **change).build()

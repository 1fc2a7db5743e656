"""VideoLights' modules, matching and losses against the authors' numbers; traps by hand."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.video import videolights as configs
from mmrep import api, modality
from mmrep.config import Data
from mmrep.data.clips.moments import MomentData
from mmrep.data.tables import Table
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.set_prediction import SpanDecoder, inverse_sigmoid, match, sines
from mmrep.nn.spans import generalised_iou
from mmrep.systems.video.videolights import Config, losses
from mmrep.systems.video.videolights.model import BiCMF, Refinement, WeightedPool
from mmrep.systems.video.videolights.network import Feedback

GOLDEN = {k: v for k, v in np.load(Path(__file__).parents[2] / "golden" / "videolights.npz").items()}
LABELS = jnp.asarray(GOLDEN["lab"] / 12)
VALID = jnp.ones(LABELS.shape, bool)


def linear(name):
    weight = GOLDEN[f"{name}.weight"]
    return {"kernel": (weight[..., 0] if weight.ndim == 3 else weight).T, "bias": GOLDEN[f"{name}.bias"]}


def norm(name):
    return {"scale": GOLDEN[f"{name}.weight"], "bias": GOLDEN[f"{name}.bias"]}


def attention(name):
    w, b = GOLDEN[f"{name}.in_proj_weight"], GOLDEN[f"{name}.in_proj_bias"]
    parts = {
        k: {"kernel": a.T, "bias": c} for k, a, c in zip(("query", "key", "value"), np.split(w, 3), np.split(b, 3))
    }
    del parts["key"]["bias"]
    return parts | {"out": linear(f"{name}.out_proj")}


def test_refinement_is_the_authors_whose_word_path_is_constant():
    params = {
        "pool": {"weight": GOLDEN["fra.word_to_sentence_pool.weight"]}, "w_s": GOLDEN["fra.sim_w"], "g": GOLDEN["fra.cor_q_w"],
        "u": GOLDEN["fra.cor_v_w"], "mixer": linear("fra.mixer.conv1d"),
    }  # fmt: skip
    v, q, valid = jnp.asarray(GOLDEN["v"]), jnp.asarray(GOLDEN["q"]), jnp.asarray(GOLDEN["qm"] > 0)
    run = lambda words, **p: Refinement(words).apply({"params": p}, v, q, jnp.ones(v.shape[:2], bool), valid)  # noqa: E731
    np.testing.assert_allclose(run(False, **params), GOLDEN["fra"], atol=1e-5)
    del params["g"], params["u"]
    # R' q differs from clip to clip, and padded words do not change it.
    found = run(True, **params)
    assert np.abs(found - GOLDEN["fra"]).max() > 0.01
    q = q.at[1, 3:].set(100.0)
    np.testing.assert_allclose(run(True, **params), found, atol=1e-5)
    pool = WeightedPool().apply({"params": {"weight": jnp.zeros((8, 1))}}, q, valid)
    np.testing.assert_allclose(pool[1], q[1, :3].mean(0), atol=1e-5)


def test_two_way_fusion_is_the_authors():
    params = {f"linear{i}": linear(f"bi.linear{i}") for i in (1, 2, 3)} | {
        f"cross{i}": attention(f"bi.cross_attn_{i}") for i in (1, 2, 3)
    }
    params |= {f"norm{i}": norm(f"bi.norm{i}") for i in (1, 3, 4)} | {
        "mlp": {"up": linear("bi.linear4"), "down": linear("bi.linear5")}
    }
    t = GOLDEN["bicmf"].shape[1]
    src, at, valid = jnp.asarray(GOLDEN["src"]), jnp.asarray(GOLDEN["pos"]), jnp.asarray(~GOLDEN["pad"])
    config = TransformerConfig(width=8, depth=1, heads=2, mlp_dim=16, norm="post")
    inputs = src[:, 1 : t + 1], src[:, t + 1 :], at[:, 1 : t + 1], valid[:, 1 : t + 1], valid[:, t + 1 :]
    np.testing.assert_allclose(
        BiCMF(config, literal=True).apply({"params": params}, *inputs), GOLDEN["bicmf"], atol=2e-5
    )
    assert np.abs(BiCMF(config).apply({"params": params}, *inputs) - GOLDEN["bicmf"]).max() > 0.05


def test_overlaps_and_matching_are_the_authors():
    found = generalised_iou(GOLDEN["ga"][:, None], GOLDEN["gb"])
    np.testing.assert_allclose(found, GOLDEN["giou"], atol=1e-6)
    moments = GOLDEN["moments"]
    valid = moments[..., 1] > moments[..., 0]
    chosen, _ = match(
        losses.cost(*(jnp.asarray(GOLDEN[k]) for k in ("spans", "logits", "moments"))), jnp.asarray(valid)
    )
    for i in range(3):
        queries, targets = GOLDEN[f"match{i}"]
        np.testing.assert_array_equal(np.asarray(chosen[i])[targets], queries)


def test_losses_are_the_authors():
    l1, giou, label, taken = losses.matched(*(jnp.asarray(GOLDEN[k]) for k in ("spans", "logits", "moments")))
    for found, name in ((l1, "span"), (giou, "giou"), (label, "label")):
        np.testing.assert_allclose(found, GOLDEN[f"loss.loss_{name}"], rtol=1e-5)
    s, other, mr = (jnp.asarray(GOLDEN[k]) for k in ("sal", "neg", "mr"))
    total = losses.margin_loss(s, jnp.asarray(GOLDEN["hi"]), jnp.asarray(GOLDEN["lo"])) + losses.rank_loss(
        s, other, LABELS, VALID
    )
    total += (
        losses.negative_loss(other, VALID)
        + losses.cosine_loss(s, LABELS, VALID)
        + losses.cosine_loss(mr, LABELS, VALID)
    )
    total += 3 * 10 * losses.hard_loss(s, LABELS, VALID)
    np.testing.assert_allclose(total, GOLDEN["loss.loss_saliency"], rtol=1e-5)
    align = losses.query_align(jnp.asarray(GOLDEN["pq"]), jnp.asarray(GOLDEN["pt"]), jnp.ones((3, 5), bool), taken)
    v, w = GOLDEN["sv"], GOLDEN["st"].mean(1)[:, None]
    cosine = jnp.asarray((v * w).sum(-1) / np.linalg.norm(v, axis=-1) / np.linalg.norm(w, axis=-1))
    np.testing.assert_allclose(
        align + losses.cosine_loss(cosine, LABELS, VALID), GOLDEN["loss.loss_contrastive_align"], rtol=1e-5
    )


def test_labels_without_any_difference_and_padding_give_finite_losses():
    s, valid = jnp.asarray(GOLDEN["sal"]), VALID.at[:, 5:].set(False)
    for labels in (jnp.zeros_like(LABELS), jnp.ones_like(LABELS) * valid):
        for f in (losses.cosine_loss, losses.hard_loss):
            assert np.isfinite(jax.grad(lambda s: f(s, labels, valid))(s)).all()  # noqa: B023
        assert np.isfinite(losses.rank_loss(s, s, labels, valid))
        higher, lower = losses.pairs(labels, valid, jax.random.key(0))
        assert higher.max() < 5 and lower.max() < 5
    higher, lower = losses.pairs(LABELS, VALID, jax.random.key(1))
    np.testing.assert_array_equal(higher[:, 0], LABELS.argmax(1))
    assert (jnp.take_along_axis(LABELS, higher[:, 1:], 1) > 0).all() and (
        jnp.take_along_axis(LABELS, lower[:, 1:], 1) == 0
    ).all()


def test_feedback_reads_the_moments_clips_alone():
    clips, memory = (jax.random.normal(jax.random.key(i), (2, 6, 4)) for i in (0, 1))
    span = jnp.array([[0.34, 0.66], [0.9, 0.95]])  # clips 2 and 3; clip 5 alone
    params = Feedback().init(jax.random.key(2), clips, memory, span)
    run = jax.jit(lambda clips, span: Feedback().apply(params, clips, memory, span))
    jacobian = jax.jacobian(lambda x: run(x, span)[0, 0])(clips)[0]
    assert jacobian[2:4].any() and not jacobian[4:].any() and not jacobian[1].any()  # and clip 0, which is scored
    assert not jax.grad(lambda s: run(clips, s).sum())(span).any(), "no gradient of the indices"
    assert np.isfinite(run(clips, jnp.array([[0.5, 0.2], [1.0, 1.0]]))).all()


def test_anchors_and_sines():
    np.testing.assert_allclose(sines(jnp.array(0.25), 4), [1, 0, np.sin(np.pi / 200), np.cos(np.pi / 200)], atol=1e-6)
    np.testing.assert_allclose(jax.nn.sigmoid(inverse_sigmoid(jnp.array([0.2, 0.7]))), [0.2, 0.7], atol=1e-6)
    decoder = SpanDecoder(TransformerConfig(width=8, depth=2, heads=2, norm="post"), 3)
    memory, valid = jax.random.normal(jax.random.key(0), (2, 5, 8)), jnp.arange(5) < jnp.array([[5], [3]])
    params = decoder.init(jax.random.key(1), memory, memory, valid)
    run = jax.jit(lambda m: decoder.apply(params, m, memory, valid))
    first, second = run(memory)
    assert first[1].shape == (2, 3, 2) and 0 <= second[1].min() <= second[1].max() <= 1
    np.testing.assert_allclose(run(memory.at[1, 3:].set(9.0))[1][1], second[1], atol=1e-6)


def test_hard_weight_grows_with_the_steps_up_to_its_cap():
    system = configs.codes(16, 1, warm=2, cap=3.0, queries=2).build()
    batch = modality.example(configs.get_config("tiny").data.modalities, 4)
    batch["moment"] = np.tile(np.array([[[0.2, 0.6]]], np.float32), (4, 1, 1))
    batch["labels"] = np.abs(batch["labels"]) % 1
    params, extras = system.init(jax.random.key(0), batch)
    run = jax.jit(lambda step: system.loss(params, {"step": step}, batch, jax.random.key(1))[0])
    values = [float(run(jnp.int32(s))) for s in (0, 1, 2, 4, 6, 60)]
    assert values[0] == values[1] < values[2] < values[3] == values[4] == values[5]
    np.testing.assert_allclose(values[3] - values[2], values[2] - values[0], rtol=1e-3)
    assert system.update(params, extras)["step"] == 1
    with pytest.raises(ConfigError, match="batch_size is 1"):
        system.loss(params, extras, {k: v[:1] for k, v in batch.items()}, jax.random.key(1))


def test_pseudo_labels():
    labels, captions = (
        MomentData(n_train=300).open("train").columns,
        MomentData(n_train=300, queries="captions").open("train").columns,
    )
    assert captions["moment"].shape == (300, 1, 2) and set(np.unique(captions["saliency"])) == {0.0, 1.0}
    inside = (labels["saliency"] > 0).mean(1)
    np.testing.assert_allclose(inside, np.ptp(labels["moment"][:, 0], axis=1), atol=1e-6)
    # The clause of the event that the stretch shows is the caption, but for the wrong ones.
    c = MomentData(n_train=300).clips().columns("train", np.arange(300))
    event = (np.abs(c["spans"] - captions["moment"]).sum(-1)).argmin(1)
    right = np.mean([row[e] == text for row, e, text in zip(c["clauses"], event, captions["text"])])
    assert 0.6 < right < 0.8


@pytest.mark.parametrize("features", [False, True])
def test_on_eight_rows_of_a_users_table(tmp_path, features):
    rng = np.random.default_rng(0)
    rows = [
        {"video": rng.normal(size=(8, 5)).tolist(), "text": rng.normal(size=(4, 3)).tolist() if features else "a man runs",
         "moment": [[0.0, 0.5], [0.5, 0.75 if i else 0.5]], "saliency": [0.5] * 4 + [0.0] * 4, "split": "test" if i % 2 else "train"}
        for i in range(8)
    ]  # fmt: skip
    path = tmp_path / "moments.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    extra = ("video", "moment", "saliency", *(("text",) if features else ()))
    source = Table(path, image=None, text=None if features else "text", extra=extra)
    base = configs.get_config("tiny")
    text = modality.vector("text", 4, 3) if features else modality.text("text", 6, 300)
    parts = (
        modality.vector("video", 8, 5),
        text,
        modality.vector("moment", 2, 2),
        modality.vector("labels", 8, field="saliency"),
    )
    system = replace(base.system, text=None if features else replace(base.system.text, vocab=300), sources=(2, 3))
    tokenizer = None if features else replace(base.data.tokenizer, vocab=300, kind="unigram")
    evals = (base.evals[0], replace(base.evals[1], least=0.5))
    found = api.evaluate(
        api.create(
            replace(base, system=system, data=Data(source, parts, tokenizer, 4, 4), phases=base.phases[1:], evals=evals)
        )
    )
    assert 0 <= found["mAP"] <= 1 and found["HD chance"] == 0.5


def test_errors():
    for changes, match_ in (
        ({"encoder": 0}, "encoder is 0"),
        ({"warm": 0}, "1 step"),
        ({"input_dropout": 1.0}, r"\[0, 1\)"),
    ):
        with pytest.raises(ConfigError, match=match_):
            Config(**changes).build()
    system = configs.codes(sources=(3, 4)).build()
    with pytest.raises(ConfigError, match="its sum must be 16"):
        system.init(jax.random.key(0), modality.example(configs.get_config("tiny").data.modalities, 2))

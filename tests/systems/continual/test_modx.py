"""Mod-X: the distillation by hand and against loops, the teacher's snapshots, and the measures of forgetting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.continual.modx import get_config
from mmrep import modality
from mmrep.config import Data, Tokenizer, fingerprint
from mmrep.data import pipeline
from mmrep.data.scenes import CaptionSpec, Joint, SceneData, domain
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.model import Model
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.continual.modx import Config, distillation, snapshot
from mmrep.systems.continual.modx.data import Domain
from mmrep.systems.continual.modx.evals import Domains, forgetting, ram, sam, stream_metrics
from mmrep.systems.continual.modx.model import (
    diagonal_distillation,
    feature_distillation,
    kl_divergence,
    modx_loss,
    right_rows,
    similarity_distillation,
)

IMAGE, TEXT = (
    ImageEncoder(TransformerConfig(width=32, depth=1, heads=4), patch=8),
    TextEncoder(TransformerConfig(width=32, depth=1, heads=4), vocab=64, length=12),
)
PAIR = (modality.image("image", 16, field="rgb"), modality.text("text", 12, 64, "caption"))
BATCH = {k: jnp.asarray(v) for k, v in modality.example(PAIR, 6).items()}
# Two similarity matrices of a hand check.
NEW = np.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.0], [0.1, 0.4, 0.7]], np.float32)
OLD = np.array([[0.8, 0.3, 0.2], [0.5, 0.4, 0.1], [0.0, 0.2, 0.9]], np.float32)
EYE = jnp.eye(3, dtype=jnp.float32)


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def kl_rows(old, new, temperature=1.0):
    """KL of each row's softmax, in float64."""
    p, q = (np.exp(np.asarray(x, np.float64) / temperature) for x in (old, new))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return (p * np.log(p / q)).sum(-1)


def distilled(old=OLD, new=NEW, **fields):
    """x = rows of the matrix, y = unit axes: the cosines of x and y are the matrix itself."""
    return float(distillation(Config(**fields), (jnp.asarray(old), EYE), (jnp.asarray(new), EYE))[0])


def test_kl_divergence_equals_naive():
    t, s = unit(0, 2, 3, 5), unit(1, 2, 3, 5)
    np.testing.assert_allclose(kl_divergence(t, s, 0.5), kl_rows(t, s, 0.5), rtol=1e-4)
    np.testing.assert_allclose(kl_divergence(t, t), 0.0, atol=1e-7)
    assert not np.any(jax.grad(lambda x: kl_divergence(x, s).sum())(t))
    extreme = kl_divergence(jnp.array([[1e4, -1e4]], jnp.bfloat16), jnp.array([[-1e4, 1e4]], jnp.bfloat16))
    assert extreme.dtype == jnp.float32 and np.isfinite(extreme).all()


def test_golden_numbers():
    np.testing.assert_array_equal(right_rows(jnp.asarray(OLD)), [True, False, True])
    np.testing.assert_array_equal(right_rows(jnp.asarray(OLD.T)), [True, True, True])
    np.testing.assert_allclose(kl_rows(OLD, NEW)[[0, 2]].sum(), 0.0214071, atol=1e-6)  # row 1 is screened out
    np.testing.assert_allclose(kl_rows(OLD.T, NEW.T).sum(), 0.0323807, atol=1e-6)
    np.testing.assert_allclose(distilled(), 0.0268939, atol=1e-6)
    np.testing.assert_allclose(distilled(reduction="mean"), 0.0268939 / 3, atol=1e-6)
    unscreened = (kl_rows(OLD, NEW).sum() + kl_rows(OLD.T, NEW.T).sum()) / 2
    np.testing.assert_allclose(distilled(screen=False), unscreened, atol=1e-6)
    assert abs(distilled(distil_temperature=0.1) - 0.0268939) > 0.1, "the temperature matters"
    assert abs(distilled(NEW, OLD) - 0.0268939) > 1e-3, "the direction of the KL matters"


def test_diagonal_and_features_by_hand():
    np.testing.assert_allclose(
        distilled(distil="diagonal"), np.sum((np.diagonal(OLD) - np.diagonal(NEW)) ** 2), atol=1e-6
    )
    turned = jnp.roll(EYE, 1, axis=0)
    np.testing.assert_allclose(distilled(EYE, turned, distil="features"), 1.5, atol=1e-6)
    # Mod-X permits one rotation of both modalities: it keeps the matrix and moves every feature.
    np.testing.assert_allclose(distillation(Config(), (EYE, EYE), (EYE @ turned, EYE @ turned))[0], 0.0, atol=1e-6)
    t, s = unit(0, 3, 4), unit(1, 3, 4)
    np.testing.assert_allclose(feature_distillation(t, 5 * s), 1 - (t * s).sum(-1), rtol=1e-4)
    value, gradient = jax.value_and_grad(lambda x: feature_distillation(t[:1], x).sum())(jnp.zeros((1, 4)))
    assert value == 1 and np.isfinite(gradient).all()
    for loss in (feature_distillation, lambda x, y: diagonal_distillation((x, t), (y, s))):
        assert not np.any(jax.grad(lambda x, f=loss: f(x, s).sum())(t))


def test_a_teacher_that_is_wrong_everywhere_adds_nothing():
    wrong = jnp.roll(EYE, 1, axis=0)
    value, slope = jax.value_and_grad(lambda x: distillation(Config(), (wrong, EYE), (x, EYE))[0])(jnp.asarray(NEW))
    assert value == 0.0 and (slope == 0.0).all()
    assert modx_loss((wrong, EYE), (jnp.asarray(NEW), EYE))[1] == 0.0


def test_duplicate_captions_do_not_screen_a_right_row_out():
    x = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], jnp.float32)
    shifted = jnp.asarray(NEW[:, :2])
    first_only = similarity_distillation(x @ x.T, shifted @ x.T)
    assert (first_only[:2] > 0).all(), "argmax would have called row 1 wrong"
    assert right_rows(jnp.array([[0.9, 0.9 + 1e-7], [0.9, 0.9 + 1e-7]])).all()


def test_gradients_of_the_matrix_and_none_to_the_teacher():
    slopes = jax.grad(lambda old: modx_loss(old, (jnp.asarray(NEW), EYE))[0].sum())((jnp.asarray(OLD), EYE))
    assert not any(np.any(g) for g in slopes)


@pytest.fixture(scope="module")
def made():
    system = Config(IMAGE, TEXT, 16, alpha=20.0).build()
    params, extras = jax.jit(system.init)(jax.random.key(0), BATCH)
    return system, params, extras


def moved(params, size=0.05):
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [x + size * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys)])


def test_loss_is_contrast_and_alpha_times_the_sum(made):
    system, params, extras = made
    student, loss = moved(params), jax.jit(system.loss)
    value, (kept, metrics) = loss(student, extras, BATCH, jax.random.key(0))
    embed = jax.jit(lambda p: tuple(system.infer[n](p, {}, BATCH) for n in ("image", "text")))
    new, old = embed(student), embed(params)
    values, right = modx_loss(old, new)
    contrast = symmetric_info_nce(*new, metrics["scale"]).mean()
    assert values.sum() > 0
    np.testing.assert_allclose(value, contrast + 20 * values.sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["teacher_right"], right, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, kept, extras)
    _, taken = snapshot(student, extras)
    jax.tree.map(np.testing.assert_array_equal, taken["teacher"], {n: student[n] for n in ("image", "text")})
    assert loss(student, taken, BATCH, jax.random.key(0))[1][1]["distil"] < 1e-6


def test_one_pair_is_refused(made):
    system, params, extras = made
    with pytest.raises(ConfigError, match="data.batch_size is 1"):
        jax.eval_shape(system.loss, params, extras, {k: v[:1] for k, v in BATCH.items()}, jax.random.key(0))


def test_angles():
    u = np.array([[1.0, 0.0], [0.6, 0.8]])
    quarter = u @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(ram(u, quarter), 90.0, atol=1e-6)
    np.testing.assert_allclose(sam(u), sam(quarter), atol=1e-5)  # a rotation inside the modality leaves SAM alone
    np.testing.assert_allclose(sam(u)[0, 1], np.degrees(np.arccos(0.6)), atol=1e-6)


def test_forgetting_is_the_fall_from_the_best_phase():
    recalls = np.array([[0.8, 0.0, 0.0], [0.5, 0.6, 0.1], [0.2, 0.7, 0.9]])
    np.testing.assert_allclose(forgetting(recalls), ((0.8 - 0.2) + (0.7 - 0.7)) / 2)


class Fake(Model):
    """Two domains of two pairs, interleaved."""

    def __init__(self):
        eye = np.eye(4, dtype=np.float32)
        self.sets = {"image": eye[[0, 1, 2, 3]], "text": eye[[0, 3, 2, 1]]}

    def embed_split(self, name, split="test", fields=()):
        return self.sets[name]

    def column(self, field, split="test"):
        return [0, 1, 0, 1]


def test_domains_are_ranked_among_themselves():
    assert Domains(("a", "b")).run(Fake()) == {"R@1 a": 1.0, "R@1 b": 0.0, "R@1 first": 1.0, "R@1 mean": 0.5}


def test_metrics_of_a_stream():
    rows = [
        {"train/loss": 1.0, "train/teacher_right": 0.5},
        {"eval/R@1 a": 0.25, "eval/R@1 b": 0.75, "eval/R@1 mean": 0.5},
    ]
    after = Fake()
    after.sets = {"image": after.sets["image"], "text": np.roll(after.sets["text"], 1, axis=1)}
    found = stream_metrics(("a", "b"), Fake(), after, rows)
    assert found["R@1 first"] == found["kept"] == 0.25 and found["R@1 newest"] == 0.75
    assert found["forgetting"] == 0.75 and found["teacher right"] == 0.5
    np.testing.assert_allclose([found["RAM image"], found["RAM text"], found["RAM apart"]], [0, 90, 90], atol=1e-6)
    assert found["R@1 b after a"] == 0.0 and found["R@1 b after b"] == 0.75


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
def test_every_phase_but_the_first_begins_with_a_snapshot(size):
    first, *later = get_config(size).phases
    assert first.begin is None and first.system.alpha == 0
    assert all(p.begin is snapshot and p.system is None for p in later) and get_config(size).system.alpha == 20


def test_a_domain_has_its_own_pairs_and_the_words_of_all():
    spec = CaptionSpec("list", attributes=("colour",))
    parts = [SceneData(24, 4, 4, seed=i, world=domain(d), caption=spec) for i, d in enumerate(("clean", "night"))]
    stream = Joint(tuple(parts))
    night = Domain(stream, 1)
    assert night.open("train")[3]["caption"] == parts[1].open("train")[3]["caption"]
    assert [*night.texts("train")] == [*stream.texts("train")]
    data = Data(stream, PAIR, Tokenizer(64, "word"))
    models = [
        pipeline.load_tokenizer(data, pipeline.fit_tokenizer(data, [stream, *phases], None))
        for phases in ([Domain(stream, 0)], [Domain(stream, 0), night])
    ]
    pieces = [[m.piece(i) for i in range(m.vocab)] for m in models]
    assert pieces[0] == pieces[1], "the base model and the stream have one tokenizer"
    assert fingerprint(night) != fingerprint(Domain(stream, 0))


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha", -1.0), ("distil", "rows"), ("reduction", "max"), ("distil_temperature", 0.0), ("temperature", 2.0)],
)
def test_impossible_fields_are_named(field, value):
    wrong = Config()
    object.__setattr__(wrong, field, value)  # past the type check of the constructor
    with pytest.raises(ConfigError, match=f"system.{field}"):
        wrong.build()

"""Mod-X: the distillation by hand through the system, the teacher's snapshots, and the forgetting measures."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, fingerprint
from mmrep.data import pipeline
from mmrep.data.scenes import CaptionSpec, Joint, SceneData, domain
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.model import Model
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.continual.modx import Config, snapshot
from mmrep.systems.continual.modx.data import Domain
from mmrep.systems.continual.modx.evals import Domains, forgetting, measures, ram, sam
from mmrep.systems.continual.modx.model import similarity_distillation
from mmrep.training import loop

IMAGE, TEXT = (
    ImageEncoder(TransformerConfig(width=32, depth=1, heads=4), patch=8),
    TextEncoder(TransformerConfig(width=32, depth=1, heads=4), vocab=64, length=12),
)
PAIR = (modality.image("image", 16, field="rgb"), modality.text("text", 12, 64, "caption"))
BATCH = {k: jnp.asarray(v) for k, v in modality.example(PAIR, 6).items()}
# The dossier of the paper's matrices: as unit vectors they are the cosines of an identity on one side.
NEW = np.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.0], [0.1, 0.4, 0.7]], np.float32)
OLD = np.array([[0.8, 0.3, 0.2], [0.5, 0.4, 0.1], [0.0, 0.2, 0.9]], np.float32)
EYE = jnp.eye(3, dtype=jnp.float32)


def system(**changes):
    made = Config(IMAGE, TEXT, 16, **changes).build()
    return made, *made.init(jax.random.key(0), BATCH)


def moved(params, size=0.05):
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [x + size * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys)])


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def kl_rows(old, new):
    p, q = softmax(old.astype(np.float64)), softmax(new.astype(np.float64))
    return (p * np.log(p / q)).sum(-1)


def test_distillation_is_the_golden_one():
    # x = rows of the matrix, y = unit axes: similarity(x, y) is the matrix itself.
    found = Config().distil(jnp.asarray(OLD), EYE, jnp.asarray(NEW), EYE)
    np.testing.assert_allclose(found, 0.0268939, atol=1e-6)
    np.testing.assert_allclose(kl_rows(OLD, NEW)[[0, 2]].sum(), 0.0214071, atol=1e-6)  # row 1 is screened out
    np.testing.assert_allclose(kl_rows(OLD.T, NEW.T).sum(), 0.0323807, atol=1e-6)
    np.testing.assert_allclose(
        Config(reduction="mean").distil(jnp.asarray(OLD), EYE, jnp.asarray(NEW), EYE), 0.0268939 / 3, atol=1e-6
    )
    everything = Config(screen=False).distil(jnp.asarray(OLD), EYE, jnp.asarray(NEW), EYE)
    np.testing.assert_allclose(everything, (kl_rows(OLD, NEW).sum() + kl_rows(OLD.T, NEW.T).sum()) / 2, atol=1e-6)
    assert float(everything) > 0.03
    sharp = Config(distil_temperature=0.1).distil(jnp.asarray(OLD), EYE, jnp.asarray(NEW), EYE)
    assert abs(float(sharp) - 0.0268939) > 0.1, "the temperature matters"
    other_way = similarity_distillation(jnp.asarray(NEW), jnp.asarray(OLD)).sum()
    assert abs(float(other_way) - 0.0268939) > 1e-3, "the direction of the KL matters"


def test_diagonal_and_features_by_hand():
    diagonal = Config(keep="diagonal").distil(jnp.asarray(OLD), EYE, jnp.asarray(NEW), EYE)
    np.testing.assert_allclose(diagonal, np.sum((np.diagonal(OLD) - np.diagonal(NEW)) ** 2), atol=1e-6)
    turned = jnp.roll(EYE, 1, axis=0)
    np.testing.assert_allclose(Config(keep="features").distil(EYE, EYE, turned, EYE), 1.5, atol=1e-6)
    # What Mod-X lets be: one rotation of both modalities keeps the matrix and moves every feature.
    np.testing.assert_allclose(Config().distil(EYE, EYE, EYE @ turned, EYE @ turned), 0.0, atol=1e-6)


def test_a_teacher_that_is_wrong_everywhere_teaches_nothing():
    wrong = jnp.roll(EYE, 1, axis=0)
    value, slope = jax.value_and_grad(lambda x: Config().distil(wrong, EYE, x, EYE))(jnp.asarray(NEW))
    assert value == 0.0 and (slope == 0.0).all()


def test_duplicate_captions_do_not_screen_a_right_row_out():
    x = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], jnp.float32)
    shifted = jnp.asarray(NEW[:, :2])
    assert Config().distil(x, x, shifted, x) > 0
    first_only = similarity_distillation(x @ x.T, shifted @ x.T)
    assert (first_only[:2] > 0).all(), "argmax would have called row 1 wrong"


def test_loss_is_contrast_and_alpha_times_the_sum():
    made, params, extras = system(alpha=20.0)
    student = moved(params)
    loss, (kept, metrics) = made.loss(student, extras, BATCH, jax.random.key(0))
    x, y = (made.infer[n](student, {}, BATCH) for n in ("image", "text"))
    u, v = (made.infer[n](params, {}, BATCH) for n in ("image", "text"))
    scale = metrics["scale"]
    contrast = symmetric_info_nce(x, y, scale).mean()
    old, new = np.asarray(u @ v.T), np.asarray(x @ y.T)
    right = [np.diagonal(m) >= m.max(1) - 1e-6 for m in (old, old.T)]
    distil = 0.5 * sum((kl_rows(a, b) * r).sum() for a, b, r in ((old, new, right[0]), (old.T, new.T, right[1])))
    assert distil > 0
    np.testing.assert_allclose(loss, contrast + 20 * distil, rtol=1e-4)
    np.testing.assert_allclose(metrics["teacher_right"], np.mean(right), rtol=1e-6)
    plain, _, _ = system(alpha=0.0)
    np.testing.assert_allclose(plain.loss(student, extras, BATCH, jax.random.key(0))[0], contrast, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, kept, extras)


def test_no_gradient_reaches_the_teacher_and_none_arises_where_nothing_has_moved():
    made, params, extras = system(screen=False)
    student = moved(params)
    slopes = jax.grad(lambda e: made.loss(student, e, BATCH, jax.random.key(0))[0])(extras)
    assert all((x == 0).all() for x in jax.tree.leaves(slopes))
    plain, _, _ = system(alpha=0.0)
    here, there = (
        jax.grad(lambda p, s=s: s.loss(p, extras, BATCH, jax.random.key(0))[0])(params) for s in (made, plain)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), here, there)


def test_snapshot_is_the_model_as_it_is_now():
    made, params, extras = system()
    later = moved(params)
    same, taken = snapshot(later, extras)
    assert same is later
    assert jax.tree.structure(taken) == jax.tree.structure(extras)
    jax.tree.map(np.testing.assert_array_equal, taken["teacher"], {n: later[n] for n in ("image", "text")})
    assert made.loss(later, taken, BATCH, jax.random.key(0))[1][1]["distil"] < 1e-6
    assert made.loss(later, extras, BATCH, jax.random.key(0))[1][1]["teacher_right"] <= 1.0


def test_one_pair_is_refused():
    made, params, extras = system()
    with pytest.raises(ConfigError, match="data.batch_size is 1"):
        made.loss(params, extras, {k: v[:1] for k, v in BATCH.items()}, jax.random.key(0))


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


def test_measures_of_a_stream():
    rows = [
        {"train/loss": 1.0, "train/teacher_right": 0.5},
        {"eval/R@1 a": 0.25, "eval/R@1 b": 0.75, "eval/R@1 mean": 0.5},
    ]
    after = Fake()
    after.sets = {"image": after.sets["image"], "text": np.roll(after.sets["text"], 1, axis=1)}
    found = measures(("a", "b"), Fake(), after, rows)
    assert found["R@1 first"] == found["kept"] == 0.25 and found["R@1 newest"] == 0.75
    assert found["forgetting"] == 0.75 and found["teacher right"] == 0.5
    np.testing.assert_allclose([found["RAM image"], found["RAM text"], found["RAM apart"]], [0, 90, 90], atol=1e-6)
    assert found["R@1 b after a"] == 0.0 and found["R@1 b after b"] == 0.75


def test_the_teacher_is_the_end_of_the_phase_before():
    spec = CaptionSpec("list", attributes=("colour",))
    stream = Joint(tuple(SceneData(16, 4, 4, seed=i, size=16, caption=spec) for i in range(3)))
    config, data = Config(IMAGE, TEXT, 16), Data(stream, PAIR, Tokenizer(64, "word"), 8)
    phases = tuple(Phase(f"{i}", 1, Domain(stream, i), begin=snapshot if i else None) for i in range(3))
    config = Experiment(config, data, phases, Optim(lr=1e-2, schedule="constant"))
    ends = [loop.train(config, progress=False, stop=n) for n in (1, 2, 3)]
    for earlier, later in pairwise(ends):
        for name in ("image", "text"):
            jax.tree.map(np.testing.assert_array_equal, later.extras["teacher"][name], earlier.params[name])
    first, last = (jax.tree.leaves(e.extras["teacher"]) for e in (ends[0], ends[2]))
    assert not any(np.array_equal(a, b) for a, b in zip(first, last)), "the teacher is refreshed in every phase"


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
    assert pieces[0] == pieces[1], "the base model and the stream must read words alike"
    assert fingerprint(night) != fingerprint(Domain(stream, 0))


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha", -1.0), ("keep", "rows"), ("reduction", "max"), ("distil_temperature", 0.0), ("temperature", 2.0)],
)
def test_impossible_fields_are_named(field, value):
    wrong = Config()
    object.__setattr__(wrong, field, value)  # past the type check of the constructor
    with pytest.raises(ConfigError, match=f"system.{field}"):
        wrong.build()

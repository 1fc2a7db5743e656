"""The dense evaluators, on a system whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from mmrep import modality
from mmrep.config import Data
from mmrep.errors import ConfigError, DataError
from mmrep.evals.dense import CrossPrediction, EverySubset, Predicted, Segmentation, depth_scores
from mmrep.model import Model
from mmrep.nn.maps import DenseModality

RGB, DEPTH = DenseModality("rgb", (8, 8), 2, 3), DenseModality("depth", (8, 8), 2, mean=(0.5,), std=(0.25,))
SEMSEG = DenseModality("semseg", (4, 4), 1, classes=3)
PARTS = (
    modality.image("rgb", 8), modality.image("depth", 8, 1), modality.label_map("semseg", 4, 3), modality.label("kind", 3),
)  # fmt: skip


def made(n, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 3, (n, 4, 4)).repeat(2, 1).repeat(2, 2).astype(np.uint8)
    # Colour shows the class, depth half of it.
    return [
        {
            "rgb": np.eye(3, dtype=np.uint8)[i] * 255,
            "depth": np.float32(0.25 + 0.5 * (i == 2))[..., None],
            "semseg": i,
            "kind": i[0, 0],
        }
        for i in ids
    ]


class FakeModel(Model):
    """Knows the classes where colour is given; from depth alone it takes class 0 for 1; each map follows from the classes."""

    data = Data(None, PARTS)

    def __init__(self):
        self.sets = {s: made(30, i) for i, s in enumerate(("train", "val", "test"))}

    def records(self, split="test", limit=0):
        return self.sets[split][: limit or None]

    def call(self, name, /, **values):
        given = {
            k: np.stack([modality.encode(m, x, None)[k] for x in values[k]])
            for k, m in zip(("rgb", "depth", "semseg"), PARTS)
            if k in values
        }
        if "semseg" in given:
            ids = given["semseg"]
        elif "rgb" in given:
            ids = given["rgb"][:, ::2, ::2].argmax(-1)
        else:
            ids = 2 * (given["depth"][:, ::2, ::2, 0] > 0.5)
        scores, fine = np.eye(3)[ids], ids.repeat(2, 1).repeat(2, 2)
        depth = 0.25 + 0.5 * (fine == 2)[..., None]
        if name == "fused_tokens":
            return scores.reshape(len(ids), 16, 3), np.ones((len(ids), 16), bool)
        if name == "reconstruct":
            return {"rgb": np.eye(3)[fine] * 2 - 1, "depth": (depth - 0.5) / 0.25, "semseg": scores}
        return {"predict": scores, "depth": depth + 0.05, "kind": scores[:, 0, 0]}[name]


def test_every_subset_of_maps_is_asked_about_every_other():
    found = EverySubset((RGB, DEPTH, SEMSEG), limit=20).run(FakeModel())
    given = {"rgb": ("nothing", "depth", "semseg", "depth+semseg"), "depth": ("nothing", "rgb", "semseg", "rgb+semseg")}
    names = {f"{t} from {g} L1" for t, gs in given.items() for g in gs}
    assert {*found} == names | {f"semseg from {g} mIoU" for g in ("nothing", "rgb", "depth", "rgb+depth")}
    assert (
        found["depth from rgb L1"] < 1e-6 and found["semseg from rgb mIoU"] == found["semseg from rgb+depth mIoU"] == 1
    )
    truth = np.stack([r["semseg"] for r in made(20, 2)])[:, ::2, ::2]
    zero, one = (truth == 0).sum(), (truth == 1).sum()
    np.testing.assert_allclose(found["semseg from depth mIoU"], (zero / (zero + one) + 0 + 1) / 3)
    learnt = np.stack([r["semseg"] for r in made(20, 0)])
    prior = np.bincount(learnt[:, ::2, ::2].reshape(-1)).argmax()
    np.testing.assert_allclose(found["semseg from nothing mIoU"], (truth == prior).mean() / 3)
    mean = (learnt == 2).mean(0) * 2 - 1
    fine = truth.repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(found["depth from nothing L1"], np.abs(mean - ((fine == 2) * 2 - 1)).mean(), rtol=1e-5)
    assert not [
        k
        for k in EverySubset((RGB, DEPTH, SEMSEG), targets=("depth",), limit=4).run(FakeModel())
        if "depth from" not in k
    ]


class Resizable(FakeModel):
    """A token is the colour of its patch, or 0 with `fixed` for images of another size."""

    def __init__(self, fixed=False):
        super().__init__()
        self.fixed = fixed

    def infer(self, name, images):
        x = images["rgb"][:, ::2, ::2].reshape(len(images["rgb"]), -1, 3)
        return x * (0 if self.fixed else 1), np.ones(x.shape[:2], bool)


def test_larger_images_are_scored_with_the_head_of_the_small_ones():
    def source(times, cut=None):
        rows = [
            {k: np.tile(r[k], (times, times, 1)[: r[k].ndim])[:cut, :cut] for k in ("rgb", "semseg")}
            for r in made(12, 9)
        ]
        coarse = [r | {"semseg": r["semseg"][::2, ::2]} for r in rows]
        return SimpleNamespace(open=lambda split: coarse)

    evaluator = Segmentation(SEMSEG, labelled=20, larger=(source(2), source(3)), batch=5, name="s")
    found = evaluator.run(Resizable())
    assert [*found] == ["s mIoU", "s pixel accuracy", "s x2 mIoU", "s kept x2", "s x3 mIoU", "s kept x3"]
    assert all(v == 1.0 for v in found.values())
    lost = evaluator.run(Resizable(fixed=True))
    assert lost["s mIoU"] == 1.0 and lost["s kept x2"] < 0.3
    with pytest.raises(DataError, match="patch"):
        Segmentation(DenseModality("semseg", (4, 4), 2, classes=3), larger=(source(2, 14),), batch=5).run(Resizable())


def test_heads_are_scored_in_the_units_of_the_batch():
    model = FakeModel()
    assert Predicted(SEMSEG).run(model) == {"semseg|rgb mIoU": 1.0, "semseg|rgb pixel accuracy": 1.0}
    assert Predicted("kind", features="kind").run(model) == {"kind|rgb accuracy": 1.0}
    found = Predicted(DEPTH, ("rgb",), features="depth").run(model)
    np.testing.assert_allclose(found["depth|rgb L1"], 0.05, rtol=1e-5)
    assert found["depth|rgb delta1"] == 1.0  # 0.30 / 0.25 = 1.2
    alone = Predicted(SEMSEG, ("depth",), name="alone").run(model)
    assert 0.3 < alone["alone mIoU"] < 0.6 < alone["alone pixel accuracy"] < 0.8
    with pytest.raises(ConfigError, match="kinds"):
        Predicted("kinds").run(model)


def test_depth_scores_are_the_published_ones():
    t, p = np.array([1.0, 2.0, 4.0, 0.0]), np.array([1.2, 2.6, 3.0, 0.1])
    found = depth_scores(p, t)
    np.testing.assert_allclose(found["L1"], (0.2 + 0.6 + 1.0 + 0.1) / 4)
    np.testing.assert_allclose(found["RMSE"], np.sqrt((0.04 + 0.36 + 1 + 0.01) / 4))
    np.testing.assert_allclose(found["delta1"], 1 / 3)  # a hole (0) has no ratio


def test_a_linear_head_reads_classes_of_a_coarser_map():
    found = Segmentation(SEMSEG, labelled=20).run(FakeModel())
    assert found["semseg|rgb mIoU"] == found["semseg|rgb pixel accuracy"] == 1.0


def test_cross_prediction_tells_whose_picture_it_was():
    found = CrossPrediction(DEPTH, limit=20).run(FakeModel())
    assert found["depth|rgb L1"] < 1e-6 and found["depth|rgb L1 of another"] > 0.5

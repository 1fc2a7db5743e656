"""The evaluators of class maps, on tokens for which the right result is known."""

import numpy as np

from configs.masked.croma.proof import drawn
from mmrep.model import Model
from mmrep.nn.maps import DenseModality
from mmrep.systems.masked.croma.evals import ClassFraction

COVER = DenseModality("landcover", (8, 8), 2, classes=3)


def made(n, size, seed):
    ids = np.random.default_rng(seed).integers(0, 3, (n, size // 2, size // 2)).repeat(2, 1).repeat(2, 2)
    return [
        {"landcover": i.astype(np.uint8), "optical": np.eye(3)[i] * 255, "radar": np.zeros((size, size, 1))}
        for i in ids
    ]


class FakeModel(Model):
    """A token is the class of its patch as the optical map has it; with `blind` it is 0 for images of another size."""

    def __init__(self, blind=False):
        self.sets = {s: made(30, 8, i) for i, s in enumerate(("train", "val", "test"))}
        self.blind = blind

    def records(self, split="test", limit=0):
        return self.sets[split][: limit or None]

    def infer(self, name, images):
        x = next(iter(images.values()))
        tokens = x[:, ::2, ::2].reshape(len(x), -1, x.shape[-1]).astype(np.float32)
        return tokens, np.ones(tokens.shape[:2], bool)

    def call(self, name, /, **values):
        return self.infer(name, {k: np.stack(v) for k, v in values.items()})


def test_fractions_are_predicted_from_tokens_that_contain_them_only():
    found = ClassFraction(COVER, givens=(("optical",), ("radar",)), labelled=20).run(FakeModel())
    assert found["cover|optical R2"] > 0.99 and found["cover|radar R2"] < 0.1
    np.testing.assert_allclose(found["cover mean R2"], (found["cover|optical R2"] + found["cover|radar R2"]) / 2)


def test_the_target_of_the_positions_is_the_sum_of_nine_patches():
    x, y = drawn(np.random.default_rng(0), 2, 4)
    np.testing.assert_allclose(y.reshape(2, 4, 4)[:, 1, 2], x[:, 0:3, 1:4, 0].sum((1, 2)) / 3, rtol=1e-5)
    np.testing.assert_allclose(y.reshape(2, 4, 4)[:, 0, 0], x[:, :2, :2, 0].sum((1, 2)) / 3, rtol=1e-5)

"""Late-interaction retrieval and zero-shot against loops over tokens."""

import numpy as np

from mmrep.model import Model
from mmrep.systems.contrastive.filip.evals import LateRetrieval, LateZeroShot, late_scores


class Fake(Model):
    """Made-up tokens under their infer names, prompts under their texts."""

    def __init__(self, tokens, column, prompts=None):
        self.tokens, self.values, self.prompts, self.asked = tokens, column, prompts, []

    def embed_split(self, name, split="test", fields=()):
        return self.tokens[name]

    def call(self, name, /, **values):
        self.asked += values["text"]
        found = np.stack([self.prompts[t] for t in values["text"]])
        return {"tokens": found, "valid": np.ones(found.shape[:2], bool)}

    def column(self, field, split="test"):
        return self.values


def tokens(rng, count, length):
    x = rng.standard_normal((count, length, 4)).astype(np.float32)
    valid = np.arange(length) < rng.integers(1, length + 1, count)[:, None]
    return {"tokens": x / np.linalg.norm(x, axis=-1, keepdims=True), "valid": valid}


def naive(queries, targets):
    return np.array(
        [
            [
                np.mean([max(float(q @ t) for t in b[v]) for q in a[u]])
                for b, v in zip(targets["tokens"], targets["valid"])
            ]
            for a, u in zip(queries["tokens"], queries["valid"])
        ]
    )


def test_scores_average_the_query_side():
    rng = np.random.default_rng(0)
    x, y = tokens(rng, 7, 3), tokens(rng, 70, 5)  # more than one chunk
    np.testing.assert_allclose(late_scores(x, y), naive(x, y), atol=1e-5)
    assert not np.allclose(late_scores(y, x).T, naive(x, y), atol=1e-2), "the two directions are different matrices"


def test_retrieval_ranks_by_the_query_side():
    rng = np.random.default_rng(1)
    x, y = tokens(rng, 70, 3), tokens(rng, 70, 5)
    y["tokens"][:, 0], y["valid"][:, 0] = x["tokens"][:, 0], True
    model = Fake({"image": x, "text": y}, ["same"] * 70)
    for query, target, s in (("image", "text", naive(x, y)), ("text", "image", naive(y, x))):
        expected = np.mean((s > np.diagonal(s)[:, None]).sum(1) == 0)
        found = LateRetrieval(query, target).run(model)
        np.testing.assert_allclose(found[f"{query}->{target} R@1"], expected)
        assert 0.1 < expected < 0.9
    assert LateRetrieval("image", "text", group="caption").run(model)["image->text R@1"] == 1.0


def test_zero_shot_averages_similarities_and_takes_any_object_in_view():
    unit = np.eye(4, dtype=np.float32)
    images = {"tokens": unit[[[0, 1], [2, 3]]], "valid": np.ones((2, 2), bool)}
    prompts = {"a": unit[[0]], "b": unit[[2]], "an a": unit[[1]], "an b": unit[[2]]}
    labels = [np.array([0, -1]), np.array([0, 0])]
    model = Fake({"image": images}, labels, prompts)
    found = LateZeroShot(("a", "b"), "shape", ("{}", "an {}")).run(model)
    assert model.asked == ["a", "an a", "b", "an b"]
    # Image 0: a scores (0.5 + 0.5) / 2, b 0: right. Image 1: b scores 0.5 where a was meant.
    assert found == {"zero-shot accuracy": 0.5, "zero-shot chance": 0.5}

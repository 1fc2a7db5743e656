"""Retrieval and ZeroShot by dot product and by a pair score, against loops over pairs."""

import numpy as np
import pytest
import toy

from mmrep.errors import ConfigError
from mmrep.evals import retrieval
from mmrep.evals.suite import Retrieval, ZeroShot
from mmrep.model import Model
from mmrep.system import System

N, T, D = 23, 3, 4
CAPTIONS = [f"caption {i // 2}" for i in range(N)]


def draw(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((N, T, D)).astype(np.float32)
    return tokens, np.arange(T) < rng.integers(1, T + 1, N)[:, None]


def score(params, extras, pairs):
    """The best match among real tokens, over the image's first token: no dot product of two vectors, and not symmetric."""
    import jax.numpy as jnp

    x, y = pairs["image_tokens"], pairs["text_tokens"]
    real = pairs["image_valid"][:, :, None] & pairs["text_valid"][:, None]
    products = (x[:, :, None] * y[:, None]).sum(-1)
    return jnp.where(real, products, -jnp.inf).max((1, 2)) + 0.5 * x[:, 0, 0] * y[:, 0, 1]


class Fixed(Model):
    """Known tokens, embeddings and prompts; pair scores go through `Model` itself."""

    def __init__(self):
        experiment = toy.experiment(1)
        super().__init__(experiment, {}, system=System(lambda r, b: ({}, {}), lambda *a: a, {"score": score}))
        self.sets = {"image_tokens": draw(0), "text_tokens": draw(1)}
        self.sets |= {name: self.sets[f"{name}_tokens"][0].mean(1) for name in ("image", "text")}

    def embed_split(self, name, split="test", fields=()):
        return self.sets[name]

    def column(self, field, split="test"):
        if field == "shapes":
            return [np.array([i % 4, -1, (i // 3) % 4]) for i in range(N)]
        return [i % 4 for i in range(N)] if field == "shape" else CAPTIONS

    def call(self, name, /, **values):
        found = np.stack([draw(2)[0][i] for i in range(len(values["text"]))])
        return (found, np.ones(found.shape[:2], bool)) if name == "text_tokens" else found.mean(1)


@pytest.fixture(scope="module")
def model():
    return Fixed()


def table(image, text):
    """score of every pair, one at a time."""

    def one(i, j):
        sides = {"image_tokens": image[0][[i]], "image_valid": image[1][[i]]}
        return sides | {"text_tokens": text[0][[j]], "text_valid": text[1][[j]]}

    return np.array([[float(score({}, {}, one(i, j))[0]) for j in range(len(text[0]))] for i in range(len(image[0]))])


def test_retrieval_by_a_pair_score_is_the_loop_over_pairs(model):
    scores = table(model.sets["image_tokens"], model.sets["text_tokens"])
    for query, target, s in (("image", "text", scores), ("text", "image", scores.T)):
        found = Retrieval(query, target, score="score").run(model)
        expected = retrieval.retrieval_metrics(retrieval.ranks_of_scores(s, np.arange(N)), N)
        assert found == pytest.approx({f"{query}->{target} {k}": v for k, v in expected.items()})


def test_reranking_orders_the_best_by_dot_product_and_leaves_the_others_behind(model):
    scores, k = table(model.sets["image_tokens"], model.sets["text_tokens"]), 5
    by_dot = model.sets["image"] @ model.sets["text"].T
    for query, target, s, d in (("image", "text", scores, by_dot), ("text", "image", scores.T, by_dot.T)):
        hits = 0
        for i in range(N):
            best = np.argsort(-d[i], kind="stable")[:k]
            hits += i in best and best[s[i][best].argmax()] == i
        found = Retrieval(query, target, score="score", rerank=k).run(model)
        assert found[f"{query}->{target} R@1"] == pytest.approx(hits / N)
    assert Retrieval("image", "text", score="score", rerank=N).run(model) == Retrieval(
        "image", "text", score="score"
    ).run(model)


def test_two_ways_are_both_directions_and_their_mean(model):
    for settings in ({}, {"score": "score"}, {"score": "score", "rerank": 5}, {"group": "caption"}):
        both = Retrieval("image", "text", name="match", two_way=True, **settings).run(model)
        forth, back = (Retrieval(*way, **settings).run(model) for way in (("image", "text"), ("text", "image")))
        assert {k.removeprefix("match "): v for k, v in both.items() if "->" in k} == forth | back
        assert both["match R@1"] == pytest.approx((forth["image->text R@1"] + back["text->image R@1"]) / 2)


def test_any_candidate_of_the_group_is_correct(model):
    plain = Retrieval("image", "text", score="score").run(model)
    grouped = Retrieval("image", "text", score="score", group="caption").run(model)
    scores = table(model.sets["image_tokens"], model.sets["text_tokens"])
    assert grouped["image->text R@1"] == pytest.approx(
        np.mean([CAPTIONS[j] == c for c, j in zip(CAPTIONS, scores.argmax(1))])
    )
    assert grouped["image->text chance_R@1"] > plain["image->text chance_R@1"]


def test_zero_shot_averages_scores_over_templates_and_takes_any_of_several_labels(model):
    classes, templates = ("a", "b", "c", "d"), ("{}", "an {}")
    prompts = model.call("text_tokens", text=["x"] * 8)
    means = table(model.sets["image_tokens"], prompts).reshape(N, 4, 2).mean(-1)
    single = ZeroShot(classes, "shape", templates, score="score").run(model)
    assert single["zero-shot accuracy"] == pytest.approx(np.mean(means.argmax(1) == np.arange(N) % 4))
    several = ZeroShot(classes, "shapes", templates, score="score").run(model)
    rows = [set(row[row >= 0].tolist()) for row in model.column("shapes")]
    assert several["zero-shot accuracy"] == pytest.approx(np.mean([m in row for m, row in zip(means.argmax(1), rows)]))
    assert several["zero-shot chance"] == pytest.approx(np.mean([len(row) for row in rows]) / 4)
    by_dot = ZeroShot(classes, "shape", templates).run(model)
    assert {"zero-shot accuracy", "zero-shot class_mean_accuracy", "zero-shot chance"} <= {*by_dot}


def test_settings_that_cannot_work_are_one_sentence(model):
    with pytest.raises(ConfigError, match="ranks image and text, not 'speech' and 'text'"):
        Retrieval("speech", "text", score="score")
    with pytest.raises(ConfigError, match=r"Retrieval\.rerank is 4: name the pair score"):
        Retrieval("image", "text", rerank=4)
    with pytest.raises(ConfigError, match=r"no infer function 'scores'"):
        Retrieval("image", "text", score="scores").run(model)

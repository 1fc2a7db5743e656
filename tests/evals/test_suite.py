"""Retrieval and ZeroShot by dot product and by a pair score, against loops over pairs."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
import toy

from mmrep.data.clips import ClipData, ClipSpec
from mmrep.errors import ConfigError
from mmrep.evals import retrieval
from mmrep.evals.order import FrameOrder, Permuted, permutation
from mmrep.evals.suite import Foil, Retrieval, ZeroShot
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
    with pytest.raises(ConfigError, match="truth is 'speech': name 'image' or 'text'"):
        Retrieval("image", "text", truth="speech")
    with pytest.raises(ConfigError, match=r"Retrieval\.rerank is 4: name the pair score"):
        Retrieval("image", "text", rerank=4)
    with pytest.raises(ConfigError, match=r"no infer function 'scores'"):
        Retrieval("image", "text", score="scores").run(model)


class Numbers(Model):
    """The part of Model that Foil uses: the score of a true caption less that of its foil is -20, 1, 1, 0 and 5."""

    def __init__(self):
        pass

    def embed_split(self, name, split="test", fields=()):
        return np.full(5, len(fields)) if name == "text_tokens" else np.ones((5, 2), np.float32)

    def column(self, field, split="test"):
        return [1, 1, 1, 1, 0] if field == "hard_swap" else [0, 0, 1, 1, 1]

    def split(self, name="test"):
        return self

    def class_names(self, field):
        return ("seen", "heard")

    def score_pairs(self, image, text, rows, columns, name="score", names=("image", "text")):
        np.testing.assert_array_equal(rows, columns)
        return np.where(text[columns], 20.0, np.array([0.0, 21, 21, 20, 25])[columns])


def test_foil_counts_swapped_records_only_and_ties_half():
    found = Foil(where="hard_swap", by="kind").run(Numbers())
    np.testing.assert_allclose(found["swap accuracy"], 2.5 / 4)
    np.testing.assert_allclose(found["swap accuracy [seen]"], 1 / 2)
    np.testing.assert_allclose(found["swap accuracy [heard]"], 1.5 / 2)
    np.testing.assert_allclose(found["swap contrast accuracy"], 0.5)  # the same text on both sides
    assert Foil(score="").run(Numbers())["swap accuracy"] == 0.5


class Clips(Model):
    """Captions and clips as the sets of items that they tell and show, over a real source."""

    def __init__(self, data, blind=False):
        experiment = toy.experiment(1)
        super().__init__(experiment, {}, system=System(lambda r, b: ({}, {}), lambda *a: a, {}))
        self.source, self.blind = data, blind

    def split(self, name="test"):
        from mmrep.config import Data
        from mmrep.data.pipeline import Split

        return Split(Data(self.source, ()), self.source, self.source.open(name), None, name)

    def records(self, split="test", limit=0):
        return [dict(r) for r in self.source.open(split)]

    def embed_split(self, name, split="test", fields=()):
        rows = np.zeros((len(self.records(split)), self.source.spec.items), np.float32)
        for i, r in enumerate(self.records(split)):
            items = r["told" if name == "text" else "shown"]
            rows[i, [k for k in items if k]] = 1 / np.count_nonzero(items) if name == "text" else 1
            if self.blind and name != "text":
                rows[i, 1 + self.source.spec.kinds :] = 0
        return rows


def test_truth_of_the_source_and_metrics_by_a_field():
    spec = ClipSpec(8, 2, sounds=2, shapes=4, colours=4, verbs=1, modes=("seen", "heard", "both"), twins=True)
    data = ClipData(n_test=200, spec=spec, sensors=("caption",))
    evaluator = Retrieval("text", "video", truth="text", by="kind", ks=(1,))
    found = evaluator.run(Clips(data))
    assert all(found[f"text->video R@1{n}"] == 1 for n in ("", " [seen]", " [heard]", " [both]"))
    assert found["text->video chance_R@1 [seen]"] > found["text->video chance_R@1 [both]"]
    deaf = evaluator.run(Clips(data, blind=True))
    assert (
        deaf["text->video R@1 [seen]"] == 1
        and deaf["text->video R@1 [heard]"] == 0
        and deaf["text->video R@1 [both]"] < 1
    )
    back = Retrieval("video", "text", truth="text", ks=(1,)).run(Clips(data))
    assert back["video->text R@1"] == 1
    evaluator.check(("text", "video"), Clips(data).split)


def test_frames_in_another_order():
    assert all((permutation(n, s) != np.arange(n)).any() for n in (2, 3) for s in range(20))
    data = ClipData(n_test=3, spec=ClipSpec(4, 4), sensors=("codes", "frames"))
    shuffled, order = Permuted(data, ("codes", "frame_captions")), permutation(4)
    record = data.open("test")[0]
    view = shuffled.view(record, None)
    np.testing.assert_array_equal(view["codes"], record["codes"][order])
    assert view["frame_captions"] == [record["frame_captions"][i] for i in order]
    model = Model(toy.experiment(1), *toy.experiment(1).system.build().init(jax.random.key(0), {}))
    found = FrameOrder(FirstNumber(), ("x",)).run(model)  # the points are (i / 50, 1): their two numbers change places
    assert found["first permuted"] == 1.0 and found["first drop"] == pytest.approx(np.mean(np.arange(12) / 50) - 1)


@dataclass(frozen=True)
class FirstNumber:
    split: str = "test"

    def run(self, model):
        return {"first": float(np.mean([x[0] for x in model.column("x", self.split)]))}

"""Evaluators on records as people have them: several captions, bad records, classes in any order; what is wrong ends before the training."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import toy

from mmrep import modality
from mmrep.config import Data
from mmrep.data import pipeline, splits
from mmrep.errors import ConfigError, DataError
from mmrep.evals.suite import Knn, Probe, Retrieval, ZeroShot, run_all
from mmrep.model import Model
from mmrep.training.loop import train

NAMES = ("bird", "cat", "dog")
VECTORS = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


@dataclass(frozen=True)
class Pairs:
    """n pictures (their number as a vector), with one to three captions each, "cK i j"; some records cannot be read."""

    n: int = 12
    broken: tuple[int, ...] = ()

    def open(self, split):
        return _Pairs(self, split)

    def texts(self, split):
        return ["c0"]

    def view(self, record, rng):
        return splits.select(record, rng)


class _Pairs:
    def __init__(self, source, split):
        self.source, self.split = source, split

    def __len__(self):
        return self.source.n

    def __getitem__(self, i):
        if i in self.source.broken and self.split == "test":
            raise DataError(f"{i}.png: not a whole image file")
        captions = tuple(f"c{i} {j}" for j in range(1 + i % 3))
        return {"image": np.float32([i]), "text": captions, "label": i % 3, "first": captions[0]}

    def class_names(self, field):
        return NAMES if field == "label" else ()


def vector(text):
    """An embedding of a caption near that of its picture; of a class name, that of the first picture of the class."""
    if text in NAMES:
        return VECTORS[NAMES.index(text)]
    i, j = (int(word.strip("c")) for word in text.split())
    return VECTORS[i] + 0.4 * np.random.default_rng((i, j)).standard_normal(6).astype(np.float32)


class Fake(Model):
    """A model whose embeddings are known."""

    names = ("image", "text")

    def __init__(self, source, allowed=0):
        parts = (modality.vector("image", 1), modality.text("text", 4, 9))
        self.data = Data(source, parts, max_bad_records=allowed)
        self.tokenize = lambda t, n: np.zeros(n, np.int32)
        self._splits = {}

    def embed_split(self, name, split="test", fields=()):
        rows = self.records(split)
        if name == "image":
            return np.stack([VECTORS[int(r["image"][0])] for r in rows])
        return np.stack([vector(r["text"]) for r in rows])

    def call(self, name, **values):
        return np.stack([vector(t) for t in values["text"]])


def by_hand(source, forward):
    """Ranks of the Flickr and COCO protocol, one pair at a time."""
    records = [source.open("test")[i] for i in range(source.n) if i not in source.broken]
    captions = [(k, t) for k, r in enumerate(records) for t in r["text"]]
    image = [VECTORS[int(r["image"][0])] for r in records]
    ranks = []
    if forward:
        for k, v in enumerate(image):
            scores = sorted((-float(v @ vector(t)), owner) for owner, t in captions)
            ranks.append(1 + min(place for place, (_, owner) in enumerate(scores) if owner == k))
    else:
        for owner, t in captions:
            scores = sorted((-float(v @ vector(t)), k) for k, v in enumerate(image))
            ranks.append(1 + [k for _, k in scores].index(owner))
    return np.array(ranks), len(captions) if forward else len(image)


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("broken", [(), (2, 7)])
def test_all_captions_are_scored_as_flickr_and_coco_do(forward, broken):
    source = Pairs(broken=broken)
    ways = ("image", "text") if forward else ("text", "image")
    found = Retrieval(*ways, captions="text").run(Fake(source, allowed=2))
    ranks, candidates = by_hand(source, forward)
    label = "->".join(ways)
    assert found[f"{label} candidates"] == candidates
    for k in (1, 5, 10):
        assert found[f"{label} R@{k}"] == pytest.approx(np.mean(ranks <= k))
    assert found[f"{label} median_rank"] == np.median(ranks)
    both = Retrieval("image", "text", captions="text", two_way=True).run(Fake(source, allowed=2))
    assert both[f"{label} R@1"] == found[f"{label} R@1"]


def test_settings_of_captions_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="leave out group, truth, by and rerank"):
        Retrieval("image", "text", captions="text", group="first")
    with pytest.raises(ConfigError, match="needs a text and another modality"):
        Retrieval("image", "image", captions="text").run(Fake(Pairs()))


def test_bad_records_are_left_out_of_every_evaluator_and_counted():
    """F8: ZeroShot, Knn, Probe and Retrieval(group=) ended the run; Retrieval marked the neighbour wrong, too."""
    perfect = Retrieval("image", "image")
    model = Fake(Pairs(broken=(2, 7)), allowed=2)
    evals = (
        perfect,
        Retrieval("image", "text", group="first"),
        ZeroShot(NAMES, "label"),
        Knn("image", "label"),
        Probe("image", "label"),
    )
    found = run_all(evals, model)
    assert found["image->image R@1"] == 1.0 and found["image->image candidates"] == 10.0
    assert found["bad records in test"] == 2.0
    whole = run_all((perfect,), Fake(Pairs()))
    assert "bad records in test" not in whole and whole["image->image candidates"] == 12.0
    with pytest.raises(DataError, match="1 bad records, 0 allowed"):
        list(pipeline.eval_batches(Fake(Pairs(broken=(2,))).split("test"), 4))


WRONG = [
    (ZeroShot(("cat", "dog", "bird"), "label"), r"classes has 'cat' at id 0, but in the data's 'label' it is id 1: .* order bird, cat, dog"),
    (ZeroShot(("bird", "cat"), "label"), "classes has 2 names, but the data's 'label' has 3: bird, cat, dog"),
    (ZeroShot(("bird", "cat", "cat"), "label"), "give the name of every class once"),
    (ZeroShot((), "label"), "give the name of every class once"),
    (ZeroShot(NAMES, "labels"), r"the record field 'labels', which split 'test' lacks \(did you mean 'label'"),
    *[
        (ZeroShot(NAMES, "label", t), "template|templates")
        for t in [("a photo",), ("a {} {}",), ("a {c}",), ("a {",), (), ("a {0}",)]
    ],
    (ZeroShot(NAMES, "label", query="picture"), "ZeroShot.query is 'picture': the system has no infer function of that name"),
    (Retrieval("image", "txt"), r"Retrieval.target is 'txt': .*did you mean 'text'"),
    (Retrieval("image", "text", ks=(0, 1)), r"ks is \(0, 1\): give ranks of 1 or more"),
    (Retrieval("image", "text", group="who"), "the record field 'who'"),
    (Retrieval("image", "text", captions="txt"), "the record field 'txt'"),
    (Retrieval("image", "text", query_fields=(("image", "picture"),)), "the record field 'picture'"),
    (Knn("image", "label", k=0), "Knn.k is 0: it must be at least 1"),
    (Knn("features", "label"), "Knn.features is 'features'"),
    (Probe("image", "y"), "the record field 'y'"),
]  # fmt: skip


@pytest.mark.parametrize(("evaluator", "sentence"), WRONG, ids=range(len(WRONG)))
def test_settings_of_evaluators_that_cannot_work_are_one_sentence(evaluator, sentence):
    """F9: accuracy of permuted names.  F19: KeyError, IndexError, ValueError or TypeError after the last step."""
    model = Fake(Pairs())
    with pytest.raises(ConfigError, match=sentence) as error:
        evaluator.check(model.names, model.split)
    assert "\n" not in str(error.value)


def test_settings_that_work_pass():
    model = Fake(Pairs(broken=(0, 1)), allowed=2)
    for good in (
        ZeroShot(NAMES, "label", ("a {}", "{{}} {}")), ZeroShot(("a small bird", "Cat", "DOG"), "label"), Retrieval("image", "text", group="first"),
        Retrieval("text", "image", captions="text"), Knn("image", "label"), Probe("image", "label"),
    ):  # fmt: skip
        good.check(model.names, model.split)


def test_evaluators_are_checked_before_the_first_step(tmp_path):
    experiment = replace(toy.experiment(), evals=(Knn("x", "y"),))
    with pytest.raises(ConfigError, match=r"Knn.features is 'x'|the record field 'y'"):
        train(experiment, tmp_path / "run", evaluate=partial(run_all, experiment.evals), progress=False)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

import pickle
import time

import numpy as np
import pytest

from mmrep.config import from_json, to_json
from mmrep.data.scenes import CaptionSpec, Joint, Noise, SceneData, WorldSpec, captions, domain
from mmrep.data.scenes.source import BLOCK, SENSORS
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.errors import ConfigError, DataError

ALL = tuple(SENSORS)


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and type(a[k]) is type(b[k]) for k in a)


def test_records_have_the_documented_fields():
    data = SceneData(n_train=4, sensors=ALL, world=WorldSpec(n_objects=(2, 3)))
    r = data.open("train")[1]
    shapes = {k: (v.dtype.name, v.shape) for k, v in r.items() if isinstance(v, (np.ndarray, np.generic))}
    words = len(r["caption"].split(" "))
    assert shapes == {
        **{k: ("int32", ()) for k in ("id", "n_objects", "noise_kind", "shape", "colour", "size", "hard_swap")},
        "rgb": ("uint8", (32, 32, 3)),
        "caption_objects": ("int32", (words,)),
        "semseg": ("uint8", (32, 32)),
        "instances": ("uint8", (32, 32)),
        "depth": ("float32", (32, 32, 1)),
        "normals": ("uint8", (32, 32, 3)),
        "optical": ("uint8", (32, 32, 6)),
        "radar": ("uint8", (32, 32, 2)),
        "landcover": ("uint8", (32, 32)),
        "edges": ("float32", (32, 32, 1)),
        "pose": ("float32", (18,)),
        "teacher": ("float32", (64,)),
        "words": ("float32", (16, 32)),
        "boxes": ("float32", (3, 4)),
        "boxes_valid": ("bool", (3,)),
        "object_valid": ("bool", (3,)),
        **{f"object_{k}": ("int32", (3,)) for k in ("shape", "colour", "size")},
        "object_xy": ("float32", (3, 2)),
        "regions": ("float32", (3, 36)),
        "region_confidence": ("float32", (3,)),
        **{f"region_{k}": ("int32", (3,)) for k in ("shape", "colour")},
    }
    assert isinstance(r["caption"], str) and isinstance(r["caption_hard"], str) and r["caption"] != r["caption_hard"]
    assert SHAPES[r["shape"]] in r["caption"] and COLOURS[r["colour"]] in r["caption"]
    assert {*np.unique(r["semseg"])} == {0, *(r["object_shape"][r["object_valid"]] + 1)}


def test_random_access_is_independent_of_order_and_of_the_split_length():
    data = SceneData(n_train=BLOCK + 50, sensors=ALL, noise=Noise(0.5, other=0.0))
    forward, records = [*data.open("train")], data.open("train")
    assert len(forward) == len(records) == BLOCK + 50
    for i in (BLOCK + 49, 0, BLOCK, BLOCK - 1, -1):
        assert equal(records[i], forward[i])
    longer = SceneData(n_train=2 * BLOCK, sensors=ALL, noise=Noise(0.5, other=0.0)).open("train")
    assert all(equal(longer[i], forward[i]) for i in (0, 7, BLOCK + 49))
    with pytest.raises(IndexError):
        records[BLOCK + 50]
    assert equal(pickle.loads(pickle.dumps(records))[3], forward[3])


def test_splits_and_seeds_are_disjoint():
    data = SceneData(n_train=600, n_val=300, n_test=300)
    ids = {split: {int(r["id"]) for r in data.open(split)} for split in ("train", "val", "test")}
    assert [len(v) for v in ids.values()] == [600, 300, 300]
    assert len(set().union(*ids.values())) == 1200
    images = {r["rgb"].tobytes() for split in ids for r in data.open(split)}
    assert len(images) == 1200
    assert not images & {r["rgb"].tobytes() for r in SceneData(seed=1, n_train=600).open("train")}


def test_noise_is_in_training_only_at_its_rate():
    data = SceneData(n_train=1000, n_val=100, sensors=("caption", "grounding"), noise=Noise(0.4))
    kinds = np.array([r["noise_kind"] for r in data.open("train")])
    assert abs((kinds > 0).mean() - 0.4) < 4 * np.sqrt(0.24 / 1000)
    clean = SceneData(n_train=1000, sensors=("caption", "grounding"))
    texts = {r["caption"] for r in clean.open("train")}
    wrong = {k: 0 for k in range(4)}
    for a, b in zip(data.open("train"), clean.open("train")):
        kind = int(a["noise_kind"])
        wrong[kind] += a["caption"] != b["caption"]
        if kind == captions.OTHER:
            assert a["caption"] in texts
        if kind == captions.CLEAN:
            assert equal(a, b)
        else:
            assert len(a["caption_objects"]) == len(a["caption"].split(" ")) and (a["caption_objects"] == -1).all()
    counts = np.bincount(kinds, minlength=4)
    assert wrong[0] == 0 and wrong[captions.GENERIC] == counts[2] and wrong[captions.ATTRIBUTE] == counts[3]
    assert wrong[captions.OTHER] > 0.97 * counts[1]
    assert all(r["noise_kind"] == 0 for r in data.open("val"))


def test_views_choose_among_variants_and_languages():
    spec = CaptionSpec(form="partial", synonyms=0.5, variants=3, languages=("en", "de"))
    data = SceneData(n_train=20, sensors=("caption", "grounding"), caption=spec)
    record = data.open("train")[2]
    assert len(record["caption"]) == 3 and record["caption"] == record["caption_en"] and len(record["caption_de"]) == 3
    fixed = data.view(record, None)
    assert fixed["caption"] == record["caption"][0] and len(fixed["caption_objects"]) == len(
        fixed["caption"].split(" ")
    )
    seen = {data.view(record, np.random.default_rng(i))["caption"] for i in range(60)}
    assert seen == set(record["caption"]) and "caption_objects" not in data.view(record, np.random.default_rng(0))
    mixed = SceneData(n_train=20, caption=CaptionSpec(languages=("en", "de"), mix=True))
    one = mixed.open("train")[2]
    assert one["caption"] == (one["caption_en"], one["caption_de"]) and one["caption_en"] != one["caption_de"]
    plain = SceneData(n_train=5)
    assert equal(plain.view(plain.open("train")[0], np.random.default_rng(0)), plain.open("train")[0])


def test_texts_are_the_captions_of_the_records():
    data = SceneData(n_train=BLOCK + 20, noise=Noise(0.5))
    assert list(data.texts("train")) == [r["caption"] for r in data.open("train")]
    data = SceneData(n_train=30, sensors=("caption", "hard"), caption=CaptionSpec(languages=("en", "fr"), variants=2))
    texts = set(data.texts("train"))
    for r in data.open("train"):
        assert {*r["caption"], *r["caption_fr"], r["caption_hard"]} <= texts
    assert list(SceneData(n_train=5, sensors=("rgb",)).texts("train")) == []


def test_joint_interleaves_and_keeps_every_record():
    a, b = SceneData(n_train=3), SceneData(n_train=5, world=domain("night"))
    records = Joint((a, b)).open("train")
    assert [int(r["source"]) for r in records] == [0, 1, 0, 1, 0, 1, 1, 1]
    assert equal({k: v for k, v in records[3].items() if k != "source"}, b.open("train")[1])
    assert list(Joint((a, b)).texts("train")) == [*a.texts("train"), *b.texts("train")]
    assert Joint((a, b)).view(records[0], None)["caption"] == a.open("train")[0]["caption"]


def test_wrong_data_is_refused_with_a_sentence():
    with pytest.raises(DataError, match="did you mean 'train'"):
        SceneData().open("trian")
    with pytest.raises(DataError, match="set n_val"):
        SceneData(n_val=0).open("val")
    for change, sentence in [
        ({"sensors": ("rbg",)}, "did you mean 'rgb'"),
        ({"sensors": ()}, "sensors is empty"),
        ({"size": 4}, "size is 4"),
        ({"n_train": -1}, "n_train"),
        ({"grain": 2.0}, "grain"),
        (
            {"noise": Noise(0.1), "world": WorldSpec(n_objects=(1, 1), shapes=("star",), colours=("red",))},
            "at least two",
        ),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            SceneData(**change)
    data = SceneData(world=domain("unseen"), caption=CaptionSpec(languages=("de",)), noise=Noise(0.2))
    assert from_json(to_json(data)) == data


def test_throughput(capsys):
    data = SceneData(n_train=1024)
    data.open("val")[0]
    start = time.perf_counter()
    records = data.open("train")
    assert all(records[i]["rgb"].shape == (32, 32, 3) for i in range(1024))
    rate = 1024 / (time.perf_counter() - start)
    with capsys.disabled():
        print(f"\nscenes: {rate:.0f} a second (rgb 32x32 and caption, one core)")
    assert rate > 300

"""Strings against apple/ml-4m at cda590f (fourm/data/modality_transforms.py, shuffling off), the dossier's sums by hand, broken texts."""

import numpy as np
import pytest

from mmrep.config import Tokenizer
from mmrep.data import serialise, text
from mmrep.data.serialise import PAPER, Box, Person, Point, Polygon, Serialised
from mmrep.errors import ConfigError, DataError

SMALL = Serialised()
VALUES = {
    "width": 1000, "height": 640, "caption_characters": 1234, "caption_words": 17, "caption_sentences": 2, "people": 3,
    "sam_instances": 44, "instances": 7, "instance_diversity": 4, "colourfulness": 47.3, "brightness": 127.5, "contrast": 140.0,
    "saturation": 99.9, "entropy": 7.31, "walkability": 0.25, "objectness": -0.1, "semantic_diversity": 9,
    "geometric_complexity": 0.4, "occlusion": 0.031, "watermark": 0.5, "aesthetics": 5.0,
}  # fmt: skip
MEASURES = (
    "v1=0 v0=31 v1=1 v0=20 v1=2 v0=999 v1=3 v0=17 v1=4 v0=2 v1=5 v0=3 v1=6 v0=44 v1=7 v0=7 v1=8 v0=4 v1=9 v0=15 v1=10 v0=24 "
    "v1=11 v0=49 v1=12 v0=19 v1=13 v0=35 v1=14 v0=12 v1=15 v0=0 v1=16 v0=9 v1=17 v0=26 v1=18 v0=6 v1=19 v0=1 v1=20 v0=1"
)
BOXES = [
    Box(0.5, 0.25, 0.75, 1.0, "cat"),
    Box(0.1, 0.2, 0.3004, 0.4, "traffic light"),
    Box(0.0, 0.65, 0.9995, 0.66, "dog"),
]
PERSON = Person(
    box=(0.5, 0.25, 0.75, 1.0),
    pose=(0, 511, 512, 600, 1023, 7, 300, 999),
    orientation=(1.0, 0.0, -1.0, 0.5, -0.25, 0.001, 0.002, -0.7, 0.33),
    camera=(-1, 19, 25.0, 0.0),
    shape=(0, 3, -3, 1.5, -0.33, 2.2, 0.001, -1, 1, 0.5),
)
PEOPLE = (
    "human v0=500 v1=250 v2=749 v3=999 pose v0=0 v0=511 v1=0 v1=88 v1=511 v0=7 v0=300 v1=487 global v0=999 v0=500 v0=0 v0=749 "
    "v0=375 v0=500 v0=500 v0=150 v0=664 camera v0=0 v0=999 v0=999 v0=50 shape v0=500 v0=999 v0=0 v0=749 v0=445 v0=866 v0=500 "
    "v0=333 v0=666 v0=583"
)
MASK = (0, 511, 512, 1023, 5, 600, *range(7, 17))
POINTS = [Point(20, 10, (Polygon((2, 1, 40, 30), MASK),)), Point(200, 3)]
INSTANCES = (
    "point v0=20 v1=10 polygon v0=2 v1=1 v2=40 v3=30 v0=0 v0=511 v1=0 v1=511 v0=5 v1=88 v0=7 v0=8 v0=9 v0=10 v0=11 v0=12 v0=13 "
    "v0=14 v0=15 v0=16 point v0=200 v1=3 none"
)


def test_strings_are_the_authors():
    assert serialise.measures(VALUES, PAPER) == MEASURES
    assert serialise.palette(np.array([[255, 0, 12.5], [13.5, 128, 7.49]]), PAPER) == (
        "v1=2 v0=255 v0=0 v0=12 v0=14 v0=128 v0=7"
    )
    assert serialise.boxes(BOXES, PAPER) == (
        "v0=100 v1=200 v2=300 v3=400 traffic light v0=500 v1=250 v2=749 v3=999 cat v0=0 v1=649 v2=999 v3=659 dog"
    )
    assert serialise.people([PERSON, PERSON], PAPER) == f"{PEOPLE} {PEOPLE}"
    assert serialise.instances(POINTS, PAPER) == INSTANCES


def test_sums_by_hand():
    def only(name, value):
        return serialise.measures({name: value}, PAPER)

    assert only("brightness", 127.5) == "v1=10 v0=24" and only("width", 1000) == "v1=0 v0=31"
    assert [only("aesthetics", v) for v in (4.4, 4.5, 5.0, 5.5)] == [f"v1=20 v0={i}" for i in (0, 1, 1, 2)]
    assert [only("watermark", v) for v in (0.4, 0.5)] == ["v1=19 v0=0", "v1=19 v0=1"]
    assert only("people", 5000) == "v1=5 v0=999" and only("entropy", 11) == "v1=13 v0=49"
    words = serialise.people([PERSON], PAPER).split()
    assert words[words.index("shape") + 1] == "v0=500" and words[words.index("camera") + 2] == "v0=999"
    assert words[words.index("pose") + 4] == "v1=88" and words[1] == "v0=500"
    # Half to even: 498.5 goes down, 499.5 up.
    assert serialise.boxes([Box(498.5 / 999, 0, 499.5 / 999, 1, "x")], PAPER) == "v0=498 v1=0 v2=500 v3=999 x"


def test_numbers_beyond_their_range_are_cut():
    wild = PERSON._replace(box=(-1, 2, 2, 9), orientation=(7.0,) * 9, camera=(-5, 99, 0, 0), shape=(-9.0,) * 10)
    (back,) = serialise.parse_people(serialise.people([wild], PAPER), PAPER)
    assert back.box == (0, 1, 1, 1) and back.orientation == (1,) * 9 and back.shape == (-3,) * 10
    assert back.camera[:2] == (-1, 19)
    assert serialise.palette(np.array([[-3.0, 999, 255.4]]), PAPER) == "v1=1 v0=0 v0=255 v0=255"


def test_nothing_is_said_of_nothing():
    assert serialise.boxes([], SMALL) == "" and serialise.parse_boxes("", SMALL) == []
    assert serialise.people([], SMALL) == "none" and serialise.parse_people("none", SMALL) == []
    assert serialise.measures({}, SMALL) == "" and serialise.parse_measures("", SMALL) == {}
    assert serialise.instances([], SMALL) == "" and serialise.parse_instances("", SMALL) == []
    assert serialise.parse_palette("", SMALL).shape == (0, 3)


@pytest.mark.parametrize("serial", [PAPER, SMALL])
def test_parsers_read_what_was_written(serial):
    step = 0.5 / (serial.coordinates - 1) + 1e-9
    boxes = serialise.parse_boxes(serialise.boxes(BOXES, serial), serial)
    assert [b.name for b in boxes] == ["traffic light", "cat", "dog"]
    for found, true in zip(boxes, [BOXES[1], BOXES[0], BOXES[2]]):
        np.testing.assert_allclose(found[:4], true[:4], atol=step)
    bins = serialise.parse_measures(serialise.measures(VALUES, serial), serial)
    assert bins == {k: int(serialise.bins_of(k, v, serial)) for k, v in VALUES.items()}
    for name, (low, high) in serialise.RANGES.items():
        bins = range(serial.values)
        assert [int(serialise.bins_of(name, serialise.value_of(name, i, serial), serial)) for i in bins] == [*bins]
        assert serialise.value_of(name, serial.values - 1, serial) == high > low
    colours = np.array([[255, 0, 12], [130, 128, 7]])
    back = serialise.parse_palette(serialise.palette(colours, serial), serial)
    np.testing.assert_allclose(back, colours, atol=128 / serial.colours - 0.5)
    person = PERSON._replace(pose=tuple(c % (2 * serial.codes) for c in PERSON.pose))
    for rng in (None, np.random.default_rng(0)):
        (one, two) = serialise.parse_people(serialise.people([person, person], serial, rng), serial)
        assert one == two and one.pose == person.pose
        np.testing.assert_allclose(one.orientation, person.orientation, atol=2 * step)
        np.testing.assert_allclose(one.camera, (-1, 19, 19, 0), atol=20 * step)
        np.testing.assert_allclose(one.shape, person.shape, atol=6 * step)
    points = [Point(20, 10, (Polygon((2, 1, 30, 30), tuple(c % (2 * serial.codes) for c in MASK)),) * 2), Point(31, 3)]
    assert serialise.parse_instances(serialise.instances(points, serial), serial) == points


def test_groups_of_a_person_come_in_any_order():
    orders = {
        tuple(w for w in serialise.people([PERSON], PAPER, np.random.default_rng(i)).split() if "=" not in w)
        for i in range(40)
    }
    assert len(orders) > 10 and all(o[0] == "human" and len({*o}) == 5 for o in orders)


def test_broken_boxes_are_skipped():
    good = "v0=1 v1=2 v2=3 v3=4 cat"
    for broken in (
        "v0=1 v1=2 v2=3 cat", "v0=9 v1=2 v2=3 v3=4 dog", "v0=1 v1=9 v2=3 v3=4 dog", "v0=1 v1=2 v2=3 v3=4", "v0=1 v2=2 v1=3 v3=4 dog",
        "v0=1 v1=2 v2=x v3=4 dog", "v0=-1 v1=2 v2=3 v3=4 dog", "dog", "v3=4 dog",
    ):  # fmt: skip
        for joined in (f"{broken} {good}", f"{good} {broken}" if broken.startswith("v0") else good):
            found = serialise.parse_boxes(joined, SMALL)
            assert Box(1 / 31, 2 / 31, 3 / 31, 4 / 31, "cat") in found and "dog" not in {b.name for b in found}, joined
    assert serialise.parse_boxes(good, SMALL, names=("dog",)) == []
    assert serialise.parse_boxes("v0=1 v1=2 v2=3 v3=900 cat", SMALL)[0].bottom == 1


def test_malformed_pairs_are_counted_and_skipped():
    for pairs, bad, known in (
        ("v1=10 v0=3 v1=7 v0=2", 0, {"brightness": 3, "instances": 2}),
        ("v1=10 v1=7 v0=2", 1, {"instances": 2}),  # no value
        ("v0=3 v1=7 v0=2", 1, {"instances": 2}),  # no id
        ("v1=21 v0=3 v1=7 v0=2", 1, {"instances": 2}),  # no such measure
        ("v1=10 v0=16 v1=19 v0=2", 2, {}),  # beyond the bins
        ("v1=7 v0=2 v1=10", 1, {"instances": 2}),
        ("v1=7 circle v0=2", 3, {}), ("v2=1 v1=7 v0=2", 1, {"instances": 2}),
        ("v1=7 v0=2 v1=7 v0=3", 0, {"instances": 2}),  # twice
    ):  # fmt: skip
        assert serialise.count_malformed(pairs, SMALL) == (
            bad,
            bad + pairs.count("v1=7 v0=2") + (pairs.count("v1=7 v0=3") + (bad == 0 and "v1=10" in pairs)),
        )
        assert serialise.parse_measures(pairs, SMALL) == known


def test_broken_palettes_keep_whole_colours():
    def count(written):
        return len(serialise.parse_palette(written, SMALL))

    whole = "v1=2 v0=1 v0=2 v0=3 v0=4 v0=5 v0=6"
    assert count(whole) == 2 and count(whole + " v0=7") == 2 and count(whole[: -len(" v0=6")]) == 1
    assert count("v0=1 v0=2 v0=3") == 1 and count("v1=1 " + whole) == 1 and count("v1=2") == 0
    np.testing.assert_allclose(serialise.parse_palette("v1=1 v0=0 v0=15 v0=99", SMALL), [[7.5, 247.5, 247.5]])


def test_broken_people_and_polygons_are_skipped():
    for broken in (
        PEOPLE.replace(" v1=88", ""), PEOPLE.replace("v3=999", ""), PEOPLE.replace("v0=500 v1=250 v2=749", "v0=800 v1=250 v2=749"),
        PEOPLE.replace("camera", ""), PEOPLE.replace("v0=583", "v1=583"), PEOPLE.replace("v1=88", "v1=800"), PEOPLE[6:],
    ):  # fmt: skip
        assert len(serialise.parse_people(f"{broken} {PEOPLE}", PAPER)) == 1
        assert len(serialise.parse_people(broken, PAPER)) == 0
    for broken in (
        INSTANCES.replace(" v0=16 ", " "),
        INSTANCES.replace("v2=40", "v2=1"),
        INSTANCES.replace(" v3=30", ""),
    ):
        assert serialise.parse_instances(broken, PAPER) == [Point(20, 10), Point(200, 3)]
    assert serialise.parse_instances(INSTANCES.replace(" v1=10 ", " "), PAPER) == [Point(200, 3)]


def test_parsers_read_noise_without_an_error():
    rng = np.random.default_rng(0)
    words = [
        *serialise.symbols(SMALL),
        "human",
        "pose",
        "global",
        "camera",
        "shape",
        "point",
        "polygon",
        "none",
        "cat",
        "v0=",
        "=1",
    ]
    for _ in range(200):
        noise = " ".join(rng.choice(words, size=rng.integers(1, 60)))
        for b in serialise.parse_boxes(noise, SMALL):
            assert 0 <= b.left <= b.right <= 1 and 0 <= b.top <= b.bottom <= 1
        assert {*serialise.parse_measures(noise, SMALL)} <= {*serialise.MEASURES}
        bad, total = serialise.count_malformed(noise, SMALL)
        assert 0 <= bad <= total <= len(noise.split())
        assert len(serialise.parse_palette(noise, SMALL)) <= 20
        serialise.parse_people(noise, SMALL), serialise.parse_instances(noise, SMALL)


def test_shuffled_pairs_stay_pairs():
    texts = {serialise.shuffle_pairs(MEASURES, np.random.default_rng(i)) for i in range(20)}
    assert len(texts) == 20 and MEASURES not in texts
    true = serialise.parse_measures(MEASURES, PAPER)
    assert all(
        serialise.parse_measures(t, PAPER) == true and serialise.count_malformed(t, PAPER) == (0, 21) for t in texts
    )
    assert serialise.shuffle_pairs("", np.random.default_rng(0)) == ""


def test_symbols_hold_every_item_that_can_be_written():
    assert len(serialise.symbols(SMALL)) == 128 and len(serialise.symbols(PAPER)) == 4000
    for serial in (SMALL, PAPER, Serialised(coordinates=4, colours=7, values=9, codes=3, palette=5)):
        known = {*serialise.symbols(serial, ["cat", "dog", "traffic", "light"])}
        extreme = [{name: v for name in serialise.MEASURES} for v in (-9.0, 0.4, 1e6)]
        texts = [serialise.boxes(BOXES, serial), *(serialise.measures(v, serial) for v in extreme)]
        texts += [serialise.palette(np.full((serial.palette, 3), v), serial) for v in (0, 130, 255)]
        codes = [*range(2 * serial.codes)]
        texts += [serialise.instances([Point(500, 500, (Polygon((0, 0, 999, 999), tuple(codes)),))], serial)]
        assert {w for t in texts for w in t.split()} - {"point", "polygon", "none"} <= known
    assert len({*serialise.symbols(PAPER)}) == 4000


def test_impossible_numbers_are_refused():
    with pytest.raises(DataError, match="finite"):
        serialise.measures({"brightness": float("nan")}, SMALL)
    with pytest.raises(DataError, match="brightness"):
        serialise.measures({"brightnes": 1.0}, SMALL)
    with pytest.raises(DataError, match="finite"):
        serialise.boxes([Box(0, 0, float("inf"), 1, "cat")], SMALL)
    with pytest.raises(DataError, match="code 64"):
        serialise.people([PERSON._replace(pose=(64,) * 8)], SMALL)
    with pytest.raises(DataError, match="takes 9"):
        serialise.people([PERSON._replace(orientation=(1.0,), pose=(0,) * 8)], SMALL)
    for bad in ({"coordinates": 1}, {"values": 1}, {"colours": 257}, {"palette": 0}, {"codes": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Serialised(**bad)


@pytest.mark.parametrize("kind", ["word", "unigram", "bpe", "char"])
def test_texts_survive_the_tokenizer_with_one_id_an_item(kind):
    config = Tokenizer(600, kind=kind, symbols=serialise.symbols(SMALL, ["traffic"]))
    tokens = text.tokenizer(text.fit(["a cat and a dog", "the light of a dog", "a cat"] * 9, config), config)
    texts = [serialise.boxes(BOXES, SMALL), serialise.measures(VALUES, SMALL), "v1=1 v0=15 v0=0 v0=7"]
    for line in texts:
        row = tokens(line, 80)
        assert tokens.decode(row) == line
        items = [i for i in row.tolist() if tokens.piece(i).startswith("▁v")]
        assert len(items) == line.count("=")
    assert (tokens(texts[1], 80) > 0).sum() == len(texts[1].split()) + 2

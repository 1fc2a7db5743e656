"""Plans, drafts, checks and revisions, with writers whose faults are known."""

from collections import Counter

import numpy as np
import pytest

from mmrep.data.synthesis import (
    DROPPED,
    Draft,
    Plan,
    content_id,
    flaw,
    neighbours,
    plans,
    revise,
    synthesise,
    tally,
    write_captions,
)  # fmt: skip
from mmrep.errors import ConfigError, DataError

RECORDS = [{"file": f"{i}.png", "text": f"caption {i}"} for i in range(5)]
SIMILAR = np.array([[(i + 1) % 5, (i + 2) % 5] for i in range(5)])
PLAN = Plan(0, (1, 2), "retrieval", "image", "text", "en")
GOOD = Draft("find its text", "", "a cat", ("a dog",))


def test_plans_cover_what_was_named_and_nothing_else():
    found = plans(
        np.random.default_rng(0), 400, tasks=("a", "b"), sides=(("image", "text"), ("text", "image")), languages=("en", "de"), similar=SIMILAR,
        weights=(3.0, 1.0), cells=lambda task, side, language: (task, language) != ("b", "de"),
    )  # fmt: skip
    cells = Counter((p.task, p.query, p.language) for p in found)
    assert len(cells) == 6 and not any(t == "b" and k == "de" for t, _, k in cells)
    assert 0.75 < sum(n for (_, _, k), n in cells.items() if k == "en") / 400 < 0.95
    assert all(p.similar == tuple(SIMILAR[p.record]) for p in found) and len({p.record for p in found}) == 5
    assert found == plans(
        np.random.default_rng(0), 400, tasks=("a", "b"), sides=(("image", "text"), ("text", "image")), languages=("en", "de"), similar=SIMILAR,
        weights=(3.0, 1.0), cells=lambda task, side, language: (task, language) != ("b", "de"),
    )  # fmt: skip


def test_pictures_of_the_sides():
    assert PLAN.pictures == (0, None, ())
    assert PLAN._replace(query="text", target="image").pictures == (None, 0, (1, 2))
    assert PLAN._replace(query="image+text", target="image").pictures == (0, 1, (2,))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({}, ""), ({"instruction": " "}, "no instruction"), ({"target": ""}, "the target has no text"),
        ({"query": "a cat"}, "the query has text, and its side is an image"), ({"negatives": ()}, "no hard negative"),
        ({"negatives": ("A cat ",)}, "a hard negative is the target"), ({"instruction": "find A CAT"}, "the target is in the instruction"),
    ],
)  # fmt: skip
def test_flaws_of_form(change, reason):
    assert flaw(PLAN, GOOD._replace(**change)) == reason


def test_a_draft_is_revised_with_the_reason_of_its_rejection():
    heard = []

    def write(plan, record, similar, feedback):
        heard.append((feedback, record["file"], [s["file"] for s in similar]))
        return GOOD._replace(target="a cow") if feedback == "not a cat" else GOOD

    judge = lambda plan, record, draft: "not a cat" if draft.target == "a cat" else ""  # noqa: E731
    draft, reasons = revise(PLAN, RECORDS[0], RECORDS[1:3], write, judge)
    assert draft.target == "a cow" and reasons == ("not a cat",)
    assert heard == [("", "0.png", ["1.png", "2.png"]), ("not a cat", "0.png", ["1.png", "2.png"])]
    assert revise(PLAN, RECORDS[0], (), write, judge, attempts=1) == (None, ("not a cat",))


def test_every_rejected_draft_is_counted():
    drafts = iter(
        [GOOD, GOOD._replace(instruction=""), GOOD, GOOD._replace(negatives=()), GOOD._replace(instruction="")]
    )
    found = list(synthesise(RECORDS, [PLAN] * 3, lambda *of: next(drafts)))
    assert [row is None for row, _ in found] == [False, False, True]
    assert tally(reasons for _, reasons in found) == {"no instruction": 2, "no hard negative": 1, DROPPED: 1}
    with pytest.raises(ConfigError, match="attempts"):
        list(synthesise(RECORDS, [PLAN], lambda *of: GOOD, attempts=0))


def test_captions_make_triples_of_every_form():
    sides = (("image", "text"), ("text", "image"), ("image+text", "image"), ("text", "text"), ("image", "image+text"))
    todo = plans(np.random.default_rng(1), 60, tasks=("retrieval",), sides=sides, languages=("en",), similar=SIMILAR)
    for plan, (row, reasons) in zip(todo, synthesise(RECORDS, todo, write_captions)):
        assert row is not None and not reasons
        for side in ("query", "target"):
            assert bool(row[f"{side}_text"]) == ("text" in row[side]) and bool(row[f"{side}_image"]) == (
                "image" in row[side]
            )
        shown = plan.pictures[1]
        if shown is not None and row["target_text"]:
            assert row["target_text"] == RECORDS[shown]["text"] and row["target_image"] == RECORDS[shown]["file"]
        assert row["target_text"] not in row["negative_text"] and row["target_image"] not in row["negative_image"]
    with pytest.raises(DataError, match="no text"):
        write_captions(PLAN, {"file": "x"}, [], "")


def test_neighbours_are_the_nearest_others():
    x = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, -1]])
    found = neighbours(x, 2, block=2)
    assert found[:4, 0].tolist() == [1, 0, 3, 2] and neighbours(x, 9).shape == (5, 4)
    assert all(i not in row for i, row in enumerate(found.tolist()))


def test_equal_sides_have_equal_numbers():
    assert content_id("a", None) == content_id("a", None) != content_id("b", None)
    assert (
        content_id("", [[1.0, 2.0]]) == content_id("", np.array([[1, 2]], np.float32)) != content_id("", [[1.0, 3.0]])
    )


def test_impossible_plans_are_explained():
    about = {"tasks": ("a",), "languages": ("en",), "similar": SIMILAR}
    with pytest.raises(ConfigError, match="image\\+text"):
        plans(np.random.default_rng(0), 1, sides=(("picture", "text"),), **about)
    with pytest.raises(ConfigError, match="no cell"):
        plans(np.random.default_rng(0), 1, sides=(), **about)
    with pytest.raises(ConfigError, match="similar"):
        plans(np.random.default_rng(0), 1, sides=(("image", "image"),), **about | {"similar": SIMILAR[:, :0]})

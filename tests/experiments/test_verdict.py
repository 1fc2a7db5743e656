import pytest

from experiments._verdict import judge, verdict
from mmrep.config import Arm, Expect, Proof
from mmrep.errors import ConfigError

RESULTS = {
    "method": {0: {"R@1": 0.5, "loss": 1.0}, 1: {"R@1": 0.6, "loss": 1.0}},
    "baseline": {0: {"R@1": 0.4, "loss": 2.0}, 1: {"R@1": 0.45, "loss": 2.0}},
}


def proof(*expects):
    return Proof("it works", "R@1", (Arm("method"), Arm("baseline")), expects)


@pytest.mark.parametrize(
    ("differences", "margin", "expected"),
    [
        ([0.1, 0.2], 0.1, "yes"),
        ([0.5, -0.01], 0.1, "unclear"),
        ([0.05, 0.12], 0.1, "unclear"),
        ([0.05, 0.06], 0.1, "no"),
        ([-0.3, 0.2], 0.1, "no"),
        ([0.0, 0.0], 0.0, "no"),
    ],
)
def test_rule(differences, margin, expected):
    assert verdict(differences, margin) == expected


def test_sides_may_be_arms_their_metrics_or_numbers():
    overall, rows = judge(
        proof(Expect("method", "baseline", 0.1), Expect("baseline/loss", "method/loss"), Expect("method", 0.2)), RESULTS
    )
    assert overall == "yes"
    assert rows[0]["mean"] == pytest.approx(0.125) and rows[1]["mean"] == 1.0
    assert rows[2]["differences"] == {"0": pytest.approx(0.3), "1": pytest.approx(0.4)}


def test_the_worst_headline_decides():
    overall, _ = judge(proof(Expect("method", "baseline"), Expect("baseline", "method")), RESULTS)
    assert overall == "no"
    overall, _ = judge(proof(Expect("method", "baseline"), Expect("baseline", "method", headline=False)), RESULTS)
    assert overall == "yes"


def test_names_that_are_absent_are_told():
    with pytest.raises(ConfigError, match=r"arm 'metod'.*did you mean 'method'"):
        judge(proof(Expect("metod", "baseline")), RESULTS)
    with pytest.raises(ConfigError, match=r"no metric 'R@5'"):
        judge(proof(Expect("method/R@5", "baseline")), RESULTS)

"""From the numbers of a proof to its verdict, by one stated rule."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmrep.errors import ConfigError, near

RULE = (
    "An expectation compares two arms seed by seed. It is met (yes) if the mean difference reaches the margin and every seed's difference "
    "is above 0; a slack, where one is stated, is added to each difference first. It is not met (no) if no seed reaches the margin or the "
    "mean difference is not above 0. Otherwise it is unclear. The proof's verdict is the worst of its headline expectations."
)

if TYPE_CHECKING:
    from mmrep.config import Expect, Proof

Results = Mapping[str, Mapping[int, Mapping[str, float]]]
_ORDER = ("yes", "unclear", "no")


def judge(proof: "Proof", results: Results) -> tuple[str, list[dict[str, Any]]]:
    """(verdict, one row an expectation: statement, better, worse, margin, difference by seed, mean, verdict).

    results: {arm: {seed: {metric: value}}}. Raises ConfigError for an expectation that names an absent arm or metric.
    """
    rows = [_row(e, proof, results) for e in proof.expects]
    headline = [r["verdict"] for r in rows if r["headline"]]
    if not headline:
        raise ConfigError("the proof has no headline expectation: nothing could decide its verdict")
    return max(headline, key=_ORDER.index), rows


def _row(expect: "Expect", proof: "Proof", results: Results) -> dict[str, Any]:
    better, worse = (_side(s, proof.metric, results) for s in (expect.better, expect.worse))
    seeds = [s for s in (better or worse or {}) if (not better or s in better) and (not worse or s in worse)]
    sides = [
        {s: float(x) for s in seeds} if not isinstance(x, str) else v
        for x, v in ((expect.better, better), (expect.worse, worse))
    ]
    differences = {s: sides[0][s] - sides[1][s] + expect.slack for s in seeds}
    return {
        "statement": expect.statement or f"{expect.better} > {expect.worse}", "better": expect.better, "worse": expect.worse,
        "margin": expect.margin, **({"slack": expect.slack} if expect.slack else {}), "headline": expect.headline, "differences": {str(s): d for s, d in differences.items()},
        "mean": sum(differences.values()) / len(differences), "verdict": verdict(list(differences.values()), expect.margin),
    }  # fmt: skip


def _side(side: str | float, metric: str, results: Results) -> dict[int, float]:
    if not isinstance(side, str):
        return {}
    arm, _, name = side.partition("/")
    if arm not in results:
        raise ConfigError(f"the proof expects something of arm {arm!r}, which it does not run{near(arm, results)}")
    values = {}
    for seed, metrics in results[arm].items():
        if (name or metric) not in metrics:
            raise ConfigError(f"arm {arm!r} gives no metric {name or metric!r}{near(name or metric, metrics)}")
        values[seed] = metrics[name or metric]
    return values


def verdict(differences: Sequence[float], margin: float) -> str:
    """The rule for one expectation, from its differences by seed."""
    mean = sum(differences) / len(differences)
    if mean >= margin and min(differences) > 0:
        return "yes"
    if mean <= 0 or max(differences) < margin:
        return "no"
    return "unclear"

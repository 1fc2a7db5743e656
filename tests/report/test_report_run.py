import json
import math

import numpy as np
import pytest

from mmrep.errors import DataError
from mmrep.report import run
from mmrep.training.metrics import read


def test_a_cut_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = [{"step": 1, "train/loss": 2.5, "name": "緑"}, {"step": 2, "train/loss": "nan"}]
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in whole) + "\n"
    cut = '{"step": 3, "name": "緑'.encode()[:-1]
    path.write_bytes(text.encode() + cut)
    rows = read(path)
    assert [r["step"] for r in rows] == [1, 2]
    assert rows[0] == whole[0]
    assert math.isnan(rows[1]["train/loss"])
    assert run.series(rows, "train/loss")[0] == [1.0, 2.0]


def test_a_broken_line_elsewhere_and_a_missing_file_are_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        read(path)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.jsonl")


def test_smoothing_is_the_two_sided_average_and_passes_over_nan():
    x = np.random.default_rng(0).normal(size=20)
    x[7] = np.nan
    known = ~np.isnan(x)
    got = run.smooth(list(x), 0.8)
    for t in range(20):
        w = 0.8 ** np.abs(t - np.arange(20)) * known
        want = np.nan if t == 7 else np.sum(w * np.nan_to_num(x)) / w.sum()
        np.testing.assert_allclose(got[t], want)
    np.testing.assert_allclose(run.smooth([3.0] * 9, 0.9), 3.0)
    np.testing.assert_allclose(run.smooth([1.0, 5.0], 0.0), [1.0, 5.0])


def test_default_groups_part_scales_that_do_not_go_together():
    rows = [
        {
            "step": 1,
            "train/loss": 1.0,
            "train/loss_i2t": 1.0,
            "train/lr": 1.0,
            "train/grad_norm": 1.0,
            "train/scale": 14.0,
        },
        {"step": 1, "examples_per_second": 9.0, "phase": "train"},
        {
            "step": 2,
            "eval/a->b R@1": 0.1,
            "eval/a->b R@5": 0.2,
            "eval/a->b chance_R@1": 0.01,
            "eval/a->b median_rank": 7.0,
        },
        {"step": 2, "eval/a->b candidates": 100.0},
    ]
    assert dict(run.default_groups(rows)) == {
        "Loss": ("train/loss", "train/loss_i2t"),
        "Learning rate": ("train/lr",),
        "Gradient norm": ("train/grad_norm",),
        "Examples per second": ("examples_per_second",),
        "scale": ("train/scale",),
        "a → b R@k": ("eval/a->b R@1", "eval/a->b R@5", "eval/a->b chance_R@1"),
        "a → b median_rank": ("eval/a->b median_rank",),
    }
    assert run.keys(rows, ("train/l*", "eval/*@5")) == ["train/loss", "train/loss_i2t", "train/lr", "eval/a->b R@5"]


def test_number_panels_put_chance_beside_its_measure():
    values = {
        "a->b R@1": 0.13, "a->b chance_R@1": 0.01, "a->b median_rank": 31.0, "b->a R@1": 0.12, "b->a median_rank": 30.0,
        "zero-shot accuracy": 0.4, "zero-shot top-5": 0.7, "zero-shot chance": 0.1, "match R@1": 0.3, "chance R@1": 0.02,
    }  # fmt: skip
    first, second, third = run.number_panels("Measures", values)
    assert [c.name for c in first.columns] == ["R@1", "median rank"]
    assert [c.better for c in first.columns] == ["higher", "lower"]
    assert [name for name, _ in first.rows] == ["a → b", "b → a"]
    assert [row[0].chance for _, row in first.rows] == [0.01, 0.02]
    assert [n.chance for n in second.rows[0][1]] == [0.1, None]
    assert third.rows == [("match", [(0.3, 0.02, None)])]

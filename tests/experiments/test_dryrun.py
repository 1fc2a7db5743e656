import json

import pytest

from experiments import _results, dryrun
from mmrep import catalogue


@pytest.mark.slow
def test_dryrun_prints_one_json_line_for_devices_that_are_not_here(run_command):
    code, out, err = run_command("dryrun", "clip", "--size", "tiny", "--mesh", "data=4,model=2", "--timeout", "300")
    assert code == 0, err
    (line,) = out.splitlines()
    row = json.loads(line)
    assert row["mesh"] == {"data": 4, "model": 2} and row["batch_size"] == 8
    # Nothing is sharded in the tiny config: every device holds all, and Adam two moments and a counter or two.
    assert row["bytes_parameters"] == 4 * row["parameters"]
    assert 2 * row["bytes_parameters"] < row["bytes_optimizer"] < 2 * row["bytes_parameters"] + 100
    assert row["bytes_sent"]["all-reduce"] > 2 * 3 / 4 * row["bytes_parameters"]
    assert row["flops_per_step"] > 1e6 and row["bytes_activations"] > 1e4 and row["compile_seconds"] > 0


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["clip", "--mesh", "date=8"], "write data=N,model=N"),
        (["clip", "--mesh", "data=0"], "write data=N,model=N"),
        (["clpi"], "did you mean 'clip'?"),
        (["clip", "--size", "tiny", "--mesh", "data=3"], "data.batch_size 8 does not divide"),
    ],
)
def test_a_mistake_is_one_sentence(run_command, args, sentence):
    code, out, err = run_command("dryrun", *args)
    assert code == 2 and not out and sentence in err and len(err.splitlines()) == 1, err


def test_a_compilation_that_takes_too_long_or_too_much_is_given_up(run_command):
    for limit, says in ((["--timeout", "0.6"], "more than 0.6 s"), (["--memory", "0.001"], "more than 0.001 GiB")):
        code, out, _ = run_command("dryrun", "clip", "--size", "tiny", *limit)
        row = json.loads(out)
        assert code == 0 and row["slug"] == "clip" and row["failed"].startswith(says)


def test_a_row_is_stored_once_a_size_and_without_wall_times(run_command, monkeypatch, tmp_path):
    monkeypatch.setattr(
        dryrun, "guarded", lambda *args: {"batch_size": len(made), "compile_seconds": 9.0, "fingerprint": "f"}
    )
    stored = lambda: _results.read("clip", "dryrun", tmp_path)["rows"]  # noqa: E731
    monkeypatch.setattr(_results, "FOLDER", tmp_path)
    monkeypatch.setattr(_results.write_row, "__defaults__", (tmp_path,))
    made: list[str] = []
    for size in ("tiny", "paper", "tiny"):
        made.append(size)
        code, out, err = run_command("dryrun", "clip", "--size", size, "--write")
        assert code == 0 and json.loads(out)["compile_seconds"] == 9.0, err
    assert [(r["size"], r["batch_size"]) for r in stored()] == [("tiny", 3), ("paper", 2)]
    assert "compile_seconds" not in stored()[0] and stored()[0]["mesh"] == {"data": 8, "model": 1}
    code, _, err = run_command("dryrun", "clip", "--write", "--optim.lr", "1")
    assert code == 2 and "leave out --phase and the overrides" in err


def test_stored_rows_are_those_of_configs_that_exist():
    known = {e.slug: e for e in catalogue.entries()}
    for path in (_results.FOLDER / "dryrun").glob("*.json"):
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        assert all(r["size"] in known[path.stem].sizes for r in rows), path

import json
import re

import pytest

from experiments import dryrun


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


def test_the_page_holds_no_row_of_a_system_that_is_gone():
    from experiments import _cli

    text = dryrun.PAGE.read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- dryrun -->\n(.*?)<!-- /dryrun -->", text, re.DOTALL)
    found = re.findall(r"^\| `(\w+)`[ \w]* \|", table, re.MULTILINE)
    assert len(found) > 5 and set(found) <= {e.slug for e in _cli.entries() if "paper" in e.sizes}
    row = {"slug": "a", "mesh": {"data": 2, "model": 1}}
    made = dryrun.table([row | {"failed": "more than 1 s to compile"}], "command")
    assert made.startswith("`command`\n\n") and "| `a` | data 2 | more than 1 s to compile |" in made


def test_one_row_is_put_in_or_changed_and_the_others_stay():
    page = "a\n<!-- dryrun -->\n" + dryrun.table(
        [{"slug": s, "size": "paper", "mesh": {"data": 8}, "failed": "x"} for s in "ab"], "c"
    )
    page += "<!-- /dryrun -->\nend\n"
    row = {"slug": "a", "size": "paper", "mesh": {"data": 8}, "failed": "y"}
    changed = dryrun.with_row(page, row)
    assert changed == page.replace("`a` | data 8 | x", "`a` | data 8 | y")
    more = dryrun.with_row(changed, row | {"size": "large"})
    assert [x for x in more.splitlines() if x not in changed.splitlines()] == ["| `a` large | data 8 | y |||||||||"]
    assert more.splitlines().index("| `a` large | data 8 | y |||||||||") == len(more.splitlines()) - 3

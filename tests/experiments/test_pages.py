"""Generated pages are those that the stored results give today, and results are short."""

import ast
import json
import re

import pytest

from experiments import _results, pages
from mmrep import catalogue
from mmrep.errors import ConfigError


@pytest.fixture(scope="module")
def made():
    return pages.pages()


def test_the_generated_pages_are_fresh(made):
    stale = [str(p) for p, text in made.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    assert not stale, "run python -m experiments.pages"


def test_results_are_short_and_belong_to_a_system():
    known = {e.slug for e in catalogue.entries()}
    files = list(_results.FOLDER.glob("**/*.json"))
    assert len(files) > 10 and {p.stem for p in files} <= known
    for path in _results.FOLDER.glob("*.json"):
        short, full = _results.read(path.stem), _results.read(path.stem, "full")
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
        assert (
            short["reproduced"] in ("yes", "no", "unclear")
            and short["commit"]
            and set(short["arms"]) == set(full["metrics"])
        )


def test_json_has_one_item_a_line_where_wanted():
    value = {"a": 1, "b": [{"c": [1, 2]}, {"c": []}], "d": {}, "e": {"f": {"g": "é"}}}
    text = _results.lines(value, {"b": {}, "d": {}, "e": {"f": {}}})
    assert json.loads(text) == value and len(text.splitlines()) == 13


def test_a_title_has_a_name_a_purpose_and_a_paper():
    entry = catalogue.Entry("x", "masked", "4M: any to any (Mizrahi et al., NeurIPS 2023)", (), (), _results.FOLDER)
    assert pages.title(entry) == ("4M", "any to any", "Mizrahi et al., NeurIPS 2023", "2023")
    with pytest.raises(ConfigError, match="write the title as"):
        pages.title(entry._replace(title="4M: any to any"))
    assert pages.title(entry._replace(family="recipes", title="Emoji: a job")).paper == ""


def test_tables_have_as_many_cells_as_columns(made):
    for path, text in made.items():
        for rows in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
            counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}
            assert len(counts) == 1, (path, rows[:300])


def test_text_around_the_marks_is_kept():
    assert pages.between("a\n<!-- t -->\nold\n<!-- /t -->\nb", "t", "new") == "a\n<!-- t -->\nnew\n<!-- /t -->\nb"
    with pytest.raises(ConfigError, match="has no <!-- t -->"):
        pages.between("a", "t", "new")


def test_every_proof_can_be_made():
    found = [
        m.get_proof() for m in map(catalogue.module, (e.slug for e in catalogue.entries())) if hasattr(m, "get_proof")
    ]
    assert len(found) > 10 and all(p.claim and p.metric and any(e.headline for e in p.expects) for p in found)


def test_no_config_states_results():
    for path in catalogue.CONFIGS.rglob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        numbers = re.findall(r"(?<!\w)\d*\.\d+", re.sub(r"\d{4}\.\d{4,5}", "", text))  # but for arXiv's
        assert not numbers, f"{path}: results are stored in results/, not in docstrings"


def test_a_proof_that_changed_since_it_was_run_is_marked(monkeypatch):
    entry, stored = catalogue.find("invgc"), _results.read("invgc")
    assert pages.verdict(entry) == stored["reproduced"]
    for field in ("better", "margin"):
        changed = [{**e, field: "another arm" if field == "better" else 9.0} for e in stored["expectations"]]
        monkeypatch.setattr(_results, "read", lambda *_, changed=changed: stored | {"expectations": changed})
        assert pages.verdict(entry) == f"{stored['reproduced']} (an earlier proof)"
        assert any("has changed since" in line for line in pages.proof_section(entry, "InvGC"))

"""Which tests a run takes, on a repository made for it."""

import subprocess

import imports
import pytest
import selection

from mmrep import catalogue

CONFIGS = {e.slug: f"configs.{e.family}.{e.slug}" for e in catalogue.entries()}


@pytest.fixture
def repository(tmp_path):
    """A repository with two commits on main; (its folder, git in it)."""

    def git(*args):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *args], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-b", "main")
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        git("add", ".")
        git("commit", "-m", name)
    return tmp_path, git


def test_on_main_the_last_commit_and_what_is_not_committed_count(repository):
    folder, _ = repository
    assert selection.changed_files(folder) == {"b"}
    (folder / "a").write_text("changed")
    (folder / "new").write_text("new")
    assert selection.changed_files(folder) == {"a", "b", "new"}


def test_on_a_branch_everything_since_main_counts(repository):
    folder, git = repository
    git("switch", "-c", "branch")
    for name in ("c", "d"):
        (folder / name).write_text(name)
        git("add", ".")
        git("commit", "-m", name)
    assert selection.changed_files(folder) == {"c", "d"}


def test_without_history_the_panel_alone_is_taken(tmp_path, monkeypatch):
    assert selection.changed_files(tmp_path) is None, "no repository"
    subprocess.run(["git", "init"], cwd=tmp_path, check=True, capture_output=True)
    assert selection.changed_files(tmp_path) is None, "no commit"
    monkeypatch.setenv("PATH", "")
    assert selection.changed_files(tmp_path) is None, "no git"
    assert selection.chosen(None, CONFIGS) == set(selection.PANEL)


def test_own_tests_belong_to_the_longest_name():
    def owner(name):
        return selection.owner(
            imports.ROOT / "tests" / "systems" / "x" / f"test_{name}.py", ["fourm", "fourm21", "multimae"]
        )

    assert [owner(n) for n in ("fourm", "fourm_evals", "fourm21", "multimae_model", "other", "fourmost")] == [
        "fourm", "fourm", "fourm21", "multimae", "", "",
    ]  # fmt: skip
    assert selection.owner(imports.ROOT / "tests" / "nn" / "test_fourm.py", ["fourm"]) == ""


def test_a_system_is_affected_by_what_its_config_imports_and_by_its_own_tests():
    assert selection.affected(["mmrep/systems/contrastive/align/__init__.py"], CONFIGS)[0] == "align"
    assert selection.affected(["tests/systems/contrastive/test_align.py"], CONFIGS) == ["align"]
    assert selection.affected(["README.md", "mmrep/report/page.py"], CONFIGS) == []
    everything = selection.affected(["mmrep/config.py"], CONFIGS)
    assert set(everything) == set(CONFIGS)
    own = selection.affected(["mmrep/config.py", "mmrep/systems/contrastive/align/__init__.py"], CONFIGS)
    assert own[0] == "align" and set(own) == set(CONFIGS), "the one whose own file changed comes first"
    assert len(selection.chosen(["mmrep/config.py"], CONFIGS)) <= len(selection.PANEL) + selection.MOST


def test_function_level_tests_run_where_a_file_changed_that_they_import_or_name():
    tests = imports.ROOT / "tests"

    def left_out(*changed):
        return {p.relative_to(tests).as_posix() for p in selection.untouched(changed, CONFIGS)}

    dense = left_out("mmrep/evals/dense.py")
    assert "evals/test_dense.py" not in dense and "nn/test_transformer.py" in dense
    own = left_out("mmrep/systems/video/hbi/__init__.py")
    assert "nn/test_transformer.py" in own and not any("systems" in f or "generic" in f for f in own)
    assert "experiments/test_commands.py" not in left_out("experiments/train.py"), "it names the command"
    assert "training/test_loop.py" not in left_out("tests/toy.py"), "a helper of tests"
    assert "nn/test_transformer.py" not in left_out("tests/nn/test_transformer.py")
    assert "nn/test_transformer.py" in left_out("README.md", "results/clip.json")
    for file in ("pyproject.toml", "tests/golden/clip.npz", "tests/conftest.py", "mmrep/gone.py"):
        assert not left_out(file), file
    assert not left_out("mmrep/evals/dense.py", "requirements.txt")


def test_parts_are_about_equally_many():
    units = {*CONFIGS, *(p.stem for p in (imports.ROOT / "tests").rglob("test_*.py"))}
    parts = [sum(selection.digest(u) % 8 == k for u in units) for k in range(8)]
    assert max(parts) < 2.5 * len(units) / 8


@pytest.mark.parametrize("text", ["9/8", "0/8", "1", "1/0", "x/8"])
def test_a_part_that_does_not_exist_is_refused(text):
    with pytest.raises(pytest.UsageError, match="write K/N"):
        selection.part(text)


def test_the_commit_chooses_its_part():
    part, parts = selection.part("commit/8")
    assert parts == 8 and 1 <= part <= 8 and selection.part("commit/8") == (part, 8)

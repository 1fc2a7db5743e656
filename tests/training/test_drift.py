"""Data that changed or moved between two parts of a run, two runs at once, and places that cannot be written."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import toy
from files import EVERY, picture, write_table

from mmrep import modality, paths
from mmrep.config import Data, Tokenizer
from mmrep.data.contents import contents, difference
from mmrep.data.sources import Folder, Table
from mmrep.errors import ConfigError, DataError
from mmrep.training.loop import pretrained, train
from mmrep.training.restore import restore
from mmrep.training.workdir import open_workdir, read_config


@pytest.fixture
def photos(tmp_path):
    for i in range(10):
        picture(tmp_path / "photos" / f"{i}.png", (i, 0, 0))
        (tmp_path / "photos" / f"{i}.txt").write_text(f"a picture {i}")
    return tmp_path / "photos"


def of(path, lines=True):
    parts = (modality.image("image", 4), modality.text("text", 8, 300))
    data = Data(Folder(path, lines=lines, fractions=EVERY), parts, Tokenizer(300, "word"), batch_size=4)
    return dataclasses.replace(toy.experiment(), data=data)


# --- F11: data that changed between two parts of a run ---


def test_data_that_did_not_change_is_taken_up(tmp_path, photos):
    model = open_workdir(of(photos), tmp_path / "run", None)
    assert open_workdir(of(photos), tmp_path / "run", None) == model
    assert read_config(tmp_path / "run")["contents"]["train"]["records"] == 10


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: (picture(p / "x.png"), (p / "x.txt").write_text("x")), "split 'train' had 10 records, now 11"),
        (lambda p: ((p / "0.png").unlink(), (p / "0.txt").unlink()), "split 'train' had 10 records, now 9"),
        (lambda p: (p / "3.txt").write_text("a picture 8"), "the same 10 records, but other names, sizes or texts"),
        (lambda p: (p / "3.png").rename(p / "33.png") and (p / "3.txt").rename(p / "33.txt"), "the same 10 records"),
        (lambda p: picture(p / "3.png", size=(60, 40)), "the same 10 records"),
    ],
    ids=["added", "removed", "caption edited", "renamed", "picture edited"],
)
def test_data_that_changed_is_refused_in_one_sentence(tmp_path, photos, change, sentence):
    run = tmp_path / "run"
    open_workdir(of(photos), run, None)
    change(photos)
    with pytest.raises(DataError, match=f"the data changed since the run in .* began .*{sentence}") as error:
        open_workdir(of(photos), run, None)
    assert "\n" not in str(error.value)
    about = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(
        json.dumps({k: v for k, v in about.items() if k != "contents"})
    )  # the sentence's advice
    open_workdir(of(photos), run, None)
    assert difference(read_config(run)["contents"]["train"], contents(of(photos).data.source.open("train"))) == ""


def test_a_run_of_procedural_data_is_taken_up(tmp_path):
    train(toy.experiment(), tmp_path / "run", progress=False)
    assert train(toy.experiment(), tmp_path / "run", progress=False).rows


# --- F17: data that moved ---


def test_data_that_moved_is_taken_up_and_its_place_stored(tmp_path, photos):
    run, there = tmp_path / "run", tmp_path / "elsewhere"
    model = open_workdir(of(photos), run, None)
    shutil.copytree(photos, there)
    assert open_workdir(of(there), run, None) == model
    assert read_config(run)["experiment"]["data"]["source"]["path"] == str(there)
    (photos / "3.txt").write_text("another text")
    with pytest.raises(
        DataError, match=r"the data changed since .* \(data.source.path: .*; split 'train' had the same 10 records, but"
    ):
        open_workdir(of(photos), run, None)
    with pytest.raises(ConfigError, match=r"data.source.lines: true -> false"):
        open_workdir(of(there, lines=False), run, None)


def test_a_table_that_moved_is_the_same_table(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_table(tmp_path / folder / "t.csv", [["caption"], *[[f"a text {i}"] for i in range(9)]])

    def config(folder):
        data = Data(
            Table(tmp_path / folder / "t.csv", image=None, fractions=EVERY), (modality.text("text", 8, 300),), Tokenizer(300, "word"), 4
        )  # fmt: skip
        return dataclasses.replace(toy.experiment(), data=data)

    open_workdir(config("a"), tmp_path / "run", None)
    open_workdir(config("b"), tmp_path / "run", None)


# --- F10: two at once ---

HOLD = """
import sys, time
from pathlib import Path
from mmrep import paths
with paths.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path):
    """holder(folder, seconds): another process that holds the lock of `folder`."""
    started = []

    def hold(folder, seconds):
        folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_run_of_a_folder_is_refused(tmp_path, holder):
    process = holder(tmp_path / "run", 60)
    with pytest.raises(DataError, match=rf"run is in use by process {process.pid} on .* since 2.*: wait for it"):
        train(toy.experiment(), tmp_path / "run", progress=False)
    process.kill()  # a lock ends with its process, however that ends
    process.wait()
    assert train(toy.experiment(), tmp_path / "run", progress=False).rows


def test_the_second_reader_of_a_pretrained_part_waits(tmp_path, holder, monkeypatch, capsys):
    from mmrep.config import fingerprint

    monkeypatch.setenv("MMREP_CACHE", str(tmp_path / "cache"))
    holder(tmp_path / "cache" / "pretrained" / fingerprint(toy.experiment()), 2)
    start = time.monotonic()
    model = pretrained(toy.experiment(), progress=False)
    assert time.monotonic() - start > 1 and model.rows and "waiting for" in capsys.readouterr().err


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path, texts = tmp_path / "x.json", [str(i) * 5000 for i in range(8)]
    threads = [threading.Thread(target=paths.replace, args=(path, t)) for t in texts]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert path.read_text() in texts and [*tmp_path.iterdir()] == [path]


# --- F25: places that cannot be written, files that are damaged ---


def test_a_workdir_or_cache_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for bad in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"file\S* cannot be written \(.*\): give another --workdir"):
            train(toy.experiment(), bad, progress=False)
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="set MMREP_CACHE to a folder that can be written"):
        pretrained(toy.experiment(), progress=False)
    with pytest.raises(ConfigError, match="set MMREP_CACHE"):
        picture(tmp_path / "p" / "a.png")
        (tmp_path / "p" / "a.txt").write_text("a b c")
        open_workdir(of(tmp_path / "p"), tmp_path / "run", None)


def test_a_user_without_home_is_told_of_the_cache(monkeypatch):
    monkeypatch.delenv("MMREP_CACHE", raising=False)
    monkeypatch.setattr(paths.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(ConfigError, match="this user has no home folder: set MMREP_CACHE"):
        paths.cache()


@pytest.mark.parametrize("content", ["", "{}", "[]", "{", '{"experiment": 3}', None])
def test_a_damaged_config_is_one_sentence(tmp_path, content):
    run = tmp_path / "run"
    run.mkdir()
    if content is not None:
        (run / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config.json (is damaged \(|cannot be read \()") as error:
        restore(run)
    assert "\n" not in str(error.value)


def test_a_damaged_evaluation_is_as_none(tmp_path):
    train(toy.experiment(), tmp_path / "run", progress=False)
    (tmp_path / "run" / "evaluation.json").write_text("{")
    assert restore(tmp_path / "run").metrics == {}


def test_a_file_of_weights_that_lack_a_parameter_is_one_sentence(tmp_path):
    import mmrep

    model = train(toy.experiment(), progress=False)
    for kernel, sentence in (
        (None, "parameter a/kernel is missing"),
        (np.zeros((3, 3)), r"parameter a/kernel has shape \[3, 3\]"),
    ):
        model.params = {"a": {} if kernel is None else {"kernel": kernel}, "b": model.params["b"]}
        with pytest.raises(DataError, match=sentence + r", its config needs \[2, 4\]"):
            mmrep.load(model.save(tmp_path / "x.safetensors"))


def test_what_a_kill_left_is_not_in_the_way(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.json.1234abcd.part").write_text("{")
    (run / ".DS_Store").write_text("x")
    (run / paths.LOCK).write_text("")
    assert train(toy.experiment(), run, progress=False).rows
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        train(toy.experiment(), other, progress=False)
    assert not os.path.exists(other / "config.json")


def test_contents_of_wrapped_sources_are_those_inside(photos):
    from mmrep.data.mixture import CoTraining, Group

    mixed = CoTraining(Folder(photos, fractions=EVERY), ("image",), (Group(("image",), 1.0),))
    assert contents(mixed.open("train")) == contents(Folder(photos, fractions=EVERY).open("train"))
    assert contents(np.zeros(3)) == {"records": 3, "digest": ""}


# --- F1: paths ---


@pytest.mark.parametrize("name", ["[1]", "[a] {b} %20 #é😀", "back\\slash", "a*b?"])
def test_a_run_is_taken_up_in_a_folder_of_any_name(tmp_path, name, monkeypatch):
    """F1: brackets in the path left a sealed checkpoint that could not be restored."""
    train(toy.experiment(), tmp_path / name / "run", progress=False, stop=3)
    lines = []
    train(toy.experiment(), tmp_path / name / "run", progress=False, say=lines.append)
    assert "resuming" in lines[0] and restore(tmp_path / name / "run").rows
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path / name / "cache"))
    first, again = (pretrained(toy.experiment(), progress=False).params for _ in range(2))
    np.testing.assert_array_equal(first["a"]["kernel"], again["a"]["kernel"])


def test_a_checkpoint_whose_parts_were_not_merged_is_not_sealed(tmp_path, monkeypatch):
    """Whatever else the library may take a path for: nothing is sealed that could not be restored."""
    from mmrep.training import checkpoint

    monkeypatch.setattr(checkpoint, "_without_pattern", lambda folder: (None, folder))
    with pytest.raises(DataError, match="could not be saved"):
        train(toy.experiment(), tmp_path / "[1]", progress=False)
    assert not [*(tmp_path / "[1]").rglob(checkpoint.SEAL)]

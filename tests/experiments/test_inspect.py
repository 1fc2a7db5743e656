import dataclasses
import types

import numpy as np
import pytest
import soundfile
from PIL import Image

from experiments import inspect
from mmrep import catalogue, modality
from mmrep.config import Data, Experiment, Tokenizer
from mmrep.data import pipeline
from mmrep.data.sources import Folder
from mmrep.errors import ConfigError, DataError

WORDS = ["red", "green", "blue", "grey", "pink", "brown", "white", "black"]


def brighter(rng, pixels):
    return np.clip(pixels + rng.uniform(0.1, 0.2), 0, 1).astype(np.float32)


@pytest.fixture
def experiment(tmp_path):
    for i, word in enumerate(WORDS):
        folder = tmp_path / "set" / "train"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 6), (10 * i, 0, 255)).save(folder / f"{word}.png")
        (folder / f"{word}.txt").write_text(f"a {word} square\nthe {word} one")
        soundfile.write(folder / f"{word}.wav", np.full(800 + 100 * i, 0.5), 8000)
    source = Folder(tmp_path / "set", rate=8000)
    modalities = (
        modality.image("image", 8, augment=(brighter,)), modality.text("text", 20, 400),
        modality.audio("sound", 1600, 8000, field="audio"),
    )  # fmt: skip
    return Experiment(source, Data(source, modalities, Tokenizer(400, "unigram")))


@pytest.fixture
def tokenize(experiment):
    data = experiment.data
    return pipeline.load_tokenizer(data, pipeline.fit_tokenizer(data, [data.source], None))


def test_report_holds_the_numbers_of_the_samples(experiment, tokenize):
    report = inspect.inspect(experiment, tokenize, "train", 4)
    assert report.size == 8 and report.indices == (0, 2, 4, 6)
    order = sorted(WORDS)
    assert [f.rsplit("/", 1)[1] for f in report.files] == [f"{order[i]}.png" for i in report.indices]
    assert report.texts["text"] == tuple(f"a {order[i]} square" for i in report.indices)
    image, text, sound = report.rows
    reds = [10 * WORDS.index(order[i]) / 255 for i in report.indices]
    assert (image.shape, image.dtype, image.high) == ((8, 8, 3), "float32", 1.0)
    assert image.mean == pytest.approx((np.mean(reds) + 0 + 1) / 3, abs=1e-6)
    lengths = [int((s["text"] > 0).sum()) for s in report.samples]
    assert text.valid.startswith(f"{np.mean(lengths) / 20:.0%} ids {min(lengths)}..{max(lengths)}") and text.low == 1.0
    seconds = [(800 + 100 * WORDS.index(order[i])) / 8000 for i in report.indices]
    assert f"{min(seconds):.2f}..{max(seconds):.2f} s" in sound.valid and sound.mean == pytest.approx(0.5, abs=1e-3)
    printed = inspect.table(report)
    assert (
        "8 records, 4 shown" in printed and "a black square" in printed and len(printed.splitlines()) == 5 + 2 * 4 + 1
    )
    assert printed.endswith("data.batch_size is 64: training needs 8 or less")


def test_seed_shows_a_training_view(experiment, tokenize):
    plain = inspect.inspect(experiment, tokenize, n=8)
    drawn = inspect.inspect(experiment, tokenize, n=8, seed=1)
    again = inspect.inspect(experiment, tokenize, n=8, seed=1)
    assert drawn.texts == again.texts != plain.texts
    assert all((d["image"].mean() > p["image"].mean()) for d, p in zip(drawn.samples, plain.samples))


def test_more_samples_than_records_shows_each_once(experiment, tokenize):
    assert inspect.inspect(experiment, tokenize, n=100).indices == tuple(range(8))
    with pytest.raises(ConfigError, match="n is 0"):
        inspect.inspect(experiment, tokenize, n=0)


def test_sheet_and_sounds_are_written(experiment, tokenize, tmp_path):
    report = inspect.inspect(experiment, tokenize, n=2)
    written = inspect.write(report, experiment.data.modalities, tmp_path / "out")
    assert [p.name for p in written] == ["sheet.png", "sound_0.wav", "sound_4.wav"]
    wave, rate = soundfile.read(written[1])
    assert rate == 8000 and len(wave) == report.samples[0]["sound_length"] and wave[0] == pytest.approx(0.5, abs=1e-3)
    sheet = np.asarray(Image.open(written[0]))
    first = np.round(report.samples[0]["image"][0, 0] * 255)
    assert sheet[5, 5].tolist() == first.tolist() and (sheet[: inspect.TILE, : inspect.TILE] == first).all()
    assert (sheet[inspect.TILE :] < 100).any()


def test_a_bad_record_is_named(experiment, tokenize, tmp_path):
    path = tmp_path / "set" / "train" / "black.png"
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError, match=r"^train record 0: .*black\.png: not a whole image"):
        inspect.inspect(experiment, tokenize)
    (tmp_path / "set" / "train" / "grey.wav").unlink()
    with pytest.raises(DataError, match=r"^train record 4 \(.*grey\.png\): the record has no field 'audio'"):
        inspect._entry(experiment.data, tokenize, experiment.data.source.open("train"), "train", 4, None)


def test_scan_counts_bad_records_by_reason(experiment, tokenize, tmp_path):
    folder = tmp_path / "set" / "train"
    for word in ("red", "blue"):
        (folder / f"{word}.png").write_bytes(b"nothing")
    (folder / "pink.txt").write_bytes(b"\xff")
    size, bad = inspect.scan(experiment, tokenize)
    groups = list(inspect.tally(bad).values())
    assert size == 8 and len(bad) == 3 and [g.count for g in groups] == [2, 1]
    assert "blue.png" in groups[0].first and "not UTF-8" in groups[1].first


@pytest.mark.parametrize(
    "a, b, same",
    [
        ("train record 1: a/b 1.png: cut (x 3)", "train record 22: c/d e.png: cut (x 4)", True),
        ("val record 1: t.csv line 3, y: no class 'a'", "val record 2: t.csv line 33, y: no class 'b'", True),
        ("train record 1 (a.png): text: expected text", "train record 1 (a.png): text: the text is empty", False),
    ],
)
def test_reasons(a, b, same):
    assert (len(inspect.tally([a, b])) == 1) == same


@pytest.fixture
def command(experiment, monkeypatch, run_command, tmp_path):
    """The command over a config module that is not on disk."""
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path / "cache"))
    entry = catalogue.Entry("mine", "own", "Mine", ("tiny", "small"), (), tmp_path)
    monkeypatch.setattr(catalogue, "find", lambda slug: entry)
    monkeypatch.setattr(catalogue, "module", lambda slug: types.SimpleNamespace(get_config=lambda size: experiment))
    return lambda *args: run_command("inspect", "mine", *args)


def test_command(command, tmp_path):
    code, out, err = command("--n", "2", "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert "8 records, 2 shown" in out and "a black square" in out and (tmp_path / "out" / "sheet.png").exists()
    code, out, err = command("--all")
    assert code == 0 and "8 records, 0 bad" in out
    code, _, err = command("--split", "val")
    assert code == 2 and "split 'val' is empty" in err and err.count("\n") == 1


def test_command_refuses_bad_records_with_code_2(command, tmp_path):
    (tmp_path / "set" / "train" / "black.png").write_bytes(b"nothing")
    code, _, err = command()
    assert code == 2 and err.startswith("error: train record 0: ") and "black.png" in err
    code, out, err = command("--all")
    assert (
        code == 2
        and "8 records, 1 bad" in out
        and "not a whole image file" in out
        and "1 bad records, 0 allowed" in err
    )
    code, out, _ = command("--all", "--data.max-bad-records", "1")
    assert code == 0 and "8 records, 1 bad" in out


def test_missing_fields_are_an_error_without_a_file_too(experiment, tokenize):
    @dataclasses.dataclass(frozen=True)
    class Bare:
        def open(self, split):
            return [{"text": "a"}]

        def view(self, record, rng):
            return record

    bare = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, source=Bare()))
    with pytest.raises(
        DataError, match=r"^train record 0: the record has no field 'image' for modality 'image'; it has text"
    ):
        inspect.inspect(bare, tokenize)


def test_classes_and_files_that_are_not_read_are_named(tmp_path):
    """F2, F15: the order of the ids, and what is left out."""
    for name in ("1", "10", "2"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    (tmp_path / "2" / "b.jxl").write_bytes(b"x")
    source = Folder(tmp_path, text="none", fractions=(1.0, 0.0, 0.0))
    data = Data(source, (modality.image("image", 4), modality.label("label", 3)), batch_size=3)
    printed = inspect.table(inspect.inspect(Experiment(source, data), None))
    assert "label: 3 classes: 0 1, 1 10, 2 2" in printed
    assert "1 files belong to no record (1 .jxl)" in printed and "save .jxl as .png" in printed

"""One bad record of every sort, through every source that reads files: counted, named, skipped up to the limit; beyond it a clear stop."""

import ast
import dataclasses
import io
import json
import os
import pickle
import re
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from files import EVERY, encoded, picture, write_shard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrep import modality
from mmrep.config import Data, Tokenizer
from mmrep.data import pipeline
from mmrep.data.sources import Folder, Limits, Shards, Table
from mmrep.errors import DataError
from mmrep.interop import safetensors

ALL = (1.0, 0.0, 0.0)
MODALITIES = (modality.image("image", 4), modality.text("text", 8, 64), modality.audio("audio", 400))
NAMES = ("good0", "good1", "good2", "bad")


def png():
    content = io.BytesIO()
    Image.new("RGB", (5, 5), "red").save(content, "PNG")
    return content.getvalue()


def wav(samples=None):
    content = io.BytesIO()
    soundfile.write(content, np.full(300, 0.25) if samples is None else samples, 16_000, format="WAV", subtype="FLOAT")
    return content.getvalue()


GOOD = {"png": png(), "wav": wav(), "txt": b"a red square"}
FAULTS = {
    "truncated image": ({"png": png()[:40]}, "not a whole image"),
    "image of another kind": ({"png": b"%PDF-1.7"}, "not a whole image"),
    "empty image": ({"png": b""}, "not a whole image"),
    "truncated sound": ({"wav": wav()[:500]}, "truncated|not a whole sound"),
    "NaN in the sound": ({"wav": wav(np.array([0.0, np.nan, 0.1]))}, "NaN or infinite samples"),
    "infinite sound": ({"wav": wav(np.array([0.0, np.inf, 0.1]))}, "NaN or infinite samples"),
    "sound without samples": ({"wav": wav(np.zeros(0))}, "no samples"),
    "text of 10 MB": ({"txt": b"ten " * 2_500_000}, "10,000,000 (bytes|characters)|9,999,999 characters"),
    "empty caption": ({"txt": b""}, "the text is empty|no caption"),
    "blank caption": ({"txt": b" \n\t "}, "the text is empty|no caption"),
    "latin-1 caption": ({"txt": "grün".encode("latin-1")}, "not UTF-8"),
}


def folder(path, bad):
    path.mkdir()
    for name in NAMES:
        for ending, data in (GOOD | (bad if name == "bad" else {})).items():
            (path / f"{name}.{ending}").write_bytes(data)
    return Folder(path, fractions=ALL)


def shards(path, bad):
    path.mkdir()
    with tarfile.open(path / "a.tar", "w") as tar:
        for name in NAMES:
            for ending, data in (GOOD | (bad if name == "bad" else {})).items():
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return Shards(str(path / "a.tar"), fractions=ALL)


def table(path, bad):
    folder(path, bad)
    rows = []
    for name in NAMES:
        # Bytes that are not UTF-8 stay in the line: the table as a whole is still read.
        caption = (bad.get("txt", GOOD["txt"]) if name == "bad" else GOOD["txt"]).decode("utf-8", "surrogateescape")
        row = json.dumps({"image": f"{name}.png", "audio": f"{name}.wav", "caption": caption}, ensure_ascii=False)
        rows.append(row.encode("utf-8", "surrogateescape"))
    (path / "pairs.jsonl").write_bytes(b"\n".join(rows))
    return Table(path / "pairs.jsonl", audio="audio", fractions=ALL)


@pytest.fixture(scope="module")
def tokenize():
    data = Data(None, MODALITIES, Tokenizer(64, "word"))
    from mmrep.data import text

    return pipeline.load_tokenizer(data, text.fit(["a red square"] * 4, data.tokenizer, None))


def opened(source, tokenize, limit):
    data = Data(source, MODALITIES, Tokenizer(64, "word"), batch_size=4, max_bad_records=limit)
    return pipeline.open_split(data, tokenize, "train")


@pytest.mark.parametrize("make", [folder, shards, table])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_record_is_named_counted_and_skipped(tmp_path, tokenize, capsys, make, fault):
    bad, sentence = FAULTS[fault]
    source = make(tmp_path / "set", bad)
    split = opened(source, tokenize, 1)
    assert len(split) == 4 and len(list(source.texts("train"))) >= 3
    batches = pipeline.train_batches(split, 3, 0)
    for _ in range(3):
        assert np.isfinite(next(batches)["audio"]).all()
    np.testing.assert_array_equal(np.delete(np.arange(4), [*split.bad]), split.usable())
    assert len(split.bad) == 1
    (where,) = split.bad.values()
    assert re.search(sentence, where) and ("bad" in where or "line 4" in where), where
    assert capsys.readouterr().err.count("(1 of 1 allowed)") == 1, "reported once"
    with pytest.raises(DataError, match=r"1 bad records, 0 allowed: mend the record or raise data\.max_bad_records"):
        for _ in range(2):
            next(pipeline.train_batches(opened(source, tokenize, 0), 4, 0))


def test_files_that_vanish_or_cannot_be_read_are_bad_records(tmp_path, tokenize):
    source = folder(tmp_path / "set", {})
    split = opened(source, tokenize, 3)
    (tmp_path / "set" / "bad.png").unlink()
    (tmp_path / "set" / "good0.wav").unlink()
    (tmp_path / "set" / "good0.wav").mkdir()
    (tmp_path / "set" / "good1.txt").unlink()
    os.mkfifo(tmp_path / "set" / "good1.txt")  # opening it would wait for ever
    (batch, real), *more = pipeline.eval_batches(split, 2)
    assert real == 1 and not more and batch["audio_length"].tolist() == [300, 300]
    sentences = sorted(why.split(": ", 1)[1] for why in split.bad.values())
    assert len(sentences) == 3
    assert all("cannot be read (" in t for t in sentences), sentences
    assert "bad.png" in sentences[0] and "good0.wav" in sentences[1] and "good1.txt" in sentences[2]


def test_a_shard_that_is_missing_stops_at_the_start_and_one_that_vanishes_is_counted(tmp_path, tokenize):
    shards(tmp_path / "a", {})
    shards(tmp_path / "b", {})
    source = Shards(str(tmp_path / "{a,b}" / "a.tar"), fractions=ALL)
    split = opened(source, tokenize, 4)
    (tmp_path / "b" / "a.tar").unlink()
    assert len(split.usable()) == 4
    assert len(split.bad) == 4 and all("b/a.tar cannot be read (No such file" in why for why in split.bad.values())
    strict = pipeline.Split(
        dataclasses.replace(split.data, max_bad_records=3), source, split.records, tokenize, "train"
    )
    with pytest.raises(DataError, match="4 bad records, 3 allowed"):
        strict.usable()
    with pytest.raises(DataError, match=r"b/a\.tar is missing: check the pattern"):
        source.open("train")


def test_raw_bytes_that_are_no_text_are_a_bad_record(tokenize):
    m = MODALITIES[1]
    with pytest.raises(DataError, match="text: byte 2 is not UTF-8"):
        modality.encode(m, b"gr\xfcn", tokenize)
    assert modality.encode(m, b"a red square", tokenize)["text"].shape == (8,)


# --- decoding is total: a record or one sentence ---

bytes_ = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.sampled_from([GOOD["png"], GOOD["wav"]]), st.integers(0, 2000), st.integers(0, 255)).map(
        lambda t: t[0][: t[1]] + bytes([t[2]]) + t[0][t[1] + 1 :]
    ),
)


@given(bytes_, bytes_, st.one_of(st.binary(max_size=50), st.text(max_size=50).map(str.encode)))
@settings(max_examples=30, deadline=None)
def test_any_bytes_in_a_shard_are_a_batch_entry_or_one_sentence(tokenize, image, sound, text):
    with tempfile.TemporaryDirectory() as home:
        split = opened(shards(Path(home) / "set", {"png": image, "wav": sound, "txt": text}), tokenize, 0)
        try:
            entry = split.entry(3)
        except DataError as error:
            assert str(error).startswith("train record 3: ") and "\n" not in str(error)
        else:
            assert np.isfinite(entry["audio"]).all() and 0 <= entry["image"].min() <= entry["image"].max() <= 1


raw = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5), st.lists(st.floats(width=32), max_size=4),
    st.lists(st.lists(st.integers(0, 255), max_size=3), max_size=3), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip


@given(raw, st.sampled_from((*MODALITIES, modality.vector("v", 3), modality.label("y", 4))))
@settings(max_examples=200, deadline=None)
def test_any_raw_value_is_encoded_or_refused_in_one_sentence(tokenize, value, m):
    try:
        entry = modality.encode(m, value, tokenize)[m.name]
    except DataError as error:
        assert str(error).startswith(m.name) and "\n" not in str(error)
    else:
        assert entry.shape == m.shape and entry.dtype == m.dtype and np.isfinite(entry).all()


# --- nothing from outside is unpickled ---


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_given_as_weights_or_tables_are_refused(tmp_path):
    evil = pickle.dumps(Evil(tmp_path / "pwned"))
    for name in ("model.safetensors", "pytorch_model.bin", "model.pt"):
        (tmp_path / name).write_bytes(evil)
        with pytest.raises(DataError, match="is not a whole safetensors file"):
            safetensors.read(tmp_path / name)
    array = io.BytesIO()
    np.save(array, np.array([Evil(tmp_path / "pwned")], dtype=object), allow_pickle=True)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("x.emb.npy")
        info.size = len(array.getvalue())
        tar.addfile(info, io.BytesIO(array.getvalue()))
    with pytest.raises(DataError, match="not an array file"):
        Shards(str(tmp_path / "a.tar"), text=(), extra=("emb.npy",), fractions=ALL).open("train")[0]
    assert not (tmp_path / "pwned").exists()


def test_no_module_can_unpickle():
    root = Path(__file__).resolve().parents[2]
    for path in [p for part in ("mmrep", "experiments", "configs") for p in (root / part).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )  # fmt: skip
            taboo = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
            assert not {n.split(".")[0] for n in names} & taboo, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                kept = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert kept.get("weights_only") == "True", f"{path}:{node.lineno}: say weights_only=True"
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load", "jnp.load"):
                kept = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert kept.get("allow_pickle") == "False", f"{path}:{node.lineno}: say allow_pickle=False"


def test_limits_are_named_in_the_sentence(tmp_path, tokenize):
    source = folder(tmp_path / "set", {})
    small = Folder(source.path, fractions=ALL, limits=Limits(pixels=20))
    with pytest.raises(DataError, match=r"5 x 5 pixels, more than the limit of 20"):
        opened(small, tokenize, 0).entry(0)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def test_pointers_of_git_lfs_are_named(tmp_path):
    """As a caption or a picture in a folder or a shard, as a shard, as a table of each format."""
    for name in ("a.tar", "a.csv", "a.jsonl", "a.parquet"):
        (tmp_path / name).write_bytes(POINTER)
        source = Shards(str(tmp_path / name)) if name == "a.tar" else Table(tmp_path / name)
        with pytest.raises(
            DataError, match=rf"{re.escape(name)}: only a pointer of Git LFS .*: fetch it with `git lfs pull`"
        ):
            source.open("train")
    picture(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "a.txt").write_bytes(POINTER)
    picture(tmp_path / "photos" / "b.png")
    (tmp_path / "photos" / "b.txt").write_text("b")
    (tmp_path / "photos" / "b.png").write_bytes(POINTER)
    records = Folder(tmp_path / "photos", fractions=EVERY).open("train")
    for i in range(2):
        with pytest.raises(DataError, match=r"only a pointer of Git LFS"):
            records[i]


def test_a_shard_rewritten_with_equal_size_and_time_is_indexed_anew(tmp_path):
    path, image = tmp_path / "a.tar", encoded(Image.new("RGB", (8, 8), (9, 9, 200)))
    write_shard(path, [("0.png", image), ("0.txt", b"a red")])
    assert len(Shards(str(path), fractions=EVERY).open("train")) == 1
    before = os.stat(path)
    write_shard(path, [("0.txt", b"a red"), ("0.png", image)])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size
    assert "a red" in Shards(str(path), fractions=EVERY).texts("train")

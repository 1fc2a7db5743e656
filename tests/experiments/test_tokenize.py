"""A trained tokenizer's ids in another system's records: written, read, learnt from and turned into pictures."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from experiments import _cli, tokenize
from mmrep import modality
from mmrep.data import pipeline
from mmrep.data.tokenised import ABOUT, Tokenised, within
from mmrep.errors import DataError
from mmrep.systems.masked.fourm.tokens import token_modality
from mmrep.training.loop import train
from mmrep.training.restore import restore

pytestmark = pytest.mark.slow  # its fixture trains 4M


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a tokenizer's run, the records with its ids, a run of 4M over them)."""
    root = tmp_path_factory.mktemp("tokens")
    base = _cli.experiment("vqvae", "tiny")
    consumer = _cli.experiment("fourm", "tiny")
    source = Tokenised(consumer.data.source, "rgb_ids", str(root / "ids"))
    base = dataclasses.replace(base, data=dataclasses.replace(base.data, source=source.source), evals=())
    train(base, root / "vqvae", progress=False, meta={"slug": "vqvae", "size": "tiny"})
    tokenize.write(root / "vqvae", source)
    rgb = modality.label_map("rgb", 4, 16, field="rgb_ids")
    parts = tuple(rgb if m.name == "rgb" else m for m in consumer.data.modalities)
    tokens = tuple(token_modality(rgb) if m.name == "rgb" else m for m in consumer.system.modalities)
    system = dataclasses.replace(consumer.system, modalities=tokens)
    data = dataclasses.replace(consumer.data, source=source, modalities=parts)
    consumer = dataclasses.replace(consumer, system=system, data=data, evals=())
    train(consumer, root / "fourm", progress=False, meta={"slug": "fourm", "size": "tiny"})
    return root, source, consumer


def test_ids_are_the_tokenizers_of_the_same_record(made):
    root, source, consumer = made
    model = restore(root / "vqvae")
    records = source.open("test")
    expected = model.infer(
        "tokenize", pipeline.collate([{"rgb": model.split("test").entry(i)["rgb"]} for i in range(8)])
    )
    np.testing.assert_array_equal(np.stack([records[i]["rgb_ids"] for i in range(8)]), expected)
    assert records[3]["rgb_ids"].dtype == np.int32 and records[3]["caption"] == source.source.open("test")[3]["caption"]
    entry = pipeline.open_split(consumer.data, restore(root / "fourm").tokenize, "test").entry(3)
    np.testing.assert_array_equal(entry["rgb"], expected[3])
    assert pickle.loads(pickle.dumps(records))[3]["rgb_ids"].tolist() == records[3]["rgb_ids"].tolist()
    assert list(source.texts("test")) == list(source.source.texts("test"))


def test_generated_ids_are_decoded_by_the_tokenizer(made, run_command, tmp_path):
    root, _, _ = made
    args = "fourm", "--size", "tiny", "--workdir", str(root / "fourm"), "--given", "caption=a big red circle"
    args += "--targets", "rgb,semseg", "--decoding-steps", "2"
    decoder = "--decoder", f"rgb={root / 'vqvae'}"
    code, _, err = run_command("generate", *args, *decoder, "--out", str(tmp_path / "a"))
    assert code == 0, err
    assert run_command("generate", *args, "--out", str(tmp_path / "b"))[0] == 0
    own, plain = (Image.open(tmp_path / f / "rgb-0.png") for f in "ab")
    fine = np.asarray(own.resize((16, 16), Image.Resampling.NEAREST))  # 16 pixels a side, not the 4 of the ids
    assert len(np.unique(fine.reshape(-1, 3), axis=0)) > len(np.unique(np.asarray(plain).reshape(-1, 3), axis=0))
    assert run_command("generate", *args, "--decoder", "caption=x")[0] == 2
    code, _, err = run_command("generate", *args, "--decoder", f"rgb={root / 'fourm'}")
    assert code == 2 and "no tokenizer" in err


def test_tokens_of_other_data_are_refused(made, tmp_path):
    root, source, _ = made
    other = dataclasses.replace(source, source=dataclasses.replace(source.source, seed=5))
    with pytest.raises(DataError, match="other data"):
        other.open("test")
    with pytest.raises(DataError, match=r"experiments\.tokenize"):
        dataclasses.replace(source, folder=str(tmp_path)).open("test")
    short = tmp_path / "short"
    short.mkdir()
    (short / ABOUT).write_text((root / "ids" / ABOUT).read_text())
    np.save(short / "test.npy", np.zeros((2, 4, 4), np.uint16))
    with pytest.raises(DataError, match="2 rows for 24 records"):
        dataclasses.replace(source, folder=str(short)).open("test")
    assert json.loads((short / ABOUT).read_text())["field"] == "rgb_ids"


def test_a_missing_run_or_field_is_one_sentence(made, run_command):
    root, _, _ = made
    args = "vqvae", "--size", "tiny", "--data"
    assert "holds no run" in run_command("tokenize", *args, "fourm", "--workdir", str(root / "none"))[2]
    run = "--workdir", str(root / "vqvae")
    assert "reads no tokens" in run_command("tokenize", *args, "fourm", *run)[2]
    code, _, err = run_command("tokenize", *args, "fourm", "--data-variant", "tokens", "--field", "rgb", *run)
    assert code == 2 and "choose one with --field" in err
    assert [t.field for t in within(_cli.experiment("fourm", variant="tokens").data.source)] == ["rgb_ids"]
    other = "fourm", "--size", "tiny", "--workdir", str(root / "fourm"), "--data", "fourm", "--data-variant", "tokens"
    assert "no tokenizer" in run_command("tokenize", *other)[2]

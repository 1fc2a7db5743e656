"""Train, embed (cut and resumed) and search, as a user would."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mmrep.evals import index


@pytest.mark.slow
def test_embed_and_search_as_a_user_would(run_command, tmp_path):
    pytest.importorskip("faiss")
    run, out = str(tmp_path / "run"), tmp_path / "corpus"
    assert run_command("train", "align", "--size", "tiny", "--workdir", run, "--quiet", "--no-report")[0] == 0
    embed = ["embed", "align", "--size", "tiny", "--workdir", run, "--out", str(out), "--shard-size", "6"]
    code, said, err = run_command(*embed, "--part", "0/2")
    assert code == 0 and "2 shards written" in said, err  # shards 0 and 2 of 16 records
    code, _, err = run_command("search", str(out), "--query", "text=a red circle")
    assert code == 2 and "lacks 1 of 3 shards, first 1" in err
    assert "1 shards written" in run_command(*embed)[1] and "nothing left to do" in run_command(*embed)[1]
    import mmrep

    model = mmrep.load(run)
    images = model.embed_split("image", "test")
    corpus = index.Corpus(out)
    np.testing.assert_allclose(np.concatenate([x for _, x in corpus.read()]), images, atol=1e-6)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.asarray(model.split("test").record(3)["rgb"])).save(photo)
    code, said, err = run_command(
        "search", str(out), "--k", "5", "--json", "--query", "text=a red circle", "--query", f"image={photo}", "--query", "image=#7"
    )  # fmt: skip
    assert code == 0, err
    rows = [json.loads(line) for line in said.splitlines()]
    query = model.call("text", text=["a red circle"])[0]
    best = np.argsort(-(images @ query))[:5]
    assert [h["id"] for h in rows[0]["hits"]] == best.tolist()
    assert [h["score"] for h in rows[0]["hits"]] == pytest.approx((images @ query)[best], abs=1e-5)
    assert rows[1]["hits"][0]["id"] == 3 and rows[2]["hits"][0]["id"] == 7  # a picture finds itself
    assert model.split("test").record(7)["caption"][:20] in rows[2]["hits"][0]["is"]
    for query, sentence in [
        ("txt=a", "did you mean 'text'?"),
        ("image=#99", "has 16 records"),
        ("image=no.png", "cannot be read"),
    ]:
        code, _, err = run_command("search", str(out), "--query", query)
        assert code == 2 and sentence in err, err
    assert "holds no corpus" in run_command("search", str(tmp_path), "--query", "text=a")[2]


def mine(folder):
    """ALIGN on a folder of photos, as the README does it."""
    from dataclasses import replace

    import mmrep
    from mmrep import modality

    config = mmrep.get_config("align", "tiny")
    text = config.system.text
    pair = (modality.image("image", 32), modality.text("text", text.length, text.vocab))
    data = mmrep.Data(
        mmrep.Folder(folder, fractions=(0.5, 0.0, 0.5)), pair, mmrep.Tokenizer(text.vocab, "word"), batch_size=4
    )
    return replace(config, data=data, evals=(mmrep.Retrieval("image", "text"),))


@pytest.mark.slow
def test_a_corpus_of_a_folder_that_changed_or_moved(run_command, tmp_path, monkeypatch):
    """F3: after a file was added, every hit had another file's name, with score 1.0000.  F7, F17: overrides are taken or refused."""
    pytest.importorskip("faiss")
    import mmrep
    from mmrep import catalogue

    tmp_path = tmp_path / "[a] {b} %20 #é😀"  # F1, F23: every step in a folder of such a name
    photos, run, out = tmp_path / "photos", str(tmp_path / "run [1]"), str(tmp_path / "corpus")
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def add(name, seed=None):
        pixels = rng.integers(0, 255, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{name}.png")
        (photos / f"{name}.txt").write_text(f"a red picture {name}")

    for i in range(24):
        add(f"m{i:02d}")
    config = mine(photos)
    model = mmrep.train(config, run, progress=False)
    again = mmrep.load(model.save(tmp_path / "model [1].safetensors")).embed(text=["a red picture"])
    np.testing.assert_allclose(mmrep.load(run).embed(text=["a red picture"]), again, atol=1e-6)
    monkeypatch.setattr(catalogue, "experiment", lambda *_: config)
    embed = ["embed", "align", "--size", "tiny", "--workdir", run, "--out", out]
    assert run_command(*embed)[0] == 0
    names = [os.path.basename(r["file"]) for r in mmrep.load(run).split("test").records]
    query = ["search", out, "--json", "--k", "1", "--query", f"image={photos / names[2]}"]
    code, said, err = run_command(*query)
    assert code == 0 and names[2] in json.loads(said)["hits"][0]["is"], err

    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    photos.rename(tmp_path / "away")
    code, _, err = run_command(*query)
    assert code == 2 and "photos is not a folder" in err
    query[-1] = f"image={moved / names[2]}"
    there = ["--data.source.path", str(moved)]
    code, said, err = run_command(*query, *there)
    assert code == 0 and names[2] in json.loads(said)["hits"][0]["is"], err
    code, said, err = run_command("evaluate", "align", "--size", "tiny", "--workdir", run, "--json", *there)
    assert code == 0 and "note:" not in err and json.loads(said)["image->text candidates"] == len(names)
    assert json.loads((tmp_path / "run [1]" / "evaluation.json").read_text()) == json.loads(said)

    for k in range(30):  # some fall into the test split, and sort first
        Image.new("RGB", (9, 9), (k, 0, 0)).save(moved / f"a{k}.png")
        (moved / f"a{k}.txt").write_text("x")
    code, _, err = run_command(*query, *there)
    assert code == 2 and "has changed since it was embedded" in err and f"it had {len(names)} records, now " in err
    code, _, err = run_command(*embed, *there)
    assert code == 2 and "has changed since it was embedded" in err
    code, said, err = run_command("evaluate", "align", "--size", "tiny", "--workdir", run, "--json", *there)
    assert code == 0 and "note: this is not the data of the run" in err
    assert json.loads(said)["image->text candidates"] > len(names)
    assert json.loads((tmp_path / "run [1]" / "evaluation.json").read_text())["image->text candidates"] == len(names)
    for flag in ("--optim.lr", "--data.batch-size", "--system.dim"):
        code, _, err = run_command("evaluate", "align", "--size", "tiny", "--workdir", run, flag, "8")
        assert code == 2 and f"{flag}: the run's own config is used" in err
    monkeypatch.undo()
    about = json.loads((tmp_path / "run [1]" / "config.json").read_text())
    (tmp_path / "run [1]" / "config.json").write_text(json.dumps(about | {"slug": "align"}))
    code, _, err = run_command("embed", "clip", "--size", "tiny", "--workdir", run, "--out", str(tmp_path / "c"))
    assert code == 2 and "holds a run of align, not of clip" in err


@pytest.mark.slow
def test_python_files_are_searched_by_sentences_and_code(run_command, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    from dataclasses import replace

    import mmrep
    from mmrep import catalogue
    from mmrep.data.code import PythonFunctions

    code, run, out = tmp_path / "code", str(tmp_path / "run"), str(tmp_path / "corpus")
    code.mkdir()
    for i in range(24):
        (code / f"m{i:02d}.py").write_text(
            f"def f{i}(x, y):\n    'Adds {i} to x.'\n    return x + {i} + y + len(str(x)) + 1\n"
        )
    config = mmrep.get_config("unixcoder", "tiny")
    tokenizer = mmrep.Tokenizer(300, "char", lower=False)
    parts = tuple(replace(m, vocab=300, shape=(30,)) for m in config.data.modalities)
    data = replace(
        config.data, source=PythonFunctions(code, fractions=(0.7, 0.0, 0.3)), modalities=parts, tokenizer=tokenizer
    )
    config = replace(config, data=data, system=replace(config.system, vocab=300, length=60), evals=())
    mmrep.train(config, run, progress=False)
    monkeypatch.setattr(catalogue, "experiment", lambda *_: config)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.py").write_text(
        "def g(n):\n    return [i * n for i in range(n) if i > 1]\n\ndef h(a, b, c):\n    return (a - b) * (a + b) + c - 7\n"
    )
    there = [
        "--data.source.path",
        str(mine),
        "--data.source.documented",
        "False",
        "--data.source.fractions",
        "0",
        "0",
        "1",
    ]
    where = ["--size", "tiny", "--workdir", run, "--modality", "code", "--split", "test", "--out", out]
    code, said, err = run_command("embed", "unixcoder", *where, *there)
    assert code == 0 and "shards written" in said, err
    query = [
        "--query",
        "comment=products of two numbers",
        "--query",
        "code=def g(n):\n    return [i * n for i in range(n) if i > 1]",
    ]
    code, said, err = run_command("search", out, "--json", "--k", "2", *query)
    assert code == 0, err
    sentence, own = (json.loads(line)["hits"] for line in said.splitlines())
    assert {hit["id"] for hit in sentence} == {0, 1} and "a.py:1" in own[0]["is"] and own[0]["score"] > own[1]["score"]

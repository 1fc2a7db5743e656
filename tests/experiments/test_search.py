"""Train, embed (cut and resumed) and search, as a user would."""

import json

import numpy as np
import pytest
from PIL import Image

from mmrep.evals import index


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

"""The command synthesise: made things, a folder with captions, a writer of the user's; its output trains and embeds."""

import json
from dataclasses import replace

import numpy as np

from configs.contrastive.mme5 import embedder
from mmrep.data.triples import Triples
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.training import loop

WRITER = """
from mmrep.data.synthesis import Draft

def write(plan, record, similar, feedback):
    if not feedback and plan.record % 2:
        return Draft("find it", "", "", ())
    return Draft(f"{plan.task} in {plan.language}", "", f"this is {record['file'][-5]}", ("this is not",))

def judge(plan, record, draft):
    return "too dark" if record["image"].mean() < 20 else ""
"""


def test_made_things_are_written_about(run_command, tmp_path):
    out = tmp_path / "made.jsonl"
    code, said, _ = run_command(
        "synthesise", "mme5", "--size", "tiny", "--out", str(out), "--count", "30", "--forms", "image->text,text->text"
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 0 and len(rows) == 30 and "30 triples of 30 plans" in said
    assert np.asarray(next(r for r in rows if r["query"] == "image")["query_image"]).shape == (4, 32)
    assert {r["language"] for r in rows} == {"0", "1", "2", "3"}


def test_a_writer_of_ones_own_over_a_folder_trains_and_embeds(run_command, tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for i in range(8):
        Image.fromarray(np.full((16, 16, 3), 30 * i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
        (tmp_path / "pictures" / f"{i}.txt").write_text(f"grey {i}")
    (tmp_path / "mywriter.py").write_text(WRITER)
    monkeypatch.chdir(tmp_path)
    given = [
        "synthesise",
        "mme5",
        "--folder",
        "pictures",
        "--count",
        "40",
        "--split",
        "train",
        "--out",
        "out/pairs.jsonl",
    ]
    code, said, _ = run_command(
        *given,
        "--writer",
        "mywriter:write",
        "--judge",
        "mywriter:judge",
        "--forms",
        "image->text",
        "--languages",
        "en:3,de",
    )
    assert code == 0 and "the target has no text" in said
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    dark = sum(int(line.split()[0]) for line in said.splitlines() if line.strip().endswith("dropped: no draft passed"))
    assert len(rows) + dark == 40 and all(r["query_image"].startswith("../pictures/") for r in rows)
    # It trains and embeds.
    shape = TransformerConfig(width=16, depth=1, heads=2)
    source = Triples(str(tmp_path / "out" / "pairs.jsonl"), negatives=1, size=(8, 8), fractions=(1.0, 0.0, 0.0))
    config = embedder(
        ImageEncoder(shape, patch=4),
        shape,
        source,
        size=(8, 8),
        tokens=4,
        vocab=64,
        lengths=(8, 8),
        negatives=1,
        steps=2,
        batch=8,
        lr=1e-3,
    )
    model = loop.train(replace(config, evals=()), progress=False)
    x = model.embed(query_image=[np.zeros((8, 8, 3), np.uint8)] * 2)
    assert x.shape == (2, 16) and np.isfinite(x).all()


def test_captions_of_a_folder_and_mistakes(run_command, tmp_path):
    from PIL import Image

    for i in range(4):
        Image.fromarray(np.full((16, 16, 3), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"grey {i}")
    out = str(tmp_path / "pairs.jsonl")
    given = ["synthesise", "mme5", "--folder", str(tmp_path), "--out", out, "--count", "5"]
    code, said, _ = run_command(*given)
    assert code == 0 and "5 triples of 5 plans" in said
    mistakes = (
        (["--writer", "nowhere:write"], "MODULE:FUNCTION"), (["--forms", "image"], "QUERY->TARGET"), (["--languages", "en:x"], "weights"),
        (["--out", "pairs.csv"], ".jsonl"),
    )  # fmt: skip
    for more, words in mistakes:
        code, _, err = run_command(*given, *more)
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1

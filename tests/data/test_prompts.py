"""Spoken prompts: folders of a few tiny sounds."""

import json

import numpy as np
import pytest
import soundfile

from mmrep.config import from_json, to_json
from mmrep.data import prompts
from mmrep.data.prompts import SpokenPrompts, group, words
from mmrep.errors import ConfigError, DataError

NAMES = [f"say-{a}{b}" for a in "abcdef" for b in "uvwxyz"]


@pytest.fixture
def folder(tmp_path):
    for k, voice in enumerate(("en_voice", "fr_voice")):
        for name in [*NAMES, "digits/7", "silence/1", "beep", *(["only-here"] if k else [])]:
            path = tmp_path / voice / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.full(2000, 0.1 * (k + 1)), 8000)
    return tmp_path


def everything(source):
    return [r for split in ("train", "val", "test") for r in source.open(split)]


def test_records_are_prompts_that_every_voice_reads(folder):
    source = SpokenPrompts(folder=str(folder), seconds=0.2, fractions=(0.4, 0.3, 0.3))
    assert from_json(json.loads(json.dumps(to_json(source)))) == source
    records = everything(source)
    assert {r["name"] for r in records} == {*NAMES, "digits/7"}
    record = next(r for r in records if r["name"] == "digits/7")
    assert record["text"] == "digits 7" and record["audio_en_voice"].shape == (1600,)
    assert source.view(record, None)["audio"][0] == pytest.approx(0.1, abs=1e-3)
    drawn = {round(float(source.view(record, np.random.default_rng(i))["audio"][0]), 1) for i in range(8)}
    assert drawn == {0.1, 0.2}
    assert len(everything(SpokenPrompts(folder=str(folder), labels=False, fractions=(0.4, 0.3, 0.3)))) == len(NAMES)
    one = SpokenPrompts(("fr_voice",), folder=str(folder), fractions=(0.4, 0.3, 0.3))
    assert "only-here" in {r["name"] for r in everything(one)} and "only here" in {
        t for s in ("train", "val", "test") for t in one.texts(s)
    }


def test_transcripts_take_the_place_of_names(folder):
    path = folder / "said.txt"
    path.write_text("; a comment: of the file\n" + "".join(f"{n}: You said {n[-2:]}.\n" for n in NAMES))
    found = everything(SpokenPrompts(folder=str(folder), transcripts=str(path), fractions=(0.4, 0.3, 0.3)))
    assert {r["text"] for r in found} == {f"You said {n[-2:]}." for n in NAMES}


def test_variants_of_a_prompt_are_one_group():
    assert {group(n) for n in ("conf-adminmenu-162", "conf-adminmenu-18", "conf-adminmenu")} == {"conf-adminmenu"}
    assert group("confbridge-mute-extended") == group("confbridge-mute-in") == "confbridge-mute"
    assert group("digits/4") != group("digits/40") and group("vm-goodbye") == "vm-goodbye"
    assert words("confbridge-dec-talk_vol") == "confbridge dec talk vol"


def test_what_is_absent_is_explained(folder, monkeypatch):
    monkeypatch.setattr(prompts, "USUAL", folder / "absent")
    with pytest.raises(DataError, match="apt install asterisk-core-sounds-en-wav"):
        SpokenPrompts().open("train")
    with pytest.raises(DataError, match="no voice 'it'"):
        SpokenPrompts(("it",), folder=str(folder)).open("train")
    with pytest.raises(ConfigError, match="seconds 0"):
        SpokenPrompts(seconds=0.0)

"""Clips: the latent timeline, its sensors, and sentences whose truth is known."""

import pickle

import numpy as np
import pytest

from mmrep.data.clips import ClipData, ClipSpec, sensors, sentences
from mmrep.data.clips.timeline import sample, told
from mmrep.errors import ConfigError, DataError

ALL = tuple(
    ["codes", "sound_codes", "video", "sound", "caption", "frames", "clauses", "topic", "question", "spans", "saliency"]
)
SPEC = ClipSpec(8, 2, shortest=3, sounds=2, verbs=8, grounds=3, modes=("seen", "heard", "both"), twins=True)
SMALL = {"n_train": 40, "n_val": 8, "n_test": 40, "size": 16, "hop": 64}


def test_a_record_is_a_function_of_seed_split_and_place():
    data = ClipData(**SMALL, spec=SPEC, sensors=ALL)
    records = data.open("train")
    more = ClipData(**SMALL | {"n_train": 300}, spec=SPEC, sensors=ALL).open("train")
    again = pickle.loads(pickle.dumps(records))
    for name, value in records[39].items():
        np.testing.assert_array_equal(value, more[39][name])
        np.testing.assert_array_equal(value, again[-1][name])
    assert records[0]["video"].shape == (8, 16, 16, 3) and records[0]["sound"].shape == (8 * 64,)
    assert records[0]["codes"].shape == records[0]["sound_codes"].shape == (8, 64)
    assert not np.array_equal(records[0]["codes"], data.open("test")[0]["codes"])
    other = ClipData(**SMALL, seed=1, spec=SPEC, sensors=ALL).open("train")
    assert not np.array_equal(records[0]["codes"], other[0]["codes"])
    with pytest.raises(IndexError):
        records[40]


def test_kinds_differ_events_fill_the_clip_and_cuts_are_free():
    clips = sample(3, np.arange(500), SPEC)
    assert (clips.kind[:, 0] != clips.kind[:, 1]).all() and (clips.sound[:, 0] != clips.sound[:, 1]).all()
    assert set(clips.start[:, 1]) == {3, 4, 5} and (clips.end[:, 0] == clips.start[:, 1]).all()
    assert np.abs(np.bincount(clips.mode) / 500 - 1 / 3).max() < 0.07
    assert np.abs(np.bincount(clips.kind[:, 1] // 64, minlength=8) / 500 - 1 / 8).max() < 0.05
    many = sample(3, np.arange(50), ClipSpec(16, 8, repeats=3, told="first"))
    counts = (many.kind == many.kind[np.arange(50), many.event][:, None]).sum(1)
    assert (counts == 3).all() and (
        many.event == np.argmax(many.kind == many.kind[np.arange(50), many.event][:, None], 1)
    ).all()
    assert sample(3, np.arange(400), ClipSpec(silent=0.5, sounds=1)).heard.any(1).mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("caption", ["one", "all", "order", "same"])
def test_captions_are_true_of_the_clips_that_truth_names_and_foils_of_none(caption):
    modes = ("seen", "heard", "both") if caption in ("one", "all") else ("seen",)
    spec = ClipSpec(
        8,
        3,
        2,
        sounds=2,
        shapes=2,
        colours=2,
        verbs=1,
        timbres=2,
        tones=2,
        same=0.5 * (caption != "order"),
        caption=caption,
        modes=modes,
    )
    if caption == "same":
        spec = ClipSpec(8, 2, shapes=2, grounds=2, same=0.5, caption="same")
    data = ClipData(n_test=60, spec=spec, sensors=("caption", "clauses"))
    clips, records, truth = data.timeline("test"), data.open("test"), data.truth("test")
    assert truth.diagonal().all() and 0.01 < truth.mean() < 0.9
    known = {}
    for i, record in enumerate(records):
        assert record["caption"] != record["caption_foil"]
        heard = {sentences.sound_phrase(s, spec) for s, h in zip(clips.sound[i].tolist(), clips.heard[i]) if h}
        clauses = record["clauses"]
        if caption in ("one", "all"):
            known[i] = {" and ".join(part) for part in _subsets([*dict.fromkeys(clauses)], sorted(heard))}
            assert set(record["caption"].split(" and ")) <= {*clauses, *heard}
            assert not set(record["caption_foil"].split(" and ")) <= {*clauses, *heard}
        elif caption == "order":
            known[i] = {
                o.format(a=clauses[a], b=clauses[b])
                for o in sentences.ORDERS
                for a in range(3)
                for b in range(a + 1, 3)
            }
            assert record["caption_foil"] not in known[i]
    for i, j in np.ndindex(60, 60):
        if caption == "order":
            assert truth[i, j] == (records[i]["caption"] in known[j])
        elif caption == "same":
            assert truth[i, j] == (records[i]["caption"] == records[j]["caption"])
        else:
            assert truth[i, j] == (
                set(records[i]["caption"].split(" and ")) <= set().union(*(k.split(" and ") for k in known[j]))
            )
    assert told(clips, spec).max() < spec.items and told(clips, spec).shape[1] == spec.told_items


def _subsets(seen, heard):
    return [[w] for w in seen + heard]


def test_twins_share_what_is_seen_and_differ_in_sound():
    records = ClipData(**SMALL, spec=SPEC, sensors=ALL).open("test")
    for i in range(0, 40, 2):
        a, b = records[i], records[i + 1]
        for name in ("codes", "video", "clauses", "spans"):
            np.testing.assert_array_equal(a[name], b[name])
        assert not np.array_equal(a["sound"], b["sound"]) and not np.array_equal(a["sound_codes"], b["sound_codes"])


def test_a_sound_has_its_tone_while_its_event_lasts_and_silence_is_silent():
    spec = ClipSpec(8, 4, sounds=1, silent=0.3)
    clips = sample(0, np.arange(40), spec)
    waves = sensors.sound(clips, spec, 4000, 1000, 0.0)
    for i in range(40):
        for e in range(4):
            part = waves[i, clips.start[i, e] * 1000 : clips.end[i, e] * 1000]
            if clips.heard[i, e]:
                spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
                peaks = np.argsort(spectrum)[::-1][:3] * 4000 / len(part)
                low = sensors.FREQUENCIES[clips.sound[i, e] % spec.tones]
                assert min(abs(peaks[0] - low * h) for h in (1, 2, 3, 4)) < 4
            else:
                assert not part.any()
    assert np.abs(waves).max() <= 0.6


def test_frames_have_captions_and_an_event_and_codes_are_those_of_their_event():
    spec = ClipSpec(8, 2, shortest=3, frame_noise=0.2)
    data = ClipData(
        n_test=200, spec=spec, sensors=("codes", "frames", "clauses", "spans", "saliency", "topic"), noise=0.0
    )
    records = data.open("test")
    right = [r["frame_captions"][t] == r["clauses"][r["frame_event"][t]] for r in records for t in range(8)]
    assert np.mean(right) == pytest.approx(0.8, abs=0.03)
    for r in records:
        ends = np.round(r["spans"] * 8).astype(int)
        assert [np.sum(r["frame_event"] == e) for e in range(2)] == (ends[:, 1] - ends[:, 0]).tolist()
        np.testing.assert_array_equal(r["codes"][0], r["codes"][1])
        assert (r["saliency"][r["frame_event"] == r["event"]] == 1).all()
        assert set(r["topic"].split(" and ")) == {c.split()[1] for c in r["clauses"]}
    assert {w for t in data.texts("test") for w in t.split()} >= {"rises", "circle", "red"}


def test_questions_have_the_shape_at_after_and_first():
    spec = ClipSpec(12, 12, sounds=12, shapes=8, colours=1, verbs=2, timbres=2)
    data = ClipData(n_test=100, spec=spec, sensors=("question", "clauses"))
    clips = data.timeline("test")
    seen = set()
    for i, r in enumerate(data.open("test")):
        shapes = [c.split()[0] for c in r["clauses"]]
        at = int(clips.noise[i])
        kind = sentences.QUESTIONS[r["question_kind"]]
        seen.add(kind)
        assert r["answer"] == {"at": shapes[at], "after": shapes[min(at + 1, 11)], "first": shapes[0]}[kind]
    assert seen == {"at", "after", "first"}


def test_settings_that_cannot_work_are_one_sentence():
    for match, settings in {
        "verbs is 9: choose 1 to 8": {"verbs": 9}, "do not fit": {"frames": 7}, "need two": {"events": 1, "caption": "order"},
            "clauses must differ": {"same": 0.5, "caption": "order"},
         "modes to": {"modes": ("both",)}, "repeats is 3": {"repeats": 3},
        "a sound an event": {"sounds": 3},
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            ClipSpec(**settings)
    with pytest.raises(ConfigError, match="sensors has 'sonar'"):
        ClipData(sensors=("sonar",))
    with pytest.raises(DataError, match="empty"):
        ClipData(n_val=0).open("val")

"""4M with learnt tokenizers inside, how its outputs are judged, and the trained model that comes with mmrep."""

from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from configs.masked.fourm_scenes import base, tokenizers
from experiments import train
from mmrep import catalogue
from mmrep.config import Pretrained, flatten
from mmrep.errors import ConfigError, DataError
from mmrep.systems.masked.fourm import learnt
from mmrep.systems.masked.fourm.judged import Judge, agreement, objects
from mmrep.training import loop

WORDS = "a big red circle left of a small blue star"


@cache
def tiny():
    e = mmrep.get_config("fourm_scenes", "tiny")
    return mmrep.create(replace(e, data=replace(e.data, source=replace(e.data.source, n_train=16, n_val=8, n_test=8))))


def maps(n=2):
    records = tiny().records("test", n)
    return {m.name: tiny().preprocess(m.name, [r[m.source] for r in records]) for m in tokenizers.maps(16, 4)}


def test_ids_are_those_of_the_tokenizers_in_the_extras():
    model, batch = tiny(), maps()
    config = model.experiment.system
    systems = learnt.systems(config.tokenizers)
    found = learnt.with_ids(config.modalities, systems, model.extras, batch)
    for name, system in systems.items():
        own = model.extras["tokenizers"][name]
        ids = system.infer["tokenize"](own["params"], own["extras"], {name: batch[name]})
        np.testing.assert_array_equal(found[name], ids.reshape(2, -1))
        # Ids in place of a map are taken as they are.
        again = learnt.with_ids(config.modalities, systems, model.extras, {name: ids})
        np.testing.assert_array_equal(again[name], found[name])
        decoded = learnt.decoded(config.modalities, systems, model.extras, {name: ids.reshape(2, -1)})[name]
        assert decoded.shape == batch[name].shape


def test_a_run_that_starts_from_a_trained_4m_takes_its_tokenizers(tmp_path, capsys):
    donor = tiny().save(tmp_path / "donor.safetensors")
    found = train.started_from(tiny().experiment, donor).phases[0].start
    assert found == (Pretrained(file=str(donor), parts=(("", ""), ("extras/", "extras/"))),)
    params, extras = tiny().params, {"extras": tiny().extras}
    fresh = mmrep.create(tiny().experiment, seed=5)
    moved = loop.load_pretrained(fresh.params | {"extras": fresh.extras}, params | extras, found[0].parts)
    for path, value in flatten(moved).items():
        np.testing.assert_array_equal(value, flatten(params | extras)[path])
    # Tokenizers of another width have no place: they are trained, and the extras of the file are left out.
    system = tiny().experiment.system
    name, rgb = system.tokenizers[0]
    other = replace(system, tokenizers=((name, replace(rgb, latent=2)), *system.tokenizers[1:]))
    start = train.started_from(replace(tiny().experiment, system=other), donor).phases[0].start
    assert start[:-1] == tiny().experiment.phases[0].start and start[-1] == Pretrained(file=str(donor))
    assert "not all of the file's extras have a place here" in capsys.readouterr().out


def test_maps_come_out_in_their_own_size():
    made = tiny().generate(["semseg", "rgb"], caption=WORDS, decoding_steps=2)
    assert made["rgb"].shape == (1, 16, 16, 3) and made["semseg"].shape == (1, 16, 16)
    assert made["rgb"].min() >= 0 and made["rgb"].max() <= 1 and made["semseg"].max() < tokenizers.CLASSES


def test_trained_tokenizers_begin_the_first_phase():
    names = [part for donor in base.trained({"rgb": "x"}) for part in donor.parts]
    assert names == [("", "extras/tokenizers/rgb/params/"), ("extras/", "extras/tokenizers/rgb/extras/")]
    model = tiny()
    donor = mmrep.create(tokenizers.tiny(tokenizers.maps(16, 4)[0]), seed=3)
    parts = base.trained({"rgb": donor.experiment})[0].parts
    whole = loop.load_pretrained(
        model.params | {"extras": model.extras}, donor.params | {"extras": donor.extras}, parts
    )
    held = whole["extras"]["tokenizers"]
    np.testing.assert_array_equal(held["rgb"]["extras"]["codebook"]["codes"], donor.extras["codebook"]["codes"])
    assert held["depth"] is not None and isinstance(base.small().phases[0].start[0], Pretrained)


@pytest.mark.parametrize(
    ("name", "codes", "sentence"),
    [("colour", 16, "no modality"), ("caption", 16, "a grid"), ("rgb", 17, "make them equal")],
)
def test_a_tokenizer_that_does_not_fit_is_one_sentence(name, codes, sentence):
    config = tiny().experiment.system
    own = replace(dict(config.tokenizers)["rgb"], codes=codes)
    with pytest.raises(ConfigError, match=sentence):
        replace(config, tokenizers=((name, own),)).build()


def test_a_caption_names_its_objects():
    assert objects(WORDS) == [("red", "circle"), ("blue", "star")]
    assert objects("a star and a pink big cross, a dog") == [("", "star"), ("pink", "cross")]
    asked = [objects(WORDS), objects("a pink cross at the top")]
    found = [[("blue", "circle"), ("red", "star")], [("pink", "cross"), ("red", "star")]]
    assert agreement(found, asked) == {
        "all colours": 0.5, "colours": 3 / 4, "all shapes": 0.5, "shapes": 3 / 4, "all objects": 0.0, "objects": 1 / 4,
    }  # fmt: skip


def test_the_judge_knows_real_pictures():
    source = tokenizers.scenes(("rgb", "caption"), 400, 40)
    train, test = source.open("train"), source.open("test")
    judge = Judge.fit([train[i] for i in range(400)])
    found = [judge(test[i]["rgb"]) for i in range(40)]
    scores = agreement(found, [objects(test[i]["caption"]) for i in range(40)])
    assert scores["all objects"] >= 0.95
    assert judge(np.ones((64, 64, 3), np.float32)) == []


def test_evaluators_report_their_floors():
    model = tiny()
    found = mmrep.evaluate(model)
    assert found["drawn all objects real"] >= found["drawn all objects another"]
    keys = (
        "pixels->semseg mIoU",
        "pixels->depth R2",
        "pixels->caption all objects",
        "pixels->caption all objects another",
    )
    assert all(np.isfinite(found[k]) for k in keys)
    assert {f"pixels->{k}{s}" for k in ("semseg mIoU", "depth R2") for s in (" shuffled", " tokens")} <= {*found}


def test_half_of_the_bytes_are_read_back_as_float32(tmp_path):
    model = tiny()
    whole, half = model.save(tmp_path / "a.safetensors"), model.save(tmp_path / "b.safetensors", half=True)
    assert half.stat().st_size < 0.75 * whole.stat().st_size
    read = mmrep.load(half)
    for a, b in ((model.params, read.params), (model.extras, read.extras)):
        for x, y in zip(*(mmrep.config.flatten(tree).values() for tree in (a, b))):
            assert y.dtype == x.dtype
            np.testing.assert_allclose(y, x, rtol=1e-3, atol=1e-6)
    large = model.params | {"mask_token": {"token": jnp.full((1, 32), 1e6)}}
    with pytest.raises(DataError, match="mask_token"):
        mmrep.Model(model.experiment, large, model.extras, model.sentencepiece).save(
            tmp_path / "c.safetensors", half=True
        )


def test_the_card_of_an_exported_model_states_its_limits(tmp_path):
    from experiments.export import write

    model = tiny()
    stopped = mmrep.Model(
        model.experiment, model.params, model.extras, model.sentencepiece, metrics={"a": 0.5}, rows=[{"step": 3}]
    )
    file, card = write(stopped, "fourm_scenes", tmp_path)
    text = card.read_text()
    assert "## Limits" in text and "this world only" in text and "```json" not in text
    read = mmrep.load(file)
    assert read.num_parameters == model.num_parameters
    assert read.metrics == {"a": 0.5} and all("3 of 4 steps" in c and "| a | 0.5 |" in c for c in (text, read.card()))


def test_a_shipped_model_is_loaded_by_the_name_of_its_system(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "ASSETS", tmp_path)
    with pytest.raises(ConfigError, match="no run in"):
        mmrep.load("fourm_scenes")
    tiny().save(tmp_path / "fourm_scenes.safetensors", half=True)
    assert mmrep.load("fourm_scenes").num_parameters == tiny().num_parameters
    with pytest.raises(ConfigError, match="no run in"):
        mmrep.load("fourm_scenes", "tiny")


def test_the_model_that_ships_describes_pictures_and_draws_captions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run takes its place
    model = mmrep.load("fourm_scenes")
    records = model.records("test", 12)
    captions = [r["caption"] for r in records]
    asked = [objects(c) for c in captions]
    written = model.generate("caption", pixels=[r["rgb"] for r in records], temperature=0.0)["caption"]
    assert agreement([objects(w) for w in written], asked)["objects"] > 0.6
    drawn = model.generate(["boxes", "semseg", "rgb"], caption=captions, temperature=0.3, decoding_steps=8)["rgb"]
    judge = Judge.fit(model.records("train", 300))
    own, another = (agreement([judge(x) for x in drawn], a)["colours"] for a in (asked, asked[1:] + asked[:1]))
    assert own > 0.75 and another < 0.4

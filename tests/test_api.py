"""The functions of `import mmrep` and the methods of `Model`: their examples, every kind of raw value, and what cannot work."""

import doctest
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

import mmrep
from mmrep import api
from mmrep import model as model_module
from mmrep.config import flatten
from mmrep.errors import ConfigError, DataError
from mmrep.evals.suite import Retrieval


@pytest.fixture(scope="module")
def model():
    return mmrep.create("clip", "tiny")


@pytest.mark.parametrize("module", [api, model_module], ids=["api", "model"])
def test_examples_in_docstrings(module, model):
    found = doctest.testmod(module, extraglobs={"model": model, "mmrep": mmrep})
    assert found.attempted > 8 and not found.failed


def test_import_is_light():
    code = "import sys, mmrep; mmrep.__dir__(); assert 'jax' not in sys.modules; assert callable(mmrep.train); assert callable(mmrep.train)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists():
    assert {"create", "load", "train", "evaluate", "zero_shot", "Model"} <= {*mmrep.__all__}
    for name in mmrep.__all__:
        assert getattr(mmrep, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mmrep.trian  # noqa: B018


def test_a_seed_draws_the_parameters(model):
    same, other = mmrep.create("clip", "tiny"), mmrep.create("clip", "tiny", seed=1)
    equal = lambda a, b: all(map(np.array_equal, jax.tree.leaves(a.params), jax.tree.leaves(b.params)))  # noqa: E731
    assert equal(model, same) and not equal(model, other)
    assert other.experiment.train.seed == 1
    assert repr(model).startswith("Model(clip: ") and model.num_parameters > 1000


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "given",
    [
        PIXELS, list(PIXELS), tuple(PIXELS), [Image.fromarray(p) for p in PIXELS], PIXELS / np.float32(255), jnp.asarray(PIXELS),
        (p for p in PIXELS), [PIXELS[0], Image.fromarray(PIXELS[1]), PIXELS[2].tolist()],
    ],
    ids=["array", "list", "tuple", "PIL", "floats", "jax", "generator", "mixed"],
)  # fmt: skip
def test_pictures_in_every_form_have_one_embedding(model, given):
    if isinstance(given, list) and isinstance(given[2], list):
        given = [*given[:2], np.asarray(given[2], np.uint8)]
    np.testing.assert_allclose(model.embed(image=given), model.embed(image=PIXELS), atol=2e-2)
    assert model.embed(image=PIXELS).shape == (3, 32)


def test_one_value_is_a_list_of_one(model, tmp_path):
    whole = model.embed(image=PIXELS)
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    for one in (PIXELS[0], Image.fromarray(PIXELS[0]), str(tmp_path / "a.png"), tmp_path / "a.png"):
        np.testing.assert_allclose(model.embed(image=one), whole[:1], atol=1e-5)
    words = model.embed(text=["a red circle", "a star"])
    np.testing.assert_allclose(model.embed(text="a red circle"), words[:1], atol=1e-5)
    np.testing.assert_allclose(model.embed(text=np.array(["a red circle", "a star"])), words, atol=1e-5)


def test_nothing_in_nothing_out(model):
    assert model.embed(image=[]).shape == (0, 32) and model.embed(text=()).shape == (0, 32)
    assert model.similarity([], ["a"]).shape == (0, 1)
    assert model.preprocess("image", []).shape == (0, 32, 32, 3)
    assert model.features(text=[])["pooled"].shape == (0, 32)


def test_preprocessing_and_tokenizer_are_those_of_the_batches(model):
    one, several = model.preprocess("image", PIXELS[0]), model.preprocess("image", list(PIXELS[:1]))
    assert one.shape == (32, 32, 3) and several.shape == (1, 32, 32, 3) and one.dtype == np.float32
    ids = model.tokenizer("a red circle")
    assert ids.shape == (1, model.modality("text").shape[0]) and model.tokenize.decode(ids[0]) == "a red circle"
    batch = {"text": model.tokenizer(["a red circle", "a star"])}
    np.testing.assert_allclose(model.infer("text", batch), model.embed(text=["a red circle", "a star"]), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda m: m.embed(), ConfigError, "embed needs values"),
        (lambda m: m.embed(txt=["a"]), ConfigError, r"no modality 'txt' \(did you mean 'text'\?\)"),
        (lambda m: m.embed(text=None), ConfigError, "text is NoneType: give a list of values"),
        (lambda m: m.embed(text=7), ConfigError, "text is int: give a list"),
        (lambda m: m.embed(text=[7]), DataError, "text: expected text, found int"),
        (lambda m: m.embed(text=[""]), DataError, "text: the text is empty"),
        (lambda m: m.embed(image="no.png"), DataError, r"no\.png cannot be read"),
        (lambda m: m.embed(image=np.zeros((2, 3, 32, 32), np.uint8)), DataError, "the channels must come last"),
        (lambda m: m.embed(image=[PIXELS[0]], text=["a"]), ConfigError, r"clip has no infer function .fused."),
        (lambda m: m.call("txt", text=["a"]), ConfigError, r"no infer function 'txt' \(did you mean 'text'\?\)"),
        (lambda m: m.call("image", image=PIXELS, text=["a"]), ConfigError, "equally many values .*, found 3 of image, 1 of text"),
        (lambda m: m.call("image", text=["a"]), ConfigError, "infer 'image' of clip needs 'image', too"),
        (lambda m: m.encode_tokens(image=PIXELS), ConfigError, "clip has no infer function 'image_tokens'"),
        (lambda m: m.features("blok00", text=["a"]), ConfigError, r"no layer 'blok00' \(did you mean 'block00'\?\)"),
        (lambda m: m.similarity(PIXELS), ConfigError, "similarity takes two lists"),
        (lambda m: m.similarity(image=PIXELS), ConfigError, "similarity takes two modalities, 1 are given"),
        (lambda m: m.generate(["image"], text="a"), ConfigError, "clip does not generate"),
        (lambda m: m.save("a.pt"), ConfigError, r"a\.pt must end in \.safetensors"),
        (lambda m: mmrep.zero_shot(m, "circle"), ConfigError, "zero_shot takes lists"),
        (lambda m: mmrep.zero_shot(m, ["circle"], ["a"]), ConfigError, r"template 'a' must hold {} once"),
        (lambda m: mmrep.create("clap"), ConfigError, r"no system 'clap' \(did you mean 'clip'\?\)"),
        (lambda m: mmrep.create("clip", "huge"), ConfigError, "clip has no size 'huge'"),
        (lambda m: mmrep.list_systems("fussion"), ConfigError, "no family 'fussion'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_sentence(model, call, error, sentence):
    with pytest.raises(error, match=sentence) as found:
        call(model)
    assert "\n" not in str(found.value)


def test_similarity_is_the_dot_product_either_way_round(model):
    words = ["a red circle", "a star"]
    found = model.similarity(PIXELS, words)
    np.testing.assert_allclose(found, model.embed(image=PIXELS) @ model.embed(text=words).T, atol=1e-6)
    np.testing.assert_allclose(model.similarity(text=words, image=PIXELS), found.T, atol=1e-6)


def test_zero_shot_is_the_evaluators_rule(model):
    from mmrep.evals.zero_shot import class_embeddings

    classifier = mmrep.zero_shot(model, ["circle", "star"], ["a {}", "one {}"])
    prompts = model.embed(text=["a circle", "one circle", "a star", "one star"]).reshape(2, 2, -1)
    expected = model.embed(image=PIXELS) @ class_embeddings(prompts).T
    np.testing.assert_allclose(classifier.scores(PIXELS), expected, atol=1e-6)
    np.testing.assert_allclose(classifier(PIXELS).sum(1), 1, rtol=1e-5)
    assert classifier.predict(PIXELS) == [("circle", "star")[i] for i in expected.argmax(1)]
    assert classifier([]).shape == (0, 2) and classifier.predict([]) == []


def test_a_system_with_a_score_of_its_own_uses_it_everywhere(model):
    def tokens(name):
        def infer(params, extras, batch):
            x = jnp.asarray(batch[name], jnp.float32).reshape(len(batch[name]), -1, 4)[:, :3]
            return x, jnp.ones(x.shape[:2], bool)

        return infer

    def score(params, extras, pairs):
        x = jnp.where(pairs["image_valid"][..., None], pairs["image_tokens"], 0).sum((1, 2))
        return x + jnp.where(pairs["text_valid"][..., None], pairs["text_tokens"], 0).sum((1, 2)) ** 2

    system = model.system._replace(
        infer={"image_tokens": tokens("image"), "text_tokens": tokens("text"), "score": score}
    )
    own = model_module.Model(model.experiment, model.params, system=system, tokenize=model.tokenize)
    words = [f"a {w}" for w in ("red circle", "star", "small blue square", "circle")]
    (x, _), (y, _) = own.encode_tokens(image=PIXELS), own.encode_tokens(text=words)
    expected = x.sum((1, 2))[:, None] + (y.sum((1, 2)) ** 2)[None]
    np.testing.assert_allclose(own.similarity(PIXELS, words), expected, rtol=1e-5)
    np.testing.assert_allclose(own.similarity(text=words, image=PIXELS), expected.T, rtol=1e-5)
    image, text = own.encode_tokens(image=PIXELS), own.encode_tokens(text=words)
    np.testing.assert_allclose(own.score_matrix(image, text, block=5), expected, rtol=1e-5)
    classifier = mmrep.zero_shot(own, ["red circle", "star"], ["a {}", "one {}"])
    assert classifier(PIXELS).shape == (3, 2)


def test_generation_from_raw_values_or_from_nothing():
    model = mmrep.create("fourm", "tiny")
    settings = {"decoding_steps": 2, "temperature": 0.5}
    found = model.generate(["semseg", "rgb"], caption=["a red circle", "a star"], samples=2, guidance=2.0, **settings)
    assert [*found] == ["semseg", "rgb"] and found["rgb"].shape == (4, 4, 4, 3) and found["semseg"].shape == (4, 4, 4)
    again = model.generate(["semseg", "rgb"], caption=["a red circle", "a star"], samples=2, guidance=2.0, **settings)
    np.testing.assert_array_equal(found["rgb"], again["rgb"])
    other = model.generate("rgb", caption="a red circle", seed=1, **settings)
    assert other["rgb"].shape == (1, 4, 4, 3) and (other["rgb"][0] != found["rgb"][0]).any()
    texts = model.generate("caption", pixels=[PIXELS[0], Image.fromarray(PIXELS[1])])["caption"]
    assert len(texts) == 2 and all(isinstance(t, str) for t in texts)
    assert len(model.generate("rgb", samples=3, **settings)["rgb"]) == 3
    for call, sentence in (
        (lambda: model.generate([]), "generate needs targets"),
        (lambda: model.generate("rgb", caption=[]), "generate needs at least one value of caption"),
        (
            lambda: model.generate("rgb", captoin="a star"),
            r"'captoin' is neither a modality nor a setting .*did you mean 'caption'",
        ),
        (lambda: model.generate("rgb", caption="a star", temprature=1.0), r"did you mean 'temperature'"),
        (lambda: model.generate("rgb", samples=0), "samples is 0"),
        (lambda: model.generate("sound"), "no modality 'sound'"),
        (lambda: model.generate("caption", caption="a star"), "'caption' is given and a target"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            call()


def test_evaluate_on_other_data(model):
    from mmrep.data.scenes import SceneData

    other = SceneData(n_test=12, seed=5)
    found = mmrep.evaluate(model, other, Retrieval("image", "text"))
    assert found["image->text candidates"] == 12 and "clip" in model.on(other).card()
    assert model.data.source != other  # the model itself keeps its data


def labelled(model, *targets):
    source = replace(model.data.source, n_train=64, n_val=16, n_test=32, sensors=("rgb", "caption", "semseg"))
    return replace(model.data, source=source, modalities=(*model.data.modalities, *targets), batch_size=16)


def test_finetuning_puts_a_head_on_the_very_parameters_of_the_model(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path))
    model = mmrep.create("clip", "tiny", seed=3)
    data = labelled(model, mmrep.modality.label("shape", 8))
    probe = mmrep.finetune(model, data, steps=30, lr=1e-2, progress=False)
    kernel = lambda m: m.params["encoder"]["image"]["projection"]["out"]["kernel"]  # noqa: E731
    np.testing.assert_array_equal(kernel(probe), model.params["image"]["projection"]["out"]["kernel"])
    assert {*probe.metrics} == {"shape accuracy"} and [m.name for m in probe.data.modalities] == ["image", "shape"]
    assert probe.rows[-2]["train/loss"] < probe.rows[0]["train/loss"]
    assert probe.call("predict", image=PIXELS).shape == (3, 8)
    back = mmrep.load(probe.save(tmp_path / "probe.safetensors"))
    np.testing.assert_allclose(back.call("predict", image=PIXELS), probe.call("predict", image=PIXELS), atol=1e-5)
    whole = mmrep.finetune(model, data, head="mlp", freeze=False, steps=3, progress=False)
    assert not np.array_equal(kernel(whole), kernel(probe))


def test_adapters_and_prompts_learn_beside_a_frozen_encoder_and_adapters_are_merged(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path))
    data = labelled(model, mmrep.modality.label("shape", 8))
    found = mmrep.finetune(model, data, lora_rank=2, prompts=3, steps=4, lr=1e-2, progress=False)
    assert {*found.params} == {"encoder", "head", "lora", "prompts"}
    frozen = flatten({"image": model.params["image"]})
    for path, value in flatten(found.params["encoder"]).items():
        np.testing.assert_array_equal(value, frozen[path])
    assert all(np.abs(v).max() > 0 for p, v in flatten(found.params["lora"]).items() if p.endswith("/b"))
    back = mmrep.load(found.save(tmp_path / "merged.safetensors"))
    assert {*back.params} == {"encoder", "head", "prompts"} and back.experiment.system.lora_rank == 0
    np.testing.assert_allclose(back.call("predict", image=PIXELS), found.call("predict", image=PIXELS), atol=1e-5)
    with pytest.raises(ConfigError, match="for a frozen encoder"):
        mmrep.finetune(model, data, lora_rank=2, freeze=False)


def test_a_head_on_texts_keeps_the_tokenizer_of_the_model(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path))
    data = labelled(model, mmrep.modality.label("shape", 8))
    found = mmrep.finetune(model, data, inputs=["text"], steps=2, workdir=tmp_path / "run", progress=False)
    assert [m.name for m in found.data.modalities] == ["text", "shape"]
    assert found.sentencepiece == model.sentencepiece == mmrep.load(tmp_path / "run").sentencepiece


def test_finetuning_without_a_target_or_without_features_is_one_sentence(model):
    with pytest.raises(ConfigError, match="needs one target that the model's data lacks, found none"):
        mmrep.finetune(model, model.data)
    two = labelled(model, mmrep.modality.label("shape", 8), mmrep.modality.label("colour", 8))
    with pytest.raises(ConfigError, match="found shape, colour"):
        mmrep.finetune(model, two)
    dense = labelled(model, mmrep.modality.label_map("semseg", 32, 9))
    with pytest.raises(ConfigError, match="no infer function for a dense head on 'image'"):
        mmrep.finetune(model, dense, head="dense")


# A plain System: functions of a notebook in an Experiment.


def init(rng, batch):
    return {"w": jax.random.normal(rng, (2,))}, {}


def loss(params, extras, batch, rng):
    return jnp.mean((batch["x"] @ params["w"] - 3 * batch["x"][:, 0]) ** 2), (extras, {})


def predict(params, extras, batch):
    return batch["x"] @ params["w"]


PLAIN = mmrep.System(init, loss, {"x": predict})


def test_a_plain_system_trains_resumes_and_loads_with_its_code_given_again(tmp_path):
    config = toy.experiment(6, system=PLAIN)
    trained = mmrep.train(config, tmp_path / "run", progress=False)
    assert trained.metrics["mean"] == pytest.approx(float(np.mean(trained.embed_split("x"))))
    again = mmrep.train(config, tmp_path / "run", progress=False)
    np.testing.assert_array_equal(again.params["w"], trained.params["w"])
    changed = replace(config, system=PLAIN._replace(loss=lambda p, e, b, r: (jnp.mean(p["w"]), (e, {}))))
    with pytest.raises(ConfigError, match=r"another config \(system\.functions\.loss"):
        mmrep.train(changed, tmp_path / "run", progress=False)
    path = trained.save(tmp_path / "plain.safetensors")
    for what in (path, tmp_path / "run"):
        with pytest.raises(ConfigError, match=r"whose functions no file holds: give it again, mmrep\.load"):
            mmrep.load(what)
        np.testing.assert_array_equal(mmrep.load(what, system=PLAIN).params["w"], trained.params["w"])


def test_a_config_class_of_a_notebook_is_refused_elsewhere(tmp_path):
    path = mmrep.create(toy.experiment(2, system=toy.Line())).save(tmp_path / "line.safetensors")
    assert mmrep.load(path).experiment.system == toy.Line()
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(path, "np") as file:
        about = file.metadata()
    about["experiment"] = about["experiment"].replace("toy:Line", "__main__:Line")
    save_file(load_file(path), path, about)
    with pytest.raises(ConfigError, match=r"names __main__:Line, code of a notebook or script"):
        mmrep.load(path)
    assert mmrep.load(path, system=toy.Line()).params["a"]["kernel"].shape == (2, 4)


def test_load_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"no run in runs/clip-small: mmrep\.load\('clip'\) takes the run of that name in \./runs"
    ):
        mmrep.load("clip")
    with pytest.raises(ConfigError, match=r"no system 'clop' \(did you mean 'clip'\?\)"):
        mmrep.load("clop")
    np.savez(tmp_path / "foreign.npz", a=np.zeros(2))
    with pytest.raises(DataError, match="no weights that a system here recognises"):
        mmrep.load(tmp_path / "foreign.npz")
    with pytest.raises(DataError, match="no file"):
        mmrep.load("absent.pt")

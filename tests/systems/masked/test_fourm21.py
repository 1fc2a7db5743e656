"""4M-21: its modalities fit their data, its mixtures are the paper's, and modalities can be added to a trained model."""

import jax
import numpy as np
import pytest

from configs.masked import fourm21
from configs.masked.fourm21 import base, sizes, variants
from mmrep.config import flatten
from mmrep.data import pipeline
from mmrep.systems.masked.fourm.tokens import check_ids, input_values, tokenize
from mmrep.training.loop import load_pretrained

KEY = jax.random.key(0)


def opened(config):
    model = pipeline.fit_tokenizer(config.data, [config.data.source], None)
    return pipeline.open_split(config.data, pipeline.load_tokenizer(config.data, model), "train")


@pytest.fixture(scope="module")
def tiny():
    return sizes.tiny(base.WITH_WORDS)


@pytest.fixture(scope="module")
def batch(tiny):
    return next(pipeline.train_batches(opened(tiny), 8, 0))


def test_every_modality_of_a_batch_has_ids_of_its_vocabulary(tiny, batch):
    modalities = tiny.system.modalities
    ids = tokenize(modalities, batch)
    assert set(ids) == {m.name for m in modalities} and len(ids) == 14
    check_ids(modalities, {k: np.asarray(v) for k, v in ids.items()})
    assert all(ids[m.name].shape[1] == m.max_tokens for m in modalities if not m.is_sequence)
    assert batch["words"].shape == (8, 16, 32) and batch["present"].shape == (8, 14)
    assert set(input_values(modalities, batch)) == {"pixels", "words"}


@pytest.mark.parametrize("names", [base.NAMES, base.SEVEN, base.WITH_WORDS])
def test_the_columns_of_present_are_the_modalities_of_the_system(names):
    e = base.experiment(base.system(names))
    assert tuple(m.name for m in e.system.modalities) == e.data.source.streams == tuple(names)
    assert {g.owns for g in e.data.source.groups} >= {base.SEVEN, ("caption",)}
    assert next(m.shape for m in e.data.modalities if m.name == "present") == (len(names),)


def test_modalities_are_added_to_a_trained_model():
    seven, every = base.system(base.SEVEN), base.system(base.WITH_WORDS)
    donor = jax.eval_shape(lambda: seven.model().init(KEY))
    donor = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), donor)
    params = jax.eval_shape(lambda: every.model().init(KEY))
    found = flatten(load_pretrained(jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params), donor, (("", ""),)))
    assert set(flatten(donor)) < set(found)
    assert all((np.asarray(found[k]) == 0.5).all() for k in flatten(donor))
    assert not (np.asarray(found["decoder_embeddings/teacher"]) == 0.5).any()


def test_steering_generates_colour_alone():
    e = variants.steering()
    for x in e.system.mixtures:
        assert dict(x.targets) == {"rgb": 1.0} and "caption" in dict(x.inputs) and "rgb" not in dict(x.inputs)
    assert e.phases[0].start[0].follow_seed and e == fourm21.get_config("small", "steering")


@pytest.mark.parametrize("system", [base.system(base.WITH_WORDS), sizes.paper().system])
def test_word_embeddings_are_inputs_of_their_mixtures(system):
    assert [m.name for m in system.modalities if m.input_only] == ["pixels", "words"]
    # All to all as any modality, one mixture of mostly words, none of the others.
    words = [dict(x.inputs).get("words", 0.0) for x in system.mixtures]
    assert words == [0.01, 0.1, 1.0, 10.0, 0.0, 0.0, 5.0]
    assert not any({"words", "pixels"} & {*dict(x.targets)} for x in system.mixtures)

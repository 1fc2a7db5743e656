"""4M-21: that its many streams fit their data, and that modalities can be added to a trained model."""

import jax
import numpy as np
import pytest

from configs.masked import _fourm21_sizes as stages
from configs.masked import fourm21
from mmrep.config import flatten
from mmrep.data import pipeline
from mmrep.modality import BOS, EOS, PAD
from mmrep.systems.masked.fourm import masking as spans
from mmrep.systems.masked.fourm.canvas import left_open
from mmrep.training.loop import transplant

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batch():
    return next(pipeline.train_batches(opened(fourm21.get_config("tiny")), 8, 0))


def opened(config):
    model = pipeline.fit_tokenizer(config.data, [config.data.source], None)
    return pipeline.open_split(config.data, pipeline.load_tokenizer(config.data, model), "train")


def test_every_stream_finds_ids_of_its_vocabulary(batch):
    system = fourm21.get_config("tiny").system
    tokens = system.build().tokens({}, {}).tokenise(batch)[0]
    assert set(tokens) == {s.name for s in system.streams} and len(tokens) == 13
    spans.check_ids(system.streams, {k: np.asarray(v) for k, v in tokens.items()})
    assert all(tokens[s.name].shape[1] == s.size for s in system.streams if not s.length)


def test_records_of_one_modality_have_no_other_token(batch):
    system = fourm21.get_config("tiny").system
    tokens = system.build().tokens({}, {}).tokenise(batch)[0]
    caption = [s.name for s in system.streams].index("caption")
    present = np.zeros((8, 13), bool)
    present[:, caption] = True
    masked = spans.mask(KEY, tokens, system.streams, system.mixtures, 24, 24, jax.numpy.asarray(present))
    for side in (masked.inputs, masked.queries):
        assert set(np.unique(np.asarray(side.stream)[np.asarray(side.valid)])) <= {caption}


def test_modalities_are_added_to_a_trained_model():
    seven, every = fourm21.system(fourm21.SEVEN), fourm21.system()
    donor = jax.eval_shape(lambda: seven.model().init(KEY))
    donor = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), donor)
    found = flatten(transplant(every.model().init(KEY), donor, (("", ""),)))
    assert set(flatten(donor)) < set(found)
    assert all((np.asarray(found[k]) == 0.5).all() for k in flatten(donor))
    assert not (np.asarray(found["out/teacher"]) == 0.5).any()


def test_an_open_text_ends_in_a_sentinel():
    np.testing.assert_array_equal(left_open(np.array([BOS, 7, 8, EOS, PAD]), 20), [BOS, 7, 8, 20, EOS])
    np.testing.assert_array_equal(left_open(np.array([BOS, 7, 8, EOS]), 20), [BOS, 7, 8, 20])


def test_steering_goes_to_colour_alone():
    system = fourm21.get_config("steering").system
    names = [s.name for s in system.streams]
    for m in system.mixtures:
        assert [n for n, a in zip(names, m.targets) if a] == ["rgb"]
        assert "caption" in [n for n, a in zip(names, m.inputs) if a] and not m.inputs[names.index("rgb")]
    assert fourm21.get_config("steering").phases[0].start[0].follow_seed


def test_embeddings_of_words_are_one_modality_more():
    small = stages.with_words(fourm21.get_config("tiny"))
    assert [s.name for s in small.system.streams][-1] == "words" and len(small.system.mixtures) == 7
    whole = next(pipeline.train_batches(opened(small), 4, 0))
    assert whole["words"].shape == (4, 16, 32) and whole["present"].shape == (4, 14)
    system = small.system.build()
    params, extras = system.init(KEY, whole)
    assert np.isfinite(jax.jit(system.loss)(params, extras, whole, KEY)[0])
    # Mostly they, of the mixtures one alone; from all to all as much as any; else not at all.
    assert [m.inputs[-1] for m in small.system.mixtures] == [0.01, 0.1, 1.0, 10.0, 0.0, 0.0, 5.0]
    assert not any(m.targets[-1] for m in small.system.mixtures)
    big = fourm21.get_config("paper").system
    assert big.streams[-1].vectors and len(big.mixtures) == 7

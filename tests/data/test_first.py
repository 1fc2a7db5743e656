import jax
import numpy as np
import pytest
import toy

from mmrep import catalogue
from mmrep.config import Optim, Phase
from mmrep.data import pipeline
from mmrep.data.first import First, one_batch
from mmrep.errors import ConfigError
from mmrep.training import loop


def test_every_step_has_the_same_rows_without_augmentation():
    tiny = catalogue.experiment("align", "tiny", "")
    fixed = one_batch(tiny)
    tokenize = pipeline.load_tokenizer(fixed.data, pipeline.fit_tokenizer(fixed.data, [fixed.data.source], None))
    split = pipeline.open_split(fixed.data, tokenize, "train")
    batches = pipeline.train_batches(split, fixed.data.batch_size, seed=0)
    first, second = next(batches), next(batches)
    assert set(first) == set(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        rows = lambda x: sorted(np.asarray(row).tobytes() for row in x)  # noqa: E731
        assert rows(a) == rows(b)
    whole = pipeline.open_split(tiny.data, tokenize, "val")
    assert len(pipeline.open_split(fixed.data, tokenize, "val")) == len(whole)


def test_one_batch_is_learnt():
    fixed = one_batch(toy.experiment(phases=(Phase(steps=150),), optim=Optim(lr=3e-2, warmup=0)))
    rows = loop.train(fixed, progress=False).rows
    assert rows[-1]["train/loss"] < 0.1 * rows[0]["train/loss"] and not fixed.evals


def test_first_checks_its_number():
    source = catalogue.experiment("align", "tiny", "").data.source
    with pytest.raises(ConfigError, match=r"First\.n is 0"):
        First(source, 0)
    with pytest.raises(ConfigError, match="training records: lower it"):
        First(source, 10**6).open("train")

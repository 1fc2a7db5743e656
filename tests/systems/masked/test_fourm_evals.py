from dataclasses import replace

import numpy as np
import pytest

from configs.masked import _fourm_sizes as stages
from mmrep.evals.suite import evaluate
from mmrep.evals.tokens import errors
from mmrep.systems.masked.fourm.evals import counted, majority, mean_accuracy, tokens_of
from mmrep.training.loop import train


def test_the_ground_and_padding_do_not_count():
    truth = np.array([[0, 0, 1, 2], [0, 0, 0, 2]])
    np.testing.assert_array_equal(counted(truth, False), truth != 0)
    assert mean_accuracy(np.array([[9, 9, 1, 1], [9, 9, 9, 2]]), truth, False) == 2 / 3
    words = np.array([[5, 6, 2, 0], [5, 2, 0, 0]])
    assert mean_accuracy(np.array([[5, 6, 2, 9], [5, 5, 9, 9]]), words, True) == 4 / 5
    assert counted(np.zeros((2, 3), int), False).all()


def test_the_majority_knows_each_place():
    truth = np.array([[0, 1, 3], [0, 1, 4], [0, 0, 4], [0, 2, 0]])
    # Second place: 1, 1, 2; third: 3, 4, 4. The ground is not asked for.
    assert majority(truth, False) == 4 / 6


def test_super_resolution_stands_beside_the_enlarged_picture():
    whole = stages.superres(2)
    source = replace(whole.data.source, n_train=32, n_val=8, n_test=8)
    evals = tuple(replace(e, limit=6) for e in whole.evals if hasattr(e, "limit"))
    small = replace(whole, data=replace(whole.data, source=source, batch_size=8, eval_batch_size=8), evals=evals)
    model = train(small, evaluate=evaluate, progress=False, say=lambda _: None)
    ask, (ids, _) = model.tokens(), tokens_of(model, "test", 6)
    maps = {k: np.asarray(ask.detokenise({k: np.asarray(ids[k])})[k]) for k in ("rgb", "rgb_fine")}
    enlarged = maps["rgb"].repeat(2, axis=1).repeat(2, axis=2)
    found = model.metrics
    assert found["rgb->rgb_fine PSNR nearest"] == pytest.approx(errors(enlarged, maps["rgb_fine"])["PSNR"], abs=1e-4)
    assert found["rgb->rgb_fine PSNR made"] < found["rgb->rgb_fine PSNR nearest"]  # two steps teach nothing

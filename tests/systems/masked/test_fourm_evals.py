from dataclasses import replace

import numpy as np
import pytest

import mmrep
from configs.masked.fourm import variants
from mmrep.evals.tokens import errors
from mmrep.systems.masked.fourm.evals import SuperResolution, majority, mean_accuracy, scored_tokens, tokens_of


def test_background_and_padding_are_not_scored():
    truth = np.array([[0, 0, 1, 2], [0, 0, 0, 2]])
    np.testing.assert_array_equal(scored_tokens(truth, False), truth != 0)
    assert mean_accuracy(np.array([[9, 9, 1, 1], [9, 9, 9, 2]]), truth, False) == 2 / 3
    words = np.array([[5, 6, 2, 0], [5, 2, 0, 0]])
    assert mean_accuracy(np.array([[5, 6, 2, 9], [5, 5, 9, 9]]), words, True) == 4 / 5
    assert scored_tokens(np.zeros((2, 3), int), False).all()


def test_the_majority_is_per_position():
    truth = np.array([[0, 1, 3], [0, 1, 4], [0, 0, 4], [0, 2, 0]])
    # Second position: 1, 1, 2; third: 3, 4, 4. The background is not scored.
    assert majority(truth, False) == 4 / 6


def test_super_resolution_is_compared_with_enlarged_images():
    whole = variants.superres()
    source = replace(whole.data.source, n_train=32, n_val=8, n_test=8)
    size = replace(whole.system.encoder, width=16, depth=1)
    e = replace(
        whole,
        data=replace(whole.data, source=source, batch_size=8, eval_batch_size=8),
        system=replace(whole.system, encoder=size, decoder=size),
    )
    model, evaluator = mmrep.create(e), next(x for x in e.evals if isinstance(x, SuperResolution))
    scores = replace(evaluator, limit=6).run(model)
    ids, _ = tokens_of(model, "test", 6)
    images = model.tokens().detokenize({k: ids[k] for k in ("rgb", "rgb_fine")})
    enlarged = np.asarray(images["rgb"]).repeat(2, axis=1).repeat(2, axis=2)
    nearest = scores["rgb->rgb_fine PSNR nearest"]
    assert nearest == pytest.approx(errors(enlarged, np.asarray(images["rgb_fine"]))["PSNR"], abs=1e-4)
    assert scores["rgb->rgb_fine PSNR generated"] < nearest  # the model is untrained

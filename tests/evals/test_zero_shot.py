import numpy as np
import pytest

from mmrep.errors import DataError
from mmrep.evals.zero_shot import average_over_templates, class_embeddings, classification_metrics, zero_shot_metrics


def test_class_embeddings_are_renormalised_means_of_unit_prompts():
    prompts = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    expected = []
    for c in range(3):
        mean = np.mean([p / np.linalg.norm(p) for p in prompts[c]], axis=0)
        expected.append(mean / np.linalg.norm(mean))
    np.testing.assert_allclose(class_embeddings(prompts), expected, rtol=1e-5)
    np.testing.assert_array_equal(class_embeddings(np.zeros((1, 2, 3), np.float32)), 0.0)


def test_metrics_equal_brute_force():
    scores = np.array([[3.0, 1, 2], [1, 3, 2], [2, 1, 3], [1, 2, 3]])
    found = classification_metrics(scores, np.array([0, 0, 0, 2]), ks=(2, 5))
    assert found == {"accuracy": 0.5, "class_mean_accuracy": pytest.approx((1 / 3 + 1) / 2), "top-2": 0.75}
    r = np.random.default_rng(0)
    queries, classes, labels = r.normal(size=(40, 6)), r.normal(size=(7, 6)), r.integers(0, 7, 40)
    s = queries @ classes.T
    found = zero_shot_metrics(queries, classes, labels)
    assert found["accuracy"] == pytest.approx(np.mean(s.argmax(1) == labels))
    assert found["top-5"] == pytest.approx(np.mean([label in np.argsort(-row)[:5] for row, label in zip(s, labels)]))
    assert found["class_mean_accuracy"] == pytest.approx(
        np.mean([(s.argmax(1) == labels)[labels == c].mean() for c in np.unique(labels)])
    )


def test_ties_are_no_luck_and_labels_are_checked():
    assert classification_metrics(np.zeros((4, 3)), np.zeros(4, np.int64))["accuracy"] == 0.0
    with pytest.raises(DataError, match="3 classes"):
        classification_metrics(np.zeros((4, 3)), np.full(4, 3))


def test_average_over_templates():
    scores = np.arange(12.0).reshape(2, 6)
    np.testing.assert_allclose(average_over_templates(scores, 2), [[0.5, 2.5, 4.5], [6.5, 8.5, 10.5]])
    with pytest.raises(DataError, match="4 templates"):
        average_over_templates(scores, 4)

"""Metrics against scikit-learn's, and at their edges."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest

from fastbn.train import metrics


@pytest.fixture(scope="module")
def sklearn() -> Any:
    return pytest.importorskip("sklearn.metrics", reason="the comparison needs scikit-learn")


def scores(rows: int, classes: int) -> tuple[Any, Any]:
    rng = np.random.default_rng((rows, classes))
    labels = rng.integers(0, classes, rows)
    return rng.standard_normal((rows, classes)) + np.eye(classes)[labels], labels


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_classifications_are_scikit_learns(classes: int, sklearn: Any) -> None:
    pred, labels = scores(50, classes)
    found = pred.argmax(axis=1)
    assert metrics.accuracy(pred, labels) == sklearn.accuracy_score(labels, found)
    expected = sklearn.confusion_matrix(labels, found, labels=range(classes))
    np.testing.assert_array_equal(metrics.confusion_matrix(pred, labels), expected)
    for average in ("macro", "weighted", "micro"):
        assert metrics.f1(pred, labels, average) == pytest.approx(  # type: ignore[arg-type]
            sklearn.f1_score(labels, found, average=average, zero_division=0)
        )
    for k in range(1, classes):
        if classes > 2:  # of two classes scikit-learn wants one column
            expected = sklearn.top_k_accuracy_score(labels, pred, k=k, labels=range(classes))
            assert metrics.top_k(k)(pred, labels) == pytest.approx(expected)
    assert metrics.top_k(classes)(pred, labels) == 1.0


def test_two_classes_in_one_column(sklearn: Any) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    pred = rng.standard_normal(40) + labels
    for shown in (pred, pred[:, None]):
        for truth in (labels, labels[:, None], labels.astype(np.float32)):
            assert metrics.accuracy(shown, truth) == np.mean((pred > 0) == labels)
            binary = partial(metrics.f1, average="binary")
            assert binary(shown, truth) == pytest.approx(sklearn.f1_score(labels, pred > 0))


def test_absent_classes_do_not_count(sklearn: Any) -> None:
    pred, labels = np.eye(5)[[0, 1, 1, 3]], np.array([0, 1, 3, 3])
    assert metrics.f1(pred, labels) == pytest.approx(
        sklearn.f1_score(labels, [0, 1, 1, 3], average="macro")
    )
    assert metrics.confusion_matrix(pred, labels, classes=6).shape == (6, 6)


def test_what_is_ignored_and_what_is_a_tie() -> None:
    pred = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [np.nan, np.nan, np.nan]])
    assert metrics.accuracy(pred[:3], [0, -100, 0]) == 1.0
    assert metrics.top_k(1)(pred[2:3], [1]) == 1.0
    assert metrics.top_k(2)(pred, [0, 1, 2, 0]) == 0.5
    probabilities = [[0.9, 0.1, 0.0], [0.2, 0.2, 0.6], [0.9, 0.1, 0.0]]
    assert metrics.accuracy(pred[:3], probabilities) == pytest.approx(2 / 3)


def test_regressions_are_scikit_learns(sklearn: Any) -> None:
    rng = np.random.default_rng(0)
    target = rng.standard_normal((30, 3)).astype(np.float32)
    pred = target + rng.standard_normal((30, 3)).astype(np.float32) / 3
    for a, b in ((pred, target), (pred[:, 0], target[:, 0]), (pred[:, :1], target[:, 0])):
        assert metrics.mae(a, b) == pytest.approx(sklearn.mean_absolute_error(b, a), rel=1e-6)
        assert metrics.r2(a, b) == pytest.approx(sklearn.r2_score(b, a), rel=1e-5)
    assert metrics.r2([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert metrics.r2([1.0, 2.0], [1.0, 1.0]) == 0.0


def test_a_metric_has_a_name_and_travels() -> None:
    metric = metrics.top_k(5)
    assert metric.__name__ == "top_5"
    assert pickle.loads(pickle.dumps(metric)) == metric


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy(np.ones((3, 2)), [0, 1]), "as many predictions as targets"),
        (lambda: metrics.accuracy(np.ones((0, 2)), []), "and one at least"),
        (lambda: metrics.accuracy(np.ones((2, 2)), [-100, -100]), "all targets are -100"),
        (lambda: metrics.accuracy(np.ones((2, 2)), [0.5, 1.0]), "labels should be whole numbers"),
        (lambda: metrics.accuracy(np.ones((2, 2)), [0, 2]), "label 2 is out of bounds for 2"),
        (lambda: metrics.accuracy(np.ones((2, 2, 2)), [0, 1]), r"expected pred of shape \(N, cl"),
        (lambda: metrics.top_k(0), "k should be a positive integer"),
        (lambda: metrics.top_k(3)(np.ones((2, 2)), [0, 1]), "top_3 needs 3 classes"),
        (lambda: metrics.f1(np.ones((2, 3)), [0, 1], "binary"), "needs two classes, got 3"),
        (lambda: metrics.f1(np.ones((2, 3)), [0, 1], "mean"), "average should be 'macro'"),  # type: ignore[arg-type]
        (lambda: metrics.confusion_matrix(np.ones((2, 3)), [0, 1], 2), "there are 3 classes"),
        (lambda: metrics.r2(np.ones((2, 3)), np.ones(2)), "pred and target of one shape"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

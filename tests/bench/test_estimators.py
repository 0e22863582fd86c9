from __future__ import annotations

import pytest

datasets = pytest.importorskip("sklearn.datasets", reason="compares with scikit-learn")

from fastbn.bench.estimators import compare  # noqa: E402


def test_both_are_fitted_on_the_same_splits() -> None:
    found = compare(datasets.load_breast_cancer, rounds=1)
    assert found["accuracy"] > 0.92
    assert found["accuracy_sklearn"] > 0.92
    assert min(found["seconds"], found["seconds_sklearn"]) > 0.0
    assert found["times_as_fast"] == found["seconds_sklearn"] / found["seconds"]

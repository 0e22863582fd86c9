"""The estimators beside scikit-learn's perceptron: accuracy and time of `fit`, in turns.

``python -m fastbn.bench.estimators`` prints it. Both get the same splits of the same sets and one
thread (on a busy machine BLAS's pool would cost scikit-learn's far more); scikit-learn's gets the
scaler that ours has inside.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

ROUNDS = 9


def compare(load: Callable[..., Any], rounds: int = ROUNDS) -> dict[str, float]:
    """Fit both on `rounds` splits of a set of scikit-learn's.

    Returns
    -------
    dict
        ``accuracy`` and ``accuracy_sklearn``, means over the splits; ``seconds`` and
        ``seconds_sklearn``, medians; ``times_as_fast``, the median of the splits' ratios.
    """
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    from fastbn.sklearn import FastBNClassifier

    X, y = load(return_X_y=True)
    accuracy, seconds = np.zeros((rounds, 2)), np.zeros((rounds, 2))
    for seed in range(rounds):
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed, stratify=y)
        estimators = (
            FastBNClassifier(random_state=seed),
            make_pipeline(StandardScaler(), MLPClassifier(random_state=seed)),
        )
        for side, estimator in enumerate(estimators):
            with warnings.catch_warnings(), threadpool_limits(1, "blas"):
                warnings.simplefilter("ignore")  # MLPClassifier's, of epochs that did not suffice
                start = time.perf_counter()
                estimator.fit(X_train, y_train)
                seconds[seed, side] = time.perf_counter() - start
            accuracy[seed, side] = estimator.score(X_test, y_test)
    return {
        "accuracy": float(accuracy[:, 0].mean()),
        "accuracy_sklearn": float(accuracy[:, 1].mean()),
        "seconds": float(np.median(seconds[:, 0])),
        "seconds_sklearn": float(np.median(seconds[:, 1])),
        "times_as_fast": float(np.median(seconds[:, 1] / seconds[:, 0])),
    }


def main() -> None:
    """Print both sets."""
    from sklearn.datasets import load_breast_cancer, load_digits

    for load in (load_breast_cancer, load_digits):
        numbers = (f"{name} {value:.4g}" for name, value in compare(load).items())
        print(load.__name__.removeprefix("load_"), *numbers, sep="  ")


if __name__ == "__main__":
    main()

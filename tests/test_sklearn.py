"""The estimators are scikit-learn's in all that its own checks ask, and good ones."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators are scikit-learn's")

from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from watched import Watched

import fastbn
from fastbn.sklearn import FastBNClassifier, FastBNRegressor

# As with scikit-learn's own SGD estimators: batches of other rows are other steps.
EXPECTED_TO_FAIL = "check_sample_weight_equivalence"
ELSEWHERE = ("check_array_api_input",)  # only with SCIPY_ARRAY_API set before SciPy is imported


def checks() -> list[Any]:
    found = []
    for estimator in (FastBNClassifier(), FastBNRegressor()):
        for checked, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            if name not in ELSEWHERE and not name.startswith(EXPECTED_TO_FAIL):
                label = f"{type(estimator).__name__}-{name}"
                found.append(pytest.param(checked, check, id=label))
    return found


@pytest.mark.parametrize(("estimator", "check"), checks())
def test_check_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


def split(load: Any, seed: int) -> Any:
    X, y = load(return_X_y=True)
    return train_test_split(X, y, random_state=seed, stratify=y)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
def test_as_good_as_scikit_learns(load: Any) -> None:
    ours, theirs = [], []
    for seed in range(3):
        X_train, X_test, y_train, y_test = split(load, seed)
        network = FastBNClassifier(random_state=seed).fit(X_train, y_train)
        ours.append(network.score(X_test, y_test))
        other = make_pipeline(StandardScaler(), MLPClassifier(random_state=seed))
        theirs.append(other.fit(X_train, y_train).score(X_test, y_test))
    spread = np.sqrt(0.03 * 0.97 / (3 * len(y_test)))  # of a share of 97 % among so many
    assert np.mean(ours) > np.mean(theirs) - 2 * spread
    assert np.mean(ours) > 0.95


def test_regression() -> None:
    X, y = load_diabetes(return_X_y=True)
    network = FastBNRegressor(hidden=(16,), epochs=20, random_state=0)
    ours = cross_val_score(network, X, y, cv=3).mean()
    assert ours > cross_val_score(LinearRegression(), X, y, cv=3).mean() - 0.1
    assert ours > 0.35


def test_same_seed_same_network() -> None:
    X_train, X_test, y_train, _ = split(load_breast_cancer, 0)
    first, same, other = (
        FastBNClassifier(epochs=3, random_state=seed).fit(X_train, y_train).predict_proba(X_test)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_features_of_any_scale_and_offset() -> None:
    X_train, X_test, y_train, _ = split(load_breast_cancer, 0)
    factor = np.logspace(-6, 6, X_train.shape[1])
    plain = FastBNClassifier(epochs=5, random_state=0).fit(X_train, y_train)
    moved = FastBNClassifier(epochs=5, random_state=0).fit(factor * (X_train + 1e3), y_train)
    np.testing.assert_allclose(
        moved.predict_proba(factor * (X_test + 1e3)), plain.predict_proba(X_test), atol=1e-3
    )


def test_partial_fit_learns() -> None:
    X_train, X_test, y_train, y_test = split(load_digits, 0)
    network = FastBNClassifier(random_state=0)
    for _ in range(8):
        for part in np.array_split(np.arange(len(X_train)), 5):
            network.partial_fit(X_train[part], y_train[part], classes=np.arange(10))
    assert network.score(X_test, y_test) > 0.94
    before = network.history_.steps
    assert before == 8 * 5 * 9
    network.fit(X_train[:100], y_train[:100])  # begins anew
    assert network.history_.steps == 30 * 4
    network.partial_fit(X_train[:64], y_train[:64])  # goes on
    assert network.history_.steps == 2


def test_partial_fit_refuses() -> None:
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        FastBNClassifier().partial_fit(X, y)
    network = FastBNClassifier().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"y has labels \[3\] that are not in classes"):
        network.partial_fit(X, y * 3)
    with pytest.raises(ValueError, match="are not those of the first call"):
        network.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="batch_size should be at least 2"):
        FastBNClassifier(batch_size=1).fit(X, y)


def test_weights_decide() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = rng.integers(0, 2, 400)  # nothing to see in X
    network = FastBNClassifier(epochs=5, random_state=0)
    heavy = network.fit(X, y, sample_weight=np.where(y == 1, 9.0, 1.0)).predict_proba(X)[:, 1]
    assert abs(heavy.mean() - 0.9) < 0.05
    target = y.astype(float)
    predicted = (
        FastBNRegressor(epochs=5, random_state=0)
        .fit(X, target, sample_weight=np.where(y == 1, 9.0, 1.0))
        .predict(X)
    )
    assert abs(predicted.mean() - 0.9) < 0.05


def test_weight_zero_is_as_if_not_there() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    weight = (np.arange(len(X)) % 3 > 0).astype(float)
    with_zeros = FastBNClassifier(epochs=2, random_state=0).fit(X, y, weight)
    without = FastBNClassifier(epochs=2, random_state=0).fit(
        X[weight > 0], y[weight > 0], weight[weight > 0]
    )
    np.testing.assert_array_equal(with_zeros.predict_proba(X), without.predict_proba(X))


def test_early_stopping() -> None:
    X_train, _, y_train, _ = split(load_breast_cancer, 0)
    network = FastBNClassifier(epochs=200, patience=3, random_state=0).fit(X_train, y_train)
    losses = network.history_.val_loss
    assert len(losses) < 200
    assert int(np.argmin(np.array(losses, float))) == len(losses) - 4


@pytest.mark.parametrize("labels", [["malignant", "benign"], [7, 3]])
def test_classifier_to_onnx(tmp_path: Path, labels: list[Any]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    X, y = load_breast_cancer(return_X_y=True)
    network = FastBNClassifier(epochs=2, random_state=0).fit(X, np.array(labels)[y])
    report = network.to_onnx(tmp_path / "a.onnx")
    assert report.bn_after == 0
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    [probabilities] = session.run(None, {session.get_inputs()[0].name: X.astype(np.float32)})
    np.testing.assert_allclose(probabilities, network.predict_proba(X), atol=1e-4)


def test_a_sure_classifier_of_large_numbers_is_proven_where_its_data_lie(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    X = rng.standard_normal((300, 5)) * [1e3, 1e-3, 1.0, 1e-2, 50.0] + [1e4, 0.1, 0.0, 3.0, -500.0]
    X[:, 1] += 3e-3 * y
    report = FastBNClassifier(random_state=0).fit(X, y).to_onnx(tmp_path / "a.onnx")
    assert report.verification is not None
    assert report.verification.agree


@pytest.mark.parametrize("outputs", [1, 2])
def test_regressor_to_onnx(tmp_path: Path, outputs: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    X, y = load_diabetes(return_X_y=True)
    y = y if outputs == 1 else np.column_stack([y, 1e-3 * X[:, 0] - 5.0])
    network = FastBNRegressor(hidden=(8,), epochs=2, random_state=0).fit(X, y)
    assert network.predict(X).shape == y.shape
    assert network.to_onnx(tmp_path / "a.onnx").bn_after == 0
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    [predicted] = session.run(None, {session.get_inputs()[0].name: X.astype(np.float32)})
    np.testing.assert_allclose(predicted.reshape(y.shape), network.predict(X), rtol=1e-4, atol=1e-6)
    network.set_params(hidden=(3, 3)).to_onnx(tmp_path / "b.onnx")  # the network that was fitted


def test_fitted_estimators_travel() -> None:
    X_train, X_test, y_train, _ = split(load_breast_cancer, 0)
    network = FastBNClassifier(epochs=2, random_state=0).partial_fit(
        X_train, y_train, classes=[0, 1]
    )
    copy = pickle.loads(pickle.dumps(network))
    for estimator in (network, copy):
        estimator.partial_fit(X_train, y_train)
    np.testing.assert_array_equal(copy.predict_proba(X_test), network.predict_proba(X_test))


def test_grid_search_shares_the_cores() -> None:
    joblib = pytest.importorskip("joblib")
    X_train, X_test, y_train, y_test = split(load_breast_cancer, 0)
    grid = {"hidden": [(8,), (16,)]}
    search = GridSearchCV(FastBNClassifier(epochs=5, random_state=0), grid, cv=2, n_jobs=2)
    assert search.fit(X_train, y_train).score(X_test, y_test) > 0.85
    watched = GridSearchCV(Watched(epochs=1, random_state=0), grid, cv=2, n_jobs=2)
    threads = watched.fit(X_train, y_train).cv_results_["mean_test_score"]
    assert max(threads) <= max(1, joblib.cpu_count() // 2)


def test_small_networks_train_on_one_thread(
    set_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    seen: list[int] = []
    set_threads(2)

    def fit(trainer: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(fastbn.get_num_threads())
        both.wait(30)
        return trainer.history

    monkeypatch.setattr("fastbn.sklearn.Trainer.fit", fit)
    both = threading.Barrier(2)  # neither leaves before the other is inside
    workers = [threading.Thread(target=FastBNClassifier().fit, args=(X, y)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == [1, 1]
    assert fastbn.get_num_threads() == 2
    both = threading.Barrier(1)
    FastBNClassifier(hidden=(1024, 1024)).fit(X, y)
    assert seen[2:] == [2]


@pytest.mark.parametrize(("rows", "patience"), [(33, None), (64, None), (100, 50)])
def test_the_learning_rate_falls_to_zero(rows: int, patience: int | None) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((rows, 4)), np.arange(rows) % 2
    network = FastBNClassifier(epochs=5, batch_size=32, patience=patience, validation_fraction=0.36)
    planned: list[Any] = []
    begin = network._new_trainer
    network._new_trainer = lambda lr: planned.append((lr, begin(lr))) or planned[-1][1]
    network.fit(X, y)
    [(rate, trainer)] = planned
    assert rate(trainer.steps) == pytest.approx(0.0, abs=1e-12)

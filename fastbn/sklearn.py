"""scikit-learn estimators: multi-layer perceptrons with batch normalisation.

They go where scikit-learn's own go (pipelines, cross-validation, grid searches), and their networks
leave as ONNX files with every BatchNorm folded away.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ImportError as error:
    raise ImportError('The estimators need scikit-learn: pip install "fastbn[data]"') from error

from fastbn import get_num_threads, models, nn, set_num_threads
from fastbn.data import Normalization
from fastbn.optim import AdamW
from fastbn.optim.schedules import cosine
from fastbn.train import EarlyStopping, Trainer
from fastbn.train.targets import into_unit

if TYPE_CHECKING:
    from fastbn.export import ExportReport

Array = NDArray[Any]

# Multiplications of a step's forward pass that are worth more than one thread: with fewer, threads
# wait for each other longer than they work, and longer still where other processes want the cores.
WORTH_THREADS = 1 << 21


class _OneThread:
    """One thread for small networks; what was set before is set again after the last of them.

    Estimators may be trained by several threads at once, as joblib's threading backend does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 1

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._before = get_num_threads()
                set_num_threads(1)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    set_num_threads(self._before)


_one_thread = _OneThread()


class _Perceptron(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What classifier and regressor share: parameters, training, predictions of the network."""

    def __init__(
        self,
        hidden: tuple[int, ...] = (128, 64),
        *,
        epochs: int = 30,
        batch_size: int = 32,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def _checked(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, *, reset: bool
    ) -> tuple[Array, Array, Array | None]:
        """Return samples, targets and weights; rows of weight 0 are as if they were not there."""
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size should be at least 2, for one row has no batch statistics, "
                f"got {self.batch_size}"
            )
        x: Array
        target: Array
        x, target = validate_data(
            self,
            X,
            y,
            dtype=(np.float64, np.float32),
            multi_output=True,
            ensure_min_samples=2,
            reset=reset,
        )
        if sample_weight is None:
            return x, target, None
        weight = _check_sample_weight(sample_weight, x)
        if (weight < 0.0).any():
            raise ValueError("sample_weight should not be negative")
        counted = weight > 0.0
        if counted.sum() < 2:
            raise ValueError("sample_weight should be above 0 for at least 2 samples")
        return x[counted], target[counted], weight[counted] / weight[counted].mean()

    def _train(self, X: Array, target: Array, weight: Array | None, outputs: int) -> None:
        """Train a new network."""
        self._begin(X, outputs)
        held_out = self.validation_fraction if self.patience is not None else None
        rows = len(X) - (0 if held_out is None else round(len(X) * held_out))
        left = rows % self.batch_size  # a single row is left out
        steps = self.epochs * (rows // self.batch_size + (left > 1))
        self._trainer: Trainer | None = self._new_trainer(cosine(self.lr, max(1, steps)))
        callbacks = [] if self.patience is None else [EarlyStopping(self.patience)]
        self._fit(X, target, weight, self.epochs, validation=held_out, callbacks=callbacks)
        self._trainer = None  # its learning rate has come to its end

    def _train_on(self, X: Array, target: Array, weight: Array | None, outputs: int) -> None:
        """Go through some more samples once, with the network there is or a new one."""
        if not hasattr(self, "net_"):
            self._begin(X, outputs)
            self._trainer = None
        if self._trainer is None:
            self._trainer = self._new_trainer(self.lr)
        self._fit(X, target, weight, 1)

    def _begin(self, X: Array, outputs: int) -> None:
        self.normalization_ = Normalization.fit(X)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self._rng = np.random.default_rng(seed)
        self.net_ = models.mlp(X.shape[1:], outputs, hidden=tuple(self.hidden), rng=self._rng)

    def _new_trainer(self, lr: Any) -> Trainer:
        optimizer = AdamW(self.net_.parameters(), lr=lr, weight_decay=self.weight_decay)
        return Trainer(self.net_, self._loss(), optimizer)

    def _fit(
        self, X: Array, target: Array, weight: Array | None, epochs: int, **options: Any
    ) -> None:
        assert self._trainer is not None
        x = self.normalization_.apply(X).astype(np.float32, copy=False)
        samples = (x, target) if weight is None else (x, target, weight)
        weights = sum(parameter.size for parameter in self.net_.parameters())
        small = weights * min(len(x), self.batch_size) < WORTH_THREADS
        with _one_thread() if small else nullcontext():
            self.history_ = self._trainer.fit(
                samples, epochs, self.batch_size, rng=self._rng, progress=False, **options
            )

    def _outputs(self, X: ArrayLike) -> Array:
        """Return what the network gives, in float64."""
        check_is_fitted(self)
        x: Array = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        x = self.normalization_.apply(x).astype(np.float32, copy=False)
        return np.asarray(self.net_.predict(x), np.float64)

    def _loss(self) -> Any:
        raise NotImplementedError

    def _normalization(self) -> tuple[Array, Array]:
        return self.normalization_.mean, self.normalization_.std


class FastBNClassifier(ClassifierMixin, _Perceptron):  # type: ignore[misc]
    """A multi-layer perceptron with batch normalisation that tells classes apart.

    Samples are normalised by mean and standard deviation of each feature: no scaler is needed.

    Parameters
    ----------
    hidden : tuple of int, default (128, 64)
        Sizes of the hidden layers; each is Linear, BatchNorm, ReLU.
    epochs : int, default 30
        Times to go through the samples.
    batch_size : int, default 32
        Samples in a step, at least 2.
    lr : float, default 3e-3
        Learning rate of AdamW; `fit` lets it fall to 0 along a cosine.
    weight_decay : float, default 1e-2
        Of AdamW.
    patience : int, optional
        Stop when the loss of held-out samples has not improved for this many epochs, and take the
        weights that were best. By default nothing is held out.
    validation_fraction : float, default 0.1
        Share of the samples that is held out where `patience` is given.
    random_state : int, RandomState or None
        Source of initial weights, order and choice of what is held out: a number makes results
        repeatable.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    net_ : fastbn.nn.Sequential
        The network; it takes normalised float32 samples and gives logits.
    normalization_ : fastbn.data.Normalization
        Of the samples of `fit`, or of the first call of `partial_fit`.
    history_ : fastbn.train.History
        Loss and accuracy of every epoch.
    n_features_in_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.model_selection import train_test_split
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    >>> FastBNClassifier(random_state=0).fit(X_train, y_train).score(X_test, y_test) > 0.95
    True
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train a new network.

        Parameters
        ----------
        X : array_like, shape (N, F)
        y : array_like, shape (N,)
            Labels of any kind, of at least two classes.
        sample_weight : array_like, shape (N,), optional
            Not negative; a sample of weight 0 does not count at all.

        Returns
        -------
        FastBNClassifier
            This object.
        """
        X, y, weight = self._checked(X, y, sample_weight, reset=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"Expected samples of at least 2 classes, got 1 class: {self.classes_}"
            )
        self._train(X, labels, weight, len(self.classes_))
        return self

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Go once through some more samples, at the constant learning rate `lr`.

        The first call fits the normalisation of the samples: let it have some hundred of them.

        Parameters
        ----------
        X, y, sample_weight
            As of `fit`; a call may lack some of the classes.
        classes : array_like, optional
            All labels there are; needed by the first call.

        Returns
        -------
        FastBNClassifier
            This object.
        """
        first = not hasattr(self, "net_")
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit")
        X, y, weight = self._checked(X, y, sample_weight, reset=first)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        known = self.classes_ if classes is None else np.unique(np.asarray(classes))
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(f"classes {known} are not those of the first call, {self.classes_}")
        unknown = np.setdiff1d(y, known)
        if unknown.size:
            raise ValueError(f"y has labels {unknown} that are not in classes {known}")
        self.classes_ = known
        self._train_on(X, np.searchsorted(known, y), weight, len(known))
        return self

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability of every class, ``(N, C)``, in the order of `classes_`."""
        logits = self._outputs(X)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))

    def predict(self, X: ArrayLike) -> Array:
        """Return the most probable label of every sample, ``(N,)``."""
        outputs = self._outputs(X)
        return np.asarray(self.classes_[outputs.argmax(axis=1)])

    def to_onnx(self, path: str | os.PathLike[str], **options: Any) -> ExportReport:
        """Write an ONNX file that takes samples as `predict_proba` does, and gives the same.

        Parameters
        ----------
        path : path
            The file; written when it is proven.
        **options
            Of `fastbn.export.to_onnx`.

        Returns
        -------
        fastbn.export.ExportReport
        """
        from fastbn.export import to_onnx

        check_is_fitted(self)
        names = [str(name) for name in self.classes_]
        options = {"classes": names, "softmax": True, **options}
        return to_onnx(self.net_, path, normalization=self._normalization(), **options)

    def _loss(self) -> nn.CrossEntropyLoss:
        return nn.CrossEntropyLoss()


class FastBNRegressor(RegressorMixin, _Perceptron):  # type: ignore[misc]
    """A multi-layer perceptron with batch normalisation that predicts numbers.

    Samples and targets are normalised by their mean and standard deviation: no scaler is needed.

    Parameters
    ----------
    hidden, epochs, batch_size, lr, weight_decay, patience, validation_fraction, random_state
        As of `FastBNClassifier`.

    Attributes
    ----------
    net_ : fastbn.nn.Sequential
        The network; it takes normalised float32 samples and gives normalised targets.
    normalization_, target_normalization_ : fastbn.data.Normalization
        Of the samples and targets of `fit`, or of the first call of `partial_fit`.
    history_ : fastbn.train.History
        Loss of every epoch, in squares of the target's standard deviation.
    n_features_in_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.model_selection import train_test_split
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    >>> estimator = FastBNRegressor(hidden=(16,), epochs=20, random_state=0)
    >>> estimator.fit(X_train, y_train).score(X_test, y_test) > 0.2
    True
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train a new network.

        Parameters
        ----------
        X : array_like, shape (N, F)
        y : array_like, shape (N,) or (N, K)
            One number for every sample, or several.
        sample_weight : array_like, shape (N,), optional
            Not negative; a sample of weight 0 does not count at all.

        Returns
        -------
        FastBNRegressor
            This object.
        """
        X, target, weight = self._targets(X, y, sample_weight, reset=True)
        self.target_normalization_ = Normalization.fit(target)
        self._train(X, self._scaled(target), weight, target.shape[1])
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Go once through some more samples, at the constant learning rate `lr`.

        The first call fits the normalisations: let it have some hundred samples.

        Parameters
        ----------
        X, y, sample_weight
            As of `fit`.

        Returns
        -------
        FastBNRegressor
            This object.
        """
        first = not hasattr(self, "net_")
        X, target, weight = self._targets(X, y, sample_weight, reset=first)
        if first:
            self.target_normalization_ = Normalization.fit(target)
        self._train_on(X, self._scaled(target), weight, target.shape[1])
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Return what is predicted for every sample, ``(N,)`` or ``(N, K)`` as `fit` was given."""
        outputs = self._outputs(X)
        predicted = self.target_normalization_.undo(outputs)
        return predicted[:, 0] if self._flat else predicted

    def to_onnx(self, path: str | os.PathLike[str], **options: Any) -> ExportReport:
        """Write an ONNX file that takes samples as `predict` does, and gives ``(N, K)``.

        Parameters
        ----------
        path : path
            The file; written when it is proven.
        **options
            Of `fastbn.export.to_onnx`.

        Returns
        -------
        fastbn.export.ExportReport
        """
        from fastbn.export import to_onnx

        check_is_fitted(self)
        net = copy.deepcopy(self.net_).eval()
        into_unit(net, self.target_normalization_)
        return to_onnx(net, path, normalization=self._normalization(), **options)

    def _targets(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, *, reset: bool
    ) -> tuple[Array, Array, Array | None]:
        """Return samples, targets ``(N, K)`` and weights."""
        X, y, weight = self._checked(X, y, sample_weight, reset=reset)
        y = np.asarray(y, np.float64)
        self._flat = y.ndim == 1
        return X, y.reshape(len(y), -1), weight

    def _scaled(self, target: Array) -> Array:
        return self.target_normalization_.apply(target).astype(np.float32)

    def _loss(self) -> nn.MSELoss:
        return nn.MSELoss()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

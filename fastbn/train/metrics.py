"""Metrics: numbers that tell how good predictions are, but are not what training minimises.

A metric is called as ``metric(pred, target)`` on whole arrays, all rows of a set at once, for the
mean of F1 or R² over batches is not that of the set. Any function of two arrays is one;
``Trainer(..., metrics=(metrics.accuracy, metrics.top_k(5)))`` collects what a validation predicts.

Classifications take `pred` as a network returns it: of shape (N, C), where the largest number of a
row tells the class, or (N,) or (N, 1), where what is positive is class 1 of two. `target` holds
labels, or numbers of the classes of which the largest counts. Rows of the label -100 stay out.

Examples
--------
>>> import numpy as np
>>> from fastbn.train import metrics
>>> logits, labels = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [3.0, 1.0, 2.0]]), [0, 2, 2]
>>> round(metrics.accuracy(logits, labels), 3), metrics.top_k(2)(logits, labels)
(0.333, 1.0)
>>> metrics.confusion_matrix(logits, labels)
array([[1, 0, 0],
       [0, 0, 0],
       [1, 1, 0]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Average = Literal["macro", "weighted", "micro", "binary"]

IGNORED = -100


def accuracy(pred: ArrayLike, target: ArrayLike) -> float:
    """Return the share of rows whose class was found.

    Examples
    --------
    >>> accuracy([[0.1, 0.9], [0.8, 0.2], [0.6, 0.4]], [1, 0, 1])
    0.6666666666666666
    """
    found, labels = _classes(*_rows(pred, target))
    return float(np.mean(found == labels))


def top_k(k: int) -> TopK:
    """Return the metric that counts a row if its class is among the `k` likeliest ones.

    Parameters
    ----------
    k : int

    Returns
    -------
    callable
        Its name is ``top_5`` for k = 5. Classes as likely as the right one count for it.

    Examples
    --------
    >>> top_k(2)([[0.1, 0.3, 0.6], [0.7, 0.2, 0.1]], [1, 2])
    0.5
    """
    return TopK(k)


@dataclass(frozen=True)
class TopK:
    """What `top_k` returns.

    Examples
    --------
    >>> TopK(5).__name__
    'top_5'
    """

    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or self.k != int(self.k) or self.k < 1:
            raise ValueError(f"top_k: k should be a positive integer, but got {self.k}")

    @property
    def __name__(self) -> str:
        return f"top_{self.k}"

    def __call__(self, pred: ArrayLike, target: ArrayLike) -> float:
        """Return the share of rows whose class is among the `k` likeliest."""
        scores, truth = _rows(pred, target)
        if scores.ndim != 2 or scores.shape[1] < self.k:
            raise ValueError(f"top_{self.k} needs {self.k} classes, got pred of {scores.shape}")
        _, labels = _classes(scores, truth)
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        likelier = ~(scores <= own)  # NaN is never right
        return float(np.mean(np.count_nonzero(likelier, axis=1) < self.k))


def confusion_matrix(
    pred: ArrayLike, target: ArrayLike, classes: int | None = None
) -> NDArray[np.int64]:
    """Return how often each class (row) was taken for each class (column).

    Parameters
    ----------
    classes : int, optional
        Number of rows and columns; by default as many as `pred` and `target` show.

    Examples
    --------
    >>> confusion_matrix([0, 1, 1, 1], [0, 0, 1, 1])
    array([[1, 1],
           [0, 2]])
    """
    scores, truth = _rows(pred, target)
    found, labels = _classes(scores, truth)
    shown = max(int(found.max()), int(labels.max())) + 1
    if scores.ndim == 2:
        shown = max(shown, scores.shape[1])
    count = shown if classes is None else classes
    if count < shown:
        raise ValueError(f"confusion_matrix: there are {shown} classes, got classes={classes}")
    return np.bincount(labels * count + found, minlength=count**2).reshape(count, count)


def f1(pred: ArrayLike, target: ArrayLike, average: Average = "macro") -> float:
    """Return the harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN).

    Parameters
    ----------
    average : {"macro", "weighted", "micro", "binary"}
        The mean over all classes that are in `pred` or `target`, the same weighted by their rows,
        that of all rows together, or that of class 1 of two. ``functools.partial(f1,
        average="binary")`` is a metric.

    Examples
    --------
    >>> round(f1([0, 1, 1, 1], [0, 0, 1, 1]), 4)
    0.7333
    """
    table = confusion_matrix(pred, target)
    right, true, found = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    scores = 2.0 * right / np.maximum(true + found, 1)
    match average:
        case "macro":
            return float(scores[true + found > 0].mean())
        case "weighted":
            return float((scores * true).sum() / true.sum())
        case "micro":
            return float(right.sum() / true.sum())
        case "binary":
            if len(table) > 2:
                raise ValueError(f"f1: average='binary' needs two classes, got {len(table)}")
            return float(scores[1]) if len(table) == 2 else 0.0
    raise ValueError(
        f"f1: average should be 'macro', 'weighted', 'micro' or 'binary', but got {average!r}"
    )


def mae(pred: ArrayLike, target: ArrayLike) -> float:
    """Return the mean of |pred - target|.

    Examples
    --------
    >>> mae([1.0, 2.0], [1.0, 4.0])
    1.0
    """
    found, truth = _numbers(pred, target)
    return float(np.abs(found - truth).mean())


def r2(pred: ArrayLike, target: ArrayLike) -> float:
    """Return 1 - sum (pred - target)² / sum (target - mean)², the mean over the outputs.

    It is 1 where everything is right, 0 for what is no better than the mean. An output whose
    target is constant has 1 where it is met exactly, else 0.

    Examples
    --------
    >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    0.7857142857142857
    """
    found, truth = _numbers(pred, target)
    left = np.square(truth - found).sum(axis=0)
    spread = np.square(truth - truth.mean(axis=0)).sum(axis=0)
    explained = 1.0 - left / np.where(spread > 0, spread, 1.0)
    return float(np.where(spread > 0, explained, np.where(left > 0, 0.0, 1.0)).mean())


def _rows(pred: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    """Return both as arrays, without the rows to ignore."""
    scores, truth = np.asarray(pred), np.asarray(target)
    if scores.ndim == 0 or len(scores) != len(truth) or not len(scores):
        raise ValueError(
            "expected as many predictions as targets, and one at least, "
            f"got shapes {scores.shape} and {truth.shape}"
        )
    counts = truth != IGNORED if truth.ndim == 1 else np.ones(len(truth), dtype=bool)
    if not counts.any():
        raise ValueError(f"all targets are {IGNORED}, which is ignored")
    return scores[counts], truth[counts]


def _classes(scores: Array, truth: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return predicted classes and labels."""
    if scores.ndim == 2 and scores.shape[1] > 1:
        found = scores.argmax(axis=1)
    elif scores.ndim in {1, 2}:
        found = scores.reshape(-1)
        found = found if found.dtype.kind in "iu" else found > 0
    else:
        raise ValueError(f"expected pred of shape (N, classes) or (N,), got {scores.shape}")
    labels = truth.argmax(axis=1) if truth.ndim == 2 and truth.shape[1] > 1 else truth.reshape(-1)
    if len(labels) != len(found):
        raise ValueError(f"expected labels of shape ({len(found)},), got {truth.shape}")
    if not np.array_equal(labels, labels.astype(np.int64)) or labels.min() < 0:
        raise ValueError("labels should be whole numbers from 0 on")
    if scores.ndim == 2 and labels.max() >= max(scores.shape[1], 2):
        raise ValueError(f"label {labels.max()} is out of bounds for {scores.shape[1]} classes")
    return found.astype(np.int64), labels.astype(np.int64)


def _numbers(pred: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    """Return both in float64; one column may have an axis of its own or not."""
    found, truth = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    if found.ndim == truth.ndim + 1 and found.shape[-1] == 1:
        found = found[..., 0]
    if found.shape != truth.shape or not found.size:
        raise ValueError(
            f"expected pred and target of one shape, not empty, got {np.shape(pred)} and "
            f"{np.shape(target)}"
        )
    return found, truth

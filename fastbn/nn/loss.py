"""Losses: a number to minimise, and its gradient with respect to the prediction.

A loss is called as ``loss(pred, target)`` and returns ``(value, dpred)``; any function that does so
is one. Those here also take a weight for every row, ``loss(pred, target, sample_weight)``, and have
``value``, the number alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn import functional as F
from fastbn.functional.loss import Reduction
from fastbn.nn.buffers import Pool

Array = NDArray[Any]


class Loss:
    """Base class: a subclass names a pair of `fastbn.functional` in `operation`.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Whether rows are averaged, each by its weight, or added.
    """

    operation: ClassVar[str]

    def __init__(self, reduction: Reduction = "mean") -> None:
        if reduction not in {"mean", "sum"}:
            raise ValueError(f"reduction should be 'mean' or 'sum', but got {reduction!r}")
        self.reduction: Reduction = reduction
        self._pool = Pool()

    def forward(
        self, pred: Array, target: Array, sample_weight: ArrayLike | None
    ) -> tuple[float, Any]:
        """Return the loss and what backward needs."""
        forward: Callable[..., tuple[float, Any]] = getattr(F, self.operation)
        return forward(
            pred,
            target,
            sample_weight=sample_weight,
            reduction=self.reduction,
            **self.options(pred),
        )

    def backward(self, saved: Any, out: Array) -> Array:
        """Return the gradient in `out`."""
        backward: Callable[..., Array] = getattr(F, f"{self.operation}_backward")
        return backward(1.0, saved, out=out)

    def options(self, pred: Array) -> dict[str, Any]:
        """Return what else forward gets."""
        return {}

    def __call__(
        self, pred: Array, target: Array, sample_weight: ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Return the loss and its gradient.

        Parameters
        ----------
        pred : ndarray, shape (N, ...)
            What the network returned.
        target : ndarray
            What it should have returned; see the class.
        sample_weight : array_like, shape (N,), optional
            What every row counts, not negative; a mean is divided by their sum.

        Returns
        -------
        loss : float
        dpred : ndarray
            Shape of `pred`.

        Raises
        ------
        ValueError, TypeError
            If shapes or dtypes do not fit or a value is out of range.
        """
        loss, saved = self.forward(pred, target, sample_weight)
        self._pool.start(pred.shape)
        return loss, self.backward(saved, self._pool.take(pred.shape, pred.dtype))

    def value(self, pred: Array, target: Array, sample_weight: ArrayLike | None = None) -> float:
        """Return the loss alone."""
        return self.forward(pred, target, sample_weight)[0]

    def count(self, target: Array, sample_weight: ArrayLike | None = None) -> float:
        """Return what a mean over these rows is divided by: what they weigh."""
        return float(len(target) if sample_weight is None else np.sum(sample_weight))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_pool"}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._pool = Pool()


class CrossEntropyLoss(Loss):
    """Mean over the rows of -log softmax(logits)[label]; see `fastbn.functional.cross_entropy`.

    `pred` are logits (N, C); `target` are labels, integers of shape (N,) in [0, C), or
    probabilities of shape and dtype of the logits.

    Parameters
    ----------
    weight : array_like, shape (C,), optional
        What every class counts.
    label_smoothing : float, default 0
        Share of every target, in [0, 1], that is spread over all classes.
    ignore_index : int, default -100
        Rows of this label are ignored.
    reduction : {"mean", "sum"}

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = CrossEntropyLoss()(np.zeros((2, 4)), np.array([0, 3]))
    >>> round(loss, 4)
    1.3863
    >>> dlogits
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    """

    operation = "cross_entropy"

    def __init__(
        self,
        weight: ArrayLike | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
        self.weight = None if weight is None else np.array(weight, dtype=np.float64)
        if self.weight is not None and self.weight.ndim != 1:
            raise ValueError(f"weight: expected shape (classes,), got {self.weight.shape}")
        self.label_smoothing = float(label_smoothing)
        self.ignore_index = int(ignore_index)

    def options(self, pred: Array) -> dict[str, Any]:
        """Return weights of the classes, smoothing, and the label to ignore."""
        return {
            "weight": None if self.weight is None else self.weight.astype(pred.dtype),
            "label_smoothing": self.label_smoothing,
            "ignore_index": self.ignore_index,
        }

    def count(self, target: Array, sample_weight: ArrayLike | None = None) -> float:
        """Return what a mean over these rows is divided by: rows without a label count nothing."""
        if target.ndim > 1:
            return super().count(target, sample_weight)
        counted = target != self.ignore_index
        weights = np.ones(len(target)) if sample_weight is None else np.asarray(sample_weight)
        if self.weight is not None:
            weights = weights * self.weight[np.where(counted, target, 0)]
        return float(weights[counted].sum())

    def correct(self, pred: Array, target: Array) -> int:
        """Return the number of rows whose largest logit is that of the label."""
        labels = target if target.ndim == 1 else target.argmax(axis=1)
        found = pred.argmax(axis=1) == labels
        if target.ndim == 1 and self.ignore_index >= 0:
            found &= labels != self.ignore_index
        return int(np.count_nonzero(found))

    def labelled(self, target: Array) -> int:
        """Return the number of rows that have a label: all but those of `ignore_index`."""
        ignored = target == self.ignore_index if target.ndim == 1 else 0
        return len(target) - int(np.count_nonzero(ignored))


class MSELoss(Loss):
    """Mean over all elements of (pred - target)².

    `pred` and `target` have one shape and dtype, here and in the losses below.

    Parameters
    ----------
    reduction : {"mean", "sum"}

    Examples
    --------
    >>> import numpy as np
    >>> MSELoss()(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    (2.0, array([[ 0., -2.]]))
    """

    operation = "mse_loss"


class L1Loss(Loss):
    """Mean over all elements of |pred - target|.

    Parameters
    ----------
    reduction : {"mean", "sum"}

    Examples
    --------
    >>> import numpy as np
    >>> L1Loss()(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    (1.0, array([[ 0. , -0.5]]))
    """

    operation = "l1_loss"


class HuberLoss(Loss):
    """Mean over all elements: squared (halved) up to `delta`, linear beyond it.

    Parameters
    ----------
    delta : float, default 1
        Positive; see `fastbn.functional.huber_loss`.
    reduction : {"mean", "sum"}

    Examples
    --------
    >>> import numpy as np
    >>> HuberLoss()(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    (0.75, array([[ 0. , -0.5]]))
    """

    operation = "huber_loss"

    def __init__(self, delta: float = 1.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        if not 0.0 < delta < np.inf:
            raise ValueError(f"delta should be finite and > 0, but got {delta}")
        self.delta = float(delta)

    def options(self, pred: Array) -> dict[str, Any]:
        """Return delta."""
        return {"delta": self.delta}


class BCEWithLogitsLoss(Loss):
    """Mean over all elements of -t log σ(x) - (1 - t) log(1 - σ(x)): several yes-or-no answers.

    `pred` are logits x, `target` probabilities t in [0, 1].

    Parameters
    ----------
    reduction : {"mean", "sum"}

    Examples
    --------
    >>> import numpy as np
    >>> loss, dpred = BCEWithLogitsLoss()(np.array([[0.0, 0.0]]), np.array([[1.0, 0.0]]))
    >>> round(loss, 4), dpred
    (0.6931, array([[-0.25,  0.25]]))
    """

    operation = "binary_cross_entropy_with_logits"

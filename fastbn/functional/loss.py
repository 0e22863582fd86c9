"""Losses: cross-entropy of logits, and those of pairs of a prediction and a target."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from fastbn.kernels import loss as _kernels
from fastbn.kernels.loss import CrossEntropySaved, PairsSaved

Array = NDArray[Any]
Reduction = Literal["mean", "sum"]


def _is_mean(reduction: str) -> bool:
    if reduction not in {"mean", "sum"}:
        raise ValueError(f"reduction should be 'mean' or 'sum', but got {reduction!r}")
    return reduction == "mean"


def cross_entropy(
    logits: Array,
    labels: Array,
    weight: Array | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> tuple[float, CrossEntropySaved]:
    r"""Average :math:`-\log softmax(x)_{label}` over the rows.

    Computed as :math:`\log \sum_j e^{x_j - m} + (m - x_{label})` with the row's largest value m,
    which neither overflows nor loses a small loss. Rows are added in float64.

    In general a row is compared with numbers t of its classes, and its loss is
    :math:`-\sum_c t_c \log softmax(x)_c` with :math:`t_c = s w_c ((1 - ε) p_c + ε / C)`: s is its
    `sample_weight`, w the `weight` of the classes, p its probabilities, of which a label has one
    at its class, and ε the `label_smoothing` (Szegedy et al. 2016, Section 7). A mean is over what
    the rows count: :math:`\sum s w_{label}` for labels, :math:`\sum s` for probabilities, as in
    PyTorch.

    Parameters
    ----------
    logits : array
        Shape (N, C), N and C at least 1; float32 or float64.
    labels : array
        Integers of shape (N,) in [0, C), or probabilities of shape and dtype of `logits`.
    weight : array or None
        Of every class: shape (C,), dtype of `logits`, not negative.
    label_smoothing : float, default 0
        In [0, 1].
    ignore_index : int, default -100
        Rows of this label count nothing, and their gradient is 0.
    sample_weight : array_like or None
        Of every row: shape (N,), not negative.
    reduction : {"mean", "sum"}
        A mean over rows that count nothing is 0.

    Returns
    -------
    loss : float
    saved : CrossEntropySaved
        For :func:`cross_entropy_backward`. It refers to logits, probabilities and `weight`, and
        copies labels and `sample_weight`.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit, or a value is out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> loss, saved = cross_entropy(np.array([[0.0, 0.0], [50.0, 0.0]]), np.array([1, 0]))
    >>> round(loss, 6)  # log(2) / 2
    0.346574
    >>> cross_entropy_backward(1.0, saved).round(3)
    array([[ 0.25, -0.25],
           [ 0.  ,  0.  ]])
    """
    mean = _is_mean(reduction)
    return _kernels.cross_entropy(
        logits, labels, weight, label_smoothing, ignore_index, sample_weight, mean
    )


def cross_entropy_backward(
    dloss: float, saved: CrossEntropySaved, *, out: Array | None = None
) -> Array:
    """Return ``dloss * (sum(t) softmax(logits) - t) / D``, where D is what a mean divides by.

    With labels alone, t is 1 at the label and 0 elsewhere, and D is N.

    Parameters
    ----------
    dloss : float
        Gradient of the loss; 1.0 where the loss is what is minimised.
    saved : CrossEntropySaved
        What :func:`cross_entropy` returned.
    out : array or None
        Where dlogits go; may be the logits, or the probabilities.

    Returns
    -------
    array
        dlogits, of shape and dtype of the logits.
    """
    return _kernels.cross_entropy_backward(dloss, saved, out)


def mse_loss(
    pred: Array,
    target: Array,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> tuple[float, PairsSaved]:
    """Average ``(pred - target)²`` over all elements, adding in float64.

    Parameters
    ----------
    pred, target : array
        Both of one shape, not empty, and one dtype, float32 or float64.
    sample_weight : array_like or None
        Of every row: shape (N,), not negative. The mean is over what the rows weigh.
    reduction : {"mean", "sum"}

    Returns
    -------
    loss : float
    saved : PairsSaved
        For :func:`mse_loss_backward`; refers to both arrays, and copies `sample_weight`.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes differ; there is no broadcasting.

    Examples
    --------
    >>> import numpy as np
    >>> loss, saved = mse_loss(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    >>> loss, mse_loss_backward(1.0, saved)
    (2.0, array([0., 2.]))
    """
    return _kernels.mse_loss(pred, target, sample_weight, _is_mean(reduction))


def mse_loss_backward(dloss: float, saved: PairsSaved, *, out: Array | None = None) -> Array:
    """Return ``dloss * 2 * (pred - target) / size``.

    Parameters
    ----------
    dloss : float
        Gradient of the loss; 1.0 where the loss is what is minimised.
    saved : PairsSaved
        What :func:`mse_loss` returned.
    out : array or None
        Where dpred goes; may be `pred` or `target`.

    Returns
    -------
    array
        dpred, of shape and dtype of `pred`.
    """
    return _kernels.mse_loss_backward(dloss, saved, out)


def l1_loss(
    pred: Array,
    target: Array,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> tuple[float, PairsSaved]:
    """Average ``|pred - target|`` over all elements; arguments as of :func:`mse_loss`.

    Examples
    --------
    >>> import numpy as np
    >>> loss, saved = l1_loss(np.array([1.0, 4.0]), np.array([2.0, 1.0]))
    >>> loss, l1_loss_backward(1.0, saved)
    (2.0, array([-0.5,  0.5]))
    """
    return _kernels.l1_loss(pred, target, sample_weight, _is_mean(reduction))


def l1_loss_backward(dloss: float, saved: PairsSaved, *, out: Array | None = None) -> Array:
    """Return ``dloss * sign(pred - target) / size``; see :func:`mse_loss_backward`."""
    return _kernels.l1_loss_backward(dloss, saved, out)


def huber_loss(
    pred: Array,
    target: Array,
    *,
    delta: float = 1.0,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> tuple[float, PairsSaved]:
    """Average ``d²/2`` where ``d = |pred - target|`` is at most `delta`, else ``delta (d - delta/2)``.

    Huber (1964), Section 3; other arguments as of :func:`mse_loss`. `delta` is positive.

    Examples
    --------
    >>> import numpy as np
    >>> loss, saved = huber_loss(np.array([1.0, 4.0]), np.array([2.0, 1.0]))
    >>> loss, huber_loss_backward(1.0, saved)
    (1.5, array([-0.5,  0.5]))
    """  # noqa: E501
    return _kernels.huber_loss(pred, target, delta, sample_weight, _is_mean(reduction))


def huber_loss_backward(dloss: float, saved: PairsSaved, *, out: Array | None = None) -> Array:
    """Return ``dloss * clip(pred - target, -delta, delta) / size``; see `mse_loss_backward`."""
    return _kernels.huber_loss_backward(dloss, saved, out)


def binary_cross_entropy_with_logits(
    pred: Array,
    target: Array,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> tuple[float, PairsSaved]:
    """Average ``-t log σ(x) - (1 - t) log(1 - σ(x))`` over all elements.

    Computed as ``|x| (t if x < 0 else 1 - t) + log(1 + exp(-|x|))``: nothing overflows, and nothing
    cancels where x is sure and right.

    Parameters
    ----------
    pred : array
        Logits x of any shape.
    target : array
        Probabilities t in [0, 1], of shape and dtype of `pred`.
    sample_weight, reduction
        As of :func:`mse_loss`.

    Examples
    --------
    >>> import numpy as np
    >>> loss, saved = binary_cross_entropy_with_logits(np.array([0.0, 100.0]), np.array([0.5, 1.0]))
    >>> round(loss, 6)  # log(2) / 2
    0.346574
    >>> binary_cross_entropy_with_logits_backward(1.0, saved)
    array([0., 0.])
    """
    return _kernels.binary_cross_entropy_with_logits(
        pred, target, sample_weight, _is_mean(reduction)
    )


def binary_cross_entropy_with_logits_backward(
    dloss: float, saved: PairsSaved, *, out: Array | None = None
) -> Array:
    """Return ``dloss * (σ(pred) - target) / size``; see :func:`mse_loss_backward`."""
    return _kernels.binary_cross_entropy_with_logits_backward(dloss, saved, out)

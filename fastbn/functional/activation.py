"""Activations: ReLU, leaky ReLU, sigmoid and tanh element by element, softmax row by row."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn.kernels import activation as _kernels
from fastbn.kernels.activation import ActivationSaved

Array = NDArray[Any]


def relu(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    """Replace what is negative by 0; NaN stays NaN.

    Parameters
    ----------
    x : array
        Any shape; float32 or float64.
    out : array or None
        Where y goes; may be x.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : ActivationSaved
        For :func:`relu_backward`; refers to y.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = relu(np.array([-2.0, 3.0]))
    >>> y
    array([0., 3.])
    >>> relu_backward(np.array([5.0, 5.0]), saved)
    array([0., 5.])
    """
    return _kernels.relu(x, out)


def relu_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return dy where y is positive (or NaN), else 0.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : ActivationSaved
        What :func:`relu` returned.
    out : array or None
        Where dx goes; may be dy.

    Returns
    -------
    array
        dx.
    """
    return _kernels.relu_backward(dy, saved, out)


def leaky_relu(
    x: Array, negative_slope: float = 0.01, *, out: Array | None = None
) -> tuple[Array, ActivationSaved]:
    """Multiply what is negative by `negative_slope`.

    Parameters
    ----------
    x : array
        Any shape; float32 or float64.
    negative_slope : float
        0 is :func:`relu`.
    out : array or None
        Where y goes; may be x unless `negative_slope` is negative.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : ActivationSaved
        For :func:`leaky_relu_backward`; refers to y, or to x where the slope is negative.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> leaky_relu(np.array([-2.0, 3.0]), 0.1)[0]
    array([-0.2,  3. ])
    """
    return _kernels.leaky_relu(x, negative_slope, out)


def leaky_relu_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return dy where x is positive (or NaN), else dy times the slope.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : ActivationSaved
        What :func:`leaky_relu` returned.
    out : array or None
        Where dx goes; may be dy.

    Returns
    -------
    array
        dx.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = leaky_relu(np.array([-2.0, 3.0]), 0.1)
    >>> leaky_relu_backward(np.array([1.0, 1.0]), saved)
    array([0.1, 1. ])
    """
    return _kernels.leaky_relu_backward(dy, saved, out)


def sigmoid(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    r"""Compute :math:`1 / (1 + e^{-x})`, to 3 units in the last place for every x.

    Parameters
    ----------
    x : array
        Any shape; float32 or float64.
    out : array or None
        Where y goes; may be x.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : ActivationSaved
        For :func:`sigmoid_backward`; refers to y.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.array([-800.0, 0.0, 800.0]))[0]
    array([0. , 0.5, 1. ])
    """
    return _kernels.sigmoid(x, out)


def sigmoid_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return ``dy * y * (1 - y)``.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : ActivationSaved
        What :func:`sigmoid` returned.
    out : array or None
        Where dx goes; may be dy.

    Returns
    -------
    array
        dx.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = sigmoid(np.array([0.0, 2.0]))
    >>> sigmoid_backward(np.array([1.0, 1.0]), saved).round(4)
    array([0.25 , 0.105])
    """
    return _kernels.sigmoid_backward(dy, saved, out)


def tanh(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    """Compute the hyperbolic tangent, to 3 units in the last place for every x.

    Parameters
    ----------
    x : array
        Any shape; float32 or float64.
    out : array or None
        Where y goes; may be x.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : ActivationSaved
        For :func:`tanh_backward`; refers to y.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> tanh(np.array([-50.0, 0.0, 1e-20]))[0]
    array([-1.e+00,  0.e+00,  1.e-20])
    """
    return _kernels.tanh(x, out)


def tanh_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return ``dy * (1 - y²)``.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : ActivationSaved
        What :func:`tanh` returned.
    out : array or None
        Where dx goes; may be dy.

    Returns
    -------
    array
        dx.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = tanh(np.array([0.0, 1.0]))
    >>> tanh_backward(np.array([1.0, 1.0]), saved).round(4)
    array([1.  , 0.42])
    """
    return _kernels.tanh_backward(dy, saved, out)


def softmax(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    r"""Make every row positive with sum 1: :math:`y_i = e^{x_i - m} / \sum_j e^{x_j - m}`.

    Rows lie along the last axis; m, the largest value of a row, keeps the exponentials in range.

    Parameters
    ----------
    x : array
        Shape (..., C); float32 or float64.
    out : array or None
        Where y goes; may be x.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : ActivationSaved
        For :func:`softmax_backward`; refers to y.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.array([[1e4, 1e4, -1e4]]))[0]
    array([[0.5, 0.5, 0. ]])
    """
    return _kernels.softmax(x, out)


def softmax_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return ``y * (dy - sum(dy * y))`` along the last axis.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : ActivationSaved
        What :func:`softmax` returned.
    out : array or None
        Where dx goes; may be dy.

    Returns
    -------
    array
        dx.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = softmax(np.array([[0.0, 0.0]]))
    >>> softmax_backward(np.array([[1.0, 0.0]]), saved)
    array([[ 0.25, -0.25]])
    """
    return _kernels.softmax_backward(dy, saved, out)

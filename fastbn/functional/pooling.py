"""Pooling of channels-last images: maximum, mean, and mean over all pixels."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn.kernels import pooling as _kernels
from fastbn.kernels.pooling import GlobalAvgPoolSaved, PoolSaved

Array = NDArray[Any]
IntPair = int | tuple[int, int]


def max_pool2d(
    x: Array,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    *,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    out: Array | None = None,
) -> tuple[Array, PoolSaved]:
    """Take the maximum of every window, channel by channel; a NaN is the maximum.

    Parameters
    ----------
    x : array
        Shape (N, H, W, C); float32 or float64.
    kernel_size, stride, padding, dilation : int or pair of int
        Along height and width, in pixels. ``stride=None`` is the kernel's size. Padding never
        wins, and is at most half of a window.
    ceil_mode : bool
        Round the number of windows up: the last one may reach beyond the padding, but begins in
        front of it.
    out : array or None
        Where y goes; must not overlap x.

    Returns
    -------
    y : array
        Shape (N, OH, OW, C), dtype of x.
    saved : PoolSaved
        For :func:`max_pool2d_backward`: where the maxima were, a byte each (four where a window
        has 255 pixels or more). It does not refer to x.

    Raises
    ------
    TypeError, ValueError
        If a dtype, a shape or an option does not fit, or y would be empty; nothing was changed.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> y, saved = max_pool2d(x, 2)
    >>> y[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    >>> max_pool2d_backward(np.ones_like(y), saved)[0, :, :, 0]
    array([[0., 0., 0., 0.],
           [0., 1., 0., 1.],
           [0., 0., 0., 0.],
           [0., 1., 0., 1.]])
    """
    return _kernels.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, out)


def max_pool2d_backward(dy: Array, saved: PoolSaved, *, out: Array | None = None) -> Array:
    """Hand dy to the first maximum of its window; where windows overlap, it adds up.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : PoolSaved
        What :func:`max_pool2d` returned.
    out : array or None
        Where dx goes; must not overlap dy.

    Returns
    -------
    array
        dx, of shape (N, H, W, C).
    """
    return _kernels.max_pool2d_backward(dy, saved, out)


def avg_pool2d(
    x: Array,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    out: Array | None = None,
) -> tuple[Array, PoolSaved]:
    """Take the mean of every window, channel by channel.

    Parameters
    ----------
    x : array
        Shape (N, H, W, C); float32 or float64.
    kernel_size, stride, padding : int or pair of int
        As in :func:`max_pool2d`.
    ceil_mode : bool
        As in :func:`max_pool2d`; what it adds after the padding never counts.
    count_include_pad : bool
        Padding counts as zeros, else not at all.
    out : array or None
        Where y goes; must not overlap x.

    Returns
    -------
    y : array
        Shape (N, OH, OW, C), dtype of x.
    saved : PoolSaved
        For :func:`avg_pool2d_backward`. It does not refer to x.

    Raises
    ------
    TypeError, ValueError
        If a dtype, a shape or an option does not fit, or y would be empty; nothing was changed.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> avg_pool2d(x, 2)[0][0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    return _kernels.avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad, out)


def avg_pool2d_backward(dy: Array, saved: PoolSaved, *, out: Array | None = None) -> Array:
    """Hand dy over the window's divisor to every input of the window; it adds up.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : PoolSaved
        What :func:`avg_pool2d` returned.
    out : array or None
        Where dx goes; must not overlap dy.

    Returns
    -------
    array
        dx, of shape (N, H, W, C).

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = avg_pool2d(np.arange(4.0).reshape(1, 2, 2, 1), 2)
    >>> avg_pool2d_backward(np.ones((1, 1, 1, 1)), saved).ravel()
    array([0.25, 0.25, 0.25, 0.25])
    """
    return _kernels.avg_pool2d_backward(dy, saved, out)


def global_avg_pool2d(x: Array, *, out: Array | None = None) -> tuple[Array, GlobalAvgPoolSaved]:
    """Take the mean over all pixels, channel by channel; long sums are float64.

    Parameters
    ----------
    x : array
        Shape (N, H, W, C), H and W at least 1; float32 or float64.
    out : array or None
        Where y goes; must not overlap x.

    Returns
    -------
    y : array
        Shape (N, C), dtype of x.
    saved : GlobalAvgPoolSaved
        For :func:`global_avg_pool2d_backward`. It does not refer to x.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = global_avg_pool2d(np.arange(8.0).reshape(1, 2, 2, 2))
    >>> y
    array([[3., 4.]])
    >>> global_avg_pool2d_backward(np.array([[4.0, 8.0]]), saved)[0, 0]
    array([[1., 2.],
           [1., 2.]])
    """
    return _kernels.global_avg_pool2d(x, out)


def global_avg_pool2d_backward(
    dy: Array, saved: GlobalAvgPoolSaved, *, out: Array | None = None
) -> Array:
    """Return ``dy / (H * W)`` for every pixel.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : GlobalAvgPoolSaved
        What :func:`global_avg_pool2d` returned.
    out : array or None
        Where dx goes; must not overlap dy.

    Returns
    -------
    array
        dx, of shape (N, H, W, C).
    """
    return _kernels.global_avg_pool2d_backward(dy, saved, out)

"""Two-dimensional convolution, channels-last."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn.functional._vectors import dense
from fastbn.kernels import conv as _kernels
from fastbn.kernels.conv import ConvSaved

Array = NDArray[Any]
IntPair = int | tuple[int, int]


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    moments: bool = False,
    out: Array | None = None,
) -> tuple[Array, ConvSaved]:
    """Cross-correlate x with weight (what networks call a convolution).

    ``y[n, i, j, o] = bias[o] + sum_{r,s,c} x[n, i*stride + r*dilation - padding, ..., c] *
    weight[o, c, r, s]``, with zeros beyond the border.

    Parameters
    ----------
    x : array
        Shape (N, H, W, C), float32 or float64.
    weight : array
        Shape (O, C / groups, kh, kw), x's dtype, any strides; quickest as
        ``storage.transpose(3, 2, 0, 1)`` of a contiguous (kh, kw, C / groups, O) array.
    bias : array or None
        Shape (O,).
    stride, dilation : int or pair of int
        Of rows and columns.
    padding : int, pair of int, "same" or "valid"
        Rows and columns of zeros on each side; "same" keeps H and W (stride 1; the odd one of an
        even filter goes at the end).
    groups : int
        Channels are split into this many groups, which do not see each other.
    moments : bool
        Take the moments of y's channels while they are written: ``saved.moments`` is what
        :func:`batch_norm` takes as `moments`.
    out : array or None
        Where y goes.

    Returns
    -------
    y : array
        Shape (N, OH, OW, O), with
        ``OH = (H + 2 * padding - dilation * (kh - 1) - 1) // stride + 1``.
    saved : ConvSaved
        For :func:`conv2d_backward`; refers to x and weight.

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or options do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> y, saved = conv2d(x, np.ones((1, 1, 2, 2)))
    >>> y[0, :, :, 0]
    array([[ 8., 12.],
           [20., 24.]])
    """
    return _kernels.forward(x, weight, dense(bias), stride, padding, dilation, groups, out, moments)


def conv2d_algorithm(
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    *,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> str:
    """Tell how :func:`conv2d` and its gradients are computed for these shapes.

    Parameters
    ----------
    x_shape : (int, int, int, int)
        (N, H, W, C).
    weight_shape : (int, int, int, int)
        (O, C / groups, kh, kw).
    stride, padding, dilation, groups
        As for :func:`conv2d`.

    Returns
    -------
    algorithm : {"direct", "Winograd", "depthwise", "narrow groups"}
        "Winograd" is Winograd's F(4×4, 3×3), with 36 multiplications for 16 outputs instead of
        144, or F(2×2, 3×3), with 16 for four instead of 36, where images are so small or so few
        that this is faster (Lavin & Gray 2016): 3×3 filters of stride 1 between 16 channels or
        more. Tests hold rounding errors below 2e-6 of the largest result in float32.

    Examples
    --------
    >>> conv2d_algorithm((64, 28, 28, 32), (64, 32, 3, 3), padding=1)
    'Winograd'
    >>> conv2d_algorithm((64, 28, 28, 32), (64, 32, 1, 1))
    'direct'
    """
    return _kernels.algorithm(x_shape, weight_shape, stride, padding, dilation, groups)


def conv2d_backward(
    dy: Array,
    saved: ConvSaved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
    out: Array | None = None,
    dweight: Array | None = None,
    dbias: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`conv2d`.

    Parameters
    ----------
    dy : array
        Shape of y.
    saved : ConvSaved
        What :func:`conv2d` returned.
    need_dx, need_dweight, need_dbias : bool
        What is not needed is not computed, and None is returned for it.
    out, dweight, dbias : array or None
        Where dx and the others go; new arrays where None. A new dweight shows a (kh, kw, I, O)
        storage in weight's shape.

    Returns
    -------
    dx, dweight, dbias : array or None
        dbias is None also where forward had no bias.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = conv2d(np.arange(4.0).reshape(1, 2, 2, 1), np.ones((1, 1, 2, 2)))
    >>> dx, dweight, dbias = conv2d_backward(np.full((1, 1, 1, 1), 2.0), saved)
    >>> dx.ravel(), dweight.ravel(), dbias
    (array([2., 2., 2., 2.]), array([0., 2., 4., 6.]), None)
    """
    return _kernels.backward(dy, saved, need_dx, need_dweight, need_dbias, out, dweight, dbias)

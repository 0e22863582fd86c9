"""Two-dimensional transposed convolution, channels-last."""

from __future__ import annotations

from fastbn.functional._vectors import dense
from fastbn.functional.conv import Array, IntPair
from fastbn.kernels import conv as _kernels
from fastbn.kernels.conv import ConvTransposeSaved


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
    out: Array | None = None,
) -> tuple[Array, ConvTransposeSaved]:
    """Spread every pixel of x through a window: the transpose of :func:`conv2d` as a linear map.

    ``y[n, i*stride + r*dilation - padding, ..., o] += x[n, i, ..., c] * weight[c, o, r, s]``, and
    bias[o] everywhere.

    Parameters
    ----------
    x : array
        Shape (N, H, W, C), float32 or float64.
    weight : array
        Shape (C, O / groups, kh, kw), x's dtype, any strides; quickest as
        ``storage.transpose(3, 2, 0, 1)`` of a contiguous (kh, kw, O / groups, C) array.
    bias : array or None
        Shape (O,).
    stride, dilation : int or pair of int
        Of rows and columns.
    padding : int or pair of int
        Rows and columns that are left out of y on each side.
    output_padding : int or pair of int
        Extra rows and columns at the end, fewer than stride or dilation: which of the sizes that
        :func:`conv2d` maps to x's is meant.
    groups : int
        Channels are split into this many groups, which do not see each other.
    out : array or None
        Where y goes.

    Returns
    -------
    y : array
        Shape (N, OH, OW, O), with
        ``OH = (H - 1) * stride - 2 * padding + dilation * (kh - 1) + output_padding + 1``.
    saved : ConvTransposeSaved
        For :func:`conv_transpose2d_backward`; refers to x and weight.

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or options do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(1.0, 5.0).reshape(1, 2, 2, 1)
    >>> y, saved = conv_transpose2d(x, np.ones((1, 1, 2, 2)), stride=2)
    >>> y[0, :, :, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.],
           [3., 3., 4., 4.],
           [3., 3., 4., 4.]])
    """
    return _kernels.transpose_forward(
        x, weight, dense(bias), stride, padding, output_padding, groups, dilation, out
    )


def conv_transpose2d_backward(
    dy: Array,
    saved: ConvTransposeSaved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
    out: Array | None = None,
    dweight: Array | None = None,
    dbias: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`conv_transpose2d`: dx is a convolution of dy.

    Parameters
    ----------
    dy : array
        Shape of y.
    saved : ConvTransposeSaved
        What :func:`conv_transpose2d` returned.
    need_dx, need_dweight, need_dbias : bool
        What is not needed is not computed, and None is returned for it.
    out, dweight, dbias : array or None
        Where dx and the others go; new arrays where None.

    Returns
    -------
    dx, dweight, dbias : array or None
        dbias is None also where forward had no bias.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = conv_transpose2d(np.full((1, 1, 1, 1), 3.0), np.ones((1, 1, 2, 2)))
    >>> dx, dweight, dbias = conv_transpose2d_backward(np.arange(4.0).reshape(1, 2, 2, 1), saved)
    >>> dx.ravel(), dweight.ravel(), dbias
    (array([6.]), array([0., 3., 6., 9.]), None)
    """
    return _kernels.transpose_backward(
        dy, saved, need_dx, need_dweight, need_dbias, out, dweight, dbias
    )

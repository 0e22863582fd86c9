"""Group normalisation, and instance normalisation, its case of one channel a group."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn.kernels import groupnorm as _kernels
from fastbn.kernels.groupnorm import GroupNormSaved

Array = NDArray[Any]


def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    axis: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    out: Array | None = None,
) -> tuple[Array, GroupNormSaved]:
    r"""Normalise every group of neighbouring channels of every sample, scale, shift and activate.

    .. math:: y = act\left(\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}\,\gamma + \beta\right)

    with the mean and the biased variance of the C / num_groups channels of the sample (Wu & He
    2018, equations 1 to 5): training and inference are the same, and no batch is too small.

    Parameters
    ----------
    x : array
        Shape (N, ..., C) with ``axis=-1`` or (N, C, ...) with ``axis=1``; float32, float64 or
        bfloat16.
    num_groups : int
        Divides C.
    weight, bias : array or None
        γ and β, shape (C,), of x's dtype (float32 for bfloat16). None is 1 and 0.
    axis : {-1, 1}
        Where the channels are.
    activation : {None, "relu", "leaky_relu", "silu", "gelu", "gelu_tanh", ...}
        What follows; `negative_slope` is leaky ReLU's. The names are those of
        :func:`batch_norm`.
    out : array or None
        Where y goes; it must not share memory with x, which backward needs.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : GroupNormSaved
        For :func:`group_norm_backward`. It refers to x, `weight` and `bias` and does not copy them.

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit, or a group has one value only; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = group_norm(np.array([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0)
    >>> y
    array([[-1.,  1., -1.,  1.]])
    """
    return _kernels.forward(x, num_groups, weight, bias, eps, axis, activation, negative_slope, out)


def group_norm_backward(
    dy: Array,
    saved: GroupNormSaved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
    out: Array | None = None,
    dweight: Array | None = None,
    dbias: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Gradients of :func:`group_norm`, and of :func:`instance_norm`.

    With :math:`d` the gradient of the activation's input, :math:`g = \gamma\,d`, and means over a
    group of a sample:

    .. math::
        dx = \frac{g - \overline{g} - \hat x\,\overline{g\,\hat x}}{\sqrt{\sigma^2 + \epsilon}},
        \quad d\gamma = \sum d\,\hat x, \quad d\beta = \sum d

    Parameters
    ----------
    dy : array
        Shape and dtype of x.
    saved : GroupNormSaved
        What :func:`group_norm` returned.
    need_dx, need_dweight, need_dbias : bool
        What is not needed is not computed, and None is returned for it.
    out, dweight, dbias : array or None
        Where dx and the others go; new arrays where None. `out` may be dy.

    Returns
    -------
    dx, dweight, dbias : array or None
        None also where forward had no weight or bias.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = group_norm(np.array([[1.0, 3.0, 5.0, 6.0]]), 2, np.ones(4), np.zeros(4))
    >>> dx, dweight, dbias = group_norm_backward(np.array([[1.0, 0.0, 0.0, 2.0]]), saved)
    >>> dweight.round(3), dbias
    (array([-1.,  0.,  0.,  2.]), array([1., 0., 0., 2.]))
    """
    return _kernels.backward(dy, saved, need_dx, need_dweight, need_dbias, out, dweight, dbias)


def instance_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    axis: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    out: Array | None = None,
) -> tuple[Array, GroupNormSaved]:
    r"""Normalise every channel of every sample by itself, scale, shift and activate.

    Ulyanov, Vedaldi & Lempitsky 2016, equation 5: :func:`group_norm` with as many groups as
    channels; its parameters, results and errors.

    Examples
    --------
    >>> import numpy as np
    >>> instance_norm(np.array([[[1.0, 10.0], [3.0, 30.0]]]), eps=0.0)[0]
    array([[[-1., -1.],
            [ 1.,  1.]]])
    """
    channels = x.shape[axis] if getattr(x, "ndim", 0) > 1 else 1
    return _kernels.forward(x, channels, weight, bias, eps, axis, activation, negative_slope, out)


instance_norm_backward = group_norm_backward

"""Batch normalisation, fused with a residual and an activation where one follows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.functional.masks import MaskedSaved, check_out, checked_mask, packed, spread
from fastbn.kernels import batchnorm as _kernels
from fastbn.kernels.batchnorm import BatchNormSaved

Array = NDArray[Any]


def batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    training: bool,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    axis: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Array | None = None,
    num_batches_tracked: NDArray[np.int64] | None = None,
    moments: tuple[int, NDArray[np.float64], NDArray[np.float64]] | None = None,
    left_out_bias: Array | None = None,
    mask: NDArray[np.bool_] | None = None,
    out: Array | None = None,
) -> tuple[Array, BatchNormSaved | MaskedSaved]:
    r"""Normalise every channel to mean 0 and variance 1, then scale, shift, add and activate.

    .. math:: y = act\left(\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}\,\gamma + \beta + r\right)

    with the biased variance of the batch when training (Ioffe & Szegedy 2015, Algorithm 1), and
    the running statistics otherwise.

    Parameters
    ----------
    x : array
        Shape (N, C), (N, ..., C) with ``axis=-1`` or (N, C, ...) with ``axis=1``; float32,
        float64 or bfloat16.
    weight, bias : array or None
        γ and β, shape (C,), of x's dtype (float32 for bfloat16). None is 1 and 0.
    running_mean, running_var : array or None
        Shape (C,). Updated in place when training:
        ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance.
    training : bool
        Use the batch's statistics (and update the running ones) instead of the running ones.
    momentum : float or None
        None is the cumulative average, which needs `num_batches_tracked`.
    axis : {-1, 1}
        Where the channels are.
    activation : {None, "relu", "leaky_relu", "silu", "gelu", "gelu_tanh", ...}
        What follows; `negative_slope` is leaky ReLU's. "gelu_tanh" is GELU's form with tanh; the
        other names are "hardsigmoid", "hardswish", "mish", "relu6" and "selu".
    residual : array or None
        Added before the activation; shape and dtype of x.
    num_batches_tracked : int64 array of shape () or None
        Incremented when training.
    moments : Moments or None
        Those of x, if they were taken already (:func:`batch_moments`, or :func:`conv2d` with
        ``moments=True``): x is read only once when training then.
    left_out_bias : array or None
        Shape (C,), when training: what the operation in front did not add to x, because the batch's
        mean would take it out again. Only `running_mean` has to know of it.
    mask : bool array or None
        Which positions count, of x's shape without the channels. Statistics are of those alone; y
        and dx are 0 elsewhere. The same as batch normalisation of the rows that count.
    out : array or None
        Where y goes. In inference it may be x or `residual`; backward is then refused. In
        training it may be x where y tells what x was: without a residual, without an activation
        or with a leaky ReLU of positive slope, in float32 or float64, and if no |weight| is below
        1e-30 or |bias| / 1024. Backward then takes one more pass to find x, with an error of up to
        |bias / weight| roundings of y.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : BatchNormSaved
        For :func:`batch_norm_backward`. It refers to x (or the y in its place) and `residual` and
        does not copy them.

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit, or a channel has fewer than two values when training;
        nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, saved = batch_norm(x, None, None, training=True, eps=0.0, activation="relu")
    >>> y
    array([[0., 0.],
           [1., 1.]])
    """
    if left_out_bias is not None and not (
        training and (running_mean is None or left_out_bias.shape == running_mean.shape)
    ):
        raise ValueError(
            "left_out_bias should have running_mean's shape, and goes with training=True, "
            f"got shape {np.shape(left_out_bias)} and training={training}"
        )
    if mask is not None:
        return _masked(
            x, weight, bias, running_mean, running_var, mask, axis, out, residual, moments,
            left_out_bias=left_out_bias, training=training, momentum=momentum, eps=eps,
            activation=activation, negative_slope=negative_slope,
            num_batches_tracked=num_batches_tracked,
        )  # fmt: skip
    y, saved = _kernels.forward(
        x, weight, bias, running_mean, running_var, training, momentum, eps, axis, activation,
        negative_slope, residual, num_batches_tracked, moments, out,
    )  # fmt: skip
    if left_out_bias is not None and running_mean is not None:
        if momentum is None:
            assert num_batches_tracked is not None
            momentum = 1.0 / int(num_batches_tracked)
        running_mean += momentum * left_out_bias
    return y, saved


def _masked(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    mask: Any,
    axis: int,
    out: Array | None,
    residual: Array | None,
    moments: Any,
    **options: Any,
) -> tuple[Array, MaskedSaved]:
    """Batch normalisation of the rows that count, put back where they were."""
    mask = checked_mask(mask, x.shape, axis)
    if moments is not None:
        raise ValueError("moments of x are not those of what a mask lets count: give one of them")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual: expected shape {x.shape}, got {residual.shape}")
    check_out("out", out, x)
    beside = None if residual is None else packed(residual, mask, axis)
    rows, saved = batch_norm(
        packed(x, mask, axis), weight, bias, running_mean, running_var, residual=beside, **options
    )
    y = np.empty_like(x, order="C", subok=False) if out is None else out
    return spread(rows, mask, axis, y), MaskedSaved(mask, axis, saved)


def batch_norm_backward(
    dy: Array,
    saved: BatchNormSaved | MaskedSaved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
    need_dresidual: bool = True,
    out: Array | None = None,
    dweight: Array | None = None,
    dbias: Array | None = None,
    dresidual: Array | None = None,
) -> tuple[Array | None, ...]:
    r"""Gradients of :func:`batch_norm`.

    With :math:`d` the gradient of the activation's input (dy times the activation's derivative,
    which is recomputed from x, not stored), m values a channel and :math:`\hat x` the normalised x
    (2015 paper, section 3):

    .. math::
        d\gamma = \sum d\,\hat x, \quad d\beta = \sum d, \quad
        dx = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}
             \left(d - \frac{d\beta}{m} - \hat x \frac{d\gamma}{m}\right)

    and only :math:`dx = d\,\gamma / \sqrt{\sigma^2 + \epsilon}` after inference.

    Parameters
    ----------
    dy : array
        Shape and dtype of x.
    saved : BatchNormSaved
        What :func:`batch_norm` returned.
    need_dx, need_dweight, need_dbias, need_dresidual : bool
        What is not needed is not computed, and None is returned for it.
    out, dweight, dbias, dresidual : array or None
        Where dx and the others go; new arrays where None. `out` may be dy.

    Returns
    -------
    dx, dweight, dbias : array or None
        None also where forward had no weight or bias.
    dresidual : array or None
        Only where forward had a residual; never shares memory with dy or dx.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0], [2.0], [6.0]])
    >>> y, saved = batch_norm(x, np.array([2.0]), np.array([0.0]), training=True)
    >>> dx, dweight, dbias = batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), saved)
    >>> dx.round(3).ravel(), dweight.round(3), dbias
    (array([ 0.353, -0.441,  0.088]), array([-0.926]), array([1.]))
    """
    if isinstance(saved, MaskedSaved):
        mask, axis, kept = saved
        check_out("out", out, dy)
        check_out("dresidual", dresidual, dy)
        dx, dw, db, *beside = batch_norm_backward(
            packed(dy, mask, axis), kept, need_dx=need_dx, need_dweight=need_dweight,
            need_dbias=need_dbias, need_dresidual=need_dresidual, dweight=dweight, dbias=dbias,
        )  # fmt: skip
        results = [dx, *beside]
        for i, to in enumerate((out, dresidual)[: len(results)]):
            rows = results[i]
            if rows is not None:
                image = np.empty(dy.shape, dy.dtype) if to is None else to
                results[i] = spread(rows, mask, axis, image)
        return (results[0], dw, db, *results[1:])
    return _kernels.backward(
        dy, saved, need_dx, need_dweight, need_dbias, need_dresidual, out, dweight, dbias, dresidual
    )

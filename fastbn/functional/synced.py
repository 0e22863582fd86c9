"""Batch normalisation by statistics that several processes share, for `nn.BatchNorm`.

Forward needs mean and variance of all rows, backward the sums of d and d · (x − mean) over all rows
(2015 paper, section 3). Each is one small message: ``gather`` takes an array of float64 and returns
those of all processes, in one order, so that all merge them alike, to the bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn.functional.masks import packed, spread
from fastbn.functional.moments import (
    Doubles,
    Gather,
    Moments,
    batch_moments,
    gathered_moments,
    scale_shift,
    scale_shift_backward,
)
from fastbn.functional.variants import Correction, follow, renormalised

Array = NDArray[Any]


class SyncedSaved(NamedTuple):
    """What the backward needs; see `synced_batch_norm_backward`."""

    saved: Any  # of scale_shift
    moments: Moments  # of all processes
    invstd: Doubles
    scale: Doubles
    correction: Correction | None
    mask: NDArray[np.bool_] | None
    gather: Gather | None  # None where only running statistics are shared


def own_moments(x: Array) -> Moments:
    """Return the moments of the rows that are here, which may be none."""
    if x.size:
        return batch_moments(x)[0]
    return Moments(0, np.zeros(x.shape[-1]), np.zeros(x.shape[-1]))


def synced_batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    gather: Gather,
    momentum: float | None,
    eps: float,
    num_batches_tracked: NDArray[np.int64] | None,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Array | None = None,
    moments: Moments | None = None,
    left_out_bias: Array | None = None,
    renorm: tuple[float, float] | None = None,
    mask: NDArray[np.bool_] | None = None,
    ghost: bool = False,
    out: Array | None = None,
) -> tuple[Array, SyncedSaved]:
    """Batch normalisation in training, with statistics of the rows of all processes.

    Parameters
    ----------
    x : array
        Shape (N, C) or (N, ..., C), the rows that are here, which may be none.
    weight, bias, running_mean, running_var, momentum, eps, num_batches_tracked
        As of :func:`~fastbn.functional.batch_norm`; the same in all processes.
    gather : callable
        ``gather(array)`` returns the arrays of all processes, in one order.
    activation, negative_slope, residual, moments, left_out_bias, mask, out
        As of :func:`~fastbn.functional.batch_norm`; `moments` are those of the rows that are here.
    renorm : (r_max, d_max), optional
        Batch renormalisation by the shared statistics.
    ghost : bool, default False
        Normalise the rows by their own statistics; only the running ones are shared.

    Returns
    -------
    y : array
    saved : SyncedSaved
        For :func:`synced_batch_norm_backward`.

    Raises
    ------
    ValueError
        In all processes, if there are fewer than two values a channel in all; nothing was changed.
    """
    if mask is not None:
        beside = None if residual is None else packed(residual, mask, -1)
        rows, saved = synced_batch_norm(
            packed(x, mask, -1), weight, bias, running_mean, running_var, gather=gather,
            momentum=momentum, eps=eps, num_batches_tracked=num_batches_tracked,
            activation=activation, negative_slope=negative_slope, residual=beside,
            left_out_bias=left_out_bias, renorm=renorm, ghost=ghost,
        )  # fmt: skip
        y = np.empty_like(x, order="C", subok=False) if out is None else out
        return spread(rows, mask, -1, y), saved._replace(mask=mask)
    own = own_moments(x) if moments is None else Moments(*moments)
    shared = gathered_moments(own, gather)
    taken = own if ghost else shared
    if taken.count < 2:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.shape}"
        )
    invstd = 1.0 / np.sqrt(taken.var + eps)
    gamma, beta, correction = weight, bias, None
    if renorm is not None:
        assert running_mean is not None
        assert running_var is not None
        correction = renormalised(taken, running_mean, running_var, *renorm, eps)
        gamma = correction.r if weight is None else weight * correction.r
        beta = correction.d if weight is None else weight * correction.d
        beta = beta if bias is None else beta + bias
    scale = invstd if gamma is None else gamma * invstd
    shift = np.zeros(x.shape[-1]) if beta is None else beta
    y, kept = scale_shift(
        x,
        scale.astype(x.dtype),
        shift.astype(x.dtype, copy=False),
        taken.mean,
        activation=activation,
        negative_slope=negative_slope,
        residual=residual,
        out=out,
    )
    followed = shared
    if left_out_bias is not None:
        followed = shared._replace(mean=shared.mean + left_out_bias)
    follow(followed, running_mean, running_var, momentum, num_batches_tracked)
    return y, SyncedSaved(kept, taken, invstd, scale, correction, None, None if ghost else gather)


def synced_batch_norm_backward(
    dy: Array,
    saved: SyncedSaved,
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
    """Gradients of :func:`synced_batch_norm`.

    dx is that of the loss of all processes together; dweight and dbias are sums over the rows that
    are here, and have to be added over the processes as all gradients of parameters are. All
    processes have to ask for dx, or none.

    Parameters and results are those of :func:`~fastbn.functional.batch_norm_backward`.
    """
    if saved.mask is not None:
        mask = saved.mask
        dx, dw, db, *beside = synced_batch_norm_backward(
            packed(dy, mask, -1), saved._replace(mask=None), need_dx=need_dx,
            need_dweight=need_dweight, need_dbias=need_dbias, need_dresidual=need_dresidual,
            dweight=dweight, dbias=dbias,
        )  # fmt: skip
        images = [
            None
            if rows is None
            else spread(rows, mask, -1, np.empty_like(dy) if to is None else to)
            for rows, to in zip([dx, *beside], [out, dresidual], strict=False)
        ]
        return (images[0], dw, db, *images[1:])
    kept, moments, invstd, scale, correction, _, gather = saved
    _, dscale, dshift, *_ = scale_shift_backward(dy, kept, need_dx=False, need_dresidual=False)
    assert dscale is not None
    assert dshift is not None
    sums = np.stack([dshift, dscale]).astype(np.float64)  # of d, and of d * (x - mean)
    d_bias, d_weight = sums[0], sums[1] * invstd
    if correction is not None:
        d_weight = d_weight * correction.r + d_bias * correction.d
    slope = constant = None
    if need_dx:
        if gather is not None:
            sums = np.add.reduce(gather(sums))
        constant = -scale * sums[0] / moments.count
        slope = -scale * invstd * invstd * sums[1] / moments.count
    dx, _, _, *beside = scale_shift_backward(
        dy, kept, need_dx=need_dx, need_dscale=False, need_dshift=False,
        need_dresidual=need_dresidual, out=out, dresidual=dresidual, slope=slope, constant=constant,
    )  # fmt: skip
    return (
        dx,
        _put(d_weight, dweight, dy.dtype) if need_dweight else None,
        _put(d_bias, dbias, dy.dtype) if need_dbias else None,
        *beside,
    )


def _put(values: Doubles, to: Array | None, dtype: np.dtype[Any]) -> Array:
    if to is None:
        return values.astype(dtype)
    to[...] = values
    return to

"""Batch normalisation of parts of a batch, and by corrected statistics, for `nn.BatchNorm`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn.functional.batchnorm import batch_norm, batch_norm_backward
from fastbn.functional.moments import (
    Gather,
    Moments,
    batch_moments,
    gathered_moments,
    merge_moments,
)

Array = NDArray[Any]


def follow(
    moments: Moments,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float | None,
    num_batches_tracked: NDArray[np.int64] | None,
) -> None:
    """Move running statistics towards those of a batch, as batch normalisation does."""
    if num_batches_tracked is not None:
        num_batches_tracked += 1
    if running_mean is None or running_var is None:
        return
    if momentum is None:
        if num_batches_tracked is None:
            raise ValueError("momentum=None needs num_batches_tracked")
        momentum = 1.0 / int(num_batches_tracked)
    for running, batch in ((running_mean, moments.mean), (running_var, moments.unbiased_var)):
        running[...] = (1.0 - momentum) * running.astype(np.float64) + momentum * batch


# --- parts: Hoffer, Hubara & Soudry, "Train longer, generalize better" (2017), ghost batches ------


def parts_of(rows: int, size: int) -> list[slice]:
    """Cut so many rows into parts of `size`; a last part of one row joins the one before.

    Examples
    --------
    >>> parts_of(9, 4)
    [slice(0, 4, None), slice(4, 9, None)]
    """
    starts = list(range(0, rows, size)) or [0]
    if len(starts) > 1 and rows - starts[-1] == 1:
        starts.pop()
    ends = [*starts[1:], rows]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


def ghost_batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    size: int,
    momentum: float | None,
    eps: float,
    num_batches_tracked: NDArray[np.int64] | None,
    out: Array,
    gather: Gather | None = None,
) -> tuple[Array, list[Any]]:
    """Normalise every part of the batch by its own statistics; the running ones follow them all.

    With `gather`, also the parts of the other processes.
    """
    moments, saved = [], []
    for part in parts_of(len(x), size):
        own = batch_moments(x[part])[0]
        _, kept = batch_norm(
            x[part], weight, bias, training=True, eps=eps, moments=own, out=out[part]
        )
        moments.append(own)
        saved.append((part, kept))
    merged = merge_moments(moments)
    if gather is not None:
        merged = gathered_moments(merged, gather)
    follow(merged, running_mean, running_var, momentum, num_batches_tracked)
    return out, saved


def ghost_batch_norm_backward(
    dy: Array, saved: list[Any], out: Array | None, **needs: Any
) -> tuple[Array | None, Array | None, Array | None]:
    """Return dx, and dweight and dbias, which are sums over the parts."""
    totals: list[Array | None] = [None, None]
    for part, kept in saved:
        to = None if out is None else out[part]
        _, *gradients = batch_norm_backward(
            dy[part], kept, need_dx=out is not None, out=to, **needs
        )
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                total = totals[i]
                wide = gradient.astype(np.float64)
                totals[i] = wide if total is None else total + wide
    dweight, dbias = (None if t is None else t.astype(dy.dtype) for t in totals)
    return out, dweight, dbias


# --- corrected statistics: Ioffe, "Batch Renormalization" (2017) --------------------------------


class Correction(NamedTuple):
    """What renormalisation does to xhat: xhat · r + d, constants in backward."""

    r: Array
    d: Array


class Renormalised(NamedTuple):
    """What the backward of a renormalisation needs."""

    saved: Any
    correction: Correction


def renormalised(
    moments: Moments,
    running_mean: Array,
    running_var: Array,
    r_max: float,
    d_max: float,
    eps: float,
) -> Correction:
    """Return the paper's r and d, from the running statistics before their update."""
    sigma = np.sqrt(running_var.astype(np.float64) + eps)
    r = np.sqrt(moments.var + eps) / sigma
    d = (moments.mean - running_mean.astype(np.float64)) / sigma
    return Correction(np.clip(r, 1.0 / r_max, r_max), np.clip(d, -d_max, d_max))


def batch_renorm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array,
    running_var: Array,
    *,
    r_max: float,
    d_max: float,
    eps: float,
    **options: Any,
) -> tuple[Array, Renormalised]:
    """Return ``weight · (xhat · r + d) + bias``: batch normalisation with other parameters."""
    moments = batch_moments(x)[0]
    correction = renormalised(moments, running_mean, running_var, r_max, d_max, eps)
    gamma = np.ones_like(running_mean) if weight is None else weight
    beta = np.zeros_like(running_mean) if bias is None else bias
    y, kept = batch_norm(
        x,
        (gamma * correction.r).astype(gamma.dtype),
        (gamma * correction.d + beta).astype(gamma.dtype),
        running_mean,
        running_var,
        training=True,
        eps=eps,
        moments=moments,
        **options,
    )
    return y, Renormalised(kept, correction)


def batch_renorm_backward(
    dy: Array, saved: Renormalised, out: Array | None
) -> tuple[Array | None, Array, Array]:
    """Return dx, dweight and dbias, with r and d as constants."""
    kept, (r, d) = saved
    dx, dweight, dbias = batch_norm_backward(dy, kept, need_dx=out is not None, out=out)
    assert dweight is not None
    assert dbias is not None
    return dx, (dweight * r + dbias * d).astype(dy.dtype), dbias

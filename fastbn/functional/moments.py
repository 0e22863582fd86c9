"""The two halves of batch normalisation: taking statistics, and scaling with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn.kernels import batchnorm as _kernels
from fastbn.kernels.batchnorm import BatchNormSaved

Array = NDArray[Any]
Doubles = NDArray[np.float64]
Gather = Callable[[Array], list[Array]]  # the arrays of all processes, in one order


class Moments(NamedTuple):
    """Mean and spread of every channel of some data.

    Attributes
    ----------
    count : int
        Values in a channel.
    mean : float64 array of shape (C,)
    m2 : float64 array of shape (C,)
        The sum of squares about the mean.

    Examples
    --------
    >>> import numpy as np
    >>> moments = Moments(4, np.array([2.0]), np.array([8.0]))
    >>> moments.var
    array([2.])
    """

    count: int  # type: ignore[assignment]  # tuple.count is hidden, and not missed
    mean: Doubles
    m2: Doubles

    @property
    def var(self) -> Doubles:
        """The biased variance, m2 / count, by which batch normalisation divides."""
        return self.m2 / self.count

    @property
    def unbiased_var(self) -> Doubles:
        """The unbiased variance, m2 / (count - 1), which running statistics keep."""
        return self.m2 / (self.count - 1)


def batch_moments(x: Array, axis: int = -1) -> tuple[Moments, tuple[Array, Moments, int]]:
    """Count, mean and sum of squares about the mean of every channel, in one pass.

    Parameters
    ----------
    x : array
        Shape (N, C), (N, ..., C) with ``axis=-1`` or (N, C, ...) with ``axis=1``; float32,
        float64 or bfloat16.
    axis : {-1, 1}
        Where the channels are.

    Returns
    -------
    moments : Moments
    saved : tuple
        For :func:`batch_moments_backward`; it refers to x.

    Raises
    ------
    ValueError, TypeError
        If there is no value in a channel, or the dtype does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> moments, saved = batch_moments(np.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> moments.mean, moments.var
    (array([ 2., 20.]), array([  1., 100.]))
    """
    moments = Moments(*_kernels.moments(x, axis))
    return moments, (x, moments, axis)


def batch_moments_backward(
    dmean: ArrayLike,
    dvar: ArrayLike,
    saved: tuple[Array, Moments, int],
    *,
    out: Array | None = None,
) -> Array:
    r"""Gradient of mean and biased variance with respect to x.

    .. math:: dx = \frac{d\mu + 2\,(x - \mu)\,d\sigma^2}{m}

    (Ioffe & Szegedy 2015, section 3: what reaches x through the statistics.)

    Parameters
    ----------
    dmean, dvar : array of shape (C,)
        Gradients of the loss by `mean` and `var`.
    saved : tuple
        What :func:`batch_moments` returned.
    out : array or None
        Where dx goes.

    Returns
    -------
    dx : array
        Shape and dtype of x.

    Examples
    --------
    >>> import numpy as np
    >>> moments, saved = batch_moments(np.array([[1.0], [3.0]]))
    >>> batch_moments_backward(np.array([1.0]), np.array([0.0]), saved).ravel()
    array([0.5, 0.5])
    >>> batch_moments_backward(np.array([0.0]), np.array([1.0]), saved).ravel()
    array([-1.,  1.])
    """
    x, moments, axis = saved
    parameters = np.float32 if x.dtype.name == "bfloat16" else x.dtype
    scale = (np.asarray(dvar, np.float64) * (2.0 / moments.count)).astype(parameters)
    shift = (np.asarray(dmean, np.float64) / moments.count).astype(parameters)
    return scale_shift(x, scale, shift, moments.mean, axis=axis, out=out)[0]


def merge_moments(parts: Iterable[Moments]) -> Moments:
    """Moments of all data from the moments of its parts.

    The parts may come from several batches, threads, processes or machines. They are merged in
    their order, in float64 (Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", 1979), so that nothing cancels however far apart the means lie.

    Parameters
    ----------
    parts : iterable of Moments
        Or of plain (count, mean, m2). Parts of no values are passed over.

    Raises
    ------
    ValueError
        If there are no values at all, or numbers of channels differ.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(12.0).reshape(6, 2)
    >>> merged = merge_moments([batch_moments(x[:2])[0], batch_moments(x[2:])[0]])
    >>> merged.count, merged.mean, merged.var
    (6, array([5., 6.]), array([11.66666667, 11.66666667]))
    """
    count = 0
    mean: Doubles = np.zeros(0)
    m2: Doubles = np.zeros(0)
    for number, (n, *arrays) in enumerate(parts):
        part_mean, part_m2 = (np.asarray(array, np.float64) for array in arrays)
        if part_mean.ndim != 1 or part_mean.shape != part_m2.shape:
            raise ValueError(
                f"part {number}: expected mean and m2 of shape (C,), "
                f"got {part_mean.shape} and {part_m2.shape}"
            )
        if n < 0:
            raise ValueError(f"part {number}: count should not be negative, got {n}")
        if n == 0:
            continue
        if count == 0:
            count, mean, m2 = n, part_mean.copy(), part_m2.copy()
            continue
        if part_mean.shape != mean.shape:
            raise ValueError(
                f"part {number} has {part_mean.size} channels, those before have {mean.size}"
            )
        delta = part_mean - mean
        mean += delta * (n / (count + n))
        m2 += part_m2 + delta * delta * (count * (n / (count + n)))
        count += n
    if count == 0:
        raise ValueError("there are no values to take moments of")
    return Moments(count, mean, m2)


def gathered_moments(own: Moments, gather: Gather) -> Moments:
    """Return the moments of all processes' rows: (count, mean, m2), merged in their order."""
    message = np.concatenate([[float(own.count)], own.mean, own.m2])
    return merge_moments(
        Moments(int(told[0]), *np.split(told[1:].astype(np.float64, copy=False), 2))
        for told in gather(message)
    )


def scale_shift(
    x: Array,
    scale: Array | None,
    shift: Array | None,
    centre: Doubles | None = None,
    *,
    axis: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, BatchNormSaved]:
    """Return ``act((x - centre) * scale + shift + residual)``, channel by channel.

    Batch normalisation with statistics that are known already: `centre` is the mean, and `scale`
    ``weight / sqrt(var + eps)``. The mean is taken off first and exactly, so that a large one costs
    no digits of the result, as it would if it were multiplied into `shift`.

    Parameters
    ----------
    x : array
        As for :func:`~fastbn.functional.batch_norm`.
    scale, shift : array or None
        Shape (C,), of x's dtype (float32 for bfloat16). None is 1 and 0.
    centre : float64 array or None
        Shape (C,). None is 0.
    axis, activation, negative_slope, residual, out
        As for :func:`~fastbn.functional.batch_norm` in inference.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : BatchNormSaved
        For :func:`scale_shift_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1e8 + 1, 2.0], [1e8 + 3, 4.0]])
    >>> scale_shift(x, np.array([10.0, 1.0]), None, np.array([1e8, 3.0]))[0]
    array([[10., -1.],
           [30.,  1.]])
    """
    return _kernels.scale_shift(
        x, scale, shift, centre, axis, activation, negative_slope, residual, out
    )


def scale_shift_backward(
    dy: Array,
    saved: BatchNormSaved,
    *,
    need_dx: bool = True,
    need_dscale: bool = True,
    need_dshift: bool = True,
    need_dresidual: bool = True,
    out: Array | None = None,
    dscale: Array | None = None,
    dshift: Array | None = None,
    dresidual: Array | None = None,
    slope: Doubles | None = None,
    constant: Doubles | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of :func:`scale_shift`, with `d` the part of dy that the activation lets through.

    ``dx = d * scale``, ``dscale = sum(d * (x - centre))``, ``dshift = sum(d)``; the gradient of
    `centre` is ``-scale * dshift``.

    Parameters
    ----------
    dy, saved, need_dx, need_dscale, need_dshift, need_dresidual, out, dscale, dshift, dresidual
        As of :func:`~fastbn.functional.batch_norm_backward`.
    slope, constant : float64 array or None
        Shape (C,), both or neither: what reaches x through `centre` and `scale`, where these were
        found from x. dx gets ``slope * (x - centre) + constant`` besides.

    Returns
    -------
    dx, dscale, dshift : array or None
        And dresidual, where forward had a residual.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = scale_shift(np.array([[1.0], [3.0]]), np.array([10.0]), np.array([0.0]))
    >>> dx, dscale, dshift = scale_shift_backward(np.array([[1.0], [2.0]]), saved)
    >>> dx.ravel(), dscale, dshift
    (array([10., 20.]), array([7.]), array([3.]))
    """
    return _kernels.backward(
        dy, saved, need_dx, need_dscale, need_dshift, need_dresidual, out, dscale, dshift,
        dresidual, slope, constant,
    )  # fmt: skip

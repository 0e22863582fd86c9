"""Every operation of :mod:`fastbn.functional` in plain NumPy float64: the oracle of the tests.

Same names and signatures as ``functional`` (minus ``out`` and the gradients' destinations), the
same channels-last layouts, every result in float64. Written to be read, not to be fast: forward
stands right above backward, and a formula stands there as its source has it. Arguments are
checked only where a wrong one would give a wrong number instead of an error of NumPy's.

An operation returns ``(y, saved)``; ``saved`` is a plain tuple that its backward unpacks.

Examples
--------
>>> import numpy as np
>>> from fastbn import reference
>>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
>>> y, saved = reference.batch_norm(x, None, None, training=True, eps=0.0)
>>> y
array([[-1., -1.],
       [ 1.,  1.]])
>>> dx, dweight, dbias = reference.batch_norm_backward(np.array([[1.0, 0.0], [0.0, 0.0]]), saved)
>>> dx.round(9) + 0.0  # two values a channel: y cannot change, so no gradient reaches x
array([[0., 0.],
       [0., 0.]])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Saved = tuple[Any, ...]
IntPair = int | tuple[int, int]


def _f64(a: ArrayLike) -> Array:
    return np.asarray(a, dtype=np.float64)


def _pair(value: IntPair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int | np.integer) else (value[0], value[1])


def _scaled(a: Array, slope: float) -> Array:
    return a * slope if slope else np.zeros_like(a)  # not inf * 0


# --- what follows a normalisation -------------------------------------------------------------


def _activated(z: Array, name: str | None, negative_slope: float) -> tuple[Array, Saved]:
    """Return act(z) of the activation that has this name."""
    if name in (None, "relu", "leaky_relu"):
        slope = {None: 1.0, "relu": 0.0, "leaky_relu": negative_slope}[name]
        return leaky_relu(z, slope)
    if name == "gelu_tanh":
        return gelu(z, "tanh")
    named = {"selu": selu, "silu": silu, "gelu": gelu, "mish": mish, "relu6": relu6}
    named |= {"hardsigmoid": hardsigmoid, "hardswish": hardswish}
    return named[str(name)](z)


def _gradient_of_activated(dy: Array, name: str | None, saved: Saved) -> Array:
    """Return dz, the gradient of the activation's input."""
    if name in (None, "relu", "leaky_relu"):
        return leaky_relu_backward(dy, saved)
    return _sloped_backward(dy, saved)


# --- batch normalisation --------------------------------------------------------------------


def batch_norm(
    x: ArrayLike,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    running_mean: NDArray[Any] | None = None,
    running_var: NDArray[Any] | None = None,
    *,
    training: bool,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    axis: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: ArrayLike | None = None,
    num_batches_tracked: NDArray[np.int64] | None = None,
    left_out_bias: ArrayLike | None = None,
) -> tuple[Array, Saved]:
    """Return ``act(weight * (x - mean) / sqrt(var + eps) + bias + residual)``, channel by channel.

    Algorithm 1 of Ioffe & Szegedy, "Batch Normalization" (2015): mean and biased variance of the
    batch in training, the running ones in inference. The running buffers, shape (C,), are moved
    in place as PyTorch moves them (unbiased variance, ``momentum=None`` averages all batches).
    A bias that was left out of x, because the batch's mean takes it out anyway, is counted there.
    """
    xc = np.moveaxis(_f64(x), axis, -1)  # (..., C)
    rows = xc.size // xc.shape[-1] if xc.shape[-1] else 0
    over = tuple(range(xc.ndim - 1))
    if training:
        if rows < 2:
            size = np.shape(x)
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {size}"
            )
        mean = xc.mean(axis=over)
        var = np.square(xc - mean).mean(axis=over)  # two passes: no cancellation
        if num_batches_tracked is not None:
            num_batches_tracked += 1
        if running_mean is not None and running_var is not None:
            if momentum is None and num_batches_tracked is None:
                raise ValueError("momentum=None needs num_batches_tracked")
            factor = 1.0 / int(num_batches_tracked) if momentum is None else momentum  # type: ignore[arg-type]
            unbiased = var * rows / (rows - 1)
            left_out = 0.0 if left_out_bias is None else _f64(left_out_bias)
            running_mean[...] = (1 - factor) * _f64(running_mean) + factor * (mean + left_out)
            running_var[...] = (1 - factor) * _f64(running_var) + factor * unbiased
    else:
        if running_mean is None or running_var is None:
            raise ValueError("Expected running_mean and running_var when training=False")
        mean, var = _f64(running_mean).copy(), _f64(running_var).copy()

    invstd = 1.0 / np.sqrt(var + eps)
    xhat = (xc - mean) * invstd
    gamma = np.ones_like(mean) if weight is None else _f64(weight)
    beta = np.zeros_like(mean) if bias is None else _f64(bias)
    z = gamma * xhat + beta
    if residual is not None:
        z = z + np.moveaxis(_f64(residual), axis, -1)
    y, kept = _activated(z, activation, negative_slope)
    saved = (xhat, invstd, gamma, activation, kept, training, axis)
    has = (weight is not None, bias is not None, residual is not None)
    return np.moveaxis(y, -1, axis), (*saved, has)


def batch_norm_backward(
    dy: ArrayLike,
    saved: Saved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
    need_dresidual: bool = True,
) -> tuple[Array | None, ...]:
    """Return dx, dweight, dbias and, where the forward had a residual, dresidual.

    The six equations of section 3 of the 2015 paper, put together: with g = dy * weight * invstd,
    dx = g - mean(g) - xhat * mean(g * xhat). In inference mean and variance are constants and
    dx = g. None stands where a gradient was not asked for or has no argument.
    """
    xhat, invstd, gamma, name, kept, training, axis, (has_weight, has_bias, has_residual) = saved
    over = tuple(range(xhat.ndim - 1))
    dz = _gradient_of_activated(np.moveaxis(_f64(dy), axis, -1), name, kept)
    g = dz * gamma * invstd
    if training:
        g = g - g.mean(axis=over) - xhat * (g * xhat).mean(axis=over)
    dx = np.moveaxis(g, -1, axis) if need_dx else None
    dweight = (dz * xhat).sum(axis=over) if need_dweight and has_weight else None
    dbias = dz.sum(axis=over) if need_dbias and has_bias else None
    if not has_residual:
        return dx, dweight, dbias
    return dx, dweight, dbias, np.moveaxis(dz, -1, axis) if need_dresidual else None


def batch_moments(x: ArrayLike, axis: int = -1) -> tuple[tuple[int, Array, Array], Saved]:
    """Return (count, mean, sum of squares about the mean) of every channel."""
    xc = np.moveaxis(_f64(x), axis, -1)  # (..., C)
    over = tuple(range(xc.ndim - 1))
    count = xc.size // xc.shape[-1]
    mean = xc.mean(axis=over)
    return (count, mean, np.square(xc - mean).sum(axis=over)), (xc - mean, count, axis)


def batch_moments_backward(dmean: ArrayLike, dvar: ArrayLike, saved: Saved) -> Array:
    """Return dx = (dmean + 2 * (x - mean) * dvar) / count; dvar is of the biased variance."""
    centred, count, axis = saved
    dx = (_f64(dmean) + 2.0 * centred * _f64(dvar)) / count
    return np.moveaxis(dx, -1, axis)


def merge_moments(parts: Iterable[tuple[int, ArrayLike, ArrayLike]]) -> tuple[int, Array, Array]:
    """Return the (count, mean, m2) of all values, from those of their parts."""
    counts, means, m2s = (np.array(column, np.float64) for column in zip(*parts, strict=True))
    n = counts[:, None]
    mean = (n * means).sum(axis=0) / n.sum()
    m2 = (m2s + n * np.square(means - mean)).sum(axis=0)
    return int(counts.sum()), mean, m2


def scale_shift(
    x: ArrayLike,
    scale: ArrayLike | None,
    shift: ArrayLike | None,
    centre: ArrayLike | None = None,
    *,
    axis: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: ArrayLike | None = None,
) -> tuple[Array, Saved]:
    """Return ``act((x - centre) * scale + shift + residual)``, channel by channel."""
    C = np.shape(x)[axis]
    return batch_norm(
        x, scale, shift, np.zeros(C) if centre is None else _f64(centre), np.ones(C),
        training=False, eps=0.0, axis=axis, activation=activation, negative_slope=negative_slope,
        residual=residual,
    )  # fmt: skip


def scale_shift_backward(
    dy: ArrayLike,
    saved: Saved,
    *,
    need_dx: bool = True,
    need_dscale: bool = True,
    need_dshift: bool = True,
    need_dresidual: bool = True,
    slope: ArrayLike | None = None,
    constant: ArrayLike | None = None,
) -> tuple[Array | None, ...]:
    """Return dx = d * scale, dscale = sum(d * (x - centre)), dshift = sum(d) and dresidual = d.

    With `slope` and `constant`, dx = d * scale + slope * (x - centre) + constant.
    """
    dx, *others = batch_norm_backward(
        dy,
        saved,
        need_dx=need_dx,
        need_dweight=need_dscale,
        need_dbias=need_dshift,
        need_dresidual=need_dresidual,
    )
    if dx is not None and slope is not None and constant is not None:
        centred, axis = saved[0], saved[6]  # channels are the last axis
        dx = dx + np.moveaxis(_f64(slope) * centred + _f64(constant), -1, axis)
    return dx, *others


# --- layer, group, instance and root-mean-square normalisation --------------------------------


def _standardise(x: Array, over: tuple[int, ...], eps: float) -> tuple[Array, Array]:
    """Return x with mean 0 and variance 1 over some axes, and 1 / sqrt(var + eps)."""
    centred = x - x.mean(axis=over, keepdims=True)
    invstd = 1.0 / np.sqrt(np.square(centred).mean(axis=over, keepdims=True) + eps)
    return centred * invstd, invstd


def _gradient_of_standardised(g: Array, xhat: Array, invstd: Array, over: tuple[int, ...]) -> Array:
    """Return dx from g, the gradient of xhat: invstd * (g - mean(g) - xhat * mean(g * xhat))."""
    mean_g = g.mean(axis=over, keepdims=True)
    dx: Array = invstd * (g - mean_g - xhat * (g * xhat).mean(axis=over, keepdims=True))
    return dx


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    normalized_shape: tuple[int, ...],
    eps: float = 1e-5,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: ArrayLike | None = None,
) -> tuple[Array, Saved]:
    """Return ``act(weight * (h - mean) / sqrt(var + eps) + bias)`` over the last axes of h.

    Ba, Kiros & Hinton, "Layer Normalization" (2016), equation 4; h is x, plus the residual where
    there is one. `weight` and `bias` have the shape of those axes, `normalized_shape`.
    """
    x = _f64(x) if residual is None else _f64(x) + _f64(residual)
    over = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    xhat, invstd = _standardise(x, over, eps)
    z = xhat if weight is None else xhat * _f64(weight)
    y, kept = _activated(z if bias is None else z + _f64(bias), activation, negative_slope)
    weight = None if weight is None else _f64(weight)
    return y, (xhat, invstd, over, weight, activation, kept, bias is not None)


def layer_norm_backward(dy: ArrayLike, saved: Saved) -> tuple[Array | None, ...]:
    """Return dx, dweight and dbias; the last two are None where forward had none."""
    xhat, invstd, over, weight, name, kept, has_bias = saved
    dy = _gradient_of_activated(_f64(dy), name, kept)
    rows = tuple(range(over[0]))
    dx = _gradient_of_standardised(dy if weight is None else dy * weight, xhat, invstd, over)
    dweight = None if weight is None else (dy * xhat).sum(axis=rows)
    return dx, dweight, dy.sum(axis=rows) if has_bias else None


def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: tuple[int, ...],
    eps: float | None = None,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: ArrayLike | None = None,
) -> tuple[Array, Saved]:
    """Return ``act(weight * h / sqrt(mean(h²) + eps))`` over the last axes of h.

    Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4; h as of
    :func:`layer_norm`. With `eps` None it is the spacing of x's dtype at 1, as in PyTorch.
    """
    eps = float(np.finfo(np.asarray(x).dtype).eps) if eps is None else eps
    x = _f64(x) if residual is None else _f64(x) + _f64(residual)
    over = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    invrms = 1.0 / np.sqrt(np.square(x).mean(axis=over, keepdims=True) + eps)
    xhat = x * invrms
    z = xhat if weight is None else xhat * _f64(weight)
    y, kept = _activated(z, activation, negative_slope)
    return y, (xhat, invrms, over, None if weight is None else _f64(weight), activation, kept)


def rms_norm_backward(dy: ArrayLike, saved: Saved) -> tuple[Array | None, ...]:
    """Return dx = invrms * (g - xhat * mean(g * xhat)) with g = dy * weight, and dweight."""
    xhat, invrms, over, weight, name, kept = saved
    dy = _gradient_of_activated(_f64(dy), name, kept)
    g = dy if weight is None else dy * weight
    dx = invrms * (g - xhat * (g * xhat).mean(axis=over, keepdims=True))
    return dx, None if weight is None else (dy * xhat).sum(axis=tuple(range(over[0])))


def group_norm(
    x: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    axis: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> tuple[Array, Saved]:
    """Return x normalised over each of `num_groups` groups of neighbouring channels of a sample.

    Wu & He, "Group Normalization" (2018), equations 1 to 5. `weight` and `bias` are per channel.
    """
    xc = np.moveaxis(_f64(x), axis, -1)  # (N, ..., C)
    rows, C = xc.shape[0], xc.shape[-1]
    pixels = int(np.prod(xc.shape[1:-1]))
    grouped = xc.reshape(rows, pixels, num_groups, C // num_groups)
    xhat, invstd = _standardise(grouped, (1, 3), eps)
    gamma = np.ones(C) if weight is None else _f64(weight)
    z = gamma * xhat.reshape(xc.shape) + (np.zeros(C) if bias is None else _f64(bias))
    y, kept = _activated(z, activation, negative_slope)
    saved = (xhat, invstd, gamma, activation, kept, axis, (weight is not None, bias is not None))
    return np.moveaxis(y, -1, axis), saved


def group_norm_backward(dy: ArrayLike, saved: Saved) -> tuple[Array | None, ...]:
    """Return dx, dweight and dbias; the last two are None where forward had none."""
    xhat, invstd, gamma, name, kept, axis, (has_weight, has_bias) = saved
    dz = _gradient_of_activated(np.moveaxis(_f64(dy), axis, -1), name, kept)
    over = tuple(range(dz.ndim - 1))
    dx = _gradient_of_standardised((dz * gamma).reshape(xhat.shape), xhat, invstd, (1, 3))
    dweight = (dz * xhat.reshape(dz.shape)).sum(axis=over) if has_weight else None
    dbias = dz.sum(axis=over) if has_bias else None
    return np.moveaxis(dx.reshape(dz.shape), -1, axis), dweight, dbias


def instance_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    axis: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> tuple[Array, Saved]:
    """Return x normalised over every channel of every sample by itself.

    Ulyanov, Vedaldi & Lempitsky, "Instance Normalization" (2016), equation 5: group
    normalisation with as many groups as there are channels.
    """
    return group_norm(
        x, np.shape(x)[axis], weight, bias, eps=eps, axis=axis, activation=activation,
        negative_slope=negative_slope,
    )  # fmt: skip


def instance_norm_backward(dy: ArrayLike, saved: Saved) -> tuple[Array | None, ...]:
    """Return dx, dweight and dbias; the last two are None where forward had none."""
    return group_norm_backward(dy, saved)


# --- linear and convolution -----------------------------------------------------------------


def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> tuple[Array, Saved]:
    """Return ``x @ weight.T + bias``: x (..., in), weight (out, in), bias (out,), y (..., out)."""
    x, w = _f64(x), _f64(weight)
    y = x @ w.T
    return y if bias is None else y + _f64(bias), (x, w, bias is not None)


def linear_backward(
    dy: ArrayLike,
    saved: Saved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
) -> tuple[Array | None, Array | None, Array | None]:
    """Return dx = dy @ weight, dweight = dyᵀ @ x over all rows, dbias = sum of the rows of dy."""
    x, w, has_bias = saved
    dy = _f64(dy)
    dx = dy @ w if need_dx else None
    dweight = np.einsum("...o,...i->oi", dy, x, optimize=True) if need_dweight else None
    dbias = dy.sum(axis=tuple(range(dy.ndim - 1))) if need_dbias and has_bias else None
    return dx, dweight, dbias


def _taps(
    kernel: tuple[int, int], stride: IntPair, dilation: IntPair, out: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[slice, slice, slice]]]:
    """Yield ky, kx and the index of what that tap sees in the padded (N, H, W, ...) input."""
    (sh, sw), (dh, dw) = _pair(stride), _pair(dilation)
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            rows = slice(ky * dh, ky * dh + sh * (out[0] - 1) + 1, sh)
            cols = slice(kx * dw, kx * dw + sw * (out[1] - 1) + 1, sw)
            yield ky, kx, (slice(None), rows, cols)


def conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> tuple[Array, Saved]:
    """Cross-correlate x (N, H, W, C) with weight (O, C/groups, kh, kw): y (N, OH, OW, O).

    Dumoulin & Visin, "A guide to convolution arithmetic" (2016), relationship 6, and with
    dilation section 5.1. ``"same"`` pads dilation * (k - 1) in all, the odd one at the end, as
    PyTorch does.
    """
    x, w = _f64(x), _f64(weight)
    kernel = (w.shape[2], w.shape[3])
    reach = [d * (k - 1) for d, k in zip(_pair(dilation), kernel, strict=True)]
    if padding == "same":
        if _pair(stride) != (1, 1):
            raise ValueError("padding='same' is not supported for strided convolutions")
        pads = [(r // 2, r - r // 2) for r in reach]
    else:
        pads = [(p, p) for p in _pair(0 if padding == "valid" else padding)]  # type: ignore[arg-type]
    xp = np.pad(x, ((0, 0), *pads, (0, 0)))
    n, hp, wp, c = xp.shape
    (sh, sw), o = _pair(stride), w.shape[0]
    out = ((hp - reach[0] - 1) // sh + 1, (wp - reach[1] - 1) // sw + 1)
    xg = xp.reshape(n, hp, wp, groups, c // groups)
    wg = w.reshape(groups, o // groups, c // groups, *kernel)
    y = np.zeros((n, *out, groups, o // groups))
    for ky, kx, seen in _taps(kernel, stride, dilation, out):
        y += np.einsum("nhwgc,goc->nhwgo", xg[seen], wg[..., ky, kx], optimize=True)
    y = y.reshape(n, *out, o)
    saved = (xg, wg, pads, stride, dilation, bias is not None)
    return y if bias is None else y + _f64(bias), saved


def conv2d_backward(
    dy: ArrayLike,
    saved: Saved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
) -> tuple[Array | None, Array | None, Array | None]:
    """Return dx, dweight, dbias: tap by tap the transposes of the forward's product."""
    xg, wg, pads, stride, dilation, has_bias = saved
    dy = _f64(dy)
    groups, og, cg, *kernel = wg.shape
    n, oh, ow, o = dy.shape
    dyg = dy.reshape(n, oh, ow, groups, og)
    dxg, dwg = np.zeros_like(xg), np.zeros_like(wg)
    for ky, kx, seen in _taps((kernel[0], kernel[1]), stride, dilation, (oh, ow)):
        dxg[seen] += np.einsum("nhwgo,goc->nhwgc", dyg, wg[..., ky, kx], optimize=True)
        dwg[..., ky, kx] = np.einsum("nhwgo,nhwgc->goc", dyg, xg[seen], optimize=True)
    dxp = dxg.reshape(*xg.shape[:3], groups * cg)
    dx = _crop(dxp, pads) if need_dx else None
    dweight = dwg.reshape(o, cg, *kernel) if need_dweight else None
    return dx, dweight, dy.sum(axis=(0, 1, 2)) if need_dbias and has_bias else None


def conv_transpose2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
) -> tuple[Array, Saved]:
    """Add weight (C, O/groups, kh, kw) times every pixel of x (N, H, W, C) into its window of y.

    Dumoulin & Visin, "A guide to convolution arithmetic" (2016), relationships 13 and 14.
    """
    x, w = _f64(x), _f64(weight)
    n, h, wd, c = x.shape
    kernel = (w.shape[2], w.shape[3])
    pads = [(p, p) for p in _pair(padding)]
    size = [
        (length - 1) * s + d * (k - 1) + 1 + more
        for length, s, d, k, more in zip(
            (h, wd), _pair(stride), _pair(dilation), kernel, _pair(output_padding), strict=True
        )
    ]
    xg = x.reshape(n, h, wd, groups, c // groups)
    wg = w.reshape(groups, c // groups, w.shape[1], *kernel)
    y = np.zeros((n, *size, groups, w.shape[1]))
    for ky, kx, seen in _taps(kernel, stride, dilation, (h, wd)):
        y[seen] += np.einsum("nhwgc,gco->nhwgo", xg, wg[..., ky, kx], optimize=True)
    y = _crop(y.reshape(n, *size, groups * w.shape[1]), pads)
    saved = (xg, wg, pads, stride, dilation, bias is not None)
    return y if bias is None else y + _f64(bias), saved


def conv_transpose2d_backward(
    dy: ArrayLike,
    saved: Saved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
) -> tuple[Array | None, Array | None, Array | None]:
    """Return dx, dweight, dbias: what every pixel's window sees of dy."""
    xg, wg, pads, stride, dilation, has_bias = saved
    dy = _f64(dy)
    groups, cg, og, *kernel = wg.shape
    dyp = np.pad(dy, ((0, 0), *pads, (0, 0)))
    dyg = dyp.reshape(*dyp.shape[:3], groups, og)
    dxg, dwg = np.zeros_like(xg), np.zeros_like(wg)
    n, h, w = xg.shape[:3]
    for ky, kx, seen in _taps((kernel[0], kernel[1]), stride, dilation, (h, w)):
        dxg += np.einsum("nhwgo,gco->nhwgc", dyg[seen], wg[..., ky, kx], optimize=True)
        dwg[..., ky, kx] = np.einsum("nhwgo,nhwgc->gco", dyg[seen], xg, optimize=True)
    dx = dxg.reshape(n, h, w, groups * cg) if need_dx else None
    dweight = dwg.reshape(groups * cg, og, *kernel) if need_dweight else None
    return dx, dweight, dy.sum(axis=(0, 1, 2)) if need_dbias and has_bias else None


def _crop(padded: Array, pads: list[tuple[int, int]]) -> Array:
    (top, bottom), (left, right) = pads
    return padded[:, top : padded.shape[1] - bottom, left : padded.shape[2] - right]


# --- pooling --------------------------------------------------------------------------------


def _windows(
    size: int, kernel: int, stride: int, padding: int, *, dilation: int, ceil_mode: bool
) -> tuple[int, int]:
    """Return the number of windows along an axis and the padding they need after it."""
    reach = dilation * (kernel - 1) + 1
    room = size + 2 * padding - reach
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # as in PyTorch: a window must start in the input or in front of it
    return count, max((count - 1) * stride + reach - size - padding, padding)


def max_pool2d(
    x: ArrayLike,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    *,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Saved]:
    """Return the maximum of every window: x (N, H, W, C), y (N, OH, OW, C). A NaN wins.

    ``stride=None`` is the kernel's size; padding never wins. Of equal maxima the first one, in
    row-major order, is meant.
    """
    x = _f64(x)
    kernel, pad, dil = _pair(kernel_size), _pair(padding), _pair(dilation)
    step = kernel if stride is None else _pair(stride)
    (oh, bottom), (ow, right) = (
        _windows(x.shape[i + 1], kernel[i], step[i], pad[i], dilation=dil[i], ceil_mode=ceil_mode)
        for i in (0, 1)
    )
    pads = [(pad[0], bottom), (pad[1], right)]
    xp = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
    inside = np.pad(np.ones_like(x, dtype=bool), ((0, 0), *pads, (0, 0)))
    taps = [seen for _, _, seen in _taps(kernel, step, dil, (oh, ow))]
    seen_x = np.stack([xp[seen] for seen in taps])  # (kh*kw, N, OH, OW, C)
    seen_inside = np.stack([inside[seen] for seen in taps])
    which = seen_x.argmax(axis=0)  # the first of equals; a NaN counts as the maximum
    y = np.take_along_axis(seen_x, which[None], axis=0)[0]
    # a window of nothing but -inf: its first input, not the padding, takes the gradient
    chosen_inside = np.take_along_axis(seen_inside, which[None], axis=0)[0]
    which = np.where(chosen_inside, which, seen_inside.argmax(axis=0))
    return y, (which, taps, xp.shape, pads)


def max_pool2d_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dx (N, H, W, C): dy goes to the maximum of its window, and adds up there."""
    which, taps, padded_shape, pads = saved
    dy = _f64(dy)
    dxp = np.zeros(padded_shape)
    for tap, seen in enumerate(taps):
        dxp[seen] += np.where(which == tap, dy, 0.0)
    return _crop(dxp, pads)


def avg_pool2d(
    x: ArrayLike,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Array, Saved]:
    """Return the mean of every window: x (N, H, W, C), y (N, OH, OW, C).

    Padding counts as zeros unless ``count_include_pad=False``; what ``ceil_mode`` adds after
    the padding never counts.
    """
    x = _f64(x)
    kernel, pad = _pair(kernel_size), _pair(padding)
    step = kernel if stride is None else _pair(stride)
    (oh, bottom), (ow, right) = (
        _windows(x.shape[i + 1], kernel[i], step[i], pad[i], dilation=1, ceil_mode=ceil_mode)
        for i in (0, 1)
    )
    pads = [(pad[0], bottom), (pad[1], right)]
    xp = np.pad(x, ((0, 0), *pads, (0, 0)))
    counts = np.zeros((1, *xp.shape[1:3], 1))
    margin = pad if count_include_pad else (0, 0)
    counts[
        :,
        pad[0] - margin[0] : pad[0] + x.shape[1] + margin[0],
        pad[1] - margin[1] : pad[1] + x.shape[2] + margin[1],
    ] = 1.0
    taps = [seen for _, _, seen in _taps(kernel, step, 1, (oh, ow))]
    total = sum((xp[seen] for seen in taps), np.zeros((x.shape[0], oh, ow, x.shape[3])))
    divisor = sum((counts[seen] for seen in taps), np.zeros((1, oh, ow, 1)))
    return total / divisor, (divisor, taps, xp.shape, pads)


def avg_pool2d_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dx (N, H, W, C): every input of a window takes dy over the window's divisor."""
    divisor, taps, padded_shape, pads = saved
    dy = _f64(dy)
    dxp = np.zeros(padded_shape)
    for seen in taps:
        dxp[seen] += dy / divisor
    return _crop(dxp, pads)


def global_avg_pool2d(x: ArrayLike) -> tuple[Array, Saved]:
    """Return the mean over all positions: x (N, H, W, C), y (N, C)."""
    x = _f64(x)
    return x.mean(axis=(1, 2)), x.shape


def global_avg_pool2d_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dx (N, H, W, C): dy / (H * W) at every position."""
    n, h, w, c = saved
    return np.broadcast_to(_f64(dy)[:, None, None, :] / (h * w), (n, h, w, c)).copy()


# --- activations, element by element --------------------------------------------------------


def relu(x: ArrayLike) -> tuple[Array, Saved]:
    """Return max(x, 0); NaN stays NaN."""
    return leaky_relu(x, 0.0)


def relu_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dy where x > 0 (or NaN), else 0."""
    return leaky_relu_backward(dy, saved)


def leaky_relu(x: ArrayLike, negative_slope: float = 0.01) -> tuple[Array, Saved]:
    """Return x where x > 0, else negative_slope * x."""
    x = _f64(x)
    return np.where(x <= 0, _scaled(x, negative_slope), x), (x, negative_slope)


def leaky_relu_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dy where x > 0 (or NaN), else negative_slope * dy."""
    x, negative_slope = saved
    dy = _f64(dy)
    return np.where(x <= 0, _scaled(dy, negative_slope), dy)


def sigmoid(x: ArrayLike) -> tuple[Array, Saved]:
    """Return 1 / (1 + exp(-x)), with an exponent that is never positive."""
    x = _f64(x)
    e = np.exp(-np.abs(x))
    y = np.where(x >= 0, 1.0, e) / (1.0 + e)
    return y, (y,)


def sigmoid_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dx = dy * y * (1 - y)."""
    (y,) = saved
    return np.asarray(_f64(dy) * y * (1.0 - y))


def tanh(x: ArrayLike) -> tuple[Array, Saved]:
    """Return the hyperbolic tangent."""
    y = np.tanh(_f64(x))
    return y, (y,)


def tanh_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dx = dy * (1 - y²)."""
    (y,) = saved
    return np.asarray(_f64(dy) * (1.0 - y * y))


def _sloped_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dx = dy * f'(x)."""
    (slope,) = saved
    return np.asarray(_f64(dy) * slope)


def elu(x: ArrayLike, alpha: float = 1.0) -> tuple[Array, Saved]:
    """Return x where x > 0, else alpha (exp(x) - 1)."""
    x = _f64(x)
    negative = np.minimum(x, 0.0)
    y = np.where(x > 0, x, alpha * np.expm1(negative))
    return y, (np.where(x > 0, 1.0, alpha * np.exp(negative)),)


elu_backward = _sloped_backward


def selu(x: ArrayLike) -> tuple[Array, Saved]:
    """Return elu(x) with alpha = 1.6733 times 1.0507 (Klambauer et al. 2017)."""
    scale, alpha = 1.0507009873554804934, 1.6732632423543772848
    y, (slope,) = elu(x, alpha)
    return scale * y, (scale * slope,)


selu_backward = _sloped_backward


def silu(x: ArrayLike) -> tuple[Array, Saved]:
    """Return x σ(x)."""
    x = _f64(x)
    s, _ = sigmoid(x)
    return x * s, (s * (1.0 + x * (1.0 - s)),)


silu_backward = _sloped_backward


def gelu(x: ArrayLike, approximate: str = "none") -> tuple[Array, Saved]:
    """Return x Φ(x), Φ the integral of the normal distribution; or its form with tanh."""
    x = _f64(x)
    if approximate == "tanh":
        k = np.sqrt(2.0 / np.pi)
        t = np.tanh(k * (x + 0.044715 * x**3))
        slope = (1.0 + t + x * (1.0 - t * t) * k * (1.0 + 3 * 0.044715 * x * x)) / 2.0
        return x * (1.0 + t) / 2.0, (slope,)
    integral = np.array([math.erfc(-v / math.sqrt(2.0)) / 2.0 for v in x.ravel()]).reshape(x.shape)
    density = np.exp(-x * x / 2.0) / np.sqrt(2.0 * np.pi)
    return x * integral, (integral + x * density,)


gelu_backward = _sloped_backward


def hardsigmoid(x: ArrayLike) -> tuple[Array, Saved]:
    """Return min(max(x + 3, 0), 6) / 6."""
    x = _f64(x)
    return np.clip(x + 3.0, 0.0, 6.0) / 6.0, (np.where(np.abs(x) < 3.0, 1.0 / 6.0, 0.0),)


hardsigmoid_backward = _sloped_backward


def hardswish(x: ArrayLike) -> tuple[Array, Saved]:
    """Return x hardsigmoid(x)."""
    x = _f64(x)
    slope = np.where(x <= -3.0, 0.0, np.where(x >= 3.0, 1.0, (2.0 * x + 3.0) / 6.0))
    return x * hardsigmoid(x)[0], (slope,)


hardswish_backward = _sloped_backward


def relu6(x: ArrayLike) -> tuple[Array, Saved]:
    """Return min(max(x, 0), 6)."""
    x = _f64(x)
    return np.clip(x, 0.0, 6.0), (np.where((x > 0.0) & (x < 6.0), 1.0, 0.0),)


relu6_backward = _sloped_backward


def softplus(x: ArrayLike, beta: float = 1.0) -> tuple[Array, Saved]:
    """Return log(1 + exp(beta x)) / beta."""
    x = _f64(x)
    return np.logaddexp(0.0, beta * x) / beta, (sigmoid(beta * x)[0],)


softplus_backward = _sloped_backward


def mish(x: ArrayLike) -> tuple[Array, Saved]:
    """Return x tanh(log(1 + exp(x)))."""
    x = _f64(x)
    t = np.tanh(np.logaddexp(0.0, x))
    return x * t, (t + x * (1.0 - t * t) * sigmoid(x)[0],)


mish_backward = _sloped_backward


def local_response_norm(
    x: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> tuple[Array, Saved]:
    """Return x / (k + alpha / size * sum of x² over `size` channels) ** beta; x (..., C).

    The window of channel c begins at c - size // 2; channels that there are not count as zeros.
    """
    x = _f64(x)
    behind = (size - 1) // 2
    c = np.arange(x.shape[-1])
    apart = c[:, None] - c  # row: the channel of y, column: the one of x
    inside = ((apart <= size // 2) & (apart >= -behind)).astype(float)  # (C, C)
    s = k + alpha / size * (x * x) @ inside.T
    return x * s**-beta, (x, s, inside, alpha / size, beta)


def local_response_norm_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dx: what y's own x does, and what every window does that a channel is in."""
    x, s, inside, scale, beta = saved
    dy = _f64(dy)
    dx: Array = dy * s**-beta - 2 * beta * scale * x * ((dy * x * s ** (-beta - 1)) @ inside)
    return dx


def prelu(x: ArrayLike, weight: ArrayLike) -> tuple[Array, Saved]:
    """Return x where x > 0, else weight x; weight (1,) or (C,)."""
    x, weight = _f64(x), _f64(weight)
    return np.where(x > 0, x, weight * x), (x, weight)


def prelu_backward(dy: ArrayLike, saved: Saved) -> tuple[Array, Array]:
    """Return dx = dy where x > 0, else weight dy; dweight = sum(dy x where x <= 0)."""
    x, weight = saved
    dy = _f64(dy)
    share = np.where(x > 0, 0.0, dy * x).reshape(-1, x.shape[-1]).sum(axis=0)
    dweight = share if weight.size > 1 or x.shape[-1] == 1 else share.sum(keepdims=True)
    return np.where(x > 0, dy, weight * dy), dweight


def softmax(x: ArrayLike) -> tuple[Array, Saved]:
    """Return exp(x) / sum(exp(x)) along the last axis, shifted by its maximum."""
    x = _f64(x)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y = e / e.sum(axis=-1, keepdims=True)
    return y, (y,)


def softmax_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dx = y * (dy - sum(dy * y)) along the last axis."""
    (y,) = saved
    dy = _f64(dy)
    return np.asarray(y * (dy - (dy * y).sum(axis=-1, keepdims=True)))


# --- shape and chance -----------------------------------------------------------------------


def flatten(x: ArrayLike) -> tuple[Array, Saved]:
    """Return x (N, ...) as (N, prod(...)), in C order: H, W, C for an image."""
    x = _f64(x)
    return x.reshape(x.shape[0], int(np.prod(x.shape[1:]))), x.shape


def flatten_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dy in the shape of x."""
    return _f64(dy).reshape(saved)


def add(*xs: ArrayLike) -> Array:
    """Return the sum of the arrays; its gradient is that of every one."""
    total = _f64(xs[0])
    for x in xs[1:]:
        total = total + _f64(x)
    return total


def concat(*xs: ArrayLike) -> tuple[Array, Saved]:
    """Return the arrays side by side along their last axis."""
    arrays = [_f64(x) for x in xs]
    return np.concatenate(arrays, axis=-1), tuple(a.shape[-1] for a in arrays)


def concat_backward(dy: ArrayLike, saved: Saved) -> tuple[Array, ...]:
    """Return the parts of dy."""
    return tuple(np.split(_f64(dy), np.cumsum(saved)[:-1], axis=-1))


def dropout_keep(seed: int, count: int, p: float) -> NDArray[np.bool_]:
    """Return which of `count` elements dropout keeps, by the rule of ``kernels/dropout``.

    Elements 2 k and 2 k + 1 take the halves of the k-th number of SplitMix64 (Steele, Lea & Flood,
    "Fast splittable pseudorandom number generators", 2014); those that reach p * 2**32 are kept.
    """
    k = np.arange(1, (count + 1) // 2 + 1, dtype=np.uint64)
    z = np.uint64(seed) + k * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    halves = np.stack([z & np.uint64(0xFFFFFFFF), z >> np.uint64(32)], axis=1).ravel()[:count]
    return np.asarray(halves >= np.uint64(int(p * 2.0**32 + 0.5)))


def dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: np.random.Generator | None = None,
) -> tuple[Array, Saved]:
    """Return x with a share p of it zeroed and the rest divided by 1 - p.

    Srivastava et al. (2014), with the scaling in training: inference is the identity. The mask
    follows from one 64-bit number of the generator.
    """
    x = _f64(x)
    if not training or p == 0.0:
        return x.copy(), (np.ones_like(x),)
    generator = np.random.default_rng() if rng is None else rng
    seed = int(generator.integers(0, 1 << 64, dtype=np.uint64))
    kept = dropout_keep(seed, x.size, p).reshape(x.shape)
    scale = np.where(kept, 1.0 / (1.0 - p), 0.0) if p < 1.0 else np.zeros_like(x)
    return x * scale, (scale,)


def dropout_backward(dy: ArrayLike, saved: Saved) -> Array:
    """Return dy with the forward's mask and scale."""
    (scale,) = saved
    return np.asarray(_f64(dy) * scale)


# --- losses ---------------------------------------------------------------------------------


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> tuple[float, Saved]:
    """Return -sum(t log(softmax(logits))), over sum(weight[label] sample_weight) for a mean.

    t = sample_weight weight ((1 - smoothing) p + smoothing / C), where p holds the rows'
    probabilities: logits (N, C), labels (N,) integers or (N, C) probabilities.
    """
    logits, labels = _f64(logits), np.asarray(labels)
    rows, classes = logits.shape
    w = np.ones(classes) if weight is None else _f64(weight)
    each = np.ones(rows) if sample_weight is None else _f64(sample_weight)
    if labels.ndim == 1:
        counts = labels != ignore_index
        known = np.where(counts, labels, 0)
        p = np.eye(classes)[known]
        each = np.where(counts, each, 0.0)
        divisor = (each * w[known]).sum()
    else:
        p, divisor = _f64(labels), each.sum()
    t = each[:, None] * w * ((1.0 - label_smoothing) * p + label_smoothing / classes)
    divisor = divisor if reduction == "mean" else 1.0
    top = logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) - top
    counted = t.any(axis=1)  # other rows may hold anything
    total = -(t[counted] * log_p[counted]).sum()
    return (float(total / divisor) if divisor else 0.0), (log_p, t, divisor)


def cross_entropy_backward(dloss: float, saved: Saved) -> Array:
    """Return dlogits = dloss (sum(t) softmax(logits) - t), over the same for a mean."""
    log_p, t, divisor = saved
    dlogits = t.sum(axis=1, keepdims=True) * np.exp(log_p) - t
    dlogits[~t.any(axis=1)] = 0.0
    return np.asarray(dloss * dlogits / divisor if divisor else np.zeros_like(dlogits))


def _reduced(
    losses: Array, slopes: Array, sample_weight: ArrayLike | None, reduction: str
) -> tuple[float, Saved]:
    """Return the mean or sum of the losses of pairs, each row weighed, and what scales slopes."""
    if sample_weight is None:
        scale = np.ones_like(losses)
    else:
        each = _f64(sample_weight).reshape(-1, *[1] * (losses.ndim - 1))
        scale = np.broadcast_to(each, losses.shape)
    divisor = scale.sum() if reduction == "mean" else 1.0
    if not divisor:
        return 0.0, (np.zeros_like(losses), np.zeros_like(losses))
    counted = scale != 0  # other rows may hold anything
    total = (losses[counted] * scale[counted]).sum()
    return float(total / divisor), (np.where(counted, slopes, 0.0), scale / divisor)


def mse_loss(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> tuple[float, Saved]:
    """Return the mean over all elements of (pred - target)²; rows weigh `sample_weight`."""
    d = _f64(pred) - _f64(target)
    return _reduced(np.square(d), 2.0 * d, sample_weight, reduction)


def mse_loss_backward(dloss: float, saved: Saved) -> Array:
    """Return dpred = dloss 2 (pred - target) / size."""
    slopes, scale = saved
    return np.asarray(dloss * slopes * scale)


def l1_loss(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> tuple[float, Saved]:
    """Return the mean over all elements of |pred - target|."""
    d = _f64(pred) - _f64(target)
    return _reduced(np.abs(d), np.sign(d), sample_weight, reduction)


l1_loss_backward = mse_loss_backward
"""dpred = dloss sign(pred - target) / size."""


def huber_loss(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    delta: float = 1.0,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> tuple[float, Saved]:
    """Return the mean of d²/2 where |d| <= delta, else delta (|d| - delta/2); d = pred - target."""
    d = _f64(pred) - _f64(target)
    size = np.abs(d)
    losses = np.where(size <= delta, np.square(d) / 2.0, delta * (size - delta / 2.0))
    return _reduced(losses, np.clip(d, -delta, delta), sample_weight, reduction)


huber_loss_backward = mse_loss_backward
"""dpred = dloss clip(pred - target, -delta, delta) / size."""


def binary_cross_entropy_with_logits(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> tuple[float, Saved]:
    """Return the mean of -t log(σ(x)) - (1 - t) log(1 - σ(x)); x = pred, t = target."""
    x, t = _f64(pred), _f64(target)
    losses = t * np.logaddexp(0.0, -x) + (1.0 - t) * np.logaddexp(0.0, x)
    return _reduced(losses, sigmoid(x)[0] - t, sample_weight, reduction)


binary_cross_entropy_with_logits_backward = mse_loss_backward
"""dpred = dloss (σ(pred) - target) / size."""

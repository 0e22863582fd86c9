"""Pools, and means over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastbn import nn
from fastbn.export.read.node import Node, reads
from fastbn.export.read.value import UnreadableError, Value
from fastbn.export.read.windows import Window, image_of, image_value, window


@reads("MaxPool")
def max_pool(node: Node) -> Value:
    """Read a MaxPool; what a layer cannot pad is padded with -∞ in front."""
    x, w, ceil = _window(node)
    image = image_of(x)
    most = _most(w)
    if ceil and not w.is_even(most):
        w, ceil = w.closed(image.shape[:2]), False
    image, pads = w.padded(image, -math.inf, most)
    kernel, stride, dilation = w.pairs
    return image_value(x, nn.MaxPool2d(kernel, stride, pads, dilation, ceil)(image))


@reads("AveragePool")
def average_pool(node: Node) -> Value:
    """Read an AveragePool; one with odd padding is corrected where windows count fewer places."""
    x, w, ceil = _window(node)
    if any(n != 1 for n in w.dilation):
        raise UnreadableError("its windows have holes")
    counts_pad = bool(node.whole("count_include_pad"))
    image = image_of(x)
    most = _most(w)
    kernel, stride, _ = w.pairs
    if w.is_even(most):
        pads = w.begin[0], w.begin[1]
        return image_value(x, nn.AvgPool2d(kernel, stride, pads, ceil, counts_pad)(image))
    full = w.closed(image.shape[:2]) if ceil else w
    inside, pads = full.padded(image, 0.0, most)
    pooled = nn.AvgPool2d(kernel, stride, pads)(inside)
    share = np.ones(())
    for axis, size in enumerate(image.shape[:2]):
        low, high = (-w.begin[axis], size + w.end[axis]) if counts_pad else (0, size)
        first = np.arange(pooled.shape[axis]) * w.stride[axis] - w.begin[axis]
        counted = np.minimum(first + w.kernel[axis], high) - np.maximum(first, low)
        share = np.multiply.outer(share, w.kernel[axis] / counted)
    if (share != 1.0).any():
        pooled = nn.Affine(share[..., None]).requires_grad_(False)(pooled)
    return image_value(x, pooled)


def _most(w: Window) -> list[int]:
    """Return the padding that a pool may have."""
    return [k // 2 for k in w.kernel]


def _window(node: Node) -> tuple[Value, Window, bool]:
    kernel = node.wholes("kernel_shape")
    x = node.value()
    if kernel is None or x.rank not in (3, 4) or len(kernel) != x.rank - 2:
        raise UnreadableError("only images and sequences are read")
    return x, window(node, x, kernel), bool(node.whole("ceil_mode"))


@reads("GlobalAveragePool")
def global_average(node: Node) -> Value:
    """Read the mean over all positions."""
    x = node.value()
    return mean(x, range(2, x.rank), keep=True)


@reads("GlobalMaxPool")
def global_max(node: Node) -> Value:
    """Read the maximum over all positions."""
    x = node.value()
    return largest(x, range(2, x.rank), keep=True)


@reads("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL2")
def reduce(node: Node) -> Value:
    """Read a mean, sum or maximum over axes."""
    x = node.value()
    newer = 13 if node.operator == "ReduceSum" else 18
    axes = node.integers(1) if node.opset >= newer else node.wholes("axes")
    if not axes:
        if node.whole("noop_with_empty_axes"):
            return x
        raise UnreadableError("it reduces over the batch")
    places = sorted({x.axis(a) for a in axes})
    keep = bool(node.whole("keepdims", 1))
    if node.operator == "ReduceMax":
        return largest(x, places, keep=keep)
    if node.operator == "ReduceMin":
        negative = x.through(nn.Pointwise("neg"))
        return largest(negative, places, keep=keep).through(nn.Pointwise("neg"))
    count = math.prod(x.shape[a] for a in places)
    if node.operator in ("ReduceSumSquare", "ReduceL2"):
        x = x.through(nn.Power(2.0))
    result = mean(x, places, keep=keep)
    if node.operator != "ReduceMean":
        result = result.through(nn.Scale(float(count)))
    return result.through(nn.Pointwise("sqrt")) if node.operator == "ReduceL2" else result


def mean(x: Value, axes: Sequence[int], *, keep: bool) -> Value:
    """Take the mean over some of the file's axes."""
    dims = [a for axis in axes for a in x.axes[axis]]
    _refuse_batch(dims)
    if x.rank == 4 and sorted(axes) == [2, 3] and x.axes[0] == (0,):
        symbol = nn.GlobalAvgPool2d()(x.channels_last())
        reduced = Value(symbol, ((0,), (1,), (), ()), x.batch)
    elif not dims:
        reduced = x
    else:
        reduced = _without(replace(x, symbol=nn.Mean(*dims)(x.symbol)), axes)
    return reduced if keep else dropped(reduced, axes)


def largest(x: Value, axes: Sequence[int], *, keep: bool) -> Value:
    """Take the maximum over positions."""
    _refuse_batch([a for axis in axes for a in x.axes[axis]])
    if 1 in axes or x.rank not in (3, 4):
        raise UnreadableError("it is a maximum over channels")
    image = image_of(x)
    kernel = [image.shape[0], image.shape[1]]
    if x.rank == 4:
        kernel = [n if axis in axes else 1 for axis, n in zip((2, 3), kernel, strict=True)]
    y = image_value(x, nn.MaxPool2d((kernel[0], kernel[1]))(image))
    y = _without(y, axes)
    return y if keep else dropped(y, axes)


def _without(x: Value, axes: Sequence[int]) -> Value:
    """Forget where axes lie whose size is 1 now."""
    return replace(x, axes=tuple(() if k in axes else group for k, group in enumerate(x.axes)))


def dropped(x: Value, axes: Sequence[int]) -> Value:
    """Leave axes of size 1 out."""
    return replace(x, axes=tuple(group for k, group in enumerate(x.axes) if k not in axes))


def _refuse_batch(dims: Sequence[int]) -> None:
    if 0 in dims:
        raise UnreadableError("it mixes the samples of a batch")

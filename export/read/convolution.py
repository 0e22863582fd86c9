"""Conv, ConvTranspose: convolutions of images and sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn
from fastbn.export.read.node import Node, reads
from fastbn.export.read.value import UnreadableError, Value
from fastbn.export.read.windows import Window, image_of, image_value, window

Array = NDArray[Any]


@reads("Conv")
def conv(node: Node) -> Value:
    """Read a convolution; padding that differs from side to side stands in front by itself."""
    x, weight, bias = node.value(), node.required(1), node.weight(2)
    rank = weight.ndim - 2
    if x.rank != weight.ndim:
        raise UnreadableError(f"weight of {weight.ndim} axes for a value of {x.rank}")
    w = window(node, x, weight.shape[2:])
    groups = node.whole("group", 1)
    if w.is_point and groups == 1 and all(not axes for axes in x.axes[2:]):
        return point(node, x, weight, bias)
    channels = (weight.shape[1] * groups, weight.shape[0])
    options: dict[str, Any] = {"groups": groups, "bias": bias is not None, "rng": 0}
    layer: Any
    if rank == 3:
        return volume(node, x, weight, bias, w, groups)
    image = image_of(x)
    image, pads = w.padded(image, 0.0)
    if rank == 1:
        layer = nn.Conv1d(
            *channels, w.kernel[1], w.stride[1], pads[1], dilation=w.dilation[1], **options
        )
        image = nn.Reshape(*image.shape[1:])(image)
    else:
        kernel, stride, dilation = w.pairs
        layer = nn.Conv2d(*channels, kernel, stride, pads, dilation, **options)
    fill(layer, weight, bias)
    return image_value(x, node.name(layer, 1)(image))


def point(node: Node, x: Value, weight: Array, bias: Array | None) -> Value:
    """Read a convolution of one pixel by one pixel as a Linear."""
    matrix = weight.reshape(len(weight), -1)
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, rng=0)
    fill(layer, matrix, bias)
    return x.ending(1).through(node.name(layer, 1))


def volume(
    node: Node, x: Value, weight: Array, bias: Array | None, w: Window, groups: int
) -> Value:
    """Read a convolution of volumes."""
    if w.begin != w.end:
        raise UnreadableError("padding of a volume differs from side to side")
    layer = nn.Conv3d(
        weight.shape[1] * groups,
        weight.shape[0],
        w.kernel,
        w.stride,
        w.begin,
        w.dilation,
        groups,
        bias is not None,
        rng=0,
    )
    fill(layer, weight, bias)
    return x.from_channels_last(node.name(layer, 1)(x.channels_last()))


@reads("ConvTranspose")
def conv_transpose(node: Node) -> Value:
    """Read a transposed convolution of images; what pads leave out more on one side is cut off."""
    x, weight, bias = node.value(), node.required(1), node.weight(2)
    if x.rank != weight.ndim or x.rank not in (3, 4):
        raise UnreadableError("only images and sequences are read")
    if weight.ndim == 3:
        weight = weight[:, :, None]
    groups = node.whole("group", 1)
    image = image_of(x)
    flat = x.rank == 3
    kernel = [*weight.shape[2:]]
    stride = _two(node.wholes("strides"), flat, 1)
    dilation = _two(node.wholes("dilations"), flat, 1)
    more = _two(node.wholes("output_padding"), flat, 0)
    pads = node.wholes("pads") or [0] * (2 * (x.rank - 2))
    half = len(pads) // 2
    begin, end = _two(pads[:half], flat, 0), _two(pads[half:], flat, 0)
    full = [
        s * (n - 1) + o + (k - 1) * d + 1
        for n, s, o, k, d in zip(image.shape[:2], stride, more, kernel, dilation, strict=True)
    ]
    wanted = node.wholes("output_shape")
    auto = node.text("auto_pad", "NOTSET")
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = (
            [n * s for n, s in zip(image.shape[:2], stride, strict=True)]
            if wanted is None
            else list(_two(wanted[-(x.rank - 2) :], flat, 1))
        )
        lacking = [max(n - f, 0) for f, n in zip(full, sizes, strict=True)]
        more = (more[0] + lacking[0], more[1] + lacking[1])
        total = [max(f - n, 0) for f, n in zip(full, sizes, strict=True)]
        small = tuple(t // 2 for t in total)
        large = tuple(t - t // 2 for t in total)
        begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)
    common = tuple(min(b, e) for b, e in zip(begin, end, strict=True))
    layer = nn.ConvTranspose2d(
        weight.shape[0],
        weight.shape[1] * groups,
        (kernel[0], kernel[1]),
        stride,
        (common[0], common[1]),
        more,
        groups,
        bias is not None,
        dilation,
        rng=0,
    )
    fill(layer, weight, bias)
    symbol = node.name(layer, 1)(image)
    for dim, (b, e, c) in enumerate(zip(begin, end, common, strict=True), 1):
        if b != e:
            size = symbol.shape[dim - 1]
            symbol = nn.Take(range(b - c, size - (e - c)), dim)(symbol)
    return image_value(x, symbol)


def _two(values: Any, flat: bool, default: int) -> tuple[int, int]:
    """Return numbers for height and width; a sequence is an image of one row."""
    numbers = [default] * (1 if flat else 2) if values is None or not len(values) else list(values)
    neutral = [default] if flat else []
    first, second = neutral + numbers
    return first, second


def fill(layer: Any, weight: Array, bias: Array | None) -> None:
    """Set a layer's weight, and its bias."""
    if weight.dtype == np.float64:
        layer.astype(np.float64)
    layer.weight.data = weight
    if bias is not None:
        layer.bias.data = bias.reshape(-1)

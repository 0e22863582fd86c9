"""Operators in float64: what is ours, because it has to be fast or exact.

All other operators are those of ``onnx.reference``. Two-dimensional convolution runs in this
library's own kernels; the rest is NumPy. Arrays are channels-first as in ONNX; what a convolution
gives lies channels-last in memory, which elementwise operators keep and the next one reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_resize import Resize as ReferenceResize

from fastbn import functional as F
from fastbn.export import windows as wd

Array = NDArray[Any]

TIE = 1e-6  # so near to the middle between two pixels, onnxruntime takes a place to lie in it


def convolve(x: Array, weight: Array, bias: Array | None, w: wd.Windows, groups: int) -> Array:
    """Convolution: x (N, C, *spatial), weight (O, C/groups, *kernel) -> (N, O, *size).

    One- and two-dimensional ones in the library's kernels, others tap by tap.
    """
    if x.ndim not in (3, 4) or not x.size or not weight.size or min(w.size) < 1:
        return wd.conv(x, weight, bias, w, groups)
    padding = w.begin
    symmetric = w.begin == w.end and min(w.begin) >= 0
    if not symmetric:
        # pad() reaches as far as the last window, and no further than windows read.
        x, padding = wd.pad(x, w, 0.0)[:, :, *(slice(0, n) for n in w.extent())], (0,) * len(w.size)
    kernel, strides, dilations = weight, w.strides, w.dilations
    if x.ndim == 3:  # one row of an image
        x, kernel = x[:, :, None], weight[:, :, None]
        strides, dilations, padding = (1, *strides), (1, *dilations), (0, *padding)
    y, _ = F.conv2d(
        np.ascontiguousarray(x.transpose(0, 2, 3, 1)),
        kernel,
        None if bias is None else np.ascontiguousarray(bias),
        stride=(strides[0], strides[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilations[0], dilations[1]),
        groups=groups,
    )
    first = y.transpose(0, 3, 1, 2)
    return first[:, :, 0] if len(w.size) == 1 else first


class Conv(OpRun):
    """Convolution of any rank."""

    op_domain = ""

    def _run(self, x, w, b=None, **attributes):  # type: ignore[no-untyped-def]
        geometry = wd.windows(
            x.shape[2:],
            w.shape[2:],
            strides=attributes.get("strides"),
            dilations=attributes.get("dilations"),
            pads=attributes.get("pads"),
            auto_pad=attributes.get("auto_pad"),
        )
        return (convolve(x, w, b, geometry, attributes.get("group") or 1),)


class ConvTranspose(OpRun):
    """Transposed convolution of any rank, tap by tap."""

    op_domain = ""

    def _run(self, x, w, b=None, **attributes):  # type: ignore[no-untyped-def]
        rank = x.ndim - 2
        strides = attributes.get("strides") or [1] * rank
        dilations = attributes.get("dilations") or [1] * rank
        extra = attributes.get("output_padding") or [0] * rank
        begin, size = transposed_geometry(
            x.shape[2:],
            w.shape[2:],
            strides,
            dilations,
            extra,
            pads=attributes.get("pads"),
            auto_pad=attributes.get("auto_pad"),
            output_shape=attributes.get("output_shape"),
        )
        y = wd.conv_transpose(
            x,
            w,
            b,
            groups=attributes.get("group") or 1,
            strides=strides,
            dilations=dilations,
            begin=begin,
            size=size,
        )
        return (y,)


def transposed_geometry(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
    *,
    pads: Sequence[int] | None,
    auto_pad: str | None,
    output_shape: Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    """Crop in front and output size of a transposed convolution (ONNX ConvTranspose)."""
    rank = len(kernel)
    begin, size = [], []
    for i in range(rank):
        full = strides[i] * (spatial[i] - 1) + (kernel[i] - 1) * dilations[i] + 1 + extra[i]
        if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            length = output_shape[i - rank] if output_shape else spatial[i] * strides[i]
            total = max(full - length, 0)
            # Only SAME_UPPER puts the odd element at the end; all else puts it in front.
            front = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        else:
            before, after = (pads[i], pads[i + rank]) if pads else (0, 0)
            front, length = before, full - before - after
        begin.append(front)
        size.append(length)
    return begin, size


class MaxPool(OpRun):
    """Maximum pooling; the indices are worked out only where they are used."""

    op_domain = ""

    def _run(self, x, **attributes):  # type: ignore[no-untyped-def]
        if len([name for name in self.onnx_node.output if name]) > 1:
            raise NotImplementedError("MaxPool with indices")
        return (wd.max_pool(x, _pool_windows(x, attributes)),)


class AveragePool(OpRun):
    """Average pooling."""

    op_domain = ""

    def _run(self, x, **attributes):  # type: ignore[no-untyped-def]
        include = bool(attributes.get("count_include_pad"))
        return (wd.avg_pool(x, _pool_windows(x, attributes), include),)


class GlobalMaxPool(OpRun):
    """Maximum over all places."""

    op_domain = ""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


def _pool_windows(x: Array, attributes: Mapping[str, Any]) -> wd.Windows:
    return wd.windows(
        x.shape[2:],
        attributes["kernel_shape"],
        strides=attributes.get("strides"),
        dilations=attributes.get("dilations"),
        pads=attributes.get("pads"),
        auto_pad=attributes.get("auto_pad"),
        ceil_mode=bool(attributes.get("ceil_mode")),
    )


class Pad(OpRun):
    """Padding of every version: a negative pad crops, before the others add."""

    op_domain = ""

    def _run(self, x, pads=None, value=None, axes=None, mode="constant", **_):  # type: ignore[no-untyped-def]
        begin, end = np.asarray(pads, dtype=np.int64).reshape(2, -1)
        around = np.zeros((x.ndim, 2), dtype=np.int64)
        around[slice(None) if axes is None else np.asarray(axes).reshape(-1)] = np.stack(
            [begin, end], axis=1
        )
        cropped = x[
            tuple(
                slice(max(-low, 0), n + min(high, 0))
                for n, (low, high) in zip(x.shape, around, strict=True)
            )
        ]
        added = np.maximum(around, 0)
        if mode != "constant":
            return (np.pad(cropped, added, mode=mode),)
        fill = 0 if value is None else np.asarray(value).reshape(-1)[0]
        return (np.pad(cropped, added, constant_values=fill),)


class BatchNormalization(OpRun):
    """Batch normalisation of every opset, with running or with batch statistics.

    Training is ``training_mode=1``, before opset 14 more than one output. The running variance is
    the biased one, as ONNX has it.
    """

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, **attributes):  # type: ignore[no-untyped-def]
        # ONNX attributes are float32, the default too.
        epsilon = np.float64(np.float32(attributes.get("epsilon", 1e-5)))
        momentum = np.float64(attributes.get("momentum", 0.9))
        wanted = len(self.onnx_node.output)
        per_channel = scale.ndim == 1
        shape = (1, -1, *(1,) * (x.ndim - 2)) if per_channel and x.ndim > 1 else scale.shape
        training = bool(attributes.get("training_mode"))
        if self.run_params["opsets"][""] < 14:
            training = sum(map(bool, self.onnx_node.output)) > 1
        extra: tuple[Any, ...] = ()
        if training:
            axes = tuple(a for a in range(x.ndim) if a != 1)
            batch_mean, batch_var = x.mean(axis=axes), x.var(axis=axes)
            extra = (
                mean * momentum + batch_mean * (1 - momentum),
                var * momentum + batch_var * (1 - momentum),
                batch_mean,
                batch_var,
            )
            mean, var = batch_mean, batch_var
        factor = scale / np.sqrt(var + epsilon)
        y = x * factor.reshape(shape)
        y += (bias - mean * factor).reshape(shape)
        return (y, *extra)[:wanted]


class Relu(OpRun):
    """The larger of x and 0."""

    op_domain = ""

    def _run(self, x, **_):  # type: ignore[no-untyped-def]
        return (np.maximum(x, 0),)


class Softmax(OpRun):
    """Softmax; before opset 13 over all axes from ``axis`` on, since then over ``axis`` alone."""

    op_domain = ""

    def _run(self, x, axis=None):  # type: ignore[no-untyped-def]
        y = np.exp(_log_softmax(self, x))
        return (y,)


class LogSoftmax(OpRun):
    """Logarithm of Softmax."""

    op_domain = ""

    def _run(self, x, axis=None):  # type: ignore[no-untyped-def]
        return (_log_softmax(self, x),)


def _log_softmax(operator: OpRun, x: Array) -> Array:
    old = operator.run_params["opsets"][""] < 13
    given = {a.name: a.i for a in operator.onnx_node.attribute}
    axis = given.get("axis", 1 if old else -1) % max(x.ndim, 1)
    axes = tuple(range(axis, x.ndim)) if old else (axis,)
    shifted: Array = x - x.max(axis=axes, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=axes, keepdims=True))
    return result


class LRN(OpRun):
    """Local response normalisation; the reference's takes the batch's axis for the channels'."""

    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):  # type: ignore[no-untyped-def]
        # Of an even size, ONNX has the extra channel after, ours before.
        turned = np.ascontiguousarray(np.moveaxis(x, 1, -1)[..., ::-1])
        y, _ = F.local_response_norm(turned, size, alpha, beta, bias)
        return (np.moveaxis(y[..., ::-1], -1, 1),)


class Erf(OpRun):
    """Error function; the reference's rounds to float32."""

    op_domain = ""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (np.vectorize(math.erf, otypes=[np.float64])(x),)


class Resize(ReferenceResize):
    """Interpolation axis by axis, for the modes that are products of axes."""

    def _run(self, x, *inputs, **options):  # type: ignore[no-untyped-def, override]
        _, scales, sizes = (*inputs, None, None, None)[:3]
        mode = options.get("mode") or "nearest"
        transform = options.get("coordinate_transformation_mode") or "half_pixel"
        plain = not any(
            options.get(name) for name in ("antialias", "axes", "exclude_outside")
        ) and options.get("keep_aspect_ratio_policy") in (None, "stretch")
        known = mode in ("nearest", "linear") and transform != "tf_crop_and_resize"
        if (
            not plain
            or not known
            or len(inputs) < 2
            or x.ndim != max(np.size(scales), np.size(sizes))
        ):
            return super()._run(x, *inputs, **options)
        y = x
        for axis, length in enumerate(x.shape):
            by_size = sizes is not None and np.size(sizes)
            out = int(sizes[axis] if by_size else np.float32(length) * np.float32(scales[axis]))
            scale = out / length if by_size else float(scales[axis])
            if out == length and scale == 1.0:
                continue
            # Which pixel is the nearest depends on rounding: as in runtimes, that of float32.
            kind = np.float32 if mode == "nearest" else np.float64
            place = _source(np.arange(out, dtype=kind), length, out, kind(scale), transform)
            if mode == "nearest":
                y = y.take(_nearest(place, length, options.get("nearest_mode")), axis=axis)
            else:
                y = _between(y, np.clip(place, 0, length - 1), axis)
        return (y,)


def _source(i: Array, length: int, out: int, scale: np.floating[Any], transform: str) -> Array:
    """Tell where in the input an output index lies (ONNX Resize)."""
    if transform == "asymmetric":
        place: Array = i / scale
        return place
    if transform == "align_corners":
        return i * ((length - 1) / (length * scale - 1)) if out > 1 else np.zeros(out)
    if transform == "pytorch_half_pixel" and out == 1:
        return np.zeros(out)
    centre: Array = (i + 0.5) / scale
    if transform == "half_pixel_symmetric":
        adjust = out / (scale * length)
        centre = length / 2 * (1 - adjust) + centre
    return centre - 0.5


def _nearest(place: Array, length: int, mode: str | None) -> NDArray[np.int64]:
    place = place.astype(np.float64)  # from here on nothing is rounded
    if mode == "floor":
        index = np.floor(place)
    elif mode == "ceil":
        index = np.ceil(place)
    elif mode == "round_prefer_ceil":
        index = np.floor(place + 0.5 + TIE)
    else:
        index = np.ceil(place - 0.5 - TIE)
    whole: NDArray[np.int64] = np.clip(index, 0, length - 1).astype(np.int64)
    return whole


def _between(x: Array, place: Array, axis: int) -> Array:
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = (place - low).reshape(-1, *(1,) * (x.ndim - axis - 1))
    result: Array = x.take(low, axis=axis) * (1 - share) + x.take(high, axis=axis) * share
    return result


def _along(values: Array, x: Array, axis: int | None) -> Array:
    """Scales or zero points with the rank of x."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * x.ndim
    shape[1 if axis is None else axis] = -1
    return values.reshape(shape)


class QuantizeLinear(OpRun):
    """Rounding to 8 bits, ties to even, for every opset before blocks."""

    op_domain = ""

    def _run(self, x, scale, zero=None, **attributes):  # type: ignore[no-untyped-def]
        axis = attributes.get("axis")
        if zero is None:
            zero = np.zeros(1, np.uint8)
        if attributes.get("block_size") or zero.dtype not in (
            np.int8,
            np.uint8,
            np.int16,
            np.uint16,
        ):
            raise NotImplementedError(f"QuantizeLinear to {zero.dtype} or by blocks")
        limit = np.iinfo(zero.dtype)
        whole = np.rint(x / _along(scale, x, axis)) + _along(zero, x, axis)
        return (np.clip(whole, limit.min, limit.max).astype(zero.dtype),)


class DequantizeLinear(OpRun):
    """(q − z)·d, for every opset before blocks."""

    op_domain = ""

    def _run(self, x, scale, zero=None, **attributes):  # type: ignore[no-untyped-def]
        axis = attributes.get("axis")
        if attributes.get("block_size") or x.dtype.kind not in "iu":
            raise NotImplementedError("DequantizeLinear of blocks")
        wide = x.astype(np.float64)
        if zero is not None:
            wide -= _along(zero, x, axis)
        return (wide * _along(scale, x, axis),)


OWN_OPERATORS: list[type[OpRun]] = [
    Conv,
    ConvTranspose,
    MaxPool,
    AveragePool,
    GlobalMaxPool,
    Pad,
    BatchNormalization,
    Relu,
    Softmax,
    LogSoftmax,
    LRN,
    Erf,
    Resize,
    QuantizeLinear,
    DequantizeLinear,
]

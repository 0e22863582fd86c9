"""Upsample: images of a multiple of their size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.geometry import IntPair, check_image, pair, short
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow

Array = NDArray[Any]


class Upsample(Module):
    """Enlarge images: x (N, H, W, C), y (N, s·H, s·W, C).

    Parameters
    ----------
    scale_factor : int or pair of int
        How many rows and columns one becomes.
    mode : {"nearest", "bilinear"}, default "nearest"
        Repeat pixels, or interpolate between them; the outer corners of both images coincide
        (PyTorch's ``align_corners=False``).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    >>> Upsample((1, 2))(x).ravel()
    array([0., 0., 4., 4.])
    >>> Upsample((1, 2), "bilinear")(x).ravel()
    array([0., 1., 3., 4.])
    """

    saves_output = False

    def __init__(self, scale_factor: IntPair, mode: str = "nearest") -> None:
        super().__init__()
        if mode not in {"nearest", "bilinear"}:
            raise ValueError(f"Upsample: mode should be 'nearest' or 'bilinear', got {mode!r}")
        self.scale_factor = pair(scale_factor, "Upsample: scale_factor")
        self.mode = mode

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the enlarged images."""
        n, height, width, channels = x.shape
        rows, columns = self.scale_factor
        take = self._pool.take
        y = take((n, rows * height, columns * width, channels), x.dtype)
        if self.mode == "nearest":
            y.reshape(n, height, rows, width, columns, channels)[...] = x[:, :, None, :, None]
            return y, x.shape
        tall = take((n, rows * height, width, channels), x.dtype)
        _enlarge(x, tall, rows, axis=1)
        _enlarge(tall, y, columns, axis=2)
        return y, x.shape

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dx: the sum of dy over what a pixel became, by its shares."""
        n, height, width, channels = saved
        rows, columns = self.scale_factor
        take = self._pool.take
        dx = take(saved, dy.dtype)
        if self.mode == "nearest":
            dy.reshape(n, height, rows, width, columns, channels).sum(axis=(2, 4), out=dx)
            return dx
        tall = take((n, rows * height, width, channels), dy.dtype)
        _gather(dy, tall, columns, axis=2)
        _gather(tall, dx, rows, axis=1)
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (s·H, s·W, C)."""
        check_image(self.where, input_shape)
        height, width, channels = input_shape
        return (self.scale_factor[0] * height, self.scale_factor[1] * width, channels)

    def own_flops(self, input_shape: Shape) -> int:
        """Return none, or those of two linear interpolations: of columns, then of rows."""
        height, width, channels = self.output_shape(input_shape)
        tall = height * input_shape[1] * channels
        return 0 if self.mode == "nearest" else 3 * (tall + height * width * channels)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Resize."""
        build.require(11, "Upsample")
        roi = None if build.opset >= 13 else build.weight("roi", np.zeros(0))
        scales = build.weight("scales", [1.0, 1.0, *self.scale_factor])
        if self.mode == "nearest":
            mode = {"mode": "nearest", "nearest_mode": "floor"}
            mode["coordinate_transformation_mode"] = "asymmetric"
        else:
            mode = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        value = build.node("Resize", [flow.value, roi, scales], **mode)
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return scale and mode."""
        return short(self.scale_factor) + (f", {self.mode!r}" if self.mode != "nearest" else "")


def _phases(scale: int) -> Iterator[tuple[int, int, float]]:
    """Yield the places that a pixel q becomes, and what each lies between.

    That is the first of two pixels, seen from q, and the share of the second one.
    """
    for phase in range(scale):
        at = (phase + 0.5) / scale - 0.5
        first = -1 if at < 0 else 0
        yield phase, first, at - first


def _part(array: Array, axis: int, part: slice) -> Array:
    return array[(slice(None),) * axis + (part,)]


def _enlarge(x: Array, y: Array, scale: int, axis: int) -> None:
    """Interpolate along an axis; beyond its ends its first and last value go on."""
    size = x.shape[axis]
    wide = np.concatenate(
        [_part(x, axis, slice(1)), x, _part(x, axis, slice(size - 1, None))], axis=axis
    )
    for phase, first, share in _phases(scale):
        before = _part(wide, axis, slice(1 + first, 1 + first + size))
        behind = _part(wide, axis, slice(2 + first, 2 + first + size))
        places = _part(y, axis, slice(phase, None, scale))
        np.multiply(before, 1.0 - share, out=places)
        places += share * behind


def _gather(dy: Array, dx: Array, scale: int, axis: int) -> None:
    """Add up what `_enlarge` has spread."""
    size = dx.shape[axis]
    wide = np.zeros((*dx.shape[:axis], size + 2, *dx.shape[axis + 1 :]), dx.dtype)
    for phase, first, share in _phases(scale):
        places = _part(dy, axis, slice(phase, None, scale))
        before = _part(wide, axis, slice(1 + first, 1 + first + size))
        before += (1.0 - share) * places
        behind = _part(wide, axis, slice(2 + first, 2 + first + size))
        behind += share * places
    np.copyto(dx, _part(wide, axis, slice(1, -1)))
    for end, beyond in ((slice(1), slice(1)), (slice(size - 1, None), slice(size + 1, None))):
        edge = _part(dx, axis, end)
        edge += _part(wide, axis, beyond)

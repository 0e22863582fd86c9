"""AdaptiveAvgPool2d: means over as many windows as are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.geometry import IntPair, check_image, pair, short
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow

Array = NDArray[Any]


class AdaptiveAvgPool2d(Module):
    """Return the means of OH × OW windows that cover the image: x (N, H, W, C), y (N, OH, OW, C).

    Window i of H goes from ⌊i·H/OH⌋ to ⌈(i+1)·H/OH⌉, as PyTorch's does.

    Parameters
    ----------
    output_size : int or pair of int
        Windows along height and width.

    Examples
    --------
    >>> import numpy as np
    >>> AdaptiveAvgPool2d((1, 2))(np.arange(3.0).reshape(1, 1, 3, 1)).ravel()
    array([0.5, 1.5])
    """

    saves_output = False

    def __init__(self, output_size: IntPair) -> None:
        super().__init__()
        self.output_size = pair(output_size, "AdaptiveAvgPool2d: output_size")

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the means."""
        y = self._pool.take((len(x), *self.output_shape(x.shape[1:])), x.dtype)
        kernel = self._kernel(x.shape[1:])
        if kernel is not None:
            y, saved = F.avg_pool2d(x, kernel, out=y)
            return y, (saved, x.shape)
        for i, j, window in self._windows(x.shape):
            x[window].mean(axis=(1, 2), out=y[:, i, j])
        return y, (None, x.shape)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dx: dy spread evenly over its window."""
        saved, x_shape = saved
        dx = self._pool.take(x_shape, dy.dtype)
        if saved is not None:
            return F.avg_pool2d_backward(dy, saved, out=dx)
        dx.fill(0)
        for i, j, window in self._windows(x_shape):
            part = dx[window]
            part += (dy[:, i, j] / (part.shape[1] * part.shape[2]))[:, None, None]
        return dx

    def _kernel(self, shape: Shape) -> tuple[int, int] | None:
        """Return the windows' size where they do not overlap and are all alike."""
        (height, width), (rows, columns) = shape[:2], self.output_size
        if height % rows or width % columns:
            return None
        return height // rows, width // columns

    def _windows(self, x_shape: Shape) -> Iterator[tuple[int, int, tuple[slice, slice, slice]]]:
        _, height, width, _ = x_shape
        rows, columns = self.output_size
        for i, down in enumerate(_parts(height, rows)):
            for j, across in enumerate(_parts(width, columns)):
                yield i, j, (slice(None), down, across)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (OH, OW, C)."""
        check_image(self.where, input_shape)
        return (*self.output_size, input_shape[2])

    def own_flops(self, input_shape: Shape) -> int:
        """Return one for every number of every window."""
        rows, columns = (
            sum(part.stop - part.start for part in _parts(size, count))
            for size, count in zip(input_shape[:2], self.output_size, strict=True)
        )
        return int(rows * columns) * input_shape[2]

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add GlobalAveragePool, AveragePool where all windows are alike, or two products."""
        shape = self.output_shape(flow.shape)
        if self.output_size == (1, 1):
            return flow.to(build.node("GlobalAveragePool", [flow.value]), shape)
        kernel = self._kernel(flow.shape)
        if kernel is None:  # ONNX has no such pool: rows from the left, columns from the right
            (height, width), (rows, columns) = flow.shape[:2], self.output_size
            right = build.weight("columns", _shares(width, columns).T)
            value = build.node("MatMul", [flow.value, right], "over_columns")
            left = build.weight("rows", _shares(height, rows))
            return flow.to(build.node("MatMul", [left, value], "over_rows"), shape)
        size = [*kernel]
        value = build.node("AveragePool", [flow.value], kernel_shape=size, strides=size)
        return flow.to(value, shape)

    def extra_repr(self) -> str:
        """Return the number of windows."""
        return short(self.output_size)


def _parts(size: int, count: int) -> list[slice]:
    """Return the windows along an axis."""
    return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _shares(size: int, count: int) -> Array:
    """Return the means along an axis as a matrix (count, size)."""
    shares = np.zeros((count, size))
    for i, part in enumerate(_parts(size, count)):
        shares[i, part] = 1.0 / (part.stop - part.start)
    return shares

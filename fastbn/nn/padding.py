"""ConstantPad2d, ZeroPad2d: a frame of one number around an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.geometry import check_image
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow

Array = NDArray[Any]


class ConstantPad2d(Module):
    """Put a number around images: x (N, H, W, C), y (N, top + H + bottom, left + W + right, C).

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        Columns and rows, as PyTorch orders them.
    value : float
        The number, also an infinite one.

    Examples
    --------
    >>> import numpy as np
    >>> ConstantPad2d((1, 0, 0, 0), 5.0)(np.ones((1, 1, 2, 1))).reshape(3)
    array([5., 1., 1.])
    """

    flops_per_value = 0
    saves_output = False

    def __init__(self, padding: int | tuple[int, int, int, int], value: float) -> None:
        super().__init__()
        values = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(values) != 4 or any(not hasattr(n, "__index__") or n < 0 for n in values):
            raise ValueError(
                f"{type(self).__name__}: padding should be an int or (left, right, top, bottom), "
                f"none negative, got {padding!r}"
            )
        self.padding = tuple(map(int, values))
        self.value = float(value)

    def _inner(self, height: int, width: int) -> tuple[slice, slice, slice]:
        left, _, top, _ = self.padding
        return slice(None), slice(top, top + height), slice(left, left + width)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the padded images."""
        n, height, width, _ = x.shape
        y = self._pool.take((n, *self.output_shape(x.shape[1:])), x.dtype)
        y.fill(self.value)
        y[self._inner(height, width)] = x
        return y, x.shape

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return the part of dy that belongs to x."""
        dx = self._pool.take(saved, dy.dtype)
        np.copyto(dx, dy[self._inner(*saved[1:3])])
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (top + H + bottom, left + W + right, C)."""
        check_image(self.where, input_shape)
        left, right, top, bottom = self.padding
        height, width, channels = input_shape
        return (top + height + bottom, left + width + right, channels)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Pad."""
        left, right, top, bottom = self.padding
        pads = [0, 0, top, left, 0, 0, bottom, right]
        if build.opset < 11:
            value = build.node("Pad", [flow.value], pads=pads, value=self.value)
        else:
            inputs = [flow.value, build.weight("pads", pads, np.int64)]
            if self.value:
                inputs.append(build.weight("value", self.value))
            value = build.node("Pad", inputs)
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return the padding."""
        return f"{self.padding}" + (f", {self.value:g}" if self.value else "")


class ZeroPad2d(ConstantPad2d):
    """Put zeros around images: x (N, H, W, C), y (N, top + H + bottom, left + W + right, C).

    Parameters
    ----------
    padding : int or (left, right, top, bottom)
        Columns and rows, as PyTorch orders them.

    Examples
    --------
    >>> import numpy as np
    >>> ZeroPad2d((1, 0, 0, 1))(np.ones((1, 1, 2, 1))).reshape(2, 3)
    array([[0., 1., 1.],
           [0., 0., 0.]])
    """

    def __init__(self, padding: int | tuple[int, int, int, int]) -> None:
        super().__init__(padding, 0.0)


ZeroPad = ZeroPad2d

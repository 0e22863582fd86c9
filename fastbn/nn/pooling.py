"""MaxPool2d, AvgPool2d, GlobalAvgPool2d: one number for a window of every channel."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.geometry import IntPair, Windowed, check_image, pair, short, windows
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class _Pool2d(Windowed):
    """What both pools with windows have in common: their sizes."""

    saves_output = False

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None,
        padding: IntPair,
        dilation: IntPair,
        ceil_mode: bool,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = pair(kernel_size, f"{name}: kernel_size")
        self.stride = self.kernel_size if stride is None else pair(stride, f"{name}: stride")
        self.padding = pair(padding, f"{name}: padding", least=0)
        self.dilation = pair(dilation, f"{name}: dilation")
        self.ceil_mode = ceil_mode
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(
                f"{name}: pad should be at most half of effective kernel size, but got "
                f"padding={self.padding} and kernel_size={self.kernel_size}"
            )

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (OH, OW, C)."""
        check_image(self.where, input_shape)
        counts = tuple(
            windows(size, kernel, stride, pad, dilation=dilation, ceil_mode=self.ceil_mode)
            for size, kernel, stride, pad, dilation in zip(
                input_shape, self.kernel_size, self.stride, self.padding, self.dilation,
                strict=False,
            )
        )  # fmt: skip
        if min(counts) < 1:
            raise ValueError(
                f"{self.where}: Given input size {batch_of(input_shape)}. Calculated output size: "
                f"{batch_of((*counts, input_shape[2]))}. Output size is too small"
            )
        return (*counts, input_shape[2])

    def own_flops(self, input_shape: Shape) -> int:
        """Return one for every number of every window."""
        return math.prod(self.kernel_size) * math.prod(self.output_shape(input_shape))

    def _window(self, build: Builder) -> dict[str, Any]:
        """Return the attributes that both operators have."""
        attributes: dict[str, Any] = {
            "kernel_shape": list(self.kernel_size),
            "strides": list(self.stride),
            "pads": [*self.padding, *self.padding],
        }
        if self.ceil_mode:
            build.require(10, "ceil_mode")
            attributes["ceil_mode"] = 1
        return attributes

    def extra_repr(self) -> str:
        """Return the arguments, as far as they are not the defaults."""
        text = short(self.kernel_size)
        if self.stride != self.kernel_size:
            text += f", stride={short(self.stride)}"
        if self.padding != (0, 0):
            text += f", padding={short(self.padding)}"
        if self.dilation != (1, 1):
            text += f", dilation={short(self.dilation)}"
        return text + (", ceil_mode=True" if self.ceil_mode else "")


class MaxPool2d(_Pool2d):
    """Return the maximum of every window: x (N, H, W, C), y (N, OH, OW, C).

    Parameters
    ----------
    kernel_size, stride, padding, dilation : int or pair of int
        For height and width; `stride` is the kernel's size by default. Padding never wins.
    ceil_mode : bool, default False
        Whether a last, incomplete window counts.

    Examples
    --------
    >>> import numpy as np
    >>> MaxPool2d(2)(np.arange(16.0).reshape(1, 4, 4, 1)).reshape(2, 2)
    array([[ 5.,  7.],
           [13., 15.]])
    """

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the maxima."""
        y, saved = F.max_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            out=self._pool.take(self.batch_shape(x.shape), x.dtype),
        )
        return y, (saved, x.shape)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dx: dy goes to the first maximum of its window."""
        saved, x_shape = saved
        return F.max_pool2d_backward(dy, saved, out=self._pool.take(x_shape, dy.dtype))

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add MaxPool."""
        attributes = self._window(build)
        if self.dilation != (1, 1):
            build.require(10, "a dilated MaxPool")
            attributes["dilations"] = list(self.dilation)
        value = build.node("MaxPool", [flow.value], **attributes)
        return flow.to(value, self.output_shape(flow.shape))


class AvgPool2d(_Pool2d):
    """Return the mean of every window: x (N, H, W, C), y (N, OH, OW, C).

    Parameters
    ----------
    kernel_size, stride, padding : int or pair of int
        For height and width; `stride` is the kernel's size by default.
    ceil_mode : bool, default False
        Whether a last, incomplete window counts.
    count_include_pad : bool, default True
        Whether padding counts as zeros.

    Examples
    --------
    >>> import numpy as np
    >>> AvgPool2d(2)(np.arange(16.0).reshape(1, 4, 4, 1)).reshape(2, 2)
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the means."""
        y, saved = F.avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
            out=self._pool.take(self.batch_shape(x.shape), x.dtype),
        )
        return y, (saved, x.shape)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dx: dy spread evenly over its window."""
        saved, x_shape = saved
        return F.avg_pool2d_backward(dy, saved, out=self._pool.take(x_shape, dy.dtype))

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add AveragePool."""
        attributes = self._window(build)
        attributes["count_include_pad"] = int(self.count_include_pad)
        value = build.node("AveragePool", [flow.value], **attributes)
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return the arguments, as far as they are not the defaults."""
        text = super().extra_repr()
        return text if self.count_include_pad else text + ", count_include_pad=False"


class GlobalAvgPool2d(Module):
    """Return the mean over all positions: x (N, H, W, C), y (N, C).

    Examples
    --------
    >>> import numpy as np
    >>> GlobalAvgPool2d()(np.arange(8.0).reshape(1, 2, 2, 2))
    array([[3., 4.]])
    """

    saves_output = False

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the means."""
        n, _, _, channels = x.shape
        y, saved = F.global_avg_pool2d(x, out=self._pool.take((n, channels), x.dtype))
        return y, (saved, x.shape)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dx: dy spread evenly over all positions."""
        saved, x_shape = saved
        return F.global_avg_pool2d_backward(dy, saved, out=self._pool.take(x_shape, dy.dtype))

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (C,)."""
        if len(input_shape) != 3 or 0 in input_shape[:2]:
            raise ValueError(
                f"{self.where}: Expected 4D (batched) input (N, H, W, C) with H and W positive, "
                f"got {batch_of(input_shape)}"
            )
        return (input_shape[2],)

    def own_flops(self, input_shape: Shape) -> int:
        """Return one for every number of the image."""
        return math.prod(input_shape)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add GlobalAveragePool, then a Flatten, for ONNX keeps the two axes."""
        pooled = build.node("GlobalAveragePool", [flow.value])
        value = build.node("Flatten", [pooled], "flatten", axis=1)
        return flow.to(value, self.output_shape(flow.shape))

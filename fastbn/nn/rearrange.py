"""Reshape, Permute, PixelShuffle, ChannelShuffle: the same numbers in other places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.geometry import check_image, single
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class Reshape(Module):
    """Return x (N, ...) as (N, ...) of another shape, in the order it has in memory.

    For images as features use `Flatten`, whose order other libraries' weights are converted to.

    Parameters
    ----------
    *shape : int
        Of one sample, channels last; one of them may be -1.

    Examples
    --------
    >>> import numpy as np
    >>> Reshape(2, -1)(np.zeros((5, 6))).shape
    (5, 2, 3)
    """

    flops_per_value = 0

    def __init__(self, *shape: int) -> None:
        super().__init__()
        if not shape or any(not hasattr(n, "__index__") for n in shape):
            raise TypeError(f"Reshape: shape should be ints, got {shape!r}")
        if sum(n == -1 for n in shape) > 1 or any(n < 1 and n != -1 for n in shape):
            raise ValueError(f"Reshape: shape should be positive, one may be -1, got {shape!r}")
        self.shape = tuple(map(int, shape))

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return x in its new shape, without a copy where it is contiguous."""
        return x.reshape(len(x), *self.output_shape(x.shape[1:])), x.shape

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy in the shape of x."""
        return dy.reshape(saved)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape, with a number in the place of -1."""
        size, known = math.prod(input_shape), math.prod(n for n in self.shape if n != -1)
        shape = tuple(size // known if n == -1 else n for n in self.shape)
        if math.prod(shape) != size:
            raise ValueError(
                f"{self.where}: shape {self.shape} is invalid for input {batch_of(input_shape)}"
            )
        return shape

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Reshape, between two Transposes where channels are not the only axis."""
        shape = self.output_shape(flow.shape)
        value = flow.value
        if len(flow.shape) > 1:
            perm = [0, *range(2, len(flow.shape) + 1), 1]
            value = build.node("Transpose", [value], "to_channels_last", perm=perm)
        sizes = build.weight("shape", [0, *shape], np.int64)
        value = build.node("Reshape", [value, sizes])
        if len(shape) > 1:
            perm = [0, len(shape), *range(1, len(shape))]
            value = build.node("Transpose", [value], "to_channels_first", perm=perm)
        return flow.to(value, shape)

    def extra_repr(self) -> str:
        """Return the shape."""
        return ", ".join(map(str, self.shape))


class Permute(Module):
    """Return x with its axes in another order.

    Parameters
    ----------
    *dims : int
        Which axis comes where, as ``numpy.transpose`` takes them; the batch, 0, stays first.

    Examples
    --------
    >>> import numpy as np
    >>> Permute(0, 2, 1)(np.zeros((5, 4, 3))).shape
    (5, 3, 4)
    """

    flops_per_value = 0

    def __init__(self, *dims: int) -> None:
        super().__init__()
        if sorted(dims) != list(range(len(dims))) or dims[:1] != (0,):
            raise ValueError(
                f"Permute: dims should be 0, the batch, and the other axes, got {dims!r}"
            )
        self.dims = dims

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return a copy with its axes permuted."""
        return self._copied_view(x.transpose(self.dims)), None

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy with its axes permuted back."""
        return self._copied_view(dy.transpose(np.argsort(self.dims)))

    def _copied_view(self, view: Array) -> Array:
        copy = self._pool.take(view.shape, view.dtype)
        np.copyto(copy, view)
        return copy

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the sizes in their new order."""
        if len(input_shape) + 1 != len(self.dims):
            raise ValueError(
                f"{self.where}: expected {len(self.dims)} axes, got {batch_of(input_shape)}"
            )
        return tuple(input_shape[axis - 1] for axis in self.dims[1:])

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Transpose, from channels-first to channels-first."""
        rank = len(self.dims)
        places = [0, *range(2, rank), 1]  # of our axes in ONNX's
        first = [self.dims[0], self.dims[-1], *self.dims[1:-1]]
        perm = [places[axis] for axis in first] if rank > 2 else [0, 1]
        value = build.node("Transpose", [flow.value], perm=perm)
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return the axes."""
        return ", ".join(map(str, self.dims))


class PixelShuffle(Module):
    """Lay channels out as pixels: x (N, H, W, C·r²), y (N, r·H, r·W, C).

    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network" (2016), equation 4, with PyTorch's order of channels.

    Parameters
    ----------
    upscale_factor : int
        r.

    Examples
    --------
    >>> import numpy as np
    >>> PixelShuffle(2)(np.arange(4.0).reshape(1, 1, 1, 4)).reshape(2, 2)
    array([[0., 1.],
           [2., 3.]])
    """

    flops_per_value = 0
    saves_output = False

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = single(upscale_factor, "PixelShuffle: upscale_factor")

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the pixels."""
        n, height, width, _ = x.shape
        r, shape = self.upscale_factor, self.output_shape(x.shape[1:])
        y = self._pool.take((n, *shape), x.dtype)
        pixels = y.reshape(n, height, r, width, r, shape[2])
        pixels[...] = x.reshape(n, height, width, shape[2], r, r).transpose(0, 1, 4, 2, 5, 3)
        return y, x.shape

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return the channels."""
        n, height, width, channels = saved
        r = self.upscale_factor
        dx = self._pool.take(saved, dy.dtype)
        pixels = dy.reshape(n, height, r, width, r, channels // r**2)
        dx.reshape(n, height, width, channels // r**2, r, r)[...] = pixels.transpose(
            0, 1, 3, 5, 2, 4
        )
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (r·H, r·W, C)."""
        check_image(self.where, input_shape)
        r, (height, width, channels) = self.upscale_factor, input_shape
        if channels % r**2:
            raise ValueError(
                f"{self.where}: channels must be divisible by upscale_factor² ({r**2}), "
                f"but got {channels}"
            )
        return (r * height, r * width, channels // r**2)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add DepthToSpace."""
        build.require(11, "PixelShuffle")
        size = self.upscale_factor
        value = build.node("DepthToSpace", [flow.value], blocksize=size, mode="CRD")
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return the factor."""
        return f"{self.upscale_factor}"


class ChannelShuffle(Module):
    """Take channels from all groups in turns: channel i·groups + g was channel i of group g.

    Zhang et al., "ShuffleNet" (2018), section 3.1.

    Parameters
    ----------
    groups : int
        Must divide the channels.

    Examples
    --------
    >>> import numpy as np
    >>> ChannelShuffle(2)(np.arange(6.0).reshape(1, 6))
    array([[0., 3., 1., 4., 2., 5.]])
    """

    flops_per_value = 0
    saves_output = False

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = single(groups, "ChannelShuffle: groups")

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the shuffled channels."""
        return self._transposed(x, self.groups), None

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return them shuffled back."""
        return self._transposed(dy, dy.shape[-1] // self.groups)

    def _transposed(self, x: Array, groups: int) -> Array:
        y = self._pool.take(x.shape, x.dtype)
        *outer, channels = x.shape
        rows = x.reshape(*outer, groups, channels // groups)
        y.reshape(*outer, channels // groups, groups)[...] = rows.swapaxes(-1, -2)
        return y

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        if input_shape[-1] % self.groups:
            raise ValueError(
                f"{self.where}: number of channels must be divisible by groups ({self.groups}), "
                f"got {batch_of(input_shape)}"
            )
        return input_shape

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Gather along the channels."""
        order = np.arange(flow.shape[-1]).reshape(self.groups, -1).T.reshape(-1)
        indices = build.weight("order", order, np.int64)
        return flow.to(build.node("Gather", [flow.value, indices], axis=1))

    def extra_repr(self) -> str:
        """Return the groups."""
        return f"{self.groups}"

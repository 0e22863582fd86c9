"""Conv3d: a linear map of every window of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn import functional as F
from fastbn.nn import init
from fastbn.nn.convolution import Convolution
from fastbn.nn.geometry import single, windows
from fastbn.nn.module import Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]
Triple = int | Sequence[int]


class Conv3d(Convolution):
    """Cross-correlate volumes with learned windows: x (N, D, H, W, in), y (N, OD, OH, OW, out).

    It is computed as convolutions of images, one for every slice of the kernel, whose sum it is.

    Parameters
    ----------
    in_channels, out_channels : int
        Sizes of the last axis of input and output; multiples of `groups`.
    kernel_size, stride, dilation : int or three of them
        For depth, height and width.
    padding : int or three of them, default 0
        Zeros on both sides.
    groups : int, default 1
        Number of blocks of channels that do not see each other.
    bias : bool, default True
        Whether there is a bias.
    rng : numpy.random.Generator or int, optional
        Source of the initial values, PyTorch's.
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight : Parameter, shape (out_channels, in_channels / groups, kd, kh, kw)
    bias : Parameter or None, shape (out_channels,)

    Examples
    --------
    >>> import numpy as np
    >>> layer = Conv3d(2, 4, 3, padding=1, rng=0)
    >>> layer(np.ones((1, 5, 6, 7, 2), dtype=np.float32)).shape
    (1, 5, 6, 7, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = 1,
        padding: Triple = 0,
        dilation: Triple = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(in_channels, out_channels, groups)
        self.kernel_size = _triple(kernel_size, "Conv3d: kernel_size")
        self.stride = _triple(stride, "Conv3d: stride")
        self.padding = _triple(padding, "Conv3d: padding", least=0)
        self.dilation = _triple(dilation, "Conv3d: dilation")
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight, self.bias = init.filters(shape, out_channels, bias, rng, dtype)
        self.arguments: dict[str, Any] = {
            "stride": self.stride[1:],
            "padding": self.padding[1:],
            "dilation": self.dilation[1:],
            "groups": groups,
        }

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the convolution."""
        y = self._pool.take(self.batch_shape(x.shape), x.dtype)
        deep = self._deep(x)
        bias = None if self.bias is None else self.bias.data
        for k in range(self.kernel_size[0]):
            part, _ = F.conv2d(self._slice(deep, k, y.shape[1]), self.weight.data[:, :, k],
                               bias if k == 0 else None, **self.arguments)  # fmt: skip
            part = part.reshape(y.shape)
            if k == 0:
                np.copyto(y, part)
            else:
                y += part
        return y, deep

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the gradients of weight and bias; return dx."""
        weight, bias = self.weight, self.bias
        ddeep: Array | None = np.zeros_like(saved) if need_dx else None
        dweight = weight.grad_out
        flat = dy.reshape(-1, *dy.shape[2:])
        step, apart, count = self.stride[0], self.dilation[0], dy.shape[1]
        for k in range(self.kernel_size[0]):
            images = self._slice(saved, k, count)
            _, of_slice = F.conv2d(images, weight.data[:, :, k], None, **self.arguments)
            of_images, part, _ = F.conv2d_backward(
                flat, of_slice, need_dx=need_dx, need_dweight=dweight is not None, need_dbias=False
            )
            if dweight is not None:
                dweight[:, :, k] = part
            if ddeep is not None and of_images is not None:
                first = k * apart
                stop = first + (count - 1) * step + 1
                ddeep[:, first:stop:step] += of_images.reshape(len(dy), count, *saved.shape[2:])
        weight.grad = dweight
        if bias is not None and bias.grad_out is not None:
            bias.grad = dy.sum(axis=(0, 1, 2, 3), dtype=np.float64).astype(dy.dtype)
        if ddeep is None:
            return None
        front = self.padding[0]
        dx: Array = ddeep[:, front : ddeep.shape[1] - front]
        return dx

    def _deep(self, x: Array) -> Array:
        """Return x with zeros in front and after along the depth."""
        front = self.padding[0]
        if not front:
            return x
        deep = self._pool.take((len(x), x.shape[1] + 2 * front, *x.shape[2:]), x.dtype)
        deep[:, :front] = 0
        deep[:, front:-front] = x
        deep[:, -front:] = 0
        return deep

    def _slice(self, deep: Array, k: int, count: int) -> Array:
        """Return what slice k of the kernel sees, as images: (N · OD, H, W, in)."""
        first, step = k * self.dilation[0], self.stride[0]
        seen = deep[:, first : first + (count - 1) * step + 1 : step]
        return np.ascontiguousarray(seen).reshape(-1, *deep.shape[2:])

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (OD, OH, OW, out_channels)."""
        if len(input_shape) != 4 or input_shape[3] != self.in_channels:
            raise ValueError(
                f"{self.where}: expected input (N, D, H, W, {self.in_channels}), "
                f"got {batch_of(input_shape)}"
            )
        counts = tuple(
            windows(n, k, s, p, dilation=d)
            for n, k, s, p, d in zip(
                input_shape, self.kernel_size, self.stride, self.padding, self.dilation,
                strict=False,
            )
        )  # fmt: skip
        if min(counts) < 1:
            raise ValueError(
                f"{self.where}: Kernel size can't be greater than actual input size "
                f"{batch_of(input_shape)}"
            )
        return (*counts, self.out_channels)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Conv."""
        return self.onnx_node(build, flow, pads=2 * [*self.padding])


def _triple(value: Triple, what: str, least: int = 1) -> tuple[int, int, int]:
    """Return three numbers, for one or for three."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    if len(values) != 3:
        raise ValueError(f"{what} should be an int or three of them, got {value!r}")
    a, b, c = (single(n, what, least=least) for n in values)
    return a, b, c

"""Conv1d: a linear map of every window of a sequence."""

from __future__ import annotations

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


class Conv1d(Convolution):
    """Cross-correlate sequences with learned windows: x (N, L, in), y (N, OL, out).

    It is computed as a convolution of images of one row.

    Parameters
    ----------
    in_channels, out_channels : int
        Sizes of the last axis of input and output; multiples of `groups`.
    kernel_size, stride, dilation : int
        Along the sequence.
    padding : int, default 0
        Zeros on both sides.
    groups : int, default 1
        Number of blocks of channels that do not see each other.
    bias : bool, default True
        Whether there is a bias.
    rng : numpy.random.Generator or int, optional
        Source of the initial values, PyTorch's: U(-b, b) with b = 1/√(in/groups · k).
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight : Parameter, shape (out_channels, in_channels / groups, k)
        Stored as (k, in_channels / groups, out_channels).
    bias : Parameter or None, shape (out_channels,)

    Examples
    --------
    >>> import numpy as np
    >>> layer = Conv1d(3, 8, 5, padding=2, rng=0)
    >>> layer(np.ones((4, 20, 3), dtype=np.float32)).shape
    (4, 20, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(in_channels, out_channels, groups)
        self.kernel_size = single(kernel_size, "Conv1d: kernel_size")
        self.stride = single(stride, "Conv1d: stride")
        self.padding = single(padding, "Conv1d: padding", least=0)
        self.dilation = single(dilation, "Conv1d: dilation")
        shape = (out_channels, in_channels // groups, self.kernel_size)
        self.weight, self.bias = init.filters(shape, out_channels, bias, rng, dtype)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the convolution."""
        n, length, channels = self.batch_shape(x.shape)
        y, saved = F.conv2d(
            x[:, None],
            self.weight.data[:, :, None],
            None if self.bias is None else self.bias.data,
            stride=(1, self.stride),
            padding=(0, self.padding),
            dilation=(1, self.dilation),
            groups=self.groups,
            out=self._pool.take((n, 1, length, channels), x.dtype),
        )
        return y.reshape(n, length, channels), (saved, x.shape)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the gradients of weight and bias; return dx."""
        weight, bias = self.weight, self.bias
        dweight = weight.grad_out
        dbias = None if bias is None else bias.grad_out
        saved, (n, length, channels) = saved
        dx, _, dbias = F.conv2d_backward(
            dy[:, None],
            saved,
            need_dx=need_dx,
            need_dweight=dweight is not None,
            need_dbias=dbias is not None,
            out=self._pool.take((n, 1, length, channels), dy.dtype) if need_dx else None,
            dweight=None if dweight is None else dweight[:, :, None],
            dbias=dbias,
        )
        weight.grad = dweight
        if bias is not None:
            bias.grad = dbias
        return None if dx is None else dx.reshape(n, length, channels)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (OL, out_channels)."""
        if len(input_shape) != 2 or input_shape[1] != self.in_channels:
            raise ValueError(
                f"{self.where}: expected input of shape (N, L, {self.in_channels}), "
                f"got {batch_of(input_shape)}; channels are the last axis here"
            )
        count = windows(
            input_shape[0], self.kernel_size, self.stride, self.padding, dilation=self.dilation
        )
        if count < 1:
            raise ValueError(
                f"{self.where}: a sequence of {input_shape[0]} is too short for a kernel of "
                f"{self.kernel_size}"
            )
        return (count, self.out_channels)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Conv."""
        return self.onnx_node(build, flow, pads=[self.padding, self.padding])

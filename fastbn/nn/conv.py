"""Conv2d: a linear map of every window of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn import functional as F
from fastbn.nn import init
from fastbn.nn.convolution import Convolution
from fastbn.nn.geometry import BATCH, IntPair, check_image, pair, windows
from fastbn.nn.module import Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class Conv2d(Convolution):
    """Cross-correlate images with learned windows: x (N, H, W, in), y (N, OH, OW, out).

    Parameters
    ----------
    in_channels, out_channels : int
        Sizes of the last axis of input and output; multiples of `groups`.
    kernel_size, stride, dilation : int or pair of int
        For height and width.
    padding : int, pair of int, "same" or "valid", default 0
        Zeros on both sides; "same" keeps the image's size (stride 1 only).
    groups : int, default 1
        Number of blocks of channels that do not see each other.
    bias : bool, default True
        Whether there is a bias.
    rng : numpy.random.Generator or int, optional
        Source of the initial values, PyTorch's: U(-b, b) with b = 1/√(in/groups · kh · kw).
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight : Parameter, shape (out_channels, in_channels / groups, kh, kw)
        Stored as (kh, kw, in_channels / groups, out_channels).
    bias : Parameter or None, shape (out_channels,)

    Examples
    --------
    >>> import numpy as np
    >>> layer = Conv2d(3, 8, 3, stride=2, padding=1, rng=0)
    >>> layer(np.ones((4, 9, 9, 3), dtype=np.float32)).shape
    (4, 5, 5, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair | str = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(in_channels, out_channels, groups)
        self.kernel_size = pair(kernel_size, "Conv2d: kernel_size")
        self.stride = pair(stride, "Conv2d: stride")
        self.dilation = pair(dilation, "Conv2d: dilation")
        self.padding: tuple[int, int] | str
        if isinstance(padding, str):
            if padding not in {"same", "valid"}:
                raise ValueError(
                    f"Conv2d: padding should be ints, 'same' or 'valid', got {padding!r}"
                )
            if padding == "same" and self.stride != (1, 1):
                raise ValueError("padding='same' is not supported for strided convolutions")
            self.padding = padding
        else:
            self.padding = pair(padding, "Conv2d: padding", least=0)

        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight, self.bias = init.filters(shape, out_channels, bias, rng, dtype)
        self.arguments: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": groups,
        }

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the convolution."""
        y, saved = F.conv2d(
            x,
            self.weight.data,
            None if self.bias is None else self.bias.data,
            **self.arguments,
            out=self._pool.take(self.batch_shape(x.shape), x.dtype),
        )
        return y, (saved, x.shape)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the gradients of weight and bias; return dx."""
        weight, bias = self.weight, self.bias
        dbias = None if bias is None else bias.grad_out
        saved, x_shape = saved
        dx, weight.grad, dbias = F.conv2d_backward(
            dy,
            saved,
            need_dx=need_dx,
            need_dweight=weight.grad_out is not None,
            need_dbias=dbias is not None,
            out=self._pool.take(x_shape, dy.dtype) if need_dx else None,
            dweight=weight.grad_out,
            dbias=dbias,
        )
        if bias is not None:
            bias.grad = dbias
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (OH, OW, out_channels)."""
        check_image(self.where, input_shape)
        height, width, channels = input_shape
        if channels != self.in_channels:
            raise ValueError(
                f"{self.where}: Given groups={self.groups}, weight of size {self.weight.shape}, "
                f"expected input {batch_of(input_shape)} to have {self.in_channels} channels, "
                f"but got {channels} channels instead; images are (N, H, W, C) here"
            )
        if self.padding == "same":
            return (height, width, self.out_channels)
        pads = (0, 0) if isinstance(self.padding, str) else self.padding
        counts = tuple(
            windows(size, kernel, stride, pad, dilation=dilation)
            for size, kernel, stride, pad, dilation in zip(
                (height, width), self.kernel_size, self.stride, pads, self.dilation, strict=True
            )
        )
        if min(counts) < 1:
            padded = (height + 2 * pads[0], width + 2 * pads[1])
            reach = tuple(
                d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)
            )
            raise ValueError(
                f"{self.where}: Calculated padded input size per channel: {padded}. Kernel size: "
                f"{reach}. Kernel size can't be greater than actual input size"
            )
        return (*counts, self.out_channels)

    def algorithm(self, input_shape: Shape) -> str:
        """Return what `fastbn.functional.conv2d_algorithm` says of a batch of such images."""
        return F.conv2d_algorithm((BATCH, *input_shape), self.weight.shape, **self.arguments)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Conv; "same" puts an odd row or column of padding at the end."""
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            pads = [t // 2 for t in total] + [t - t // 2 for t in total]
        else:
            pads = [0, 0, 0, 0] if isinstance(self.padding, str) else 2 * [*self.padding]
        return self.onnx_node(build, flow, pads=pads)

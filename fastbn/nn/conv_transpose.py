"""ConvTranspose2d: every pixel spreads through a window, the transpose of Conv2d."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn import functional as F
from fastbn.nn import init
from fastbn.nn.convolution import Convolution
from fastbn.nn.geometry import BATCH, IntPair, check_image, pair
from fastbn.nn.module import Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class ConvTranspose2d(Convolution):
    """Spread images through learned windows: x (N, H, W, in), y (N, OH, OW, out).

    Parameters
    ----------
    in_channels, out_channels : int
        Sizes of the last axis of input and output; multiples of `groups`.
    kernel_size, stride, dilation : int or pair of int
        For height and width.
    padding : int or pair of int, default 0
        Pixels left out of the output on both sides.
    output_padding : int or pair of int, default 0
        Extra pixels at the end, fewer than stride or dilation.
    groups : int, default 1
        Number of blocks of channels that do not see each other.
    bias : bool, default True
        Whether there is a bias.
    rng : numpy.random.Generator or int, optional
        Source of the initial values, PyTorch's: U(-b, b) with b = 1/√(out/groups · kh · kw).
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight : Parameter, shape (in_channels, out_channels / groups, kh, kw)
        Stored as (kh, kw, out_channels / groups, in_channels).
    bias : Parameter or None, shape (out_channels,)

    Examples
    --------
    >>> import numpy as np
    >>> layer = ConvTranspose2d(8, 3, 4, stride=2, padding=1, rng=0)
    >>> layer(np.ones((4, 5, 5, 8), dtype=np.float32)).shape
    (4, 10, 10, 3)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        output_padding: IntPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntPair = 1,
        *,
        rng: init.Rng = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(in_channels, out_channels, groups)
        self.kernel_size = pair(kernel_size, "ConvTranspose2d: kernel_size")
        self.stride = pair(stride, "ConvTranspose2d: stride")
        self.padding = pair(padding, "ConvTranspose2d: padding", least=0)
        self.output_padding = pair(output_padding, "ConvTranspose2d: output_padding", least=0)
        self.dilation = pair(dilation, "ConvTranspose2d: dilation")
        for more, step, apart in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if more >= max(step, apart):
                raise ValueError(
                    "ConvTranspose2d: output padding must be smaller than either stride or "
                    f"dilation, got {output_padding!r}"
                )

        shape = (in_channels, out_channels // groups, *self.kernel_size)
        self.weight, self.bias = init.filters(shape, out_channels, bias, rng, dtype)
        self.arguments: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "groups": groups,
            "dilation": self.dilation,
        }

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the transposed convolution."""
        y, saved = F.conv_transpose2d(
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
        dx, weight.grad, dbias = F.conv_transpose2d_backward(
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
                f"{self.where}: Given transposed=1, weight of size {self.weight.shape}, "
                f"expected input {batch_of(input_shape)} to have {self.in_channels} channels, "
                f"but got {channels} channels instead; images are (N, H, W, C) here"
            )
        sizes = tuple(
            (size - 1) * step - 2 * pad + apart * (kernel - 1) + more + 1
            for size, step, pad, apart, kernel, more in zip(
                (height, width),
                self.stride,
                self.padding,
                self.dilation,
                self.kernel_size,
                self.output_padding,
                strict=True,
            )
        )
        if min(height, width, *sizes) < 1:
            raise ValueError(
                f"{self.where}: Given input size per channel: {(height, width)}. Calculated "
                f"output size per channel: {sizes}. Output size is too small"
            )
        return (*sizes, self.out_channels)

    def own_flops(self, input_shape: Shape) -> int:
        """Return two for every weight at every pixel of the input."""
        height, width, _ = input_shape
        return 2 * self.weight.size * height * width

    def algorithm(self, input_shape: Shape) -> str:
        """Return the algorithm of the convolution that this one is the transpose of."""
        options = {key: self.arguments[key] for key in ("stride", "padding", "dilation", "groups")}
        shape = (BATCH, *self.output_shape(input_shape))
        return F.conv2d_algorithm(shape, self.weight.shape, **options)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add ConvTranspose."""
        more = [*self.output_padding]
        return self.onnx_node(
            build, flow, "ConvTranspose", pads=2 * [*self.padding], output_padding=more
        )

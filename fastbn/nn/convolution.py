"""What convolutions of sequences, images and volumes have in common."""

from __future__ import annotations

import math
from typing import Any

from fastbn.nn import init
from fastbn.nn.geometry import Windowed, short
from fastbn.nn.module import Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.parameter import Parameter

# Arguments that are shown where they are not the default.
DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}


class Convolution(Windowed):
    """Base class of layers with filters: channels, the operator of a file, the description.

    Attributes
    ----------
    operator : str
        What ONNX calls it.
    weight : Parameter
    bias : Parameter or None
    kernel_size, stride, padding, dilation : int or tuple of int
    """

    saves_output = False
    operator = "Conv"

    weight: Parameter
    bias: Parameter | None
    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        init.check_channels(self, in_channels, out_channels, groups)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups

    def own_flops(self, input_shape: Shape) -> int:
        """Return two for every weight at every place, however it is computed."""
        places: int = math.prod(self.output_shape(input_shape)[:-1])
        return 2 * self.weight.size * places

    def onnx_pads(self) -> list[int]:
        """Return the padding in front along every axis, then that behind."""
        return 2 * _listed(self.padding)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Conv or ConvTranspose, whose weights have the shapes of the library's."""
        bias = [] if self.bias is None else [build.weight("bias", self.bias.data)]
        attributes: dict[str, Any] = {"group": self.groups}
        if hasattr(self, "output_padding"):
            attributes["output_padding"] = _listed(self.output_padding)
        value = build.node(
            self.operator,
            [flow.value, build.weight("weight", self.weight.data), *bias],
            kernel_shape=_listed(self.kernel_size),
            strides=_listed(self.stride),
            dilations=_listed(self.dilation),
            pads=self.onnx_pads(),
            **attributes,
        )
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return the arguments, as far as they are not the defaults."""
        text = f"{self.in_channels}, {self.out_channels}, {short(self.kernel_size)}"
        for name, default in DEFAULTS.items():
            value = getattr(self, name, default)
            if isinstance(value, str) or any(v != default for v in _listed(value)):
                text += (
                    f", {name}={value!r}" if isinstance(value, str) else f", {name}={short(value)}"
                )
        return text if self.bias is not None else text + ", bias=False"


def _listed(value: int | tuple[int, ...]) -> list[int]:
    return [*value] if isinstance(value, tuple) else [value]

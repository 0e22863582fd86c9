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
    """Base class of layers with filters: channels, description, the node of a file.

    Attributes
    ----------
    weight : Parameter
    bias : Parameter or None
    kernel_size, stride, padding, dilation : int or tuple of int
    """

    saves_output = False

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

    def onnx_node(
        self, build: Builder, flow: Flow, operator: str = "Conv", **attributes: Any
    ) -> Flow:
        """Add the operator of a file, whose weights have the shapes of the library's."""
        bias = [] if self.bias is None else [build.weight("bias", self.bias.data)]
        given: dict[str, Any] = {
            "kernel_shape": listed(self.kernel_size),
            "strides": listed(self.stride),
            "dilations": listed(self.dilation),
            "group": self.groups,
        }
        inputs = [flow.value, build.weight("weight", self.weight.data), *bias]
        value = build.node(operator, inputs, **given, **attributes)
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return the arguments, as far as they are not the defaults."""
        text = f"{self.in_channels}, {self.out_channels}, {short(self.kernel_size)}"
        for name, default in DEFAULTS.items():
            value = getattr(self, name, default)
            if isinstance(value, str):
                text += f", {name}={value!r}"
            elif any(v != default for v in listed(value)):
                text += f", {name}={short(value)}"
        return text if self.bias is not None else text + ", bias=False"


def listed(value: int | tuple[int, ...]) -> list[int]:
    """Return one number for each axis."""
    return [*value] if isinstance(value, tuple) else [value]

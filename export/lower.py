"""Layers of ``fastbn.nn`` as ONNX nodes.

The library computes channels-last, ONNX channels-first. Not the data is permuted but the weights:
convolutions have PyTorch's shapes anyway, and behind a Flatten the columns of the next Linear (and
everything per feature on the way there) are put into the order C, H, W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fastbn import nn
from fastbn.export.graph import GraphBuilder

Order = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Flow:
    """A value on its way through the network.

    Attributes
    ----------
    value : onnx_ir.Value
        (N, C, *spatial), or (N, features).
    shape : tuple of int
        What the library has there, without the batch: (*spatial, C), or (features,).
    order : ndarray of int or None
        For features behind a Flatten: ONNX has at place j what the library has at order[j].
    """

    value: ir.Value
    shape: tuple[int, ...]
    order: Order | None = None


Lowering = Callable[[GraphBuilder, Any, str, Flow], Flow]
_LOWERINGS: dict[type[nn.Module], Lowering] = {}


def lowering(*layers: type[nn.Module]) -> Callable[[Lowering], Lowering]:
    """Register how layers of these classes become nodes."""

    def register(function: Lowering) -> Lowering:
        _LOWERINGS.update(dict.fromkeys(layers, function))
        return function

    return register


def lower(build: GraphBuilder, layer: nn.Module, path: str, flow: Flow) -> Flow:
    """Add the nodes of one layer, containers with all they contain.

    Raises
    ------
    TypeError
        If the layer is of a class of its own: its forward is unknown here.
    """
    for base in type(layer).__mro__:
        function = _LOWERINGS.get(base)
        if function is not None:
            if getattr(type(layer), "forward", None) is not getattr(base, "forward", None):
                break
            return function(build, layer, path, flow)
    raise TypeError(
        f"{type(layer).__name__} {path!r} cannot be exported: it has a forward of its own; "
        "build it from the layers of fastbn.nn"
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@lowering(nn.Sequential)
def sequential(build: GraphBuilder, layer: nn.Sequential, path: str, flow: Flow) -> Flow:
    """One after another."""
    for name, child in layer.named_children():
        flow = lower(build, child, _join(path, name), flow)
    return flow


@lowering(nn.Residual)
def residual(build: GraphBuilder, layer: nn.Residual, path: str, flow: Flow) -> Flow:
    """Body plus shortcut, then the activation."""
    body = lower(build, layer.body, _join(path, "body"), flow)
    shortcut = flow
    if layer.shortcut is not None:
        shortcut = lower(build, layer.shortcut, _join(path, "shortcut"), flow)
    body, shortcut = _in_one_order(build, body, shortcut, path)
    total = build.node("Add", [body.value, shortcut.value], _join(path, "add"))
    if layer.activation == "relu":
        total = build.node("Relu", [total], _join(path, "relu"))
    elif layer.activation == "leaky_relu":
        attributes = {"alpha": float(layer.negative_slope)}
        total = build.node("LeakyRelu", [total], _join(path, "leaky_relu"), attributes)
    return replace(body, value=total)


def _in_one_order(build: GraphBuilder, first: Flow, second: Flow, path: str) -> tuple[Flow, Flow]:
    """Branches whose features are ordered differently are brought into the library's order."""
    same = (first.order is None and second.order is None) or (
        first.order is not None
        and second.order is not None
        and np.array_equal(first.order, second.order)
    )
    if same:
        return first, second
    return in_own_order(build, first, path), in_own_order(build, second, path)


@lowering(nn.Concat)
def concat(build: GraphBuilder, layer: nn.Concat, path: str, flow: Flow) -> Flow:
    """Concat along the channels, of features in the order that the branches left them in."""
    ends = [
        lower(build, branch, _join(path, name), flow) for name, branch in layer.named_children()
    ]
    order: Order | None = None
    if any(end.order is not None for end in ends):
        starts = np.cumsum([0, *(end.shape[0] for end in ends)])
        order = np.concatenate(
            [
                start + (np.arange(end.shape[0]) if end.order is None else end.order)
                for end, start in zip(ends, starts, strict=False)
            ]
        )
    value = build.node("Concat", [end.value for end in ends], path, {"axis": 1})
    return Flow(value, layer.output_shape(flow.shape), order)


def in_own_order(build: GraphBuilder, flow: Flow, path: str) -> Flow:
    """Put the features into the library's order, at run time."""
    if flow.order is None:
        return flow
    inverse = build.weight(_join(path, "order"), np.argsort(flow.order), np.int64)
    value = build.node("Gather", [flow.value, inverse], _join(path, "reorder"), {"axis": 1})
    return Flow(value, flow.shape)


@lowering(nn.Conv2d)
def conv2d(build: GraphBuilder, layer: nn.Conv2d, path: str, flow: Flow) -> Flow:
    """Conv; "same" puts an odd row or column of padding behind."""
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    elif isinstance(layer.padding, str):
        pads = [0, 0, 0, 0]
    else:
        pads = [*layer.padding, *layer.padding]
    inputs = [flow.value, build.weight(_join(path, "weight"), layer.weight.data)]
    if layer.bias is not None:
        inputs.append(build.weight(_join(path, "bias"), layer.bias.data))
    attributes = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "pads": pads,
        "group": layer.groups,
    }
    value = build.node("Conv", inputs, path, attributes)
    return Flow(value, layer.output_shape(flow.shape))


@lowering(nn.ConvTranspose2d)
def conv_transpose2d(build: GraphBuilder, layer: nn.ConvTranspose2d, path: str, flow: Flow) -> Flow:
    """ConvTranspose, whose weight has PyTorch's shape, too."""
    inputs = [flow.value, build.weight(_join(path, "weight"), layer.weight.data)]
    if layer.bias is not None:
        inputs.append(build.weight(_join(path, "bias"), layer.bias.data))
    attributes = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "pads": [*layer.padding, *layer.padding],
        "output_padding": list(layer.output_padding),
        "group": layer.groups,
    }
    value = build.node("ConvTranspose", inputs, path, attributes)
    return Flow(value, layer.output_shape(flow.shape))


@lowering(nn.Linear)
def linear(build: GraphBuilder, layer: nn.Linear, path: str, flow: Flow) -> Flow:
    """Gemm; on images and sequences, whose channels are axis 1 here, a convolution of size 1."""
    weight = np.asarray(layer.weight.data)
    bias = []
    if flow.order is not None:
        weight = weight[:, flow.order]
    if layer.bias is not None:
        bias = [build.weight(_join(path, "bias"), layer.bias.data)]
    shape = layer.output_shape(flow.shape)
    spatial = len(flow.shape) - 1
    if spatial:
        weight = weight.reshape(*weight.shape, *(1,) * spatial)
        stored = build.weight(_join(path, "weight"), weight)
        attributes: dict[str, Any] = {"kernel_shape": [1] * spatial}
        value = build.node("Conv", [flow.value, stored, *bias], path, attributes)
        return Flow(value, shape)
    stored = build.weight(_join(path, "weight"), weight)
    if not bias:
        build_bias = np.zeros(layer.out_features, dtype=np.float32)
        bias = [build.weight(_join(path, "bias"), build_bias)] if build.opset < 11 else []
    value = build.node("Gemm", [flow.value, stored, *bias], path, {"transB": 1})
    return Flow(value, shape)


@lowering(nn.BatchNorm)
def batch_norm(build: GraphBuilder, layer: nn.BatchNorm, path: str, flow: Flow) -> Flow:
    """BatchNormalization with the running statistics.

    ONNX's momentum is 1 − PyTorch's; it plays no part in inference.
    """
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError(
            f"BatchNorm {path!r} normalises with the batch's own statistics "
            "(track_running_stats=False); such a network has no fixed function to export"
        )
    channels = layer.num_features
    parameters = {
        "weight": np.ones(channels) if layer.weight is None else layer.weight.data,
        "bias": np.zeros(channels) if layer.bias is None else layer.bias.data,
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
    }
    inputs = [flow.value]
    for name, values in parameters.items():
        ordered = np.asarray(values) if flow.order is None else np.asarray(values)[flow.order]
        inputs.append(build.weight(_join(path, name), ordered))
    momentum = 0.9 if layer.momentum is None else 1.0 - float(layer.momentum)
    attributes = {"epsilon": float(layer.eps), "momentum": momentum}
    return replace(flow, value=build.node("BatchNormalization", inputs, path, attributes))


@lowering(nn.ReLU, nn.Sigmoid, nn.Tanh)
def activation(build: GraphBuilder, layer: nn.Module, path: str, flow: Flow) -> Flow:
    """Relu, Sigmoid, Tanh."""
    operators = {nn.ReLU: "Relu", nn.Sigmoid: "Sigmoid", nn.Tanh: "Tanh"}
    operator = next(name for cls, name in operators.items() if isinstance(layer, cls))
    return replace(flow, value=build.node(operator, [flow.value], path))


@lowering(nn.LeakyReLU)
def leaky_relu(build: GraphBuilder, layer: nn.LeakyReLU, path: str, flow: Flow) -> Flow:
    """LeakyRelu."""
    attributes = {"alpha": float(layer.negative_slope)}
    return replace(flow, value=build.node("LeakyRelu", [flow.value], path, attributes))


@lowering(nn.Dropout)
def dropout(_: GraphBuilder, __: nn.Dropout, ___: str, flow: Flow) -> Flow:
    """Nothing: a file is for inference."""
    return flow


@lowering(nn.MaxPool2d)
def max_pool(build: GraphBuilder, layer: nn.MaxPool2d, path: str, flow: Flow) -> Flow:
    """MaxPool."""
    attributes = _window(layer.kernel_size, layer.stride, layer.padding)
    if tuple(layer.dilation) != (1, 1):
        build.require(10, "a dilated MaxPool")
        attributes["dilations"] = list(layer.dilation)
    if layer.ceil_mode:
        build.require(10, "ceil_mode")
        attributes["ceil_mode"] = 1
    value = build.node("MaxPool", [flow.value], path, attributes)
    return Flow(value, layer.output_shape(flow.shape))


@lowering(nn.AvgPool2d)
def average_pool(build: GraphBuilder, layer: nn.AvgPool2d, path: str, flow: Flow) -> Flow:
    """AveragePool."""
    attributes = _window(layer.kernel_size, layer.stride, layer.padding)
    attributes["count_include_pad"] = int(layer.count_include_pad)
    if layer.ceil_mode:
        build.require(10, "ceil_mode")
        attributes["ceil_mode"] = 1
    value = build.node("AveragePool", [flow.value], path, attributes)
    return Flow(value, layer.output_shape(flow.shape))


def _window(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> dict[str, Any]:
    return {
        "kernel_shape": list(kernel),
        "strides": list(stride),
        "pads": [*padding, *padding],
    }


@lowering(nn.GlobalAvgPool2d)
def global_average_pool(
    build: GraphBuilder, layer: nn.GlobalAvgPool2d, path: str, flow: Flow
) -> Flow:
    """GlobalAveragePool, then a Flatten, for ONNX keeps the two axes."""
    pooled = build.node("GlobalAveragePool", [flow.value], path)
    value = build.node("Flatten", [pooled], _join(path, "flatten"), {"axis": 1})
    return Flow(value, layer.output_shape(flow.shape))


@lowering(nn.Flatten)
def flatten(build: GraphBuilder, layer: nn.Flatten, path: str, flow: Flow) -> Flow:
    """Flatten: ONNX reads C, H, W where the library reads H, W, C."""
    if len(flow.shape) == 1:
        return flow
    value = build.node("Flatten", [flow.value], path, {"axis": 1})
    places = np.arange(int(np.prod(flow.shape))).reshape(flow.shape)
    order = np.moveaxis(places, -1, 0).reshape(-1)
    natural = bool((order == np.arange(order.size)).all())
    return Flow(value, layer.output_shape(flow.shape), None if natural else order)

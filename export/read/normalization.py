"""BatchNormalization and its kin: Instance, Layer, Group and RMS normalization."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn
from fastbn.export.read.node import Node, reads
from fastbn.export.read.value import UnreadableError, Value, reshaped
from fastbn.nn.order import flattened

Array = NDArray[Any]


@reads("BatchNormalization")
def batch_norm(node: Node) -> Value:
    """Read the layer this library is named after; features of an image keep their places."""
    if node.whole("training_mode") or (
        node.opset < 14 and sum(bool(v.name) for v in node.node.outputs) > 1
    ):
        raise UnreadableError("it is in training mode")
    if node.opset < 9 and node.whole("spatial", 1) != 1:
        raise UnreadableError("it has statistics of places, not of channels")
    x = node.value()
    scale, bias, mean, var = (node.required(k) for k in range(1, 5))
    channels = x.shape[1] if x.rank > 1 else 0
    if any(v.shape != (channels,) for v in (scale, bias, mean, var)):
        raise UnreadableError(f"its parameters are not of {channels} channels")
    layer = nn.BatchNorm(
        channels,
        node.number("epsilon", 1e-5),
        1.0 - node.number("momentum", 0.9),
        dtype=scale.dtype if scale.dtype == np.float64 else np.float32,
    )
    node.name(layer, 1)
    last = len(x.symbol.shape)
    if last > 1 and x.axes == ((0,), (last, *range(1, last))):
        order = flattened(x.symbol.shape)
        if order is not None:
            scale, bias, mean, var = (v[np.argsort(order)] for v in (scale, bias, mean, var))
        symbol = layer(nn.Flatten()(x.symbol))
        result = replace(x, symbol=nn.Reshape(*x.symbol.shape)(symbol))
    else:
        result = x.ending(1).through(layer)
    assert layer.weight is not None
    assert layer.bias is not None
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.weight.data, layer.bias.data = scale, bias
    layer.running_mean[...], layer.running_var[...] = mean, var
    layer.num_batches_tracked[...] = 1  # its statistics are some data's
    return result


@reads("InstanceNormalization")
def instance_norm(node: Node) -> Value:
    """Read an InstanceNorm, or the GroupNorm that is spelled out with one."""
    x, scale, bias = node.value(), node.required(1), node.required(2)
    eps = node.number("epsilon", 1e-5)
    if scale.shape != x.shape[1:2] or bias.shape != scale.shape:
        raise UnreadableError(f"its parameters are not of {x.shape[1]} channels")
    last = len(x.symbol.shape)
    rest = [*range(1, last - 1), last]  # all but the groups, which a Reshape has split off
    if x.rank == 3 and x.axes[1] == (last - 1,) and sorted(x.axes[2]) == rest and _is_plain(node):
        shape = x.symbol.shape
        channels = shape[-2] * shape[-1]
        norm = nn.GroupNorm(shape[-2], channels, eps, affine=False)
        return replace(x, symbol=reshaped(norm(reshaped(x.symbol, (*shape[:-2], channels))), shape))
    layer = nn.InstanceNorm(scale.size, eps, affine=True)
    return _filled(node, x, layer, scale, bias)


def _is_plain(node: Node) -> bool:
    """Whether scale and bias are ones and zeros."""
    return bool((node.required(1) == 1.0).all()) and not node.required(2).any()


def _filled(node: Node, x: Value, layer: Any, scale: Array, bias: Array | None) -> Value:
    """Put a norm of channels after a value."""
    node.name(layer, 1)
    layer.weight.data = scale
    if bias is not None:
        layer.bias.data = bias
    return x.from_channels_last(layer(x.channels_last()))


@reads("GroupNormalization")
def group_norm(node: Node) -> Value:
    """Read a GroupNorm; before opset 21 a group has one scale."""
    x, scale, bias = node.value(), node.required(1), node.required(2)
    groups, channels = node.whole("num_groups"), x.shape[1]
    if groups < 1 or channels % groups:
        raise UnreadableError(f"{groups} groups of {channels} channels")
    if node.opset < 21:
        scale, bias = (np.repeat(v, channels // groups) for v in (scale, bias))
    layer = nn.GroupNorm(groups, channels, node.number("epsilon", 1e-5))
    return _filled(node, x, layer, scale, bias)


@reads("LayerNormalization", "RMSNormalization")
def layer_norm(node: Node) -> Value:
    """Read a norm of the last axes."""
    x, scale, bias = node.value(), node.required(1), node.weight(2)
    axis = x.axis(node.whole("axis", -1))
    shape = x.shape[axis:]
    eps = node.number("epsilon", 1e-5)
    if axis == x.rank - 1:
        value = x.ending(axis)
    elif x.axes[0] == (0,) and axis > 0:
        value = Value.natural(x.arranged(range(1, x.rank)), x.batch)
    else:
        raise UnreadableError("it works along the batch")
    layer: Any
    if node.operator == "RMSNormalization":
        layer = nn.RMSNorm(shape, eps)
    else:
        layer = nn.LayerNorm(shape, eps, bias=bias is not None)
    layer.weight.data = np.broadcast_to(scale, shape)
    if bias is not None and node.operator == "LayerNormalization":
        layer.bias.data = np.broadcast_to(bias, shape)
    return value.through(node.name(layer, 1))


@reads("LRN")
def local_response_norm(node: Node) -> Value:
    """Read a norm of neighbouring channels; a window of even size lies elsewhere in ONNX."""
    x, size = node.value(), node.whole("size")
    if size % 2 == 0:
        raise UnreadableError(f"a window of {size} channels has no middle")
    layer = nn.LocalResponseNorm(
        size, node.number("alpha", 1e-4), node.number("beta", 0.75), node.number("bias", 1.0)
    )
    return x.from_channels_last(layer(x.channels_last()))

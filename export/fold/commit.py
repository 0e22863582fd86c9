"""Carrying out a plan: the only place where the graph is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fastbn.export.fold.affine import Array
from fastbn.export.fold.clipping import data_index
from fastbn.export.fold.context import Context
from fastbn.export.fold.normalization import DEFAULT_EPSILON, stored_parameters
from fastbn.export.fold.plan import Bounds, Plan, attribute


def commit(plan: Plan) -> None:
    """Make the changes of a plan, except for removing what it makes superfluous."""
    plan.context.read.clear()
    for node, operator in plan.operators.items():
        node.op_type = operator
    for (node, name), value in plan.attributes.items():
        node.attributes.add(ir.convenience.convert_attribute(name, value))
    for (node, index), values in plan.inputs.items():
        set_input(plan, node, index, values)
    for (node, index), whole in plan.integers.items():
        old = node.inputs[index]
        new = new_constant(plan.context, node, whole, whole.dtype, old)
        node.replace_input_with(index, new)
    for node, (scale, shift) in plan.norms.items():
        epsilon = float(attribute(node, "epsilon", DEFAULT_EPSILON))
        for index, values in enumerate(stored_parameters(scale, shift, epsilon), start=1):
            set_input(plan, node, index, values)
    for node, bounds in plan.bounds.items():
        _rewrite_bounds(plan, node, bounds)
    for node, image in plan.maps.items():
        _insert_map(plan, node, image)


def _insert_map(plan: Plan, node: ir.Node, image: Array) -> None:
    """Add a map to the result of a node; the sum takes the result's place and name."""
    result = node.outputs[0]
    constant = new_constant(plan.context, node, image, plan.dtype(node, 0))
    addition = ir.Node("", "Add", [None, constant], num_outputs=1)
    addition.name = plan.context.fresh_name(f"{node.name or result.name}_map")
    total = addition.outputs[0]
    total.type, total.shape = result.type, result.shape
    name, result.name = result.name, plan.context.fresh_name(f"{result.name}_linear")
    result.replace_all_uses_with(total, replace_graph_outputs=True)
    total.name = name
    addition.replace_input_with(0, result)
    assert node.graph is not None
    node.graph.insert_after(node, addition)


def set_input(plan: Plan, node: ir.Node, index: int, values: Array) -> None:
    """Replace a node's input by a new constant, kept in float64 until the file is written."""
    context = plan.context
    old = node.inputs[index] if index < len(node.inputs) else None
    if old is not None:
        known = context.constants.floats(old)
        if known is not None and known.shape == values.shape and (known == values).all():
            return
    new = new_constant(context, node, values, plan.dtype(node, index), old)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, new)


def new_constant(
    context: Context,
    node: ir.Node,
    values: NDArray[Any],
    dtype: np.dtype[Any],
    origin: ir.Value | None = None,
) -> ir.Value:
    """Make a constant that becomes an initializer of the node's graph in the end."""
    context.serial += 1
    value = ir.Value(
        name=f"fastbn_{context.serial}",
        type=ir.TensorType(ir.DataType.from_numpy(dtype)),
        shape=ir.Shape(values.shape),
    )
    context.constants.put(value, values)
    context.made[value] = dtype
    if origin is not None:
        context.origins[value] = context.origins.get(origin, origin)
    return value


def _rewrite_bounds(plan: Plan, node: ir.Node, bounds: Bounds) -> None:
    """Give a node of the Relu family its new bounds, in the form the runtime does fastest.

    Relu and Clip are fused into the convolution in front by onnxruntime, so they come first;
    then one Max or Min; both only if there is a bound on either side.
    """
    data = node.inputs[data_index(plan, node)]
    dtype = plan.dtype(node, data_index(plan, node))
    low = None if np.isneginf(bounds.low).all() else bounds.low
    high = None if np.isposinf(bounds.high).all() else bounds.high
    if low is not None and high is None and not low.any():
        _become(node, "Relu", [data])
        return
    if (low is None or low.size == 1) and (high is None or high.size == 1):
        _become_clip(plan, node, data, low, high, dtype)
        return
    if low is not None and high is not None:
        first = ir.Node(
            "", "Max", [data, new_constant(plan.context, node, low, dtype)], num_outputs=1
        )
        result = first.outputs[0]
        result.name = plan.context.fresh_name(f"{node.outputs[0].name}_bounded")
        result.type, result.shape = node.outputs[0].type, node.outputs[0].shape
        first.name = plan.context.fresh_name(f"{node.name or node.outputs[0].name}_low")
        assert node.graph is not None
        node.graph.insert_before(node, first)
        data, low = result, None
    operator = "Max" if high is None else "Min"
    bound = low if high is None else high
    assert bound is not None
    _become(node, operator, [data, new_constant(plan.context, node, bound, dtype)])


def _become(node: ir.Node, operator: str, inputs: list[ir.Value | None]) -> None:
    """Turn a node into another operator in its place, under its name."""
    node.op_type = operator
    node.attributes.clear()
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def _become_clip(
    plan: Plan,
    node: ir.Node,
    data: ir.Value | None,
    low: Array | None,
    high: Array | None,
    dtype: np.dtype[np.generic],
) -> None:
    if plan.context.opset < 11:
        _become(node, "Clip", [data])
        for name, bound in (("min", low), ("max", high)):
            if bound is not None:
                value = float(bound.reshape(-1)[0])
                node.attributes.add(ir.convenience.convert_attribute(name, value))
        return
    inputs = [data]
    for bound in (low, high):
        constant = None
        if bound is not None:
            constant = new_constant(plan.context, node, bound.reshape(()), dtype)
        inputs.append(constant)
    _become(node, "Clip", inputs[:2] if high is None else inputs)

"""Shapes of the values inside a model, as far as ONNX can infer them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import onnx
import onnx_ir as ir

from fastbn.export.fold.cleanup import graphs_of, subgraphs_of
from fastbn.export.fold.constants import Constants

# Inference reads the values of small tensors only: those that are shapes, axes and indices.
LARGEST_READ = 1000
# What ONNX's propagation of small tensors looks through, besides Concat which lengthens them.
_PROPAGATED = frozenset(
    ("Add", "Cast", "Constant", "Gather", "Identity", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze")
)
LONGEST_PROPAGATED = 1 << 20


def infer_shapes(model: ir.Model, message: onnx.ModelProto) -> None:
    """Annotate values with shapes and types.

    A model that cannot be inferred stays as it is: less is folded, and the report says why.

    Parameters
    ----------
    model : onnx_ir.Model
        Annotated in place.
    message : onnx.ModelProto
        What it was read from.
    """
    with suppress(UnicodeDecodeError):  # a name that is no text
        _infer(model, message)


def _infer(model: ir.Model, message: onnx.ModelProto) -> None:
    light = _without_weights(message)
    constants = Constants(model)
    for graph, described in _pairs(model, light):
        _annotate_constants(graph, described, constants)
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=_is_short(model))
    except Exception:  # it raises several classes, some of C++
        return
    known: dict[bytes, tuple[ir.Shape | None, ir.DataType | None]] = {}
    for graph, described in _pairs(model, inferred):
        values = graph.inputs, *(node.outputs for node in graph)
        by_name = {value.name: value for row in values for value in row}
        for info in (*described.input, *described.value_info, *described.output):
            if (value := by_name.get(info.name)) and info.type.HasField("tensor_type"):
                _annotate(value, info.type.tensor_type, known)


def _without_weights(message: onnx.ModelProto) -> onnx.ModelProto:
    """Copy what inference reads; of large weights only type and shape."""
    light = onnx.ModelProto(ir_version=message.ir_version)
    light.opset_import.MergeFrom(message.opset_import)
    light.functions.MergeFrom(message.functions)
    graph = light.graph
    graph.name = message.graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).MergeFrom(getattr(message.graph, field))
    inputs = {value.name for value in graph.input}
    for tensor in message.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.ByteSize() <= LARGEST_READ:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            _describe(graph.input.add(), tensor.name, tensor.data_type, tensor.dims)
    return light


def _describe(info: onnx.ValueInfoProto, name: str, dtype: int, dims: Iterable[int]) -> None:
    info.name = name
    info.type.tensor_type.elem_type = dtype
    info.type.tensor_type.shape.SetInParent()  # a scalar has a shape, without dimensions
    for size in dims:
        info.type.tensor_type.shape.dim.add().dim_value = size


def _pairs(model: ir.Model, message: onnx.ModelProto) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    """Yield every graph of a model beside its message."""
    pending = [(model.graph, message.graph)]
    while pending:
        graph, described = pending.pop()
        yield graph, described
        for position, node in enumerate(graph):
            if inner := subgraphs_of(node):
                attributes = {a.name: a for a in described.node[position].attribute}
                rows = [attributes[name] for name in node.attributes]
                beside = [g for a in rows for g in ([a.g] if a.HasField("g") else a.graphs)]
                pending += zip(inner, beside, strict=True)


def _annotate_constants(graph: ir.Graph, described: onnx.GraphProto, constants: Constants) -> None:
    """Tell the shapes of constant subgraphs, through which inference does not always see."""
    for node in graph:
        for value in node.outputs:
            if value.shape is None and (array := constants.get(value)) is not None:
                dtype = ir.DataType.from_numpy(array.dtype)
                value.shape, value.type = ir.Shape(array.shape), ir.TensorType(dtype)
                _describe(described.value_info.add(), value.name or "", dtype.value, array.shape)


def _annotate(
    value: ir.Value,
    found: onnx.TypeProto.Tensor,
    known: dict[bytes, tuple[ir.Shape | None, ir.DataType | None]],
) -> None:
    """Give a value the type and shape that were found; equal shapes are one object."""
    key = found.SerializeToString()
    if key not in known:
        sizes = (
            d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in found.shape.dim
        )
        known[key] = (
            ir.Shape(sizes, frozen=True) if found.HasField("shape") else None,
            ir.DataType(found.elem_type) if found.elem_type else None,
        )
    shape, dtype = known[key]
    if shape is not None:
        value.shape = shape
    if dtype is not None and value.dtype != dtype:
        value.dtype = dtype


def _is_short(model: ir.Model) -> bool:
    """Whether the shapes that ONNX propagates stay short: Concat of one with itself doubles it."""
    if not any(node.op_type == "Concat" for graph in graphs_of(model) for node in graph):
        return True
    lengths: dict[ir.Value | None, int] = {}
    for graph in graphs_of(model):
        for node in graph:
            sizes = [lengths.get(value, 1) for value in node.inputs]
            if node.op_type == "Concat":
                lengths[node.outputs[0]] = sum(sizes)
            elif node.op_type in _PROPAGATED and node.outputs:
                lengths[node.outputs[0]] = max(sizes, default=1)
    return max(lengths.values(), default=1) <= LONGEST_PROPAGATED

"""How coarsely a model rounds: by the types that it computes with, not by those that it stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx

from fastbn.export.demands import every_node, subgraphs

_EPS = {
    onnx.TensorProto.DOUBLE: float(np.finfo(np.float64).eps),
    onnx.TensorProto.FLOAT: float(np.finfo(np.float32).eps),
    onnx.TensorProto.FLOAT16: float(np.finfo(np.float16).eps),
    onnx.TensorProto.BFLOAT16: 2.0**-7,
}
# Attributes that are the type of a node's output.
_OUTPUT_TYPES = ("to", "dtype", "output_dtype")
# Type of a value, by name; 0 where it is not known.
_Types = dict[str, int]


def coarsest_eps(model: onnx.ModelProto) -> float:
    """Return the rounding unit of the coarsest floating-point type that a model computes with.

    float32 gives 1.2e-7, float16 9.8e-4, bfloat16 7.8e-3. Weights that are stored in float16 and
    cast to float32 are exact, as are inputs.
    """
    types = {value.type.tensor_type.elem_type for value in model.graph.output}
    types = types.union(*_computations(model)) & _EPS.keys()
    return max((_EPS[kind] for kind in types), default=_EPS[onnx.TensorProto.FLOAT])


def quantises(model: onnx.ModelProto) -> bool:
    """Whether a model rounds to integers: activations, or weights of which a runtime makes such."""
    return any(
        node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") or "QLinear" in node.op_type
        for graph in (model.graph, *model.functions)
        for node in every_node(graph.node)
    )


def _computations(model: onnx.ModelProto) -> Iterator[set[int]]:
    """Yield types that nodes compute with whose results depend on inputs.

    Subgraphs and functions are looked through. A type that follows from another node's is left out.
    """
    yield from _of_graph(model.graph, {}, {})
    for function in model.functions:
        yield from _of_nodes(function.node, {}, {})


def _of_graph(
    graph: onnx.GraphProto, constant: Mapping[str, int], given: Mapping[str, int]
) -> Iterator[set[int]]:
    inputs = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    known = {name: kind for name, kind in constant.items() if name not in inputs}
    yield from _of_nodes(graph.node, known | weights, {**given, **inputs})


def _of_nodes(
    nodes: Iterable[onnx.NodeProto], constant: _Types, given: Mapping[str, int]
) -> Iterator[set[int]]:
    """Follow constants, which are added to a dictionary of the caller's, from node to node."""
    for node in nodes:
        reads = [name for name in node.input if name]
        inner = list(subgraphs(node))
        named = {a.i for a in node.attribute if a.name in _OUTPUT_TYPES}
        if node.op_type == "Constant":
            constant |= dict.fromkeys(node.output, _type_of(node))
            continue
        if reads and not inner and all(name in constant for name in reads):
            floats = [constant[name] for name in reads if constant[name] in _EPS]
            constant |= dict.fromkeys(node.output, next(iter([*named, *floats]), 0))
            continue
        used = reads
        if node.op_type in ("Cast", "CastLike"):  # they round to the new type only
            used = reads[1:]
        yield named | {constant.get(name, given.get(name, 0)) for name in used}
        for graph in inner:
            yield from _of_graph(graph, constant, given)


def _type_of(node: onnx.NodeProto) -> int:
    """Type of a Constant, if it is a tensor or floats."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return int(attribute.t.data_type)
        if attribute.name in ("value_float", "value_floats"):
            return int(onnx.TensorProto.FLOAT)
    return 0

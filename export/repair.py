"""Models that onnxruntime runs though onnx's checker refuses them: what they lack is filled in.

Those are nodes that do not stand in the order they run, outputs without a type or a shape, and
graphs without a name. And one spelling for the default domain, which has two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from fastbn.export.demands import every_node, subgraphs

NAME = "graph"
DEFAULT_DOMAIN = "ai.onnx"  # in full; graph tools know it as "" alone


def repaired(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in order, itself where nothing is wrong, else a copy.

    Outputs without a type get a stand-in; see `typed`.
    """
    graph = model.graph
    order = _in_order(graph)
    if order is None and graph.name and all(map(_is_typed, graph.output)):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if order is not None:
        nodes = [result.graph.node[k] for k in order]
        sorted_nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del result.graph.node[:]
        result.graph.node.extend(sorted_nodes)
    result.graph.name = graph.name or NAME
    for value in result.graph.output:
        if not _is_typed(value):
            kind = value.type.tensor_type
            kind.elem_type = kind.elem_type or onnx.TensorProto.FLOAT
            kind.shape.SetInParent()
    return result


def short_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that calls the default domain "", itself where it does, else a copy."""
    if not any(entry.domain == DEFAULT_DOMAIN for entry in _named(model)):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for entry in _named(result):
        if entry.domain == DEFAULT_DOMAIN:
            entry.domain = ""
    return result


def _named(model: onnx.ModelProto) -> Iterator[Any]:
    """Everything that names a domain: imports, functions and nodes."""
    yield from model.opset_import
    yield from every_node(model.graph.node)
    for function in model.functions:
        yield function
        yield from function.opset_import
        yield from every_node(function.node)


def typed(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Return a checked model with the types of outputs that its original did not give."""
    lacking = [k for k, value in enumerate(original.graph.output) if not _is_typed(value)]
    if not lacking:
        return model
    for k in lacking:
        model.graph.output[k].type.CopyFrom(original.graph.output[k].type)
    inferred = onnx.shape_inference.infer_shapes(model)
    for k in lacking:
        model.graph.output[k].CopyFrom(inferred.graph.output[k])
    return model


def _is_typed(value: onnx.ValueInfoProto) -> bool:
    kind = value.type
    if not kind.HasField("tensor_type"):
        return kind.WhichOneof("value") is not None
    return kind.tensor_type.elem_type != 0 and kind.tensor_type.HasField("shape")


def _in_order(graph: onnx.GraphProto) -> list[int] | None:
    """Return the places of the nodes in an order in which they can run, None if they are in one.

    Nodes keep their order where they can; those that wait for one another are left to the checker.
    """
    makers = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
    nodes = enumerate(graph.node)
    if not any(makers.get(name, -1) > k for k, node in nodes for name in _read(node)):
        return None
    needed = [
        {makers[name] for name in _read(node) if name in makers} - {k}
        for k, node in enumerate(graph.node)
    ]
    order: dict[int, None] = {}
    for start in range(len(needed)):
        stack = [(start, iter(sorted(needed[start])))]
        entered = {start}
        while stack:
            k, rest = stack[-1]
            following = next((n for n in rest if n not in order), None)
            if following is None:
                stack.pop()
                order[k] = None
            elif following in entered:
                return None  # a circle
            else:
                entered.add(following)
                stack.append((following, iter(sorted(needed[following]))))
    return [*order]


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, and those that its subgraphs may read from outside."""
    pending = [node]
    while pending:
        last = pending.pop()
        yield from last.input
        for graph in subgraphs(last):
            pending.extend(graph.node)
            yield from (value.name for value in graph.output)

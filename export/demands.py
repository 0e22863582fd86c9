"""What running a model would ask for, as far as its text tells: nodes and turns of loops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from fastbn.budgets import EXECUTED, NODES, RATIO
from fastbn.export.errors import DemandError, ModelError

_Key = tuple[str, str, str]


def require_nodes(model: onnx.ModelProto, where: str) -> None:
    """Refuse a model whose functions, inlined, are far more nodes than it has.

    Raises
    ------
    ModelError
        If a function calls itself.
    DemandError
        If there are too many; checkers and runtimes inline before they look.
    """
    if not model.functions:
        return
    functions = {_key_of_function(f): f for f in model.functions}
    counts: dict[_Key, int] = {}
    for key in _callees_first(functions, where):
        counts[key] = _inlined(functions[key].node, counts)
    written = sum(1 for _ in every_node(model.graph.node))
    written += sum(1 for f in model.functions for _ in every_node(f.node))
    inlined = _inlined(model.graph.node, counts)
    if max(inlined, *counts.values()) > NODES + RATIO * written:
        raise DemandError(
            f"{where}: its {written} nodes become {_count(inlined)} when functions are inlined; "
            "that is not a model to be used"
        )


def require_turns(model: onnx.ModelProto) -> None:
    """Refuse a model in which a loop with a constant number of turns runs for too long.

    Loops that end by a computed condition are counted while they run.
    """
    executed = _executed(model.graph, {})
    if executed > EXECUTED:
        raise DemandError(
            f"the model's loops execute {_count(executed)} nodes; that is too many to try out: "
            "skip verification"
        )


def every_node(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from every_node(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _key_of_function(function: onnx.FunctionProto) -> _Key:
    return (function.domain, function.name, getattr(function, "overload", ""))


def _key_of_call(node: onnx.NodeProto) -> _Key:
    return (node.domain, node.op_type, getattr(node, "overload", ""))


def _callees_first(functions: dict[_Key, onnx.FunctionProto], where: str) -> list[_Key]:
    """Order functions so that each stands after those it calls; without recursion of our own."""
    callees = {
        key: {_key_of_call(n) for n in every_node(f.node)} & functions.keys()
        for key, f in functions.items()
    }
    order: dict[_Key, None] = {}
    for start in functions:
        stack: dict[_Key, Iterator[_Key]] = {} if start in order else {start: iter(callees[start])}
        while stack:
            key, rest = next(reversed(stack.items()))
            callee = next(rest, None)
            if callee is None:
                del stack[key]
                order[key] = None
            elif callee in stack:
                raise ModelError(f"{where}: function {callee[1]!r} calls itself")
            elif callee not in order:
                stack[callee] = iter(callees[callee])
    return list(order)


def _inlined(nodes: Sequence[onnx.NodeProto], counts: dict[_Key, int]) -> int:
    return sum(
        counts.get(_key_of_call(node), 1)
        + sum(_inlined(graph.node, counts) for graph in subgraphs(node))
        for node in nodes
    )


def _executed(graph: onnx.GraphProto, outer: dict[str, float]) -> float:
    """Nodes that one run executes; `outer` are the scalar constants that the graph can see."""
    total = float(len(graph.node))
    nested = [node for node in graph.node if any(True for _ in subgraphs(node))]
    known = outer | dict(_scalars(graph)) if nested else {}
    for node in nested:
        inside = sum(_executed(g, known) for g in subgraphs(node))
        turns = _turns(node, known) if node.op_type == "Loop" else 1.0
        total += turns * inside if inside else 0.0
    return total


def _turns(node: onnx.NodeProto, known: dict[str, float]) -> float:
    """Return the turns of a Loop that only its count ends; 1 where that is not known."""
    body = next(subgraphs(node), None)
    trips = known.get(node.input[0], math.inf) if node.input and node.input[0] else math.inf
    if body is None or not body.output or not body.input:
        return 1.0
    condition = body.output[0].name
    passed = {v.name for v in body.input[1:2]}
    for inner in body.node:
        if inner.op_type == "Identity" and inner.input[0] in passed:
            passed.update(inner.output)
    endless = condition in passed or (known | dict(_scalars(body))).get(condition) == 1.0
    starts = len(node.input) < 2 or not node.input[1] or known.get(node.input[1], 1.0) == 1.0
    if not endless or not starts or (node.input and node.input[0] and trips == math.inf):
        return 1.0
    return max(trips, 0.0)


def _scalars(graph: onnx.GraphProto) -> Iterator[tuple[str, float]]:
    """Constants of one number or truth value, by name."""
    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensors.append((node.output[0], attribute.t))
                elif attribute.name == "value_int":
                    yield node.output[0], float(attribute.i)
    for name, tensor in tensors:
        whole = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if whole and not external and math.prod(tensor.dims) == 1:
            yield name, float(np.asarray(numpy_helper.to_array(tensor)).reshape(-1)[0])


def _count(number: float) -> str:
    if number == math.inf:
        return "endlessly many"
    return f"{number:,.0f}" if number < 1e9 else f"about 2^{int(number).bit_length() - 1}"

"""What a fold is judged by: nodes, affine nodes, and weights that exist more often."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from fastbn.export.fold.cleanup import graphs_of
from fastbn.export.fold.context import Context
from fastbn.export.fold.plan import attribute

# A copy of a weight up to this size costs nothing worth counting: it fits into a core's
# second-level cache many times.
FREE_COPY_BYTES = 2**16


def count_nodes(model: ir.Model) -> int:
    """All nodes of the graph and its subgraphs."""
    return sum(len(graph) for graph in graphs_of(model))


def count_affine(model: ir.Model, context: Context, least: int = 1) -> Counter[str]:
    """Count, by operator, the nodes that are nothing but a scale or a shift by a constant.

    ``least`` are the numbers that the constant has to have; 2 leaves out what is not per channel.
    """
    return Counter(
        f"{node.domain}:{node.op_type}"
        for graph in graphs_of(model)
        for node in graph
        if _is_affine(node, context, least)
    )


# The default domain, and the one onnxruntime's own layout of blocked channels lives in, where it
# turns a BatchNorm it cannot fold into a depthwise convolution.
_COUNTED_DOMAINS = ("", "ai.onnx", "com.microsoft.nchwc")


def _is_affine(node: ir.Node, context: Context, least: int) -> bool:
    if node.domain not in _COUNTED_DOMAINS:
        return False
    if node.op_type in ("Mul", "Add", "Sub", "Div"):
        operands = [context.constants.floats(v) for v in node.inputs]
        found = [v for v in operands if v is not None]
        return len(found) == 1 and found[0].size >= least
    if node.op_type == "Conv":
        groups = int(attribute(node, "group", 1))
        weight = None if groups == 1 else context.constants.get(node.inputs[1])
        if weight is None:
            return False
        return weight.shape[0] == groups and all(n == 1 for n in weight.shape[1:])
    return False


def copied_weights(context: Context, shared: dict[ir.Value, int]) -> dict[str, int]:
    """Weights that were shared and now exist more often, with the bytes that costs."""
    copies: dict[ir.Value, int] = {}
    for value in context.made:
        origin = context.origins.get(value)
        if origin in shared and value.uses():
            copies[origin] = copies.get(origin, 0) + 1
    result = {}
    for origin, count in copies.items():
        extra = count + bool(origin.uses()) - 1
        array = context.constants.get(origin)
        size = 0 if array is None else int(array.nbytes)
        if extra > 0 and size > FREE_COPY_BYTES and origin.name is not None:
            result[origin.name] = extra * size
    return result

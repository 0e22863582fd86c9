"""Models of very many nodes, as onnxruntime loads them: small weights in packs.

What onnxruntime takes to load a model grows with the square of its initializers, and to optimise
it with the square of its nodes. So the weights of a hundred nodes become one initializer, which a
Split takes apart right in front of them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fastbn.export.demands import subgraphs

# From this many nodes on weights are packed, and nothing is optimised: seconds become minutes.
MANY_NODES = 10_000
# Nodes that are given their weights together, weights that are a pack, and bytes of one.
NODES, LEAST, SMALL = 100, 8, 1024
# Before this opset Split has an attribute for the lengths.
SPLIT_OPSET = 13


def has_many_nodes(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime cannot load it as it is in reasonable time."""
    return len(model.graph.node) >= MANY_NODES


def packed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose small weights come from packs; the model itself if it has subgraphs."""
    graph = model.graph
    if any(any(True for _ in subgraphs(node)) for node in graph.node):
        return model
    copy = onnx.ModelProto(ir_version=model.ir_version, functions=model.functions)
    copy.opset_import.MergeFrom(model.opset_import)
    copy.graph.name = graph.name
    for field in ("input", "output", "value_info", "sparse_initializer"):
        getattr(copy.graph, field).MergeFrom(getattr(graph, field))
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    known = {value.name for value in (*graph.input, *graph.output)}
    left = {t.name: t for t in graph.initializer if _is_small(t) and t.name not in known}
    taken: set[str] = set()
    for start in range(0, len(graph.node), NODES):
        nodes = graph.node[start : start + NODES]
        alike: dict[tuple[int, ...], list[onnx.TensorProto]] = {}
        for name in (name for node in nodes for name in node.input):
            if (tensor := left.pop(name, None)) is not None:
                alike.setdefault(tuple(tensor.dims), []).append(tensor)
        for tensors in alike.values():
            if len(tensors) >= LEAST:
                _add_pack(copy.graph, tensors, f"fastbn_pack_{len(taken)}", opset)
                taken.update(tensor.name for tensor in tensors)
        copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(t for t in graph.initializer if t.name not in taken)
    return copy


def _is_small(tensor: onnx.TensorProto) -> bool:
    """Whether it is a float32 array of few bytes, which Split can hand out."""
    is_array = tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 0
    return is_array and tensor.HasField("raw_data") and 0 < len(tensor.raw_data) <= SMALL


def _add_pack(
    graph: onnx.GraphProto, tensors: list[onnx.TensorProto], name: str, opset: int
) -> None:
    """Add weights of one shape as one initializer and the Split that takes it apart."""
    first, *rest = tensors[0].dims
    data = b"".join(tensor.raw_data for tensor in tensors)
    dims = [first * len(tensors), *rest]
    graph.initializer.add(name=name, data_type=tensors[0].data_type, dims=dims, raw_data=data)
    split = helper.make_node("Split", [name], [tensor.name for tensor in tensors], axis=0)
    lengths = [first] * len(tensors)
    if opset < SPLIT_OPSET:
        split.attribute.append(helper.make_attribute("split", lengths))
    else:
        split.input.append(f"{name}_lengths")
        graph.initializer.append(numpy_helper.from_array(np.array(lengths), f"{name}_lengths"))
    graph.node.append(split)

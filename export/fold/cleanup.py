"""What a fold leaves behind: bypassed nodes, dead nodes, and constants that need a name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import store
from fastbn.export.fold.context import Context

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def graphs_of(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the main graph and every subgraph; functions are left out."""
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph:
            if node.attributes.data:  # a plain dict, faster by far where nodes are many
                pending.extend(subgraphs_of(node))


def subgraphs_of(node: ir.Node) -> list[ir.Graph]:
    """Graphs in the attributes of a node (If, Loop, Scan)."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.data.values():
        kind = attribute.type
        if kind not in _GRAPHS or attribute.is_ref():
            continue
        if kind == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        else:
            found.extend(attribute.as_graphs())
    return found


def bypass(node: ir.Node, value: ir.Value) -> None:
    """Let the consumers of a node's first output read ``value``, and remove the node.

    A graph output keeps its name: ``value`` takes it over, or an Identity hands it out where
    ``value`` has a name of its own to keep.
    """
    result = node.outputs[0]
    graph = node.graph
    assert graph is not None
    if result.is_graph_output():
        producer = value.producer()
        if producer is None or producer.graph is not graph or value.is_graph_output():
            node.op_type = "Identity"
            node.attributes.clear()
            node.resize_inputs(1)
            node.replace_input_with(0, value)
            node.resize_outputs(1)
            return
        name = result.name
        result.replace_all_uses_with(value, replace_graph_outputs=True)
        value.type, value.shape = result.type, result.shape
        graph.remove(node, safe=True)
        result.name = None
        value.name = name
        return
    result.replace_all_uses_with(value)
    graph.remove(node, safe=True)


_NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0}


def drop_neutral(context: Context, model: ir.Model) -> None:
    """Remove the additions of zero and multiplications by one that folding made."""
    for graph in graphs_of(model):
        for node in list(graph):
            if node.op_type not in _NEUTRAL or node.domain not in ("", "ai.onnx"):
                continue
            for index, operand in enumerate(node.inputs):
                if operand not in context.made or (index == 0 and node.op_type in ("Sub", "Div")):
                    continue
                values = context.constants.floats(operand)
                value = node.inputs[1 - index]
                if values is None or value is None or values.size != 1:
                    continue
                same_rank = len(context.dims(value) or ()) >= values.ndim
                if same_rank and float(values.reshape(-1)[0]) == _NEUTRAL[node.op_type]:
                    bypass(node, value)
                    break


def remove_dead(model: ir.Model, alive_before: set[ir.Value]) -> None:
    """Remove nodes nobody reads, and the initializers that lost their last reader."""
    for graph in graphs_of(model):
        for node in reversed(graph):
            if not any(v.uses() or v.is_graph_output() for v in node.outputs):
                for subgraph in subgraphs_of(node):
                    for inner in list(subgraph):
                        for index in range(len(inner.inputs)):
                            inner.replace_input_with(index, None)
                graph.remove(node, safe=True)
    for graph in graphs_of(model):
        for name, value in list(graph.initializers.items()):
            if value.uses() or value.is_graph_output() or value not in alive_before:
                continue
            if value.is_graph_input():
                if model.ir_version >= 4:
                    continue  # an input of the model with a default
                graph.inputs.remove(value)
            del graph.initializers[name]


def used_initializers(model: ir.Model) -> set[ir.Value]:
    """Return the initializers that someone reads."""
    return {v for g in graphs_of(model) for v in g.initializers.values() if v.uses()}


def settle_constants(context: Context, model: ir.Model) -> None:
    """Round the new constants once and make them initializers, equal ones only once.

    A constant takes the name of the weight it replaces, if that weight is gone.
    """
    names = {v.name for v in all_values(model) if v.name is not None and v not in context.made}
    settled: dict[tuple[int, ir.Value | None, bytes, str, tuple[int, ...]], ir.Value] = {}
    for value, dtype in context.made.items():
        uses = list(value.uses())
        if not uses:
            continue
        array = context.constants.get(value)
        assert array is not None
        rounded = array.astype(dtype) if dtype.kind in "iu" else store(array, dtype)
        origin = context.origins.get(value)
        # Before IR 4 an initializer had to be an input, which a subgraph cannot have.
        graph = model.graph if model.ir_version < 4 else uses[0].node.graph
        assert isinstance(graph, ir.Graph)
        key = (id(graph), origin, rounded.tobytes(), dtype.name, rounded.shape)
        if key in settled:
            value.replace_all_uses_with(settled[key])
            continue
        settled[key] = value
        value.name = _name(names, value, origin, uses[0].node)
        names.add(value.name)
        value.const_value = ir.Tensor(
            np.ascontiguousarray(rounded).reshape(rounded.shape), name=value.name
        )
        graph.register_initializer(value)
        if model.ir_version < 4:
            graph.inputs.append(value)


def _name(names: set[str], _: ir.Value, origin: ir.Value | None, node: ir.Node) -> str:
    base = origin.name if origin is not None and origin.name else None
    if base is not None and base not in names:
        return base
    stem = f"{base or node.name or node.outputs[0].name}_folded"
    name, count = stem, 1
    while name in names:
        count += 1
        name = f"{stem}_{count}"
    return name


def all_values(model: ir.Model) -> Iterator[ir.Value]:
    """Every named value: inputs, initializers and results, in all graphs."""
    for graph in graphs_of(model):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs

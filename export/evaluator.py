"""A graph in float64: the truth that every other result is measured against.

:func:`to_float64` turns a model into one whose floating point is float64 throughout;
:class:`Float64Evaluator` runs it, with the operators of :mod:`fastbn.export.operators` and, for
all else, of ``onnx.reference``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from fastbn.budgets import EXECUTED
from fastbn.export.errors import DemandError
from fastbn.export.operators import OWN_OPERATORS

FLOATS = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    }
)


class _Counted(ReferenceEvaluator):
    """An evaluator, and those of its subgraphs, that stops after EXECUTED nodes."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        left = _nodes_left.get() - len(self.rt_nodes_)
        if left < 0:
            raise DemandError(
                f"the model's loops execute more than {EXECUTED:,} nodes, too many to try out: "
                "skip verification"
            )
        _nodes_left.set(left)
        return super().run(*args, **kwargs)


_nodes_left: ContextVar[int] = ContextVar("fastbn_nodes_left", default=EXECUTED)


class Float64Evaluator:
    """Run a model in float64.

    Parameters
    ----------
    model : onnx.ModelProto
        Any float16, bfloat16, float32 or float64 model whose data is in memory.

    Attributes
    ----------
    empty : list of str
        Floating-point values of the last run that had no elements.

    Raises
    ------
    NotImplementedError
        On running an operator that neither this package nor ``onnx.reference`` knows.
    DemandError
        On running loops that take too many turns.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        wide = to_float64(model)
        own = [cls for cls in OWN_OPERATORS if not _needs_indices(wide.graph, cls.__name__)]
        self._evaluator = _Counted(wide, new_ops=own)
        last = _last_reads(wide.graph)
        self._steps = [
            (_call(node), node.need_context(), [*node.input], [*node.output], last.get(index, []))
            for index, node in enumerate(self._evaluator.rt_nodes_)
        ]
        self.output_names: list[str] = list(self._evaluator.output_names)
        self.empty: list[str] = []

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs, in order; floating point inputs are widened first.

        An input may also be named like an initializer, and takes its place.
        """
        token = _nodes_left.set(EXECUTED)
        try:
            with np.errstate(all="ignore"):
                return self._run(inputs)
        finally:
            _nodes_left.reset(token)

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        values: dict[str, Any] = {"": None, **self._evaluator.rt_inits_}
        values |= {name: widen(value) for name, value in inputs.items()}
        self.empty = []
        for call, needs_context, read, made, last in self._steps:
            given = [values[name] for name in read]
            results = call(*given, context=values) if needs_context else call(*given)
            del given
            for name, value in zip(made, results, strict=False):
                values[name] = np.asarray(value) if isinstance(value, np.generic) else value
                if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not value.size:
                    self.empty.append(name)
            del results
            for name in last:
                values.pop(name, None)
        return [values[name] for name in self.output_names]


def _call(node: Any) -> Callable[..., tuple[Any, ...]]:
    """Tell how to run a node: an own operator without the checks of a reference, for speed."""
    if type(node) not in OWN_OPERATORS or node.has_linked_attribute or node.has_subgraph:
        return node.run  # type: ignore[no-any-return]
    attributes = {name: getattr(node, name) for name in node.attributes_names_}
    return partial(node._run, **attributes)


def _last_reads(graph: onnx.GraphProto) -> dict[int, list[str]]:
    """Values that are not needed any more, by the index of the node that reads them last."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        last |= dict.fromkeys((*node.output, *_names_read(node)), index)
    for value in graph.output:
        last.pop(value.name, None)
    last.pop("", None)
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        found.setdefault(index, []).append(name)
    return found


def _names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Names a node reads, those its subgraphs capture included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _names_read(inner)
            yield from (value.name for value in graph.output)


def widen(value: NDArray[Any]) -> NDArray[Any]:
    """Floating point of any width (bfloat16 too) to float64, all else as it is."""
    is_float = value.dtype.kind == "f" or value.dtype.name == "bfloat16"
    return value.astype(np.float64) if is_float else value


def _needs_indices(graph: onnx.GraphProto, op_type: str) -> bool:
    """Whether a MaxPool hands out indices; then onnx.reference runs all of them."""
    if op_type != "MaxPool":
        return False
    return any(
        (node.op_type == "MaxPool" and sum(map(bool, node.output)) > 1)
        or any(_needs_indices(a.g, op_type) for a in node.attribute if a.HasField("g"))
        for node in graph.node
    )


def to_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of a model with every floating-point tensor, type and cast widened to float64.

    Storage types become exact float64 values; nothing is rounded. The copy is meant for the
    evaluator: some operators do not allow float64 in the specification (Resize's scales).
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen_graph(wide.graph)
    for function in wide.functions:
        for node in function.node:
            _widen_node(node)
    return wide


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.elem_type in FLOATS:
            kind.elem_type = onnx.TensorProto.DOUBLE
    for node in graph.node:
        _widen_node(node)


def _widen_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            _widen_graph(attribute.g)
        for graph in attribute.graphs:
            _widen_graph(graph)
        if attribute.HasField("t"):
            _widen_tensor(attribute.t)
        if attribute.name in ("to", "dtype") and attribute.i in FLOATS:
            attribute.i = onnx.TensorProto.DOUBLE
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            many = attribute.name == "value_floats"
            values = np.asarray(attribute.floats if many else attribute.f, dtype=np.float64)
            attribute.Clear()
            attribute.name = "value"
            attribute.type = onnx.AttributeProto.TENSOR
            attribute.t.CopyFrom(numpy_helper.from_array(values))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = numpy_helper.from_array(np.zeros(1, dtype=np.float64))
        node.attribute.append(onnx.helper.make_attribute("value", zero))


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type not in FLOATS or tensor.data_type == onnx.TensorProto.DOUBLE:
        return
    if tensor.data_type == onnx.TensorProto.FLOAT and tensor.raw_data:
        tensor.raw_data = np.frombuffer(tensor.raw_data, "<f4").astype("<f8").tobytes()
        tensor.data_type = onnx.TensorProto.DOUBLE
        return
    name = tensor.name
    values = numpy_helper.to_array(tensor).astype(np.float64)
    tensor.CopyFrom(numpy_helper.from_array(values, name))

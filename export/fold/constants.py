"""What a graph knows before it runs: initializers, Constant nodes and constant subgraphs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from fastbn.budgets import allowed_memory

# Operators without randomness, state or subgraphs whose result may be worked out beforehand.
_DETERMINISTIC = frozenset(
    [
        "Abs",
        "Add",
        "Cast",
        "CastLike",
        "Ceil",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Exp",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "Identity",
        "Log",
        "Max",
        "Mean",
        "Min",
        "Mul",
        "Neg",
        "Pow",
        "Range",
        "Reciprocal",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)


class Constants:
    """Constant values of a model, worked out on demand and remembered.

    In IR version 4 and later an initializer that is also a graph input may be replaced by the
    caller, so it is no constant. Before, every initializer had to be a graph input, and is one.
    """

    def __init__(self, model: ir.Model) -> None:
        self._ir_version = model.ir_version
        self._opset = model.opset_imports.get("", 1)
        self._known: dict[ir.Value, NDArray[Any] | None] = {}
        self._model = model

    @cached_property
    def _left(self) -> int:
        """Bytes that constant subgraphs may still make; what takes more is left to the runtime."""
        return allowed_memory(sum(t.nbytes for t in _stored(self._model)))

    def put(self, value: ir.Value, array: NDArray[Any]) -> None:
        """Remember the value of a new constant, in float64 until the file is written."""
        self._known[value] = array

    def get(self, value: ir.Value | None) -> NDArray[Any] | None:
        """Value of a constant, in its own type; None if it is not known before the run."""
        if value is None or value in self._known:
            return None if value is None else self._known[value]
        pending = [value]
        entered: set[ir.Value] = set()
        while pending:  # not a recursion: chains may be long
            last = pending[-1]
            needed = () if last in entered else self._needed(last)
            entered.add(last)
            unknown = [v for v in needed if v not in self._known and v not in entered]
            if unknown:
                pending += unknown
                continue
            pending.pop()
            self._known[last] = self._find(last)
        return self._known[value]

    @staticmethod
    def _needed(value: ir.Value) -> list[ir.Value]:
        """Values that have to be known first."""
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return []
        if node.op_type not in _DETERMINISTIC or node.op_type == "Shape":
            return []
        return [v for v in node.inputs if v is not None]

    def floats(self, value: ir.Value | None) -> NDArray[np.float64] | None:
        """Value of a floating-point constant in float64."""
        array = self.get(value)
        if array is None or not (array.dtype.kind == "f" or array.dtype.name == "bfloat16"):
            return None
        if array.dtype == np.float64:
            return array.copy()
        with np.errstate(all="ignore"):  # a signalling NaN of a broken file warns
            return array.astype(np.float64)

    def integers(self, value: ir.Value | None) -> list[int] | None:
        """Value of an integer constant as a flat list."""
        array = self.get(value)
        if array is None or array.dtype.kind not in "iu":
            return None
        return [int(i) for i in array.reshape(-1)]

    def dequantised(self, value: ir.Value | None) -> NDArray[np.float64] | None:
        """Value of a constant behind DequantizeLinear, which :meth:`get` leaves alone.

        So a weight that is stored in integers is not taken for a floating-point one.
        """
        node = None if value is None else value.producer()
        if node is None or node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx"):
            return None
        whole, steps = self.get(node.inputs[0]), self.floats(node.inputs[1])
        zero = self.get(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
        if whole is None or steps is None or zero is None or "block_size" in node.attributes:
            return None
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        shape = [1] * whole.ndim
        if steps.size > 1:
            shape[axis] = -1
        wide = whole.astype(np.float64) - zero.astype(np.float64).reshape(
            shape if zero.size > 1 else ()
        )
        return np.asarray(wide * steps.reshape(shape if steps.size > 1 else ()))

    def _find(self, value: ir.Value) -> NDArray[Any] | None:
        if value.is_initializer():
            if value.is_graph_input() and self._ir_version >= 4:
                return None
            tensor = value.const_value
            return None if tensor is None else _as_array(tensor)
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "Constant":
            return _constant_node(node)
        if node.op_type not in _DETERMINISTIC:
            return None
        if node.op_type == "Shape":
            return self._shape(node)
        inputs = [None if i is None else self._known.get(i) for i in node.inputs]
        if any(a is None and i is not None for a, i in zip(inputs, node.inputs, strict=True)):
            return None
        return self._evaluate(node, inputs, value.index() or 0)

    @staticmethod
    def _shape(node: ir.Node) -> NDArray[Any] | None:
        source = node.inputs[0]
        if source is None or source.shape is None or not source.shape.is_static():
            return None
        dims = source.shape.numpy()
        start = node.attributes["start"].as_int() if "start" in node.attributes else 0
        end = node.attributes["end"].as_int() if "end" in node.attributes else len(dims)
        return np.asarray(dims[start:end], dtype=np.int64)

    def _evaluate(
        self, node: ir.Node, inputs: list[NDArray[Any] | None], index: int
    ) -> NDArray[Any] | None:
        nbytes = _result_bytes(node, inputs)
        if nbytes is None or nbytes > self._left:
            return None
        self._left -= nbytes
        if node.op_type == "ConstantOfShape":
            return _constant_of_shape(node, inputs[0])
        proto = ir.to_proto(node)
        graph = onnx.helper.make_graph(
            [proto],
            "constant",
            [
                onnx.helper.make_value_info(name, onnx.TypeProto())
                for name in dict.fromkeys(n for n in proto.input if n)
            ],
            [onnx.helper.make_value_info(proto.output[index], onnx.TypeProto())],
        )
        opset = onnx.helper.make_opsetid("", self._opset)
        model = onnx.helper.make_model(graph, opset_imports=[opset])
        feeds = {str(n): a for n, a in zip(proto.input, inputs, strict=True) if n}
        try:
            results: Any = ReferenceEvaluator(model).run(None, feeds)
        except Exception:  # whatever the reference cannot do is simply not constant
            return None
        result = results[0]
        return np.asarray(result) if isinstance(result, np.ndarray | np.generic) else None


def _as_array(tensor: ir.TensorProtocol) -> NDArray[Any] | None:
    if tensor.dtype == ir.DataType.STRING:
        return None
    return np.asarray(tensor.numpy())


def _constant_node(node: ir.Node) -> NDArray[Any] | None:
    if "value" in node.attributes:
        return _as_array(node.attributes["value"].as_tensor())
    for name in ("value_float", "value_floats"):
        if name in node.attributes:
            return np.asarray(node.attributes[name].value, dtype=np.float32)
    for name in ("value_int", "value_ints"):
        if name in node.attributes:
            return np.asarray(node.attributes[name].value, dtype=np.int64)
    return None


def _constant_of_shape(node: ir.Node, shape: NDArray[Any] | None) -> NDArray[Any] | None:
    if shape is None:
        return None
    fill: NDArray[Any] = np.zeros(1, dtype=np.float32)
    if "value" in node.attributes:
        fill = np.asarray(node.attributes["value"].as_tensor().numpy())
    return np.full([int(n) for n in shape.reshape(-1)], fill.reshape(-1)[0], dtype=fill.dtype)


def _stored(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
            yield value.const_value


def _result_bytes(node: ir.Node, inputs: list[NDArray[Any] | None]) -> int | None:
    """Estimate how large a result is before it is made; None if that makes no sense."""
    arrays = [a for a in inputs if a is not None]
    # What Cast makes may be wider than what it is given.
    width = max((a.dtype.itemsize for a in arrays), default=8)
    if node.op_type == "Cast":
        width = max(width, 8)
    if node.op_type == "Range":
        start, stop, step = (float(a.reshape(-1)[0]) for a in arrays)
        turns = (stop - start) / step if step else math.inf
        return int(max(turns, 0.0) + 1) * width if math.isfinite(turns) else None
    if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
        wanted = arrays[-1].reshape(-1)
        if (wanted < 0).any():
            return None
        first = 1 if node.op_type == "ConstantOfShape" else max(arrays[0].size, 1)
        return first * math.prod(int(n) for n in wanted) * width
    if node.op_type == "Gather" and len(arrays) == 2:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        if not -arrays[0].ndim <= axis < arrays[0].ndim:
            return None
        return arrays[0].size // max(int(arrays[0].shape[axis]), 1) * arrays[1].size * width
    if node.op_type in ("Concat", "Reshape", "Slice", "Split"):
        return sum(a.size for a in arrays) * width
    try:
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:  # operands that are not broadcast, as axes of a reduction
        return sum(a.size for a in arrays) * width
    return max(math.prod(shape), sum(a.size for a in arrays)) * width

"""A graph under construction: nodes, weights and names, on onnx-ir."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

FLOAT = ir.TensorType(ir.DataType.FLOAT)


class GraphBuilder:
    """Collects nodes; every node and weight is named by the layer it comes from.

    Parameters
    ----------
    opset : int
        Operator set the nodes are written for. A layer may raise it with :meth:`require`.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.notices: list[str] = []
        self._nodes: list[ir.Node] = []
        self._weights: dict[str, ir.Value] = {}
        self._names: set[str] = set()

    def require(self, opset: int, why: str) -> None:
        """Raise the opset if it is lower, and note it."""
        if self.opset < opset:
            self.notices.append(f"opset {self.opset} became {opset}: {why} needs it")
            self.opset = opset

    def input(self, name: str, shape: Sequence[int | str]) -> ir.Value:
        """Make the graph's input; a string is an open dimension."""
        self._names.add(name)
        return ir.Value(name=name, type=FLOAT, shape=ir.Shape(shape))

    def weight(self, name: str, values: ArrayLike, dtype: Any = np.float32) -> ir.Value:
        """Add an initializer."""
        array: NDArray[Any] = np.ascontiguousarray(values, dtype=dtype).reshape(np.shape(values))
        name = self.unused(name)
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._weights[name] = value
        return value

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """Add a node and return its output."""
        name = self.unused(name or operator)
        known = {key: value for key, value in (attributes or {}).items() if value is not None}
        node = ir.Node(
            "", operator, inputs, ir.convenience.convert_attributes(known), num_outputs=1, name=name
        )
        result = node.outputs[0]
        result.name = self.unused(f"{name}_output")
        result.type = FLOAT
        self._nodes.append(node)
        return result

    def unused(self, stem: str) -> str:
        """Make a name that does not exist yet."""
        name, count = stem, 1
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        return name

    def finish(
        self,
        sources: Sequence[ir.Value],
        results: Sequence[ir.Value],
        outputs: Sequence[str],
        shapes: Sequence[Sequence[int | str]],
        name: str,
    ) -> ir.Graph:
        """Close the graph: the results leave under the names `outputs`."""
        ends: list[ir.Value] = []
        for value, output, shape in zip(results, outputs, shapes, strict=True):
            taken = any(value is other for other in (*sources, *ends))
            end = self.node("Identity", [value], "Identity") if taken else value
            end.name = output
            end.shape = ir.Shape(shape)
            ends.append(end)
        return ir.Graph(
            list(sources),
            ends,
            nodes=self._nodes,
            initializers=list(self._weights.values()),
            opset_imports={"": self.opset},
            name=name,
        )

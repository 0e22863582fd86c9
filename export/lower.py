"""Layers of ``fastbn.nn`` as ONNX nodes: every layer's ``onnx(build, flow)``, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from fastbn import nn
from fastbn.export.graph import GraphBuilder
from fastbn.nn.onnx import Flow
from fastbn.nn.order import Order, OrderError, Orders, same


class Lowering:
    """What a layer gets as `build`: the graph, and names and orders of the layer that is written.

    Parameters
    ----------
    net : Module
        The network.
    graph : GraphBuilder
        Where nodes and weights go.
    """

    def __init__(self, net: nn.Module, graph: GraphBuilder) -> None:
        self.graph = graph
        self._orders = Orders(net)
        self._path = ""
        self._paths = {module: path for path, module in net.named_modules()}

    @property
    def opset(self) -> int:
        """Operator set that nodes are written for."""
        return self.graph.opset

    def require(self, opset: int, why: str) -> None:
        """Raise the opset if it is lower; `why` is noted."""
        self.graph.require(opset, why)

    def weight(self, name: str, values: ArrayLike, dtype: Any = np.float32) -> ir.Value:
        """Add an initializer, in the order that ONNX has."""
        return self.graph.weight(self._joined(name), self._orders.theirs(np.asarray(values)), dtype)

    def node(
        self, operator: str, inputs: Sequence[ir.Value | None], name: str = "", **attributes: Any
    ) -> ir.Value:
        """Add a node and return its output."""
        return self.graph.node(operator, inputs, self._joined(name), attributes)

    def _joined(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path and name else self._path or name

    def layer(self, layer: nn.Module, *flows: Flow) -> Any:
        """Add the nodes of one layer, containers with all they contain.

        Raises
        ------
        TypeError
            If the layer is of a class of its own that does not say what its nodes are.
        """
        before, self._path = self._path, self._paths[layer]
        try:
            if not exportable(type(layer)):
                raise TypeError(
                    f"{type(layer).__name__} {self._path!r} cannot be exported: it has a forward "
                    "of its own; give it onnx(build, flow), too"
                )
            if next(layer.named_children(), None) is not None:
                return layer.onnx(self, *flows)
            order: Order = None
            self._orders.shapes[layer] = flows[0].shape
            try:
                order = layer.follow_order(self._orders, *(flow.order for flow in flows))
            except OrderError:
                flows = tuple(map(self.natural, flows))
            return replace(layer.onnx(self, *flows), order=order)
        finally:
            self._path = before

    def aligned(self, *flows: Flow) -> tuple[Flow, ...]:
        """Return flows whose features are in one order, so that they can be added."""
        if same(tuple(flow.order for flow in flows)):
            return flows
        return tuple(map(self.natural, flows))

    def natural(self, flow: Flow) -> Flow:
        """Put the features into the library's order, at run time."""
        if flow.order is None:
            return flow
        inverse = self.weight("order", np.argsort(flow.order), np.int64)
        value = self.node("Gather", [flow.value, inverse], "reorder", axis=1)
        return Flow(value, flow.shape)


def exportable(layer: type[nn.Module]) -> bool:
    """Return whether a class says what the nodes of its very forward are."""
    for base in layer.__mro__:
        if "onnx" in vars(base):
            return base is not nn.Module
        if "forward" in vars(base):
            return False
    return False

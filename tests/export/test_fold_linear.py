"""Folding takes time in proportion to the number of nodes.

Told by counting function calls, which a busy machine does not change.
"""

from __future__ import annotations

import cProfile
import pstats

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fastbn.export import fold_batch_norm

FEW, MANY = 60, 180


class Drawer:
    """Nodes on images of one channel."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, x: str, *shapes: tuple[int, ...]) -> str:
        """Add a node with weights of these shapes."""
        names = [f"w{len(self.weights) + k}" for k in range(len(shapes))]
        for name, shape in zip(names, shapes, strict=True):
            values = self.rng.uniform(0.5, 1.5, shape).astype(np.float32)
            self.weights.append(numpy_helper.from_array(values, name))
        y = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [x, *names], [y]))
        return y

    def block(self, x: str) -> str:
        """Conv, BatchNorm, Relu."""
        normalised = self.node(
            "BatchNormalization", self.node("Conv", x, (1, 1, 1, 1)), *[(1,)] * 4
        )
        return self.node("Relu", normalised)

    def model(self, y: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def chain(count: int) -> onnx.ModelProto:
    drawer, y = Drawer(), "x"
    for _ in range(count):
        y = drawer.block(y)
    return drawer.model(y)


def relus_and_sums(count: int) -> onnx.ModelProto:
    drawer, y = Drawer(), "x"
    for _ in range(count):
        y = drawer.node("Relu", drawer.node("Add", y, (1, 1, 1, 1)))
    return drawer.model(y)


def branches(count: int) -> onnx.ModelProto:
    drawer = Drawer()
    ends = [drawer.block("x") for _ in range(count)]
    drawer.nodes.append(helper.make_node("Concat", ends, ["y"], axis=1))
    return drawer.model("y")


def norms(count: int) -> onnx.ModelProto:
    drawer, y = Drawer(), "x"
    for _ in range(count):
        y = drawer.node("BatchNormalization", y, *[(1,)] * 4)
    return drawer.model(y)


def calls(model: onnx.ModelProto) -> int:
    profile = cProfile.Profile()
    profile.runcall(fold_batch_norm, model, verify=False)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.parametrize("draw", [chain, relus_and_sums, branches, norms])
def test_calls_grow_with_nodes(draw: object) -> None:
    assert callable(draw)
    calls(draw(3))  # what is imported and cached by the first fold
    assert calls(draw(MANY)) < 1.1 * MANY / FEW * calls(draw(FEW))

"""Folding takes time in proportion to the number of nodes.

Told by counting function calls, which a busy machine does not change.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fastbn.export import fold_batch_norm
from fastbn.export.fold import plan

FEW, MANY = 40, 120


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


def norms_and_relus(count: int) -> onnx.ModelProto:
    drawer, y = Drawer(), "x"
    for _ in range(count):
        y = drawer.node("Relu", drawer.node("BatchNormalization", y, *[(1,)] * 4))
    return drawer.model(y)


def norms_and_relus_behind_a_convolution(count: int) -> onnx.ModelProto:
    drawer = Drawer()
    y = drawer.node("Conv", "x", (1, 1, 1, 1))
    for _ in range(count):
        y = drawer.node("Relu", drawer.node("BatchNormalization", y, *[(1,)] * 4))
    return drawer.model(y)


def one_sum(count: int) -> onnx.ModelProto:
    drawer = Drawer()
    ends = [
        drawer.node("BatchNormalization", drawer.node("Conv", "x", (1, 1, 1, 1)), *[(1,)] * 4)
        for _ in range(count)
    ]
    drawer.nodes.append(helper.make_node("Sum", ends, ["y"]))
    return drawer.model("y")


def residual_norms(count: int) -> onnx.ModelProto:
    """Norms whose affines would pass all sums behind, and go nowhere."""
    drawer, y = Drawer(), "x"
    for k in range(count):
        norm = drawer.node("BatchNormalization", drawer.node("Relu", y), *[(1,)] * 4)
        drawer.nodes.append(helper.make_node("Add", [norm, y], [f"sum{k}"]))
        y = f"sum{k}"
    return drawer.model(y)


def rows_of_affines(count: int) -> onnx.ModelProto:
    """Affines each of which could go back through all in front, and gets no further."""
    drawer, y = Drawer(), "x"
    for _ in range(count):
        y = drawer.node("Mul", y, (1, 1, 1, 1))
        y = drawer.node("Relu", drawer.node("Add", y, (1, 1, 1, 1)))
    return drawer.model(y)


def calls(model: onnx.ModelProto) -> int:
    profile = cProfile.Profile()
    profile.runcall(fold_batch_norm, model, verify=False)
    # To replace one input of a node, onnx-ir copies all, in a generator: fast, and not ours.
    return sum(
        count
        for (file, _, name), (count, *_) in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
        if not (name == "<genexpr>" and "onnx_ir" in file)
    )


def require_linear(draw: Callable[[int], onnx.ModelProto]) -> None:
    calls(draw(3))  # what is imported and cached by the first fold
    assert calls(draw(MANY)) < 1.1 * MANY / FEW * calls(draw(FEW))


@pytest.mark.parametrize(
    "draw",
    [
        chain,
        relus_and_sums,
        branches,
        norms,
        norms_and_relus,
        norms_and_relus_behind_a_convolution,
        one_sum,
    ],
)
def test_calls_grow_with_nodes(draw: Callable[[int], onnx.ModelProto]) -> None:
    require_linear(draw)


@pytest.mark.parametrize("draw", [residual_norms, rows_of_affines])
def test_calls_grow_with_nodes_when_patience_is_at_its_end(
    draw: Callable[[int], onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PATIENCE", 500)
    require_linear(draw)


def test_a_sum_of_convolutions_becomes_one() -> None:
    folded, report = fold_batch_norm(one_sum(40))
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    assert (report.bn_left, report.convolutions_merged) == (0, 39)

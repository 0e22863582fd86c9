"""Graphs of very many nodes: small weights are packed for onnxruntime, nothing is optimised."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from fastbn.bench.fold_nodes import chain
from fastbn.export import fold_batch_norm, packing
from fastbn.export.packing import packed
from fastbn.export.runtime import Session

COUNT = 60


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MANY_NODES", COUNT)


def affines(opset: int) -> onnx.ModelProto:
    """Scales and shifts in turn; the first weight is read at both ends, the second is an input."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.uniform(0.5, 1.5, (1, 3)).astype(np.float32), f"w{k}")
        for k in range(2 * COUNT)
    ]
    nodes = [
        helper.make_node(("Mul", "Add")[k % 2], [f"y{k}", f"w{k}"], [f"y{k + 1}"])
        for k in range(2 * COUNT)
    ]
    nodes.append(helper.make_node("Add", [f"y{2 * COUNT}", "w0"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("y0", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("w1", TensorProto.FLOAT, [1, 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [11, 18])
def test_packs_are_the_same_function(opset: int) -> None:
    model = affines(opset)
    packs = packed(model)
    assert len(packs.graph.initializer) < COUNT / 4
    assert "w1" in {tensor.name for tensor in packs.graph.initializer}
    onnx.checker.check_model(packs, full_check=True)
    x = {"y0": np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)}
    (expected,) = Session(model, "lowest").run(x)
    (y,) = Session(packs, "lowest").run(x)
    assert np.array_equal(y, expected)


def test_subgraphs_keep_what_they_read() -> None:
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        net (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            y = If (c) <then_branch = a () => (float[2] p) { p = Add (x, w) },
                        else_branch = b () => (float[2] q) { q = Mul (x, w) }>
        }""")
    assert packed(model) is model


@pytest.mark.usefixtures("few_are_many")
def test_a_fold_is_proven_without_optimisation() -> None:
    model = chain(2 * COUNT)
    folded, report = fold_batch_norm(model, max_seconds=0.1)
    assert len(folded.graph.node) == report.nodes_after == 80
    assert report.bn_left == 0
    assert report.verification is not None
    assert report.verification.agree
    assert report.verification.against == "float64"
    assert report.verification.noticed > 0
    notes = " ".join(report.verification.notes)
    assert f"(highest) is not asked: {2 * COUNT} nodes" in notes

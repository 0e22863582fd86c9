"""Models that onnxruntime runs and the checker refuses: folded, validated and read all the same."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from read_cases import session, worst_error

from fastbn.bench.patterns import PATTERNS
from fastbn.export import ModelError, fold_batch_norm, from_onnx, validate


def unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def without_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def without_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].ClearField("type")


def without_name(model: onnx.ModelProto) -> None:
    model.graph.ClearField("name")


def long_domain(model: onnx.ModelProto) -> None:
    """The default domain by its full name, in the import alone."""
    model.opset_import[0].domain = "ai.onnx"


def long_domains(model: onnx.ModelProto) -> None:
    long_domain(model)
    for node in model.graph.node:
        node.domain = "ai.onnx"


def all_at_once(model: onnx.ModelProto) -> None:
    for change in (unsorted, without_type, without_name, long_domain):
        change(model)


CHANGES = [
    unsorted, without_shape, without_type, without_name, long_domain, long_domains, all_at_once,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["conv-bn", "dense-block", "split-bn-bn"])
def test_what_the_runtime_takes(name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    model = PATTERNS[name].build()
    change(model)
    session(model)  # onnxruntime takes it
    before = model.SerializeToString()
    folded, report = fold_batch_norm(model)
    assert model.SerializeToString() == before
    assert report.bn_left + report.affine_left == PATTERNS[name].best
    assert validate(model, folded).agree
    assert folded.graph.output[0].type.tensor_type.HasField("shape")
    onnx.checker.check_model(folded, full_check=True)
    assert worst_error(from_onnx(model), model) < 1e-5


def test_the_full_name_of_the_default_domain_is_read_everywhere() -> None:
    """In subgraphs and functions, too; without its opset, parameters made by nodes were unknown."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["ai.onnx" : 18, "own" : 1]>
        g (float[N, 3, 4, 4] x, bool c) => (float[N, 3, 4, 4] y)
        <float[3] s = {1.0, 2.0, 3.0}, float[1, 3] wide = {1.0, 2.0, 3.0}, int64[1] first = {0},
         float[3, 3, 1, 1] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0}> {
            h = own.Same (x)
            y = If (c) <
                then_branch = t () => (float[N, 3, 4, 4] a) {
                    z = ai.onnx.Conv (h, w)
                    v = Squeeze (wide, first)
                    a = BatchNormalization (z, v, s, s, v)
                },
                else_branch = e () => (float[N, 3, 4, 4] b) { b = ai.onnx.Relu (h) }>
        }
        <domain: "own", opset_import: ["ai.onnx" : 18]> Same (p) => (q) { q = ai.onnx.Identity (p) }
    """)  # onnxruntime itself does not know it in functions
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 0
    assert validate(model, folded).agree


def test_a_circle_is_refused() -> None:
    model = PATTERNS["conv-bn"].build()
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        fold_batch_norm(model)


def test_nodes_stay_where_they_can() -> None:
    """Two chains side by side, of which one has its nodes swapped."""
    model = PATTERNS["shared-weight-other-bn"].build()
    names = [node.name for node in model.graph.node]
    first = onnx.NodeProto.FromString(model.graph.node[0].SerializeToString())
    del model.graph.node[0]
    model.graph.node.insert(1, first)
    folded, _ = fold_batch_norm(model, verify=False)
    assert [n.name for n in folded.graph.node] == [n for n in names if "batchnorm" not in n]

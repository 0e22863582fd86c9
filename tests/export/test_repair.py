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


def all_at_once(model: onnx.ModelProto) -> None:
    for change in (unsorted, without_type, without_name):
        change(model)


CHANGES = [unsorted, without_shape, without_type, without_name, all_at_once]


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

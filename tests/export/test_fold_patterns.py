"""Every pattern is folded as far as it can be, and stays the same function."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from fastbn.bench.patterns import PATTERNS
from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import fold_batch_norm


def test_there_are_enough_patterns():
    assert len(PATTERNS) >= 60


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name):
    pattern = PATTERNS[name]
    original = pattern.build()
    before = original.SerializeToString()
    folded, report = fold_batch_norm(original)
    assert original.SerializeToString() == before, "the input model was changed"
    assert report.bn_left + report.affine_left == pattern.best
    assert report.bn_left == _count(folded.graph)
    assert report.notes == []
    assert report.changed == (report.verification is not None)
    if report.changed:
        assert report.verification.agree
        assert report.verification.notes == []
        assert report.verification.against == "float64"
    else:
        assert folded is original
    assert [v.name for v in folded.graph.input] == [v.name for v in original.graph.input] or (
        original.ir_version < 4
    )
    assert [v.name for v in folded.graph.output] == [v.name for v in original.graph.output]
    for entry in report.nodes:
        assert (entry.action in ("kept", "merged")) == bool(entry.reason)
        assert "malformed" not in entry.reason


def test_weights_of_a_subgraph_are_inputs_before_ir_4():
    """An initializer had to be an input then, which the graph of a branch cannot have."""
    model = PATTERNS["if-branches"].draw(Sketch(0, opset=8, ir_version=3))
    folded, report = fold_batch_norm(model)
    assert report.bn_left == _count(folded.graph) == 0
    assert report.verification.agree
    assert not any(a.g.initializer for node in folded.graph.node for a in node.attribute)


def _count(graph: onnx.GraphProto) -> int:
    total = 0
    for node in graph.node:
        total += node.op_type == "BatchNormalization"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                total += _count(attribute.g)
    return total


def test_verification_would_notice(monkeypatch):
    """A wrong fold does not get through: the tests above mean something."""
    from fastbn.export import MismatchError
    from fastbn.export.fold import backward

    honest = backward.add_bias

    def careless(plan, node, index, scale, shift):
        honest(plan, node, index, scale, shift + 1e-3)

    monkeypatch.setattr(backward, "add_bias", careless)
    with pytest.raises(MismatchError, match="differs from float64"):
        fold_batch_norm(PATTERNS["conv-bn"].build())


@pytest.mark.parametrize("name", ["conv-bn", "bn-relu-conv-1x1-mixed", "mlp", "dense-block"])
def test_weights_are_rounded_once(name):
    """In float64 the folded graph is the original up to float64's own rounding."""
    from fastbn.export.evaluator import Float64Evaluator

    pattern = PATTERNS[name]
    model = pattern.draw(Sketch(0, dtype="float64"))
    folded, _ = fold_batch_norm(model, verify=False)
    value = model.graph.input[0]
    shape = [3, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:])]
    x = {value.name: np.random.default_rng(0).standard_normal(shape)}
    for y, expected in zip(
        Float64Evaluator(folded).run(x), Float64Evaluator(model).run(x), strict=True
    ):
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * np.abs(expected).max())

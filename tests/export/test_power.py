"""After a fold agrees, the same comparison has to notice a change of every tensor it made."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from fastbn.bench.patterns import PATTERNS
from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import fold_batch_norm, validate
from fastbn.export.power import made_tensors


def test_every_new_tensor_is_changed():
    model = PATTERNS["mlp"].build()
    folded, report = fold_batch_norm(model)
    made = made_tensors(model, folded)
    assert report.verification.noticed == len(made) > 3
    assert report.verification.unproven == []


def test_a_tensor_that_moves_nothing_is_named():
    """What comes before a saturated sigmoid is compared, but not proven."""
    g = Sketch(0)
    x = g.input(4)
    h = g.bn(g.gemm(x, 3))
    blind = g.op("Mul", [g.op("Sigmoid", [h]), g.constant(1e-9)])
    model = g.model(g.op("Add", [g.gemm(x, 3), blind]))
    _, report = fold_batch_norm(model)
    assert report.bn_left == 0
    assert report.verification.agree
    assert len(report.verification.unproven) == 2
    assert all("nothing tells a change of 1%" in what for what in report.verification.unproven)


def test_a_bound_without_axes_is_changed():
    g = Sketch(0, opset=13)
    h = g.op("Clip", [g.conv(g.input(3, 6, 6), 4, 3, bias=True), g.constant(-0.5)])
    same = {"scale": [1.4], "bias": [0.5], "mean": [0.4], "var": [1.6]}
    given = {name: np.repeat(values, 4) for name, values in same.items()}
    folded, report = fold_batch_norm(g.model(g.bn(h, given=given)))
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Clip"]
    assert report.verification.noticed == 3
    assert report.verification.unproven == []


def test_without_time_they_are_changed_together():
    _, report = fold_batch_norm(PATTERNS["mlp"].build(), max_seconds=0.0)
    assert report.verification.noticed == 1
    assert "changed together" in report.verification.notes[-1]


def test_corrupted_weights_are_noticed():
    """A tensor or an output channel times 1.05, in every pattern, where it moves an output."""
    rng = np.random.default_rng(0)
    tried = 0
    for name in list(PATTERNS)[::3]:
        model = PATTERNS[name].build()
        weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
        other = onnx.ModelProto()
        other.CopyFrom(model)
        index = int(rng.integers(len(weights)))
        tensor = next(t for t in other.graph.initializer if t.name == weights[index].name)
        values = numpy_helper.to_array(tensor).copy()
        if not values.any() or tensor.name == "roi":
            continue
        part = values[int(rng.integers(len(values)))] if values.ndim > 1 else values
        part *= np.float32(1.05)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        if _moves(model, other):
            tried += 1
            assert not validate(model, other).agree, name
    assert tried > 15


def _moves(model, other):
    """Whether some float64 output is moved by more than twice the tolerance."""
    from fastbn.export.evaluator import Float64Evaluator
    from fastbn.export.truth import Truth

    truth = Truth(model)
    tolerances = [output.tolerance for output in truth.compare().outputs]
    run = Float64Evaluator(other).run
    for sample in truth.samples():
        for y64, y, tolerance in zip(truth.expected(sample), run(sample), tolerances, strict=True):
            if y64.size and np.abs(y - y64).max() > 2 * tolerance:
                return True
    return False

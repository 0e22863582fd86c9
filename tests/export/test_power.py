"""After a fold agrees, the same comparison has to notice a change of every tensor it made."""

from __future__ import annotations

import numpy as np

from fastbn.bench.patterns import PATTERNS
from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import fold_batch_norm
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

"""After a fold agrees, the same comparison has to notice a change of every tensor it made."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fastbn.bench.patterns import PATTERNS
from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import fold_batch_norm, power
from fastbn.export.power import made_tensors
from fastbn.export.runtime import RuntimeRefusalError
from fastbn.export.truth import Truth


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


def branches(limit):
    """BatchNorms in both branches of an If; the first one runs where an entry is over the limit."""
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 4] x) => (float[N, 3] y) <float limit = {{{limit}}}> {{
        top = ReduceMax <keepdims = 0> (x)
        c = Greater (top, limit)
        y = If (c) <
            then_branch = a () => (p) {{
                t = MatMul (x, w) p = BatchNormalization (t, s, b, m1, v)
            }},
            else_branch = e () => (q) {{
                u = MatMul (x, k) q = BatchNormalization (u, s, b, m2, v)
            }}
        >
    }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    weights = {"w": (4, 3), "k": (4, 3)} | dict.fromkeys(["s", "b", "m1", "m2", "v"], 3)
    for name, shape in weights.items():
        values = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def test_new_tensors_in_subgraphs_are_changed():
    """Also where both branches have weights of one name of their own."""
    model = branches(limit=0)
    apart = onnx.ModelProto()
    apart.CopyFrom(model)
    for name, attribute in zip("wk", apart.graph.node[-1].attribute, strict=True):
        tensor = next(t for t in apart.graph.initializer if t.name == name)
        apart.graph.initializer.remove(tensor)
        tensor.name = attribute.g.node[0].input[1] = "own"
        attribute.g.initializer.append(tensor)
    for original in (model, apart):
        folded, report = fold_batch_norm(original)
        assert report.bn_left == 0
        assert len(folded.graph.node) == 3
        assert report.verification.noticed == len(made_tensors(original, folded)) == 4
        assert report.verification.unproven == []


def test_a_branch_that_never_runs_is_named():
    _, report = fold_batch_norm(branches(limit=1e6))
    assert report.bn_left == 0
    assert report.verification.noticed == 2
    assert len(report.verification.unproven) == 2
    assert all("nothing tells a change of 1%" in what for what in report.verification.unproven)


def test_subgraphs_in_float64(monkeypatch):
    """As in graphs of very many nodes, which onnxruntime does not take apart."""
    monkeypatch.setattr(power, "has_many_nodes", lambda model: True)
    _, report = fold_batch_norm(branches(limit=0))
    assert report.verification.noticed == 4
    assert report.verification.unproven == []


@pytest.mark.parametrize("as_it_is", [True, False])
def test_a_change_that_stops_the_model_is_noticed(as_it_is):
    """Unless it does not run without the change either."""
    model = PATTERNS["mlp"].build()
    truth = Truth(model)

    def run(sample, weights):
        if weights or not as_it_is:
            raise RuntimeRefusalError("rows")
        return truth.expected(sample)

    weights = {"w": np.ones(1, np.float32)}
    assert power._notices(truth, truth.compare(model), run, weights) is as_it_is

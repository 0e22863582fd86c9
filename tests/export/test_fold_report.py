"""What stays says why; what is shared, captured, foreign or in training is handled with care."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from fastbn.bench.patterns import PATTERNS, networks
from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import MismatchError, ModelError, fold_batch_norm, fold_file
from fastbn.export.evaluator import Float64Evaluator

REASONS = {
    "bn-conv-padded": "cuts the shift off at the border",
    "bn-maxpool-conv-mixed": "negative",
    "bn-conv-transpose": "graph output",
    "bn-conv-and-output": "graph output",
    "conv-seen-twice-bn": "2 consumers",
    "conv-output-bn": "graph output",
    "training-mode": "training mode",
    "parameters-from-input": "its scale is not constant",
    "conv-sigmoid-bn": "Sigmoid .* does not take an affine in",
    "conv-leaky-relu-bn": "LeakyRelu .* lets no shift through",
    "conv-avgpool-counting-bn": "counts its padding",
    "conv-relu-bn-mixed": "would take more time",
    "conv-zero-pad-bn": "puts constants around",
    "conv-transpose-last-bn": "would differ along axis 2",
    "add-conv-other-input-bn": "graph input",
}


@pytest.mark.parametrize("name", REASONS)
def test_reason(name):
    _, report = fold_batch_norm(PATTERNS[name].build())
    kept = [entry for entry in report.nodes if entry.reason]
    assert kept
    assert any(_search(REASONS[name], entry.reason) for entry in kept), kept
    assert all("\n" not in entry.reason for entry in kept)


def _search(pattern, text):
    import re

    return re.search(pattern, text) is not None


def test_report_as_json():
    _, report = fold_batch_norm(PATTERNS["input-norm-conv"].build())
    values = json.loads(report.to_json())
    for key in ("bn_before", "bn_left", "affine_left", "nodes_before", "nodes_after"):
        assert isinstance(values[key], int)
    assert values["max_abs_f64"] > 0
    assert {tuple(entry) for entry in values["nodes"]} == {("node", "action", "into", "reason")}
    assert [entry["action"] for entry in values["nodes"]] == ["kept", "folded"]


def change(name, parameter, values, **attributes):
    """A pattern with other values for one parameter of its only BatchNorm."""
    model = PATTERNS[name].build()
    node = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    tensor = next(t for t in model.graph.initializer if t.name == node.input[parameter])
    old = numpy_helper.to_array(tensor)
    new = np.broadcast_to(np.asarray(values, dtype=old.dtype), old.shape)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new), tensor.name))
    for key, value in attributes.items():
        node.attribute.append(helper.make_attribute(key, value))
    return model


@pytest.mark.parametrize(
    ("parameter", "value", "attributes", "reason"),
    [
        (4, 0.0, {"epsilon": 0.0}, "var \\+ epsilon is not positive"),
        (4, -1.0, {}, "var \\+ epsilon is not positive"),
        (1, np.nan, {}, "its scale is not finite"),
        (3, np.inf, {}, "its mean is not finite"),
        (1, 3e38, {"epsilon": 1e-30}, "overflow"),
    ],
)
def test_unusable_parameters(parameter, value, attributes, reason):
    model = change("conv-bn", parameter, value, **attributes)
    if reason == "overflow":
        conv = next(t for t in model.graph.initializer)
        big = numpy_helper.to_array(conv) * np.float32(1e3)
        conv.CopyFrom(numpy_helper.from_array(big, conv.name))
    _, report = fold_batch_norm(model, verify=False)
    assert report.bn_left == 1
    assert _search(reason, report.nodes[0].reason)


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_training_mode_is_told_by_outputs_listed(opset):
    """Before opset 14 nothing else tells it, whether somebody reads them or not."""
    g = Sketch(0, opset=opset)
    norm = g.bn(g.conv(g.input(3, 6, 6), 4))
    g.nodes[-1].output.extend(f"{norm}_{what}" for what in ("mean", "var", "saved", "saved_var"))
    model = g.model(norm)
    folded, report = fold_batch_norm(model, verify=False)
    assert report.bn_left == 1
    assert "lists more than one output" in report.nodes[0].reason
    assert len(folded.graph.node[1].output) == 5


def test_the_default_epsilon_is_a_float32():
    """A double model, off by 1e-12 if its epsilon were 1e-5."""
    g = Sketch(0, dtype=np.float64)
    values = g.parameters(4) | {"var": np.full(4, 1e-4)}
    model = g.model(g.bn(g.gemm(g.input(5), 4), given=values))
    assert not model.graph.node[-1].attribute
    folded, report = fold_batch_norm(model)
    (shift,) = (t for t in folded.graph.initializer if t.name.endswith("_folded"))
    epsilon = float(np.float32(1e-5))
    expected = values["bias"] - values["mean"] * values["scale"] / np.sqrt(values["var"] + epsilon)
    np.testing.assert_allclose(numpy_helper.to_array(shift), expected, rtol=1e-14)
    assert report.bn_left == 0


def test_a_change_of_variable_never_passes_a_sum_on_its_way():
    """A branch is added to the trunk it read, then a constant, then normalised.

    What the trunk takes in, the padded branch has to undo; the map that is left of the shift
    would meet the sum before the sum has its scale.
    """
    g = Sketch(0, dtype=np.float64)
    trunk = g.bn(g.input(3, 7, 5))
    total = g.op("Add", [trunk, g.conv(trunk, 3, pad=1)])
    model = g.model(g.bn(g.op("Add", [total, g.constant(g.normal(1, 3, 1, 1))])))
    folded, report = fold_batch_norm(model, verify=False)
    assert report.bn_left == 1
    x = {model.graph.input[0].name: np.random.default_rng(1).standard_normal((2, 3, 7, 5))}
    (y64,), (y,) = Float64Evaluator(model).run(x), Float64Evaluator(folded).run(x)
    np.testing.assert_allclose(y, y64, rtol=0, atol=1e-12 * np.abs(y64).max())


def test_dead_channels_leave_no_subnormals():
    model = change("conv-bn", 1, 1e-41)
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 0
    weights = [numpy_helper.to_array(t) for t in folded.graph.initializer]
    tiny = np.finfo(np.float32).smallest_normal
    assert all(((w == 0) | (np.abs(w) >= tiny)).all() for w in weights)


def test_extra_outputs_mean_training_before_opset_14():
    g = Sketch(opset=9)
    h = g.conv(g.input(3, 6, 6), 4)
    values = [g.constant(v) for v in g.parameters(4).values()]
    outputs = ["y", "mean", "var", "saved_mean", "saved_var"]
    g.nodes.append(helper.make_node("BatchNormalization", [h, *values], outputs, name="bn"))
    model = g.model("y")
    info = helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, [4])
    model.graph.output.append(info)
    _, report = fold_batch_norm(model, verify=False)
    assert _search("training mode", report.nodes[0].reason)
    g.nodes[-1].output[1:] = []
    _, report = fold_batch_norm(g.model("y"))
    assert report.bn_left == 0


def test_statistics_per_place():
    text = """<ir_version: 8, opset_import: ["" : 7]>
    g (float[N, 2, 1, 1] x, float[2, 1, 1] p) => (float[N, 2, 1, 1] y) {
        y = BatchNormalization <spatial = 0> (x, p, p, p, p)
    }"""
    _, report = fold_batch_norm(parser.parse_model(text), verify=False)
    assert _search("spatial=0", report.nodes[0].reason)


def overridable(ir_version):
    """A BatchNorm whose parameters are initializers and graph inputs."""
    model = PATTERNS["conv-bn-ir-3"].build()
    model.ir_version = ir_version
    return model


def test_initializers_that_are_inputs():
    folded, report = fold_batch_norm(overridable(3))
    assert report.bn_left == 0
    initializers = {t.name for t in folded.graph.initializer}
    assert initializers < {v.name for v in folded.graph.input}
    original = overridable(4)
    folded, report = fold_batch_norm(original)
    assert report.bn_left == 1
    assert report.nodes[0].reason == "its scale is not constant"
    assert [v.name for v in folded.graph.input] == [v.name for v in original.graph.input]


def test_shared_weights_are_copied_only_on_request():
    model = networks.shared(Sketch(0), width=40)
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 2
    assert all("duplicate_shared" in entry.reason for entry in report.nodes)
    assert len(folded.graph.initializer) == len(model.graph.initializer)
    folded, report = fold_batch_norm(model, duplicate_shared=True)
    assert report.bn_left == 0


def test_equal_copies_of_a_shared_weight_stay_one():
    folded, report = fold_batch_norm(PATTERNS["shared-weight-equal-bn"].build())
    assert report.bn_left == 0
    assert len(folded.graph.initializer) == 2  # one weight, one bias


def test_idle_nodes_go():
    for name in ("conv-identity-bn", "conv-dropout-bn"):
        folded, _ = fold_batch_norm(PATTERNS[name].build())
        assert [n.op_type for n in folded.graph.node] == ["Conv"]


def test_names_stay():
    model = PATTERNS["residual-bn-bn-add"].build()
    folded, _ = fold_batch_norm(model)
    before = {node.name for node in model.graph.node if node.op_type != "BatchNormalization"}
    assert {node.name for node in folded.graph.node} == before
    convs = [node for node in folded.graph.node if node.op_type == "Conv"]
    original = {node.name: node for node in model.graph.node}
    assert all(node.input[1] == original[node.name].input[1] for node in convs)


def test_metadata_stays():
    model = PATTERNS["conv-bn"].build()
    model.doc_string, model.producer_name, model.domain = "doc", "someone", "com.example"
    helper.set_model_props(model, {"key": "value"})
    model.graph.doc_string = "graph doc"
    folded, _ = fold_batch_norm(model)
    assert (folded.doc_string, folded.producer_name, folded.domain) == (
        "doc", "someone", "com.example",
    )  # fmt: skip
    assert folded.metadata_props[0].value == "value"
    assert folded.graph.doc_string == "graph doc"


def test_loop_body():
    """The body of a Loop is entered; what it captures from outside is left alone."""
    g = Sketch()
    x = g.input(4, 6, 6)
    trips = g.constant(np.asarray(3), np.int64)
    true = g.constant(np.asarray(True), bool)
    inner = Sketch(1)
    inner._count = 100  # names of a subgraph may not hide those around it
    inner.channels["state"] = 4
    h = inner.bn(inner.conv("state", 4, pad=1), signs="mixed")
    h = inner.op("Tanh", [h])
    inner.nodes.append(helper.make_node("Identity", ["go"], ["go_on"]))
    kind = onnx.TensorProto.FLOAT
    body = helper.make_graph(
        inner.nodes, "body",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
         helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
         helper.make_tensor_value_info("state", kind, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("go_on", onnx.TensorProto.BOOL, []),
         helper.make_tensor_value_info(h, kind, ["N", 4, 6, 6])],
        inner.weights,
    )  # fmt: skip
    result = g.op("Loop", [trips, true, x], body=body)
    value = helper.make_tensor_value_info(result, kind, ["N", 4, 6, 6])
    model = g.model()
    model.graph.output.append(value)
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 0
    assert report.verification.notes == []
    loop = next(n for n in folded.graph.node if n.op_type == "Loop")
    assert len(loop.attribute[0].g.initializer) == 2


def test_weight_of_the_outer_graph_stays_for_others():
    """A subgraph folds a weight it shares with the outer graph only into a copy."""
    model = PATTERNS["if-branches"].build()
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 0
    branch = next(n for n in folded.graph.node if n.op_type == "If")
    assert all(len(a.g.initializer) == 2 for a in branch.attribute)


def test_functions_are_left_alone():
    text = """<ir_version: 8, opset_import: ["" : 18, "own" : 1]>
    g (float[N, 2] x) => (float[N, 2] y)
    <float[2] one = {1, 2}, float[2] zero = {0.5, 0}>
    { y = own.norm(x, one, zero) }
    <domain: "own", opset_import: ["" : 18]>
    norm (x, one, zero) => (y) { y = BatchNormalization(x, one, zero, zero, one) }"""
    model = parser.parse_model(text)
    folded, report = fold_batch_norm(model)
    assert (report.bn_before, report.bn_left) == (1, 1)
    assert _search("function", report.nodes[0].reason)
    (node,), (original,) = folded.functions[0].node, model.functions[0].node
    assert (node.op_type, node.input) == (original.op_type, original.input)


UNKNOWN = """<ir_version: 8, opset_import: ["" : 18, "com.example" : 1]>
    g (float[N, 2] x) => (float[N, 2] y)
    <float[2] one = {1, 2}, float[2] zero = {0.5, 0}, float[2, 2] w = {1, 2, 3, 4}>
    {
        a = Gemm(x, w)
        b = BatchNormalization(a, one, zero, zero, one)
        c = com.example.Mystery(b)
        y = BatchNormalization(c, one, zero, zero, one)
    }"""


def test_unknown_domains_pass_through():
    model = parser.parse_model(UNKNOWN)
    with pytest.raises(ModelError, match="neither by onnxruntime nor in float64"):
        fold_batch_norm(model)
    folded, report = fold_batch_norm(model, verify=False)
    assert report.bn_left == 1
    assert [n.op_type for n in folded.graph.node] == ["Gemm", "Mystery", "BatchNormalization"]
    assert _search("Mystery", report.nodes[1].reason)


def test_bfloat16():
    """onnxruntime does not run bfloat16 on CPUs; float64 still proves the fold."""
    model = PATTERNS["conv+bias-bn"].draw(Sketch(0, opset=22, dtype=ml_dtypes.bfloat16))
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 0
    assert report.verification.agree
    assert any("does not load" in note for note in report.verification.notes)
    assert {t.data_type for t in folded.graph.initializer} == {onnx.TensorProto.BFLOAT16}


def test_float16_is_rounded_once():
    pattern = PATTERNS["conv-float16-bn"]
    folded, _ = fold_batch_norm(pattern.build())
    exact, _ = fold_batch_norm(widen(pattern.build()), verify=False)
    for narrow, wide in zip(folded.graph.initializer, exact.graph.initializer, strict=True):
        expected = numpy_helper.to_array(wide).astype(np.float16)
        np.testing.assert_array_equal(numpy_helper.to_array(narrow), expected)


def widen(model):
    from fastbn.export.evaluator import to_float64

    return to_float64(model)


def test_a_wrong_fold_is_not_called_rounding(monkeypatch):
    """Verification takes it back, less is folded, and the report says whose mistake it was."""
    from fastbn.export.fold import clipping

    honest = clipping._collapsed
    monkeypatch.setattr(clipping, "_collapsed", lambda low, high: honest(low + 0.01, high))
    _, report = fold_batch_norm(PATTERNS["bn-relu-conv-1x1"].build())
    assert report.bn_left == 1
    (note,) = report.notes
    assert note.startswith("folded without bounds per channel, because the result was another")
    assert "in float64, too" in note


def test_the_original_is_evaluated_once(monkeypatch):
    """However often less is folded."""
    from fastbn.export.truth import Truth

    calls = []
    honest = Float64Evaluator.run
    monkeypatch.setattr(
        Float64Evaluator, "run", lambda self, x: calls.append(self) or honest(self, x)
    )
    model = PATTERNS["bn-relu-conv-1x1"].build()
    truth = Truth(model)
    assert truth.compare(model).agree
    count = len(calls)
    assert truth.compare(model).agree
    # One more, when a second set of sizes was tried.
    assert count == len(calls) == truth.compare(model).samples + 1


def test_fallback_when_a_change_of_variable_hurts():
    """Undoing a shift of 1e5 would cost the other reader its digits."""
    g = Sketch(0)
    h = g.conv(g.input(3, 8, 8), 4)
    values = g.parameters(4) | {"mean": np.full(4, 1e5)}
    left, right = g.op("Sigmoid", [g.bn(h, given=values)]), g.conv(h, 4, 1)
    model = g.model(left, right)
    _, bold = fold_batch_norm(model, verify=False)
    assert bold.bn_left == 0
    _, report = fold_batch_norm(model)
    assert report.bn_left == 1
    assert report.notes == [
        "folded without changes of variable, because rounding suffered otherwise"
    ]


def test_who_cannot_undo_a_change_of_variable():
    _, report = fold_batch_norm(PATTERNS["conv-seen-twice-bn"].build())
    (entry,) = report.nodes
    assert _search("2 consumers, and not all can undo it .Add", entry.reason)


def test_a_bias_map_where_it_is_cheaper():
    folded, report = fold_batch_norm(PATTERNS["bn-conv-padded-strided"].build())
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Add"]
    (image,) = (t for t in folded.graph.initializer if len(t.dims) == 4 and t.dims[0] == 1)
    assert list(image.dims) == [1, 6, 3, 3]
    assert report.affine_left == 1
    assert report.nodes[0].into == ["n_conv_8"]


def test_a_long_chain_is_refused_not_a_crash():
    g = Sketch(0)
    h = g.conv(g.input(3, 8, 8), 4)
    for _ in range(600):
        h = g.op("Neg", [h])
    _, report = fold_batch_norm(g.model(g.bn(h)), verify=False)
    assert report.bn_left == 1
    assert "too many nodes would have to change" in report.nodes[0].reason


def test_nothing_helps(monkeypatch):
    from fastbn.export.fold import backward

    monkeypatch.setattr(backward, "add_bias", lambda *_: None)
    with pytest.raises(MismatchError):
        fold_batch_norm(PATTERNS["conv-bn"].build())


@pytest.mark.parametrize(
    ("name", "left"), [("conv-relu-bn-mixed", 1), ("conv-relu6-bn", 1), ("dense-block-mixed", 4)]
)
def test_slower_only_on_request(name, left):
    model = PATTERNS[name].build()
    assert fold_batch_norm(model)[1].bn_left == left
    folded, report = fold_batch_norm(model, allow_slower=True)
    assert report.bn_left == 0
    assert {"Max", "Min"} <= {n.op_type for n in folded.graph.node}


def test_fold_file(tmp_path):
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    source.write_bytes(PATTERNS["mlp"].build().SerializeToString())
    before = source.read_bytes()
    report = fold_file(source, target)
    assert report.bn_left == 0
    assert source.read_bytes() == before
    onnx.checker.check_model(str(target), full_check=True)


def test_fold_file_over_itself(tmp_path):
    """Asked for, a file may be replaced by its fold; by accident it is not."""
    source = tmp_path / "a.onnx"
    source.write_bytes(PATTERNS["mlp"].build().SerializeToString())
    with pytest.raises(ModelError, match="overwrite"):
        fold_file(source, source)
    assert fold_file(source, source, overwrite_input=True).bn_left == 0

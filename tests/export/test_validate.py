"""The comparison itself: it accepts what agrees and notices what does not."""

from __future__ import annotations

import importlib
import itertools
import json
import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fastbn.bench.patterns import PATTERNS
from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import ModelError, fold_batch_norm, validate, windows
from fastbn.export.evaluator import Float64Evaluator, to_float64
from fastbn.export.operators import convolve
from fastbn.export.rounding import coarsest_eps, quantises
from fastbn.export.runtime import Session
from fastbn.export.truth import Truth


def nudged(model, amount):
    """The same model with its first weight changed."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensor = other.graph.initializer[0]
    values = numpy_helper.to_array(tensor) * np.float32(1 + amount)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return other


def test_one_model():
    report = validate(PATTERNS["conv-bn"].build())
    assert report.agree
    assert 0 < report.max_abs_f64 < 1e-5
    assert report.argmax_agreement == 1.0
    assert json.loads(report.to_json())["agree"] is True


@pytest.mark.parametrize(("amount", "agree"), [(0.0, True), (1e-4, False), (1.0, False)])
def test_two_models(amount, agree):
    model = PATTERNS["mlp"].build()
    report = validate(model, nudged(model, amount))
    assert report.agree is agree
    assert (report.max_abs_f64 > report.tolerance) is not agree


def test_mistake_at_the_border_is_seen():
    """A convolution padded with something else differs only at the border."""
    model = PATTERNS["conv-padded-strided-bn"].build()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for attribute in other.graph.node[0].attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0, 0, 2, 2]
    assert not validate(model, other).agree


def test_data_is_used():
    model = PATTERNS["gemm-bn"].build()
    name = model.graph.input[0].name
    data = {name: np.ones((4, 7), dtype=np.float32)}
    assert validate(model, data=data).samples == validate(model).samples + 1
    with pytest.raises(ModelError, match="no array"):
        validate(model, data={"other": data[name]})
    with pytest.raises(ModelError, match="has shape"):
        validate(model, data={name: np.ones((4, 8), dtype=np.float32)})


def test_not_finite_is_not_equal():
    model = PATTERNS["gemm-bn"].build()
    assert not validate(model, nudged(model, np.inf)).agree


def test_report_is_a_mapping():
    report = validate(PATTERNS["gemm-bn"].build())
    assert dict(report)["samples"] == report.samples == report["samples"]
    with pytest.raises(KeyError):
        report["nothing"]


def scaled(model, name, factor):
    """The same model with one weight multiplied."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensor = next(t for t in other.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), name))
    return other


def test_every_output_is_held_to_its_own_scale():
    """What would vanish beside a large output is seen."""
    g = Sketch(0)
    x = g.input(4)
    small = g.gemm(x, 3)
    weight = g.nodes[-1].input[1]
    large = g.op("Mul", [g.gemm(x, 3), g.constant(1e9)])
    model = g.model(small, large)
    assert validate(model, model).agree
    report = validate(model, scaled(model, weight, 1.3))
    assert report.verdict == "differ"
    assert report.output == small
    assert [o.error > o.tolerance for o in report.outputs] == [True, False]


def overflowing(factor):
    """Half precision: one channel overflows, the other two do not."""
    g = Sketch(0, dtype=np.float16)
    h = g.gemm(g.input(4), 3)
    weight = g.nodes[-1].input[1]
    model = g.model(g.op("Mul", [h, g.constant([1.0, 1.0, 6e4])]))
    return scaled(model, weight, factor)


def test_an_overflow_hides_nothing():
    report = validate(overflowing(1.0), overflowing(3.0))
    assert report.verdict == "differ"
    assert np.isfinite(report.tolerance)
    assert validate(overflowing(1.0), overflowing(1.0)).agree


def test_nan_agrees_with_nan_alone():
    g = Sketch(0)
    h = g.op("Sqrt", [g.input(4)])
    model = g.model(h)
    assert validate(model, model).agree
    other = g.model(g.op("Sqrt", [g.op("Abs", [g.inputs[0].name])]))
    assert validate(model, other).verdict == "differ"
    assert validate(other, model).verdict == "differ"


def test_a_tolerance_has_an_end():
    """An original that is off by itself excuses nothing: that is not proven, and not agreement."""
    g = Sketch(0)
    x = g.input(4)
    big = g.constant(1e6)
    h = g.op("Sub", [g.op("Add", [x, big]), big])
    model = g.model(h)
    report = validate(model, scaled(model, big, 1.0))
    assert report.verdict == "not proven"
    assert report.tolerance <= 1e-3 * report.outputs[0].size


def test_integers_compare_by_their_own_rule():
    g = Sketch(0)
    h = g.gemm(g.input(4), 5)
    weight = g.nodes[-1].input[1]
    model = g.model(h)
    chosen = g.op("ArgMax", [h], axis=1)
    model.graph.node.append(g.nodes[-1])
    kind = onnx.TensorProto.INT64
    model.graph.output.append(onnx.helper.make_tensor_value_info(chosen, kind, ["N", 1]))
    assert validate(model, model).agree
    report = validate(model, scaled(model, weight, -1.0))
    assert any("integers differ" in note for note in report.notes)
    # And set no tolerance for others.
    assert report.outputs[0].tolerance < 1e-3


def test_integer_inputs_reach_every_row():
    g = Sketch(0)
    table = g.normal(40, 6)
    indices = g.input(7, dtype=np.int64)
    model = g.model(g.op("Gather", [g.constant(table, name="table"), indices]))
    other = onnx.ModelProto()
    other.CopyFrom(model)
    table[2:] = 0
    weight = numpy_helper.from_array(table.astype(np.float32), "table")
    other.graph.initializer[0].CopyFrom(weight)
    assert validate(model, other).verdict == "differ"


@pytest.mark.parametrize("free", ["N", -1, 0, None])
def test_free_dimensions(free):
    """Names, -1, 0 and absent ones; never so small that nothing is left inside."""
    g = Sketch(0)
    h = g.input(3, 4, 4)
    for _ in range(5):
        h = g.op("MaxPool", [g.conv(h, 4, 3)], kernel_shape=[2, 2], strides=[2, 2])
    model = g.model(h)
    for axis, dim in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        if axis != 1:
            dim.Clear()
            if isinstance(free, int):
                dim.dim_value = free
            elif free:
                dim.dim_param = f"{free}{axis}"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    truth = Truth(model)
    seen = {tuple(sample[model.graph.input[0].name].shape) for sample in truth.samples()}
    assert len(seen) > 1
    assert all(y.size for sample in truth.samples() for y in truth.expected(sample))
    assert truth.compare(model).agree


CANNOT_TELL = {
    "is constant in every sample": lambda g, x: g.op("Mul", [x, g.constant(0.0)]),
    "is not finite in every sample": lambda g, x: g.op("Log", [g.op("Neg", [g.op("Abs", [x])])]),
    "is saturated in every sample": lambda g, x: g.op(
        "Sigmoid", [g.op("Mul", [g.op("Add", [x, g.constant(0.3)]), g.constant(1e9)])]
    ),
    "is empty in every sample": lambda g, x: g.op(
        "Slice", [x, g.integers(1), g.integers(1), g.integers(1)]
    ),
}


@pytest.mark.parametrize("reason", CANNOT_TELL)
def test_outputs_that_cannot_tell(reason):
    """They prove nothing, and are named; beside one that can tell they do no harm."""
    g = Sketch(0)
    x = g.input(5)
    blind = CANNOT_TELL[reason](g, x)
    model = g.model(blind)
    report = validate(model, model)
    assert (report.agree, report.verdict) == (False, "not proven")
    assert report.unproven == [f"output {blind!r} {reason}"]
    model = g.model(blind, g.gemm(x, 3))
    report = validate(model, model)
    assert report.agree
    assert report.unproven == [f"output {blind!r} {reason}"]


OWN = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalMaxPool", "BatchNormalization",
       "Softmax", "LogSoftmax", "Erf", "Resize", "Pad")  # fmt: skip
AT_LEAST = {"GlobalMaxPool": 2, "Erf": 1, "Pad": 3}


def node_cases(operator):
    """The node tests onnx ships for one operator, without running all its other generators."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(f"{node.__name__}.{MODULES.get(operator, operator.lower())}")
    for case in node._NodeTestCases:
        graph = case.model.graph
        if len(graph.node) == 1 and graph.node[0].op_type == operator and not graph.node[0].domain:
            yield case


MODULES = {"BatchNormalization": "batch_normalization"}


@pytest.mark.parametrize("operator", OWN)
def test_evaluator_on_onnx_node_tests(operator):
    ran = 0
    for case in node_cases(operator):
        floats = {v.type.tensor_type.elem_type for v in case.model.graph.input}
        if not floats & {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}:
            continue
        evaluator = Float64Evaluator(case.model)
        for inputs, outputs in case.data_sets:
            names = [v.name for v in case.model.graph.input]
            results = evaluator.run(dict(zip(names, inputs, strict=True)))
            for y, expected in zip(results, outputs, strict=True):
                np.testing.assert_allclose(
                    y, expected, rtol=case.rtol, atol=case.atol, err_msg=case.name
                )
        ran += 1
    assert ran >= AT_LEAST.get(operator, 4)


def test_own_operators_agree_with_numpy():
    """The library's kernels against windows in plain NumPy: ranks, borders, strides, groups."""
    rng = np.random.default_rng(0)
    cases = itertools.product((1, 2, 3), (1, 2), ((0, 0), (1, 1), (0, 2)), (1, 2), (1, 2))
    for rank, stride, pads, dilation, groups in cases:
        x = rng.standard_normal((2, 4, *(7, 8, 6)[:rank]))
        weight = rng.standard_normal((6, 4 // groups, *(3, 2, 3)[:rank]))
        bias = rng.standard_normal(6)
        w = windows.windows(
            x.shape[2:], weight.shape[2:], strides=[stride] * rank, dilations=[dilation] * rank,
            pads=[pads[0]] * rank + [pads[1]] * rank,
        )  # fmt: skip
        y = convolve(x, weight, bias, w, groups)
        expected = windows.conv(x, weight, bias, w, groups)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("where", ["half_pixel", "asymmetric", "half_pixel_symmetric"])
@pytest.mark.parametrize("how", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_the_nearest_pixel_is_that_of_the_runtime(where, how):
    """Sizes and places that float64 rounds otherwise than float32."""
    for length, scale in [(10, 1.3), (5, 1.4), (36, 0.3), (26, 1.3), (18, 3.2)]:
        g = Sketch()
        scales = g.constant([1.0, 1.0, scale, 1.0])
        model = g.model(
            g.op("Resize", [g.input(2, length, 3), "", scales], mode="nearest",
                 coordinate_transformation_mode=where, nearest_mode=how)
        )  # fmt: skip
        assert validate(model, model).agree


def test_values_are_freed_and_empty_ones_counted():
    g = Sketch(0)
    x = g.input(5)
    none = g.op("Slice", [x, g.integers(1), g.integers(1), g.integers(1)])
    evaluator = Float64Evaluator(g.model(g.op("Concat", [x, none], axis=1)))
    (y,) = evaluator.run({x: np.ones((2, 5), np.float32)})
    assert y.shape == (2, 5)
    assert evaluator.empty == [none]


@pytest.mark.parametrize("opset", [7, 12, 13])
def test_softmax_over_several_axes(opset):
    """Before opset 13 Softmax runs over everything behind its axis."""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[2, 3, 4] x) => (float[2, 3, 4] y) {{ y = Softmax <axis = 1> (x) }}"""
    model = onnx.parser.parse_model(text)
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    (y64,) = Float64Evaluator(model).run(x)
    (y,) = Session(model, "lowest").run(x)
    np.testing.assert_allclose(y, y64, rtol=1e-5)


@pytest.mark.parametrize("opset", [10, 13, 18])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pads_that_crop(opset, mode):
    """onnxruntime crops what is negative; the reference of ONNX does not take it."""
    g = Sketch(opset, opset=opset)
    x = g.input(3, 7, 8)
    pads = [0, 0, -1, 2, 0, 0, 1, -2]
    if opset < 11:
        y = g.op("Pad", [x], pads=pads, mode=mode, value=1.5)
    else:
        inputs = [x, g.integers(*(pads if opset < 18 else [-1, 2, 1, -2])), g.constant(1.5)]
        y = g.op("Pad", [*inputs, *([g.integers(2, -1)] if opset == 18 else [])], mode=mode)
    sample = {x: g.rng.standard_normal((2, 3, 7, 8)).astype(np.float32)}
    model = g.model(y)
    (y64,) = Float64Evaluator(model).run(sample)
    (y32,) = Session(model, "lowest").run(sample)
    np.testing.assert_array_equal(y32, y64)


def test_constants_are_widened():
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float16[2] x) => (float16[2] y) {
        half = Constant <value_float = 0.1> ()
        small = Cast <to = 10> (half)
        y = Mul(x, small)
    }"""
    wide = to_float64(onnx.parser.parse_model(text))
    (y,) = Float64Evaluator(onnx.parser.parse_model(text)).run({"x": np.ones(2, np.float16)})
    assert y.dtype == np.float64
    assert wide.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    np.testing.assert_allclose(y, np.float32(0.1), rtol=1e-7)


def parsed(body, inputs="float[N, 4] x", outputs="float[N, 3] y", constants="", **weights):
    """A graph as text, and weights as arrays."""
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 21]>
    g ({inputs}) => ({outputs}) <{constants}> {{ {body} }}""")
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    return model


def drawn(*shape, dtype=np.float16, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(dtype)


NORM = "y = BatchNormalization (h, s, b, m, v)"
WIDE = {name: drawn(3, dtype=np.float32, seed=k) for k, name in enumerate("sbmv")}
# Weights in float16, all computation in float32: as a file is made smaller.
COMPRESSED = {
    "Cast": "w = Cast <to = 1> (k) h = MatMul (x, w)",
    "CastLike": "w = CastLike (k, x) h = MatMul (x, w)",
    "moved": "t = Transpose (k) u = Cast <to = 1> (t) h = Gemm <transB = 1> (x, u)",
    "branch": """zero = Constant <value_float = 0.0> () m0 = ReduceMax <keepdims = 0> (x)
        c = Greater (m0, zero)
        h = If (c) <then_branch = a () => (p) { w = Cast <to = 1> (k) p = MatMul (x, w) },
                    else_branch = e () => (q) { u = Cast <to = 1> (k) q = MatMul (x, u) }>""",
}


@pytest.mark.parametrize("form", COMPRESSED)
def test_stored_types_set_no_tolerance(form):
    """float16 weights that are cast are exact: one per cent of them is noticed."""
    model = parsed(f"{COMPRESSED[form]} {NORM}", k=drawn(4, 3), **WIDE)
    assert coarsest_eps(model) == np.finfo(np.float32).eps
    assert validate(model).agree
    assert validate(model, model).agree
    assert validate(model, scaled(model, "k", 1.01)).verdict == "differ"
    _, report = fold_batch_norm(model)
    if form in ("Cast", "moved"):
        assert report.bn_left == 0
        assert report.verification.noticed == 2
        assert report.verification.unproven == []


def test_a_float16_input_is_exact():
    body = "w = Cast <to = 1> (x) y = MatMul (w, k)"
    model = parsed(body, "float16[N, 4] x", k=drawn(4, 3, dtype=np.float32))
    assert coarsest_eps(model) == np.finfo(np.float32).eps
    assert validate(model, scaled(model, "k", 1.001)).verdict == "differ"


def test_smaller_files_beside_their_float_network():
    """By noise, as float16 files are, though they compute in float32."""
    weight = drawn(4, 3, dtype=np.float32)
    wide = parsed("h = Identity (w) y = MatMul (x, h)", w=weight)
    small = parsed("h = Cast <to = 1> (w) y = MatMul (x, h)", w=weight.astype(np.float16))
    report = validate(wide, small)
    assert report.agree
    assert report.snr > 50
    assert validate(small, small).snr is None


# Stored in float32, computed in float16: as a network trained under autocast is exported.
HALF = {
    "casts": """h = Cast <to = 10> (e) k = Cast <to = 10> (w) p = MatMul (h, k)
        q = Cast <to = 1> (p)""",
    "branch": """zero = Constant <value_float = 0.0> () top = ReduceMax <keepdims = 0> (x)
        c = Greater (top, zero)
        q = If (c) <
            then_branch = a () => (p) {
                h = Cast <to = 10> (e) k = Cast <to = 10> (w)
                g = MatMul (h, k) p = Cast <to = 1> (g)
            },
            else_branch = d () => (r) { r = MatMul (e, w) }
        >""",
    "rounded": """a = MatMul (e, w) l = Add (a, large) p = Cast <to = 10> (l) r = Cast <to = 1> (p)
        q = Sub (r, large)""",
}
HALF["Constant"] = HALF["casts"]


@pytest.mark.parametrize("form", HALF)
def test_computed_types_set_the_tolerance(form):
    """What is left of larger numbers in float16 agrees with itself, and can be folded."""
    weight = 10 + drawn(4, 3, dtype=np.float32)
    weight[1::2] *= -1  # the four products, of equal entries, nearly cancel
    body = f"e = Expand (x, four) {HALF[form]} {NORM.replace('(h', '(q')}"
    model = parsed(
        body, "float[N, 1] x", "float[N, 3] y", "float large = {20}", four=np.array([1, 4]), **WIDE
    )
    if form == "Constant":
        half = numpy_helper.from_array(weight.astype(np.float16))
        model.graph.node[2].CopyFrom(onnx.helper.make_node("Constant", [], ["k"], value=half))
    else:
        model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    assert coarsest_eps(model) == np.finfo(np.float16).eps
    report = validate(model, model)
    if form != "Constant":  # float16 weights are exact, what they are cast from is not
        assert report.original_abs_f64 > 1e-3 * report.outputs[0].size
    assert report.agree
    assert validate(model).verdict == "not compared"
    folded, _ = fold_batch_norm(model)
    assert validate(model, folded).agree


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DynamicQuantizeLinear"])
def test_quantised_inside_a_branch(operator):
    quantise = "q = QuantizeLinear (x, d, z) p = DequantizeLinear (q, d, z)"
    if operator == "DynamicQuantizeLinear":
        quantise = "q, e, f = DynamicQuantizeLinear (x) p = DequantizeLinear (q, e, f)"
    model = parsed(
        f"y = If (c) <then_branch = a () => (p) {{ {quantise} }}, "
        "else_branch = e () => (o) { o = Identity (x) }>",
        "float[N, 3] x, bool c",
        d=np.asarray(0.02, np.float32),
        z=np.asarray(0, np.int8),
    )
    assert quantises(model)
    assert validate(model).verdict == "not compared"


def chosen(bound):
    """TopK of the entries above a bound: it stops where there are none."""
    return parsed(
        """h = Gemm (x, w) b = BatchNormalization (h, s, t, m, v) keep = Greater (x, bound)
        flat = Reshape (keep, all) c = Compress (b, flat) y, i = TopK (c, one)""",
        "float[4, 4] x",
        "float[1] y",
        w=drawn(4, 4, dtype=np.float32),
        bound=np.asarray(bound, np.float32),
        all=np.asarray([-1]),
        one=np.asarray([1]),
        **{name: drawn(4, dtype=np.float32, seed=k) for k, name in enumerate("stmv")},
    )


def test_made_up_inputs_that_the_original_refuses_are_left_out():
    model = chosen(0.0)
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 0
    assert report.verification.against == "float64"
    assert report.verification.samples == 7
    assert "2 of 9 inputs are left out: the original does not run on them" in str(
        report.verification.notes
    )
    assert validate(model, folded).agree


def test_data_that_the_original_refuses_is_an_error():
    x = np.ones((4, 4), np.float32)
    with pytest.raises(ModelError, match="the model does not run on the data"):
        validate(chosen(2.0), data={"x": x})
    assert validate(chosen(0.5), data={"x": x}).samples > 1

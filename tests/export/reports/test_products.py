"""Reports on BatchNormalization behind Gemm and MatMul, and on ranks other than four."""

from __future__ import annotations

import numpy as np
import pytest
from reported import kinds

from fastbn.bench.patterns.sketch import Sketch

report = pytest.mark.report


@report("onnx/optimizer#26", bn="1 → 0")
def test_a_fully_connected_layer(fold):
    g = Sketch(26)
    h = g.relu(g.conv(g.input(3, 6, 6), 4))
    h = g.op("Flatten", [h], channels=64)
    folded, _ = fold(g.model(g.bn(g.gemm(h, 5, bias=g.normal(5)))), shape=(2, 3, 6, 6))
    assert kinds(folded)[-1] == "Gemm"


@report("XiaoMi/mace#551", bn="2 → 0")
def test_an_image_then_a_fully_connected_layer(fold):
    g = Sketch(551, opset=11)
    h = g.relu(g.bn(g.conv(g.input(3, 6, 6), 4)))
    h = g.op("Reshape", [h, g.integers(-1, 64)], channels=64)
    fold(g.model(g.relu(g.bn(g.gemm(h, 5)))), shape=(2, 3, 6, 6))


@report("pytorch/pytorch#37467", "pytorch/pytorch#37383", "qualcomm/aimet#373", bn="1 → 0")
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(fold, bias):
    g = Sketch(37467)
    h = g.gemm(g.input(6), 5, transB=1, bias=g.normal(5) if bias else None)
    folded, _ = fold(g.model(g.bn(h)))
    assert kinds(folded) == ["Gemm"]


@report("microsoft/onnxscript#3027", bn="1 → 0")
@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_beta_of_a_gemm(fold, beta):
    g = Sketch(3027)
    fold(g.model(g.bn(g.gemm(g.input(6), 5, bias=3.0 * g.normal(5), beta=beta))))


@report("microsoft/onnxscript#2312", bn="3 → 0")
def test_conv_convtranspose_and_gemm(fold):
    g = Sketch(2312)
    h = g.relu(g.bn(g.conv(g.input(3, 6, 6), 4)))
    h = g.relu(g.bn(g.conv_transpose(h, 5)))
    h = g.op("Flatten", [g.op("GlobalAveragePool", [h])])
    fold(g.model(g.bn(g.gemm(h, 3, features=5))), shape=(2, 3, 6, 6))


@report("onnx/onnx-mlir#3131", bn="1 → 0")
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_transposed_weight(fold, transposed):
    g = Sketch(3131)
    h = g.gemm(g.input(6), 5, transB=transposed, alpha=0.5, bias=g.normal(5))
    fold(g.model(g.bn(h)))


WAYS = [
    ["Reshape", "Transpose"],
    ["Reshape"],
    ["Transpose"],
    ["Reshape", "Reshape"],
    ["Reshape", "Transpose", "Reshape"],
]


@report("microsoft/onnxruntime#17915", bn="1 → 0")
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_a_product_seen_through_shapes(fold, way):
    """(rows, 6) times (6, 4); rows and columns change places, so that columns are channels."""
    g = Sketch(17915)
    x = g.input(name="x")
    dim = g.inputs[0].type.tensor_type.shape.dim
    rows = 4 if way == ["Transpose"] else 8
    dim[0].dim_value = rows
    dim.add().dim_value = 6
    h = g.op("MatMul", [x, g.constant(g.normal(6, 4))])
    if way == ["Reshape"]:
        h = g.op("Reshape", [h, g.integers(-1, 4)])
    elif way == ["Reshape", "Reshape"]:
        h = g.op("Reshape", [g.op("Reshape", [h, g.integers(2, 4, 4)]), g.integers(8, 4)])
    elif way == ["Transpose"]:
        h = g.op("Transpose", [h], perm=[0, 1])
    else:
        h = g.op("Reshape", [h, g.integers(2, 4, 4)])
        h = g.op("Transpose", [h], perm=[0, 2, 1])
        if way[-1] == "Reshape":
            h = g.op("Reshape", [h, g.integers(2, 4, 2, 2)])
    fold(g.model(g.bn(h, channels=4)), shape=(rows, 6))


@report(
    "microsoft/onnxruntime#22512",
    "microsoft/onnxruntime#12522",
    "huggingface/optimum#348",
    bn="1 → 1",
)
def test_a_product_of_rank_three_flattened(fold):
    g = Sketch(22512)
    h = g.op("MatMul", [g.input("L", 6), g.constant(g.normal(6, 5))])
    h = g.bn(g.op("Reshape", [h, g.integers(-1, 5)]), channels=5)
    model = g.model(g.op("Reshape", [h, g.integers(-1, 7, 5)]))
    fold(model, reason="has no bias for the shift")


@report("pytorch/pytorch#118990", "pytorch/pytorch#119264", bn="1 → 1")
def test_it_runs_over_another_axis_than_the_product(fold):
    g = Sketch(118990)
    h = g.op("MatMul", [g.input(5, 3, 2), g.constant(g.normal(2, 4))])
    fold(g.model(g.bn(g.op("Add", [h, g.constant(g.normal(4))]), channels=5)), reason="backwards")


@report("pytorch/ao#4116", "pytorch/executorch#17736", bn="1 → 1")
@pytest.mark.parametrize("size", [3, 5])
def test_another_axis_that_is_as_long_by_chance(fold, size):
    g = Sketch(4116)
    h = g.op("MatMul", [g.input(3, 4), g.constant(g.normal(4, size))])
    fold(g.model(g.bn(g.op("Add", [h, g.constant(g.normal(size))]), channels=3)))


@report("microsoft/onnxruntime#25599", "microsoft/onnxruntime#26659", bn="1 → 0")
def test_rows_of_features(fold):
    g = Sketch(25599)
    folded, _ = fold(g.model(g.bn(g.matmul(g.input(6), 4))))
    assert kinds(folded) == ["Gemm"]


@report("microsoft/onnxruntime#25230", bn="1 → 1")
def test_rows_of_features_alone(fold):
    g = Sketch(25230)
    fold(g.model(g.bn(g.input(6))), reason="is a graph input")


@report("onnx/onnx-tensorrt#566", bn="2 → 0")
def test_behind_a_pooled_image(fold):
    g = Sketch(566, opset=11)
    h = g.relu(g.bn(g.conv(g.input(3, 8, 8), 6)))
    h = g.gemm(g.op("Flatten", [g.op("GlobalAveragePool", [h])]), 4, features=6)
    fold(g.model(g.relu(g.bn(h))))


@report("inisis/OnnxSlim#160", bn="1 → 0")
def test_the_product_is_the_second_term(fold):
    g = Sketch(160)
    h = g.op("Add", [g.constant(g.normal(5)), g.matmul(g.input(6), 5)])
    h = g.op("Add", [g.op("Mul", [h, g.constant(g.normal(5))]), g.constant(g.normal(5))])
    folded, _ = fold(g.model(g.bn(h, channels=5)))
    assert not {"Mul", "BatchNormalization"} & set(kinds(folded))


@report("apache/tvm#9838", bn="1 → 0")
def test_a_product_and_its_bias(fold):
    g = Sketch(9838)
    h = g.op("Add", [g.matmul(g.input(6), 5), g.constant(g.normal(5))])
    fold(g.model(g.relu(g.bn(h, channels=5))))


@report("apache/tvm#3216", bn="1 → 0")
def test_small_variances(fold):
    g = Sketch(3216)
    h = g.gemm(g.input(6), 20)
    given = {k: g.normal(20) for k in ("scale", "bias", "mean")}
    fold(g.model(g.bn(h, given=given | {"var": np.abs(g.normal(20))})))


@report("onnx/onnx#3657", bn="1 → 1")
def test_an_input_of_one_axis(fold):
    g = Sketch(3657)
    fold(g.model(g.bn(g.input(), channels=1)))

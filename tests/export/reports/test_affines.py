"""Reports on Mul and Add beside BatchNorms, parallel branches, and changes of layout."""

from __future__ import annotations

import pytest
from reported import kinds

from fastbn.bench.patterns.sketch import Sketch

report = pytest.mark.report


def channels(g, c, *shape):
    return g.constant(g.rng.uniform(0.5, 1.5, c).reshape(shape or (1, c, 1, 1)))


@report("onnx/onnx#1046", "onnx/onnx#1139", bn="1 → 0")
def test_mul_and_add_behind_a_batchnorm_alone(fold):
    """Caffe's BatchNorm and Scale."""
    g = Sketch(1046)
    h = g.bn(g.input(4, 6, 6))
    h = g.op("Add", [g.op("Mul", [h, channels(g, 4)]), channels(g, 4)])
    folded, _ = fold(g.model(h))
    assert kinds(folded) == ["Mul", "Add"]


@report("alibaba/MNN#323", bn="1 → 0")
def test_behind_an_activation_and_with_a_scale(fold):
    g = Sketch(323)
    h = g.bn(g.relu(g.conv(g.input(3, 8, 8), 4, pad=1)))
    h = g.op("Add", [g.op("Mul", [h, channels(g, 4)]), channels(g, 4)])
    folded, _ = fold(g.model(h))
    assert kinds(folded) == ["Conv", "Max"]


@report("onnx/onnx#1828", bn="0 → 0")
def test_mul_behind_a_convolution(fold):
    g = Sketch(1828)
    h = g.op("Mul", [g.conv(g.input(3, 8, 8), 4, bias=True), channels(g, 4)])
    folded, _ = fold(g.model(h))
    assert kinds(folded) == ["Conv"]


@report("microsoft/onnxruntime#1028", bn="0 → 0")
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
def test_either_form_of_a_constant_per_channel(fold, shape):
    g = Sketch(1028)
    h = g.op("Mul", [g.conv(g.input(3, 8, 8), 4), channels(g, 4, *shape)])
    folded, _ = fold(g.model(g.op("Add", [channels(g, 4, *shape), h])))
    assert kinds(folded) == ["Conv"]


@report("microsoft/onnxruntime#6295", bn="0 → 0")
@pytest.mark.parametrize("operator", ["Mul", "Add"])
def test_a_convolution_over_one_dimension(fold, operator):
    g = Sketch(6295)
    h = g.op(operator, [g.conv(g.input(3, 9), 4, rank=1), channels(g, 4, 1, 4, 1)])
    folded, _ = fold(g.model(h))
    assert kinds(folded) == ["Conv"]


@report("microsoft/onnxruntime#12498", bn="1 → 0")
def test_a_map_behind_a_grouped_convolution(fold):
    g = Sketch(12498)
    h = g.conv(g.input(8, 5, 5), 8, 1, group=4, bias=True)
    h = g.op("Add", [h, g.constant(g.normal(1, 8, 5, 5))])
    folded, _ = fold(g.model(g.bn(h)))
    assert kinds(folded) == ["Conv", "Add"]


@report("openvinotoolkit/openvino#1882", bn="1 → 0")
def test_mul_behind_a_grouped_convolution(fold):
    g = Sketch(1882)
    h = g.op("Mul", [g.conv(g.input(6, 6, 6), 9, group=3), channels(g, 9)])
    folded, _ = fold(g.model(g.bn(h)))
    assert kinds(folded) == ["Conv"]


@report("microsoft/onnxruntime#26376", bn="0 → 0")
def test_mul_and_add_need_no_batchnorm(fold):
    g = Sketch(26376)
    h = g.op("Mul", [g.conv(g.input(3, 8, 8), 4, pad=1), channels(g, 4)])
    folded, _ = fold(g.model(g.relu(g.op("Add", [h, channels(g, 4)]))))
    assert kinds(folded) == ["Conv", "Relu"]


@report("openvinotoolkit/openvino#1569", bn="0 → 0")
def test_a_batchnorm_as_four_nodes(fold):
    g = Sketch(1569)
    h = g.conv(g.input(3, 8, 8), 4)
    for operator in ("Mul", "Add", "Mul", "Add"):
        h = g.op(operator, [h, channels(g, 4)])
    folded, _ = fold(g.model(h))
    assert kinds(folded) == ["Conv"]


@report("tensorflow/tensorflow#44950", bn="0 → 0")
def test_a_batchnorm_worked_out_in_the_graph(fold):
    """(x − μ)·(γ/√(σ² + ε)) + β, whose constants are nodes."""
    g = Sketch(44950)
    h = g.conv(g.input(3, 8, 8), 4)
    gamma, mean, beta = (channels(g, 4) for _ in range(3))
    std = g.op("Sqrt", [g.op("Add", [channels(g, 4), g.constant(1e-3)])])
    scale = g.op("Div", [gamma, std])
    h = g.op("Mul", [g.op("Sub", [h, mean]), scale])
    folded, _ = fold(g.model(g.op("Add", [h, beta])))
    assert kinds(folded) == ["Conv"]


@report("onnx/tensorflow-onnx#1079", bn="1 → 0")
def test_some_as_mul_and_add_and_some_as_batchnorms(fold):
    g = Sketch(1079, opset=11)
    h = g.op("Mul", [g.conv(g.input(3, 9, 9), 4), channels(g, 4)])
    h = g.op("Clip", [g.op("Add", [h, channels(g, 4)]), g.constant(0.0), g.constant(6.0)])
    folded, _ = fold(g.model(g.bn(g.conv(h, 4, group=4, pad=1))))
    assert kinds(folded) == ["Conv", "Clip", "Conv"]


@report("onnx/tensorflow-onnx#2300", bn="1 → 0")
def test_parameters_behind_reshapes(fold):
    g = Sketch(2300, opset=13)
    h = g.conv(g.input(3, 9, 9), 4, pad=1)
    for operator in ("Mul", "Add"):
        constant = g.op("Reshape", [channels(g, 4, 4), g.integers(1, 4, 1, 1)])
        h = g.op(operator, [h, constant], channels=4)
    folded, _ = fold(g.model(g.bn(h)))
    assert kinds(folded) == ["Conv"]


@report("jizhishutong/YOLOU#24", bn="3 → 0")
def test_a_block_of_repvgg(fold):
    g = Sketch(24)
    x = g.relu(g.conv(g.input(3, 9, 9), 4))
    h = g.op("Add", [g.bn(g.conv(x, 4, pad=1)), g.bn(g.conv(x, 4, 1))])
    folded, result = fold(g.model(g.relu(g.op("Add", [h, g.bn(x)]))))
    assert kinds(folded) == ["Conv", "Relu", "Conv", "Relu"]
    assert result.convolutions_merged > 0


@report("microsoft/onnxruntime#3166", bn="1 → 0")
def test_between_transpositions_of_a_spectrogram(fold):
    g = Sketch(3166)
    h = g.conv(g.input(1, 64, name="x"), 8, 16, rank=1, strides=[4])
    h = g.op("Unsqueeze", [g.op("Transpose", [h], perm=[0, 2, 1]), g.integers(1)])
    h = g.op("Transpose", [h], perm=[0, 3, 2, 1])
    g.channels[h] = 8
    h = g.op("Transpose", [g.bn(g.conv(h, 8, 1, bias=True))], perm=[0, 3, 2, 1])
    g.channels[h] = 1
    fold(g.model(g.conv(h, 4, pad=1)))


@report("onnx/tensorflow-onnx#1749", bn="1 → 0")
def test_between_transpositions_of_a_volume(fold):
    g = Sketch(1749, opset=11)
    h = g.op("Transpose", [g.input(5, 6, 7, 3)], perm=[0, 4, 1, 2, 3])
    g.channels[h] = 3
    h = g.op("Transpose", [g.conv(h, 3, rank=3, pad=1)], perm=[0, 2, 3, 4, 1])
    h = g.bn(g.op("Transpose", [h], perm=[0, 4, 1, 2, 3]), channels=3)
    fold(g.model(g.op("Transpose", [g.relu(h)], perm=[0, 2, 3, 4, 1])))


@report("onnx/onnxmltools#130", "PINTO0309/onnx2tf#459", bn="2 → 0")
def test_transpositions_around_every_node(fold):
    g = Sketch(130, opset=9)
    there, back = {"perm": [0, 3, 1, 2]}, {"perm": [0, 2, 3, 1]}
    h = g.input(9, 9, 3)
    for c in (3, 4):
        h = g.op("Transpose", [h], **there)
        g.channels[h] = c
        h = g.op("Transpose", [g.conv(h, 4)], **back)
        h = g.bn(g.op("Transpose", [h], **there), channels=4)
        h = g.op("Transpose", [g.relu(h)], **back)
    fold(g.model(h))

"""Reports on what surrounds a fold: initializers, names, shared weights, subgraphs, large files."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from reported import kinds

from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import fold_batch_norm, fold_file

report = pytest.mark.report


@report("onnx/optimizer#133", bn="1 → 0")
def test_no_nodes_that_compute_weights_are_left(fold):
    g = Sketch(133, opset=11)
    folded, _ = fold(g.model(g.bn(g.conv(g.input(3, 8, 8), 4))))
    assert kinds(folded) == ["Conv"]
    assert len(folded.graph.initializer) == 2


def with_constant_nodes(model):
    """Initializers as Constant nodes in front."""
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    nodes += model.graph.node
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@report("onnx/optimizer#178", bn="2 → 0")
def test_weights_in_constant_nodes(fold):
    g = Sketch(178, opset=12)
    h = g.op("LeakyRelu", [g.bn(g.conv(g.input(3, 9, 9), 4, pad=1))], alpha=0.1)
    model = with_constant_nodes(g.model(g.bn(g.conv(h, 5, pad=1))))
    folded, _ = fold(model)
    assert [kind for kind in kinds(folded) if kind != "Constant"] == ["Conv", "LeakyRelu", "Conv"]


@report("onnx/optimizer#174", bn="6 → 0")
def test_names_of_new_weights_are_unique(fold):
    g = Sketch(174, opset=9)
    h = g.input(3, 9, 9)
    for _ in range(3):
        h = g.relu(g.op("Add", [g.bn(g.conv(h, 4, 1)), g.bn(g.conv(h, 4, pad=1))]))
    folded, _ = fold(g.model(h))
    names = [tensor.name for tensor in folded.graph.initializer]
    assert len(names) == len(set(names))


@report("onnx/optimizer#325", "onnxsim/onnxsim#545", bn="2 → 0")
def test_weights_listed_as_inputs_before_ir_4(fold):
    g = Sketch(325, opset=8, ir_version=3)
    h = g.relu(g.bn(g.conv(g.input(3, 9, 9), 4)))
    model = g.model(g.bn(g.conv(h, 4)))
    assert len(model.graph.input) > 10
    folded, _ = fold(model)
    assert kinds(folded) == ["Conv", "Relu", "Conv"]


@report("onnx/onnx#2198", "onnx/optimizer#13", bn="1 → 0")
def test_weights_not_listed_as_inputs(fold):
    g = Sketch(2198, opset=9, ir_version=4)
    folded, _ = fold(g.model(g.bn(g.conv(g.input(3, 9, 9), 4))))
    assert len(folded.graph.input) == 1


@report("microsoft/onnxruntime#3449", bn="1 → 1")
def test_weights_that_a_caller_may_replace(fold):
    g = Sketch(3449)
    model = g.model(g.bn(g.conv(g.input(3, 9, 9), 4)))
    for tensor in model.graph.initializer:
        kind = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(kind)
    fold(model, reason="is not constant")
    folded, asked = fold_batch_norm(model, overridable_as_constant=True)
    assert asked.bn_left == 0
    assert len(folded.graph.input) == 1


@report("onnx/optimizer#5", "onnx/onnx#3009", bn="1 → 0")
def test_sparse_weights(fold):
    g = Sketch(5)
    dense = np.zeros((6, 5), np.float32)
    dense[[0, 2, 5, 1], [1, 4, 0, 3]] = 1.5, -2.0, 0.5, 3.0
    h = g.op("Gemm", [g.input(6), g.constant(dense, name="weight")], channels=5)
    model = g.model(g.bn(h))
    (index,) = (i for i, t in enumerate(model.graph.initializer) if t.name == "weight")
    del model.graph.initializer[index]
    places = np.flatnonzero(dense)
    values = numpy_helper.from_array(dense.reshape(-1)[places], "weight")
    indices = numpy_helper.from_array(places.astype(np.int64), "weight_indices")
    sparse = helper.make_sparse_tensor(values, indices, [6, 5])
    model.graph.sparse_initializer.append(sparse)
    fold(model)


@report("onnx/optimizer#46", "onnx/optimizer#53", bn="1 → 0")
def test_more_than_a_protobuf_message_holds(tmp_path, monkeypatch):
    from fastbn.export import io

    g = Sketch(46)
    model = g.model(g.bn(g.conv(g.input(3, 9, 9), 4)))
    (output,) = model.graph.output
    output.CopyFrom(helper.make_tensor_value_info(output.name, 1, ["N", 4, 7, 7]))
    ir.save(ir.from_proto(model), tmp_path / "a.onnx", external_data="a.data")
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", 600)
    result = fold_file(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert (result.bn_before, result.bn_left) == (1, 0)
    assert result.verification is not None
    assert result.verification.agree
    onnx.checker.check_model(str(tmp_path / "b.onnx"))


@report("onnx/onnx#3460", bn="1 → 0")
def test_outputs_keep_their_names(fold):
    g = Sketch(3460, opset=11)
    model = g.model(g.bn(g.conv(g.input(3, 9, 9), 4)))
    folded, _ = fold(model)
    assert [v.name for v in folded.graph.output] == [v.name for v in model.graph.output]
    assert folded.graph.node[-1].output[0] == model.graph.output[0].name


@report("onnxsim/onnxsim#255", "qualcomm/aimet#3506", bn="2 → 0")
def test_two_batchnorms_share_their_statistics(fold):
    g = Sketch(255)
    x = g.input(3, 9, 9)
    names = [g.constant(v) for v in g.parameters(4).values()]
    scale = g.constant(g.parameters(4)["scale"])
    first = g.op("BatchNormalization", [g.conv(x, 4), *names])
    second = g.op("BatchNormalization", [g.conv(x, 4), scale, *names[1:]])
    fold(g.model(first, second))


@report("pytorch/pytorch#104593", bn="1 → 0")
def test_a_convolution_used_twice_and_normalised_once(fold):
    g = Sketch(104593)
    weight = g.constant(g.normal(1, 1, 1, 1))
    x, y = g.input(1, 8, 8, name="x"), g.input(1, 8, 8, name="y")
    once = g.op("Conv", [x, weight], channels=1)
    again = g.bn(g.op("Conv", [y, weight], channels=1), signs="negative")
    fold(g.model(g.op("Add", [once, again])))


@report("pytorch/pytorch#197539", bn="1 → 0")
def test_the_other_use_is_an_output(fold):
    g = Sketch(197539)
    weight, bias = g.constant(g.normal(8, 3, 3, 3)), g.constant(g.normal(8))
    x, y = g.input(3, 8, 8, name="x"), g.input(3, 8, 8, name="y")
    first = g.bn(g.op("Conv", [x, weight, bias], channels=8, pads=[1] * 4))
    fold(g.model(first, g.op("Conv", [y, weight, bias], channels=8, pads=[1] * 4)))


@report("pytorch/pytorch#52758", bn="1 → 1")
def test_somebody_else_reads_the_convolution(fold):
    g = Sketch(52758)
    h = g.conv(g.input(3, 8, 8), 4)
    fold(g.model(g.relu(g.bn(h)), g.op("Sigmoid", [h])), reason="has 2 consumers")


@report("pytorch/pytorch#166797", "microsoft/onnxscript#2680", bn="2 → 0")
def test_two_convolutions_without_bias_read_one_value(fold):
    g = Sketch(166797)
    h = g.op("MaxPool", [g.relu(g.conv(g.input(3, 12, 12), 4))], kernel_shape=[2, 2])
    wide = g.bn(g.conv(h, 8, 1))
    narrow = g.relu(g.bn(g.conv(h, 4, 1)))
    folded, _ = fold(g.model(g.op("Add", [wide, g.conv(narrow, 8, 1)])))
    weights = {t.name: t.dims for t in folded.graph.initializer}
    for node in folded.graph.node:
        if node.op_type == "Conv" and len(node.input) == 3:
            assert weights[node.input[2]] == weights[node.input[1]][:1]


def branch(opset, name, kernel):
    """Conv and BatchNorm as the branch of an If, with weights of its own."""
    g = Sketch(kernel, opset=opset)
    g.channels["x"] = 3
    h = g.bn(g.conv("x", 4, kernel, pad=kernel // 2))
    graph = helper.make_graph(
        g.nodes, name, [], [helper.make_tensor_value_info(h, 1, None)], g.weights
    )
    return onnx.compose.add_prefix_graph(graph, f"{name}/", rename_inputs=False)


@report("pytorch/pytorch#68724", bn="2 → 0")
def test_inside_both_branches_of_an_if(fold):
    g = Sketch(68724, opset=13)
    x = g.input(3, 8, 8, name="x")
    which = g.op("Greater", [g.op("ReduceSum", [x], keepdims=0), g.constant(0.5)])
    y = g.op(
        "If",
        [which],
        then_branch=branch(13, "then", 3),
        else_branch=branch(13, "else", 5),
    )
    fold(g.model(y))


@report("onnx/tensorflow-onnx#871", bn="1 → 0")
def test_identities_between(fold):
    g = Sketch(871, opset=9)
    h = g.conv(g.input(3, 8, 8), 4)
    for _ in range(5):
        h = g.op("Identity", [h])
    fold(g.model(g.bn(h)))

"""Small networks, and everything a folder has to leave alone or see through."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from fastbn.bench.patterns.registry import pattern
from fastbn.bench.patterns.sketch import Sketch


@pattern("pre-activation-bottleneck", 1)
def pre_activation(g: Sketch) -> onnx.ModelProto:
    x = g.conv(g.input(3, 10, 10), 8)
    h = g.conv(g.relu(g.bn(x)), 4, 1)
    h = g.conv(g.relu(g.bn(h)), 4, 3, pad=1)
    h = g.conv(g.relu(g.bn(h, signs="mixed")), 8, 1)
    return g.model(g.op("Add", [x, h]))


@pattern("pre-activation-3x3", 1)
def pre_activation_padded(g: Sketch) -> onnx.ModelProto:
    x = g.conv(g.input(3, 10, 10), 8)
    h = g.conv(g.relu(g.bn(x)), 8, 3, pad=1)
    h = g.conv(g.relu(g.bn(h)), 8, 3, pad=1)
    return g.model(g.op("Add", [x, h]))


def _dense_block(g: Sketch, signs: str) -> onnx.ModelProto:
    x = g.relu(g.bn(g.conv(g.input(3, 10, 10), 8)))
    width = 8
    for _ in range(3):
        h = g.conv(g.relu(g.bn(x, channels=width, signs=signs)), 8, 1)
        h = g.conv(g.relu(g.bn(h)), 4, 3, pad=1)
        width += 4
        x = g.op("Concat", [x, h], channels=width, axis=1)
    h = g.op("GlobalAveragePool", [g.relu(g.bn(x, channels=width))])
    return g.model(g.gemm(g.op("Flatten", [h]), 5, bias=g.normal(5)))


@pattern("dense-block", 4)
def dense_block(g: Sketch) -> onnx.ModelProto:
    return _dense_block(g, "positive")


@pattern("dense-block-mixed", 4)
def dense_block_mixed(g: Sketch) -> onnx.ModelProto:
    return _dense_block(g, "mixed")


@pattern("dense-block-scale-nodes", 0)
def dense_block_caffe(g: Sketch) -> onnx.ModelProto:
    """Draw it as Caffe's converters do: every BatchNorm followed by a Mul and an Add."""
    plain = g.bn

    def bn(x: str, **options: Any) -> str:
        h = plain(x, **options)
        c = g.channels[h]
        h = g.op("Mul", [h, g.constant(g.rng.uniform(0.5, 1.5, (c, 1, 1)))])
        return g.op("Add", [h, g.constant(g.normal(c, 1, 1, scale=0.3))])

    g.bn = bn  # type: ignore[method-assign]
    return _dense_block(g, "mixed")


@pattern("gemm-relu-bn", 0)
def gemm_relu(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.relu(g.gemm(g.input(20), 12, bias=g.normal(12)))))


@pattern("conv-1d-relu-bn", 1)
def sequence_relu(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.relu(g.conv(g.input(4, 20), 6, rank=1, bias=True))))


@pattern("mlp", 0)
def mlp(g: Sketch) -> onnx.ModelProto:
    h = g.input(20)
    for width in (16, 12):
        h = g.relu(g.bn(g.gemm(h, width, bias=g.normal(width), transB=1)))
    return g.model(g.gemm(h, 5, bias=g.normal(5)))


@pattern("mlp-activation-first", 0)
def mlp_late(g: Sketch) -> onnx.ModelProto:
    h = g.input(20)
    for width in (16, 12):
        h = g.bn(g.relu(g.gemm(h, width, bias=g.normal(width))), signs="mixed")
    return g.model(g.gemm(h, 5, bias=g.normal(5)))


@pattern("input-norm-conv", 1)
def input_norm(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.bn(g.input(3, 10, 10)), 8, 3, pad=1)
    return g.model(g.relu(g.bn(h)))


@pattern("inverted-residual", 0)
def inverted_residual(g: Sketch) -> onnx.ModelProto:
    x = g.conv(g.input(3, 10, 10), 4)
    h = g.op("Clip", [g.bn(g.conv(x, 12, 1)), g.constant(0.0), g.constant(6.0)])
    h = g.bn(g.conv(h, 12, 3, pad=1, group=12))
    h = g.op("Clip", [h, g.constant(0.0), g.constant(6.0)], channels=12)
    return g.model(g.op("Add", [x, g.bn(g.conv(h, 4, 1))]))


@pattern("shared-weight-equal-bn", 0)
def siamese(g: Sketch) -> onnx.ModelProto:
    a, b = g.input(8, 9, 9), g.input(8, 9, 9)
    weight = g.constant(g.normal(16, 8, 3, 3, scale=0.2))
    values = g.parameters(16)
    left = g.bn(g.op("Conv", [a, weight], channels=16), given=values)
    right = g.bn(g.op("Conv", [b, weight], channels=16), given=values)
    return g.model(g.op("Sub", [left, right]))


@pattern("shared-weight-other-bn", 0)
def shared(g: Sketch, width: int = 8) -> onnx.ModelProto:
    a, b = g.input(width, 9, 9), g.input(width, 9, 9)
    weight = g.constant(g.normal(2 * width, width, 3, 3, scale=0.2))
    left = g.bn(g.op("Conv", [a, weight], channels=2 * width))
    right = g.bn(g.op("Conv", [b, weight], channels=2 * width))
    return g.model(g.op("Sub", [left, right]))


@pattern("conv-seen-twice-bn", 1)
def seen_twice(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 4)
    return g.model(g.op("Add", [g.op("Sigmoid", [g.bn(h)]), h]))


@pattern("bn-maxpool-bn", 1)
def norms_around_pooling(g: Sketch) -> onnx.ModelProto:
    h = g.op("MaxPool", [g.bn(g.input(4, 8, 8), signs="mixed")], kernel_shape=[2, 2])
    return g.model(g.op("Sigmoid", [g.bn(h)]))


@pattern("conv-bn-and-bn", 1)
def two_norms(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 4)
    left, right = g.bn(h), g.bn(h, signs="mixed")
    return g.model(g.op("Mul", [g.op("Sigmoid", [left]), g.op("Tanh", [right])]))


@pattern("conv-bn-and-equal-bn", 0)
def equal_norms(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 4)
    values = g.parameters(4)
    left, right = g.bn(h, given=values), g.bn(h, given=values)
    return g.model(g.op("Mul", [g.op("Sigmoid", [left]), g.op("Tanh", [right])]))


@pattern("conv-bn-and-conv", 0)
def norm_beside_conv(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 4)
    left, right = g.op("Sigmoid", [g.bn(h, signs="mixed")]), g.conv(h, 4, 1)
    return g.model(g.op("Mul", [left, right]))


@pattern("dense-transition", 2)
def transition(g: Sketch) -> onnx.ModelProto:
    x = g.conv(g.input(3, 10, 10), 8, 1)
    x = g.op("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    width = 8
    for _ in range(2):
        h = g.conv(g.relu(g.bn(x, channels=width)), 8, 1)
        h = g.conv(g.relu(g.bn(h)), 4, 3, pad=1)
        width += 4
        x = g.op("Concat", [x, h], channels=width, axis=1)
    return g.model(g.relu(g.bn(x, channels=width)))


@pattern("conv-output-bn", 1)
def conv_is_output(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 4)
    return g.model(g.bn(h), h)


@pattern("training-mode", 1)
def training(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 4)
    values = [g.constant(v) for v in g.parameters(4).values()]
    g.nodes.append(
        helper.make_node(
            "BatchNormalization", [h, *values], ["y", "m", "v"], name="bn", training_mode=1
        )
    )
    return g.model("y")


@pattern("parameters-from-input", 1)
def dynamic(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 4)
    kind = onnx.TensorProto.FLOAT
    g.inputs.append(helper.make_tensor_value_info("gamma", kind, [4]))
    values = [g.constant(v) for v in g.parameters(4).values()]
    return g.model(g.op("BatchNormalization", [h, "gamma", *values[1:]]))


@pattern("parameters-as-constants", 0)
def constant_nodes(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 4)
    names = []
    for value in g.parameters(4, "mixed").values():
        tensor = onnx.numpy_helper.from_array(value.astype(np.float32))
        names.append(_constant(g, tensor))
    return g.model(g.op("BatchNormalization", [h, *names]))


def _constant(g: Sketch, tensor: onnx.TensorProto) -> str:
    name = g.fresh("constant")
    g.nodes.append(helper.make_node("Constant", [], [name], name=f"n_{name}", value=tensor))
    return name


@pattern("parameters-computed", 0)
def computed(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 4)
    one = onnx.numpy_helper.from_array(np.ones(1, dtype=np.float32))
    scale = g.op("ConstantOfShape", [g.integers(4)], value=one)
    wide = g.constant(g.normal(1, 4), np.float64)
    shift = g.op("Squeeze", [g.op("Cast", [wide], to=onnx.TensorProto.FLOAT), g.integers(0)])
    mean = g.op("Mul", [shift, g.constant(0.5)])
    var = g.op("Expand", [g.constant([2.0]), g.integers(4)])
    return g.model(g.op("BatchNormalization", [h, scale, shift, mean, var]))


@pattern("identity-bn", 0)
def nothing(g: Sketch) -> onnx.ModelProto:
    values = {"scale": np.ones(3), "bias": np.zeros(3), "mean": np.zeros(3), "var": np.ones(3)}
    h = g.bn(g.input(3, 8, 8), given=values, epsilon=0.0)
    return g.model(g.op("Sigmoid", [h]))


@pattern("dead-channels", 0)
def dead(g: Sketch) -> onnx.ModelProto:
    values = g.parameters(6)
    values["scale"] *= [1, 0, 1e-42, 1, 1e-20, 1]
    return g.model(g.relu(g.bn(g.conv(g.input(3, 8, 8), 6), given=values)))


@pattern("dead-channels-relu-conv", 0)
def dead_forwards(g: Sketch) -> onnx.ModelProto:
    values = g.parameters(6)
    values["scale"] *= [1, 0, 1e-42, 1, 1e-20, 1]
    return g.model(g.conv(g.relu(g.bn(g.input(6, 8, 8), given=values)), 4, 1))


@pattern("large-mean", 0)
def large_mean(g: Sketch) -> onnx.ModelProto:
    values = g.parameters(6)
    values["mean"] = values["mean"] * 1e3
    return g.model(g.bn(g.conv(g.input(3, 8, 8), 6), given=values))


@pattern("dynamic-size", 0)
def dynamic_size(g: Sketch) -> onnx.ModelProto:
    h = g.relu(g.bn(g.conv(g.input(3, "H", "W"), 6, pad=1)))
    h = g.bn(g.op("GlobalAveragePool", [g.bn(g.conv(h, 8, pad=1), signs="mixed")]))
    return g.model(g.gemm(g.op("Flatten", [h]), 5))


@pattern("if-branches", 0)
def branches(g: Sketch) -> onnx.ModelProto:
    x = g.input(3, 8, 8)
    # A sum near zero would be decided by rounding.
    condition = g.op("Greater", [g.op("ReduceMax", [x], keepdims=0), g.constant(0.5)])
    graphs = {}
    for name in ("then_branch", "else_branch"):
        outer, g.nodes = g.nodes, []
        result = g.bn(g.conv(x, 4), signs="mixed")
        kind = onnx.TensorProto.FLOAT
        info = helper.make_tensor_value_info(result, kind, ["N", 4, 6, 6])
        graphs[name] = helper.make_graph(g.nodes, name, [], [info])
        g.nodes = outer
    return g.model(g.op("If", [condition], **graphs))

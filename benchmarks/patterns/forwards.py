"""BatchNorm in front of a linear operator, with nothing after it that could take it in."""

from __future__ import annotations

from typing import Any

import onnx

from fastbn.bench.patterns.registry import Drawing, pattern
from fastbn.bench.patterns.sketch import Sketch


def _into_conv(
    *, signs: str = "mixed", channels: int = 4, relu: bool = False, head: str = "", **options: Any
) -> Drawing:
    """Draw x → BatchNorm [→ Relu] → Conv [→ head]."""

    def draw(g: Sketch) -> onnx.ModelProto:
        h = g.bn(g.input(channels, 8, 8), signs=signs)
        h = g.conv(
            g.relu(h) if relu else h,
            6,
            options.get("kernel", 3),
            **{key: value for key, value in options.items() if key != "kernel"},
        )
        if head == "gap":
            h = g.gemm(g.op("Flatten", [g.op("GlobalAveragePool", [h])]), 5, bias=g.normal(5))
        elif head == "flatten":
            h = g.gemm(g.op("Flatten", [h]), 5, features=6 * 64, bias=g.normal(5))
        return g.model(h)

    return draw


pattern("bn-conv-1x1", 0)(_into_conv(kernel=1))
pattern("bn-conv-3x3", 0)(_into_conv())
pattern("bn-conv-grouped", 0)(_into_conv(group=2))
pattern("bn-conv-padded", 1)(_into_conv(pad=1))
pattern("bn-conv-padded-one-channel", 1)(_into_conv(pad=1, channels=1, signs="positive"))
pattern("bn-conv-padded-strided", 1)(_into_conv(pad=1, channels=16, strides=[3, 3]))
pattern("bn-conv-padded-gap-gemm", 0)(_into_conv(pad=1, head="gap"))
pattern("bn-conv-padded-flatten-gemm", 0)(_into_conv(pad=1, head="flatten"))
pattern("bn-relu-conv-1x1", 0)(_into_conv(kernel=1, relu=True, signs="positive"))
pattern("bn-relu-conv-1x1-mixed", 1)(_into_conv(kernel=1, relu=True))
pattern("bn-relu-conv-1x1-negative", 0)(_into_conv(kernel=1, relu=True, signs="negative"))
pattern("bn-relu-conv-3x3", 0)(_into_conv(relu=True, signs="positive"))
pattern("bn-relu-conv-padded", 1)(_into_conv(relu=True, pad=1, signs="positive"))
pattern("bn-relu-conv-padded-gap-gemm", 0)(
    _into_conv(relu=True, pad=1, head="gap", signs="positive")
)


@pattern("bn-gemm", 0)
def gemm(g: Sketch) -> onnx.ModelProto:
    return g.model(g.gemm(g.bn(g.input(7), signs="mixed"), 5))


@pattern("bn-gemm-transposed-alpha-beta", 0)
def gemm_attributes(g: Sketch) -> onnx.ModelProto:
    h = g.bn(g.input(7), signs="mixed")
    return g.model(g.gemm(h, 5, bias=g.normal(1, 5), transB=1, alpha=0.5, beta=-2.0))


@pattern("bn-matmul", 0)
def matmul(g: Sketch) -> onnx.ModelProto:
    return g.model(g.matmul(g.bn(g.input(7), signs="mixed"), 5))


@pattern("bn-matmul-add", 0)
def matmul_add(g: Sketch) -> onnx.ModelProto:
    h = g.matmul(g.bn(g.input(7), signs="mixed"), 5)
    return g.model(g.op("Add", [h, g.constant(g.normal(5))]))


@pattern("bn-transpose-matmul-add", 0)
def sequence(g: Sketch) -> onnx.ModelProto:
    h = g.op("Transpose", [g.bn(g.input(7, 4), signs="mixed")], perm=[0, 2, 1])
    h = g.matmul(h, 5, features=7)
    return g.model(g.op("Add", [h, g.constant(g.normal(5))]))


@pattern("bn-flatten-gemm", 0)
def flatten(g: Sketch) -> onnx.ModelProto:
    h = g.op("Flatten", [g.bn(g.input(3, 4, 4), signs="mixed")])
    return g.model(g.gemm(h, 5, features=48, bias=g.normal(5)))


@pattern("bn-reshape-gemm", 0)
def reshape(g: Sketch) -> onnx.ModelProto:
    h = g.op("Reshape", [g.bn(g.input(3, 4, 4), signs="mixed"), g.integers(-1, 48)])
    return g.model(g.gemm(h, 5, features=48))


@pattern("bn-maxpool-conv", 0)
def maxpool(g: Sketch) -> onnx.ModelProto:
    h = g.op("MaxPool", [g.bn(g.input(3, 8, 8))], kernel_shape=[2, 2])
    return g.model(g.conv(h, 5))


@pattern("bn-maxpool-conv-mixed", 1)
def maxpool_mixed(g: Sketch) -> onnx.ModelProto:
    h = g.op("MaxPool", [g.bn(g.input(3, 8, 8), signs="mixed")], kernel_shape=[2, 2])
    return g.model(g.conv(h, 5))


@pattern("conv-maxpool-bn-conv-padded-mixed", 0)
def maxpool_shared(g: Sketch) -> onnx.ModelProto:
    h = g.op("MaxPool", [g.conv(g.input(3, 9, 9), 4)], kernel_shape=[2, 2])
    return g.model(g.conv(g.bn(h, signs="mixed"), 5, pad=1))


@pattern("conv-relu-bn-conv-padded", 1)
def relu_first(g: Sketch) -> onnx.ModelProto:
    h = g.bn(g.relu(g.conv(g.input(3, 9, 9), 4)), signs="mixed")
    return g.model(g.conv(h, 5, pad=1))


@pattern("conv-leaky-relu-bn-conv", 0)
def leaky(g: Sketch) -> onnx.ModelProto:
    h = g.op("LeakyRelu", [g.conv(g.input(3, 9, 9), 4)], alpha=0.1)
    return g.model(g.conv(g.bn(h, signs="mixed"), 5))


@pattern("conv-prelu-bn-gemm", 0)
def prelu(g: Sketch) -> onnx.ModelProto:
    h = g.op("PRelu", [g.conv(g.input(3, 9, 9), 4), g.constant(g.normal(4, 1, 1, scale=0.1))])
    h = g.op("Flatten", [g.op("GlobalAveragePool", [g.bn(h, signs="mixed")])])
    return g.model(g.gemm(h, 5))


@pattern("bn-avgpool-conv", 0)
def average(g: Sketch) -> onnx.ModelProto:
    h = g.op("AveragePool", [g.bn(g.input(3, 8, 8), signs="mixed")], kernel_shape=[2, 2])
    return g.model(g.conv(h, 5))


@pattern("bn-relu-gap-gemm", 0)
def head(g: Sketch) -> onnx.ModelProto:
    h = g.op("GlobalAveragePool", [g.relu(g.bn(g.input(6, 8, 8)))])
    return g.model(g.gemm(g.op("Flatten", [h]), 5, bias=g.normal(5)))


@pattern("bn-conv-transpose", 1)
def conv_transpose(g: Sketch) -> onnx.ModelProto:
    return g.model(g.conv_transpose(g.bn(g.input(4, 5, 5), signs="mixed"), 3, 3))


@pattern("bn-conv-transpose-gap-gemm", 0)
def conv_transpose_head(g: Sketch) -> onnx.ModelProto:
    h = g.conv_transpose(g.bn(g.input(4, 5, 5), signs="mixed"), 6, 3, strides=[2, 2])
    return g.model(g.gemm(g.op("Flatten", [g.op("GlobalAveragePool", [h])]), 5))


@pattern("bn-concat-conv", 0)
def concat(g: Sketch) -> onnx.ModelProto:
    x = g.input(3, 8, 8)
    h = g.op("Concat", [g.bn(x, signs="mixed"), x], channels=6, axis=1)
    return g.model(g.conv(h, 5))


@pattern("bn-split-convs", 0)
def split(g: Sketch) -> onnx.ModelProto:
    h = g.bn(g.input(6, 8, 8), signs="mixed")
    g.nodes.append(
        onnx.helper.make_node(
            "Split", [h, g.integers(2, 4)], ["left", "right"], name="split", axis=1
        )
    )
    g.channels.update(left=2, right=4)
    return g.model(g.op("Add", [g.conv("left", 5), g.conv("right", 5)]))


@pattern("bn-two-convs", 0)
def two(g: Sketch) -> onnx.ModelProto:
    h = g.bn(g.input(3, 8, 8), signs="mixed")
    return g.model(g.op("Add", [g.conv(h, 5), g.conv(h, 5)]))


@pattern("bn-conv-and-output", 1)
def also_output(g: Sketch) -> onnx.ModelProto:
    h = g.bn(g.input(3, 8, 8))
    return g.model(g.conv(h, 5), h)


@pattern("bn-mul-add-relu-conv", 0)
def caffe(g: Sketch) -> onnx.ModelProto:
    h = g.op("Mul", [g.bn(g.input(4, 8, 8)), g.constant(g.rng.uniform(0.5, 2, (4, 1, 1)))])
    h = g.op("Add", [h, g.constant(g.normal(4, 1, 1))])
    return g.model(g.conv(g.relu(h), 5, 1))


@pattern("bn-mul-relu", 1)
def half_scale(g: Sketch) -> onnx.ModelProto:
    h = g.op("Mul", [g.bn(g.input(4, 8, 8)), g.constant(g.normal(4, 1, 1))])
    return g.model(g.op("Sigmoid", [h]))

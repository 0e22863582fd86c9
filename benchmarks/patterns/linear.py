"""BatchNorm directly after a linear operator, in every form of one."""

from __future__ import annotations

import numpy as np
import onnx

from fastbn.bench.patterns.registry import Drawing, pattern
from fastbn.bench.patterns.sketch import Sketch


def _convolution(**options: object) -> Drawing:
    """Draw x → Conv → BatchNorm → Relu."""

    def draw(g: Sketch) -> onnx.ModelProto:
        settings = {"rank": 2, "channels": 6, **options}
        rank, channels = int(str(settings.pop("rank"))), int(str(settings.pop("channels")))
        x = g.input(channels, *(9,) * rank)
        out = int(str(settings.pop("out", 8)))
        h = g.conv(x, out, rank=rank, **settings)  # type: ignore[arg-type]
        return g.model(g.relu(g.bn(h, signs="mixed")))

    return draw


pattern("conv-bn", 0)(_convolution())
pattern("conv+bias-bn", 0)(_convolution(bias=True))
pattern("conv-padded-strided-bn", 0)(_convolution(pad=1, strides=[2, 2]))
pattern("conv-dilated-bn", 0)(_convolution(dilations=[2, 2]))
pattern("conv-same-upper-bn", 0)(_convolution(auto_pad="SAME_UPPER", strides=[2, 2]))
pattern("conv-1d-bn", 0)(_convolution(rank=1))
pattern("conv-3d-bn", 0)(_convolution(rank=3))
pattern("conv-grouped-bn", 0)(_convolution(group=2, bias=True))
pattern("conv-depthwise-bn", 0)(_convolution(group=6, out=6))
pattern("conv-float16-bn", 0, dtype="float16")(_convolution(bias=True))
for _opset in (7, 9, 11, 13, 15, 21, 24, 26):
    pattern(f"conv-bn-opset-{_opset}", 0, opset=_opset)(_convolution())
pattern("conv-bn-ir-3", 0, opset=8, ir_version=3)(_convolution())


@pattern("conv-transpose-bn", 0)
def conv_transpose(g: Sketch) -> onnx.ModelProto:
    x = g.input(4, 5, 5)
    return g.model(g.bn(g.conv_transpose(x, 6, 3, strides=[2, 2], output_padding=[1, 1])))


@pattern("conv-transpose-grouped-bn", 0)
def conv_transpose_grouped(g: Sketch) -> onnx.ModelProto:
    x = g.input(4, 5, 5)
    return g.model(g.bn(g.conv_transpose(x, 6, 3, group=2, pads=[1, 1, 1, 1]), signs="mixed"))


@pattern("gemm-bn", 0)
def gemm(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.gemm(g.input(7), 5)))


@pattern("gemm-transposed-alpha-beta-bn", 0)
def gemm_attributes(g: Sketch) -> onnx.ModelProto:
    h = g.gemm(g.input(7), 5, bias=g.normal(5), transB=1, alpha=0.5, beta=2.0)
    return g.model(g.bn(h, signs="mixed"))


@pattern("gemm-scalar-bias-bn", 0)
def gemm_scalar(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.gemm(g.input(7), 5, bias=0.3, beta=-1.5)))


@pattern("gemm-column-bias-bn", 0)
def gemm_column(g: Sketch) -> onnx.ModelProto:
    rows = g.op("MatMul", [g.constant(g.normal(6, 4)), _fixed_rows(g)])
    bias = g.constant(g.normal(6, 1))
    h = g.op("Gemm", [rows, g.constant(g.normal(7, 5, scale=0.3)), bias], channels=5)
    return g.model(g.bn(h, signs="mixed"))


def _fixed_rows(g: Sketch) -> str:
    """Draw a matrix (4, 7) that depends on the input, whose batch is open."""
    pooled = g.op("ReduceMean", [g.input(4, 7), g.integers(0)], keepdims=0)
    return g.op("Sigmoid", [pooled])


@pattern("gemm-row-bias-bn", 0)
def gemm_row(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.gemm(g.input(7), 5, bias=g.normal(1, 5))))


@pattern("gemm-transA-bn", 0)
def gemm_flipped(g: Sketch) -> onnx.ModelProto:
    flipped = g.op("Transpose", [g.input(7)], perm=[1, 0])
    fixed = g.op("MatMul", [g.constant(g.normal(7, 7)), flipped])
    h = g.op("Gemm", [fixed, g.constant(g.normal(7, 5))], channels=5, transA=1)
    return g.model(g.bn(h))


@pattern("gemm-variable-bias-bn", 0)
def gemm_variable(g: Sketch) -> onnx.ModelProto:
    x = g.input(7)
    other = g.gemm(x, 5, bias=g.normal(5))
    h = g.op("Gemm", [x, g.constant(g.normal(7, 5, scale=0.3)), other], channels=5, beta=0.5)
    return g.model(g.bn(h))


@pattern("matmul-bn", 0)
def matmul(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.matmul(g.input(7), 5)))


@pattern("matmul-add-bn", 0)
def matmul_add(g: Sketch) -> onnx.ModelProto:
    h = g.matmul(g.input(7), 5)
    return g.model(g.bn(g.op("Add", [h, g.constant(g.normal(5))])))


@pattern("matmul-add-transpose-bn", 0)
def matmul_sequence(g: Sketch) -> onnx.ModelProto:
    h = g.matmul(g.input(4, 7), 5, features=7)
    h = g.op("Add", [g.constant(g.normal(5)), h], channels=5)
    return g.model(g.bn(g.op("Transpose", [h], perm=[0, 2, 1], channels=5), signs="mixed"))


@pattern("matmul-transpose-bn-transpose-add", 0)
def matmul_late_bias(g: Sketch) -> onnx.ModelProto:
    h = g.matmul(g.input(4, 7), 5, features=7)
    h = g.bn(g.op("Transpose", [h], perm=[0, 2, 1], channels=5))
    h = g.op("Transpose", [h], perm=[0, 2, 1], channels=5)
    return g.model(g.op("Add", [h, g.constant(g.normal(5))]))


@pattern("mul-add-bn", 0)
def mul_add(g: Sketch) -> onnx.ModelProto:
    h = g.op("Mul", [g.input(3, 5, 5), g.constant(g.normal(3, 1, 1) + 2)])
    return g.model(g.bn(g.op("Add", [h, g.constant(g.normal(1, 3, 1, 1))])))


@pattern("sub-div-bn", 0)
def sub_div(g: Sketch) -> onnx.ModelProto:
    h = g.op("Sub", [g.input(3, 5, 5), g.constant(g.normal(3, 1, 1))])
    return g.model(g.bn(g.op("Div", [h, g.constant(np.full((1, 3, 1, 1), 0.25))])))


@pattern("add-bn", 1)
def add(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.op("Add", [g.input(3, 5, 5), g.constant(g.normal(3, 1, 1))])))


@pattern("conv-mul-add-bn", 0)
def conv_mul_add(g: Sketch) -> onnx.ModelProto:
    h = g.op("Mul", [g.conv(g.input(3, 8, 8), 4), g.constant(g.normal(4, 1, 1))])
    return g.model(g.bn(g.op("Add", [h, g.constant(g.normal(4, 1, 1))]), signs="mixed"))


@pattern("conv-bn-mul-add-relu", 0)
def caffe_scale(g: Sketch) -> onnx.ModelProto:
    h = g.bn(g.conv(g.input(3, 8, 8), 4))
    h = g.op("Mul", [h, g.constant(g.normal(4, 1, 1))])
    return g.model(g.relu(g.op("Add", [h, g.constant(g.normal(4, 1, 1))])))


@pattern("conv-bn-bn", 0)
def conv_bn_bn(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.bn(g.conv(g.input(3, 8, 8), 4)), signs="mixed"))


@pattern("bn-bn", 1)
def bn_bn(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.bn(g.input(3, 8, 8)), signs="mixed"))

"""ONNX's own node tests, run through ``functional``: what the standard says, not what we think.

ONNX's arrays are channels-first. They are transposed here; a 1-d image is one of height 1.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.backend.test.loader import load_model_tests

from fastbn import functional as F

Array = NDArray[Any]

CANDIDATES = re.compile(
    r"test_(basic_)?(batchnorm|conv|convtranspose|gemm|maxpool|averagepool|globalaveragepool"
    r"|relu|leakyrelu|sigmoid|tanh|softmax|elu|selu|gelu|hardsigmoid|hardswish|softplus|mish|prelu|swish|lrn"
    r"|layer_normalization|rms_normalization|group_normalization|instancenorm)(_|$)"
)


LRN_DEFAULTS = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}


class LeftOut(Exception):  # noqa: N818 - it is a verdict, not an error
    """Why a node test is not run."""


def channels_last(x: Array) -> Array:
    """(N, C, W) or (N, C, H, W) as (N, H, W, C)."""
    if x.ndim == 5:
        raise LeftOut("three spatial axes")
    if x.ndim == 3:
        x = x[:, :, None, :]
    return np.moveaxis(x, 1, -1)


def channels_first(y: Array, like: Array) -> Array:
    y = np.moveaxis(y, -1, 1)
    return y[:, :, 0] if like.ndim == 3 else y


class Windows:
    """Kernel, stride, dilation and pads of a node, for height and width."""

    def __init__(self, attributes: dict[str, Any], x: Array, kernel: list[int]) -> None:
        spatial = x.ndim - 2
        missing = [1] * (2 - spatial)
        self.kernel = (*missing, *kernel)
        self.stride = (*missing, *attributes.get("strides", [1] * spatial))
        self.dilation = (*missing, *attributes.get("dilations", [1] * spatial))
        sizes = (*missing, *x.shape[2:])
        pads = attributes.get("pads", [0] * 2 * spatial)
        begin, end = pads[:spatial], pads[spatial:]
        self.pads = [(0, 0)] * len(missing) + list(zip(begin, end, strict=True))
        auto = attributes.get("auto_pad", b"NOTSET").decode()
        if auto.startswith("SAME"):
            total = [
                max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
                for n, k, s, d in zip(sizes, self.kernel, self.stride, self.dilation, strict=True)
            ]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            self.pads = list(
                zip(small, large, strict=True)
                if auto == "SAME_UPPER"
                else zip(large, small, strict=True)
            )

    @property
    def symmetric(self) -> bool:
        return all(begin == end for begin, end in self.pads)

    def pad(self, x: Array, value: float) -> Array:
        """Pad by hand what ``functional`` does not: different pads in front and behind."""
        return np.pad(x, ((0, 0), *self.pads, (0, 0)), constant_values=value)


def batch_normalization(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    x, scale, bias, mean, var = (a.copy() for a in inputs)
    training = bool(attributes.get("training_mode", 0))
    momentum = 1.0 - attributes.get("momentum", 0.9)  # ONNX: the share of what was there before
    old_var, count = var.copy(), x.size // x.shape[1]
    y, _ = F.batch_norm(
        x,
        scale,
        bias,
        mean,
        var,
        training=training,
        momentum=momentum,
        eps=attributes.get("epsilon", 1e-5),
        axis=1,
    )
    if not training:
        return [y]
    kept = (1.0 - momentum) * old_var
    return [y, mean, kept + (var - kept) * (count - 1) / count]  # ONNX: population variance


def layer_normalization(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    x, axis, eps = inputs[0], attributes.get("axis", -1), attributes.get("epsilon", 1e-5)
    shape = x.shape[axis:]
    y, _ = F.layer_norm(x, *inputs[1:], normalized_shape=shape, eps=eps)
    moments, _ = F.batch_moments(x.reshape(-1, int(np.prod(shape))).T)
    seen = (*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
    invstd = 1.0 / np.sqrt(moments.var + eps)
    return [y, *(each.reshape(seen).astype(x.dtype) for each in (moments.mean, invstd))]


def rms_normalization(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    x, axis, eps = inputs[0], attributes.get("axis", -1), attributes.get("epsilon", 1e-5)
    return [F.rms_norm(x, inputs[1], normalized_shape=x.shape[axis:], eps=eps)[0]]


def group_normalization(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    eps = attributes.get("epsilon", 1e-5)
    return [F.group_norm(inputs[0], attributes["num_groups"], *inputs[1:], eps=eps, axis=1)[0]]


def instance_normalization(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    eps = attributes.get("epsilon", 1e-5)
    return [F.instance_norm(*inputs, eps=eps, axis=1)[0]]


def conv(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    x, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    last = channels_last(x)
    if weight.ndim == 3:
        weight = weight[:, :, None, :]
    windows = Windows(attributes, x, list(inputs[1].shape[2:]))
    padding = tuple(begin for begin, _ in windows.pads)
    if not windows.symmetric:
        last, padding = windows.pad(last, 0.0), (0, 0)
    y, _ = F.conv2d(
        last,
        weight,
        bias,
        stride=windows.stride,
        padding=padding,
        dilation=windows.dilation,
        groups=attributes.get("group", 1),
    )
    return [channels_first(y, x)]


def conv_transpose(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    x, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    last = channels_last(x)
    spatial = x.ndim - 2
    missing = [0] * (2 - spatial)
    if weight.ndim == 3:
        weight = weight[:, :, None, :]
    windows = Windows(attributes | {"auto_pad": b"NOTSET"}, x, list(inputs[1].shape[2:]))
    more = [*missing, *attributes.get("output_padding", [0] * spatial)]
    begin, end = (list(side) for side in zip(*windows.pads, strict=True))
    whole = [
        (n - 1) * s + d * (k - 1) + 1
        for n, k, s, d in zip(
            last.shape[1:3], windows.kernel, windows.stride, windows.dilation, strict=True
        )
    ]
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    wanted = attributes.get("output_shape")
    if wanted is None and auto.startswith("SAME"):
        wanted = [n * s for n, s in zip(x.shape[2:], windows.stride[-spatial:], strict=True)]
    if wanted is not None:
        wanted = [*[1] * len(missing), *wanted[-spatial:]]
        total = [w + m - size for w, m, size in zip(whole, more, wanted, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)
    y, _ = F.conv_transpose2d(
        last,
        weight,
        bias,
        stride=windows.stride,
        dilation=windows.dilation,
        groups=attributes.get("group", 1),
    )
    grown = [max(m - e, 0) for m, e in zip(more, end, strict=True)]  # what no window reaches
    y = np.pad(y, ((0, 0), *((0, g) for g in grown), (0, 0)))
    if bias is not None and any(grown):
        raise LeftOut("a bias where no window reaches")
    sizes = [w + m - b - e for w, m, b, e in zip(whole, more, begin, end, strict=True)]
    y = y[:, begin[0] : begin[0] + sizes[0], begin[1] : begin[1] + sizes[1]]
    return [channels_first(y, x)]


def gemm(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    a, b = inputs[0], inputs[1]
    x = a.T if attributes.get("transA", 0) else a
    weight = b if attributes.get("transB", 0) else b.T
    weight = weight * np.float32(attributes.get("alpha", 1.0))
    if len(inputs) < 3:
        return [F.linear(x, weight)[0]]
    c = inputs[2] * np.float32(attributes.get("beta", 1.0))
    if c.ndim == 2 and c.shape[0] > 1:
        raise LeftOut("a bias for every row is not a linear layer's")
    return [F.linear(x, weight, np.broadcast_to(c.reshape(-1), weight.shape[:1]))[0]]


def max_pool(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    (x,) = inputs
    last = channels_last(x)
    windows = Windows(attributes, x, attributes["kernel_shape"])
    padding = tuple(begin for begin, _ in windows.pads)
    if not windows.symmetric or any(
        2 * p > d * (k - 1) + 1
        for p, k, d in zip(padding, windows.kernel, windows.dilation, strict=True)
    ):
        last, padding = windows.pad(last, -np.inf), (0, 0)
    y, _ = F.max_pool2d(
        last,
        windows.kernel,
        windows.stride,
        padding,
        dilation=windows.dilation,
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
    )
    return [channels_first(y, x)]


def average_pool(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    (x,) = inputs
    last = channels_last(x)
    windows = Windows(attributes, x, attributes["kernel_shape"])
    if windows.dilation != (1, 1):
        raise LeftOut("dilated averages")
    # An even kernel's SAME padding: pad both sides alike and drop the windows nobody asked for.
    padding = tuple(max(pads) for pads in windows.pads)
    extra = [(p - begin, p - end) for p, (begin, end) in zip(padding, windows.pads, strict=True)]
    if not windows.symmetric and windows.stride != (1, 1):
        raise LeftOut("different padding in front and behind, with strides")
    include = bool(attributes.get("count_include_pad", 0))
    if any(2 * p > k for p, k in zip(padding, windows.kernel, strict=True)):
        if not include:
            raise LeftOut("padding of more than half the kernel")
        last, padding = windows.pad(last, 0.0), (0, 0)
    y, _ = F.avg_pool2d(
        last,
        windows.kernel,
        windows.stride,
        padding,
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        count_include_pad=include,
    )
    (top, bottom), (left, right) = extra
    y = y[:, top : y.shape[1] - bottom, left : y.shape[2] - right]
    return [channels_first(y, x)]


def global_average_pool(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    y, _ = F.global_avg_pool2d(channels_last(inputs[0]))
    return [y[:, :, None, None]]


def softmax(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    axis = attributes.get("axis", -1)
    y, _ = F.softmax(np.moveaxis(inputs[0], axis, -1))
    return [np.moveaxis(y, -1, axis)]


def selu(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    if attributes:
        gamma, alpha = np.float32(attributes["gamma"]), attributes["alpha"]
        return [gamma * F.elu(inputs[0], alpha)[0]]
    return [F.selu(inputs[0])[0]]


def prelu(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    x, slopes = inputs
    if slopes.ndim > 1:
        raise LeftOut("a slope for every element")
    return [F.prelu(x, slopes)[0]]


def lrn(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    constants = [attributes.get(name, value) for name, value in LRN_DEFAULTS.items()]
    y = F.local_response_norm(channels_last(inputs[0]), attributes["size"], *constants)[0]
    return [channels_first(y, inputs[0])]


def swish(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    alpha = attributes.get("alpha", 1.0)
    return [F.silu((alpha * inputs[0]).astype(np.float32))[0] / np.float32(alpha)]


def hard_sigmoid(inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    """Ours has the slope 1/6 and 1/2 at 0."""
    slope, at_zero = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    x = 6.0 * (slope * inputs[0] + at_zero) - 3.0
    return [F.hardsigmoid(x.astype(np.float32))[0]]


RUN: dict[str, Callable[[list[Array], dict[str, Any]], list[Array]]] = {
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "Softmax": softmax,
    "Relu": lambda inputs, attributes: [F.relu(inputs[0])[0]],
    "LeakyRelu": lambda inputs, attributes: [
        F.leaky_relu(inputs[0], attributes.get("alpha", 0.01))[0]
    ],
    "Sigmoid": lambda inputs, attributes: [F.sigmoid(inputs[0])[0]],
    "Tanh": lambda inputs, attributes: [F.tanh(inputs[0])[0]],
    "Elu": lambda inputs, attributes: [F.elu(inputs[0], attributes.get("alpha", 1.0))[0]],
    "Selu": selu,
    "Gelu": lambda inputs, attributes: [
        F.gelu(inputs[0], attributes.get("approximate", b"none").decode())[0]
    ],
    "HardSigmoid": hard_sigmoid,
    "HardSwish": lambda inputs, attributes: [F.hardswish(inputs[0])[0]],
    "PRelu": prelu,
    "LRN": lrn,
    "Swish": swish,
    "Softplus": lambda inputs, attributes: [F.softplus(inputs[0])[0]],
    "Mish": lambda inputs, attributes: [F.mish(inputs[0])[0]],
}


def run(case: Any) -> None:
    """Run a node test; raise LeftOut or AssertionError."""
    graph = case.model.graph
    if len(graph.node) > 1:
        raise LeftOut("the operator written out in others")
    (node,) = graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for inputs, outputs in case.data_sets:
        if inputs[0].dtype != np.float32:
            raise LeftOut(f"{inputs[0].dtype} input")
        if node.op_type == "MaxPool" and len(outputs) > 1:
            raise LeftOut("the indices of the maxima as a second output")
        results = RUN[node.op_type](inputs, attributes)
        for result, expected in zip(results, outputs, strict=True):
            assert result.dtype == expected.dtype
            np.testing.assert_allclose(result, expected, rtol=case.rtol, atol=case.atol)


def test_onnx_node_tests(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the cases of other operators warns
        cases = load_model_tests(kind="node")
    ran, left_out, failed = [], {}, {}
    for case in (c for c in cases if CANDIDATES.match(c.name)):
        try:
            run(case)
        except LeftOut as reason:
            left_out[case.name] = str(reason)
        except Exception as problem:
            failed[case.name] = repr(problem)
        else:
            ran.append(case.name)
    with capsys.disabled():
        print(f"\nONNX node tests: {len(ran)} ran, {len(left_out)} left out:")
        for name, reason in sorted(left_out.items(), key=lambda item: item[::-1]):
            print(f"  {name}: {reason}")
    assert not failed, failed
    assert {name for name in ran if "batchnorm" in name} == {
        "test_batchnorm_example",
        "test_batchnorm_epsilon",
        "test_batchnorm_example_training_mode",
        "test_batchnorm_epsilon_training_mode",
    }
    norms = "(layer_normalization|rms_normalization|group_normalization|instancenorm)"
    assert {reason for name, reason in left_out.items() if re.search(norms, name)} == {
        "the operator written out in others"
    }
    assert len(ran) >= 130  # a new onnx may bring more; fewer means that the core lost something

"""Calls of every operation in each of its forms, for tests that go through all of them.

``CASES`` are small, ``LARGE`` are large enough for several threads. A case runs alike on
``fastbn.reference`` and on ``fastbn.functional``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]

WITH_PARAMETERS = {"linear", "conv2d", "conv_transpose2d", "batch_norm"}
WITH_PARAMETERS |= {"layer_norm", "group_norm", "instance_norm"}


@dataclass(frozen=True)
class Case:
    """An operation, the arrays it is differentiated by, and its other arguments."""

    op: str
    label: str
    make: Callable[[np.random.Generator], Arrays]  # in the order of backward's results
    options: Callable[[DTypeLike], dict[str, Any]]  # fresh ones for every call

    def __str__(self) -> str:
        return f"{self.op}[{self.label}]"

    def arrays(self, dtype: DTypeLike = np.float64, seed: int = 1) -> Arrays:
        made = self.make(np.random.default_rng(seed))
        return {name: a.astype(dtype) for name, a in made.items()}

    def forward(self, module: ModuleType, arrays: Arrays) -> tuple[Any, Any]:
        dtype = next(iter(arrays.values())).dtype
        y, saved = getattr(module, self.op)(**arrays, **self.options(dtype))
        return y, saved

    def backward(self, module: ModuleType, dy: Any, saved: Any) -> dict[str, Array]:
        """Return the gradients by the name of their array."""
        result = getattr(module, f"{self.op}_backward")(dy, saved)
        gradients = result if isinstance(result, tuple) else (result,)
        names = list(self.make(np.random.default_rng(1)))
        if self.op in WITH_PARAMETERS:
            names = ["x", "weight", "bias"] + ["residual"] * ("residual" in names)
        assert len(gradients) == len(names)
        return {n: g for n, g in zip(names, gradients, strict=True) if g is not None}


def _batch_norm(
    label: str,
    shape: tuple[int, ...],
    *,
    axis: int = -1,
    affine: bool = True,
    residual: bool = False,
    training: bool = True,
    **options: Any,
) -> Case:
    c = shape[axis]

    def make(rng: np.random.Generator) -> Arrays:
        arrays = {"x": 1.5 * rng.standard_normal(shape) + 0.5}
        arrays["weight"], arrays["bias"] = rng.uniform(0.5, 1.5, c), rng.standard_normal(c)
        if residual:
            arrays["residual"] = rng.standard_normal(shape)
        return arrays

    def without_affine(rng: np.random.Generator) -> Arrays:
        return {k: v for k, v in make(rng).items() if k not in {"weight", "bias"}}

    def fresh(dtype: DTypeLike) -> dict[str, Any]:
        rng = np.random.default_rng(3)
        buffers = {
            "running_mean": rng.standard_normal(c).astype(dtype),
            "running_var": rng.uniform(0.5, 2.0, c).astype(dtype),
        }
        none = {} if affine else {"weight": None, "bias": None}
        return {"training": training, "axis": axis, **buffers, **none, **options}

    return Case("batch_norm", label, make if affine else without_affine, fresh)


def _weighted(
    op: str,
    label: str,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    *,
    bias: bool = True,
    **options: Any,
) -> Case:
    def make(rng: np.random.Generator) -> Arrays:
        arrays = {"x": rng.standard_normal(x), "weight": rng.standard_normal(weight)}
        outputs = weight[0]
        if op == "conv_transpose2d":
            outputs = weight[1] * options.get("groups", 1)
        return arrays | ({"bias": rng.standard_normal(outputs)} if bias else {})

    return Case(op, label, make, lambda dtype: dict(options))


def _normalised(
    op: str,
    label: str,
    shape: tuple[int, ...],
    features: tuple[int, ...],
    *,
    affine: bool = True,
    **options: Any,
) -> Case:
    def make(rng: np.random.Generator) -> Arrays:
        arrays = {"x": 1.5 * rng.standard_normal(shape) + 0.5}
        if affine:
            arrays["weight"] = rng.uniform(0.5, 1.5, features)
        if affine and op != "rms_norm":
            arrays["bias"] = rng.standard_normal(features)
        return arrays

    if op in {"layer_norm", "rms_norm"}:
        options["normalized_shape"] = features
    else:
        options.setdefault("axis", -1)
    return Case(op, label, make, lambda dtype: dict(options))


def _unary(op: str, label: str, shape: tuple[int, ...], **options: Any) -> Case:
    return Case(
        op, label, lambda rng: {"x": 2 * rng.standard_normal(shape)}, lambda dtype: dict(options)
    )


def _prelu(label: str, shape: tuple[int, ...], slopes: int) -> Case:
    def made(rng: np.random.Generator) -> Arrays:
        return {"x": rng.standard_normal(shape), "weight": rng.standard_normal(slopes)}

    return Case("prelu", label, made, lambda dtype: {})


def _dropout(label: str, shape: tuple[int, ...]) -> Case:
    return Case(
        "dropout",
        label,
        lambda rng: {"x": rng.standard_normal(shape)},
        lambda dtype: {"p": 0.3, "rng": np.random.default_rng(5)},
    )


def _cross_entropy(label: str, shape: tuple[int, int], **options: Any) -> Case:
    rows, classes = shape

    def made(dtype: DTypeLike) -> dict[str, Any]:
        rng = np.random.default_rng(4)
        kept = dict(options)
        labels: Array = rng.integers(0, classes, rows)
        if kept.pop("probabilities", False):
            labels = rng.dirichlet(np.ones(classes), rows).astype(dtype)
        if kept.pop("ignored", False):
            labels[::3] = -100
        if kept.pop("weighted", False):
            kept["weight"] = rng.uniform(0.1, 3.0, classes).astype(dtype)
        if kept.pop("samples", False):
            kept["sample_weight"] = rng.uniform(0.0, 2.0, rows) * (np.arange(rows) != 1)
        return {"labels": labels, **kept}

    return Case(
        "cross_entropy", label, lambda rng: {"logits": 3 * rng.standard_normal(shape)}, made
    )


def _pairs(op: str, label: str, shape: tuple[int, ...], **options: Any) -> Case:
    def made(dtype: DTypeLike) -> dict[str, Any]:
        rng = np.random.default_rng(4)
        kept = dict(options)
        if kept.pop("samples", False):
            kept["sample_weight"] = rng.uniform(0.0, 2.0, shape[0]) * (np.arange(shape[0]) != 1)
        drawn = rng.uniform(size=shape) if op.startswith("binary") else rng.standard_normal(shape)
        return {"target": drawn.astype(dtype), **kept}

    return Case(op, label, lambda rng: {"pred": 2 * rng.standard_normal(shape)}, made)


CASES: list[Case] = [
    _batch_norm("training", (5, 3)),
    _batch_norm("four axes", (2, 3, 2, 5)),
    _batch_norm("axis 1", (2, 3, 2, 4), axis=1),
    _batch_norm("plain", (6, 3), affine=False),
    _batch_norm("relu", (7, 5), activation="relu"),
    _batch_norm("leaky", (7, 5), activation="leaky_relu", negative_slope=0.2),
    _batch_norm("residual", (3, 2, 2, 3), residual=True),
    _batch_norm("residual, relu", (3, 2, 2, 3), residual=True, activation="relu"),
    _batch_norm(
        "residual, leaky, axis 1", (3, 2, 2, 3), axis=1, residual=True, activation="leaky_relu"
    ),
    _batch_norm("gelu", (7, 5), activation="gelu"),
    _batch_norm("silu, axis 1", (3, 4, 3, 3), axis=1, activation="silu"),
    _batch_norm("residual, gelu_tanh", (3, 2, 2, 3), residual=True, activation="gelu_tanh"),
    _batch_norm("mish", (3, 17, 8), axis=1, activation="mish"),
    _batch_norm("selu, residual, axis 1", (4, 3, 33), axis=1, residual=True, activation="selu"),
    _batch_norm("hardswish", (2, 5, 3), activation="hardswish"),
    _batch_norm("inference, silu", (5, 3), training=False, activation="silu"),
    _batch_norm(
        "inference, residual, gelu, axis 1",
        (5, 3, 9),
        axis=1,
        training=False,
        residual=True,
        activation="gelu",
    ),
    _batch_norm("inference", (5, 3), training=False),
    _batch_norm("inference, relu, axis 1", (3, 4, 3), axis=1, training=False, activation="relu"),
    _batch_norm(
        "inference, residual, relu", (5, 3), training=False, residual=True, activation="relu"
    ),
    _batch_norm("inference, plain", (5, 3), training=False, affine=False),
    _normalised("layer_norm", "", (5, 7), (7,)),
    _normalised("layer_norm", "plain", (5, 7), (7,), affine=False),
    _normalised("layer_norm", "two axes", (3, 2, 4, 5), (4, 5)),
    _normalised("layer_norm", "gelu", (5, 7), (7,), activation="gelu"),
    _normalised("layer_norm", "relu, plain", (3, 19), (19,), affine=False, activation="relu"),
    _normalised("rms_norm", "", (5, 7), (7,)),
    _normalised("rms_norm", "silu", (5, 18), (18,), activation="silu"),
    _normalised("rms_norm", "leaky", (5, 8), (8,), activation="leaky_relu", negative_slope=0.3),
    _normalised("rms_norm", "eps", (2, 3, 17), (3, 17), eps=0.1),
    _normalised("group_norm", "", (3, 2, 4, 6), (6,), num_groups=2),
    _normalised("group_norm", "plain, one group", (3, 5, 4), (4,), affine=False, num_groups=1),
    _normalised("group_norm", "relu", (2, 3, 3, 6), (6,), num_groups=3, activation="relu"),
    _normalised("group_norm", "axis 1", (3, 6, 2, 4), (6,), num_groups=2, axis=1),
    _normalised(
        "group_norm",
        "leaky, axis 1",
        (2, 6, 5),
        (6,),
        num_groups=3,
        axis=1,
        activation="leaky_relu",
    ),
    _normalised("group_norm", "gelu", (2, 3, 3, 6), (6,), num_groups=3, activation="gelu"),
    _normalised(
        "group_norm", "silu, axis 1", (2, 6, 5, 7), (6,), num_groups=2, axis=1, activation="silu"
    ),
    _normalised("group_norm", "rows", (4, 6), (6,), num_groups=2),
    _normalised("instance_norm", "", (3, 4, 5, 3), (3,)),
    _normalised("instance_norm", "axis 1, relu", (3, 4, 5, 3), (4,), axis=1, activation="relu"),
    _normalised("instance_norm", "plain", (2, 7, 5), (5,), affine=False),
    _normalised(
        "instance_norm", "axis 1, gelu_tanh", (2, 3, 9), (3,), axis=1, activation="gelu_tanh"
    ),
    _weighted("linear", "bias", (5, 7), (3, 7)),
    _weighted("linear", "no bias", (5, 7), (3, 7), bias=False),
    _weighted("linear", "three axes", (2, 3, 4), (5, 4)),
    _weighted("conv2d", "3x3", (2, 5, 4, 3), (4, 3, 3, 3)),
    _weighted("conv2d", "padded", (2, 4, 5, 2), (3, 2, 3, 3), padding=1),
    _weighted("conv2d", "1x1, no bias", (2, 3, 3, 4), (5, 4, 1, 1), bias=False),
    _weighted("conv2d", "stride", (1, 6, 7, 2), (3, 2, 3, 2), stride=(2, 3), padding=(1, 0)),
    _weighted("conv2d", "dilation", (1, 7, 6, 2), (2, 2, 3, 2), dilation=(2, 3), padding=1),
    _weighted("conv2d", "groups", (2, 4, 4, 6), (4, 3, 3, 3), groups=2, padding=1),
    _weighted("conv2d", "depthwise", (2, 4, 4, 3), (6, 1, 3, 3), groups=3, stride=2),
    _weighted("conv2d", "narrow groups", (2, 5, 4, 6), (6, 3, 3, 3), groups=2, padding=1),
    _weighted("conv2d", "same, even kernel", (1, 4, 5, 2), (2, 2, 2, 4), padding="same"),
    _weighted("conv2d", "valid", (1, 4, 5, 2), (2, 2, 2, 4), padding="valid"),
    _weighted("conv2d", "depthwise, one for one", (2, 5, 4, 3), (3, 1, 3, 3), groups=3, padding=1),
    _weighted("conv_transpose2d", "2, stride", (2, 3, 4, 3), (3, 5, 2, 2), stride=2),
    _weighted(
        "conv_transpose2d", "padded, no bias", (1, 4, 3, 2), (2, 3, 3, 4), padding=1, bias=False
    ),
    _weighted(
        "conv_transpose2d",
        "output padding, groups",
        (2, 3, 3, 4),
        (4, 3, 3, 3),
        stride=(2, 3),
        padding=1,
        output_padding=(1, 2),
        groups=2,
    ),
    _weighted("conv_transpose2d", "gaps", (1, 3, 2, 2), (2, 2, 1, 2), stride=3, output_padding=2),
    _weighted(
        "conv_transpose2d", "dilation", (1, 4, 3, 2), (2, 2, 2, 3), stride=2, dilation=(3, 2)
    ),
    _weighted(
        "conv_transpose2d", "depthwise", (2, 3, 3, 3), (3, 1, 3, 3), stride=2, padding=1, groups=3
    ),
    _unary("max_pool2d", "2", (2, 4, 6, 3), kernel_size=2),
    _unary("max_pool2d", "3, overlapping", (2, 5, 6, 2), kernel_size=3, stride=2, padding=1),
    _unary("max_pool2d", "ceil", (1, 6, 5, 2), kernel_size=(3, 2), stride=2, ceil_mode=True),
    _unary("max_pool2d", "dilation", (1, 6, 7, 2), kernel_size=2, stride=1, dilation=(2, 3)),
    _unary("avg_pool2d", "2", (2, 4, 6, 3), kernel_size=2),
    _unary("avg_pool2d", "padded", (2, 5, 6, 2), kernel_size=3, stride=2, padding=1),
    _unary(
        "avg_pool2d",
        "without padding",
        (2, 5, 6, 2),
        kernel_size=(3, 2),
        stride=2,
        padding=1,
        count_include_pad=False,
    ),
    _unary("avg_pool2d", "ceil", (1, 6, 5, 2), kernel_size=3, stride=2, padding=1, ceil_mode=True),
    _unary("global_avg_pool2d", "", (2, 3, 5, 4)),
    _unary("relu", "", (5, 7)),
    _unary("leaky_relu", "0.01", (5, 7)),
    _unary("leaky_relu", "0.3", (2, 3, 5), negative_slope=0.3),
    _unary("sigmoid", "", (5, 7)),
    _unary("tanh", "", (5, 7)),
    _unary("elu", "", (5, 7)),
    _unary("elu", "0.3", (5, 7), alpha=0.3),
    _unary("selu", "", (5, 7)),
    _unary("silu", "", (5, 7)),
    _unary("gelu", "", (5, 7)),
    _unary("gelu", "tanh", (5, 7), approximate="tanh"),
    _unary("hardsigmoid", "", (5, 7)),
    _unary("hardswish", "", (5, 7)),
    _unary("relu6", "", (5, 7)),
    _unary("softplus", "", (5, 7)),
    _unary("softplus", "2", (5, 7), beta=2.0),
    _unary("mish", "", (5, 7)),
    _unary("local_response_norm", "", (2, 3, 4, 7), size=5, alpha=0.9),
    _unary("local_response_norm", "even", (5, 35), size=4, alpha=2.0, beta=0.6, k=0.5),
    _unary("local_response_norm", "wider than x", (2, 3, 4), size=13, alpha=1.0, k=2.0),
    _prelu("", (5, 19), 19),
    _prelu("one slope", (5, 7), 1),
    _unary("softmax", "", (5, 7)),
    _unary("softmax", "three axes", (2, 3, 4)),
    _unary("flatten", "", (2, 3, 4, 2)),
    _dropout("training", (6, 9)),
    _unary("dropout", "inference", (4, 3), training=False),
    _cross_entropy("", (4, 6)),
    _cross_entropy("sum", (4, 6), reduction="sum"),
    _cross_entropy("ignored", (7, 3), ignored=True),
    _cross_entropy("smoothed", (5, 6), label_smoothing=0.2),
    _cross_entropy("weighted", (7, 5), weighted=True, samples=True),
    _cross_entropy("everything", (7, 5), weighted=True, ignored=True, label_smoothing=0.3),
    _cross_entropy("probabilities", (5, 4), probabilities=True),
    _cross_entropy(
        "probabilities, everything",
        (5, 19),
        probabilities=True,
        weighted=True,
        samples=True,
        label_smoothing=0.1,
    ),
    _pairs("mse_loss", "", (4, 3)),
    _pairs("mse_loss", "weighted", (4, 3, 2), samples=True),
    _pairs("mse_loss", "sum", (4, 3), reduction="sum"),
    _pairs("l1_loss", "", (4, 3)),
    _pairs("l1_loss", "weighted", (5,), samples=True),
    _pairs("huber_loss", "", (4, 7)),
    _pairs("huber_loss", "delta", (4, 7), delta=0.3, samples=True, reduction="sum"),
    _pairs("binary_cross_entropy_with_logits", "", (4, 19)),
    _pairs("binary_cross_entropy_with_logits", "weighted", (4, 3), samples=True),
]

# Beyond the size from which work is shared, and odd, so that no cut is an even one.
LARGE: list[Case] = [
    _batch_norm("rows", (1031, 67)),
    _batch_norm("few channels", (14001, 3), activation="relu"),
    _batch_norm("many channels", (37, 1031), activation="leaky_relu"),
    _batch_norm("image", (5, 17, 19, 65), residual=True, activation="relu"),
    _batch_norm("image, axis 1", (5, 67, 17, 19), axis=1, residual=True, activation="relu"),
    _batch_norm("long runs", (2, 5, 131, 67), axis=1),
    _batch_norm("inference", (1031, 67), training=False, activation="relu"),
    _batch_norm("inference, axis 1", (5, 67, 17, 19), axis=1, training=False),
    _batch_norm("beyond the caches", (17, 33, 35, 131), activation="relu"),
    _batch_norm("beyond the caches, axis 1", (17, 131, 33, 35), axis=1, activation="relu"),
    _batch_norm("gelu", (1031, 67), activation="gelu"),
    _batch_norm("few channels, silu", (14001, 3), activation="silu"),
    _batch_norm("image, gelu", (5, 17, 19, 65), residual=True, activation="gelu"),
    _batch_norm("image, axis 1, mish", (5, 67, 17, 19), axis=1, residual=True, activation="mish"),
    _batch_norm("small, axis 1, gelu", (129, 131, 3, 3), axis=1, activation="gelu"),
    _batch_norm("long runs, gelu_tanh", (2, 5, 131, 67), axis=1, activation="gelu_tanh"),
    _batch_norm(
        "inference, selu, axis 1", (5, 67, 17, 19), axis=1, training=False, activation="selu"
    ),
    _batch_norm("beyond the caches, silu", (17, 33, 35, 131), activation="silu"),
    _normalised("layer_norm", "", (1031, 129), (129,)),
    _normalised("layer_norm", "gelu", (1031, 129), (129,), activation="gelu"),
    _normalised("layer_norm", "long rows", (37, 5001), (5001,)),
    _normalised("layer_norm", "beyond the caches", (4001, 771), (771,)),
    _normalised("rms_norm", "", (1031, 129), (129,)),
    _normalised("rms_norm", "silu, beyond the caches", (4001, 771), (771,), activation="silu"),
    _normalised("group_norm", "gelu", (5, 33, 31, 68), (68,), num_groups=17, activation="gelu"),
    _normalised(
        "group_norm",
        "silu, axis 1",
        (5, 68, 33, 31),
        (68,),
        num_groups=17,
        axis=1,
        activation="silu",
    ),
    _normalised("group_norm", "", (5, 33, 31, 68), (68,), num_groups=17, activation="relu"),
    _normalised("group_norm", "one sample", (1, 131, 67, 34), (34,), num_groups=2),
    _normalised("group_norm", "many samples", (301, 7, 7, 36), (36,), num_groups=4),
    _normalised("group_norm", "axis 1", (5, 68, 33, 31), (68,), num_groups=17, axis=1),
    _normalised("group_norm", "one group, axis 1", (3, 68, 33, 31), (68,), num_groups=1, axis=1),
    _normalised(
        "group_norm", "one sample, silu", (1, 131, 67, 34), (34,), num_groups=2, activation="silu"
    ),
    _normalised("instance_norm", "", (9, 33, 31, 35), (35,)),
    _normalised("instance_norm", "axis 1", (9, 35, 33, 31), (35,), axis=1, activation="relu"),
    _weighted("linear", "", (301, 257), (131, 257)),
    _weighted("linear", "deep", (65, 3001), (33, 3001)),
    _weighted("linear", "narrow", (4001, 33), (3, 33)),
    _weighted("conv2d", "3x3", (3, 19, 21, 35), (67, 35, 3, 3), padding=1),
    _weighted("conv2d", "3x3, few channels", (9, 17, 19, 16), (16, 16, 3, 3), padding=1),
    _weighted("conv2d", "1x1", (5, 17, 17, 67), (35, 67, 1, 1)),
    _weighted("conv2d", "stride", (2, 37, 35, 3), (33, 3, 7, 7), stride=2, padding=3),
    _weighted("conv2d", "groups", (3, 19, 17, 34), (38, 17, 3, 3), groups=2, padding=1),
    _weighted("conv2d", "narrow groups", (3, 29, 31, 36), (36, 4, 3, 3), groups=9, padding=1),
    _weighted("conv2d", "depthwise", (3, 29, 31, 35), (35, 1, 3, 3), groups=35, padding=1),
    _weighted("conv2d", "depthwise, stride", (3, 37, 33, 35), (35, 1, 5, 5), groups=35, stride=2),
    _weighted("conv2d", "long sums", (5, 31, 33, 67), (65, 67, 3, 3), padding=1),
    _weighted("conv_transpose2d", "", (3, 19, 17, 33), (33, 35, 4, 4), stride=2, padding=1),
    _unary("max_pool2d", "", (3, 41, 39, 35), kernel_size=3, stride=2, padding=1),
    _unary("avg_pool2d", "", (3, 41, 39, 35), kernel_size=3, stride=2, padding=1),
    _unary("global_avg_pool2d", "", (9, 23, 21, 67)),
    _unary("relu", "", (301, 257)),
    _unary("leaky_relu", "", (301, 257)),
    _unary("sigmoid", "", (301, 257)),
    _unary("tanh", "", (301, 257)),
    *(_unary(op, "", (301, 257)) for op in ("elu", "selu", "silu", "gelu", "softplus", "mish")),
    *(_unary(op, "", (301, 257)) for op in ("hardsigmoid", "hardswish", "relu6")),
    _unary("gelu", "tanh", (301, 257), approximate="tanh"),
    _unary("local_response_norm", "", (3, 29, 31, 67), size=5, alpha=1.0),
    _prelu("", (3001, 67), 67),
    _unary("softmax", "", (301, 257)),
    _unary("flatten", "", (31, 9, 11, 35)),
    _dropout("", (301, 257)),
    _cross_entropy("", (3001, 33)),
    _cross_entropy("shared", (3001, 33), weighted=True, samples=True, label_smoothing=0.1),
    _cross_entropy("probabilities", (3001, 33), probabilities=True),
    _pairs("mse_loss", "", (301, 257)),
    _pairs("mse_loss", "weighted", (301, 257), samples=True),
    _pairs("l1_loss", "", (301, 257)),
    _pairs("huber_loss", "", (301, 257)),
    _pairs("binary_cross_entropy_with_logits", "", (301, 257)),
]

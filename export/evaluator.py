"""A graph in float64: the truth that every other result is measured against.

:func:`to_float64` turns a model into one whose floating point is float64 throughout;
:class:`Float64Evaluator` runs it in NumPy. Convolution, pooling and batch normalisation are our
own (exact semantics, fast enough for real networks); all else is ``onnx.reference``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fastbn.budgets import EXECUTED
from fastbn.export import windows as wd
from fastbn.export.errors import DemandError

FLOATS = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    }
)


class Conv(OpRun):
    """Convolution of any rank, tap by tap."""

    op_domain = ""

    def _run(self, x, w, b=None, **attributes):  # type: ignore[no-untyped-def]
        geometry = wd.windows(
            x.shape[2:],
            w.shape[2:],
            strides=attributes.get("strides"),
            dilations=attributes.get("dilations"),
            pads=attributes.get("pads"),
            auto_pad=attributes.get("auto_pad"),
        )
        return (wd.conv(x, w, b, geometry, attributes.get("group") or 1),)


class ConvTranspose(OpRun):
    """Transposed convolution of any rank, tap by tap."""

    op_domain = ""

    def _run(self, x, w, b=None, **attributes):  # type: ignore[no-untyped-def]
        rank = x.ndim - 2
        strides = attributes.get("strides") or [1] * rank
        dilations = attributes.get("dilations") or [1] * rank
        extra = attributes.get("output_padding") or [0] * rank
        begin, size = transposed_geometry(
            x.shape[2:],
            w.shape[2:],
            strides,
            dilations,
            extra,
            pads=attributes.get("pads"),
            auto_pad=attributes.get("auto_pad"),
            output_shape=attributes.get("output_shape"),
        )
        y = wd.conv_transpose(
            x,
            w,
            b,
            groups=attributes.get("group") or 1,
            strides=strides,
            dilations=dilations,
            begin=begin,
            size=size,
        )
        return (y,)


def transposed_geometry(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
    *,
    pads: Sequence[int] | None,
    auto_pad: str | None,
    output_shape: Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    """Crop in front and output size of a transposed convolution (ONNX ConvTranspose)."""
    rank = len(kernel)
    begin, size = [], []
    for i in range(rank):
        full = strides[i] * (spatial[i] - 1) + (kernel[i] - 1) * dilations[i] + 1 + extra[i]
        if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            length = output_shape[i - rank] if output_shape else spatial[i] * strides[i]
            total = max(full - length, 0)
            # Only SAME_UPPER puts the odd element behind; all else puts it in front.
            front = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        else:
            before, after = (pads[i], pads[i + rank]) if pads else (0, 0)
            front, length = before, full - before - after
        begin.append(front)
        size.append(length)
    return begin, size


class MaxPool(OpRun):
    """Maximum pooling; the indices are worked out only where they are used."""

    op_domain = ""

    def _run(self, x, **attributes):  # type: ignore[no-untyped-def]
        if len([name for name in self.onnx_node.output if name]) > 1:
            raise NotImplementedError("MaxPool with indices")
        return (wd.max_pool(x, _pool_windows(x, attributes)),)


class AveragePool(OpRun):
    """Average pooling."""

    op_domain = ""

    def _run(self, x, **attributes):  # type: ignore[no-untyped-def]
        include = bool(attributes.get("count_include_pad"))
        return (wd.avg_pool(x, _pool_windows(x, attributes), include),)


class GlobalMaxPool(OpRun):
    """Maximum over all places."""

    op_domain = ""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


def _pool_windows(x: NDArray[Any], attributes: Mapping[str, Any]) -> wd.Windows:
    return wd.windows(
        x.shape[2:],
        attributes["kernel_shape"],
        strides=attributes.get("strides"),
        dilations=attributes.get("dilations"),
        pads=attributes.get("pads"),
        auto_pad=attributes.get("auto_pad"),
        ceil_mode=bool(attributes.get("ceil_mode")),
    )


class BatchNormalization(OpRun):
    """Batch normalisation of every opset, with running or with batch statistics.

    Training is ``training_mode=1``, before opset 14 more than one output. The running variance is
    the biased one, as ONNX has it.
    """

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, **attributes):  # type: ignore[no-untyped-def]
        # ONNX attributes are float32, the default too.
        epsilon = np.float64(np.float32(attributes.get("epsilon", 1e-5)))
        momentum = np.float64(attributes.get("momentum", 0.9))
        wanted = len(self.onnx_node.output)
        per_channel = scale.ndim == 1
        shape = (1, -1, *(1,) * (x.ndim - 2)) if per_channel and x.ndim > 1 else scale.shape
        training = bool(attributes.get("training_mode")) or (
            "training_mode" not in attributes and sum(map(bool, self.onnx_node.output)) > 1
        )
        extra: tuple[Any, ...] = ()
        if training:
            axes = tuple(a for a in range(x.ndim) if a != 1)
            batch_mean, batch_var = x.mean(axis=axes), x.var(axis=axes)
            extra = (
                mean * momentum + batch_mean * (1 - momentum),
                var * momentum + batch_var * (1 - momentum),
                batch_mean,
                batch_var,
            )
            mean, var = batch_mean, batch_var
        factor = scale / np.sqrt(var + epsilon)
        y = (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)
        return (y, *extra)[:wanted]


class Softmax(OpRun):
    """Softmax; before opset 13 over all axes from ``axis`` on, since then over ``axis`` alone."""

    op_domain = ""

    def _run(self, x, axis=None):  # type: ignore[no-untyped-def]
        y = np.exp(_log_softmax(self, x))
        return (y,)


class LogSoftmax(OpRun):
    """Logarithm of Softmax."""

    op_domain = ""

    def _run(self, x, axis=None):  # type: ignore[no-untyped-def]
        return (_log_softmax(self, x),)


def _log_softmax(operator: OpRun, x: NDArray[Any]) -> NDArray[Any]:
    old = operator.run_params["opsets"][""] < 13
    given = {a.name: a.i for a in operator.onnx_node.attribute}
    axis = given.get("axis", 1 if old else -1) % max(x.ndim, 1)
    axes = tuple(range(axis, x.ndim)) if old else (axis,)
    shifted: NDArray[Any] = x - x.max(axis=axes, keepdims=True)
    result: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis=axes, keepdims=True))
    return result


OWN_OPERATORS: list[type[OpRun]] = [
    Conv,
    ConvTranspose,
    MaxPool,
    AveragePool,
    GlobalMaxPool,
    BatchNormalization,
    Softmax,
    LogSoftmax,
]


class _Counted(ReferenceEvaluator):
    """An evaluator, and those of its subgraphs, that stops after EXECUTED nodes."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        left = _nodes_left.get() - len(self.rt_nodes_)
        if left < 0:
            raise DemandError(
                f"its loops execute more than {EXECUTED:,} nodes; that is too many to try out: "
                "skip verification"
            )
        _nodes_left.set(left)
        return super().run(*args, **kwargs)


_nodes_left: ContextVar[int] = ContextVar("fastbn_nodes_left", default=EXECUTED)


class Float64Evaluator:
    """Run a model in float64.

    Parameters
    ----------
    model : onnx.ModelProto
        Any float16, bfloat16, float32 or float64 model whose data is in memory.

    Raises
    ------
    NotImplementedError
        On running an operator that neither this package nor ``onnx.reference`` knows.
    DemandError
        On running loops that take too many turns.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        wide = to_float64(model)
        own = [cls for cls in OWN_OPERATORS if not _needs_indices(wide.graph, cls.__name__)]
        self._evaluator = _Counted(wide, new_ops=own)
        self.output_names: list[str] = list(self._evaluator.output_names)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs, in order; floating point inputs are widened first."""
        wide = {name: widen(value) for name, value in inputs.items()}
        token = _nodes_left.set(EXECUTED + len(self._evaluator.rt_nodes_))
        try:
            with np.errstate(all="ignore"):
                return list(self._evaluator.run(None, wide))
        finally:
            _nodes_left.reset(token)


def widen(value: NDArray[Any]) -> NDArray[Any]:
    """Floating point of any width (bfloat16 too) to float64, all else as it is."""
    is_float = value.dtype.kind == "f" or value.dtype.name == "bfloat16"
    return value.astype(np.float64) if is_float else value


def _needs_indices(graph: onnx.GraphProto, op_type: str) -> bool:
    """Whether a MaxPool hands out indices; then onnx.reference runs all of them."""
    if op_type != "MaxPool":
        return False
    return any(
        (node.op_type == "MaxPool" and sum(map(bool, node.output)) > 1)
        or any(_needs_indices(a.g, op_type) for a in node.attribute if a.HasField("g"))
        for node in graph.node
    )


def to_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of a model with every floating-point tensor, type and cast widened to float64.

    Storage types become exact float64 values; nothing is rounded. The copy is meant for the
    evaluator: some operators do not allow float64 in the specification (Resize's scales).
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen_graph(wide.graph)
    for function in wide.functions:
        for node in function.node:
            _widen_node(node)
    return wide


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.elem_type in FLOATS:
            kind.elem_type = onnx.TensorProto.DOUBLE
    for node in graph.node:
        _widen_node(node)


def _widen_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            _widen_graph(attribute.g)
        for graph in attribute.graphs:
            _widen_graph(graph)
        if attribute.HasField("t"):
            _widen_tensor(attribute.t)
        if attribute.name in ("to", "dtype") and attribute.i in FLOATS:
            attribute.i = onnx.TensorProto.DOUBLE
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            many = attribute.name == "value_floats"
            values = np.asarray(attribute.floats if many else attribute.f, dtype=np.float64)
            attribute.Clear()
            attribute.name = "value"
            attribute.type = onnx.AttributeProto.TENSOR
            attribute.t.CopyFrom(numpy_helper.from_array(values))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = numpy_helper.from_array(np.zeros(1, dtype=np.float64))
        node.attribute.append(onnx.helper.make_attribute("value", zero))


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type not in FLOATS or tensor.data_type == onnx.TensorProto.DOUBLE:
        return
    name = tensor.name
    values = numpy_helper.to_array(tensor).astype(np.float64)
    tensor.CopyFrom(numpy_helper.from_array(values, name))

"""Write a trained network as ONNX: BatchNorm folded away, the file proven before it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from fastbn import __version__, nn
from fastbn.export.errors import MismatchError, one_line
from fastbn.export.evaluator import Float64Evaluator
from fastbn.export.fold.api import fold_once
from fastbn.export.fold.engine import STEPS
from fastbn.export.fold.report import NodeEntry
from fastbn.export.graph import GraphBuilder
from fastbn.export.io import write_model
from fastbn.export.lower import Flow, in_own_order, lower
from fastbn.export.predictions import PredictionReport, compare_predictions
from fastbn.export.report import Report
from fastbn.export.validate import ValidationReport, compare, require_agreement

INPUT, OUTPUT = "input", "output"
LAYOUTS = ("NCHW", "NHWC")
OLDEST_OPSET = 7
OLDEST_IR = 8
# Prediction and runtime compute the same sums in different orders: relative to max|f64|.
PREDICT_TOLERANCE = 1e-4


@dataclass(slots=True)
class ExportReport(Report):
    """What was written, and how it was proven.

    Attributes
    ----------
    path : str
    opset, ir_version : int
    bn_before, bn_after, bn_left : int
        BatchNormalization nodes of the network and of the file (the last two are equal).
    affine_left : int
        Nodes that folding would have left as a multiplication or addition per channel.
    nodes_before, nodes_after : int
    nodes : list of NodeEntry
        What became of every BatchNormalization.
    max_abs_ort, max_rel_ort, rms_ort : float or None
        Worst difference between ``net.predict`` and the file in onnxruntime, both levels;
        ``rel`` is divided by max|f64|. None without verification, as all that follow.
    max_abs_f64, max_rel_f64 : float or None
        Worst difference of the file in onnxruntime from the network's float64 evaluation.
    argmax_agreement : float or None
        Share of rows for which ``net.predict`` and the file name the same class.
    verification : ValidationReport or None
        The folded graph against the one with BatchNormalization, in full.
    notes : list of str
    """

    path: str = ""
    opset: int = 0
    ir_version: int = 0
    bn_before: int = 0
    bn_after: int = 0
    bn_left: int = 0
    affine_left: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    nodes: list[NodeEntry] = field(default_factory=list)
    max_abs_ort: float | None = None
    max_rel_ort: float | None = None
    rms_ort: float | None = None
    max_abs_f64: float | None = None
    max_rel_f64: float | None = None
    argmax_agreement: float | None = None
    verification: ValidationReport | None = None
    notes: list[str] = field(default_factory=list)


def to_onnx(
    net: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: Sequence[int] | None = None,
    input_layout: str = "NCHW",
    fold: bool = True,
    opset: int = 18,
    verify: bool = True,
    allow_untrained: bool = False,
    classes: Sequence[str] | None = None,
) -> ExportReport:
    """Write a network as an ONNX file.

    Parameters
    ----------
    net : Module
        Built from the layers of ``fastbn.nn``. Weights are written as float32.
    path : path
        Written atomically, and only after all checks: a failure leaves an older file in place.
    input_shape : sequence of int, optional
        Shape of one sample as the library has it, channels last; that of the last forward by
        default.
    input_layout : {"NCHW", "NHWC"}
        Layout of images at the file's input and output.
    fold : bool
        Whether BatchNorm is folded into its neighbours.
    opset : int
        Operator set, 7 or later. A layer that needs a later one raises it, with a note.
    verify : bool
        Whether to compare the file with float64 and with ``net.predict`` in onnxruntime.
    allow_untrained : bool
        Whether a BatchNorm whose running statistics were never updated is accepted.
    classes : sequence of str, optional
        Names of the classes, kept in the file's metadata.

    Returns
    -------
    ExportReport

    Raises
    ------
    ValueError
        If the input shape is unknown or does not fit, or running statistics are missing or
        untouched.
    TypeError
        If a layer has a forward of its own.
    MismatchError
        If the file would not be the network's function within the tolerance.

    Examples
    --------
    >>> import tempfile
    >>> from fastbn import nn
    >>> net = nn.Sequential(nn.Linear(4, 8, rng=0), nn.BatchNorm(8), nn.ReLU(), nn.Linear(8, 3))
    >>> _ = net(np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = to_onnx(net, Path(folder) / "net.onnx")
    >>> report.bn_before, report.bn_after, report.argmax_agreement
    (1, 0, 1.0)
    """
    model = build_model(
        net,
        input_shape=input_shape,
        input_layout=input_layout,
        opset=opset,
        allow_untrained=allow_untrained,
    )
    report = ExportReport(path=str(Path(path)), notes=list(model.notes))
    final = model.proto
    _full_check(final)
    final = _fold(model.proto, report, fold=fold, verify=verify)
    report.opset = int(final.opset_import[0].version)
    report.ir_version = int(final.ir_version)
    _write_metadata(final, report, model.input_shape, input_layout, classes)
    if verify:
        _full_check(final)
        truth = Float64Evaluator(model.proto)
        _compare_with_network(net, final, truth, model.input_shape, input_layout, report)
    write_model(final, path)
    return report


@dataclass(slots=True)
class BuiltModel:
    """An unfolded model, the shape of a sample, and what is to be noted."""

    proto: onnx.ModelProto
    input_shape: tuple[int, ...]
    notes: list[str]


def build_model(
    net: nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    input_layout: str = "NCHW",
    opset: int = 18,
    allow_untrained: bool = False,
) -> BuiltModel:
    """Build the ONNX model of a network as it stands, BatchNormalization included.

    Parameters and errors as :func:`to_onnx`.
    """
    shape = _check_arguments(net, input_shape, input_layout, opset)
    if not allow_untrained:
        _check_trained(net)
    net.output_shape(shape)
    build = GraphBuilder(opset)
    image = len(shape) > 1
    outer = shape if input_layout == "NHWC" else (shape[-1], *shape[:-1])
    source = build.input(INPUT, ("N", *outer))
    value = source
    if image and input_layout == "NHWC":
        rank = len(shape) + 1
        order = [0, rank - 1, *range(1, rank - 1)]
        value = build.node("Transpose", [value], "to_channels_first", {"perm": order})
    flow = in_own_order(build, lower(build, net, "", Flow(value, shape)), "")
    result, inner = flow.value, flow.shape
    outer = inner if input_layout == "NHWC" else (inner[-1], *inner[:-1])
    if len(inner) > 1 and input_layout == "NHWC":
        rank = len(inner) + 1
        order = [0, *range(2, rank), 1]
        result = build.node("Transpose", [result], "to_channels_last", {"perm": order})
    graph = build.finish(source, result, OUTPUT, ("N", *outer), type(net).__name__)
    version = max(OLDEST_IR, _ir_version(build.opset))
    model = ir.Model(
        graph, ir_version=version, producer_name="fastbn", producer_version=__version__
    )
    return BuiltModel(ir.to_proto(model), shape, build.notices)


def _ir_version(opset: int) -> int:
    operator_set = onnx.helper.make_opsetid("", opset)
    return int(onnx.helper.find_min_ir_version_for([operator_set], ignore_unknown=True))


def _check_arguments(
    net: nn.Module, input_shape: Sequence[int] | None, input_layout: str, opset: int
) -> tuple[int, ...]:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net should be a Module, got {type(net).__name__}")
    if input_layout not in LAYOUTS:
        raise ValueError(f"input_layout should be one of {LAYOUTS}, got {input_layout!r}")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(f"opset should be from {OLDEST_OPSET} to {newest}, got {opset}")
    shape = net.input_shape if input_shape is None else tuple(int(n) for n in input_shape)
    if shape is None:
        raise ValueError(
            "the input shape is unknown: give input_shape, or call the network once before"
        )
    if not shape or min(shape) < 1:
        raise ValueError(f"input_shape should hold positive sizes, got {shape}")
    return shape


def _check_trained(net: nn.Module) -> None:
    """Refuse a network whose running statistics are still what they were initialised to."""
    for name, layer in net.named_modules():
        if not isinstance(layer, nn.BatchNorm):
            continue
        tracked = layer.num_batches_tracked
        if tracked is not None and int(tracked) == 0:
            raise ValueError(
                f"BatchNorm {name!r}: running statistics were never updated "
                "(num_batches_tracked is 0); train the network first, load trained weights, "
                "or give allow_untrained=True"
            )


def _full_check(model: onnx.ModelProto) -> None:
    """Check a model of our own; a failure is ours, and stops the export."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise MismatchError(f"the model is not valid ONNX: {one_line(error)}") from error


def _fold(
    original: onnx.ModelProto, report: ExportReport, *, fold: bool, verify: bool
) -> onnx.ModelProto:
    """Fold as far as rounding allows, and fill in the counts."""
    norms = sum(node.op_type == "BatchNormalization" for node in original.graph.node)
    report.bn_before = report.bn_after = report.bn_left = norms
    report.nodes_before = report.nodes_after = len(original.graph.node)
    if not fold:
        if verify:
            report.verification = compare(original, original)
            require_agreement(report.verification, "the model")
        return original
    failure: MismatchError | None = None
    for boldness in STEPS:
        folded, found = fold_once(original, boldness, duplicate_shared=False)
        report.bn_after = report.bn_left = found.bn_left
        report.affine_left = found.affine_left
        report.nodes_before, report.nodes_after = found.nodes_before, found.nodes_after
        report.nodes = found.nodes
        if not verify:
            return folded
        report.verification = compare(original, folded)
        if boldness is not STEPS[0]:
            report.notes.append(f"folded {boldness.name}, because rounding suffered otherwise")
        try:
            require_agreement(report.verification, "the folded model")
        except MismatchError as error:
            failure = failure or error
            continue
        return folded
    assert failure is not None
    raise failure


def _write_metadata(
    model: onnx.ModelProto,
    report: ExportReport,
    input_shape: tuple[int, ...],
    input_layout: str,
    classes: Sequence[str] | None,
) -> None:
    """Name the producer, and keep what a user of the file wants to know."""
    model.producer_name, model.producer_version = "fastbn", __version__
    values = {
        "fastbn_version": __version__,
        "batch_norms_before": str(report.bn_before),
        "batch_norms_after": str(report.bn_after),
        "input_shape": ",".join(map(str, input_shape)),
        "input_layout": input_layout,
    }
    if classes is not None:
        values["classes"] = json.dumps(list(classes))
    onnx.helper.set_model_props(model, values)


def _compare_with_network(
    net: nn.Module,
    model: onnx.ModelProto,
    truth: Float64Evaluator,
    input_shape: tuple[int, ...],
    input_layout: str,
    report: ExportReport,
) -> None:
    """Compare the file with ``net.predict``: that finds a wrong layout, which folding cannot."""
    worst: PredictionReport | None = None
    agreement = []
    scale = 0.0
    distance = 0.0
    for seed, batch in enumerate((1, 3)):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((batch, *input_shape)).astype(np.float32)
        found = compare_predictions(net, model, x, input_layout=input_layout)
        (y64,) = truth.run({INPUT: to_layout(x, input_layout)})
        scale = max(scale, float(np.abs(y64).max(initial=0.0)))
        distance = max(distance, found.max_abs)
        agreement.append(found.argmax_agreement)
        if worst is None or found.max_abs > worst.max_abs:
            worst = found
    assert worst is not None
    report.max_abs_ort, report.rms_ort = distance, worst.rms
    report.max_rel_ort = distance / scale if scale > 0 else 0.0
    report.argmax_agreement = float(np.mean(agreement))
    assert report.verification is not None
    report.max_abs_f64 = report.verification.max_abs_f64
    report.max_rel_f64 = report.verification.max_rel_f64
    if not distance <= PREDICT_TOLERANCE * scale:
        raise MismatchError(
            f"onnxruntime differs from net.predict by {distance:.3g}, "
            f"tolerance {PREDICT_TOLERANCE * scale:.3g}; nothing was written"
        )


def to_layout(x: NDArray[Any], input_layout: str) -> NDArray[Any]:
    """Bring samples, channels last, into the layout the file takes."""
    if input_layout == "NHWC" or x.ndim < 3:
        return x
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))

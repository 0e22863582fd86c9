"""Write a trained network as ONNX: BatchNorm folded away, the file proven before it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn import __version__, nn
from fastbn.export.build import PREDICT_TOLERANCE, BuiltModel, Normalization, build_model
from fastbn.export.errors import MismatchError, one_line
from fastbn.export.evaluator import Float64Evaluator
from fastbn.export.fold.attempts import Foldable, boldest_proven
from fastbn.export.fold.report import NodeEntry
from fastbn.export.io import write_model
from fastbn.export.precision import (
    Labelled,
    PrecisionReport,
    check_precision,
    compare_precision,
    narrowed,
    require_precision,
)
from fastbn.export.predictions import PredictionReport, compare_outputs
from fastbn.export.report import Report, ValidationReport
from fastbn.export.truth import Truth
from fastbn.export.validate import compare, require_agreement


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
    sample_norms : list of NodeEntry
        LayerNormalization and its like whose weight and bias linear nodes carry.
    max_abs_ort, max_rel_ort, rms_ort : float or None
        Worst difference between ``net.predict`` and the file in onnxruntime, both levels;
        ``rel`` is divided by max|f64|. None without verification, as all that follow.
    max_abs_f64, max_rel_f64 : float or None
        Worst difference of the file in onnxruntime from the network's float64 evaluation.
    argmax_agreement : float or None
        Share of rows for which ``net.predict`` and the file name the same class.
    verification : ValidationReport or None
        The folded graph against the one with BatchNormalization, in full.
    narrowing : PrecisionReport or None
        What float16 or int8 changed; all figures above are those of the float32 file before.
    notes : list of str

    Examples
    --------
    >>> report = ExportReport("model.onnx", opset=18, ir_version=8, bn_before=2, bn_after=0)
    >>> report.bn_before, report.bn_after, report.max_rel_f64
    (2, 0, None)
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
    sample_norms: list[NodeEntry] = field(default_factory=list)
    max_abs_ort: float | None = None
    max_rel_ort: float | None = None
    rms_ort: float | None = None
    max_abs_f64: float | None = None
    max_rel_f64: float | None = None
    argmax_agreement: float | None = None
    verification: ValidationReport | None = None
    narrowing: PrecisionReport | None = None
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
    columns: Mapping[str, Any] | None = None,
    input_range: tuple[float, float] | None = None,
    normalization: Normalization | None = None,
    softmax: bool = False,
    precision: str = "float32",
    calibration: NDArray[np.float32] | None = None,
    labels: NDArray[np.int64] | None = None,
    test: Labelled | None = None,
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
        default. A sequence of shapes where there are several inputs: they are called ``input_0``,
        ``input_1`` and so on, and several outputs ``output_0`` and so on.
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
    columns : mapping, optional
        How rows of a table become the file's input, ``data.columns.as_dict()``, kept there, too.
    input_range : (float, float), optional
        Smallest and largest number that inputs of the file hold, kept in its metadata.
    normalization : (mean, std), optional
        Built into the file, which then takes raw samples: the network sees (x − mean) / std.
        Numbers, or one for every channel.
    softmax : bool
        Whether the file ends in a softmax over the classes.
    precision : {"float32", "float16", "int8"}
        float16 narrows weights and computation, input and output stay float32. int8 is static
        quantisation (QDQ, one scale for every output channel), calibrated on ``calibration``.
        The comparison with float64 is made before narrowing; what narrowing does is reported.
    calibration : ndarray of float32, shape (N, *input_shape), optional
        Samples as the file gets them, but channels last; needed for int8.
    labels : ndarray of int64, shape (N,), optional
        Their classes, for the accuracy before and after narrowing.
    test : (ndarray, ndarray), optional
        Other samples and their classes, on which to compare before and after narrowing instead.

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
    check_precision(precision, calibration, labels, test)
    model = build_model(
        net,
        input_shape=input_shape,
        input_layout=input_layout,
        opset=opset,
        allow_untrained=allow_untrained,
        normalization=normalization,
        softmax=softmax,
    )
    if precision != "float32" and len(model.proto.graph.input) + len(model.proto.graph.output) > 2:
        raise ValueError(f"precision={precision!r} is for networks of one input and one output")
    report = ExportReport(path=str(Path(path)), notes=list(model.notes))
    _full_check(model.proto)
    final = _fold(model, report, fold=fold, verify=verify)
    report.opset = int(final.opset_import[0].version)
    report.ir_version = int(final.ir_version)
    if verify:
        _compare_with_network(net, final, model, report)
    if precision != "float32":
        wide = final
        inputs = None if calibration is None else model.file_input(calibration)
        final = narrowed(wide, precision, inputs)
        if test is not None:
            inputs, labels = model.file_input(test[0]), test[1]
        report.narrowing = compare_precision(wide, final, precision, inputs, labels)
        require_precision(report.narrowing)
    _write_metadata(final, report, model, classes, columns, precision, input_range)
    _full_check(final)
    write_model(final, path)
    return report


def _full_check(model: onnx.ModelProto) -> None:
    """Check a model of our own; a failure is ours, and stops the export."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise MismatchError(f"the model is not valid ONNX: {one_line(error)}") from error


def _fold(built: BuiltModel, report: ExportReport, *, fold: bool, verify: bool) -> onnx.ModelProto:
    """Fold as far as rounding allows, and fill in the counts."""
    original = built.proto
    data = None
    if built.normalization is not None:  # standard normal numbers may be far from all it has seen
        data = built.feed(_drawn(built, 3, np.random.default_rng(0)))
    norms = sum(node.op_type == "BatchNormalization" for node in original.graph.node)
    report.bn_before = report.bn_after = report.bn_left = norms
    report.nodes_before = report.nodes_after = len(original.graph.node)
    model = original
    if fold:
        source = Foldable(original, sample_norms=True)
        folded = (
            boldest_proven(source.message, original, lambda: Truth(original, data=data))
            if verify
            else source.message()
        )
        model, found = folded.model, folded.report
        report.bn_after = report.bn_left = found.bn_left
        report.affine_left = found.affine_left
        report.nodes_before, report.nodes_after = found.nodes_before, found.nodes_after
        report.nodes, report.sample_norms = found.nodes, found.sample_norms
        report.verification = found.verification
        report.notes += found.notes
    if verify and report.verification is None:  # nothing was folded
        report.verification = compare(model, model, data=data)
        require_agreement(report.verification, "the model")
    return model


def _write_metadata(
    model: onnx.ModelProto,
    report: ExportReport,
    built: BuiltModel,
    classes: Sequence[str] | None,
    columns: Mapping[str, Any] | None,
    precision: str,
    input_range: tuple[float, float] | None,
) -> None:
    """Name the producer, and keep what a user of the file wants to know."""
    model.producer_name, model.producer_version = "fastbn", __version__
    del model.metadata_props[:]
    values = {
        "fastbn_version": __version__,
        "batch_norms_before": str(report.bn_before),
        "batch_norms_after": str(report.bn_after),
        "input_shape": json.dumps(built.input_shape),
        "input_layout": built.input_layout,
        "precision": precision,
        "output": "probabilities" if built.softmax else "logits",
    }
    if built.normalization is not None:
        mean, std = (np.asarray(part, dtype=np.float64).tolist() for part in built.normalization)
        values["normalization"] = json.dumps({"mean": mean, "std": std})
    if input_range is not None:
        values["input_range"] = json.dumps([float(bound) for bound in input_range])
    if classes is not None:
        values["classes"] = json.dumps(list(classes))
    if columns:
        values["columns"] = json.dumps(columns)
    onnx.helper.set_model_props(model, values)


def _own_error(
    net: nn.Module,
    built: BuiltModel,
    xs: list[NDArray[np.float32]],
    outputs: list[NDArray[np.float64]],
) -> float:
    """Return by how much ``net.predict`` is off from float64.

    That is what counts where onnxruntime itself is coarse: its Sigmoid is off by 1e-7, however
    small the result. How far the file is from float64 is judged before.
    """
    pairs = zip(built.net_outputs(net, xs), outputs, strict=True)
    turned = built.input_layout == "NCHW"
    errors = [
        np.abs(y - (np.moveaxis(y64, 1, -1) if turned and y64.ndim > 2 else y64)).max()
        for y, y64 in pairs
    ]
    return float(np.max(errors))  # NaN, if one is


def _drawn(built: BuiltModel, batch: int, rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Draw raw samples of the mean and standard deviation that the network normalises by."""
    xs = [rng.standard_normal((batch, *shape)) for shape in built.shapes]
    if built.normalization is not None:
        mean, std = (np.asarray(part, np.float64) for part in built.normalization)
        xs = [x * std + mean for x in xs]
    return [x.astype(np.float32) for x in xs]


def _compare_with_network(
    net: nn.Module, model: onnx.ModelProto, built: BuiltModel, report: ExportReport
) -> None:
    """Compare the file with ``net.predict``: that finds a wrong layout, which folding cannot."""
    truth = Float64Evaluator(built.proto)
    worst: PredictionReport | None = None
    agreement = []
    for seed, batch in enumerate((1, 3)):
        rng = np.random.default_rng(seed)
        xs = _drawn(built, batch, rng)
        outputs = truth.run(built.feed(xs))
        for found, y64 in zip(compare_outputs(net, model, built, xs), outputs, strict=True):
            scale = float(np.abs(y64).max(initial=0.0))
            relative = found.max_abs / scale if scale > 0 else 0.0
            agreement.append(found.argmax_agreement)
            if worst is None or relative > (report.max_rel_ort or 0.0):
                worst, report.max_rel_ort = found, relative
            limit = PREDICT_TOLERANCE * scale
            if not (found.max_abs <= limit or _own_error(net, built, xs, outputs) <= limit):
                raise MismatchError(
                    f"onnxruntime differs from net.predict by {found.max_abs:.3g}, "
                    f"tolerance {limit:.3g}; nothing was written"
                )
    assert worst is not None
    assert report.verification is not None
    report.max_abs_ort, report.rms_ort = worst.max_abs, worst.rms
    report.argmax_agreement = float(np.mean(agreement))
    report.max_abs_f64 = report.verification.max_abs_f64
    report.max_rel_f64 = report.verification.max_rel_f64

"""Narrower files: float16 throughout, or int8 with scales calibrated on the user's own data."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fastbn.export.errors import MismatchError
from fastbn.export.report import Report, ratio
from fastbn.export.runtime import Session

PRECISIONS = ("float32", "float16", "int8")
CALIBRATION_BATCH = 64
# Samples, channels last, and their classes.
Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]
# Half precision keeps three digits; a deep network may lose one of them.
FLOAT16_TOLERANCE = 0.03


@dataclass(slots=True)
class PrecisionReport(Report):
    """What narrowing did, measured in onnxruntime.

    Attributes
    ----------
    precision : str
    bytes_before, bytes_after : int
        Sizes of the file.
    samples : int
        Those given for the test or for calibration, or random ones.
    max_abs, max_rel : float
        Worst difference of the outputs, and divided by the largest output.
    argmax_agreement : float
        Share of samples for which the largest output is the same.
    accuracy_before, accuracy_after : float or None
        On the labels, if there are any.
    """

    precision: str
    bytes_before: int
    bytes_after: int
    samples: int
    max_abs: float
    max_rel: float
    argmax_agreement: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None


def check_precision(
    precision: str,
    calibration: NDArray[Any] | None,
    labels: NDArray[Any] | None,
    test: Labelled | None = None,
) -> None:
    """Refuse a precision that does not exist, or that lacks its data."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision should be one of {PRECISIONS}, got {precision!r}")
    if precision == "int8" and (calibration is None or not len(calibration)):
        raise ValueError("precision='int8' needs calibration samples")
    if labels is not None and (calibration is None or len(labels) != len(calibration)):
        raise ValueError("labels should be those of the calibration samples, one each")
    if test is not None and (not len(test[0]) or len(test[0]) != len(test[1])):
        raise ValueError("test should be samples and as many classes")


def narrowed(
    model: onnx.ModelProto, precision: str, calibration: NDArray[np.float32] | None
) -> onnx.ModelProto:
    """Return the model in the given precision; ``calibration`` is in the model's layout."""
    if precision == "float16":
        return to_float16(model)
    assert calibration is not None
    return to_int8(model, calibration)


def compare_precision(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    precision: str,
    inputs: NDArray[np.float32] | None,
    labels: NDArray[np.int64] | None,
) -> PrecisionReport:
    """Run the given samples, or 64 random ones, through both models."""
    source = before.graph.input[0]
    if inputs is None:
        dims = [dim.dim_value for dim in source.type.tensor_type.shape.dim][1:]
        inputs = np.random.default_rng(0).standard_normal((64, *dims)).astype(np.float32)
    outputs = []
    for model in (before, after):
        session = Session(model, "highest")
        parts = [
            session.run({source.name: inputs[start : start + CALIBRATION_BATCH]})[0]
            for start in range(0, len(inputs), CALIBRATION_BATCH)
        ]
        outputs.append(np.concatenate(parts))
    wide, narrow = outputs
    worst, largest = float(np.abs(narrow - wide).max()), float(np.abs(wide).max())
    rows = [y.argmax(axis=1) for y in outputs]
    report = PrecisionReport(
        precision=precision,
        bytes_before=before.ByteSize(),
        bytes_after=after.ByteSize(),
        samples=len(inputs),
        max_abs=worst,
        max_rel=ratio(worst, largest),
        argmax_agreement=float(np.mean(rows[0] == rows[1])),
    )
    if labels is not None:
        report.accuracy_before, report.accuracy_after = (
            float(np.mean(row == labels)) for row in rows
        )
    return report


def require_precision(report: PrecisionReport) -> None:
    """Refuse a float16 file that lost more than rounding; int8 is for the user to judge."""
    if report.precision == "float16" and not report.max_rel <= FLOAT16_TOLERANCE:
        raise MismatchError(
            f"float16 differs by {report.max_rel:.3g} of the largest output, "
            f"tolerance {FLOAT16_TOLERANCE}; nothing was written"
        )


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store and compute in float16; input and output stay float32, and so do factors of Resize.

    Parameters
    ----------
    model : onnx.ModelProto
        A float32 model of one input and one output, as :func:`fastbn.export.to_onnx` builds it.

    Raises
    ------
    ValueError
        If a weight does not fit into float16.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    kept = _float32_only(model)
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or tensor.name in kept:
            continue
        values = numpy_helper.to_array(tensor)
        finite = values[np.isfinite(values)]  # infinity, the bound of a channel without one, fits
        if np.abs(finite).max(initial=0.0) > np.finfo(np.float16).max:
            raise ValueError(f"weight {tensor.name!r} does not fit into float16")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in kept:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    (source,), (target,) = graph.input, graph.output
    narrow, wide = f"{source.name}_float16", f"{target.name}_float16"
    for node in graph.node:
        node.input[:] = [narrow if name == source.name else name for name in node.input]
        node.input[:] = [wide if name == target.name else name for name in node.input]
        node.output[:] = [wide if name == target.name else name for name in node.output]
    kinds = onnx.TensorProto
    graph.node.insert(
        0, helper.make_node("Cast", [source.name], [narrow], name=narrow, to=kinds.FLOAT16)
    )
    graph.node.append(helper.make_node("Cast", [wide], [target.name], name=wide, to=kinds.FLOAT))
    return half


def _float32_only(model: onnx.ModelProto) -> set[str]:
    """Values that operators do not take in float16."""
    opset = model.opset_import[0].version
    return {
        name
        for node in model.graph.node
        for formal, name in zip(
            onnx.defs.get_schema(node.op_type, opset).inputs, node.input, strict=False
        )
        if "tensor(float16)" not in formal.types
    }


def to_int8(model: onnx.ModelProto, calibration: NDArray[np.float32]) -> onnx.ModelProto:
    """Quantise statically: int8 weights per output channel, uint8 activations, as QDQ nodes.

    Parameters
    ----------
    model : onnx.ModelProto
        A float32 model of one input.
    calibration : ndarray of float32
        Inputs in the model's layout, from which the activations' ranges are taken.
    """
    from onnxruntime import quantization as ortq

    name = model.graph.input[0].name

    class Reader(ortq.CalibrationDataReader):  # type: ignore[misc]
        """Hands out the samples in batches."""

        def __init__(self) -> None:
            self.batches = self._iterate()

        def _iterate(self) -> Iterator[dict[str, NDArray[Any]]]:
            for start in range(0, len(calibration), CALIBRATION_BATCH):
                yield {name: calibration[start : start + CALIBRATION_BATCH]}

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.batches, None)

    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a pre-processing that was done already
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(model.SerializeToString())
            ortq.quantize_static(
                str(source),
                str(target),
                Reader(),
                quant_format=ortq.QuantFormat.QDQ,
                per_channel=True,
                activation_type=ortq.QuantType.QUInt8,
                weight_type=ortq.QuantType.QInt8,
            )
            quantised = onnx.load(target)
    finally:
        logging.disable(previous)
    # The quantiser signs with its own name; the file is still this library's.
    quantised.producer_name, quantised.producer_version = (
        model.producer_name,
        model.producer_version,
    )
    return quantised

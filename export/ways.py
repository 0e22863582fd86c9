"""Every way of running a model: in float64, and in onnxruntime at either level."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn.export.errors import ModelError, one_line
from fastbn.export.evaluator import Float64Evaluator
from fastbn.export.report import ValidationReport
from fastbn.export.runtime import RuntimeRefusalError, Session
from fastbn.export.samples import Sample

Outputs = list[NDArray[Any]]
# Digest of a sample -> what a model gave for it, by every way of running it.
Memory = dict[bytes, dict[str, Outputs]]


# A run gives the outputs by way: "f64" and the two levels of onnxruntime, as far as they exist.
Run = Callable[[Sample], dict[str, Outputs]]


def remembering(run: Run, memory: Memory) -> Run:
    """Run a sample only if it was not run before."""

    def remembered(sample: Sample) -> dict[str, Outputs]:
        digest = hashlib.sha256()
        for name in sorted(sample):
            digest.update(np.ascontiguousarray(sample[name]).tobytes())
        key = digest.digest()
        if key not in memory:
            memory[key] = run(sample)
        return memory[key]

    return remembered


def load(
    first: onnx.ModelProto,
    second: onnx.ModelProto,
    report: ValidationReport,
    paths: tuple[Path, Path] | None = None,
) -> tuple[Run, Run]:
    """Load both models into everything that can run them; note what cannot."""
    ways: list[dict[str, Callable[[Sample], Outputs]]] = []
    for source in paths or (first, second):
        if ways and second is first:
            ways.append(ways[0])
            break
        way: dict[str, Callable[[Sample], Outputs]] = {}
        for level in ("lowest", "highest"):
            try:
                way[level] = Session(source, level).run
            except RuntimeRefusalError as error:
                report.notes.append(f"onnxruntime ({level}) does not load: {one_line(error)}")
        ways.append(way)
    try:
        if paths is not None:
            raise ModelError("the weights are too large")
        ways[0]["f64"] = Float64Evaluator(first).run
        if second is not first and "lowest" not in ways[1]:
            ways[1]["f64"] = Float64Evaluator(second).run
    except Exception as error:  # the evaluator's operators raise what they like
        report.notes.append(f"no float64 evaluation: {one_line(error)}")
        report.against = "onnxruntime"
    if "lowest" not in ways[0]:
        _require_types(first)
    if "lowest" in ways[0] and "lowest" not in ways[1]:
        report.agree = False
    if "f64" not in ways[0] and "lowest" not in ways[0]:
        raise ModelError(
            "the model can be verified neither by onnxruntime nor in float64: "
            + "; ".join(report.notes)
        )

    return _runner(ways[0], report), _runner(ways[1], report)


def _require_types(model: onnx.ModelProto) -> None:
    """Say so if onnxruntime refuses a model because it is wrong, and not because of itself."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # shape inference raises several classes
        raise ModelError(f"not a valid ONNX model: {one_line(error)}") from error


def _runner(way: dict[str, Callable[[Sample], Outputs]], report: ValidationReport) -> Run:
    """Make a function that runs a sample by every way there is."""

    def run(sample: Sample) -> dict[str, Outputs]:
        results: dict[str, Outputs] = {}
        for name, function in list(way.items()):
            try:
                results[name] = function(sample)
            except Exception as error:
                if name != "f64" or len(way) == 1:
                    raise
                # onnx.reference lacks an operator; the runtime's own result must do.
                way.pop("f64")
                report.against = "onnxruntime"
                report.notes.append(f"no float64 evaluation: {one_line(error)}")
        return results

    return run

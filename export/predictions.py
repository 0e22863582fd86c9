"""``net.predict`` against an ONNX file, on any number of samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn import nn
from fastbn.export.build import Normalization, Wrapping
from fastbn.export.report import Report, ratio
from fastbn.export.runtime import Session


@dataclass(slots=True)
class PredictionReport(Report):
    """Differences between a network and a file.

    Attributes
    ----------
    samples : int
    max_abs : float
        Worst absolute difference, over both optimisation levels.
    max_rel : float
        The same divided by max|net.predict|.
    rms : float
        Root mean square of the differences, of the worse level.
    argmax_agreement : float
        Share of samples for which the largest output is the same, of the worse level.
    argmax_equal : int
        Their number.

    Examples
    --------
    >>> report = PredictionReport(100, 1e-6, 2e-7, 1e-7, argmax_agreement=1.0, argmax_equal=100)
    >>> report.samples, report.argmax_agreement
    (100, 1.0)
    """

    samples: int
    max_abs: float
    max_rel: float
    rms: float
    argmax_agreement: float
    argmax_equal: int


def compare_predictions(
    net: nn.Module,
    model: str | os.PathLike[str] | onnx.ModelProto,
    x: NDArray[np.float32] | tuple[NDArray[np.float32], ...],
    *,
    input_layout: str = "NCHW",
    normalization: Normalization | None = None,
    softmax: bool = False,
    batch_size: int = 256,
) -> PredictionReport:
    """Run samples through a network and through a file, in onnxruntime on one thread.

    Parameters
    ----------
    net : Module
    model : path or onnx.ModelProto
        What :func:`fastbn.export.to_onnx` wrote of it.
    x : ndarray of float32, shape (N, *input_shape)
        Samples as the file takes them, but channels last; a tuple where there are several inputs.
    input_layout : {"NCHW", "NHWC"}
    normalization : (mean, std), optional
    softmax : bool
        What the file was written with.
    batch_size : int
        Samples a call.

    Returns
    -------
    PredictionReport
        Of several outputs, that of the output with the largest `max_rel`.

    Examples
    --------
    >>> from fastbn import export, models
    >>> net = models.mlp((8, 8, 1), rng=0).eval()
    >>> model = export.build_model(net, allow_untrained=True).proto
    >>> x = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
    >>> report = compare_predictions(net, model, x)
    >>> report.samples, report.argmax_agreement, report.max_rel < 1e-5
    (20, 1.0, True)
    """
    built = Wrapping(input_layout, normalization, softmax)
    xs = x if isinstance(x, tuple) else (x,)
    xs = tuple(each.astype(np.float32, copy=False) for each in xs)
    return max(compare_outputs(net, model, built, xs, batch_size), key=lambda found: found.max_rel)


def compare_outputs(
    net: nn.Module,
    model: str | os.PathLike[str] | onnx.ModelProto,
    built: Wrapping,
    xs: Sequence[NDArray[np.float32]],
    batch_size: int = 256,
) -> list[PredictionReport]:
    """Compare every output, with all that was built into the file around the network."""
    expected = built.net_outputs(net, xs, batch_size)
    sessions = [Session(model, level) for level in ("lowest", "highest")]
    found: list[list[NDArray[Any]]] = []
    for session in sessions:
        parts = []
        for start in range(0, len(xs[0]), batch_size):
            rows = [built.file_input(x[start : start + batch_size]) for x in xs]
            parts.append(session.run(dict(zip(session.input_names, rows, strict=True))))
        found.append([np.concatenate(of_output) for of_output in zip(*parts, strict=True)])
    if built.input_layout == "NCHW":
        found = [[np.moveaxis(y, 1, -1) if y.ndim > 2 else y for y in ys] for ys in found]
    return [_compare(y, ys) for y, *ys in zip(expected, *found, strict=True)]


def _compare(expected: NDArray[Any], found: Sequence[NDArray[Any]]) -> PredictionReport:
    """Compare an expected output, channels last, with what the sessions make of it."""
    differences = [y.astype(np.float64) - expected for y in found]
    classes = expected.shape[-1]
    rows = expected.reshape(-1, classes).argmax(axis=1)
    equal = min(int((y.reshape(-1, classes).argmax(axis=1) == rows).sum()) for y in found)
    worst = max(float(np.nan_to_num(np.abs(d).max(initial=0.0), nan=np.inf)) for d in differences)
    largest = float(np.abs(expected).max(initial=0.0))
    return PredictionReport(
        samples=len(expected),
        max_abs=worst,
        max_rel=ratio(worst, largest),
        rms=max(float(np.sqrt(np.mean(d * d))) if d.size else 0.0 for d in differences),
        argmax_agreement=equal / len(rows) if len(rows) else 1.0,
        argmax_equal=equal,
    )

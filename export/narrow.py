"""A narrow file (int8, float16) beside the float network it came from.

Its numbers differ by design, so what counts is the signal-to-noise ratio and whether the same class
comes first, on data that the network is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn.export.differences import agreement, distance
from fastbn.export.errors import ModelError, one_line
from fastbn.export.evaluator import widen
from fastbn.export.io import all_tensors
from fastbn.export.report import OutputReport, ValidationReport
from fastbn.export.rounding import coarsest_eps, quantises
from fastbn.export.runtime import RuntimeRefusalError, Session
from fastbn.export.samples import InputSpec, Sample, check_data, input_specs
from fastbn.export.truth import HALF_EPS, Truth
from fastbn.export.ways import with_free_dims

# By default: nine tenths of the signal, and one class in a hundred.
MIN_SNR, MIN_AGREEMENT = 20.0, 0.99
# Samples a call.
BATCH = 64


def is_narrow(model: onnx.ModelProto) -> bool:
    """Whether a model computes with half types, or with integers in place of numbers."""
    return coarsest_eps(model) >= HALF_EPS or quantises(model)


def is_narrower(second: onnx.ModelProto, first: onnx.ModelProto) -> bool:
    """Whether a model computes with narrower numbers than another, or only stores such weights."""
    return _narrowness(second) > _narrowness(first)


def _narrowness(model: onnx.ModelProto) -> int:
    if is_narrow(model):
        return 2
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return int(any(tensor.data_type in half for tensor in all_tensors(model)))


def compare_narrow(
    first: onnx.ModelProto,
    second: onnx.ModelProto,
    *,
    data: Mapping[str, NDArray[Any]] | None = None,
    seeds: int = 5,
    tolerance: float | None = None,
    min_agreement: float | None = None,
) -> ValidationReport:
    """Compare a narrow model in onnxruntime with the float64 evaluation of another.

    Parameters
    ----------
    first, second : onnx.ModelProto
    data : mapping of str to array, optional
        Inputs by name, any number of samples; random ones otherwise.
    seeds : int
        Number of random inputs, where there is no data.
    tolerance : float, optional
        Largest difference, relative to an output's largest number, in place of the noise.
    min_agreement : float, optional
        Share of rows that need the same class, 0.99 by default.
    """
    samples = [] if data is None else list(_batches(input_specs(first), data))
    truth = Truth(first, data=samples[0] if samples else None, seeds=seeds)
    report = ValidationReport(verdict="agree")
    if data is None:
        samples = list(truth.samples())
        report.notes.append("on random inputs; give data that the network is for")
    try:
        run = Session(with_free_dims(second), "highest").run
    except RuntimeRefusalError as error:
        raise ModelError(f"the second model does not load: {one_line(error)}") from error
    signal, noise, size, worst, finite = (np.zeros(len(truth.outputs)) for _ in range(5))
    shares: list[tuple[float, int]] = []
    for sample in samples:
        report.samples += 1
        try:
            results = run(sample)
        except RuntimeRefusalError as refusal:
            report.fail("differ", f"the second model does not run: {one_line(refusal)}")
            return report
        for index, (y64, y) in enumerate(zip(truth.expected(sample), results, strict=True)):
            wide, expected = widen(y).astype(np.float64), widen(y64).astype(np.float64)
            if wide.shape != expected.shape:
                report.fail("differ", f"output {truth.outputs[index]!r} has another shape")
                continue
            held = np.isfinite(expected)
            far = distance(wide, expected, held, np.isinf(expected))
            if far == np.inf:
                name = truth.outputs[index]
                report.fail("differ", f"output {name!r} is not finite at the same places")
            gap = wide[held] - expected[held]
            signal[index] += float(np.sum(expected[held] ** 2))
            noise[index] += float(np.sum(gap * gap)) if far < np.inf else np.inf
            size[index] = max(size[index], float(np.abs(expected[held]).max(initial=0.0)))
            worst[index] = max(worst[index], far)
            finite[index] += np.count_nonzero(held)
            share = agreement(y, np.asarray(y64))
            shares += [] if share is None else [(share, y.shape[0] if y.ndim else 1)]
    for index, name in enumerate(truth.outputs):
        allowed = np.inf if tolerance is None else tolerance * float(size[index])
        report.outputs.append(
            OutputReport(name, float(worst[index]), 0.0, allowed, allowed, float(size[index]))
        )
        if not finite[index]:
            report.unproven.append(f"output {name!r} has no finite number in any sample")
    report.settle()
    if not finite.any():
        report.fail("not proven", "no output could tell a wrong model from a right one")
    with np.errstate(divide="ignore"):
        ratios = 10.0 * np.log10(
            np.divide(signal, noise, out=np.full_like(signal, np.inf), where=noise > 0)
        )
    report.snr = float(ratios.min(initial=np.inf))
    rows = sum(count for _, count in shares)
    report.argmax_agreement = sum(s * n for s, n in shares) / rows if rows else 1.0
    if tolerance is None and not report.snr >= MIN_SNR:
        report.fail("differ", f"{report.snr:.1f} dB of signal to noise, needs {MIN_SNR:g}")
    needed = MIN_AGREEMENT if min_agreement is None else min_agreement
    if not report.argmax_agreement >= needed:
        report.fail(
            "differ", f"{report.argmax_agreement:.2%} of the same class, needs {needed:.2%}"
        )
    return report


def _batches(specs: list[InputSpec], data: Mapping[str, NDArray[Any]]) -> Iterator[Sample]:
    """Cut given samples into what the model takes at once."""
    leading = [spec.dims[0] if spec.dims else 1 for spec in specs]
    at_once = next((d for d in leading if isinstance(d, int)), BATCH)
    counts = {len(data[spec.name]) for spec in specs if spec.name in data}
    if len(counts) != 1:
        yield check_data(specs, data)
        return
    for start in range(0, counts.pop(), at_once):
        part = {name: array[start : start + at_once] for name, array in data.items()}
        yield check_data(specs, part)


def image_shape(model: onnx.ModelProto) -> tuple[int, int, int] | None:
    """Return (H, W, C) of the images that a model takes, None if it takes others or any size."""
    specs = input_specs(model)
    dims = specs[0].dims if len(specs) == 1 else ()
    if len(dims) != 4:
        return None
    forms = ((dims[2], dims[3], dims[1]), (dims[1], dims[2], dims[3]))  # NCHW, NHWC
    for height, width, channels in forms:
        if channels in (1, 3) and isinstance(height, int) and isinstance(width, int):
            return height, width, channels
    return None


def as_inputs(model: onnx.ModelProto, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Images (N, H, W, C) as the one input of a model takes them: NCHW, NHWC or rows.

    Raises
    ------
    ModelError
        If they do not fit.
    """
    specs = input_specs(model)
    if len(specs) != 1:
        raise ModelError(f"the model takes {len(specs)} inputs; give an .npz file of them")
    dims = specs[0].dims
    forms = {
        "NCHW": np.moveaxis(images, -1, 1),
        "NHWC": images,
        "rows": images.reshape(len(images), -1),
    }
    for form in forms.values():
        if len(dims) == form.ndim and all(
            isinstance(d, str) or d == n for d, n in zip(dims[1:], form.shape[1:], strict=True)
        ):
            return {specs[0].name: np.ascontiguousarray(form)}
    raise ModelError(f"samples of shape {images.shape[1:]} do not fit the input {dims}")

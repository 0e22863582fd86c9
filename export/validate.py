"""Compare a model, or two models, with the float64 truth.

The truth is the first model evaluated in float64. onnxruntime runs every model at its lowest and
highest optimisation level on one thread. Two models agree when for every output by itself, over
the worst of several seeds,

    max|B − f64| ≤ max(2 · max|A − f64|, 16 · eps · max|f64|) ≤ cap · max|f64|,

where eps belongs to the coarsest type the first model computes with, and the cap is 1e-3 (half
types: 5e-2). Rounding is allowed to come out differently, but not to become worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from fastbn.export.errors import MismatchError
from fastbn.export.io import Source, read_model
from fastbn.export.narrow import compare_narrow, is_narrow, is_narrower
from fastbn.export.report import ValidationReport
from fastbn.export.truth import Truth


def validate(
    a: Source,
    b: Source | None = None,
    *,
    data: Mapping[str, NDArray[Any]] | None = None,
    seeds: int = 5,
    batch_sizes: Sequence[int] = (1, 3),
    tolerance: float | None = None,
    min_agreement: float | None = None,
) -> ValidationReport:
    """Compare two models with each other, or one with its own float64 truth.

    Parameters
    ----------
    a : path or onnx.ModelProto
        The model whose float64 evaluation is the truth.
    b : path or onnx.ModelProto, optional
        The model that should be the same function; without it ``a`` itself is judged.
    data : mapping of str to array, optional
        Inputs by name, tried besides the random and adversarial ones.
    seeds : int
        Number of random inputs.
    batch_sizes : sequence of int
        Sizes the open batch axis takes in turn.
    tolerance : float, optional
        What an output may be off by, relative to its largest number.
    min_agreement : float, optional
        Share of rows that need the same class; of a narrow file beside a float one 0.99.

    Returns
    -------
    ValidationReport
        ``agree`` says whether all stayed within the tolerance; nothing is raised for that.

    Raises
    ------
    ModelError
        If a file is broken, the two models have different inputs or outputs, or neither
        onnxruntime nor the evaluator can run them.

    Examples
    --------
    >>> from onnx import parser
    >>> model = parser.parse_model('''
    ... <ir_version: 8, opset_import: ["" : 18]>
    ... net (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }''')
    >>> validate(model, model).verdict
    'agree'
    """
    first = read_model(a)
    second = first if b is None else read_model(b)
    if is_narrower(second, first):
        return compare_narrow(
            first, second, data=data, seeds=seeds, tolerance=tolerance, min_agreement=min_agreement
        )
    truth = Truth(first, data=data, seeds=seeds, batch_sizes=batch_sizes, tolerance=tolerance)
    report = truth.compare(None if b is None else second)
    if b is None and is_narrow(first):
        report.fail("not proven", "")
        report.verdict = "not compared"
        report.notes.append("a narrow file alone tells nothing: name the float model it came from")
    if min_agreement is not None and not report.argmax_agreement >= min_agreement:
        report.fail("differ", f"{report.argmax_agreement:.2%} of rows have the same class")
    return report


def require_agreement(report: ValidationReport, what: str) -> None:
    """Raise :class:`MismatchError`, with the figures, unless the report says that all agree."""
    if report.agree:
        return
    if report.verdict == "not proven" and all(output.cannot_tell for output in report.outputs):
        raise MismatchError(
            f"{what} is not proven: {'; '.join(report.unproven)}; nothing was written"
        )
    is_what = "is not proven: it differs" if report.verdict == "not proven" else "differs"
    raise MismatchError(
        f"{what} {is_what} from float64 by {report.max_abs_f64:.3g} at output {report.output!r}, "
        f"tolerance {report.tolerance:.3g} (the original differs by "
        f"{report.original_abs_f64:.3g}); nothing was written"
    )


def compare(
    first: onnx.ModelProto,
    second: onnx.ModelProto,
    *,
    data: Mapping[str, NDArray[Any]] | None = None,
    seeds: int = 5,
    batch_sizes: Sequence[int] = (1, 3),
) -> ValidationReport:
    """Compare models that are already checked."""
    truth = Truth(first, data=data, seeds=seeds, batch_sizes=batch_sizes)
    return truth.compare(None if second is first else second)

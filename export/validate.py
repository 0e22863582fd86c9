"""Compare a model, or two models, with the float64 truth.

The truth is the first model evaluated in float64. onnxruntime runs every model at its lowest and
highest optimisation level on one thread. Two models agree when, over the worst of several seeds,

    max|B − f64| ≤ max(2 · max|A − f64|, 16 · eps · max|f64|),

where eps belongs to the coarsest type the first model computes with. Rounding is allowed to come
out differently, but not to become worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn.export.differences import Errors
from fastbn.export.errors import MismatchError, ModelError, one_line
from fastbn.export.io import Source, coarsest_eps, read_model
from fastbn.export.report import ValidationReport
from fastbn.export.runtime import RuntimeRefusalError
from fastbn.export.samples import (
    ADVERSARIAL,
    FREE_SIZES,
    InputSpec,
    Sample,
    adversarial_sample,
    check_data,
    has_free_batch,
    input_specs,
    random_sample,
    shapes,
)
from fastbn.export.ways import Memory, Run, load, remembering

# One model alone has no other to be compared with: onnxruntime may lose this many eps.
ALONE_EPS = 1024.0


def validate(
    a: Source,
    b: Source | None = None,
    *,
    data: Mapping[str, NDArray[Any]] | None = None,
    seeds: int = 5,
    batch_sizes: Sequence[int] = (1, 3),
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

    Returns
    -------
    ValidationReport
        ``agree`` says whether all stayed within the tolerance; nothing is raised for that.

    Raises
    ------
    ModelError
        If a file is broken, the two models have different inputs or outputs, or neither
        onnxruntime nor the evaluator can run them.
    """
    first = read_model(a)
    second = first if b is None else read_model(b)
    return compare(first, second, data=data, seeds=seeds, batch_sizes=batch_sizes)


def require_agreement(report: ValidationReport, what: str) -> None:
    """Raise :class:`MismatchError`, with the figures, unless the report says that all agree."""
    if not report.agree:
        raise MismatchError(
            f"{what} differs from float64 by {report.max_abs_f64:.3g}, "
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
    paths: tuple[Path, Path] | None = None,
    memory: Memory | None = None,
) -> ValidationReport:
    """Compare models that are already checked, in memory or, with ``paths``, too large for it.

    ``memory`` keeps what the first model gave, for the next comparison with it.
    """
    alone = second is first
    specs = input_specs(first)
    _check_same_interface(first, second, specs)
    report = ValidationReport()
    runs = load(first, second, report, paths)
    if memory is not None:
        runs = (remembering(runs[0], memory), runs[1])
    eps = coarsest_eps(first)
    groups = _groups(specs, runs, data, seeds, batch_sizes)
    argmax: list[float] = []
    worst = -1.0
    for group in groups:
        found = Errors()
        for sample in group:
            report.samples += 1
            expected = runs[0](sample)
            try:
                results = expected if alone else runs[1](sample)
            except RuntimeRefusalError as error:
                found.folded = float("inf")
                found.pattern = f"the second model does not run: {one_line(error)}"
                break
            found.add(expected, results, alone=alone)
        tolerance = max(2.0 * found.original, 16.0 * eps * found.size)
        if alone:
            tolerance = ALONE_EPS * eps * found.size
        if found.ran_nothing:
            tolerance = 16.0 * eps * found.size
        argmax += found.argmax
        report.agree &= bool(found.folded <= tolerance) and not found.pattern
        report.max_abs_f64 = max(report.max_abs_f64, found.folded)
        report.max_rel_f64 = max(report.max_rel_f64, _ratio(found.folded, found.size))
        report.max_abs_ort = max(report.max_abs_ort, found.between)
        report.max_rel_ort = max(report.max_rel_ort, _ratio(found.between, found.size))
        report.rms_ort = max(report.rms_ort, found.rms())
        report.original_abs_f64 = max(report.original_abs_f64, found.original)
        closeness = found.folded / tolerance if tolerance > 0 else float(found.folded > 0)
        if closeness > worst:
            worst, report.tolerance = closeness, tolerance
        if found.pattern and found.pattern not in report.notes:
            report.notes.append(found.pattern)
    report.argmax_agreement = float(np.mean(argmax)) if argmax else 1.0
    return report


def _check_same_interface(
    first: onnx.ModelProto, second: onnx.ModelProto, specs: Sequence[InputSpec]
) -> None:
    """Two models are comparable if they take the same inputs and give the same outputs."""
    ins = [s.name for s in specs]
    by_name = {s.name: s for s in input_specs(second)}
    if sorted(ins) != sorted(by_name):
        raise ModelError(f"the models take different inputs: {ins} and {list(by_name)}")
    for a, b in zip(specs, (by_name[s.name] for s in specs), strict=True):
        if a.dtype != b.dtype or len(a.dims) != len(b.dims):
            raise ModelError(
                f"the models take different inputs: {a.name!r} is {a.dtype} {a.dims} in one, "
                f"{b.dtype} {b.dims} in the other"
            )
    if len(first.graph.output) != len(second.graph.output):
        raise ModelError(
            f"the models have {len(first.graph.output)} and {len(second.graph.output)} outputs"
        )


def _groups(
    specs: Sequence[InputSpec],
    runs: tuple[Run, Run],
    data: Mapping[str, NDArray[Any]] | None,
    seeds: int,
    batch_sizes: Sequence[int],
) -> list[list[Sample]]:
    """Make groups of inputs; a tolerance is worked out over the worst of each group."""
    batches = list(batch_sizes) if has_free_batch(specs) else [1]
    groups = [[check_data(specs, data)]] if data is not None else []
    free = _free_size(specs, runs[0], batches[0], optional=bool(groups))
    if free is None:
        return groups
    sizes = [shapes(specs, batch, free) for batch in batches]
    groups.append([random_sample(specs, sizes[s % len(sizes)], s) for s in range(seeds)])
    adversarial = [k for k in ADVERSARIAL if any(s.dtype.kind not in "iub" for s in specs)]
    groups.append([adversarial_sample(specs, sizes[-1], kind) for kind in adversarial])
    return [group for group in groups if group]


def _free_size(specs: Sequence[InputSpec], run: Run, batch: int, *, optional: bool) -> int | None:
    """Smallest size for the open dimensions that the model accepts."""
    free = any(not isinstance(d, int) for spec in specs for d in spec.dims[1:])
    failure: Exception | None = None
    for size in FREE_SIZES if free else FREE_SIZES[:1]:
        try:
            run(random_sample(specs, shapes(specs, batch, size), 0))
        except Exception as error:
            failure = failure or error
            continue
        return size
    if optional:
        return None
    assert failure is not None
    if isinstance(failure, ModelError):
        raise failure
    raise ModelError(
        f"the model does not run on random inputs; give check data ({one_line(failure)})"
    ) from failure


def _ratio(error: float, size: float) -> float:
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))

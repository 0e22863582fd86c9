"""Compare a model, or two models, with the float64 truth.

The truth is the first model evaluated in float64. onnxruntime runs every model at its lowest and
highest optimisation level on one thread. Two models agree when, over the worst of several seeds,

    max|B − f64| ≤ max(2 · max|A − f64|, 16 · eps · max|f64|),

where eps belongs to the coarsest type the first model computes with. Rounding is allowed to come
out differently, but not to become worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn.export.errors import MismatchError, ModelError, one_line
from fastbn.export.evaluator import Float64Evaluator, widen
from fastbn.export.io import Source, coarsest_eps, read_model
from fastbn.export.report import Report
from fastbn.export.runtime import RuntimeRefusalError, Session
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

Outputs = list[NDArray[Any]]

# One model alone has no other to be compared with: onnxruntime may lose this many eps.
ALONE_EPS = 1024.0


@dataclass(slots=True)
class ValidationReport(Report):
    """What a comparison found.

    Attributes
    ----------
    agree : bool
        Whether every group of samples stayed within its tolerance.
    max_abs_f64, max_rel_f64 : float
        Worst difference of onnxruntime (the last model given, both levels) from the float64
        truth of the first model; ``rel`` is divided by max|f64| of the same group.
    max_abs_ort, max_rel_ort, rms_ort : float
        Worst difference, and root mean square, between the two models in onnxruntime at equal
        level; for one model, between its lowest and its highest level.
    original_abs_f64 : float
        Worst difference of the first model in onnxruntime from float64.
    tolerance : float
        Tolerance of the group that came nearest to it, or crossed it farthest.
    argmax_agreement : float
        Share of rows whose largest entry along the last axis is the same, in onnxruntime at the
        highest level and in float64.
    samples : int
        Number of inputs tried.
    against : str
        ``"float64"``, or ``"onnxruntime"`` where the graph cannot be evaluated in float64.
    notes : list of str
        What could not be done, and why.
    """

    agree: bool = True
    max_abs_f64: float = 0.0
    max_rel_f64: float = 0.0
    max_abs_ort: float = 0.0
    max_rel_ort: float = 0.0
    rms_ort: float = 0.0
    original_abs_f64: float = 0.0
    tolerance: float = 0.0
    argmax_agreement: float = 1.0
    samples: int = 0
    against: str = "float64"
    notes: list[str] = field(default_factory=list)


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
) -> ValidationReport:
    """Compare models that are already checked, in memory or, with ``paths``, too large for it."""
    alone = second is first
    specs = input_specs(first)
    _check_same_interface(first, second, specs)
    report = ValidationReport()
    runs = _load(first, second, report, paths)
    eps = coarsest_eps(first)
    groups = _groups(specs, runs, data, seeds, batch_sizes)
    argmax: list[float] = []
    worst = -1.0
    for group in groups:
        found = _Errors()
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


# A run gives the outputs by way: "f64" and the two levels of onnxruntime, as far as they exist.
Run = Callable[[Sample], dict[str, Outputs]]


def _load(
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


class _Errors:
    """Worst errors of a group of samples."""

    def __init__(self) -> None:
        self.size = 0.0
        self.original = 0.0
        self.folded = 0.0
        self.between = 0.0
        self.squares: list[float] = []
        self.argmax: list[float] = []
        self.pattern = ""
        self.ran_nothing = False

    def rms(self) -> float:
        """Root mean square of the difference in onnxruntime, of the worst sample."""
        return max(self.squares, default=0.0)

    def add(self, first: dict[str, Outputs], second: dict[str, Outputs], *, alone: bool) -> None:
        """Take in one sample: outputs of both models by every way of running them."""
        truth = first.get("f64") or first["lowest"]
        levels: list[str] = [name for name in ("lowest", "highest") if name in second]
        self.ran_nothing |= "lowest" not in first
        for index, target in enumerate(truth):
            y64 = widen(np.asarray(target))
            self.size = max(self.size, _largest(y64))
            for name in ("lowest", "highest"):
                if name in first:
                    self.original = max(self.original, _distance(first[name][index], y64))
            for name in levels or ["f64"]:
                y = second[name][index]
                if np.shape(y) != y64.shape:
                    self.pattern = f"output {index} has shape {np.shape(y)}, not {y64.shape}"
                    self.folded = float("inf")
                    return
                self.folded = max(self.folded, _distance(y, y64))
                other = "lowest" if alone else name
                if other in first and name in second:
                    reference = widen(np.asarray(first[other][index]))
                    self.between = max(self.between, _distance(y, reference))
                    self.squares.append(_rms(y, reference))
            best = second[levels[-1]][index] if levels else second["f64"][index]
            # (N, classes, 1, 1) counts as (N, classes).
            classes = next((d for d in reversed(y64.shape) if d > 1), 1)
            if y64.dtype.kind == "f" and classes > 1 and y64.size:
                rows = [v.reshape(-1, classes).argmax(axis=-1) for v in (y64, widen(best))]
                self.argmax.append(float(np.mean(rows[0] == rows[1])))


def _largest(y: NDArray[Any]) -> float:
    if y.dtype.kind not in "fiu" or not y.size:
        return 0.0
    finite = np.abs(y[np.isfinite(y)])
    return float(finite.max(initial=0.0))


def _distance(y: NDArray[Any], y64: NDArray[Any]) -> float:
    """Largest difference; where the truth is not finite, y has to be the same or not finite.

    A finite truth and a result that is not finite are infinitely far apart. Anything that is not
    a number (strings, booleans) is equal or infinitely far apart.
    """
    y = widen(np.asarray(y))
    if y64.dtype.kind not in "fiu":
        return 0.0 if np.array_equal(y, y64) else float("inf")
    if not y64.size:
        return 0.0
    with np.errstate(all="ignore"):
        difference = np.abs(y.astype(np.float64) - y64)
    known = np.isfinite(y64)
    if not np.isfinite(y[known]).all():
        return float("inf")
    return float(difference[known].max(initial=0.0))


def _rms(y: NDArray[Any], reference: NDArray[Any]) -> float:
    if reference.dtype.kind not in "fiu" or not reference.size:
        return 0.0
    with np.errstate(all="ignore"):
        difference = widen(np.asarray(y)).astype(np.float64) - reference
    finite = difference[np.isfinite(difference)]
    return float(np.sqrt(np.mean(finite * finite))) if finite.size else 0.0

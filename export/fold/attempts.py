"""Fold as boldly as can be proven: the one loop behind every fold and every export."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from fastbn.export.errors import MismatchError, ModelError, one_line, root_cause
from fastbn.export.evaluator import Float64Evaluator, to_float64
from fastbn.export.fold.collector import collector_paused
from fastbn.export.fold.engine import STEPS, Boldness, fold_in_place
from fastbn.export.fold.report import FoldReport
from fastbn.export.fold.shapes import infer_shapes
from fastbn.export.packing import has_many_nodes
from fastbn.export.power import show_power
from fastbn.export.truth import Truth
from fastbn.export.validate import require_agreement

# What float64 may lose, relative to an output; and to what the rounded fold lost.
EXACT, ROUNDING = 1e-9, 1e-5
# Where float64 shows that a fold is right, the new weights' rounding may be this much more than
# the usual tolerance: the original's own weights count as exact, so its errors may be smaller.
SLACK = 4.0
ROUNDED = "rounding suffered otherwise"
POWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded model, and the file it lies in if its weights are too large for a message."""

    model: onnx.ModelProto
    report: FoldReport
    path: Path | None = None


class Foldable:
    """A model to fold, as often as needed.

    Parameters
    ----------
    message : onnx.ModelProto
        Not changed.
    folder : path, optional
        Where its weights lie, if they are not in the message.
    duplicate_shared : bool
        Whether shared weights may be copied though it costs memory.
    allow_slower : bool
        Whether to fold even where the runtime then takes longer.
    allow_negative_scales : bool
        Whether the scales of quantised weights may become negative.
    sample_norms : bool
        Whether weight and bias of LayerNormalization and its like are folded, too.

    Raises
    ------
    ModelError
        If it cannot be represented.
    """

    def __init__(
        self,
        message: onnx.ModelProto,
        *,
        folder: Path | None = None,
        duplicate_shared: bool = False,
        allow_slower: bool = False,
        allow_negative_scales: bool = False,
        sample_norms: bool = False,
    ) -> None:
        self._message = message
        self._folder = folder
        self.sample_norms = sample_norms
        self.duplicate_shared = duplicate_shared
        self.allow_slower = allow_slower
        self.allow_negative_scales = allow_negative_scales
        self._fresh: ir.Model | None = self._annotated()

    @collector_paused()
    def _annotated(self) -> ir.Model:
        """Read the model, with the shapes that can be inferred."""
        model = read(self._message)
        if self._folder is not None:
            ir.external_data.set_base_dir(model.graph, self._folder)
        infer_shapes(model, self._message)
        return model

    @collector_paused()
    def fold(self, boldness: Boldness = STEPS[0]) -> tuple[ir.Model, FoldReport]:
        """Fold, and once more if shared weights turn out to be copied."""
        not_copied: frozenset[str] = frozenset()
        while True:
            model, self._fresh = self._fresh or self._annotated(), None
            report, copied = fold_in_place(
                model,
                boldness,
                not_copied,
                allow_slower=self.allow_slower,
                allow_negative_scales=self.allow_negative_scales,
                sample_norms=self.sample_norms,
            )
            if self.duplicate_shared or not copied or not_copied >= copied.keys():
                return model, report
            not_copied |= copied.keys()

    def message(self, boldness: Boldness = STEPS[0]) -> Folded:
        """Fold into a message."""
        model, report = self.fold(boldness)
        return Folded(written(model), report)


@collector_paused()
def read(proto: onnx.ModelProto) -> ir.Model:
    """Model of a message.

    Raises
    ------
    ModelError
        If it cannot be represented.
    """
    try:
        return ir.from_proto(proto)
    except (ir.serde.SerdeError, UnicodeError) as error:
        raise ModelError(f"the model cannot be represented: {root_cause(error)}") from error


@collector_paused()
def written(model: ir.Model) -> onnx.ModelProto:
    """Message of a model.

    Raises
    ------
    ModelError
        If it cannot be represented.
    """
    try:
        return ir.to_proto(model)
    except (ir.serde.SerdeError, UnicodeError) as error:
        raise ModelError(f"the model cannot be represented: {root_cause(error)}") from error


def boldest_proven(
    fold: Callable[[Boldness], Folded],
    original: onnx.ModelProto,
    load: Callable[[], Truth],
    max_seconds: float = POWER_SECONDS,
) -> Folded:
    """Fold less and less, until the result is the original's function.

    Where nothing folds, the original itself is the result, and nothing is run.

    Parameters
    ----------
    fold : callable
        Folds with a given boldness.
    original : onnx.ModelProto
    load : callable
        Makes the truth of the original.
    max_seconds : float
        For showing that the comparison would have noticed a wrong weight.

    Raises
    ------
    ModelError
        If a folded model is not valid ONNX.
    MismatchError
        If nothing that folds agrees.
    """
    failure: MismatchError | None = None
    truth: Truth | None = None
    why = ""
    for boldness in STEPS:
        folded = fold(boldness)
        report = folded.report
        if failure is not None:
            report.notes.append(f"folded {boldness.name}, because {why}")
        if not report.changed:
            report.nodes_after = report.nodes_before
            return Folded(original, report, folded.path)
        if has_many_nodes(original):  # the proof needs the memory that circles still hold
            gc.collect()
        truth = truth or load()
        if folded.path is None:
            require_valid(truth.model, folded.model)
        report.verification = truth.compare(folded.model, folded.path)
        report.max_abs_f64 = report.verification.max_abs_f64
        try:
            require_agreement(report.verification, "the folded model")
        except MismatchError as error:
            failure = failure or error
            distance, norms = report.verification.max_abs_f64, bool(report.sample_norms)
            why = what_suffered(truth, boldness, distance, norms)
            if why != ROUNDED or not report.verification.settle(SLACK):
                continue
            report.notes.append("rounding came out larger than usual; in float64 all is equal")
        if folded.path is None:
            show_power(truth, folded.model, report.verification, max_seconds)
        else:
            report.verification.unproven.append(
                "new tensors: none was changed to see whether that is noticed; they are too large"
            )
        return folded
    assert failure is not None
    raise MismatchError(f"{failure} ({why})")


def what_suffered(truth: Truth, boldness: Boldness, distance: float, sample_norms: bool) -> str:
    """Tell rounding from a wrong fold: fold in float64, with weights that are not rounded."""
    samples = list(truth.samples())
    try:
        wide = to_float64(truth.model)
        source = Foldable(wide, duplicate_shared=True, sample_norms=sample_norms)
        exact, _ = source.fold(boldness)
        run = Float64Evaluator(written(exact)).run
        worst = 0.0
        for sample in (*samples[:2], samples[-1]):
            for y64, y in zip(truth.expected(sample), run(sample), strict=True):
                if y64.dtype.kind != "f" or not y64.size:
                    continue
                known = np.isfinite(y64)
                size = float(np.abs(y64[known]).max(initial=0.0))
                lost = float(np.abs(y - y64)[known].max(initial=0.0))
                if not lost <= max(EXACT * size, ROUNDING * distance):
                    worst = max(worst, lost / size if size else np.inf)
    except Exception as error:  # the evaluator's operators raise what they like
        return f"the result differed otherwise; float64 does not tell why ({one_line(error)})"
    if worst:
        return (
            f"the result was another function otherwise, off by {worst:.1g} in float64, too: "
            "a mistake of fastbn, please report it"
        )
    return ROUNDED


def require_valid(original: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    """Check the folded model as thoroughly as the original stands it."""
    try:
        onnx.checker.check_model(original, full_check=True)
        thorough = True
    except Exception:  # shape inference raises several classes
        thorough = False
    try:
        onnx.checker.check_model(folded, full_check=thorough)
    except Exception as error:
        raise ModelError(f"the folded model is not valid: {one_line(error)}") from error

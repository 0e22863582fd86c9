"""The first of two models: evaluated once, however many are held against it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn.export.differences import OutputErrors, agreement, cannot_tell
from fastbn.export.errors import DemandError, ModelError, one_line
from fastbn.export.packing import has_many_nodes
from fastbn.export.report import OutputReport, ValidationReport
from fastbn.export.rounding import coarsest_eps, quantises
from fastbn.export.samples import (
    ADVERSARIAL,
    FREE_SIZES,
    InputSpec,
    Sample,
    Sizes,
    adversarial_sample,
    check_data,
    free_dims,
    input_specs,
    random_sample,
    same_sizes,
)
from fastbn.export.ways import Memory, Outputs, Results, Run, load_first, load_second, remembering

# Rounding that a sum may always add, in eps of the coarsest type, relative to an output.
ROUNDING_EPS = 16.0
# One model alone has no other to be compared with: onnxruntime may lose this many eps.
ALONE_EPS = 1024.0
# No tolerance is larger, relative to an output's size; of half types and quantised activations.
CAP, HALF_CAP, HALF_EPS = 1e-3, 5e-2, 1e-5
# Rounding of a model with quantised activations: an int32 bias moves by whole steps.
QUANTISED_EPS = 2.0**-16


class Truth:
    """A model, the inputs it is tried on, and what it gave for them.

    Parameters
    ----------
    model : onnx.ModelProto
        Its evaluation in float64 is the truth.
    data : mapping of str to array, optional
        Inputs by name, tried besides random and adversarial ones.
    seeds : int
        Number of random inputs.
    batch_sizes : sequence of int
        Sizes the open batch axis takes in turn.
    tolerance : float, optional
        What an output may be off by, relative to its size, instead of what rounding explains.
    path : path, optional
        Its file, if its weights are too large for memory; then onnxruntime is the truth.
    memory : dict, optional
        Takes what the model gave, for another Truth of the same model.

    Raises
    ------
    ModelError
        If neither onnxruntime nor the evaluator can run it.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        data: Mapping[str, NDArray[Any]] | None = None,
        seeds: int = 5,
        batch_sizes: Sequence[int] = (1, 3),
        tolerance: float | None = None,
        path: Path | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.model = model
        self.specs = input_specs(model)
        self.outputs = [value.name for value in model.graph.output]
        self._tolerance = tolerance
        self._eps = coarsest_eps(model)
        if quantises(model):
            self._eps = max(self._eps, QUANTISED_EPS)
        half = self._eps >= HALF_EPS
        self._cap = HALF_CAP if half else CAP
        self._first = load_first(model, path)
        self._run = remembering(self._first.run, {} if memory is None else memory)
        self._groups = self._inputs(data, seeds, batch_sizes)

    @property
    def is_narrow(self) -> bool:
        """Whether it computes with half types or quantised activations."""
        return self._cap == HALF_CAP

    def samples(self) -> Iterator[Sample]:
        """All inputs."""
        return itertools.chain.from_iterable(self._groups)

    def expected(self, sample: Sample) -> Outputs:
        """Return outputs in float64, or of onnxruntime where there is no float64."""
        return self._results(sample).truth

    def _results(self, sample: Sample) -> Results:
        """Run a sample that was found to run, or one of the user's."""
        try:
            return self._run(sample)
        except ModelError:
            raise
        except Exception as error:  # the evaluator's operators raise what they like
            raise ModelError(f"the model does not run on the data: {one_line(error)}") from error

    # --- Comparing -------------------------------------------------------------------------------

    def compare(
        self, second: onnx.ModelProto | None = None, path: Path | None = None
    ) -> ValidationReport:
        """Hold another model against it, or onnxruntime's own result for it.

        Raises
        ------
        ModelError
            If the other model has different inputs or outputs, or nothing runs it.
        """
        report = ValidationReport(verdict="agree")
        run = self._run
        if second is not None:
            _require_same_interface(self.model, second, self.specs)
            if has_many_nodes(self.model):  # two at once would take much memory
                for sample in self.samples():
                    self._results(sample)
                self._first.release()
            run = load_second(second, path, self._first, report)
        self.hold(run, report, alone=second is None)
        report.against = self._first.against
        report.notes += [note for note in self._first.notes if note not in report.notes]
        return report

    def hold(self, run: Run, report: ValidationReport, *, alone: bool = False) -> None:
        """Hold what another model gives against it, and fill in a report."""
        rows: list[float] = []
        groups: list[list[OutputErrors]] = []
        for group in self._groups:
            errors = [OutputErrors() for _ in self.outputs]
            groups.append(errors)
            for sample in group:
                report.samples += 1
                expected = self._results(sample)
                try:
                    results = run(sample)
                except DemandError:
                    raise
                except Exception as error:  # as above
                    report.fail("differ", f"the second model does not run: {one_line(error)}")
                    break
                rows += self._take(errors, expected, results, alone=alone)
        report.argmax_agreement = float(np.mean(rows)) if rows else 1.0
        truths = [self.expected(sample) for sample in self.samples()]
        for index in range(len(self.outputs)):
            found = [errors[index] for errors in groups]
            self._judge(index, found, truths, report, alone=alone)
        if all(output.cannot_tell for output in report.outputs):
            report.fail("not proven", "no output could tell a wrong model from a right one")
        report.settle()

    def _take(
        self,
        errors: list[OutputErrors],
        first: Results,
        second: Results,
        *,
        alone: bool,
    ) -> list[float]:
        """Take in one sample; give the share of rows of the same class for every output."""
        truth = first.truth
        levels: list[str] = [name for name in ("lowest", "highest") if name in first]
        others: list[str] = [name for name in ("lowest", "highest") if name in second] or ["f64"]
        rows = []
        for index, found in enumerate(errors):
            firsts = [first["lowest" if alone else name][index] for name in levels]
            seconds = [second[name][index] for name in others]
            found.add(truth[index], firsts, seconds)
            share = agreement(seconds[-1], np.asarray(truth[index]))
            rows += [] if share is None else [share]
        return rows

    def _judge(
        self,
        index: int,
        groups: Sequence[OutputErrors],
        truths: Sequence[Outputs],
        report: ValidationReport,
        *,
        alone: bool,
    ) -> None:
        """Say of one output whether it agrees, by its own scale."""
        name = self.outputs[index]
        size = max((found.size for found in groups), default=0.0)
        limit = (self._cap if self._tolerance is None else self._tolerance) * size
        worst = OutputReport(name, size=size)
        for found in groups:
            if found.other_flips > found.flips_allowed():
                report.fail("differ", f"output {name!r}: {found.other_flips} of {found.entries} "
                            f"integers differ, the original's {found.original_flips}")  # fmt: skip
            if found.lost:
                report.fail(
                    "not proven",
                    f"output {name!r}: {found.lost} numbers are not finite in the first model, "
                    "though they are in float64",
                )
            if found.problem:
                report.fail("differ", f"output {name!r} {found.problem}")
                found.other = float("inf")
            explained = limit if self._tolerance is not None else self._rounding(found, alone=alone)
            figures = (found.other, found.original, explained, limit)
            entry = OutputReport(name, *figures, size, found.between, found.squares)
            worst = max(worst, entry, key=OutputReport.closeness)
        worst.cannot_tell = cannot_tell([values[index] for values in truths], worst.tolerance)
        if worst.cannot_tell:
            report.unproven.append(f"output {name!r} {worst.cannot_tell}")
        report.outputs.append(worst)

    def _rounding(self, found: OutputErrors, *, alone: bool) -> float:
        """Tell how much of a difference rounding explains."""
        always = (ALONE_EPS if alone else ROUNDING_EPS) * self._eps * found.size
        return always if alone else max(2.0 * found.original, always)

    # --- Inputs ----------------------------------------------------------------------------------

    def _inputs(
        self, data: Mapping[str, NDArray[Any]] | None, seeds: int, batch_sizes: Sequence[int]
    ) -> list[list[Sample]]:
        """Make groups of inputs; a tolerance is worked out over the worst of each group."""
        specs = self.specs
        groups = [[check_data(specs, data)]] if data is not None else []
        sizes = self._sizes(batch_sizes, optional=bool(groups))
        drawn: list[Sample] = []
        if sizes:
            drawn = [random_sample(specs, sizes[s % len(sizes)], s) for s in range(seeds)]
            if any(spec.is_float for spec in specs):
                drawn += [adversarial_sample(specs, sizes[-1], kind) for kind in ADVERSARIAL]
            drawn = self._runnable(drawn)
        self._first.strict = False
        return [*groups, drawn] if drawn else groups

    def _runnable(self, drawn: list[Sample]) -> list[Sample]:
        """Leave out what the model itself does not run on, such as a TopK of nothing."""
        kept: list[Sample] = []
        notes: list[str] = []
        for sample in drawn:
            try:
                self._run(sample)
            except DemandError:
                raise
            except Exception as error:  # as above
                notes.append(one_line(error))
            else:
                kept.append(sample)
        if notes:
            self._first.notes.append(
                f"{len(notes)} of {len(drawn)} inputs are left out: "
                f"the original does not run on them ({notes[0]})"
            )
        return kept

    def _sizes(self, batch_sizes: Sequence[int], *, optional: bool) -> list[Sizes]:
        """Search sizes of the free dimensions: two sets, with nothing inside that is empty."""
        leading, rest = free_dims(self.specs)
        batches = list(batch_sizes)
        failure: Exception | None = None
        found: tuple[int, int, Sizes] | None = None
        # Float64 is given up only if no size suits it.
        for self._first.strict, size in itertools.product(
            (True, False), FREE_SIZES if rest else FREE_SIZES[:1]
        ):
            sizes = same_sizes(self.specs, batches[0], size)
            if found is not None and (not self._first.strict or not found[0]):
                break
            try:
                empty = self._empty(sizes)
            except DemandError:
                raise
            except Exception as error:
                failure = failure or error
                continue
            if found is None or empty < found[0]:
                found = (empty, size, sizes)
        if found is None:
            if optional:
                return []
            assert failure is not None
            if isinstance(failure, ModelError):
                raise failure
            raise ModelError(
                f"the model does not run on random inputs; give check data ({one_line(failure)})"
            ) from failure
        empty, size, first = found
        self._first.strict = True
        if not leading and not rest:
            return [first]
        step = size if size >= 32 else 4
        apart = {name: size + step * (k + 1) for k, name in enumerate(rest)}
        for batch, others in (
            (batches[-1], apart),
            (batches[-1], dict.fromkeys(rest, 2 * size)),
            (batches[-1], dict.fromkeys(rest, size)),
            (batches[0], dict.fromkeys(rest, 2 * size)),
        ):
            second = dict.fromkeys(leading, batch) | others
            try:
                if self._empty(second) <= empty:
                    return [first, second]
            except Exception:
                continue
        return [first]

    def _empty(self, sizes: Sizes) -> int:
        """Run it at these sizes; count the values inside that have no elements."""
        return self._run(random_sample(self.specs, sizes, 0)).empty


def _require_same_interface(
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

"""The first of two models: evaluated once, however many are held against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn.export.differences import Errors
from fastbn.export.errors import DemandError, ModelError, one_line
from fastbn.export.io import coarsest_eps
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
from fastbn.export.ways import Memory, load_first, load_second, remembering

# One model alone has no other to be compared with: onnxruntime may lose this many eps.
ALONE_EPS = 1024.0


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
        path: Path | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.model = model
        self.specs = input_specs(model)
        self._first = load_first(model, path)
        self._run = remembering(self._first.run, {} if memory is None else memory)
        self._groups = self._inputs(data, seeds, batch_sizes)
        self._eps = coarsest_eps(model)

    def samples(self) -> Iterator[Sample]:
        """All inputs."""
        for group in self._groups:
            yield from group

    def compare(
        self, second: onnx.ModelProto | None = None, path: Path | None = None
    ) -> ValidationReport:
        """Hold another model against it, or onnxruntime's own result for it.

        Raises
        ------
        ModelError
            If the other model has different inputs or outputs, or nothing runs it.
        """
        report = ValidationReport(against=self._first.against, notes=list(self._first.notes))
        run = self._run
        if second is not None:
            _require_same_interface(self.model, second, self.specs)
            run = load_second(second, path, self._first, report)
        argmax: list[float] = []
        worst = -1.0
        for group in self._groups:
            found = Errors()
            for sample in group:
                report.samples += 1
                expected = self._run(sample)
                try:
                    results = run(sample)
                except RuntimeRefusalError as error:
                    found.folded = float("inf")
                    found.pattern = f"the second model does not run: {one_line(error)}"
                    break
                found.add(expected, results, alone=second is None)
            tolerance = max(2.0 * found.original, 16.0 * self._eps * found.size)
            if second is None:
                tolerance = ALONE_EPS * self._eps * found.size
            if found.ran_nothing:
                tolerance = 16.0 * self._eps * found.size
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
        report.against = self._first.against
        report.notes += [note for note in self._first.notes if note not in report.notes]
        return report

    def _inputs(
        self, data: Mapping[str, NDArray[Any]] | None, seeds: int, batch_sizes: Sequence[int]
    ) -> list[list[Sample]]:
        """Make groups of inputs; a tolerance is worked out over the worst of each group."""
        specs = self.specs
        batches = list(batch_sizes) if has_free_batch(specs) else [1]
        groups = [[check_data(specs, data)]] if data is not None else []
        free = self._free_size(batches[0], optional=bool(groups))
        if free is None:
            return groups
        sizes = [shapes(specs, batch, free) for batch in batches]
        groups.append([random_sample(specs, sizes[s % len(sizes)], s) for s in range(seeds)])
        adversarial = [k for k in ADVERSARIAL if any(s.dtype.kind not in "iub" for s in specs)]
        groups.append([adversarial_sample(specs, sizes[-1], kind) for kind in adversarial])
        return [group for group in groups if group]

    def _free_size(self, batch: int, *, optional: bool) -> int | None:
        """Smallest size for the open dimensions that the model accepts."""
        free = any(not isinstance(d, int) for spec in self.specs for d in spec.dims[1:])
        failure: Exception | None = None
        for size in FREE_SIZES if free else FREE_SIZES[:1]:
            try:
                self._run(random_sample(self.specs, shapes(self.specs, batch, size), 0))
            except DemandError:
                raise
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


def _ratio(error: float, size: float) -> float:
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))

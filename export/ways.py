"""Every way of running a model: in float64, and in onnxruntime at either level."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn.export.demands import require_turns
from fastbn.export.errors import DemandError, ModelError, one_line
from fastbn.export.evaluator import Float64Evaluator
from fastbn.export.packing import has_many_nodes
from fastbn.export.report import ValidationReport
from fastbn.export.runtime import RuntimeRefusalError, Session
from fastbn.export.samples import Sample

Outputs = list[NDArray[Any]]


class Results(dict[str, Outputs]):
    """Outputs by way: ``"f64"`` and the two levels of onnxruntime, as far as they exist.

    Attributes
    ----------
    empty : int
        Values inside that had no elements, as far as float64 ran it.
    """

    empty = 0

    @property
    def truth(self) -> Outputs:
        """Outputs in float64, or of onnxruntime where there is no float64."""
        return self["f64"] if "f64" in self else self["lowest"]


Run = Callable[[Sample], Results]
# Digest of a sample -> what a model gave for it.
Memory = dict[bytes, Results]


def remembering(run: Run, memory: Memory) -> Run:
    """Run a sample only if it was not run before."""

    def remembered(sample: Sample) -> Results:
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(sample):
            digest.update(repr((name, sample[name].shape)).encode())
            digest.update(np.ascontiguousarray(sample[name]).tobytes())
        key = digest.digest()
        if key not in memory:
            memory[key] = run(sample)
        return memory[key]

    return remembered


class Loaded:
    """A model loaded into everything that can run it.

    Attributes
    ----------
    ways : dict
        ``"f64"``, ``"lowest"`` and ``"highest"``, as far as they exist.
    notes : list of str
        What does not run it, and why.
    """

    def __init__(self, model: onnx.ModelProto, path: Path | None = None) -> None:
        self.ways: dict[str, Callable[[Sample], Outputs]] = {}
        self.notes: list[str] = []
        self._model = model
        self._evaluator: Float64Evaluator | None = None
        # Whether a sample that float64 cannot evaluate is the sample's fault.
        self.strict = False
        require_turns(model)
        levels = ["lowest", "highest"]
        if has_many_nodes(model):
            nodes = f"{len(model.graph.node):,} nodes"
            self.notes.append(f"onnxruntime ({levels.pop()}) is not asked: {nodes} are too many")
        for level in levels:
            try:
                self.ways[level] = Session(path or with_free_dims(model), level).run
            except RuntimeRefusalError as error:
                self.notes.append(f"onnxruntime ({level}) does not load: {one_line(error)}")

    @property
    def against(self) -> str:
        """What counts as the truth of this model."""
        return "float64" if "f64" in self.ways else "onnxruntime"

    def evaluate(self) -> None:
        """Load it into float64, too."""
        try:
            self._evaluator = Float64Evaluator(self._model)
            # First, because it counts the turns of loops and onnxruntime does not.
            self.ways = {"f64": self._evaluator.run, **self.ways}
        except Exception as error:  # the evaluator's operators raise what they like
            self.notes.append(f"no float64 evaluation: {one_line(error)}")

    def release(self) -> None:
        """Give its memory back, when all that it is going to be asked for is remembered."""
        self.ways = dict.fromkeys(self.ways, _released)
        self._evaluator = None

    def run(self, sample: Sample) -> Results:
        """Return the outputs by every way there is."""
        results = Results()
        for name, function in list(self.ways.items()):
            try:
                results[name] = function(sample)
            except DemandError:
                raise
            except Exception as error:
                if name != "f64" or len(self.ways) == 1 or self.strict:
                    raise
                # onnx.reference lacks an operator; the runtime's own result must do.
                self.ways.pop("f64")
                self.notes.append(f"no float64 evaluation: {one_line(error)}")
        if self._evaluator is not None and "f64" in results:
            results.empty = len(self._evaluator.empty)
        return results


def _released(_: Sample) -> Outputs:
    raise RuntimeError("the model was released")


def with_free_dims(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose inputs and outputs have no dimension of 0 or -1, which mean a free one.

    onnxruntime takes a 0 at its word. The model itself, if there are none.
    """
    values = (*model.graph.input, *model.graph.output)
    if not any(
        dim.HasField("dim_value") and dim.dim_value < 1
        for value in values
        for dim in value.type.tensor_type.shape.dim
    ):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.Clear()
    return copy


def load_first(model: onnx.ModelProto, path: Path | None = None) -> Loaded:
    """Load the model that is the truth.

    Raises
    ------
    ModelError
        If nothing runs it.
    """
    loaded = Loaded(model, path)
    if "lowest" not in loaded.ways:
        _require_types(model)
    if path is None:
        loaded.evaluate()
    else:
        loaded.notes.append("no float64 evaluation: the weights are too large")
    if "f64" not in loaded.ways and "lowest" not in loaded.ways:
        raise ModelError(
            "the model can be verified neither by onnxruntime nor in float64: "
            + "; ".join(loaded.notes)
        )
    return loaded


def load_second(
    model: onnx.ModelProto, path: Path | None, first: Loaded, report: ValidationReport
) -> Run:
    """Load the model that is held against the first; float64 runs it where onnxruntime cannot."""
    loaded = Loaded(model, path)
    if "lowest" not in loaded.ways:
        if "lowest" in first.ways:
            report.fail("differ", "")
        loaded.evaluate()
    report.notes += [note for note in loaded.notes if note not in report.notes]
    return loaded.run


def _require_types(model: onnx.ModelProto) -> None:
    """Say so if onnxruntime refuses a model because it is wrong, and not because of itself."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # shape inference raises several classes
        raise ModelError(f"not a valid ONNX model: {one_line(error)}") from error

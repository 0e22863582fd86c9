"""Whether a comparison that found no difference would have found one.

Each tensor that a fold has made is changed by one hundredth (half types: one fifth), and the folded
model is compared again: it has to disagree. A tensor whose change nobody notices is named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from fastbn import budgets
from fastbn.export.demands import every_node, subgraphs
from fastbn.export.differences import OutputErrors
from fastbn.export.evaluator import FLOATS, Float64Evaluator, widen
from fastbn.export.packing import has_many_nodes
from fastbn.export.report import ValidationReport
from fastbn.export.runtime import RuntimeRefusalError, Session
from fastbn.export.samples import Sample
from fastbn.export.truth import Truth
from fastbn.export.ways import Outputs, with_free_dims

FACTOR, HALF_FACTOR = 1.01, 1.2
# Initializers that are graph inputs may be given by the caller from this version on.
GIVEN_IR_VERSION = 4
# A fold makes integers, too: the bias of quantised weights.
_CHANGED = FLOATS | {onnx.TensorProto.INT32}

Weights = dict[str, NDArray[np.generic]]
_Run = Callable[[Sample, Weights], Outputs]


def show_power(
    truth: Truth, folded: onnx.ModelProto, report: ValidationReport, max_seconds: float
) -> None:
    """Change what a fold has made, and count in its report what the comparison notices.

    Parameters
    ----------
    truth : Truth
        Of the original.
    folded : onnx.ModelProto
        What agreed with it.
    report : ValidationReport
        Of that comparison; ``noticed`` and ``unproven`` are filled in.
    max_seconds : float
        After this time the tensors that are left are changed together, with random signs.
    """
    made = made_tensors(truth.model, folded)
    run = _runner(folded, made)
    factor = HALF_FACTOR if truth.is_narrow else FACTOR
    budgets.found("the changes of a proof", int(max_seconds * budgets.BYTES_A_SECOND))
    deadline = time.monotonic() + max_seconds
    names = list(made)
    while names and time.monotonic() < deadline:
        name = names.pop(0)
        changed = {name: _scaled(made[name], factor)}
        if _notices(truth, report, run, changed):
            report.noticed += 1
        else:
            report.unproven.append(f"tensor {name!r}: nothing tells a change of {factor - 1:.0%}")
    if not names:
        return
    signs = np.random.default_rng(0).choice([1.0, -1.0], len(names))
    together = {
        name: _scaled(made[name], factor**sign) for name, sign in zip(names, signs, strict=True)
    }
    if _notices(truth, report, run, together):
        report.noticed += 1
        report.notes.append(f"{len(names)} new tensors were changed together, for lack of time")
    else:
        report.unproven += [
            f"tensor {name!r}: not changed alone, for lack of time" for name in names
        ]


def made_tensors(original: onnx.ModelProto, folded: onnx.ModelProto) -> Weights:
    """Weights that a fold has made or changed, in subgraphs too; those of zeros say nothing.

    They are floating-point numbers and quantised biases, and the fold gives each a name of its own.
    """
    before: dict[str, list[onnx.TensorProto]] = {}
    for graph in _graphs(original):
        for tensor in graph.initializer:
            before.setdefault(tensor.name, []).append(tensor)
    made: Weights = {}
    for graph in _graphs(folded):
        for tensor in graph.initializer:
            old = before.get(tensor.name, [])
            if tensor.data_type not in _CHANGED or tensor in old:
                continue
            values = numpy_helper.to_array(tensor)
            same = any(np.array_equal(numpy_helper.to_array(other), values) for other in old)
            if values.any() and not same:
                made[tensor.name] = values
    return made


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the main graph and its subgraphs."""
    yield model.graph
    for node in every_node(model.graph.node):
        yield from subgraphs(node)


def _scaled(values: NDArray[np.generic], factor: float) -> NDArray[np.generic]:
    scaled = np.asarray(widen(values) * factor)  # a product of () is no array
    return (np.rint(scaled) if values.dtype.kind == "i" else scaled).astype(values.dtype)


def _runner(model: onnx.ModelProto, made: Weights) -> _Run:
    """Make a function that runs a model with other weights: they become inputs.

    onnxruntime takes too long to load a model of very many inputs; it runs in float64 then.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(with_free_dims(model))
    _hand_out(copy, made)
    if has_many_nodes(model):
        return _evaluated(copy)
    copy.ir_version = max(copy.ir_version, GIVEN_IR_VERSION)
    known = {value.name for value in copy.graph.input}
    for tensor in copy.graph.initializer:
        if tensor.name in made and tensor.name not in known:
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    try:
        session = Session(copy, "lowest")
    except RuntimeRefusalError:
        return _evaluated(copy)
    return lambda sample, weights: session.run({**sample, **weights})


def _hand_out(model: onnx.ModelProto, made: Weights) -> None:
    """Move weights of subgraphs, which see all names around them, to the main graph."""
    for graph in _graphs(model):
        if graph is model.graph:
            continue
        for tensor in [tensor for tensor in graph.initializer if tensor.name in made]:
            model.graph.initializer.append(tensor)
            graph.initializer.remove(tensor)


def _evaluated(model: onnx.ModelProto) -> _Run:
    evaluator = Float64Evaluator(model)
    return lambda sample, weights: evaluator.run({**sample, **weights})


def _notices(truth: Truth, report: ValidationReport, run: _Run, weights: Weights) -> bool:
    """Whether some sample tells the model with other weights from the original."""
    for sample in truth.samples():
        expected = truth.expected(sample)
        try:
            results = run(sample, weights)
        except Exception:  # the evaluator's operators raise what they like
            if _runs(run, sample):
                return True
            continue
        for output, y64, y in zip(report.outputs, expected, results, strict=True):
            found = OutputErrors()
            found.add(y64, [], [y])
            if found.problem or found.other > output.tolerance:
                return True
            if found.other_flips > found.flips_allowed():
                return True
    return False


def _runs(run: _Run, sample: Sample) -> bool:
    """Whether the model runs as it is."""
    try:
        run(sample, {})
    except Exception:  # as above
        return False
    return True

"""A model card: what an exported file is, how good, how proven, and how to run it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from fastbn.export.exporter import ExportReport
from fastbn.export.precision import PrecisionReport
from fastbn.files import atomic

WIDEST = 20  # classes of a confusion matrix that is shown
LISTED = 50  # classes that are named


def write_card(
    model: str | os.PathLike[str], report: ExportReport, run: str | os.PathLike[str] | None = None
) -> Path:
    """Write ``README.md`` beside an exported file.

    Parameters
    ----------
    model : path
        What `to_onnx` wrote.
    report : ExportReport
        What it returned.
    run : path, optional
        ``report.json`` of the training run, for data and accuracy; left out where it is not there.

    Returns
    -------
    pathlib.Path
        The card.
    """
    source = Path(model)
    file = onnx.load(source)
    known = {prop.key: prop.value for prop in file.metadata_props}
    dims = file.graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value for dim in dims[1:]]
    told: Mapping[str, Any] = {}
    if run is not None and Path(run).is_file():
        told = json.loads(Path(run).read_text(encoding="utf-8"))
    text = "\n".join(_lines(source.name, shape, known, report, told)) + "\n"
    path = source.with_name("README.md")
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _lines(
    name: str,
    shape: Sequence[int],
    known: Mapping[str, str],
    report: ExportReport,
    told: Mapping[str, Any],
) -> Iterator[str]:
    classes = json.loads(known.get("classes", "[]"))
    yield f"# {name}"
    yield ""
    yield from _table(_facts(shape, known, report, told))
    if classes:
        yield ""
        more = f", … ({len(classes)} in all)" if len(classes) > LISTED else ""
        yield f"Classes: {', '.join(map(str, classes[:LISTED]))}{more}."
    yield from _accuracy(report, told, classes)
    yield from _proof(report)
    if report.narrowing is not None:
        yield from _narrowing(report.narrowing)
    yield from _usage(name, [1, *shape])


def _facts(
    shape: Sequence[int],
    known: Mapping[str, str],
    report: ExportReport,
    told: Mapping[str, Any],
) -> Iterator[tuple[str, object]]:
    layout = f"{known['input_layout']}, " if len(shape) == 3 else ""
    yield "input", f"`(N, {', '.join(map(str, shape))})`, {layout}float32"
    if report.narrowing is not None:
        yield "weights and computation", report.narrowing.precision
    if "input_range" in known:
        low, high = json.loads(known["input_range"])
        yield "values", f"{low:g} to {high:g}"
    if "normalization" in known:
        inside = json.loads(known["normalization"])
        rounded = {key: [round(value, 4) for value in values] for key, values in inside.items()}
        yield "normalisation, built in", f"mean {rounded['mean']}, std {rounded['std']}"
    yield "output", known["output"]
    yield "opset", report.opset
    for key, label in (("model", "network"), ("parameters", "parameters"), ("data", "data")):
        if told.get(key) is not None:
            value = told[key]
            yield label, f"{value:,}" if isinstance(value, int) else value
    if told.get("steps"):
        yield "training", f"{told['steps']:,} steps, {told.get('seconds', 0):.0f} s"
    yield "made by", f"fastbn {known['fastbn_version']}"


def _accuracy(
    report: ExportReport, told: Mapping[str, Any], classes: Sequence[str]
) -> Iterator[str]:
    if told.get("test_accuracy") is None:
        return
    yield from ("", "## Accuracy", "")
    whose = "" if report.narrowing is None else ", by the float32 network"
    yield f"{told['test_accuracy']:.2%} of the test samples{whose}."
    rows = told.get("per_class") or []
    if rows:
        yield ""
        yield "| class | samples | precision | recall |"
        yield "|---|--:|--:|--:|"
        for row in rows[:LISTED]:
            shares = [row["precision"], row["recall"]]
            cells = ["–" if share is None else f"{share:.3f}" for share in shares]
            yield f"| {_cell(row['class'])} | {row['count']:,} | {' | '.join(cells)} |"
    matrix = told.get("confusion") or []
    if 0 < len(matrix) <= WIDEST:
        names = classes or range(len(matrix))
        yield from ("", "True classes in rows, those found in columns:", "")
        yield "| | " + " | ".join(map(_cell, names)) + " |"
        yield "|---|" + "--:|" * len(matrix)
        for label, counts in zip(names, matrix, strict=True):
            yield f"| {_cell(label)} | {' | '.join(map(str, counts))} |"


def _proof(report: ExportReport) -> Iterator[str]:
    yield from ("", "## Folding and proof", "")
    yield f"BatchNorms: {report.bn_before} in the network, {report.bn_after} in the file."
    if report.max_rel_f64 is None:
        yield "The file was not compared with float64."
        return
    narrowing = report.narrowing
    what = "the file" if narrowing is None else "before it was narrowed the file"
    yield (
        f"In onnxruntime {what} is within {report.max_rel_f64:.1e} of the network evaluated in "
        f"float64, in parts of the largest output; both name the same class for "
        f"{report.argmax_agreement:.2%} of the inputs tried."
    )


def _narrowing(found: PrecisionReport) -> Iterator[str]:
    yield ""
    yield (
        f"In {found.precision} it differs from float32 by {found.max_rel:.1e} of the largest "
        f"output on the {found.samples:,} samples tried; both name the same class for "
        f"{found.argmax_agreement:.2%} of them."
    )
    if found.accuracy_before is not None and found.accuracy_after is not None:
        yield (
            f"{found.accuracy_after:.2%} of their labels are found, "
            f"{found.accuracy_before:.2%} in float32."
        )


def _usage(name: str, shape: Sequence[int]) -> Iterator[str]:
    yield from ("", "## In Python", "", "```python")
    yield "import numpy as np"
    yield "import onnxruntime"
    yield ""
    yield f'session = onnxruntime.InferenceSession("{name}")'
    yield f"x = np.zeros({tuple(shape)}, np.float32)  # your samples"
    yield "(y,) = session.run(None, {session.get_inputs()[0].name: x})"
    yield "print(y.argmax(axis=1))"
    yield from ("```", "", "## In JavaScript", "")
    yield "With `onnxruntime-web` (in the browser) or `onnxruntime-node`, as `ort`:"
    yield from ("", "```js")
    yield f'const session = await ort.InferenceSession.create("{name}");'
    size = " * ".join(map(str, shape))
    yield f'const x = new ort.Tensor("float32", new Float32Array({size}), {list(shape)});'
    yield "const outputs = await session.run({ [session.inputNames[0]]: x });"
    yield "console.log(outputs[session.outputNames[0]].data);"
    yield "```"


def _cell(name: object) -> str:
    return str(name).replace("|", "\\|")


def _table(rows: Iterator[tuple[str, object]]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for label, value in rows:
        yield f"| {label} | {value} |"

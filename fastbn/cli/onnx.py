"""The commands for any ONNX file: ``fastbn fold | validate``. Heavy imports wait until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastbn.cli.errors import DIFFERENT, DONE
from fastbn.cli.files import CheckData, ReportFile, need_other_files, write_text
from fastbn.cli.table import show
from fastbn.cli.watch import watched

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.export import FoldReport, PredictionReport

# What a table shows of a fold's report.
FOLDED = ("bn_before", "bn_left", "affine_left", "nodes_before", "nodes_after", "max_abs_f64")

# Samples of a data set that two files are compared on.
TEST_SAMPLES = 2048


@watched("model", "check_data")
def fold(
    model: Annotated[Path, typer.Argument(help="Any ONNX file, opset 7 or later.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    report_file: ReportFile = None,
    check_data: CheckData = None,
    duplicate_shared: Annotated[
        bool,
        typer.Option(
            "--duplicate-shared",
            help="Copy weights of over 64 KB that several nodes share, so that each can be folded.",
        ),
    ] = False,
    allow_slower: Annotated[
        bool,
        typer.Option("--allow-slower", help="Fold even if onnxruntime gets slower."),
    ] = False,
    allow_negative_scales: Annotated[
        bool,
        typer.Option(
            "--allow-negative-scales",
            help="Let scales of quantised weights become negative where γ is.",
        ),
    ] = False,
    verify: Annotated[bool, typer.Option(help="Compare with the original before writing.")] = True,
    prove_seconds: Annotated[
        float,
        typer.Option(
            help="Time for changing new weights one by one: each change must show.", min=0
        ),
    ] = 5.0,
    inline: Annotated[
        bool, typer.Option("--inline", help="Inline functions, to fold inside them.")
    ] = False,
    overridable_as_constant: Annotated[
        bool,
        typer.Option(
            "--overridable-as-constant",
            help="Make inputs with default values constants, and remove them.",
        ),
    ] = False,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(help="Sizes of an input that are open in the file: NAME=1,3,224,224."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Allow the output to replace the input file.")
    ] = False,
) -> int:
    """Fold every BatchNorm that can be folded out of any ONNX file; prove it, and explain the rest.

    Writes nothing and exits with 1 if the result were not the same function.
    """
    from fastbn.export import fold_file
    from fastbn.export.samples import read_npz

    need_other_files(output, check_data)
    need_other_files(report_file, model, output, check_data)
    report = fold_file(
        model,
        output,
        duplicate_shared=duplicate_shared,
        verify=verify,
        check_data=None if check_data is None else read_npz(check_data),
        allow_slower=allow_slower,
        allow_negative_scales=allow_negative_scales,
        max_seconds=prove_seconds,
        overwrite_input=overwrite,
        inline=inline,
        overridable_as_constant=overridable_as_constant,
        input_shapes=dict(map(_sizes, input_shape or ())),
    )
    write_text(report_file, report.to_json())
    show_fold(str(output), report)
    return DONE


def _sizes(text: str) -> tuple[str, list[int]]:
    """Read the name and the sizes of an input.

    Examples
    --------
    >>> _sizes("x=1,3,224,224")
    ('x', [1, 3, 224, 224])
    """
    name, _, sizes = text.rpartition("=")
    try:
        return name, [int(part) for part in sizes.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"input-shape: expected NAME=1,3,224,224 or the like, got {text!r}"
        ) from None


def show_fold(title: str, report: FoldReport) -> None:
    """Print the figures of a fold, and every BatchNorm that stayed with the reason."""
    values: dict[str, object] = {name: report[name] for name in FOLDED}
    if report.verification is not None:
        values["tolerance"] = report.verification.tolerance
        values["compared with"] = report.verification.against
        values["changes noticed"] = report.verification.noticed
        if report.verification.unproven:
            values["unproven"] = report.verification.unproven
    else:
        values["compared with"] = "nothing: not verified"
    if report.notes:
        values["notes"] = report.notes
    show(title, values)
    stayed = {entry.node: entry.reason for entry in report.nodes if entry.reason}
    if stayed:
        show("what stayed, and why", stayed)


@watched("model", "other", "check_data", "weights")
def validate(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file. Its result in float64 is the reference.")
    ],
    other: Annotated[
        Path | None, typer.Argument(help="A second ONNX file, to be compared with the first.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of random inputs.", min=1)] = 5,
    check_data: CheckData = None,
    report_file: ReportFile = None,
    weights: Annotated[
        Path | None, typer.Option(help="Compare with the predictions of these weights on --data.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Test images: digits, mnist, cifar10, a folder; or an .npz of inputs."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest difference, relative to the output's largest number.", min=0),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Share of samples that need the same class.", min=0, max=1),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option("--model", "--factory", help="package.module:factory of your own network."),
    ] = None,
) -> int:
    """Compare a model in onnxruntime with float64, another model or weights; 1 if they differ."""
    from fastbn import export
    from fastbn.export.report import Report
    from fastbn.export.samples import read_npz

    need_other_files(report_file, model, other, check_data, weights)
    found: Report
    verdict = ""
    if weights is None:
        if data is not None and check_data is not None:
            raise typer.BadParameter("give --data or --check-data, not both")
        given = None if check_data is None else read_npz(check_data)
        if data is not None:
            given = inputs_for(model, data)
        found = report = export.validate(
            model, other, data=given, seeds=seeds, tolerance=tolerance, min_agreement=min_agreement
        )
        agree, verdict = report.agree, report.verdict
    elif data is None or other is not None or check_data is not None:
        raise typer.BadParameter("give both --weights and --data, and one model")
    else:
        from fastbn.export.build import PREDICT_TOLERANCE

        found = predicted = compare_with_weights(weights, model, data, factory)
        agree = predicted.max_rel <= PREDICT_TOLERANCE
    write_text(report_file, found.to_json())
    shown = found.as_dict()
    shown.pop("outputs", None)
    titles = {"not proven": "not proven", "not compared": "not compared"}
    show("same function" if agree else titles.get(verdict, "different"), shown)
    return DONE if agree else DIFFERENT


def inputs_for(model: Path, source: str) -> dict[str, NDArray[Any]]:
    """Read samples for a model: an .npz of its inputs, or the test images of a data set."""
    from fastbn.export.samples import read_npz

    if source.endswith(".npz"):
        return read_npz(source)
    import numpy as np

    from fastbn.data.sources import load_for
    from fastbn.export.io import read_model
    from fastbn.export.narrow import as_inputs, image_shape

    proto = read_model(model)
    samples = load_for(source, image_shape(proto)).x_test[:TEST_SAMPLES]
    return as_inputs(proto, np.asarray(samples))


def compare_with_weights(
    weights: Path,
    onnx_file: Path,
    data: str,
    model: str | None = None,
) -> PredictionReport:
    """Compare what the weights predict with what an ONNX file gives, on the test images of a set.

    Parameters
    ----------
    weights : path
        A file that `fastbn.train.save` wrote.
    onnx_file : path
        What `fastbn.export.to_onnx` made of it.
    data : str
        What `fastbn.data.load` takes.
    model : str, optional
        As of `network`.

    Returns
    -------
    fastbn.export.PredictionReport

    Raises
    ------
    ValueError, OSError
        If a file is missing, damaged or of another network.
    """
    import json

    import numpy as np

    from fastbn.data.sources import load_for
    from fastbn.export import compare_predictions
    from fastbn.export.io import read_model
    from fastbn.train.factory import network

    net, metadata = network(weights, model)
    proto = read_model(onnx_file)
    said = {item.key: item.value for item in proto.metadata_props}
    x = np.asarray(load_for(data, metadata.input_shape).x_test, np.float32)
    inside = json.loads(said.get("normalization", "{}"))
    if metadata.input_normalization and not inside:
        # The file takes what the network takes, and the network was trained on this.
        mean, std = (
            np.asarray(metadata.input_normalization[name], np.float32) for name in ("mean", "std")
        )
        x = (x - mean) / std
    return compare_predictions(
        net,
        proto,
        x,
        input_layout=said.get("input_layout", "NCHW"),
        normalization=(inside["mean"], inside["std"]) if inside else None,
        softmax=said.get("output") == "probabilities",
    )

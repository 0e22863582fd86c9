"""The commands that read or write ONNX files: ``fastbn export | fold | validate``.

:mod:`fastbn.cli` registers them. Nothing heavy is imported before one of them runs.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastbn.table import show

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastbn.export import FoldReport
    from fastbn.export.build import Normalization
    from fastbn.export.precision import Labelled
    from fastbn.train import Metadata

DONE, DIFFERENT = 0, 1

# What a table shows of an export's report, and of a fold's.
PROOF = ("bn_before", "bn_after", "max_abs_f64", "max_abs_ort", "argmax_agreement")
FOLDED = ("bn_before", "bn_left", "affine_left", "nodes_before", "nodes_after", "max_abs_f64")
# Images that calibration looks at: more of them only take longer.
CALIBRATION_SAMPLES = 512


class Layout(StrEnum):
    """What ``--layout`` takes."""

    NCHW = "NCHW"
    NHWC = "NHWC"


class Precision(StrEnum):
    """What ``--precision`` takes."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


ReportFile = Annotated[Path | None, typer.Option("--report", help="Write all of it as JSON, too.")]
CheckData = Annotated[
    Path | None,
    typer.Option(help="An .npz file with inputs by name, tried besides random ones."),
]


def export(
    weights: Annotated[Path, typer.Argument(help="A model.safetensors of fastbn.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    model: Annotated[
        str | None,
        typer.Option(help="package.module:factory, where the network is your own."),
    ] = None,
    layout: Annotated[Layout, typer.Option(help="Of the input images.")] = Layout.NCHW,
    fold: Annotated[bool, typer.Option(help="Fold BatchNorm into its neighbours.")] = True,
    opset: Annotated[int, typer.Option(help="Version of the operator set.")] = 18,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Build (x - mean) / std into the file: a number or one a channel, 1,2,3."
        ),
    ] = None,
    std: Annotated[str | None, typer.Option(help="See --mean.")] = None,
    normalize: Annotated[
        bool, typer.Option(help="Build in what the weights' file says of mean and std, if it does.")
    ] = True,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="End in probabilities instead of logits.")
    ] = False,
    precision: Annotated[
        Precision, typer.Option(help="Of weights and computation.")
    ] = Precision.FLOAT32,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Data for int8: digits, mnist, cifar10, a folder, or an .npz of x (and y)."
        ),
    ] = None,
    report_file: ReportFile = None,
) -> int:
    """Write the ONNX file of a network, after it was compared with float64."""
    from fastbn import runs
    from fastbn.export import to_onnx

    _need_other_files(output, weights)
    _need_other_files(report_file, weights, output)
    if precision is Precision.INT8 and calibration is None:
        raise typer.BadParameter("--precision int8 needs --calibration data")
    net, metadata = runs.network(weights, model)
    samples, test = _calibration(calibration)
    inside = _normalization(mean, std, metadata if normalize else None)
    # Pixels are in [0, 1] unless the network was trained on others and the file leaves it so.
    pixels = bool(inside) or not metadata.input_normalization
    report = to_onnx(
        net,
        output,
        input_shape=metadata.input_shape,
        input_layout=layout.value,
        fold=fold,
        opset=opset,
        classes=metadata.classes,
        input_range=(0.0, 1.0) if pixels else None,
        normalization=inside,
        softmax=softmax,
        precision=precision.value,
        calibration=samples,
        test=test,
    )
    shown = {name: report[name] for name in (*PROOF, "notes")}
    if report.narrowing is not None:
        shown |= report.narrowing.as_dict()
    _write(report_file, report.to_json())
    show(str(output), shown)
    return DONE


def _normalization(
    mean: str | None, std: str | None, metadata: Metadata | None
) -> Normalization | None:
    """Mean and deviation of the options, or else of the weights' file."""
    if mean is None and std is None:
        known = {} if metadata is None else metadata.input_normalization
        return (known["mean"], known["std"]) if known else None
    if mean is None or std is None:
        raise typer.BadParameter("give both --mean and --std")
    return numbers("--mean", mean), numbers("--std", std)


def numbers(option: str, text: str) -> list[float]:
    """Numbers of a list with commas.

    Examples
    --------
    >>> numbers("--mean", "0.5, 0.25")
    [0.5, 0.25]
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{option}: expected numbers as in 0.5,0.4,0.4, got {text!r}"
        ) from None


def _calibration(source: str | None) -> tuple[NDArray[np.float32] | None, Labelled | None]:
    """Read samples to calibrate on, and those to measure accuracy on, as `to_onnx` takes them.

    Of a data set, training images set the ranges and test images judge. A file's samples do both.
    """
    if source is None:
        return None, None
    if source.endswith(".npz"):
        from fastbn.export.samples import read_npz

        arrays = read_npz(source)
        if "x" not in arrays:
            raise ValueError(f"{source}: has no array 'x'; samples go there, their classes in 'y'")
        x: NDArray[np.float32] = arrays["x"].astype("float32", copy=False)
        return x, (x, arrays["y"]) if "y" in arrays else None
    import numpy as np

    from fastbn import data

    images = data.load(source)
    x_train, x_test = (np.asarray(x, np.float32) for x in (images.x_train, images.x_test))
    return spread(x_train, CALIBRATION_SAMPLES), (x_test, images.y_test)


def spread(x: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Take ``count`` samples from all over a data set, which may be sorted by class.

    Examples
    --------
    >>> import numpy as np
    >>> spread(np.arange(10), 3)
    array([0, 3, 6])
    """
    return x[:: max(len(x) // count, 1)][:count]


def fold(
    model: Annotated[Path, typer.Argument(help="Any ONNX file, opset 7 or later.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    report_file: ReportFile = None,
    check_data: CheckData = None,
    duplicate_shared: Annotated[
        bool,
        typer.Option(
            "--duplicate-shared", help="Copy weights that several nodes share, to fold each."
        ),
    ] = False,
    allow_slower: Annotated[
        bool,
        typer.Option(
            "--allow-slower", help="Fold even where onnxruntime then takes a little longer."
        ),
    ] = False,
    verify: Annotated[
        bool, typer.Option(help="Compare with the original before anything is written.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Let the output be the input file itself.")
    ] = False,
) -> int:
    """Fold every BatchNorm that can be folded out of any ONNX file; prove it, and explain the rest.

    Writes nothing and exits with 1 if the result were not the same function.
    """
    from fastbn.export import fold_file
    from fastbn.export.samples import read_npz

    _need_other_files(output, check_data)
    _need_other_files(report_file, model, output, check_data)
    report = fold_file(
        model,
        output,
        duplicate_shared=duplicate_shared,
        verify=verify,
        check_data=None if check_data is None else read_npz(check_data),
        allow_slower=allow_slower,
        overwrite_input=overwrite,
    )
    _write(report_file, report.to_json())
    show_fold(str(output), report)
    return DONE


def show_fold(title: str, report: FoldReport) -> None:
    """Print the figures of a fold, and every BatchNorm that stayed with the reason."""
    values: dict[str, object] = {name: report[name] for name in FOLDED}
    if report.verification is not None:
        values["tolerance"] = report.verification.tolerance
        values["compared with"] = report.verification.against
    else:
        values["compared with"] = "nothing: not verified"
    if report.notes:
        values["notes"] = report.notes
    show(title, values)
    stayed = {entry.node: entry.reason for entry in report.nodes if entry.reason}
    if stayed:
        show("what stayed, and why", stayed)


def validate(
    model: Annotated[Path, typer.Argument(help="An ONNX file; in float64 it is the truth.")],
    other: Annotated[
        Path | None, typer.Argument(help="An ONNX file that should be the same function.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of random inputs.", min=1)] = 5,
    check_data: CheckData = None,
    report_file: ReportFile = None,
    weights: Annotated[
        Path | None, typer.Option(help="Compare with what these weights predict, on --data.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="digits, mnist, cifar10 or a folder; its test images.")
    ] = None,
    factory: Annotated[
        str | None, typer.Option(help="package.module:factory of weights of your own.")
    ] = None,
) -> int:
    """Compare a model in onnxruntime with float64, another model or weights; 1 if they differ."""
    from fastbn import export
    from fastbn.export.report import Report
    from fastbn.export.samples import read_npz

    _need_other_files(report_file, model, other, check_data, weights)
    found: Report
    if weights is None and data is None:
        given = None if check_data is None else read_npz(check_data)
        found = report = export.validate(model, other, data=given, seeds=seeds)
        agree = report.agree
    elif weights is None or data is None or other is not None or check_data is not None:
        raise typer.BadParameter("give both --weights and --data, and one model")
    else:
        from fastbn import runs
        from fastbn.export.build import PREDICT_TOLERANCE

        found = predicted = runs.compare(weights, model, data, factory)
        agree = predicted.max_rel <= PREDICT_TOLERANCE
    _write(report_file, found.to_json())
    show("same function" if agree else "different", found.as_dict())
    return DONE if agree else DIFFERENT


def _need_other_files(written: Path | None, *others: Path | None) -> None:
    """Refuse to write over a file of the same command, or where there is no folder."""
    if written is not None and not written.parent.is_dir():
        raise typer.BadParameter(f"{written.parent} is no folder; make it first")
    for other in others:
        if written is None or other is None:
            continue
        same = written.resolve() == other.resolve()
        if same or (written.exists() and other.exists() and written.samefile(other)):
            raise typer.BadParameter(f"{written} would be written over {other}; name another file")


def _write(path: Path | None, text: str) -> None:
    """Write a report, if a file was named, in one step."""
    if path is not None:
        from fastbn.files import atomic

        with atomic(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

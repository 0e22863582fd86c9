"""``fastbn export``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastbn.cli.errors import DONE
from fastbn.cli.files import ReportFile, need_other_files, write_text
from fastbn.cli.table import show
from fastbn.cli.watch import watched

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fastbn.export.build import Normalization
    from fastbn.export.precision import Labelled
    from fastbn.train import Metadata

# What a table shows of an export's report.
PROOF = ("bn_before", "bn_after", "max_abs_f64", "max_abs_ort", "argmax_agreement")
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


@watched("weights")
def export(
    weights: Annotated[Path, typer.Argument(help="Weights: a model.safetensors of fastbn.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The ONNX file to write.")
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(help="Folder for a page that runs the network in the browser.", metavar="DIR"),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="With --web: put onnxruntime-web there, too.")
    ] = False,
    card: Annotated[
        bool, typer.Option("--card", help="Describe the file in a README.md beside it.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="package.module:factory of your own network."),
    ] = None,
    layout: Annotated[Layout, typer.Option(help="Layout of the input.")] = Layout.NCHW,
    fold: Annotated[bool, typer.Option(help="Fold BatchNorm into its neighbours.")] = True,
    opset: Annotated[int, typer.Option(help="ONNX opset version.")] = 18,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Build (x - mean) / std into the file. One number, or one per channel: 1,2,3."
        ),
    ] = None,
    std: Annotated[str | None, typer.Option(help="See --mean.")] = None,
    normalize: Annotated[
        bool, typer.Option(help="Build in the mean and std stored with the weights, if any.")
    ] = True,
    softmax: Annotated[
        bool, typer.Option("--softmax", help="Output probabilities instead of logits.")
    ] = False,
    precision: Annotated[
        Precision, typer.Option(help="Number format of weights and computation.")
    ] = Precision.FLOAT32,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Data for int8: digits, mnist, cifar10, a folder, or an .npz with x (and y)."
        ),
    ] = None,
    report_file: ReportFile = None,
) -> int:
    """Write the ONNX file of a network, after it was compared with float64."""
    from fastbn.export import to_onnx
    from fastbn.train.factory import network

    if output is None and web is None:
        raise typer.BadParameter("say where to: --output FILE, --web DIR, or both")
    if output is None and (card or report_file):
        raise typer.BadParameter("--card and --report belong to a file: give --output")
    need_other_files(output, weights)
    need_other_files(report_file, weights, output)
    if precision is Precision.INT8 and calibration is None:
        raise typer.BadParameter("--precision int8 needs --calibration data")
    net, metadata = network(weights, model)
    samples, test = _calibration(calibration, metadata.input_shape)
    inside = _normalization(mean, std, metadata if normalize else None)
    shape, classes = metadata.input_shape or (), metadata.classes or ()
    # Pixels are in [0, 1], and rows those of the table, unless the network was trained on others
    # and the file leaves it so.
    raw = bool(inside) or not metadata.input_normalization
    if web is not None:
        from fastbn.export.web import require_images

        require_images(shape, classes)
        if not raw:
            raise ValueError(f"{weights}: a page gives pixels in [0, 1]: leave --no-normalize out")
    write = partial(
        to_onnx,
        net,
        input_shape=metadata.input_shape,
        fold=fold,
        opset=opset,
        classes=metadata.classes,
        columns=metadata.columns if raw else None,
        input_range=(0.0, 1.0) if raw and not metadata.columns else None,
        normalization=inside,
        precision=precision.value,
        calibration=samples,
        test=test,
    )
    if output is not None:
        report = write(output, input_layout=layout.value, softmax=softmax)
        shown = {name: report[name] for name in (*PROOF, "notes")}
        if report.narrowing is not None:
            shown |= report.narrowing.as_dict()
        write_text(report_file, report.to_json())
        if card:
            from fastbn.export.card import write_card

            write_card(output, report, run=weights.parent / "report.json")
        show(str(output), shown)
    if web is not None:
        from fastbn.export.web import write_page

        web.mkdir(parents=True, exist_ok=True)
        report = write(web / "model.onnx", softmax=True)
        title = f"{metadata.model or 'network'}: {len(classes)} classes"
        write_page(web, title=title, input_shape=shape, classes=classes, offline=offline)
        shown = {name: report[name] for name in PROOF}
        show(str(web), shown | {"look at it": f"python -m http.server --directory {web}"})
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


def _calibration(
    source: str | None, shape: Sequence[int] | None
) -> tuple[NDArray[np.float32] | None, Labelled | None]:
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

    from fastbn.data.sources import load_for

    images = load_for(source, shape)
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

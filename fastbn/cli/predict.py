"""``fastbn predict``: what a trained network says of files."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastbn.cli.errors import DONE
from fastbn.cli.watch import watched

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

PIXEL_MAX = 255.0
ROWS = 256  # at a time through an ONNX file


@dataclass
class Predictor:
    """A network of either kind of file, and what it takes and gives.

    Attributes
    ----------
    run : callable
        Takes samples ``(N, ...)``, channels-last, as they are read from files; returns ``(N, K)``.
    input_shape : tuple of int
        Of a sample, channels-last.
    classes : list of str
        Empty for regression.
    columns : dict
        How rows of a table become numbers; empty where that is not known.
    probabilities : bool
        Whether outputs are probabilities already, and not logits.
    """

    run: Callable[[Array], Array]
    input_shape: tuple[int, ...]
    classes: list[str]
    columns: dict[str, Any]
    probabilities: bool


@watched("model")
def predict(
    model: Annotated[Path, typer.Argument(help="A model.safetensors or an ONNX file.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Images, tables, or .npy arrays.")
    ],
    *,
    top: Annotated[int, typer.Option(help="Number of most probable classes to print.", min=1)] = 5,
    factory: Annotated[
        str | None,
        typer.Option("--model", help="package.module:factory, where the network is your own."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> int:
    """Print the most probable classes of images or table rows, or the predicted numbers."""
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    predictor = of_onnx(model) if model.suffix == ".onnx" else of_weights(model, factory)
    found = [
        {"file": str(file), "row": row, "predictions": told}
        for file in files
        for row, told in enumerate(told_of(predictor, samples(predictor, file), top))
    ]
    if as_json:
        from fastbn.train.report import finite

        print(json.dumps(finite(found), indent=2))
    elif as_csv:
        _print_csv(found)
    else:
        _print_table(found)
    return DONE


def of_weights(path: Path, factory: str | None) -> Predictor:
    """Return the network of a file of weights."""
    import numpy as np

    from fastbn.train.factory import network

    net, metadata = network(path, factory)
    if metadata.input_shape is None:
        raise ValueError(f"{path}: the file does not tell the shape of a sample")
    told = metadata.input_normalization

    def run(x: Array) -> Array:
        if told:
            x = (x - np.asarray(told["mean"])) / np.asarray(told["std"])
        y: Array = net.predict(x.astype(net.dtype or np.float32))
        return y

    shape, classes = tuple(metadata.input_shape), metadata.classes or []
    return Predictor(run, shape, classes, metadata.columns, False)


def of_onnx(path: Path) -> Predictor:
    """Return the network of an ONNX file with one input; what fastbn wrote tells its classes."""
    import numpy as np
    import onnx

    from fastbn.export.io import read_model
    from fastbn.export.runtime import Session

    model = read_model(path)
    session = Session(model)
    if len(session.input_names) != 1:
        raise ValueError(f"{path}: expected one input, it has {', '.join(session.input_names)}")
    told = {entry.key: entry.value for entry in model.metadata_props}
    tensor = next(i for i in model.graph.input if i.name == session.input_names[0]).type.tensor_type
    sizes = [dimension.dim_value for dimension in tensor.shape.dim]
    if len(sizes) < 2 or not all(size > 0 for size in sizes[1:]):
        raise ValueError(f"{path}: the shape of a sample is not fixed: {sizes}")
    channels_first = len(sizes) > 2 and told.get("input_layout", "NCHW") == "NCHW"
    shape = (*sizes[2:], sizes[1]) if channels_first else tuple(sizes[1:])
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)

    if sizes[0] > 1:
        raise ValueError(f"{path}: takes batches of {sizes[0]}, export it with a free size")
    rows = sizes[0] or ROWS

    def run(x: Array) -> Array:
        given = np.moveaxis(x, -1, 1) if channels_first else x
        blocks = [given[i : i + rows].astype(dtype, "C") for i in range(0, len(given), rows)]
        return np.concatenate([session.run({session.input_names[0]: x})[0] for x in blocks])

    return Predictor(
        run,
        shape,
        json.loads(told.get("classes", "[]")),
        json.loads(told.get("columns", "{}")),
        told.get("output") == "probabilities",
    )


def samples(predictor: Predictor, file: Path) -> Array:
    """Return the samples of a file: one of an image, the rows of a table or of an array."""
    import numpy as np

    from fastbn.data.tables import is_table
    from fastbn.files import require_file

    require_file(file)
    shape = predictor.input_shape
    if file.suffix == ".npy":
        x = _array(file)
        x = x[None] if x.shape == shape else x
    elif is_table(file):
        x = _rows(predictor, file)
    elif len(shape) == 3:
        from fastbn.data.images import read_image

        x = read_image(file, (shape[0], shape[1]), shape[2])[None] / PIXEL_MAX
    else:
        raise ValueError(
            f"{file}: the network takes rows of {shape[0]} numbers: a table, or an .npy file"
        )
    if x.shape[1:] != shape:
        raise ValueError(f"{file}: samples of shape {x.shape[1:]}, the network takes {shape}")
    if not len(x):
        raise ValueError(f"{file}: there are no samples in it")
    return np.asarray(x, np.float64)


def _array(file: Path) -> Array:
    """Return numbers of an .npy file; bytes are pixels, as in image files."""
    import numpy as np

    try:
        x: Array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: not a whole .npy file of numbers: {error}") from None
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "buif":
        raise ValueError(f"{file}: expected one array of numbers")
    return x / PIXEL_MAX if x.dtype == np.uint8 else x


def _rows(predictor: Predictor, file: Path) -> Array:
    from fastbn.data.columns import Columns

    if not predictor.columns:
        raise ValueError(
            f"{file}: the model does not tell how rows of a table become numbers; take one that "
            "was trained on a table, or give the numbers as an .npy file"
        )
    try:
        return Columns.from_dict(predictor.columns).apply(file)
    except ValueError as error:
        named = str(error).startswith(str(file))
        raise ValueError(str(error) if named else f"{file}: {error}") from None


def told_of(predictor: Predictor, x: Array, top: int) -> Iterator[list[dict[str, Any]]]:
    """Yield for every sample the most probable classes, or the numbers."""
    import numpy as np

    for y in predictor.run(x):
        values = np.asarray(y, np.float64).reshape(-1)
        if not predictor.classes:
            yield [{"output": index, "value": float(value)} for index, value in enumerate(values)]
            continue
        if not predictor.probabilities:
            values = np.exp(values - values.max())
            values /= values.sum()
        if len(values) != len(predictor.classes):
            raise ValueError(
                f"the model tells {len(predictor.classes)} classes, but has {len(values)} outputs"
            )
        best = np.argsort(-values, kind="stable")[:top]
        yield [
            {"class": predictor.classes[index], "probability": float(values[index])}
            for index in best
        ]


def _print_csv(found: Sequence[Mapping[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = list(found[0]["predictions"][0]) if found else []
    writer.writerow(["file", "row", *names])
    for entry in found:
        for told in entry["predictions"]:
            writer.writerow([entry["file"], entry["row"], *told.values()])


def _print_table(found: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    several = {entry["file"] for entry in found if entry["row"]}
    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("prediction", overflow="fold")
    for entry in found:
        name = entry["file"]
        label = f"{name}, row {entry['row']}" if name in several else name
        told = ", ".join(map(_said, entry["predictions"]))
        table.add_row(label, told)
    Console().print(table)


def _said(told: Mapping[str, Any]) -> str:
    if "class" in told:
        return f"{told['class']} {told['probability']:.1%}"
    return f"{told['value']:.5g}"

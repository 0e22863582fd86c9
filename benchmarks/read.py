"""Files of other tools, read, trained, and written again: what ``docs/from-onnx.md`` reports.

The files are patterns, or those of `fastbn.bench.real`.
"""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn import models, nn, optim
from fastbn.bench.patterns import PATTERNS
from fastbn.bench.real import FILES, NotThereError, RealFile, find
from fastbn.export import ModelError, from_onnx, to_onnx
from fastbn.export.errors import one_line
from fastbn.export.evaluator import Float64Evaluator
from fastbn.export.report import Report
from fastbn.export.runtime import Session

Array = NDArray[Any]
STEPS = 20
SIDE = 64  # at most, of the images that networks of `fastbn.models` get
LIMIT = 1e-5  # of an output's size, or twice what onnxruntime is off by


# Of the real files: the shape of a sample where the file leaves it open, and the learning rate.
REAL: dict[str, tuple[tuple[int, ...] | None, float]] = {
    "orientation": (None, 3e-4),
    "text direction": ((48, 192, 3), 3e-4),
    "text detector v6": ((160, 160, 3), 2e-3),
    "text detector v4": ((160, 160, 3), 2e-3),
    "open nsfw": (None, 3e-4),
}


@dataclass(slots=True)
class ReadRow(Report):
    """What became of one file.

    Attributes
    ----------
    name : str
    layers, parameters : int
    error, error_f64, runtime_f64 : float
        Largest difference, relative to an output's size and before training, from onnxruntime and
        from the file's evaluation in float64; and of onnxruntime from the latter.
    losses : list of float
        First and last of the steps.
    folded : int
        BatchNorms folded away on writing.
    left : int
        BatchNorms left.
    proven : float
        Difference of the written file from float64, relative.
    restored : float or None
        Change of the outputs by BatchNorms that were put after convolutions, where the file had
        none; relative.
    seconds : float
    failure : str
        Why it was not read.
    """

    name: str
    layers: int = 0
    parameters: int = 0
    error: float = 0.0
    error_f64: float = 0.0
    runtime_f64: float = 0.0
    losses: list[float] = field(default_factory=list)
    folded: int = 0
    left: int = 0
    proven: float = 0.0
    restored: float | None = None
    seconds: float = 0.0
    failure: str = ""


def bench_read(
    *,
    source: str = "patterns",
    names: Sequence[str] | None = None,
    folder: str | Path | None = None,
    progress: Callable[[ReadRow], None] | None = None,
) -> list[ReadRow]:
    """Read, compare, train and write every pattern of the folder, or other files.

    Parameters
    ----------
    source : str
        ``"patterns"``; ``"real"``: the files of `REAL`, whose packages are installed with pip;
        ``"zoo"``: the networks of `fastbn.models`, written with their BatchNorms.
    names : sequence of str, optional
        Which of them; all by default.
    folder : path, optional
        Where packages are kept, by default in the cache.
    progress : callable, optional
        Called with every row.

    Returns
    -------
    list of ReadRow
    """
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, load, shape, rate in _models(source, names, folder):
            try:
                model = load()
            except NotThereError as error:
                row = ReadRow(name, failure=f"skipped: {error}")
            else:
                row = _row(name, model, shape, rate, Path(scratch) / "written.onnx")
            rows.append(row)
            if progress is not None:
                progress(row)
    return rows


def is_wrong(row: ReadRow) -> bool:
    """Whether a network that was read is not the file's, or does not learn."""
    off = row.error_f64 > max(LIMIT, 2.0 * row.runtime_f64)
    return not row.failure and (off or not row.losses[1] < row.losses[0])


def _models(
    source: str, names: Sequence[str] | None, folder: str | Path | None
) -> Iterator[tuple[str, Callable[[], onnx.ModelProto], tuple[int, ...] | None, float]]:
    kept = None if folder is None else Path(folder)
    if source == "zoo":
        for name in models.names() if names is None else names:
            yield name, partial(_written, name), None, 1e-3
        return
    for name in REAL if source == "real" else PATTERNS:
        if names is not None and name not in names:
            continue
        if source == "real":
            yield name, partial(_load, FILES[name], kept), *REAL[name]
        else:
            yield name, PATTERNS[name].build, None, 1e-3


def _load(file: RealFile, folder: Path | None) -> onnx.ModelProto:
    return onnx.load(find(file, folder))


def _written(name: str) -> onnx.ModelProto:
    """Return the file of a network with random weights, whose statistics are those of noise."""
    *spatial, channels = inspect.signature(getattr(models, name)).parameters["input_shape"].default
    shape = (*(min(side, SIDE) for side in spatial), channels)
    net = models.build(name, input_shape=shape, rng=0)
    x = np.random.default_rng(2).standard_normal((8, *shape)).astype(np.float32)
    nn.recalibrate(net, x)
    with tempfile.TemporaryDirectory() as folder:
        to_onnx(net.eval(), path := Path(folder) / "network.onnx", fold=False)
        return onnx.load(path)


def _row(
    name: str, model: onnx.ModelProto, shape: tuple[int, ...] | None, rate: float, path: Path
) -> ReadRow:
    row, start = ReadRow(name), time.monotonic()
    try:
        net = from_onnx(model, input_shape=shape)
    except ModelError as error:
        row.failure = one_line(error)
        return row
    row.layers = len(net.nodes)
    row.parameters = sum(parameter.data.size for parameter in net.parameters())
    xs = _samples(net, 4)
    _compare(row, net, model, tuple(x[:2] for x in xs))
    norms = any(isinstance(layer, nn.BatchNorm) for layer in net.modules())
    bare = any(isinstance(layer, nn.Conv1d | nn.Conv2d) for layer in net.modules())
    if bare and not norms and len(xs) == 1:
        before = _listed(net.predict(xs[0]))
        nn.restore_batch_norm(net, xs[0])
        row.restored = _relative(_listed(net.predict(xs[0])), before)
    losses = _train(net, xs, rate)
    row.losses = [losses[0], losses[-1]]
    report = to_onnx(net, path)
    row.folded, row.left = report.bn_before - report.bn_left, report.bn_left
    row.proven = report.max_rel_f64 or 0.0
    row.seconds = time.monotonic() - start
    return row


def _samples(net: nn.Module, rows: int) -> tuple[Array, ...]:
    rng = np.random.default_rng(0)
    shape: Any = net.input_shape
    shapes = shape if isinstance(shape[0], tuple) else [shape]
    drawn = [rng.standard_normal((rows, *each)) for each in shapes]
    return tuple(x.astype(np.float16).astype(np.float32) for x in drawn)


def _listed(y: Any) -> list[Array]:
    return [*y] if isinstance(y, tuple) else [y]


def _compare(row: ReadRow, net: nn.Module, model: onnx.ModelProto, xs: tuple[Array, ...]) -> None:
    """Hold a network against onnxruntime and float64; most files are channels-first."""
    feeds = {}
    for value, x in zip(model.graph.input, xs, strict=False):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        last = len(dims) == 4 and dims[3] == x.shape[-1] and dims[1] != x.shape[-1]
        half = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
        given = x if x.ndim < 3 or last else np.ascontiguousarray(np.moveaxis(x, -1, 1))
        feeds[value.name] = given.astype(np.float16) if half else given
    runtime, truth = (
        [np.moveaxis(y, 1, -1) if y.ndim > 2 else y for y in ys]
        for ys in (Session(model).run(feeds), Float64Evaluator(model).run(feeds))
    )
    found = _listed(net.predict(xs if len(xs) > 1 else xs[0]))
    row.error, row.error_f64 = _relative(found, runtime), _relative(found, truth)
    row.runtime_f64 = _relative(runtime, truth)


def _relative(found: list[Array], expected: list[Array]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _train(net: nn.Module, xs: tuple[Array, ...], rate: float) -> list[float]:
    """Take steps towards larger outputs for one batch; return the losses."""
    rng = np.random.default_rng(1)
    ys = _listed(net.predict(xs if len(xs) > 1 else xs[0]))
    targets = [y + rng.uniform(0.0, max(0.5, y.std()), y.shape).astype(y.dtype) for y in ys]
    adam = optim.Adam(net.parameters(), lr=rate) if net.parameters() else None
    losses = []
    for layer in net.train().modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # its noise would hide what 20 steps do
    for _ in range(STEPS + 1):
        ys = _listed(net(*xs))
        differences = [y - target for y, target in zip(ys, targets, strict=True)]
        losses.append(float(sum((d**2).mean() for d in differences)))
        dys = tuple((2.0 / d.size) * d for d in differences)
        net.backward(dys if len(dys) > 1 else dys[0])
        if adam is not None:
            adam.step()
    return losses

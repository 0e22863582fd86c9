"""Latency of ONNX files in onnxruntime: as they are, folded, and quantised to int8, in turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx

from fastbn.bench.fold import counts
from fastbn.bench.rows import Row
from fastbn.bench.timing import ROUNDS, SAMPLE_SECONDS, Call, Local, in_turns
from fastbn.export import fold_batch_norm
from fastbn.export.errors import one_line
from fastbn.export.io import read_model
from fastbn.export.narrow import is_narrow
from fastbn.export.precision import to_int8
from fastbn.export.runtime import Session
from fastbn.export.samples import Sample, input_specs, random_sample, same_sizes

AS_IS, FOLDED, INT8 = "as it is", "folded", "int8"


@dataclass
class ModelRow(Row):
    """A row of ``fastbn bench model``: one form of one file. `us` is the median of the rounds.

    `us_low` and `us_high` are their quartiles, `size` the bytes of the file, `x_before` how many
    times faster this form is than the file as it is. `op` is one of `AS_IS`, `FOLDED` and `INT8`,
    `shape` that of the first input.
    """

    us_low: float = 0.0
    us_high: float = 0.0
    size: int = 0
    batch_norms: int = 0
    nodes: int = 0
    x_before: float = 1.0


@dataclass
class Found:
    """What was found; `left_out` tells which forms of files there are not, and why."""

    rows: list[ModelRow] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def run(
    paths: Sequence[str | os.PathLike[str]],
    *,
    batch: int = 1,
    free: int = 224,
    threads: Sequence[int] = (1,),
    rounds: int = ROUNDS,
    seconds: float = SAMPLE_SECONDS,
    progress: Callable[[str], None] | None = None,
    into: Found | None = None,
) -> Found:
    """Time all forms of all files, each in every round.

    Parameters
    ----------
    paths : sequence of path
        ONNX files.
    batch : int
        Samples in a call, where the file leaves it free.
    free : int
        All other sizes that files leave free.
    threads : sequence of int
        Of onnxruntime, within an operator, one number after the other.
    rounds : int
        Rounds, in which every form is timed once.
    seconds : float
        Least time of a sample, which is the mean of as many calls as that takes.
    progress : callable, optional
        Called with what is done next.
    into : Found, optional
        Where the rows go.

    Returns
    -------
    Found

    Raises
    ------
    ModelError
        If a file is damaged, or onnxruntime does not run it.
    """
    found = Found() if into is None else into
    tell = progress or (lambda _: None)
    models: list[Form] = []
    for path in dict.fromkeys(os.fspath(path) for path in paths):
        tell(f"{path}: fold and quantise")
        original = read_model(path)
        specs = input_specs(original)
        sample = random_sample(specs, same_sizes(specs, batch, free), 0)
        Session(original).run(sample)  # a file that does not run is told before anything is timed
        models += forms(path, original, sample, found.left_out)
    for count in threads:
        tell(f"{len(models)} models, threads {count}: {rounds} turns")
        # Each is a side of its own: the threads of one look for work until they fall asleep.
        sides = {form.name: Local({"": form.call(count)}, seconds).turn for form in models}
        taken = in_turns(sides, rounds, settle=count > 1)
        medians: dict[str, float] = {}
        for form in models:
            times = [1e6 * turn[""] for turn in taken[form.name]]
            row = _row(form, count, times)
            row.x_before = medians.setdefault(form.path, row.us) / row.us
            found.rows.append(row)
    return found


class Form(NamedTuple):
    """A model to time, and its inputs."""

    path: str
    kind: str
    model: onnx.ModelProto
    sample: Sample

    @property
    def name(self) -> str:
        """Text for keys and messages."""
        return f"{self.path}, {self.kind}"

    def call(self, threads: int) -> Call:
        """Return what is timed."""
        session = Session(self.model, "highest", threads=threads)
        return lambda: session.run(self.sample)


def forms(
    path: str, original: onnx.ModelProto, sample: Sample, left_out: list[str]
) -> Iterator[Form]:
    """Yield the forms of a model that there are, as it is first, and tell about the others.

    Ranges of the int8 form are those of the random sample: its time is right, its outputs are not
    those of one that was calibrated on data.
    """
    yield Form(path, AS_IS, original, sample)
    best = original
    if not counts(original)[0]:
        left_out.append(f"{path}, {FOLDED}: it has no BatchNorm")
    else:
        try:
            best, _ = fold_batch_norm(original)
        except (ValueError, RuntimeError) as error:
            left_out.append(f"{path}, {FOLDED}: {one_line(error)}")
        else:
            yield Form(path, FOLDED, best, sample)
    inputs = list(sample.values())
    if is_narrow(original):
        left_out.append(f"{path}, {INT8}: it computes with narrow numbers already")
    elif len(inputs) != 1 or inputs[0].dtype != np.float32:
        left_out.append(f"{path}, {INT8}: only models of one float32 input are quantised")
    else:
        try:
            narrow = Form(path, INT8, to_int8(best, inputs[0]), sample)
            narrow.call(1)()
        except Exception as error:  # whatever the quantiser raises
            left_out.append(f"{path}, {INT8}: {one_line(error)}")
        else:
            yield narrow


def _row(form: Form, threads: int, times: list[float]) -> ModelRow:
    x = next(iter(form.sample.values()), np.zeros(0, np.float32))
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
    norms, _, nodes = counts(form.model)
    return ModelRow(
        name=form.path,
        shape=x.shape,
        layout=None,
        op=form.kind,
        dtype=INT8 if form.kind == INT8 else x.dtype.name,
        threads=threads,
        us=median,
        us_low=low,
        us_high=high,
        size=form.model.ByteSize(),
        batch_norms=norms,
        nodes=nodes,
    )

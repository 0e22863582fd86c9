"""What folding tools make of files that ship in packages: ``fastbn bench fold --real``.

Every tool folds every file in a process of its own, which tells its time and its most memory.
Counted are all BatchNorms and affines per channel, those included that the file had, and
biases that are an Add after a MatMul.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from fastbn.bench.fold import FoldRow, FoldTable, choose, counts, judge, time_both
from fastbn.bench.folders import PEERS, installed, silence
from fastbn.bench.peers.suite import memory
from fastbn.bench.real import FILES, NotThereError, RealFile, find, version
from fastbn.export.errors import one_line
from fastbn.export.ways import Memory

TOOLS = ("fastbn", "onnxruntime-basic", "onnxruntime-extended", "onnxsim", "onnxslim")
PER_CHANNEL = 2  # numbers; an activation's one number is no affine of a channel
SECONDS = 900  # for one tool and one file


@dataclass(slots=True)
class RealRow(FoldRow):
    """One tool on one file.

    Attributes
    ----------
    package : str
        And its version.
    megabytes : float or None
        Size of the file; None, as all that follow, where it is not there.
    affine_before, affine_after : int or None
        Multiplications and additions with a constant per channel. ``affine_left`` is what there
        is more of.
    seconds, cpu_seconds : float or None
        Of folding, and of fastbn's proof; of processors, all threads together.
    peak_mb : float or None
        Most memory of the process, with the libraries that the tool imports.
    """

    package: str = ""
    megabytes: float | None = None
    affine_before: int | None = None
    affine_after: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mb: float | None = None

    @property
    def left(self) -> int | None:
        """What counts: BatchNorms and affine nodes."""
        if self.bn_left is None or self.affine_after is None:
            return None
        return self.bn_left + self.affine_after


def bench_real(
    *,
    names: Sequence[str] | None = None,
    tools: Sequence[str] | None = None,
    folder: Path | None = None,
    rounds: int = 15,
    threads: int = 1,
    progress: Callable[[RealRow], None] | None = None,
) -> FoldTable:
    """Run tools on files that ship in packages.

    Parameters
    ----------
    names : sequence of str, optional
        Keys of ``real.FILES``; all by default. A file that is not to be had becomes one row.
    tools : sequence of str, optional
        Keys of ``folders.PEERS``; by default those of `TOOLS` that are installed.
    folder : path, optional
        Where packages are kept, by default in the cache.
    rounds, threads : int
        As of `fastbn.bench.fold.bench_fold`.
    progress : callable, optional
        Called with every row.
    """
    unknown = sorted(set(names or ()) - set(FILES))
    if unknown:
        raise ValueError(f"unknown files {unknown}; there are {list(FILES)}")
    versions = installed()
    chosen = choose(tools or TOOLS, versions)
    table = FoldTable(versions, threads)
    for name in names or FILES:
        for row in _rows(FILES[name], folder, chosen, rounds, threads):
            table.rows.append(row)
            if progress is not None:
                progress(row)
    return table


def _rows(
    file: RealFile, folder: Path | None, tools: Sequence[str], rounds: int, threads: int
) -> Iterator[RealRow]:
    """Give what every tool made of a file; of one that is not there, one row that says why."""
    try:
        path = find(file, folder)
    except NotThereError as error:
        yield RealRow(file.name, "", package=file.package, failure=f"skipped: {error}")
        return
    shared: Memory = {}
    for tool in tools:
        yield _row(file, path, tool, rounds, threads, shared)


def _row(
    file: RealFile, path: Path, tool: str, rounds: int, threads: int, shared: Memory
) -> RealRow:
    model = onnx.load(path)
    package = path.parents[len(Path(file.path).parents) - 1]
    row = RealRow(file.name, tool, package=f"{file.package} {version(package)}")
    row.megabytes = path.stat().st_size / 1e6
    row.bn_before, before, row.nodes_before = counts(model, PER_CHANNEL)
    row.affine_before = before.total()
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "result.onnx"
        told = _in_a_process(tool, path, target)
        row.failure = told.get("failure", "")
        row.seconds, row.cpu_seconds = told.get("seconds"), told.get("cpu_seconds")
        row.peak_mb = told.get("peak_mb")
        if row.failure:
            return row
        result = onnx.load(target)
    row.bn_left, after, row.nodes_left = counts(result, PER_CHANNEL)
    row.affine_after, row.affine_left = after.total(), (after - before).total()
    judge(row, model, result, shared)
    if rounds and not row.failure:
        times = time_both(model, result, rounds, threads, file.free)
        row.us_before, row.us_after, row.ratio = times
    return row


# --- A process of its own -------------------------------------------------------------------------


def _in_a_process(tool: str, source: Path, target: Path) -> dict[str, Any]:
    """Let a tool fold a file into another; return what its process told."""
    told = target.with_suffix(".json")
    command = [
        sys.executable,
        "-m",
        "fastbn.bench.fold_real",
        tool,
        *map(str, (source, target, told)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"failure": f"took more than {SECONDS} s"}
    if not told.exists():
        return {"failure": f"ended with code {done.returncode}"}
    found: dict[str, Any] = json.loads(told.read_text("utf-8"))
    return found


def _fold(tool: str, source: str, target: str) -> dict[str, Any]:
    package, fold = PEERS[tool]
    importlib.import_module(package)  # which is not what is measured
    model = onnx.load(source)
    start, used = time.perf_counter(), time.process_time()
    try:
        with silence():
            result = fold(model)
    except Exception as error:  # whatever another tool raises belongs into its row
        return {"failure": one_line(error)}
    told = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    most = memory("VmHWM")
    Path(target).write_bytes(result.SerializeToString())
    return told | {"peak_mb": None if most is None else most / 1e6}


# --- Text -----------------------------------------------------------------------------------------

HEADER = (
    f"{'':21}{'':21} {'MB':>5}  {'BN':>7}  {'affines':>8}  {'error':>7} {'seconds':>7} "
    f"{'CPU s':>6} {'MB':>5}  {'ms before, after':>16}"
)


def line(row: FoldRow) -> str:
    """Show what a tool made of a file.

    ``!`` marks a wrong result, ``?`` one that is as far from float64 as the file itself, which is
    too far to tell. The first MB are the file's, the second the process's.
    """
    assert isinstance(row, RealRow)
    size = "" if row.megabytes is None else f"{row.megabytes:.1f}"
    text = f"{row.name:21}{row.tool:21} {size:>5}"
    if row.left is None:
        return f"{text}  {row.failure}"
    error = "" if row.max_rel_f64 is None else f"{row.max_rel_f64:.0e}"
    error += {True: "!", False: "", None: "?"}[row.wrong]
    norms = f"{row.bn_before}>{row.bn_left}"
    affines = f"{row.affine_before}>{row.affine_after}"
    peak = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
    text += f"  {norms:>7}  {affines:>8}  {error:>7} {row.seconds:7.1f} {row.cpu_seconds:6.1f}"
    text += f" {peak:>5}"
    if row.us_before is not None and row.us_after is not None:
        text += f"  {row.us_before / 1e3:8.2f} {row.us_after / 1e3:7.2f}"
    return f"{text}  {row.failure}".rstrip()


if __name__ == "__main__":
    _tool, _source, _target, _told = sys.argv[1:]
    Path(_told).write_text(json.dumps(_fold(_tool, _source, _target)), encoding="utf-8")

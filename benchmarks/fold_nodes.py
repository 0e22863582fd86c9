"""How the time of a fold grows with the nodes of a graph: ``fastbn bench fold --nodes N``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fastbn.export.io import write_model

HEADER = "nodes --no-verify with proof (seconds of processor time)"
_COMMAND = "import sys; sys.argv[0] = 'fastbn'; from fastbn.cli import main; main()"
_SHAPE = [1, 1, 2, 2]


@dataclass(frozen=True, slots=True)
class NodesRow:
    """Seconds of processor time of ``fastbn fold``, each in a process of its own."""

    nodes: int
    unproven: float
    proven: float

    def __str__(self) -> str:
        return f"{self.nodes:,} {self.unproven:.1f} {self.proven:.1f}"


def chain(nodes: int) -> onnx.ModelProto:
    """Make a row of Conv, BatchNorm and Relu on an image of four numbers.

    Every block has about the gain 1, so that after thousands of them the result still tells.
    """
    rng = np.random.default_rng(0)
    made: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = "x"
    for block in range(max(nodes // 3, 1)):
        gain, variance = rng.uniform(0.9, 1.1, 2)
        parameters = {
            "weight": np.full((1, 1, 1, 1), gain),
            "gamma": np.array([np.sqrt(variance) / gain]),
            "beta": rng.normal(1e-4, 1e-3, 1),
            "mean": rng.normal(0.0, 1e-3, 1),
            "var": np.array([variance]),
        }
        names = [f"{name}_{block}" for name in parameters]
        weights += [
            numpy_helper.from_array(array.astype(np.float32), name)
            for name, array in zip(names, parameters.values(), strict=True)
        ]
        for operator, more in (
            ("Conv", names[:1]),
            ("BatchNormalization", names[1:]),
            ("Relu", []),
        ):
            result = f"{operator}_{block}"
            made.append(helper.make_node(operator, [value, *more], [result], name=result))
            value = result
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _SHAPE)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, _SHAPE)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def bench_nodes(nodes: int) -> Iterator[NodesRow]:
    """Fold a chain of this many nodes and one of twice as many, without and with proof.

    Raises
    ------
    RuntimeError
        If a fold fails; what it says is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        for count in (nodes, 2 * nodes):
            source = Path(folder) / f"{count}.onnx"
            write_model(chain(count), source)
            yield NodesRow(count, _seconds(source, "--no-verify"), _seconds(source))


def _seconds(source: Path, *options: str) -> float:
    """Fold a file in a new process, and return the time of processors that it took."""
    target = source.with_suffix(".folded.onnx")
    arguments = ["fold", os.fspath(source), "-o", os.fspath(target), "--overwrite", *options]
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-P", "-c", _COMMAND, *arguments],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"folding {source.name} ended with code {done.returncode}")
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system

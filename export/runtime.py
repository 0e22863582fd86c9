"""onnxruntime on one thread, at the lowest or the highest optimisation level."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from fastbn.export.packing import has_many_nodes, packed

LEVELS = {
    "lowest": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "highest": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_FATAL_ONLY = 4


class RuntimeRefusalError(RuntimeError):
    """onnxruntime does not run this model: an operator, type or opset it does not have."""


class Session:
    """A model loaded into onnxruntime's CPU provider.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        What to run. Models with external data are given as a path.
    level : {"lowest", "basic", "extended", "highest"}
        Optimisation level; ``"lowest"`` runs the graph as it is written.
    threads : int
        Threads within an operator. One by default: onnxruntime's pool spins, and would slow
        every other pool of the process.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | onnx.ModelProto,
        level: str = "highest",
        *,
        threads: int = 1,
    ) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = LEVELS[level]
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        if isinstance(model, onnx.ModelProto):
            if has_many_nodes(model) and level == "lowest":
                model = packed(model)
                options.enable_mem_pattern = False  # its plan, too, takes quadratic time
            source: str | bytes = model.SerializeToString()
        else:
            source = model if isinstance(model, bytes) else os.fspath(model)
        try:
            self._session = ort.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes share no public base
            raise RuntimeRefusalError(str(error)) from error
        self.output_names: list[str] = [o.name for o in self._session.get_outputs()]
        self.input_names: list[str] = [i.name for i in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs, in order."""
        try:
            return [np.asarray(y) for y in self._session.run(None, dict(inputs))]
        except Exception as error:
            raise RuntimeRefusalError(str(error)) from error

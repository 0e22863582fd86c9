"""Other tools that simplify ONNX models, as far as they are installed, behind one signature."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

from fastbn.export.demands import every_node
from fastbn.export.fold.api import fold_batch_norm

Fold = Callable[[onnx.ModelProto], onnx.ModelProto]


def _fastbn(model: onnx.ModelProto) -> onnx.ModelProto:
    return fold_batch_norm(model)[0]


def _onnxruntime(level: str) -> Fold:
    """Let onnxruntime write the graph it optimised at a level."""

    def fold(model: onnx.ModelProto) -> onnx.ModelProto:
        import onnxruntime as ort

        from fastbn.export.runtime import LEVELS

        with tempfile.TemporaryDirectory() as folder:
            options = ort.SessionOptions()
            options.graph_optimization_level = LEVELS[level]
            options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            options.log_severity_level = 4
            ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return _without_idle_inputs(onnx.load(options.optimized_model_filepath))

    return fold


def _without_idle_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop inputs nobody reads: of an old file, weights that were inputs too are left as such."""
    used = {name for node in every_node(model.graph.node) for name in node.input}
    known = {tensor.name for tensor in model.graph.initializer}
    kept = [v for v in model.graph.input if v.name in used or v.name in known]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    onnxsim: Any = importlib.import_module("onnxsim")

    simplified, _ = onnxsim.simplify(model)
    return simplified  # type: ignore[no-any-return]


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    onnxslim: Any = importlib.import_module("onnxslim")

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return onnxslim.slim(copy)  # type: ignore[no-any-return]


def _onnxoptimizer(model: onnx.ModelProto) -> onnx.ModelProto:
    onnxoptimizer: Any = importlib.import_module("onnxoptimizer")

    passes = onnxoptimizer.get_fuse_and_elimination_passes()
    return onnxoptimizer.optimize(model, passes)  # type: ignore[no-any-return]


def _onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    """Run constant folding and the default rewrite rules, which fold BatchNorm."""
    import onnx_ir as ir

    optimizer: Any = importlib.import_module("onnxscript.optimizer")
    rewriter: Any = importlib.import_module("onnxscript.rewriter")

    holder = ir.from_proto(model)
    optimizer.optimize(holder)
    rewritten: ir.Model = rewriter.rewrite(holder)
    return ir.to_proto(rewritten)


PEERS: dict[str, tuple[str, Fold]] = {
    "fastbn": ("fastbn", _fastbn),
    "onnxruntime-basic": ("onnxruntime", _onnxruntime("basic")),
    "onnxruntime-extended": ("onnxruntime", _onnxruntime("extended")),
    "onnxruntime-all": ("onnxruntime", _onnxruntime("highest")),
    "onnxsim": ("onnxsim", _onnxsim),
    "onnxslim": ("onnxslim", _onnxslim),
    "onnxoptimizer": ("onnxoptimizer", _onnxoptimizer),
    "onnxscript": ("onnxscript", _onnxscript),
}


def installed() -> dict[str, str | None]:
    """Return the version of every tool, None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name, (package, _) in PEERS.items():
        try:
            versions[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    versions["fastbn"] = versions["fastbn"] or "source"
    return versions


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the chatter of other tools off the terminal."""
    import logging
    import warnings

    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)

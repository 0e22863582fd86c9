"""Other tools that simplify ONNX models, as far as they are installed, behind one signature."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

from fastbn.export.fold.api import fold_batch_norm

Fold = Callable[[onnx.ModelProto], onnx.ModelProto]


def _fastbn(model: onnx.ModelProto) -> onnx.ModelProto:
    # The other tools copy shared weights without being asked.
    return fold_batch_norm(model, duplicate_shared=True)[0]


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
            return onnx.load(options.optimized_model_filepath)

    return fold


def _onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    simplified, _ = onnxsim.simplify(model)
    return simplified  # type: ignore[no-any-return]


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return onnxslim.slim(copy)  # type: ignore[no-any-return]


def _onnxoptimizer(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxoptimizer

    passes = onnxoptimizer.get_fuse_and_elimination_passes()
    return onnxoptimizer.optimize(model, passes)  # type: ignore[no-any-return]


def _onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    """Run constant folding and the default rewrite rules, which fold BatchNorm."""
    import onnx_ir as ir
    from onnxscript import optimizer, rewriter

    holder = ir.from_proto(model)
    optimizer.optimize(holder)
    return ir.to_proto(rewriter.rewrite(holder))


PEERS: dict[str, tuple[str, Fold]] = {
    "fastbn": ("fastbn", _fastbn),
    "onnxruntime-basic": ("onnxruntime", _onnxruntime("basic")),
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

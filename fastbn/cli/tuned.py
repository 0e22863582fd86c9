"""What fine-tuning adds to a run of training: networks from ONNX files, and the file it ends in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastbn.cli.export import PROOF

if TYPE_CHECKING:
    from fastbn.train.config import Config
    from fastbn.train.finetune import Source
    from fastbn.train.prepare import Run


def parts_of(config: Config) -> dict[str, Any]:
    """Return what `fastbn.train.run` takes besides for a config: nothing, if it tunes nothing."""
    if config.freeze is None:
        return {}
    source = onnx_source(config) if config.model.endswith(".onnx") else None
    return {"source": source, "exporter": export}


def onnx_source(config: Config) -> Source:
    """Return the network of an ONNX file."""
    from fastbn.export import from_onnx
    from fastbn.nn import Module
    from fastbn.train.finetune import Source

    if config.weights is not None:
        raise ValueError(f"{config.model} has weights already; leave --weights out")

    def opened(input_shape: tuple[int, ...]) -> Module:
        net: Module = from_onnx(config.model, input_shape=input_shape)
        return net

    shape = from_onnx(config.model).input_shape
    return Source(opened, shape, described={"model": config.model, "arguments": {}})


def export(run: Run) -> Mapping[str, Any]:
    """Write the ONNX file of a run, proven; return what its report says."""
    from fastbn.export import to_onnx
    from fastbn.train.folder import ONNX

    normalization = run.samples.normalization
    report = to_onnx(
        run.net,
        Path(run.config.output) / ONNX,
        input_shape=run.samples.input_shape,
        classes=run.samples.classes or None,
        input_range=(0.0, 1.0) if len(run.samples.input_shape) == 3 else None,
        normalization=None if normalization is None else (normalization.mean, normalization.std),
    )
    return {name: report[name] for name in (*PROOF, "max_rel_ort", "max_rel_f64", "notes")}

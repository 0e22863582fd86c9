"""FoldBatchNorm: folding as a pass of onnx-ir, for pipelines of others."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from fastbn.export.fold.api import fold_batch_norm
from fastbn.export.fold.attempts import read, written
from fastbn.export.fold.report import FoldReport


class FoldBatchNorm(ir.passes.FunctionalPass):
    """Fold BatchNorms, and prove the result, as a pass over an ``onnx_ir.Model``.

    Parameters
    ----------
    **options
        As for `fold_batch_norm`.

    Attributes
    ----------
    report : FoldReport or None
        Of the last call.

    Raises
    ------
    onnx_ir.passes.PassError
        Of a `PassManager`: from what `fold_batch_norm` raises.

    Examples
    --------
    >>> import onnx_ir as ir
    >>> from fastbn.bench.patterns import PATTERNS
    >>> model = ir.from_proto(PATTERNS["conv-bn"].build())
    >>> fold = FoldBatchNorm(verify=False)
    >>> result = ir.passes.Sequential(fold)(model)
    >>> result.modified, [node.op_type for node in result.model.graph], fold.report.bn_left
    (True, ['Conv', 'Relu'], 0)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.report: FoldReport | None = None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return a folded copy."""
        folded, self.report = fold_batch_norm(written(model), **self.options)
        if not self.report.changed:
            return ir.passes.PassResult(model.clone(), modified=False)
        return ir.passes.PassResult(read(folded), modified=True)

"""Folding BatchNormalization away, in any ONNX model."""

from __future__ import annotations

from fastbn.export.fold.api import fold_batch_norm as fold_batch_norm
from fastbn.export.fold.api import fold_file as fold_file
from fastbn.export.fold.ir_pass import FoldBatchNorm as FoldBatchNorm
from fastbn.export.fold.report import FoldReport as FoldReport
from fastbn.export.fold.report import NodeEntry as NodeEntry

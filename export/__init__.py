"""ONNX: build a model from a network, fold its BatchNorms away, prove the result.

Four functions are all most users need: :func:`to_onnx` writes a network of ``fastbn.nn``,
:func:`from_onnx` reads one, :func:`fold_batch_norm` folds any ONNX model, :func:`validate` compares
models with float64.
"""

from __future__ import annotations

from fastbn.export.build import build_model as build_model
from fastbn.export.errors import MismatchError as MismatchError
from fastbn.export.errors import ModelError as ModelError
from fastbn.export.exporter import ExportReport as ExportReport
from fastbn.export.exporter import to_onnx as to_onnx
from fastbn.export.fold import FoldBatchNorm as FoldBatchNorm
from fastbn.export.fold import FoldReport as FoldReport
from fastbn.export.fold import fold_batch_norm as fold_batch_norm
from fastbn.export.fold import fold_file as fold_file
from fastbn.export.predictions import PredictionReport as PredictionReport
from fastbn.export.predictions import compare_predictions as compare_predictions
from fastbn.export.read import from_onnx as from_onnx
from fastbn.export.report import ValidationReport as ValidationReport
from fastbn.export.validate import validate as validate
from fastbn.nn import restore_batch_norm as restore_batch_norm

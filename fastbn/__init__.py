"""Batch normalisation on CPUs at the speed of memory, and ONNX export that folds it away.

Examples
--------
>>> import fastbn
>>> net = fastbn.nn.Sequential(fastbn.nn.Linear(4, 8), fastbn.nn.BatchNorm(8), fastbn.nn.ReLU())
>>> net.output_shape((4,))
(8,)
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from fastbn._version import __version__ as __version__
from fastbn.kernels.runtime import get_num_threads as get_num_threads
from fastbn.kernels.runtime import set_num_threads as set_num_threads

if TYPE_CHECKING:
    from fastbn import data as data
    from fastbn import distributed as distributed
    from fastbn import export as export
    from fastbn import functional as functional
    from fastbn import models as models
    from fastbn import nn as nn
    from fastbn import optim as optim
    from fastbn import reference as reference
    from fastbn import train as train

_SUBMODULES = (
    "data",
    "distributed",
    "export",
    "functional",
    "models",
    "nn",
    "optim",
    "reference",
    "train",
)


def __getattr__(name: str) -> ModuleType:
    """Import a submodule when it is first asked for, so that ``import fastbn`` stays quick."""
    if name in _SUBMODULES:
        return importlib.import_module(f"fastbn.{name}")
    raise AttributeError(f"module 'fastbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])

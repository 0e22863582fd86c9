"""The norms of single samples on a tensor: calls, and the bare passes beside them.

A set of values that share statistics is contiguous in memory, or a sample is, so that bare passes
read and write the tensor slab by slab.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn import functional as F
from fastbn.bench.cases import GROUPS, Array, Case, aligned, norm_of

Results = tuple[Array | None, ...]
Passes = tuple[tuple[Array, ...], tuple[tuple[Array, Array | None, Array], ...]]

SLABS = (16384, 65536, 262144)  # bytes that bare passes read and write at once


def norm_calls(case: Case, ops: tuple[str, ...]) -> dict[str, Callable[[], Results]]:
    """Return calls of those of `ops` that are such norms, into arrays made before."""
    wanted = {op: norm_of(op) for op in ops if norm_of(op) is not None}
    x, dy, _, weight, bias = case.values()
    y, dx = (aligned(x.shape, x.dtype) for _ in range(2))
    dweight, dbias = np.empty_like(weight), np.empty_like(bias)
    axis = 1 if case.layout == "nchw" else -1

    def made(name: str, part: str) -> Callable[[], Results]:
        arguments: tuple[Any, ...] = (weight, bias)
        options: dict[str, Any] = {"axis": axis, "out": y}
        if case.layout == "nc":
            options = {"normalized_shape": (case.shape.C,), "out": y}
        if name == "group_norm":
            arguments = (GROUPS, weight, bias)
        into: dict[str, Any] = {"out": dx, "dweight": dweight, "dbias": dbias}
        function, back = getattr(F, name), getattr(F, f"{name}_backward")
        _, saved = function(x, *arguments, **options)
        if part == "backward":
            return lambda: back(dy, saved, **into)
        if part == "step":
            return lambda: back(dy, function(x, *arguments, **options)[1], **into)
        return lambda: function(x, *arguments, **options)[:1]

    return {op: made(*norm) for op, norm in wanted.items() if norm is not None}


def norm_passes(case: Case, ops: tuple[str, ...]) -> dict[str, Passes]:
    """Return what is read for statistics or sums, and what is read and written then."""
    x, dy = case.values()[:2]
    to = aligned(x.shape, x.dtype)
    of: dict[str, Passes] = {
        "forward": ((x,), ((x, None, to),)),
        "backward": ((x, dy), ((x, dy, to),)),
    }
    norms = ((op, norm_of(op)) for op in ops)
    return {op: of[norm[1]] for op, norm in norms if norm is not None and norm[1] in of}

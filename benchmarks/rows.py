"""What a benchmark found: rows, the machine they were found on, and the JSON of both."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastbn.files import atomic

PACKAGES = ("fastbn", "numpy", "onnxruntime", "torch", "tensorflow", "jax")


@dataclass
class Row:
    """One measured case; None where something does not apply or a peer is absent.

    `us` is the median time of a call in microseconds, `gbps` the bytes that the operation has to
    move at the least over it. `x_copy` and `x_triad` are multiples of the time of a copy and a
    triad of the same tensor, `x_bare` of that of the operation's passes over memory without its
    arithmetic, `x_conv` of that of a block's convolution alone: less is better.
    `x_torch` and the like tell how many times faster than the peer's best variant this was: more
    is better.
    """

    name: str
    shape: tuple[int, ...]
    layout: str | None
    op: str
    dtype: str
    threads: int
    us: float
    gbps: float | None = None
    gflops: float | None = None
    x_copy: float | None = None
    x_triad: float | None = None
    x_bare: float | None = None
    x_conv: float | None = None
    x_torch: float | None = None
    x_tensorflow: float | None = None
    x_jax: float | None = None


def machine(threads: Iterable[int]) -> dict[str, Any]:
    """Describe what was measured on: instruction set, numbers of threads, caches, versions."""
    from fastbn.kernels import runtime

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "isa": runtime.isa(),
        "threads": sorted(threads),
        "caches": runtime.cache_sizes(),
        "versions": versions,
    }


def as_json(machine: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Machine and rows as what JSON can hold; times and ratios have four digits."""
    return {"machine": machine, "rows": [_rounded(asdict(row)) for row in rows]}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in values.items()
    }


def write(path: str | os.PathLike[str], machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write the JSON of a benchmark."""
    with atomic(path) as temporary:
        text = json.dumps(as_json(machine, rows), indent=1) + "\n"
        temporary.write_text(text, encoding="utf-8")

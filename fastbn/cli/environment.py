"""What this installation runs on: versions, instruction set, threads, caches, data sets."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("numpy", "onnx", "onnxruntime", "safetensors", "scikit-learn", "matplotlib", "torch")


def describe() -> dict[str, Any]:
    """Describe the environment, importing nothing that is not loaded anyway.

    Returns
    -------
    dict
        JSON-serialisable. ``isa`` is the instruction-set level in use, ``isa_available`` all this
        machine and this build can run; ``caches`` are in bytes; ``versions`` and ``data`` are None
        where a package or a data set is not there.

    Examples
    --------
    >>> environment = describe()
    >>> environment["isa"] in environment["isa_available"]
    True
    """
    import fastbn
    from fastbn.data.sources import FOLDERS
    from fastbn.kernels import runtime

    return {
        "version": fastbn.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "isa": runtime.isa(),
        "isa_available": list(runtime.available_isas()),
        "threads": fastbn.get_num_threads(),
        "openmp": runtime.has_openmp,
        "caches": runtime.cache_sizes(),
        "versions": {name: _version(name) for name in PACKAGES},
        "data": {name: _folder(name) for name in FOLDERS},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _folder(name: str) -> str | None:
    from fastbn.data.sources import locate

    try:
        return str(locate(name))
    except FileNotFoundError:
        return None

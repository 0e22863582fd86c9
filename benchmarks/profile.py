"""What a training step spends its time on: one line for each operation of `fastbn.functional`.

Neighbours that run as one operation are one line. Layers look their operations up in
`fastbn.functional` at every call, and there a profile puts itself in front of them.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F

Array = NDArray[Any]

PRODUCTS = ("conv2d", "linear", "conv_transpose2d")


class Profile:
    """Time all operations while it is open.

    Attributes
    ----------
    flops : float
        Arithmetic of all matrix products and convolutions so far.
    """

    def __init__(self) -> None:
        self.flops = 0.0
        self._originals: dict[str, Callable[..., Any]] = {}
        self._forward_flops: dict[int, float] = {}  # by what forward saved
        self._labels: dict[int, str] = {}
        self._found: dict[str, list[float]] = {}  # label: [calls, seconds, flops, bytes]

    def __enter__(self) -> Self:
        for name, operation in vars(F).items():
            if inspect.isfunction(operation) and not name.startswith("_"):
                self._originals[name] = operation
        for name, operation in self._originals.items():
            setattr(F, name, self._timed(name, operation))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name, operation in self._originals.items():
            setattr(F, name, operation)

    def _timed(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = operation(*arguments, **options)
            elapsed = time.perf_counter() - start
            label, flops = self._describe(name, arguments, options, result)
            entry = self._found.setdefault(label, [0, 0.0, 0.0, 0.0])
            moved = sum(array.nbytes for array in arrays(arguments, options, result))
            for index, value in enumerate((1, elapsed, flops, moved)):
                entry[index] += value
            self.flops += flops
            return result

        return call

    def _describe(
        self, name: str, arguments: tuple[Any, ...], options: dict[str, Any], result: Any
    ) -> tuple[str, float]:
        """Label and arithmetic of a call; those of a backward come from its forward."""
        if name.endswith("_backward"):
            saved = id(arguments[1])
            label = self._labels.get(saved, name.removesuffix("_backward"))
            parts = 1 + (options.get("need_dx", True) is not False)
            return f"{label}, backward", parts * self._forward_flops.get(saved, 0.0)
        x = arguments[0]
        label, flops = f"{name} {'×'.join(map(str, x.shape))}", 0.0
        if name in PRODUCTS:
            weight = arguments[1]
            transposed = name == "conv_transpose2d"
            flops = 2.0 * weight.size * ((x if transposed else result[0]).size // weight.shape[0])
            label += f" → {result[0].shape[-1]}"
            if weight.ndim == 4:
                label += f", {weight.shape[2]}×{weight.shape[3]}"
        if options.get("residual") is not None:
            label += " + residual"
        if options.get("activation"):
            label += f" + {options['activation']}"
        if isinstance(result, tuple):
            self._labels[id(result[-1])] = label
            self._forward_flops[id(result[-1])] = flops
        return label, flops

    def operations(self, steps: int) -> list[dict[str, Any]]:
        """Return the operations of one step, in the order they first ran.

        Returns
        -------
        list of dict
            ``operation``, ``calls`` and ``ms`` in a step, and ``gflops`` of a product or ``gbps``
            (its arrays' bytes over its time) of anything else; the other one is None.
        """
        return [
            {
                "operation": label,
                "calls": calls / steps,
                "ms": seconds / steps * 1e3,
                "gflops": flops / seconds / 1e9 if flops else None,
                "gbps": None if flops else moved / seconds / 1e9,
            }
            for label, (calls, seconds, flops, moved) in self._found.items()
        ]


def arrays(*values: Any) -> list[Array]:
    """Arrays among values, and in the tuples and dictionaries among them, each memory once."""
    found: dict[int, Array] = {}
    for value in values:
        if isinstance(value, np.ndarray):
            found[value.ctypes.data] = value
        elif isinstance(value, tuple | dict):
            inside = value.values() if isinstance(value, dict) else value
            found |= {array.ctypes.data: array for array in arrays(*inside)}
    return list(found.values())

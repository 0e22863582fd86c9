"""The library's operations on a tensor, and the yardsticks of the same size.

All sides use the same arrays in every call, allocated beforehand; only the ``_fresh`` operations
let every call allocate what it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastbn import functional as F
from fastbn.bench import norms
from fastbn.bench.cases import Array, Case, aligned
from fastbn.bench.digest import Digest, digest
from fastbn.bench.timing import Call
from fastbn.kernels import yardsticks

Move = tuple[Array, Array | None, Array]
Results = tuple[Array | None, ...]

SLABS = (4096, 8192, 16384)  # bytes of a sample that bare passes read and write at once in NCHW


class Ours:
    """The operations of this library on one tensor, and the yardsticks beside them.

    Attributes
    ----------
    operations : dict
        Name of an operation to a call that returns y, or the gradients.
    calls : dict
        Name of an operation to what is timed; of a yardstick ``copy``, ``copy stream`` and so on;
        ``bare`` and an operation's name, and then how, to its bare passes over memory.
    """

    def __init__(self, case: Case, ops: tuple[str, ...]) -> None:
        x, dy, residual, weight, bias = case.values()
        y, dx, dresidual = (aligned(x.shape, x.dtype) for _ in range(3))
        # What is read for statistics or sums, and what is read and written then.
        bare: dict[str, tuple[tuple[Array, ...], tuple[Move, ...]]] = {
            "forward": ((x,), ((x, None, y),)),
            "backward": ((x, dy), ((x, dy, dx),)),
            "forward_residual": ((x,), ((x, residual, y),)),
            "backward_residual": ((x, dy, residual), ((x, dy, dx), (residual, None, dresidual))),
        }
        mean, var = np.zeros_like(weight), np.ones_like(weight)
        frozen = mean.copy(), var.copy()
        dweight, dbias = np.empty_like(weight), np.empty_like(bias)
        axis = 1 if case.layout == "nchw" else -1
        plain: dict[str, Any] = {"axis": axis, "activation": "relu"}
        into: dict[str, Any] = {"out": dx, "dweight": dweight, "dbias": dbias}
        _, saved = F.batch_norm(x, weight, bias, training=True, out=y, **plain)
        _, saved_residual = F.batch_norm(
            x, weight, bias, training=True, residual=residual, out=y, **plain
        )

        def forward(out: Array | None = y) -> Results:
            return F.batch_norm(x, weight, bias, mean, var, training=True, out=out, **plain)[:1]

        def inference() -> Results:
            return F.batch_norm(x, weight, bias, *frozen, training=False, out=y, **plain)[:1]

        def forward_residual() -> Results:
            return F.batch_norm(
                x, weight, bias, mean, var, training=True, residual=residual, out=y, **plain
            )[:1]

        def backward() -> Results:
            return F.batch_norm_backward(dy, saved, **into)

        def backward_residual() -> Results:
            return F.batch_norm_backward(dy, saved_residual, dresidual=dresidual, **into)

        def step() -> Results:
            _, own = F.batch_norm(x, weight, bias, mean, var, training=True, out=y, **plain)
            return F.batch_norm_backward(dy, own, **into)

        def step_fresh() -> Results:
            _, own = F.batch_norm(x, weight, bias, mean, var, training=True, **plain)
            return F.batch_norm_backward(dy, own)

        every: dict[str, Callable[[], Results]] = {
            "forward": forward,
            "inference": inference,
            "backward": backward,
            "forward_residual": forward_residual,
            "backward_residual": backward_residual,
            "step": step,
            "forward_fresh": lambda: forward(None),
            "step_fresh": step_fresh,
        }
        every |= norms.norm_calls(case, ops)
        self.operations = {op: every[op] for op in ops}
        self.calls: dict[str, Call] = dict(self.operations)
        # A yardstick is the faster of two ways to store.
        self.calls["copy"] = lambda: yardsticks.copy(x, y)
        self.calls["copy stream"] = lambda: yardsticks.copy(x, y, True)
        self.calls["triad"] = lambda: yardsticks.triad(x, dy, dx)
        self.calls["triad stream"] = lambda: yardsticks.triad(x, dy, dx, True)
        rows, slabs = (len(x), SLABS) if case.layout == "nchw" else (1, (0,))
        for op in bare.keys() & self.operations.keys():
            for slab in slabs:
                for stream in (False, True):
                    passes = partial(yardsticks.passes, *bare[op], rows, slab, stream)
                    self.calls[f"bare {op}, {slab}, {stream}"] = passes
        for op, read_and_moved in norms.norm_passes(case, ops).items():
            for slab in norms.SLABS:
                for stream in (False, True):
                    passes = partial(yardsticks.passes, *read_and_moved, 1, slab, stream)
                    self.calls[f"bare {op}, {slab}, {stream}"] = passes

    def digests(self) -> dict[str, Digest]:
        """Digests of what the operations return, to compare with a peer's."""
        return {
            op: digest(result for result in call() if result is not None)
            for op, call in self.operations.items()
        }

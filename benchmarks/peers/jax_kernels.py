"""JAX's batch normalisation and ReLU, compiled by jit; the variance as Flax computes it by default.

JAX has no way to say where a result goes; its allocator takes the memory of the result before.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.bench.cases import Case
from fastbn.bench.digest import Digest, digest
from fastbn.bench.peers.suite import Kernels
from fastbn.bench.shapes import parse
from fastbn.bench.timing import Call

EPS, MOMENTUM = 1e-5, 0.1


def import_jax(threads: int) -> Any:
    """Import JAX on so many cores: its pool takes as many threads as there are cores to run on."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    elif threads != os.cpu_count():
        raise RuntimeError("JAX takes all cores, and this system cannot keep it off any")
    jax = importlib.import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    return jax


class Suite(Kernels):
    """JAX on so many cores."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.jax: Any = import_jax(threads)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``jax.jit``, for type checkers."""
        result: Callable[..., Any] = self.jax.jit(function)
        return result

    def calls(  # type: ignore[override]
        self, shape: str, layout: str, dtype: str, ops: list[str]
    ) -> dict[str, Call]:
        """Return the operations, in float32; see `fastbn.bench.cases.Ours`."""
        if dtype != "float32":
            return {}
        jax = self.jax
        x, dy, residual, weight, bias = map(
            jax.numpy.asarray, Case(parse(shape), layout, dtype).values()
        )
        mean, var = jax.numpy.zeros_like(weight), jax.numpy.ones_like(weight)
        axes = (0, 2, 3) if layout == "nchw" else tuple(range(x.ndim - 1))
        channels = (1, -1, 1, 1) if layout == "nchw" else (-1,)
        unbias = (x.size // weight.size) / (x.size // weight.size - 1)

        def normalise(x: Any, mean: Any, var: Any, weight: Any, bias: Any, added: Any) -> Any:
            scale = weight * jax.lax.rsqrt(var + EPS)
            z = (x - mean.reshape(channels)) * scale.reshape(channels) + bias.reshape(channels)
            return jax.nn.relu(z if added is None else z + added)

        def moments(x: Any) -> Any:
            m = jax.numpy.mean(x, axes)
            return m, jax.numpy.maximum(0.0, jax.numpy.mean(x * x, axes) - m * m)

        def apply(x: Any, weight: Any, bias: Any, added: Any = None) -> Any:
            mean, var = moments(x)
            return normalise(x, mean, var, weight, bias, added)

        @self.compiled
        def forward(x: Any, weight: Any, bias: Any, mean: Any, var: Any, added: Any = None) -> Any:
            m, v = moments(x)
            y = normalise(x, m, v, weight, bias, added)
            return y, mean + MOMENTUM * (m - mean), var + MOMENTUM * (v * unbias - var)

        @self.compiled
        def inference(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
            return (normalise(x, mean, var, weight, bias, None),)

        @self.compiled
        def pull(saved: Any, dy: Any) -> Any:
            return saved(dy)

        @self.compiled
        def step(x: Any, weight: Any, bias: Any, dy: Any, mean: Any, var: Any) -> Any:
            y, saved = jax.vjp(apply, x, weight, bias)
            m, v = moments(x)
            running = mean + MOMENTUM * (m - mean), var + MOMENTUM * (v * unbias - var)
            return (*saved(dy), y, *running)

        def finished(function: Any, *arguments: Any, count: int) -> Call:
            return lambda: jax.block_until_ready(function(*arguments))[:count]

        def of(op: str) -> Call:
            if op in {"forward", "forward_fresh"}:
                return finished(forward, x, weight, bias, mean, var, count=1)
            if op == "inference":
                return finished(inference, x, weight, bias, mean, var, count=1)
            if op == "forward_residual":
                return finished(forward, x, weight, bias, mean, var, residual, count=1)
            if op in {"step", "step_fresh"}:
                return finished(step, x, weight, bias, dy, mean, var, count=3)
            # Backward alone: forward runs here, once, and leaves what backward needs.
            added = (residual,) if op == "backward_residual" else ()
            _, saved = jax.jit(lambda *leaves: jax.vjp(apply, *leaves))(x, weight, bias, *added)
            return finished(pull, saved, dy, count=4)

        return {f"{op}:jit": of(op) for op in ops}

    def summary(self, result: Any) -> Digest:
        """See `fastbn.bench.digest.digest`."""
        return digest(np.asarray(part) for part in result)

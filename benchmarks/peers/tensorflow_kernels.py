"""TensorFlow's FusedBatchNormV3 (NHWC) and relu, eager and in a tf.function.

TensorFlow has no way to say where a result goes; its allocator takes the memory of the one before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fastbn.bench.cases import Case
from fastbn.bench.digest import Digest, digest
from fastbn.bench.peers.suite import Kernels
from fastbn.bench.shapes import parse
from fastbn.bench.timing import Call

EPS, MOMENTUM = 1e-5, 0.1


class Suite(Kernels):
    """TensorFlow with so many threads."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.tf: Any = importlib.import_module("tensorflow")
        self.tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.tf.config.threading.set_inter_op_parallelism_threads(1)

    def calls(  # type: ignore[override]
        self, shape: str, layout: str, dtype: str, ops: list[str]
    ) -> dict[str, Call]:
        """Return the operations; see `fastbn.bench.cases.Ours`. Only float32, and NHWC."""
        if layout == "nchw" or dtype != "float32":
            return {}
        tf = self.tf
        arrays = Case(parse(shape), layout, dtype).values()
        images = [p if p.ndim == 4 else p.reshape(p.shape[0], 1, 1, -1) for p in arrays[:3]]
        x, dy, residual = map(tf.constant, images)
        weight, bias = map(tf.constant, arrays[3:])
        mean, var = tf.zeros_like(weight), tf.ones_like(weight)
        raw = tf.raw_ops

        def fused(x: Any, weight: Any, bias: Any, training: bool = True) -> Any:
            return raw.FusedBatchNormV3(
                x=x, scale=weight, offset=bias, mean=mean, variance=var, epsilon=EPS,
                exponential_avg_factor=MOMENTUM if training else 1.0, is_training=training,
            )  # fmt: skip

        def forward(x: Any) -> Any:
            y, *rest = fused(x, weight, bias)
            return tf.nn.relu(y), *rest

        def forward_residual(x: Any, added: Any) -> Any:
            y, *rest = fused(x, weight, bias)
            return tf.nn.relu(y + added), *rest

        def inference(x: Any) -> Any:
            return (tf.nn.relu(fused(x, weight, bias, False)[0]),)

        def backward(dy: Any, x: Any, y: Any, saved: Any) -> Any:
            d = raw.ReluGrad(gradients=dy, features=y)
            dx, dweight, dbias, *_ = raw.FusedBatchNormGradV3(
                y_backprop=d, x=x, scale=weight, reserve_space_1=saved[2],
                reserve_space_2=saved[3], reserve_space_3=saved[4], epsilon=EPS, is_training=True,
            )  # fmt: skip
            return dx, dweight, dbias, d

        def step(x: Any, weight: Any, bias: Any, dy: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                leaves = (x, weight, bias)
                tape.watch(leaves)
                z, mean, var, *_ = fused(x, weight, bias)
                y = tf.nn.relu(z)
            return (*tape.gradient(y, leaves, dy), y, mean, var)

        def of(op: str) -> dict[str, Call]:
            if op in {"forward", "forward_fresh"}:
                return both(forward, x, count=1)
            if op == "inference":
                return both(inference, x, count=1)
            if op == "forward_residual":
                return both(forward_residual, x, residual, count=1)
            if op in {"step", "step_fresh"}:
                return both(step, x, weight, bias, dy, count=3)
            # Backward alone: forward runs here, once.
            z, *saved = fused(x, weight, bias)
            y = tf.nn.relu(z if op == "backward" else z + residual)
            return both(backward, dy, x, y, saved, count=3 if op == "backward" else 4)

        def both(function: Callable[..., Any], *arguments: Any, count: int) -> dict[str, Call]:
            compiled = tf.function(function)
            return {
                "eager": lambda: function(*arguments)[:count],
                "function": lambda: compiled(*arguments)[:count],
            }

        return {f"{op}:{variant}": call for op in ops for variant, call in of(op).items()}

    def summary(self, result: Any) -> Digest:
        """See `fastbn.bench.digest.digest`."""
        return digest(part.numpy() for part in result)

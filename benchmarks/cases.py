"""The operations that are measured, and the tensors they are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.bench.shapes import Shape

Array = NDArray[Any]

# The norms of single samples, and the layouts they are measured in.
NORMS = {
    "layer_norm": ("nc",),
    "group_norm": ("nchw", "nhwc"),
    "instance_norm": ("nchw", "nhwc"),
}
GROUPS = 32  # of group_norm
PARTS = {"forward": 2, "backward": 3, "step": 5}
NORM_OPS = tuple(f"{norm}_{part}" for norm in NORMS for part in PARTS)

# Tensors that an operation has to read and write at the least. Those of batch normalisation, which
# bear no name, are followed by ReLU.
TRAFFIC = {
    "forward": 2,  # training: x, y
    "inference": 2,
    "backward": 3,  # x, dy, dx
    "forward_residual": 3,
    "backward_residual": 5,  # x, dy, residual, dx, dresidual
    "step": 5,  # forward, then backward
    "forward_fresh": 2,
    "step_fresh": 5,
    **{f"{norm}_{part}": tensors for norm in NORMS for part, tensors in PARTS.items()},
}
ALONE = ("forward", "inference", "backward", "forward_residual", "backward_residual")
BESIDE_PEERS = (*ALONE, "step", "forward_fresh", "step_fresh")
YARDSTICKS = {"copy": 2, "triad": 3}

DTYPES = ("float32", "float64", "bfloat16")
LAYOUTS = ("nchw", "nhwc", "nc")


def norm_of(op: str) -> tuple[str, str] | None:
    """Take the name of a part of a norm of single samples apart; None for batch normalisation."""
    norm, _, part = op.rpartition("_")
    return (norm, part) if norm in NORMS else None


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's dtype of a name, bfloat16 included."""
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array that begins at a cache line and whose pages have been touched."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    raw.fill(0)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


@dataclass(frozen=True)
class Case:
    """One tensor: its shape, layout and dtype."""

    shape: Shape
    layout: str
    dtype: str

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.shape.of(self.layout)

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return int(np.prod(self.array_shape)) * dtype_of(self.dtype).itemsize

    def has(self, op: str) -> bool:
        """Whether the operation is measured on such a tensor."""
        norm = norm_of(op)
        if norm is None:
            return True
        divides = norm[0] != "group_norm" or self.shape.C % GROUPS == 0
        return self.layout in NORMS[norm[0]] and divides

    def values(self) -> tuple[Array, Array, Array, Array, Array]:
        """x, dy, the residual, weight and bias: the same in every process.

        A tensor holds one random block over and over, because drawing a hundred megabytes takes
        longer than measuring them.
        """
        dtype = dtype_of(self.dtype)
        parameters = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        rng = np.random.default_rng(0)
        tensors = []
        for _ in range(3):
            tensor = aligned(self.array_shape, dtype)
            block = rng.standard_normal(min(tensor.size, 1_000_003), np.float32).astype(dtype)
            flat = tensor.reshape(-1)
            for at in range(0, flat.size, block.size):
                flat[at : at + block.size] = block[: flat.size - at]
            tensors.append(tensor)
        weight = rng.uniform(0.5, 1.5, self.shape.C).astype(parameters)
        bias = rng.uniform(-0.5, 0.5, self.shape.C).astype(parameters)
        return tensors[0], tensors[1], tensors[2], weight, bias

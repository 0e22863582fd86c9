"""Parameters of one axis (weights of batch_norm, biases), which the kernels want contiguous."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def dense(p: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return p, or a copy that the kernels can read if p is strided or not aligned."""
    if isinstance(p, np.ndarray) and not p.flags.carray:
        return np.require(p, requirements=["C", "A"])
    return p

from typing import Any

import numpy as np
from numpy.typing import NDArray

class DropoutSaved:
    seed: int
    p: float

def forward(
    x: NDArray[Any],
    p: float,
    training: bool,
    rng: np.random.Generator | None,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], DropoutSaved]: ...
def backward(dy: NDArray[Any], saved: DropoutSaved, out: NDArray[Any] | None) -> NDArray[Any]: ...

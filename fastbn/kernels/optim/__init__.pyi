from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Sweep:
    @property
    def data(self) -> tuple[NDArray[Any], ...]: ...
    @property
    def states(self) -> tuple[tuple[NDArray[Any], ...], ...]: ...
    def __init__(self, data: Sequence[NDArray[Any]], *states: Sequence[NDArray[Any]]) -> None: ...
    def holds(self, data: Sequence[NDArray[Any]]) -> bool: ...
    def sgd_step(
        self,
        grads: Sequence[NDArray[Any] | None],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None: ...
    def adam_step(
        self,
        grads: Sequence[NDArray[Any] | None],
        steps: NDArray[np.int64],
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None: ...

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

class LRNSaved:
    @property
    def x(self) -> Array: ...

def forward(
    x: Array, size: int, alpha: float, beta: float, k: float, out: Array | None
) -> tuple[Array, LRNSaved]: ...
def backward(dy: Array, saved: LRNSaved, out: Array | None) -> Array: ...

from typing import Any

from numpy.typing import NDArray

class LinearSaved:
    x: NDArray[Any]
    weight: NDArray[Any]
    bias: NDArray[Any] | None
    shape: tuple[int, ...]

def forward(
    x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None, out: NDArray[Any] | None
) -> tuple[NDArray[Any], LinearSaved]: ...
def backward(
    dy: NDArray[Any],
    saved: LinearSaved,
    need_dx: bool,
    need_dweight: bool,
    need_dbias: bool,
    out: NDArray[Any] | None,
    dweight: NDArray[Any] | None,
    dbias: NDArray[Any] | None,
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]: ...

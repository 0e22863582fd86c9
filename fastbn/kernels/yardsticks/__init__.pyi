from typing import Any

from numpy.typing import NDArray

def copy(x: NDArray[Any], y: NDArray[Any], stream: bool = False) -> None: ...
def triad(a: NDArray[Any], b: NDArray[Any], y: NDArray[Any], stream: bool = False) -> None: ...
def passes(
    reads: tuple[NDArray[Any], ...],
    moves: tuple[tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any]], ...],
    rows: int,
    slab: int,
    stream: bool = False,
) -> None: ...
def multiply_adds(rounds: int, float64: bool = False) -> int: ...

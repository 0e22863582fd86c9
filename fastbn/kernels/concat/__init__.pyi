from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

class ConcatSaved:
    shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]

def join(
    xs: tuple[NDArray[Any], ...], out: NDArray[Any] | None
) -> tuple[NDArray[Any], ConcatSaved]: ...
def part(
    dy: NDArray[Any], saved: ConcatSaved, out: Sequence[NDArray[Any] | None] | None
) -> tuple[NDArray[Any], ...]: ...

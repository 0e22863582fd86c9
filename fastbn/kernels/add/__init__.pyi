from typing import Any

from numpy.typing import NDArray

def total(xs: tuple[NDArray[Any], ...], out: NDArray[Any] | None) -> NDArray[Any]: ...

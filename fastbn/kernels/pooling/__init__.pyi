from typing import Any

from numpy.typing import NDArray

IntPair = int | tuple[int, int]

class PoolSaved:
    operation: str

class GlobalAvgPoolSaved: ...

def max_pool2d(
    x: NDArray[Any],
    kernel_size: IntPair,
    stride: IntPair | None,
    padding: IntPair,
    dilation: IntPair,
    ceil_mode: bool,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], PoolSaved]: ...
def max_pool2d_backward(
    dy: NDArray[Any], saved: PoolSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def avg_pool2d(
    x: NDArray[Any],
    kernel_size: IntPair,
    stride: IntPair | None,
    padding: IntPair,
    ceil_mode: bool,
    count_include_pad: bool,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], PoolSaved]: ...
def avg_pool2d_backward(
    dy: NDArray[Any], saved: PoolSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def global_avg_pool2d(
    x: NDArray[Any], out: NDArray[Any] | None
) -> tuple[NDArray[Any], GlobalAvgPoolSaved]: ...
def global_avg_pool2d_backward(
    dy: NDArray[Any], saved: GlobalAvgPoolSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

class GroupNormSaved:
    @property
    def x(self) -> Array: ...
    @property
    def weight(self) -> Array | None: ...
    @property
    def bias(self) -> Array | None: ...

def forward(
    x: Array,
    num_groups: int,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    axis: int,
    activation: str | None,
    negative_slope: float,
    out: Array | None,
) -> tuple[Array, GroupNormSaved]: ...
def backward(
    dy: Array,
    saved: GroupNormSaved,
    need_dx: bool,
    need_dweight: bool,
    need_dbias: bool,
    out: Array | None,
    dweight: Array | None,
    dbias: Array | None,
) -> tuple[Array | None, Array | None, Array | None]: ...

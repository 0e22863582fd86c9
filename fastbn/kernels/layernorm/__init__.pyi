from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

class LayerNormSaved:
    @property
    def x(self) -> Array: ...
    @property
    def weight(self) -> Array | None: ...
    @property
    def bias(self) -> Array | None: ...
    @property
    def rms(self) -> bool: ...

def forward(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    normalized_shape: int | tuple[int, ...],
    eps: float | None,
    rms: bool,
    activation: str | None,
    negative_slope: float,
    residual: Array | None,
    total: Array | None,
    out: Array | None,
) -> tuple[Array, LayerNormSaved]: ...
def backward(
    dy: Array,
    saved: LayerNormSaved,
    need_dx: bool,
    need_dweight: bool,
    need_dbias: bool,
    out: Array | None,
    dweight: Array | None,
    dbias: Array | None,
) -> tuple[Array | None, Array | None, Array | None]: ...

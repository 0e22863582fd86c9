from typing import Any

import numpy as np
from numpy.typing import NDArray

class BatchNormSaved:
    x: NDArray[Any]
    residual: NDArray[Any] | None
    weight: NDArray[Any] | None
    bias: NDArray[Any] | None
    training: bool
    overwritten: str | None
    in_place: bool

def forward(
    x: NDArray[Any],
    weight: NDArray[Any] | None,
    bias: NDArray[Any] | None,
    running_mean: NDArray[Any] | None,
    running_var: NDArray[Any] | None,
    training: bool,
    momentum: float | None,
    eps: float,
    axis: int,
    activation: str | None,
    negative_slope: float,
    residual: NDArray[Any] | None,
    tracked: NDArray[np.int64] | None,
    moments: tuple[int, NDArray[np.float64], NDArray[np.float64]] | None,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], BatchNormSaved]: ...
def backward(
    dy: NDArray[Any],
    saved: BatchNormSaved,
    need_dx: bool,
    need_dweight: bool,
    need_dbias: bool,
    need_dresidual: bool,
    out: NDArray[Any] | None,
    dweight: NDArray[Any] | None,
    dbias: NDArray[Any] | None,
    dresidual: NDArray[Any] | None,
    slope: NDArray[np.float64] | None = None,
    constant: NDArray[np.float64] | None = None,
) -> tuple[NDArray[Any] | None, ...]: ...
def moments(x: NDArray[Any], axis: int) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]: ...
def scale_shift(
    x: NDArray[Any],
    scale: NDArray[Any] | None,
    shift: NDArray[Any] | None,
    centre: NDArray[np.float64] | None,
    axis: int,
    activation: str | None,
    negative_slope: float,
    residual: NDArray[Any] | None,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], BatchNormSaved]: ...

from typing import Any

import numpy as np
from numpy.typing import NDArray

class Saved:
    x: NDArray[Any]
    weight: NDArray[Any]
    bias: NDArray[Any] | None
    output_shape: tuple[int, int, int, int]

class ConvSaved(Saved):
    moments: tuple[int, NDArray[np.float64], NDArray[np.float64]] | None

def forward(
    x: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int] | str,
    dilation: int | tuple[int, int],
    groups: int,
    out: NDArray[Any] | None,
    moments: bool,
) -> tuple[NDArray[Any], ConvSaved]: ...
def backward(
    dy: NDArray[Any],
    saved: ConvSaved,
    need_dx: bool,
    need_dweight: bool,
    need_dbias: bool,
    out: NDArray[Any] | None,
    dweight: NDArray[Any] | None,
    dbias: NDArray[Any] | None,
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]: ...

class ConvTransposeSaved(Saved): ...

def transpose_forward(
    x: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    output_padding: int | tuple[int, int],
    groups: int,
    dilation: int | tuple[int, int],
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], ConvTransposeSaved]: ...
def transpose_backward(
    dy: NDArray[Any],
    saved: ConvTransposeSaved,
    need_dx: bool,
    need_dweight: bool,
    need_dbias: bool,
    out: NDArray[Any] | None,
    dweight: NDArray[Any] | None,
    dbias: NDArray[Any] | None,
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]: ...
def algorithm(
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int] | str,
    dilation: int | tuple[int, int],
    groups: int,
) -> str: ...

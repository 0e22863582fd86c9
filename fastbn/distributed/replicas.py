"""The copies of a network that the ranks hold: made the same, and found out when they differ."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.distributed.communicator import Communicator

Array = NDArray[Any]
Named = Iterable[tuple[str, Array]]


class DriftError(RuntimeError):
    """The ranks' copies of a tensor differ.

    Attributes
    ----------
    tensor : str
        The first one that does.

    Examples
    --------
    >>> DriftError("after step 100 the ranks have drifted apart: 0.weight", "0.weight").tensor
    '0.weight'
    """

    def __init__(self, message: str, tensor: str) -> None:
        super().__init__(message)
        self.tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.tensor)


def broadcast(communicator: Communicator, tensors: Named) -> None:
    """Give all ranks the values of rank 0, in one message for every dtype.

    Parameters
    ----------
    communicator : Communicator
    tensors : iterable of (str, ndarray)
        The same on all ranks but for the values, which are replaced in place.

    Raises
    ------
    ValueError
        On all ranks, if the ranks have other tensors.
    """
    named = list(tensors)
    shapes = repr([(name, array.shape, array.dtype.name) for name, array in named])
    if len({int(told[0]) for told in communicator.allgather(_checksum(shapes.encode()))}) > 1:
        raise ValueError("the ranks do not train the same network: names or shapes differ")
    by_dtype: dict[np.dtype[Any], list[Array]] = {}
    for _, array in named:
        by_dtype.setdefault(array.dtype, []).append(array)
    for dtype, arrays in by_dtype.items():
        buffer = np.concatenate([array.ravel() for array in arrays]).astype(dtype, copy=False)
        communicator.broadcast(buffer)
        first = 0
        for array in arrays:
            array[...] = buffer[first : first + array.size].reshape(array.shape)
            first += array.size


def require_same(communicator: Communicator, tensors: Named, step: int) -> None:
    """Compare checksums of all tensors.

    Raises
    ------
    DriftError
        On all ranks, if one of them is not the same to the bit everywhere.
    """
    named = list(tensors)
    own = np.array([zlib.crc32(array.tobytes()) for _, array in named], np.int64)
    all_of_them = np.stack(communicator.allgather(own))
    differs = (all_of_them != all_of_them[0]).any(axis=0)
    if differs.any():
        first = int(differs.argmax())
        ranks = np.flatnonzero(all_of_them[:, first] != all_of_them[0, first])
        name = named[first][0]
        raise DriftError(
            f"after step {step} the ranks have drifted apart: {name} of rank "
            f"{', '.join(map(str, ranks))} is not that of rank 0 ({int(differs.sum())} of "
            f"{len(named)} tensors differ)",
            name,
        )


def _checksum(content: bytes) -> NDArray[np.int64]:
    return np.array([zlib.crc32(content)], np.int64)

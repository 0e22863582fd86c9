"""Work on many samples, divided among the ranks of a job and put together in one order."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastbn.distributed import Communicator

Array = NDArray[Any]

LONGEST = 3600.0  # seconds that ranks may be apart when they read many files


def shard_of(rows: int, rank: int, size: int) -> slice:
    """Return the part of so many rows that is a rank's: neighbours, as even as can be.

    Examples
    --------
    >>> [shard_of(10, rank, 4) for rank in range(4)]
    [slice(0, 2, None), slice(2, 5, None), slice(5, 7, None), slice(7, 10, None)]
    """
    return slice(rows * rank // size, rows * (rank + 1) // size)


def divided(
    count: int, work: Callable[[range], Array], communicator: Communicator | None = None
) -> Array:
    """Return what some work makes of the numbers below `count`, each done by one rank.

    Parameters
    ----------
    count : int
    work : callable
        Returns an array with a row for each number of a range, of the same shape and dtype for all.
    communicator : Communicator, optional
        The other ranks, who all call this. They hear of it if the work of one fails.

    Returns
    -------
    ndarray, shape (count, ...)
        The same on every rank, and for any number of them.

    Examples
    --------
    >>> divided(4, lambda numbers: np.array([n**2 for n in numbers]))
    array([0, 1, 4, 9])
    """
    if communicator is None or communicator.size == 1:
        return work(range(count))
    rank, size = communicator.rank, communicator.size
    try:
        own = work(range(count)[shard_of(count, rank, size)])
    except BaseException as error:
        if (fail := getattr(communicator, "fail", None)) is not None:
            fail(f"{type(error).__name__}: {error}")
        raise
    communicator.barrier(LONGEST)
    padded = np.zeros((-(-count // size), *own.shape[1:]), own.dtype)
    padded[: len(own)] = own
    told = enumerate(communicator.allgather(padded))
    return np.concatenate([part[: len(range(count)[shard_of(count, r, size)])] for r, part in told])


def local_size(communicator: Communicator) -> int:
    """Return how many ranks run on this machine."""
    name = zlib.crc32(socket.gethostname().encode())
    return sum(int(told[0]) == name for told in communicator.allgather(np.array([name], np.int64)))

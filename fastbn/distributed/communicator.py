"""What the library asks of whoever connects its processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
T = TypeVar("T")


class RankError(RuntimeError):
    """A rank died, hangs, or failed, so that the others cannot go on.

    Attributes
    ----------
    ranks : tuple of int
        Which ones.
    failed : bool
        Whether it told so itself, because of an error that it raises.

    Examples
    --------
    >>> error = RankError("rank 2 does not answer, since 60 s", (2,))
    >>> error.ranks, error.failed
    ((2,), False)
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = (), failed: bool = False) -> None:
        super().__init__(message)
        self.ranks = ranks
        self.failed = failed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.ranks, self.failed)


class Handle(Protocol):
    """An operation that goes on while the caller does something else."""

    def test(self) -> bool:
        """Help it on, and tell whether it is done; does not wait."""

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is done.

        Parameters
        ----------
        timeout : float, optional
            Seconds; by default the communicator's.

        Raises
        ------
        RankError
            If it is not done by then; the message names the ranks that do not answer.
        """


class Communicator(Protocol):
    """Connects the processes of a job. All of them make the same calls in the same order.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        How many there are.

    Examples
    --------
    >>> class Alone:
    ...     rank, size = 0, 1
    ...     def allgather(self, array):
    ...         return [array.copy()]
    >>> [array.tolist() for array in Alone().allgather(np.arange(3))]
    [[0, 1, 2]]
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    def allgather(self, array: Array) -> list[Array]:
        """Return the arrays of all ranks, in their order.

        Parameters
        ----------
        array : ndarray
            Small, of the same shape and dtype on all ranks.
        """

    def start_allreduce(self, buffer: Array) -> Handle:
        """Begin to replace a buffer by its sum over all ranks, the same bits on each.

        Parameters
        ----------
        buffer : ndarray
            Contiguous, float32 or float64. It belongs to the operation until that is done.
        """

    def broadcast(self, array: Array) -> None:
        """Replace the values of a contiguous array by those of rank 0."""

    def barrier(self, timeout: float | None = None) -> None:
        """Wait until all ranks have come here; RankError if they have not within `timeout`."""


class Timed:
    """A communicator that counts the seconds a rank spends in communication.

    Attributes
    ----------
    seconds : float
        In calls and waits, so far; what goes on while the caller computes is not in it.

    Examples
    --------
    >>> class Alone:
    ...     rank, size = 0, 1
    ...     def allgather(self, array):
    ...         time.sleep(0.01)
    ...         return [array.copy()]
    >>> timed = Timed(Alone())
    >>> timed.allgather(np.zeros(2)), timed.seconds >= 0.01
    ([array([0., 0.])], True)
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self.rank = communicator.rank
        self.size = communicator.size
        self.seconds = 0.0

    def _timed(self, call: Callable[[], T]) -> T:
        begin = time.perf_counter()
        try:
            return call()
        finally:
            self.seconds += time.perf_counter() - begin

    def allgather(self, array: Array) -> list[Array]:
        """Return the arrays of all ranks, in their order."""
        return self._timed(lambda: self.communicator.allgather(array))

    def start_allreduce(self, buffer: Array) -> Handle:
        """Begin to replace a buffer by its sum over all ranks."""
        return TimedHandle(self, self._timed(lambda: self.communicator.start_allreduce(buffer)))

    def broadcast(self, array: Array) -> None:
        """Replace the values of an array by those of rank 0."""
        self._timed(lambda: self.communicator.broadcast(array))

    def barrier(self, timeout: float | None = None) -> None:
        """Wait until all ranks have come here."""
        self._timed(lambda: self.communicator.barrier(timeout))


class TimedHandle:
    """A handle of a `Timed`."""

    def __init__(self, timed: Timed, handle: Handle) -> None:
        self._timed = timed
        self._handle = handle

    def test(self) -> bool:
        """Help it on, and tell whether it is done."""
        return self._timed._timed(self._handle.test)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is done."""
        self._timed._timed(lambda: self._handle.wait(timeout))


def broadcast_bytes(communicator: Communicator, content: bytes | None) -> bytes:
    """Return the bytes of rank 0; those of the others do not matter."""
    length = np.array([len(content or b"")], np.int64)
    communicator.broadcast(length)
    buffer = np.empty(int(length[0]), np.uint8)
    if communicator.rank == 0 and content:
        buffer[:] = np.frombuffer(content, np.uint8)
    communicator.broadcast(buffer)
    return buffer.tobytes()


def gather_rows(communicator: Communicator, array: Array) -> Array:
    """Return the rows of all ranks below one another; their numbers may differ."""
    counts = [int(c[0]) for c in communicator.allgather(np.array([len(array)], np.int64))]
    padded = np.zeros((max(counts), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    parts = communicator.allgather(padded)
    return np.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)])

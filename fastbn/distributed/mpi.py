"""A communicator on MPI that never waits without end.

Every operation is begun, and then asked whether it is done, with pauses in between: MPI's own waits
spin, which takes the core from a rank that has to compute, and end only with the process. Whoever
has waited for most of the timeout asks all others whether they are there; those that are in a wait
of their own answer. Who has not answered in the end is dead, hangs, or computes for too long.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.distributed import library
from fastbn.distributed.communicator import Handle, RankError

Array = NDArray[Any]

TIMEOUT = 60.0  # seconds
SPIN = 1e-3  # seconds of asking again and again; what is awaited mostly comes sooner
YIELDING = 2e-3  # until then others, who may be awaited, get the core between two questions
LONGEST_PAUSE = 5e-3
ANSWERING = 0.25  # the last part of a timeout, in which others are asked, ...
LONGEST_ANSWERING = 5.0  # ... at most so many seconds
ASK, ANSWER, FAILED = 1, 2, 3  # tags


class MPICommunicator:
    """Connects the ranks of an MPI job; needs the extra ``mpi``.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        By default all processes of the job. It is duplicated, so that others' messages are theirs.
    timeout : float, default 60
        Seconds after which a rank that is waited for counts as lost. It has to be longer than
        anything that one rank does by itself, such as to write a checkpoint.

    Attributes
    ----------
    rank, size : int
    hosts : list of str
        Where the ranks run.
    local_size : int
        How many of them run on this machine.

    Raises
    ------
    ImportError
        If mpi4py or an MPI library is missing.
    RuntimeError
        If the processes were started by another MPI, so that none knows of the others.
    """

    def __init__(self, comm: Any = None, *, timeout: float = TIMEOUT) -> None:
        if not timeout > 0.0:
            raise ValueError(f"timeout should be above 0 seconds, got {timeout}")
        self._mpi = library.load()
        started = library.size_of_this_job()
        if comm is None and started is not None and started != self._mpi.COMM_WORLD.Get_size():
            raise RuntimeError(
                f"this is one of {started} processes, but MPI connects "
                f"{self._mpi.COMM_WORLD.Get_size()}: they were started by another MPI than mpi4py "
                "uses; start them by its own mpiexec (srun may need --mpi=pmix or --mpi=pmi2)"
            )
        self._comm = (self._mpi.COMM_WORLD if comm is None else comm).Dup()
        self._control = self._comm.Dup()
        self.timeout = timeout
        self._answers: set[int] = set()
        self._sent: list[Any] = []  # requests of messages to others, until they are gone
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        told = self._comm.allgather((socket.gethostname(), os.getpid()))
        self.hosts: list[str] = [host for host, _ in told]
        self.processes: list[int] = [process for _, process in told]
        self.local_size = self.hosts.count(self.hosts[self.rank])
        self._spin = SPIN if self.local_size <= _cores() else 0.0

    # --- what a Communicator has ------------------------------------------------------------

    def allgather(self, array: Array) -> list[Array]:
        """Return the arrays of all ranks, in their order."""
        own = np.ascontiguousarray(array)
        parts = np.empty((self.size, *own.shape), own.dtype)
        self._wait(self._comm.Iallgather(_bytes(own), _bytes(parts)), None)
        return list(parts)

    def start_allreduce(self, buffer: Array) -> Handle:
        """Begin to replace a buffer by its sum over all ranks, the same bits on each."""
        if buffer.dtype not in (np.float32, np.float64) or not buffer.flags.c_contiguous:
            raise TypeError(f"expected a contiguous float32 or float64 buffer, got {buffer.dtype}")
        return MPIHandle(self, self._comm.Iallreduce(self._mpi.IN_PLACE, buffer))

    def broadcast(self, array: Array) -> None:
        """Replace the values of a contiguous array by those of rank 0."""
        self._wait(self._comm.Ibcast(_bytes(array)), None)

    def barrier(self, timeout: float | None = None) -> None:
        """Wait until all ranks have come here."""
        self._wait(self._comm.Ibarrier(), timeout)

    def exchange(self, value: Any) -> list[Any]:
        """Return a picklable value of every rank, in their order."""
        gathered: list[Any] = self._comm.allgather(value)
        return gathered

    # --- the end of a job -------------------------------------------------------------------

    def fail(self, message: str) -> None:
        """Tell all others that this rank cannot go on, and why: their waits raise RankError."""
        self._tell(FAILED, message)
        self._control.Iprobe()  # lets MPI send it

    def abort(self, code: int) -> None:
        """End all processes of the job, with this exit code; does not return."""
        self._comm.Abort(code)

    # --- waiting ----------------------------------------------------------------------------

    def _wait(self, request: Any, timeout: float | None) -> None:
        if request.Test():
            return
        begin = time.perf_counter()
        limit = self.timeout if timeout is None else timeout
        asking = limit - min(limit * ANSWERING, LONGEST_ANSWERING)
        asked = False
        while not request.Test():
            waited = time.perf_counter() - begin
            if waited < self._spin:
                continue
            if waited < YIELDING:
                _yield()
                continue
            self._serve()
            if waited > asking and not asked:
                asked = True
                self._answers = {self.rank}
                self._tell(ASK, None)
            if waited > limit:
                raise self._lost(waited)
            time.sleep(min(max(waited / 200.0, 2e-5), LONGEST_PAUSE))

    def _serve(self) -> None:
        """Answer those who ask, and take note of answers and failures."""
        status = self._mpi.Status()
        while self._control.Iprobe(status=status):
            source, tag = status.Get_source(), status.Get_tag()
            message = self._control.recv(source=source, tag=tag)
            if tag == ASK:
                self._sent.append(self._control.isend(None, source, ANSWER))
            elif tag == ANSWER:
                self._answers.add(source)
            else:
                raise RankError(f"{self.name(source)} failed: {message}", (source,), True)
        self._sent = [request for request in self._sent if not request.Test()]

    def _tell(self, tag: int, message: Any) -> None:
        for other in range(self.size):
            if other != self.rank:
                self._sent.append(self._control.isend(message, other, tag))

    def _lost(self, waited: float) -> RankError:
        silent = tuple(rank for rank in range(self.size) if rank not in self._answers)
        if not silent:
            return RankError(
                f"all ranks wait, but not for the same, since {waited:.0f} s: they must make the "
                "same calls in the same order"
            )
        names = ", ".join(map(self.name, silent))
        verb = "does" if len(silent) == 1 else "do"
        return RankError(f"{names} {verb} not answer, since {waited:.0f} s", silent)

    def name(self, rank: int) -> str:
        """Return what messages call a rank: its number, process and machine."""
        return f"rank {rank} (process {self.processes[rank]} on {self.hosts[rank]})"


class MPIHandle:
    """An operation of an `MPICommunicator` that goes on."""

    def __init__(self, communicator: MPICommunicator, request: Any) -> None:
        self._communicator = communicator
        self._request = request

    def test(self) -> bool:
        """Help it on, and tell whether it is done."""
        return bool(self._request.Test())

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is done."""
        self._communicator._wait(self._request, timeout)


def _bytes(array: Array) -> Array:
    """Return the memory of a contiguous array as what every MPI takes, whatever its dtype."""
    if not array.flags.c_contiguous:
        raise TypeError("expected a contiguous array")
    return array.reshape(-1).view(np.uint8)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _yield() -> None:
    """Let others have the core for a moment."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()
    else:
        time.sleep(0)

"""Several processes for a command: started here, or found under mpiexec.

Each rank runs below a process that waits for it and nothing else: where a rank is killed, that one
says which and ends the job, for those who wait for its messages cannot know. The exit code of the
whole is that of rank 0, and 4 where a rank was lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from fastbn.cli import watch
from fastbn.cli.errors import INTERRUPTED, LOST, exit_code, one_line

if TYPE_CHECKING:
    from fastbn.distributed import MPICommunicator
    from fastbn.train.config import Config

TERMINAL = "FASTBN_TERMINAL"  # set where mpiexec was started from a terminal, by `start`
SUPERVISED = "FASTBN_SUPERVISED"  # set for the ranks themselves
PROGRAM = (sys.executable, "-c", "from fastbn.cli import main; main()")
TERMINATED = 128 + signal.SIGTERM
KNOWN_CODES = (0, 1, 2, 3, LOST, INTERRUPTED, TERMINATED)
TURN = 1.0  # seconds that a rank leaves to rank 0, which may have the same to say
UNREAD, ON_THE_WAY = 1.0, 0.1  # seconds, at most and always, for what was said to be shown
AT_THE_END = 3600.0  # seconds for what rank 0 does alone
GOES_ON = "the same command continues from the last checkpoint"
PR_SET_PDEATHSIG = 1


def start(processes: int) -> int:
    """Run this very command line in this many processes; return its exit code."""
    from fastbn.distributed import library

    command = [str(library.mpiexec()), "-n", str(processes), *PROGRAM, *sys.argv[1:]]
    shown = {}
    if sys.stderr.isatty():  # which is not what rank 0 writes to: mpiexec reads that
        size = shutil.get_terminal_size()
        shown = {TERMINAL: "1", "FORCE_COLOR": "1", "COLUMNS": str(size.columns)}
    # mpiexec hands SIGINT on to the ranks, which write a checkpoint; at SIGTERM it kills them.
    forwarded = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGINT}
    environment = {**os.environ, **shown}
    code, received = _wait_for(command, forwarded, env=environment, stdin=subprocess.DEVNULL)
    if code and signal.SIGTERM in received:
        return TERMINATED
    if code not in KNOWN_CODES:
        print(f"fastbn: error: a rank was lost: mpiexec ended with {code}", file=sys.stderr)
        return LOST
    return code


def in_a_terminal() -> bool:
    """Tell whether somebody looks at what this process, or rank 0 of its job, shows."""
    return sys.stderr.isatty() or TERMINAL in os.environ


def supervise() -> None:
    """Return in the rank itself; the process that was started waits for it."""
    if not watch.enabled or os.environ.get(SUPERVISED) or os.name != "posix":
        return
    forwarded = {number: number for number in (signal.SIGINT, signal.SIGTERM)}
    environment = {**os.environ, SUPERVISED: "1"}
    code, _ = _wait_for([*PROGRAM, *sys.argv[1:]], forwarded, env=environment, close_fds=False)
    if code >= 0:
        sys.exit(code)
    from fastbn.distributed import library

    name = f"rank {library.rank_of_this_process()} (on {socket.gethostname()})"
    how = signal.Signals(-code).name
    print(f"fastbn: error: {name} was ended by {how}; {GOES_ON}", file=sys.stderr, flush=True)
    _until_read()
    library.abort(LOST)
    sys.exit(LOST)


def _wait_for(
    command: list[str], forwarded: dict[signal.Signals, signal.Signals], **options: Any
) -> tuple[int, list[int]]:
    """Run a command, hand signals on to it; return its exit code, and what came."""
    received: list[int] = []
    process = subprocess.Popen(
        command,
        process_group=0,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 – this process has no threads
        **options,
    )

    def forward(number: int, _: object) -> None:
        received.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, forwarded[signal.Signals(number)])

    for number in forwarded:
        signal.signal(number, forward)
    return process.wait(), received


def _die_with_parent() -> None:
    """On Linux, leave no process behind whose parent was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# --- in a rank ------------------------------------------------------------------------------


def in_ranks(timeout: float, go: Callable[[MPICommunicator], int]) -> int:
    """Do the work of a rank, and see to it that all of them end alike.

    Parameters
    ----------
    timeout : float
        Seconds after which a rank that is waited for counts as lost.
    go : callable
        Returns the exit code, the same on all ranks.
    """
    supervise()
    from fastbn.distributed import MPICommunicator, RankError

    communicator = MPICommunicator(timeout=timeout)
    try:
        code = go(communicator)
        communicator.barrier(max(timeout, AT_THE_END))
        return code
    except RankError as error:
        others = set(range(communicator.size)) - set(error.ranks)
        if not error.failed and communicator.rank == min(others, default=0):
            _say(f"{error}; {GOES_ON}")
        else:
            time.sleep(2 * TURN)  # who has failed, or speaks for all, ends the job
        _end(communicator, LOST)
    except KeyboardInterrupt:
        _end(communicator, INTERRUPTED)
    except Exception as error:
        if communicator.rank:
            time.sleep(TURN)
        if "--debug" in sys.argv:
            traceback.print_exc()
        _say(
            f"rank {communicator.rank}: {one_line(error)}" if communicator.rank else one_line(error)
        )
        _end(communicator, exit_code(error))


def _say(message: str) -> None:
    print(f"fastbn: error: {message}", file=sys.stderr, flush=True)


def _end(communicator: MPICommunicator, code: int) -> NoReturn:
    """End the job; what MPI says of that is not shown, the message has been."""
    from fastbn.distributed import library

    _until_read()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    library.abort(code)
    communicator.abort(code)
    os._exit(code)


def _until_read() -> None:
    """Wait until mpiexec has read what this process said: it drops the rest as it ends a job."""
    deadline = time.monotonic() + UNREAD
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        while _unread_bytes(stream.fileno()) and time.monotonic() < deadline:
            time.sleep(0.01)
    time.sleep(ON_THE_WAY)


def _unread_bytes(descriptor: int) -> int:
    if os.name != "posix" or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return 0
    import fcntl
    import termios

    answer = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def same_config(communicator: MPICommunicator, make: Callable[[], Config]) -> Config:
    """Return the arguments that rank 0 has; the others may lie on machines without its files."""
    from fastbn.distributed.communicator import broadcast_bytes
    from fastbn.train import config as configs

    told = json.dumps(asdict(make())) if communicator.rank == 0 else ""
    values = json.loads(broadcast_bytes(communicator, told.encode()))
    return configs.from_values({k: v for k, v in values.items() if v is not None}, "rank 0")


def threads_of_a_rank(communicator: MPICommunicator) -> int:
    """Return this rank's share of the cores that the ranks of a machine have together.

    ``OMP_NUM_THREADS`` is taken as it is; so are the cores of a rank that mpiexec has bound to its
    own. Affinity and the cgroup's quota are what a process alone would see.
    """
    import fastbn

    own = fastbn.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:
        return own
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    told = communicator.exchange((communicator.hosts[communicator.rank], cores))
    sharing = told.count((communicator.hosts[communicator.rank], cores))
    return max(1, own // sharing)


def introduce(communicator: MPICommunicator) -> str:
    """Return a line that says which processes there are."""
    hosts: dict[str, list[str]] = {}
    for host, process in zip(communicator.hosts, communicator.processes, strict=True):
        hosts.setdefault(host, []).append(str(process))
    where = "; ".join(f"{', '.join(processes)} on {host}" for host, processes in hosts.items())
    return f"{communicator.size} ranks, processes {where}"

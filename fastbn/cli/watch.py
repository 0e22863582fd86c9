"""A command on somebody else's file runs in a process of its own, and is stopped when it must be.

Parsers and runtimes written in C++ can neither be interrupted nor told how much they may allocate,
and a file can crash them. So the commands that hand files to them go on in a forked process before
anything heavy is imported; this one waits, and says in one line what went wrong.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from fastbn import budgets
from fastbn.cli.errors import INTERRUPTED, WRONG

P = ParamSpec("P")

MaxMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory that files may make this command use: 500MB, 4GB."),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(help="Seconds that files may make this command take.", min=0.1),
]

# How often memory and time are looked at, and the share of the time that must be work: a machine
# that is busy otherwise gets longer, up to PATIENCE times.
INTERVAL = 0.01
WORKING = 0.9
PATIENCE = 10.0

_FORWARDED = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if os.name == "posix" else []))
# What both processes see: the bytes of the files read, and whether only the last line is to come.
_SHARED = struct.Struct("q?")

# Whether this is the process of a command line, and not of a caller of `main`, who may have
# threads that a fork would lose.
enabled = False
_shared: mmap.mmap | None = None  # in the child


def settle() -> None:
    """Tell the process that waits to stop this one no more: it is about to say its last line."""
    if _shared is not None:
        _SHARED.pack_into(_shared, 0, _SHARED.unpack_from(_shared)[0], True)


def watched(*files: str) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Let a command run under the budgets of the files it reads; parameters name the main ones.

    The command gets the options ``--max-memory`` and ``--max-seconds``.
    """

    def decorate(command: Callable[P, int]) -> Callable[P, int]:
        signature = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            memory, seconds = kwargs.pop("max_memory", None), kwargs.pop("max_seconds", None)
            given = signature.bind(*args, **kwargs).arguments
            with limited(memory, seconds):  # type: ignore[arg-type]
                if enabled and hasattr(os, "fork"):
                    named = " and ".join(str(given[name]) for name in files if given.get(name))
                    _go_on_in_a_child(named)
                return command(*args, **kwargs)

        return _with_options(run, signature, {"max_memory": MaxMemory, "max_seconds": MaxSeconds})

    return decorate


def takes_memory(command: Callable[P, int]) -> Callable[P, int]:
    """Give a command the option ``--max-memory``, for what its files may unpack to."""
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        memory = kwargs.pop("max_memory", None)
        with limited(memory):  # type: ignore[arg-type]
            return command(*args, **kwargs)

    return _with_options(run, signature, {"max_memory": MaxMemory})


def _with_options(
    run: Callable[P, int], signature: inspect.Signature, options: dict[str, Any]
) -> Callable[P, int]:
    """Let typer see more parameters than the command itself has."""
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in options.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
    return run


def limited(
    memory: str | None, seconds: float | None = None
) -> contextlib.AbstractContextManager[object]:
    """Allow what the options say."""
    try:
        size = None if memory is None else budgets.parse_bytes(memory)
    except ValueError as error:
        raise typer.BadParameter(f"--max-memory: {error}") from None
    return budgets.limits(size, seconds)


def _go_on_in_a_child(named: str) -> None:
    """Return in a new process; this one ends with its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    shared = mmap.mmap(-1, _SHARED.size)
    child = os.fork()
    if child == 0:
        global _shared
        _shared, sizes = shared, dict[str, int]()

        def listen(path: str, found: int) -> None:
            sizes[path] = found
            _SHARED.pack_into(shared, 0, sum(sizes.values()), False)

        budgets.listener = listen
        return
    message, interrupted = "", False
    try:
        message = _wait(child, shared)
    except KeyboardInterrupt:  # the child has got it, too
        interrupted = True
    finally:
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if interrupted and code:  # whatever the interrupt was turned into on its way
        sys.exit(INTERRUPTED)
    if not message and code < 0 and -code not in _FORWARDED:
        message = f"the process that read it was ended by {signal.Signals(-code).name}"
    if message:
        print(f"fastbn: error: {named}: {message}", file=sys.stderr)
        sys.exit(WRONG)
    sys.exit(code if code >= 0 else 128 - code)


def _wait(child: int, shared: mmap.mmap) -> str:
    """Wait for the end of a process, and bring it about if it takes too much; say of what."""
    for number in _FORWARDED:
        if number != signal.SIGINT:
            signal.signal(number, lambda number, _: os.kill(child, number))
    start = time.monotonic()
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(INTERVAL)
        read, settled = _SHARED.unpack_from(shared)
        if settled:
            continue
        memory = budgets.allowed_memory(read, budgets.PROCESS)
        seconds = budgets.allowed_seconds(read)
        elapsed = time.monotonic() - start
        if elapsed > seconds * PATIENCE or (
            elapsed > seconds and _cpu_seconds(child) > seconds * WORKING
        ):
            took, option = f"{seconds:.3g} seconds", "--max-seconds"
        elif _resident(child) > memory:
            took, option = f"{budgets.as_text(memory)} of memory", "--max-memory"
        else:
            continue
        os.kill(child, signal.SIGKILL)
        return f"takes more than {took}; raise that with {option} if you trust the file"
    return ""


def _resident(process: int) -> int:
    """Bytes of memory that a process holds; 0 where the system does not tell."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _cpu_seconds(process: int) -> float:
    """Seconds that a process has worked; endless where the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2]
    except OSError:
        return float("inf")
    user, system = fields.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

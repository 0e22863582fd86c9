"""The near end of a peer: start its process, ask it, end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from fastbn.bench.peers import TITLES


class PeerError(RuntimeError):
    """A peer's process ended, or could not do what it was asked."""


class Worker:
    """A peer's process.

    Parameters
    ----------
    peer : str
        Which library, as in `peers.TITLES`.
    suite : str
        What it is asked for: ``"kernels"`` or ``"train"``.
    threads : int
        Size of its pool.
    """

    def __init__(self, peer: str, suite: str, threads: int) -> None:
        self.title = TITLES.get(peer, peer)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastbn.bench.peers.worker", peer, suite, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def ask(
        self, what: str, *, patience: float | None = None, **arguments: Any
    ) -> Mapping[str, Any]:
        """Let the peer do something, and wait for it asleep.

        Raises
        ------
        PeerError
            If it could not; the last line that the process wrote to stderr is in the message. Or if
            it took more than `patience` seconds: then its process was ended.
        """
        if patience is None:
            return self._ask(what, arguments)
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        clock = threading.Timer(patience, give_up)
        clock.start()
        try:
            return self._ask(what, arguments)
        except PeerError as error:
            if late.is_set():
                raise PeerError(f"{self.title}: no answer within {patience:g} s") from error
            raise
        finally:
            clock.cancel()

    def _ask(self, what: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = json.dumps({"do": what, **arguments}) + "\n"
        try:
            self._process.stdin.write(message.encode())
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise PeerError(f"{self.title}: the process ended: {' '.join(last) or 'no message'}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise PeerError(f"{self.title}: {reply['error']}")
        return reply

    def turn(self, backwards: bool) -> Mapping[str, float]:
        """Let it take one sample of every call of the case that is open."""
        times: Mapping[str, float] = self.ask("turn", backwards=backwards)["times"]
        return times

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

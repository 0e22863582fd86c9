"""A peer's process: ``python -m fastbn.bench.peers.worker PEER SUITE THREADS``.

It reads a message a line (JSON) from stdin and answers each with a line on stdout: ``open`` makes
the calls of a case and tells digests of what they return, ``turn`` takes a sample of each. What
the libraries print goes to stderr. It ends with stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

from fastbn.bench.timing import Call, Local


class Suite(Protocol):
    """What the class of this name in a module ``PEER_SUITE`` does; it takes `threads`."""

    def calls(self, **case: Any) -> dict[str, Call]:
        """Return what is timed, by name."""

    def summary(self, result: Any) -> Any:
        """Sum up what a call returned, in a way that does not depend on the layout."""


def answer(suite: Suite, messages: TextIO, write: Callable[[str], object]) -> None:
    """Answer messages until there are none."""
    local: Local | None = None
    for line in messages:
        message = json.loads(line)
        what = message.pop("do")
        reply: Mapping[str, Any]
        try:
            if what == "open":
                local = None  # frees the arrays of the case before
                seconds = message.pop("seconds")
                calls = suite.calls(**message)
                digests = {name: suite.summary(call()) for name, call in calls.items()}
                local = Local(calls, seconds)
                reply = {"digests": digests}
            elif what == "turn" and local is not None:
                reply = {"times": local.turn(**message)}
            else:
                reply = {"error": f"unexpected message {what!r}"}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        write(json.dumps(reply) + "\n")


def main(peer: str, suite: str, threads: int) -> None:
    """Serve stdin and stdout."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        module: Any = importlib.import_module(f"fastbn.bench.peers.{peer}_{suite}")
        offered = module.Suite(threads)

        def write(text: str) -> None:
            replies.write(text)
            replies.flush()

        answer(offered, sys.stdin, write)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""A peer's process: ``python -m fastbn.bench.peers.worker PEER SUITE THREADS``.

It reads a message a line (JSON) from stdin, ``{"do": "turn", ...}``, calls that method of its suite
with the other fields, and answers each with a line on stdout. What the libraries print goes to
stderr. It ends with stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any


def answer(suite: object, messages: Iterable[str], write: Callable[[str], object]) -> None:
    """Answer messages until there are none."""
    for line in messages:
        message = json.loads(line)
        try:
            reply = getattr(suite, message.pop("do"))(**message)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
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

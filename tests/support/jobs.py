"""Jobs of several processes: they end by themselves, in time, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

SECONDS = 100  # for a job that takes a few where nobody else computes

Done = subprocess.CompletedProcess[str]
Job = Callable[..., Done]


def finished(command: list[str], **variables: str) -> Done:
    """Run a command to its end; whatever it has started is gone afterwards."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Done(command, process.returncode, out, err)

"""Public operations survive any arguments; see ``fuzz_arguments.py``, which this runs for a while.

``FASTBN_FUZZ_SECONDS`` says for how long (5 by default), ``FASTBN_FUZZ_SEED`` where it begins.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fuzz_arguments
import pytest

from fastbn import functional as F

SECONDS = float(os.environ.get("FASTBN_FUZZ_SECONDS", "5"))
SEED = os.environ.get("FASTBN_FUZZ_SEED", "0")


def test_every_operation_is_called() -> None:
    pairs = {name for name in dir(F) if hasattr(F, f"{name}_backward")}
    assert set(fuzz_arguments.OPERATIONS) == pairs | {"add"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect and limits of memory")
def test_random_arguments() -> None:
    script = Path(__file__).with_name("fuzz_arguments.py")
    command = [sys.executable, str(script), "--seconds", str(SECONDS), "--seed", SEED]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    last = run.stdout.replace("\r", "\n").split("\n")[-2:]
    assert run.returncode == 0, f"call {last} ended with {run.returncode}: {run.stderr[-3000:]}"

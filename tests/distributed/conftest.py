from __future__ import annotations

import sys
from pathlib import Path

import pytest
from jobs import Done, Job, finished

from fastbn.distributed import library


@pytest.fixture(scope="session")
def mpiexec() -> Path:
    pytest.importorskip("mpi4py", reason="several processes need the extra mpi")
    try:
        library.load()
        return library.mpiexec()
    except (ImportError, FileNotFoundError) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def job(mpiexec: Path) -> Job:
    """Return what runs a Python program on so many ranks of one thread."""

    def run(ranks: int, *arguments: str) -> Done:
        return finished([str(mpiexec), "-n", str(ranks), sys.executable, *arguments])

    return run

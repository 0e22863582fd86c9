"""Where MPI is: that of the machine, or the wheel that the extra ``mpi`` installs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType

WHEEL = "mpich"
REMEDY = 'pip install "fastbn[mpi]", or mpi4py beside the MPI of your cluster'

# What process managers tell the processes that they start.
RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def load() -> ModuleType:
    """Import and return ``mpi4py.MPI``, which connects this process with the others.

    Raises
    ------
    ImportError
        If mpi4py or an MPI library is missing.
    """
    library = _in_wheel("libmpi.so.12")
    if library is not None and not (Path(sys.prefix) / "lib" / library.name).exists():
        os.environ.setdefault("MPI4PY_LIBMPI", str(library))  # it looks under sys.prefix alone
    try:
        return importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py found no MPI library
        reason = str(error).splitlines()[0]
        raise ImportError(f"several processes need MPI ({reason}): {REMEDY}") from None


def mpiexec() -> Path:
    """Return the program that starts the processes of a job.

    Raises
    ------
    ImportError, FileNotFoundError
        If mpi4py is missing, or there is no such program.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise ImportError(f"several processes need mpi4py: {REMEDY}")
    found = _in_wheel("mpiexec") or shutil.which("mpiexec")
    if found is None:
        raise FileNotFoundError(f"there is no mpiexec to start several processes with: {REMEDY}")
    return Path(found)


def rank_of_this_process() -> int | None:
    """Return what the process manager calls this process, without MPI; None where it is alone."""
    for name in RANK_VARIABLES:
        if name in os.environ:
            return int(os.environ[name])
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return int(os.environ["SLURM_PROCID"])
    return None


def size_of_this_job() -> int | None:
    """Return how many processes there are, without MPI; None where nobody tells."""
    return next((int(os.environ[name]) for name in SIZE_VARIABLES if name in os.environ), None)


def abort(code: int) -> None:
    """Ask the process manager to end the job with this exit code, connected to the others or not.

    In words of PMI-1, MPICH's; returns where another one manages the job, which sees how its
    processes end.
    """
    if "PMI_FD" in os.environ:
        os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={code}\n".encode())
        time.sleep(2.0)  # to be ended


def _in_wheel(name: str) -> Path | None:
    try:
        files = metadata.files(WHEEL) or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(os.path.normpath(str(entry.locate()))) for entry in files if entry.name == name]
    return next((path for path in found if path.is_file()), None)

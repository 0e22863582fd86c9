"""Ranks that are killed, stopped or cannot write end the job in time, with a message and code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import SECONDS, finished

PROGRAM = (sys.executable, "-c", "from fastbn.cli import main; main()")
TIMEOUT = 4


def command(folder: Path, *more: str) -> list[str]:
    return [*PROGRAM, "train", "mlp", "--data", "digits", "-o", str(folder), "--save-every", "5",
            "--timeout", str(TIMEOUT), *more]  # fmt: skip


class Running:
    """A training run of several ranks that has written a checkpoint."""

    def __init__(self, line: list[str], folder: Path) -> None:
        self.process = subprocess.Popen(
            line,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        assert "processes" in first, first + self.process.stderr.read()
        self.ranks = [int(n) for n in re.findall(r"\d+", first.partition("processes")[2])]
        deadline = time.monotonic() + SECONDS
        while not (folder / "last.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        """Return exit code and messages, when no rank is left."""
        try:
            _, err = self.process.communicate(timeout=SECONDS)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(map(is_there, self.ranks)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_there, self.ranks))
        return self.process.returncode, err


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("number", "bare"), [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGSTOP, True)]
)
def test_lost_rank(mpiexec: Path, tmp_path: Path, number: signal.Signals, bare: bool) -> None:
    folder = tmp_path / "run"
    line = command(folder, "--epochs", "500")
    if bare:
        line = [str(mpiexec), "-n", "2", *line]
    else:
        line += ["--processes", "2"]
    run = Running(line, folder)
    begin = time.monotonic()
    os.kill(run.ranks[1], number)
    code, err = run.end()
    assert code == 4, err
    assert "fastbn: error: rank 1 " in err
    assert err.count("error") == 1
    assert "the same command continues" in err
    if number == signal.SIGKILL:
        assert time.monotonic() - begin < SECONDS / 2  # nobody waits for the dead


def test_same_command_goes_on(mpiexec: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    line = command(folder, "--epochs", "2", "--processes", "2")
    run = Running(line, folder)
    os.kill(run.ranks[0], signal.SIGKILL)
    assert run.end()[0] == 4
    again = finished(line)
    assert again.returncode == 0, again.stderr
    whole = finished(command(tmp_path / "whole", "--epochs", "2", "--processes", "2"))
    assert whole.returncode == 0, whole.stderr
    reports = [
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("run", "whole")
    ]
    assert [row["loss"] for row in reports[0]["history"]] == [
        row["loss"] for row in reports[1]["history"]
    ]
    assert len(reports[0]["ranks"][-1]["seconds"]) == 2
    third = finished(line)
    assert third.returncode == 2
    assert "--resume" in third.stderr
    assert third.stderr.count("error") == 1


def test_interrupt_writes_a_checkpoint(mpiexec: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = Running(command(folder, "--epochs", "500", "--processes", "2"), folder)
    run.process.send_signal(signal.SIGTERM)
    code, err = run.end()
    assert code == 143, err
    assert "--resume" in err


def test_full_disk_on_rank_0(mpiexec: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    program = tmp_path / "full.py"
    program.write_text(
        "import os\n"
        "from fastbn.cli import main\n"
        "from fastbn.train import checkpoint\n"
        "def save(trainer, path, **described):\n"
        "    raise OSError(28, 'No space left on device', str(path))\n"
        "checkpoint.save = save\n"
        "main()\n"
    )
    arguments = command(folder, "--epochs", "50")[len(PROGRAM) :]
    done = finished(
        [str(mpiexec), "-n", "2", sys.executable, str(program), *arguments], FASTBN_SUPERVISED="1"
    )
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert done.stderr.count("error") == 1
    assert not folder.exists()


def test_numbers_that_are_not_finite(mpiexec: Path, tmp_path: Path) -> None:
    done = finished(
        command(tmp_path / "run", "--optimizer", "sgd", "--lr", "1e38", "--processes", "2")
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("error") == 1
    assert "loss of rank" in done.stderr


def test_mpiexec_of_another_mpi(mpiexec: Path, tmp_path: Path) -> None:
    done = finished(command(tmp_path / "run"), OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="4")
    assert done.returncode == 2
    assert "one of 4 processes, but MPI connects 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_wrong_use_is_told_once(mpiexec: Path, tmp_path: Path) -> None:
    done = finished(command(tmp_path / "run", "--set", "hiden=3", "--processes", "3"))
    assert done.returncode == 2
    assert done.stderr.count("error") == 1
    assert "did you mean 'hidden'" in done.stderr

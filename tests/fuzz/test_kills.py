"""Training, killed at any instant: the folder holds one whole run, and the next one cleans up.

A few kills by default; ``FASTBN_FUZZ_KILLS=200`` makes so many, ``FASTBN_FUZZ_SEED=1`` at others.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import tomllib
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from fastbn import cli, train

KILLS = int(os.environ.get("FASTBN_FUZZ_KILLS", "6"))
SEED = int(os.environ.get("FASTBN_FUZZ_SEED", "0"))

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
WEIGHTS, LAST, CONFIG = "model.safetensors", "last.safetensors", "config.toml"


def start(folder: Path, hidden: int) -> BaseProcess:
    """Train in a new process, a network whose weights have `hidden` rows."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastbn.cli", "fastbn.train.run", "sklearn.datasets"])
    arguments = ["train", "mlp", "--data", "digits", "--epochs", "2", "--save-every", "7"]
    arguments += ["--set", f"hidden={hidden}", "-o", str(folder), "--overwrite", "--quiet"]
    process = context.Process(target=cli.main, args=(arguments,))
    process.start()
    return process


def holds(folder: Path) -> int:
    """Check that a folder is one run which can be resumed; return which one."""
    hidden = int(np.atleast_1d(tomllib.loads((folder / CONFIG).read_text())["set"]["hidden"])[0])
    state, _ = train.read(folder / LAST)
    sizes = {array.shape[0] for name, array in state.items() if name.endswith("1.weight")}
    assert hidden in sizes
    if (folder / WEIGHTS).exists():
        net = train.load(folder / WEIGHTS)
        assert net.state_dict()["1.weight"].shape[0] == hidden
    return hidden


def litter(folder: Path) -> list[str]:
    """Names of temporaries in a folder and beside it."""
    return [p.name for p in folder.parent.rglob("*") if p.name.endswith(".fastbn.tmp")]


def test_a_killed_run_leaves_a_whole_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    folder = tmp_path / "run"
    whole = start(folder, hidden=16)
    whole.join()
    assert whole.exitcode == 0
    begin = time.monotonic()
    whole = start(folder, hidden=16)
    whole.join()
    seconds = time.monotonic() - begin
    before = holds(folder)
    replaced = 0
    for number in range(KILLS):
        hidden = 17 + number
        process = start(folder, hidden)
        process.join(rng.uniform(0, 1.1 * seconds))
        process.kill()
        process.join()
        found = holds(folder)
        assert found in (before, hidden)
        replaced += found == hidden
        before = found
    last = start(folder, hidden=16)
    last.join()
    assert last.exitcode == 0
    assert holds(folder) == 16
    assert litter(folder) == []
    assert replaced > 0

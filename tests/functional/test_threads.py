"""Threads and instruction sets: the same bits for every number of threads, and after a fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import LARGE

import fastbn
from fastbn import functional as F
from fastbn.kernels import runtime

TASKS = Path("/proc/self/task")  # the threads of this process, on Linux
BATTERY = Path(__file__).parents[1] / "support" / "battery.py"
# Sums of some thousand terms, in float32 and in float64.
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}


def run(arguments: list[str], **environment: str) -> str:
    """Run Python in a process of its own; return what it printed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    # Four threads may stand on fewer cores: they should not wait by spinning.
    done = subprocess.run(
        [sys.executable, *arguments],
        env=clean | {"OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(BATTERY.parent)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_level_is_right_and_independent_of_threads(isa_level: str) -> None:
    seen = json.loads(run([str(BATTERY)], FASTBN_ISA=isa_level))
    assert seen["isa"] == isa_level
    assert len(seen["errors"]) == 2 * len(LARGE)
    assert not seen["different"], "other bits for another number of threads"
    wrong = {
        name: found
        for name, found in seen["errors"].items()
        if not found < TOLERANCE[name.split()[-1]]
    }
    assert not wrong


def test_unknown_level_is_refused() -> None:
    with pytest.raises(AssertionError, match="FASTBN_ISA='mmx' is not one of"):
        run(["-c", "import fastbn"], FASTBN_ISA="mmx")


@pytest.mark.skipif(not runtime.has_openmp, reason="this build has no OpenMP")
def test_number_of_threads(n_threads: int, set_threads: Any) -> None:
    set_threads(n_threads)
    assert fastbn.get_num_threads() == n_threads
    for wrong in (0, -1, 10**6):
        with pytest.raises(ValueError, match="set_num_threads"):
            set_threads(wrong)
    for wrong in (2.0, "2", None, True):
        with pytest.raises(TypeError, match="set_num_threads"):
            set_threads(wrong)
    assert fastbn.get_num_threads() == n_threads


@pytest.mark.skipif(
    not (runtime.has_openmp and TASKS.exists()),
    reason="this build has no OpenMP, or this system does not list threads",
)
def test_threads_live_on_whatever_the_number_of_tasks(set_threads: Any) -> None:
    """Threads that end take what they had allocated with them."""
    set_threads(4)
    many, few = (np.ones(chunks * 16384, np.float32) for chunks in (64, 3))
    F.relu(many)
    before = set(TASKS.iterdir())
    for _ in range(3):
        F.relu(few)
        F.relu(many)
    assert set(TASKS.iterdir()) == before


@pytest.mark.skipif(not runtime.has_openmp, reason="this build has no OpenMP")
def test_more_threads_than_there_are_parts_or_tasks(
    set_threads: Any, rng: np.random.Generator
) -> None:
    x = rng.standard_normal(70 * 16384 + 5).astype(np.float32)
    for size in (x.size, 3 * 16384):
        expected = np.maximum(x[:size], 0)
        for threads in (1, 3, 70):
            set_threads(threads)
            y, _ = F.relu(x[:size], out=np.full(size, np.nan, np.float32))
            np.testing.assert_array_equal(y, expected)


def test_more_threads_than_samples_and_more_samples_than_blocks(
    set_threads: Any, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((70, 56, 56, 64)).astype(np.float32)  # a sample has several chunks
    weight, bias = np.ones(64, np.float32), np.zeros(64, np.float32)
    found = []
    for threads in (1, 80):
        set_threads(threads)
        _, saved = F.group_norm(x, 8, weight, bias)
        found.append(F.group_norm_backward(x, saved))
    for one, many in zip(*found, strict=True):
        np.testing.assert_array_equal(one, many)


def test_python_threads_may_call_at_once(set_threads: Any, rng: np.random.Generator) -> None:
    """The GIL is released inside: four callers at once get what one gets."""
    from concurrent.futures import ThreadPoolExecutor

    set_threads(2)
    x = rng.standard_normal((400, 131)).astype(np.float32)

    def call(_: int) -> Any:
        y, saved = F.batch_norm(x, None, None, training=True)
        return y, F.batch_norm_backward(x, saved)[0]

    y, dx = call(0)
    with ThreadPoolExecutor(4) as pool:
        for y_other, dx_other in pool.map(call, range(40)):
            np.testing.assert_array_equal(y_other, y)
            np.testing.assert_array_equal(dx_other, dx)


FORK = """
import multiprocessing, os, sys
import numpy as np
import fastbn
from fastbn import functional as F

fastbn.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
weight = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)

def work(_):
    y, saved = F.batch_norm(x, None, None, training=True)
    dx, _, _ = F.batch_norm_backward(x, saved)
    z, _ = F.linear(x, weight)
    return y.tobytes(), dx.tobytes(), z.tobytes(), fastbn.get_num_threads()

before = work(0)                                # the pool is running now
child = os.fork()
if child == 0:
    after = work(0)
    try:
        fastbn.set_num_threads(2)
    except RuntimeError:
        os._exit(0 if after == (*before[:3], 1) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(4)) == [(*before[:3], 1)] * 4
assert work(0) == before                        # the parent keeps its threads
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(not runtime.has_openmp, reason="this build has no OpenMP")
def test_fork_after_a_parallel_region() -> None:
    assert run(["-c", FORK]) == "done\n"


@pytest.mark.parametrize(("value", "warnings"), [("1000", 1), ("abc", 0), ("0", 0), ("2", 0)])
def test_odd_numbers_of_threads_are_sensible(value: str, warnings: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import fastbn; print(fastbn.get_num_threads())"],
        env=os.environ | {"OMP_NUM_THREADS": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 1 <= int(done.stdout) <= max(64, 4 * (os.cpu_count() or 1))
    assert done.stderr.count("RuntimeWarning: OMP_NUM_THREADS asks for 1000") == warnings

"""Scaling over ranks: ``fastbn bench scale``.

Every figure is of a job of its own that trains on made-up samples; the jobs take turns for some
rounds. Strong scaling divides one batch among the ranks, weak scaling gives each a batch. Beside
them stands one process with as many threads. Where other programs compute, too, look at the
processor time of all ranks together: waiting does not count in it, and hardly any waits spin.

`predicted` is a model, and only that: computing as it was measured for a rank's part, messages by
latency and bandwidth between ranks of this machine (Thakur, Rabenseifner & Gropp 2005: reduction
and gathering in log₂ n rounds, 2 (n − 1) / n of the bytes through each wire).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table

from fastbn import nn
from fastbn.bench import networks
from fastbn.distributed import MPICommunicator, library
from fastbn.train import Callback, Trainer

WARM = 3  # steps before the first that counts
SECONDS = 600.0  # for a job
SMALL, LARGE = 64, 1 << 22  # bytes of messages whose time tells latency and bandwidth
MESSAGES = 30


@dataclass
class Row:
    """Medians over the rounds.

    Attributes
    ----------
    mode : str
        "strong", "weak" or "threads" (one process).
    ranks, threads, batch : int
        Threads of a rank; rows of all ranks together.
    ms : float
        A step.
    cpu_ms : float
        Processor time of a step, of all ranks together.
    images_per_second : float
    communication : float
        Share of the step in messages, waits for other ranks included.
    """

    mode: str
    ranks: int
    threads: int
    batch: int
    ms: float
    cpu_ms: float
    images_per_second: float
    communication: float


@dataclass
class Wire:
    """How fast messages between two ranks of this machine are: seconds, bytes a second."""

    latency: float
    bandwidth: float


class Clock(Callback):
    """Takes the times of every step."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float, float]] = []

    def on_step(self, trainer: Trainer) -> None:
        """Take wall time, processor time, and seconds in messages."""
        waiting = 0.0 if trainer.ranks is None else trainer.ranks.communicator.seconds
        self.ends.append((time.perf_counter(), time.process_time(), waiting))


# --- a rank ---------------------------------------------------------------------------------


def work(name: str, batch: int, steps: int) -> dict[str, float] | None:
    """Train, and return what a step takes; None of the ranks that are not the first."""
    network = networks.NETWORKS[name]
    net = network.make()
    rng = np.random.default_rng(0)
    rows = batch * (steps + WARM)
    x = rng.standard_normal((rows, *network.input_shape), np.float32)
    y = rng.integers(0, networks.CLASSES, rows)
    rank = library.rank_of_this_process()
    communicator = None if rank is None else MPICommunicator()
    trainer = Trainer(
        net, nn.CrossEntropyLoss(), network.make_optimizer(net), communicator=communicator
    )
    clock = Clock()
    trainer.fit((x, y), 1, batch, callbacks=[clock], rng=0, progress=False)
    wall, cpu, waiting = np.median(np.diff(clock.ends[WARM - 1 :], axis=0), axis=0)
    found = {"wall": float(wall), "cpu": float(cpu), "waiting": float(waiting)}
    if communicator is None:
        return found
    told = communicator.exchange(found)
    found["cpu"] = sum(each["cpu"] for each in told)
    found["waiting"] = float(np.mean([each["waiting"] for each in told]))
    if communicator.size > 1:
        found |= asdict(measure_wire(communicator))
    return found if communicator.rank == 0 else None


def measure_wire(communicator: MPICommunicator) -> Wire:
    """Return latency and bandwidth of the messages that training sends."""
    small, large = np.zeros(SMALL // 8), np.zeros(LARGE // 4, np.float32)
    latency = _median(lambda: communicator.allgather(small))
    seconds = _median(lambda: communicator.start_allreduce(large).wait())
    rounds = math.ceil(math.log2(communicator.size))
    share = 2.0 * (communicator.size - 1) / communicator.size
    return Wire(latency / rounds, share * LARGE / max(seconds - latency, 1e-9))


def _median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(MESSAGES):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


# --- all jobs -------------------------------------------------------------------------------


def measure(
    name: str,
    batch: int,
    ranks: Iterable[int],
    *,
    rounds: int = 5,
    steps: int = 10,
    progress: Callable[[str], object] = lambda _: None,
) -> tuple[list[Row], Wire | None]:
    """Run all jobs in turns.

    Parameters
    ----------
    name : str
        Of `fastbn.bench.networks`.
    batch : int
        Rows of a batch; in weak scaling, of each rank.
    ranks : iterable of int
        Numbers of ranks, each of one thread.
    rounds : int
        Jobs of each kind.
    steps : int
        Steps of a job that count.
    progress : callable
        Called with what runs.
    """
    counts = sorted(set(ranks))
    kinds: list[tuple[str, int, int, int]] = [("threads", 1, n, batch) for n in counts]
    kinds += [("strong", n, 1, batch) for n in counts]
    kinds += [("weak", n, 1, batch * n) for n in counts if n > 1]
    found: dict[tuple[str, int, int, int], list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind in kinds:
            mode, n, threads, rows = kind
            progress(f"round {number + 1} of {rounds}: {mode}, {n} ranks of {threads} threads")
            found[kind].append(_job(name, rows, steps, n, threads, mode != "threads"))
    rows_of = [_row(kind, jobs) for kind, jobs in found.items()]
    wires = [job for jobs in found.values() for job in jobs if "latency" in job]
    if not wires:
        return rows_of, None
    middle = {
        key: float(np.median([job[key] for job in wires])) for key in ("latency", "bandwidth")
    }
    return rows_of, Wire(**middle)


def _job(
    name: str, batch: int, steps: int, ranks: int, threads: int, connected: bool
) -> dict[str, float]:
    program = [sys.executable, "-m", "fastbn.bench.scale", name, str(batch), str(steps)]
    start = [str(library.mpiexec()), "-n", str(ranks)] if connected else []
    done = subprocess.run(
        [*start, *program],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"a job of {ranks} ranks ended with code {done.returncode}")
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _row(kind: tuple[str, int, int, int], jobs: list[dict[str, float]]) -> Row:
    mode, ranks, threads, batch = kind
    wall = float(np.median([job["wall"] for job in jobs]))
    cpu = float(np.median([job["cpu"] for job in jobs]))
    share = float(np.median([min(job["waiting"] / job["wall"], 1.0) for job in jobs]))
    return Row(mode, ranks, threads, batch, 1e3 * wall, 1e3 * cpu, batch / wall, share)


def scale_table(rows: Iterable[Row]) -> Table:
    """Return the figures as a table; efficiency is of one rank's speed, times their number."""
    table = Table(title="Ranks that share a batch (strong), or have one each (weak)")
    for head in ("", "ranks", "threads", "batch"):
        table.add_column(head)
    for head in ("ms", "images/s", "efficiency", "messages", "cpu ms"):
        table.add_column(head, justify="right")
    rows = list(rows)
    one = next((row for row in rows if row.mode == "strong" and row.ranks == 1), None)
    for row in rows:
        workers = row.ranks * row.threads
        share = (
            "" if one is None else f"{row.images_per_second / one.images_per_second / workers:.2f}"
        )
        table.add_row(
            row.mode, str(row.ranks), str(row.threads), str(row.batch), f"{row.ms:.1f}",
            f"{row.images_per_second:,.0f}", share, f"{row.communication:.0%}", f"{row.cpu_ms:.1f}",
        )  # fmt: skip
    return table


# --- a model --------------------------------------------------------------------------------


def predicted(name: str, rows: Iterable[Row], wire: Wire, ranks: Iterable[int]) -> dict[int, float]:
    """Return the images a second that a model promises for strong scaling over more ranks.

    Computing a part of the batch takes its share of the time that one rank takes; messages are two
    of every BatchNorm and two of the step, and the gradients. Nothing overlaps, and all ranks are
    as fast as each other, which errs on either side.
    """
    one = next(row for row in rows if row.mode == "strong" and row.ranks == 1)
    net = networks.NETWORKS[name].make()
    nbytes = sum(parameter.size * parameter.dtype.itemsize for parameter in net.parameters())
    messages = 2 + 2 * sum(isinstance(module, nn.BatchNorm) for module in net.modules())
    computing = 1e-3 * one.ms * (1.0 - one.communication)
    promised = {}
    for n in ranks:
        rounds = math.ceil(math.log2(n)) if n > 1 else 0
        sent = 2.0 * (n - 1) / n * nbytes / wire.bandwidth
        promised[n] = one.batch / (computing / n + messages * rounds * wire.latency + sent)
    return promised


if __name__ == "__main__":
    result = work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    if result is not None:
        print(json.dumps(result))

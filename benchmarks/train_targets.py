"""What training steps should reach, and what they did."""

from __future__ import annotations

from collections.abc import Sequence

from fastbn.bench.targets import Result, Target, judged
from fastbn.bench.train import TrainRow

# How many times faster than the best variant of a peer a step should be.
FASTER = {
    ("mlp", 32, "torch"): 3.5,
    ("mlp", 256, "torch"): 2.2,
    ("convnet4", 64, "torch"): 1.5,
    ("resnet20", 64, "torch"): 1.5,
    ("inception", 64, "torch"): 1.5,
    ("mlp", 32, "jax"): 2.5,
    ("mlp", 256, "jax"): 2.0,
}
PEAK = 0.7  # of the memory of PyTorch's fastest variant
FAULTS = 0.0
SPEEDUP = 1.8  # of two threads


def judge(rows: Sequence[TrainRow]) -> list[Result]:
    """Hold the rows of ``fastbn bench train`` against all targets that they have figures for."""
    results: list[Result] = []

    def hold(
        label: str,
        threads: int,
        group: Sequence[tuple[TrainRow, float]],
        mean: float,
        worst: float | None = None,
        more: bool = False,
    ) -> None:
        if group:
            target = Target(label, (), (), "", mean, worst, more)
            results.append(judged(target, label, str(threads), group))

    ours = [row for row in rows if row.op == "train"]
    for threads in sorted({row.threads for row in ours}):
        own = [row for row in ours if row.threads == threads]
        for (network, batch, peer), least in FASTER.items():
            group = [
                (row, ratio)
                for row in own
                if (row.name, row.shape[0]) == (network, batch)
                and (ratio := getattr(row, f"x_{peer}")) is not None
            ]
            hold(f"{network}, batch {batch}, × {peer}", threads, group, least, more=True)
        memory = [
            (row, row.peak_mb / best.peak_mb)
            for row in own
            if (best := fastest(rows, row, "torch")) and row.peak_mb and best.peak_mb
        ]
        hold("peak memory, × torch", threads, memory, PEAK, PEAK)
        faults = [(row, row.minor_faults) for row in own if row.minor_faults is not None]
        hold("page faults of a step", threads, faults, FAULTS, FAULTS)
    single = {(row.name, row.shape): row for row in ours if row.threads == 1}
    pairs = [(row, single.get((row.name, row.shape))) for row in ours if row.threads == 2]
    speedups = [(row, one.us / row.us) for row, one in pairs if one]
    hold("2 threads over 1", 2, speedups, SPEEDUP, more=True)
    return results


def fastest(rows: Sequence[TrainRow], ours: TrainRow, peer: str) -> TrainRow | None:
    """Return the peer's fastest variant of a step, None where it was not measured."""
    theirs = [
        row
        for row in rows
        if (row.name, row.shape, row.threads) == (ours.name, ours.shape, ours.threads)
        and row.op.startswith(f"train: {peer}")
    ]
    return min(theirs, key=lambda row: row.us, default=None)

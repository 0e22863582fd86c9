"""What the runs come to: lines to read, a table, and accuracy over time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from fastbn.bench.cifar.compare import Comparison, PeerTime
from fastbn.bench.cifar.run import Run

if TYPE_CHECKING:
    from rich.table import Table

GOAL = 0.94


def table(runs: Sequence[Run]) -> Table:
    """Return a row a seed, and their mean."""
    from rich.table import Table

    first = runs[0]
    made = Table(
        title=f"{first.images:,} images, {first.epochs:g} epochs, {first.threads} threads",
        title_justify="left",
    )
    for name in ("seed", "steps", "seconds", "accuracy", "six views", "PFLOP", "GFLOP/s",
                 "augmenting", "Wh"):  # fmt: skip
        made.add_column(name, justify="right")
    for run in runs:
        energy = "" if run.watt_hours is None else f"{run.watt_hours:.2f}"
        made.add_row(
            str(run.seed), str(run.steps), f"{run.seconds:.0f}", f"{run.accuracy:.2%}",
            f"{run.accuracy_views:.2%}", f"{run.pflop:.3f}", f"{run.gflops:.0f}",
            f"{run.augmenting:.1%}", energy,
        )  # fmt: skip
    return made


def lines(runs: Sequence[Run]) -> list[str]:
    """Return mean, least and most of the accuracies and of the time."""
    said = []
    for name, values in (
        ("accuracy", [run.accuracy for run in runs]),
        ("accuracy, six views", [run.accuracy_views for run in runs]),
    ):
        said.append(
            f"{name}: mean {fmean(values):.2%}, least {min(values):.2%}, most {max(values):.2%}"
        )
    minutes = [run.seconds / 60 for run in runs]
    said.append(
        f"minutes: mean {fmean(minutes):.1f}, from {min(minutes):.1f} to {max(minutes):.1f}"
    )
    return said


def peer_lines(runs: Sequence[Run], peers: Sequence[PeerTime]) -> list[str]:
    """Return PyTorch's time, and how many times faster the runs were."""
    ours = fmean(run.seconds for run in runs)
    said = []
    for peer in peers:
        text = (
            f"PyTorch {peer.variant}: {peer.seconds / peer.steps:.2f} s a step, "
            f"{peer.whole / 60:.1f} minutes, {peer.whole / ours:.2f} × the time"
        )
        said.append(text if peer.accuracy is None else f"{text}, accuracy {peer.accuracy:.2%}")
    return said


def comparison_lines(found: Comparison) -> list[str]:
    """Return whether PyTorch trains the same."""
    return [
        f"first gradients: off by {found.gradient:.1e} of the largest value, "
        f"PyTorch's by {found.gradient_theirs:.1e}",
        f"losses of {len(found.ours)} steps: {found.apart:.1e} from PyTorch's, "
        f"{found.spread:.1e} from runs that begin one rounding away",
        "the same training" if found.same else "NOT the same training",
    ]


def plot(runs: Sequence[Run], peers: Sequence[PeerTime], path: str | os.PathLike[str]) -> None:
    """Draw the accuracy over the minutes, a line for each seed, and where the fastest peer ends.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    from fastbn.train.plot import save

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "fastbn[plot]"') from error
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        points = [(seconds / 60, accuracy) for seconds, accuracy in run.curve]
        axes.plot(*zip(*points, strict=True), color="tab:blue", alpha=0.6, marker="o", markersize=3)
    ends = [(run.seconds / 60, run.accuracy_views) for run in runs]
    axes.plot(*zip(*ends, strict=True), "k*", label="at the end, six views of an image")
    axes.axhline(GOAL, color="gray", linestyle="--", linewidth=1, label=f"{GOAL:.0%}")
    if peers:
        best = min(peers, key=lambda peer: peer.whole)
        axes.axvline(
            best.whole / 60, color="tab:red", linestyle=":", label=f"PyTorch ends, {best.variant}"
        )
    first = runs[0]
    axes.set(
        title=f"CIFAR-10 on {first.threads} threads, {first.epochs:g} epochs, {len(runs)} seeds",
        xlabel="minutes of training",
        ylabel="accuracy on the test images",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save(figure, path)

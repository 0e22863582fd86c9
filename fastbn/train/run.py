"""One run of training, from a `Config` to a folder of files: what ``fastbn train`` does."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from fastbn.distributed import Communicator
from fastbn.train import finetune, page, picture, plot, recipe, weights
from fastbn.train.config import Config
from fastbn.train.folder import (
    CURVES,
    LAST,
    PAGE,
    REPORT,
    WEIGHTS,
    Keeper,
    find,
    holds_unfinished,
    require_no_run,
)
from fastbn.train.guard import NotFiniteError
from fastbn.train.monitor import Monitor
from fastbn.train.prepare import Run, prepare
from fastbn.train.ranks import RankTimes
from fastbn.train.report import describe, examples, write_report
from fastbn.train.trainer import Trainer


class InterruptedRun(Exception):  # noqa: N818 – nothing went wrong
    """A signal ended the run; a checkpoint has been written.

    Attributes
    ----------
    signum : int
        SIGINT or SIGTERM.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def train(
    config: Config,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Iterable[Any] = (),
    progress: bool | None = None,
    environment: Mapping[str, Any] | None = None,
    communicator: Communicator | None = None,
    source: finetune.Source | None = None,
    exporter: Callable[[Run], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train as a config says, and write what is known of it into a folder.

    Of several ranks, the first writes the files. A run that they did not finish continues
    when they are asked for the same again.

    Parameters
    ----------
    config : Config
    overwrite : bool
        Whether a run that is in the folder may be replaced.
    resume : bool
        Whether a run that is in the folder is continued.
    callbacks, progress
        As of `fastbn.train.Trainer.fit`.
    environment : mapping, optional
        What the report says of the machine.
    communicator : Communicator, optional
        The other ranks, who all call this.
    source : Source, optional
        As of `prepare`.
    exporter : callable, optional
        Called with the run when its best weights are in the network; what it returns goes into
        the report.

    Returns
    -------
    dict
        What ``report.json`` contains; of a rank that is not the first, nothing.

    Raises
    ------
    ValueError, OSError
        If an argument is wrong, data are missing or damaged, files cannot be written, or there is
        a run already.
    NotFiniteError
        If a loss or a gradient is not finite. The weights of the epochs before stay.
    InterruptedRun
        If SIGINT or SIGTERM came.
    """
    folder = Path(config.output)
    first = communicator is None or communicator.rank == 0
    if communicator is not None:
        resume = _goes_on(
            communicator, resume or (not overwrite and first and holds_unfinished(config))
        )
    if not resume and first:
        require_no_run(folder, overwrite)
    run = prepare(config, communicator, source)
    trainer = run.trainer
    if resume:
        trainer.resume(folder / LAST)
    keeper = Keeper(run, begun=resume)
    monitor = Monitor()
    with interruptible(trainer) as received, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the run that was resumed has its")
        try:
            run.fit([*callbacks, monitor, keeper], progress)
        except NotFiniteError:
            keeper.save_if_begun(trainer)
            raise
        stopped = communicator is not None and trainer.should_stop
    plan = trainer.plan
    if received and plan is None:
        raise InterruptedRun("interrupted while the head was trained: start anew", received[0])
    assert plan is not None
    if (received or stopped) and not plan.over:
        raise InterruptedRun(
            f"interrupted at step {trainer.steps}: fastbn train --resume {folder} continues it",
            received[0] if received else signal.SIGINT,
        )
    if not first:
        return {}
    times = next((c.records for c in plan.callbacks if isinstance(c, RankTimes)), [])
    trainer.ranks = None  # the others have no part in what follows
    if run.ema is not None:
        run.save_averages()
    return finish(run, keeper.best_epoch, monitor.records, environment, times, exporter)


def _goes_on(communicator: Communicator, wanted: bool) -> bool:
    """Return what the first rank has seen, for the folder may be on its machine alone."""
    told = np.array([wanted])
    communicator.broadcast(told)
    return bool(told[0])


def report(
    folder: str | os.PathLike[str],
    environment: Mapping[str, Any] | None = None,
    source: finetune.Source | None = None,
    exporter: Callable[[Run], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Make the report of a run again, from its checkpoint, its weights and its data.

    Raises
    ------
    ValueError, OSError
        If there is no such run, it has no epoch yet, or the data are missing.
    """
    run = prepare(find(folder), source=source)
    keeper, monitor, times = Keeper(run, begun=True), Monitor(), RankTimes()
    interrupted = run.trainer.resume(Path(folder) / LAST)._resumed
    if not run.trainer.history.epochs:
        raise ValueError(f"{os.fspath(folder)}: there is nothing to report before the first epoch")
    for state in [] if interrupted is None else interrupted.callbacks:
        for callback in (keeper, monitor, times):
            if state["class"] == type(callback).__name__:
                callback.load_state_dict(state["state"])
    return finish(run, keeper.best_epoch, monitor.records, environment, times.records, exporter)


def finish(
    run: Run,
    best_epoch: int | None,
    records: list[dict[str, Any]],
    environment: Mapping[str, Any] | None,
    times: list[dict[str, Any]],
    exporter: Callable[[Run], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write what is known of a run whose best weights are in its folder; return the report."""
    config, folder = run.config, Path(run.config.output)
    trainer = run.whole_trainer()
    trainer.net.load_state_dict(weights.read(folder / WEIGHTS)[0])
    known = {
        "model": config.model,
        "data": run.samples.name or config.data,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "lr": recipe.base_rate(config),
        "final_lr": trainer.history.last.lr,
        "seed": config.seed,
        "best_epoch": best_epoch if run.ema is None else None,  # averages are of no epoch
        "arguments": asdict(config),
        "environment": dict(environment or {}),
        "monitor": records,
        "ranks": times,
    }
    told = describe(trainer, run.samples, known)
    if exporter is not None:
        told |= exporter(run)
    write_report(folder / REPORT, told)
    if plot.available():
        plot.training_curves(trainer.history, folder / CURVES)
    pictures = examples(trainer.net, run.samples)
    page.write(folder / PAGE, told, {**pictures, "network": picture.svg(trainer.net)})
    return told


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[list[int]]:
    """Stop the trainer after its step when SIGINT or SIGTERM comes; give what has come.

    A second signal ends the process as it would have without.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals are the main thread's
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def stop(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        trainer.should_stop = True
        for each, handler in before.items():
            signal.signal(each, handler)

    for signum in before:
        signal.signal(signum, stop)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

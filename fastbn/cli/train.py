"""``fastbn train | lr-find``. Nothing heavy is imported before they run."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fastbn.cli import ranks
from fastbn.cli.errors import DONE, INTERRUPTED, NOT_FINITE
from fastbn.cli.options import (
    AsJson,
    Augment,
    Balanced,
    BatchNormMode,
    BatchSize,
    Channels,
    Data,
    Epochs,
    FinalRate,
    LabelSmoothing,
    LearningRate,
    MaxSeconds,
    Model,
    Normalize,
    OptimizerName,
    Output,
    Overwrite,
    Processes,
    Quiet,
    Resume,
    SaveEvery,
    ScheduleName,
    Seed,
    Set,
    Size,
    Stopping,
    Target,
    Threads,
    Timeout,
    ValSplit,
    Warmup,
    WeightDecay,
    config_of,
    refuse_besides,
)
from fastbn.cli.report import show_report
from fastbn.cli.table import show
from fastbn.cli.watch import takes_memory

if TYPE_CHECKING:
    from fastbn.distributed import MPICommunicator
    from fastbn.train.config import Config


@takes_memory
def train(
    model: Model = None,
    *,
    data: Data = None,
    output: Output = None,
    target: Target = None,
    size: Size = None,
    channels: Channels = None,
    normalize: Normalize = None,
    val_split: ValSplit = None,
    augment: Augment = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    optimizer: OptimizerName = None,
    lr: LearningRate = None,
    final_lr: FinalRate = None,
    schedule: ScheduleName = None,
    warmup: Warmup = None,
    weight_decay: WeightDecay = None,
    label_smoothing: LabelSmoothing = None,
    balanced: Balanced = False,
    accumulate: Annotated[
        int | None, typer.Option(help="Batches that make one step. Default: 1.", min=1)
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Largest norm of a step's gradients.")
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            metavar="DECAY",
            help="Average the weights over the steps, and end with the averages: 0.999, say.",
            min=0,
            max=1,
        ),
    ] = None,
    early_stopping: Stopping = None,
    max_seconds: MaxSeconds = None,
    save_every: SaveEvery = None,
    set_: Set = None,
    seed: Seed = None,
    threads: Threads = None,
    processes: Processes = None,
    bn: Annotated[
        BatchNormMode | None,
        typer.Option(
            help="With several processes, the rows that BatchNorm normalises by: all (sync), its "
            "own (local), its own, with running statistics of all (ghost). Default: sync."
        ),
    ] = None,
    timeout: Timeout = 60.0,
    resume: Resume = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Train a network into a folder: weights, checkpoint, history, report.html.

    The folder holds config.toml, with which ``fastbn train config.toml`` does the same again;
    model.safetensors (the best weights), last.safetensors (what --resume continues from),
    history.csv, report.json, training.png and report.html.
    """
    given = {
        "data": data,
        "output": output and str(output),
        "target": target,
        "size": size,
        "channels": channels,
        "normalize": normalize,
        "val_split": val_split,
        "augment": augment and [name.strip() for name in augment.split(",")],
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer and optimizer.value,
        "lr": lr,
        "final_lr": final_lr,
        "schedule": schedule and schedule.value,
        "warmup": warmup,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "class_weight": "balanced" if balanced else None,
        "accumulate": accumulate,
        "clip_norm": clip_norm,
        "ema": ema,
        "early_stopping": early_stopping,
        "max_seconds": max_seconds,
        "save_every": save_every,
        "seed": seed,
        "bn": bn and bn.value,
    }
    from fastbn.distributed import library
    from fastbn.train.folder import find

    if resume is not None:
        refuse_besides(resume, model, given, set_, overwrite)

    def config() -> Config:
        return config_of(model, given, set_) if resume is None else find(resume)

    rank = library.rank_of_this_process()
    if rank is None and processes is None:
        return train_as(config(), None, threads, resume is not None, overwrite, quiet, as_json)
    if rank is None:
        assert processes is not None
        return ranks.start(processes)

    def go(communicator: MPICommunicator) -> int:
        own = ranks.same_config(communicator, config)
        count = threads or own.threads or ranks.threads_of_a_rank(communicator)
        silent = quiet or communicator.rank > 0
        if not silent:
            print(f"fastbn: {ranks.introduce(communicator)}", file=sys.stderr, flush=True)
        return train_as(own, communicator, count, resume is not None, overwrite, silent, as_json)

    return ranks.in_ranks(timeout, go)


def train_as(
    config: Config,
    communicator: MPICommunicator | None,
    threads: int | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Train, as a rank where there are several; return the exit code."""
    from fastbn.cli.environment import describe
    from fastbn.cli.tuned import parts_of
    from fastbn.train import run

    first = communicator is None or communicator.rank == 0
    _use_threads(threads if threads is not None else config.threads)
    lines = not quiet and not ranks.in_a_terminal()
    try:
        from fastbn.train.guard import NotFiniteError
        from fastbn.train.progress import Lines

        report = run.train(
            config,
            overwrite=overwrite,
            resume=resume,
            callbacks=[Lines()] if lines else [],
            progress=not quiet and ranks.in_a_terminal(),
            environment=describe(),
            communicator=communicator,
            **parts_of(config),
        )
    except run.InterruptedRun as stopped:
        if not quiet:
            print(f"fastbn: {stopped}", file=sys.stderr)
        return INTERRUPTED - 2 + stopped.signum
    except NotFiniteError as error:
        if first:
            print(f"fastbn: error: {error}", file=sys.stderr)
        return NOT_FINITE
    if first:
        show_report(report, config.output, quiet, as_json)
    return DONE


def lr_find(
    model: Model = None,
    *,
    data: Data = None,
    target: Target = None,
    size: Size = None,
    channels: Channels = None,
    normalize: Normalize = None,
    batch_size: BatchSize = None,
    optimizer: OptimizerName = None,
    weight_decay: WeightDecay = None,
    set_: Set = None,
    seed: Seed = None,
    threads: Threads = None,
    steps: Annotated[int, typer.Option(help="Learning rates to try.", min=3)] = 100,
    as_json: AsJson = False,
) -> int:
    """Try learning rates from small to large, one a step, and suggest one."""
    from fastbn.cli.tuned import parts_of
    from fastbn.train.prepare import prepare

    given = {
        "data": data,
        "target": target,
        "size": size,
        "channels": channels,
        "normalize": normalize,
        "batch_size": batch_size,
        "optimizer": optimizer and optimizer.value,
        "weight_decay": weight_decay,
        "seed": seed,
    }
    config = config_of(model, given, set_)
    _use_threads(threads if threads is not None else config.threads)
    prepared = prepare(config, source=parts_of(config).get("source"))
    found = prepared.trainer.lr_find(prepared.data, config.batch_size, steps=steps, rng=config.seed)
    if as_json:
        print(json.dumps(found._asdict(), indent=2))
    else:
        step = max(1, len(found.lr) // 15)
        tried = {f"{found.lr[i]:.2e}": found.loss[i] for i in range(0, len(found.lr), step)}
        show("learning rate and loss", {**tried, "suggestion": found.suggestion})
    return DONE


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import fastbn

        fastbn.set_num_threads(threads)

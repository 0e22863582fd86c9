"""``fastbn train | lr-find | report | compare``. Nothing heavy is imported before they run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastbn.cli import ranks
from fastbn.cli.errors import DONE, INTERRUPTED, NOT_FINITE
from fastbn.cli.table import show
from fastbn.cli.watch import takes_memory

if TYPE_CHECKING:
    from fastbn.distributed import MPICommunicator
    from fastbn.train.config import Config

# What a table shows of a run's report.
SHOWN = (
    "model",
    "data",
    "best_epoch",
    "test_loss",
    "test_accuracy",
    "test_mae",
    "test_r2",
    "steps",
    "seconds",
    "images_per_second",
    "bn_before",
    "bn_after",
    "max_rel_f64",
    "max_rel_ort",
    "argmax_agreement",
)


class Optimizer(StrEnum):
    """What ``--optimizer`` takes."""

    ADAM = "adam"
    ADAMW = "adamw"
    SGD = "sgd"


class BatchNormMode(StrEnum):
    """What ``--bn`` takes."""

    SYNC = "sync"
    LOCAL = "local"
    GHOST = "ghost"


class Schedule(StrEnum):
    """What ``--schedule`` takes."""

    CONSTANT = "constant"
    COSINE = "cosine"
    EXPONENTIAL = "exponential"
    ONE_CYCLE = "one_cycle"


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL|CONFIG.toml",
        help="mlp, convnet, resnet20, inception, your own package.module:factory, or the "
        "config.toml of a run.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, mnist, cifar10; a folder of images, idx or CIFAR-10 files; a CSV or Parquet "
        "file with --target."
    ),
]
Target = Annotated[str | None, typer.Option(help="Column of a table to predict.")]
Size = Annotated[
    int | None, typer.Option(help="Height and width that images of a folder get.", min=1)
]
Channels = Annotated[int | None, typer.Option(help="1: grey images; 3: RGB.", min=1, max=3)]
Normalize = Annotated[
    bool | None,
    typer.Option(
        help="Take (x - mean) / std of the training part; it is stored with the weights. "
        "Default: of tables."
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Output folder. Default: fastbn-run.")
]
ValSplit = Annotated[
    float | None,
    typer.Option(
        help="Share of the training part to validate on. Default: 0.1 with --early-stopping, "
        "else none.",
        min=0,
        max=1,
    ),
]
Augment = Annotated[
    str | None, typer.Option(help="Of flip, shift, crop, cutout, brightness: flip,crop.")
]
Epochs = Annotated[int | None, typer.Option(help="Epochs. Default: 3.", min=1)]
BatchSize = Annotated[int | None, typer.Option(help="Batch size. Default: 64.", min=1)]
OptimizerName = Annotated[Optimizer | None, typer.Option(help="Optimizer. Default: adam.")]
LearningRate = Annotated[
    float | None,
    typer.Option(help="Learning rate. Default: 0.001; 0.05 for sgd, which has momentum 0.9."),
]
FinalRate = Annotated[
    float | None, typer.Option(help="Learning rate of the last epoch. Default: the same.")
]
ScheduleName = Annotated[
    Schedule | None, typer.Option(help="How the learning rate moves. Default: constant.")
]
Warmup = Annotated[
    int | None, typer.Option(help="Steps in which the learning rate rises from 0.", min=0)
]
LabelSmoothing = Annotated[
    float | None, typer.Option(help="Label smoothing of the loss.", min=0, max=1)
]
Balanced = Annotated[
    bool, typer.Option("--balanced", help="Weigh classes so that each counts the same.")
]
Stopping = Annotated[
    int | None,
    typer.Option(help="Stop after so many epochs without a better validation loss.", min=1),
]
MaxSeconds = Annotated[float | None, typer.Option(help="Stop after so much time.")]
SaveEvery = Annotated[
    int | None, typer.Option(help="Steps between checkpoints, besides each epoch's.", min=1)
]
Resume = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Go on with the run of this folder.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a run that is in the folder.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
WeightDecay = Annotated[
    float | None, typer.Option(help="Weight decay. Default: the optimizer's.", min=0)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Argument of the model: hidden=256,128."),
]
Seed = Annotated[int | None, typer.Option(help="Random seed. Default: 0.", min=0)]
Threads = Annotated[
    int | None, typer.Option(help="Number of threads. Default: one per core.", min=1)
]
Processes = Annotated[
    int | None,
    typer.Option(help="Start so many processes, which share each batch (MPI).", min=1),
]
Timeout = Annotated[
    float, typer.Option(help="Seconds behind which a process that does not answer is lost.", min=1)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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
            help="With several processes, whose rows BatchNorm normalises by: of all (sync), its "
            "own (local), its own with running statistics of all (ghost). Default: sync."
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
    model.safetensors (the best weights), last.safetensors (what --resume goes on from),
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
    from fastbn.train import run

    if resume is not None:
        refuse_besides(resume, model, given, set_, overwrite)

    def config() -> Config:
        return config_of(model, given, set_) if resume is None else run.find(resume)

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


def refuse_besides(
    resume: Path,
    model: str | None,
    given: Mapping[str, Any],
    set_: list[str] | None,
    overwrite: bool,
) -> None:
    """Refuse other arguments beside --resume."""
    from fastbn.train.run import CONFIG

    named = [name for name, value in given.items() if value is not None]
    if model is not None or set_ or overwrite or named:
        raise typer.BadParameter(
            f"--resume goes on with the arguments of {resume / CONFIG}; give no others"
        )


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
        _print(report, config.output, quiet, as_json)
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
    from fastbn.train import run

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
    prepared = run.prepare(config)
    found = prepared.trainer.lr_find(prepared.data, config.batch_size, steps=steps, rng=config.seed)
    if as_json:
        print(json.dumps(found._asdict(), indent=2))
    else:
        step = max(1, len(found.lr) // 15)
        tried = {f"{found.lr[i]:.2e}": found.loss[i] for i in range(0, len(found.lr), step)}
        show("learning rate and loss", {**tried, "suggestion": found.suggestion})
    return DONE


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")],
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: AsJson = False,
) -> int:
    """Make report.json, training.png and report.html of a run again, finished or not."""
    from fastbn.cli.environment import describe
    from fastbn.cli.tuned import parts_of
    from fastbn.train import run

    told = run.report(folder, describe(), **parts_of(run.find(folder)))
    _print(told, str(folder), quiet, as_json)
    return DONE


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a page with all curves, too.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Set runs side by side: results, and the arguments that differ."""
    from fastbn.train import page, run

    if len(folders) < 2:
        raise typer.BadParameter("name two folders or more")
    reports: dict[str, dict[str, Any]] = {}
    for folder in folders:
        path = folder / run.REPORT
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: make it with fastbn report {folder}")
        reports[str(folder)] = json.loads(path.read_text(encoding="utf-8"))
    rows: dict[str, dict[str, Any]] = {
        name: {run: told.get(name) for run, told in reports.items()}
        for name in SHOWN
        if any(told.get(name) is not None for told in reports.values())
    }
    for name, values in page.differing(reports).items():
        rows[name] = dict(zip(reports, values, strict=True))
    if output is not None:
        page.write_comparison(output, reports)
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _show_columns(list(reports), rows)
    return DONE


def config_of(model: str | None, given: Mapping[str, Any], set_: list[str] | None) -> Config:
    """Return the arguments of a command line, or of a file with those of the line before it."""
    from fastbn.train import config as configs

    values = {name: value for name, value in given.items() if value is not None}
    arguments = configs.assignments(set_ or [])
    if model is None:
        raise typer.BadParameter("name a MODEL, a CONFIG.toml, or --resume DIR")
    if model.endswith(".toml"):
        read = configs.read(model)
        merged = {**read, **values, "set": {**read.get("set", {}), **arguments}}
        return configs.rooted(configs.from_values(merged, model))
    if "data" not in values:
        raise typer.BadParameter("name the data with --data")
    return configs.rooted(configs.Config(model=model, set=arguments, **values))


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import fastbn

        fastbn.set_num_threads(threads)


def _print(report: Mapping[str, Any], folder: str, quiet: bool, as_json: bool) -> None:
    if as_json:
        from fastbn.train.report import finite

        print(json.dumps(finite(report), indent=2))
    elif not quiet:
        shown = {name: report[name] for name in SHOWN if report.get(name) is not None}
        files = sorted(path.name for path in Path(folder).iterdir() if path.name[0] != ".")
        show(f"{report['model']} on {report['data']}", {**shown, folder: files})


def _show_columns(runs: list[str], rows: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from fastbn.cli.table import readable

    table = Table()
    for head in ("", *runs):
        table.add_column(head, overflow="fold")
    for name, values in rows.items():
        table.add_row(name, *(readable(values[run]) for run in runs))
    Console().print(table)

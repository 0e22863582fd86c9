"""Arguments that ``fastbn train``, ``lr-find`` and ``finetune`` have alike, and their config."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fastbn.train.config import Config


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
        help="A network of `fastbn models`, your own package.module:factory, or the config.toml "
        "of a run.",
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
    int | None, typer.Option(help="Height and width that images are scaled to.", min=1)
]
Channels = Annotated[int | None, typer.Option(help="1: grey images; 3: RGB.", min=1, max=3)]
Normalize = Annotated[
    bool | None,
    typer.Option(
        help="Take (x - mean) / std of the training part; it is stored with the weights. "
        "Default: for tables only."
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
    str | None, typer.Option(help="Comma-separated, of flip, shift, crop, cutout, brightness.")
]
Epochs = Annotated[int | None, typer.Option(help="Epochs. Default: 3.", min=1)]
BatchSize = Annotated[int | None, typer.Option(help="Batch size. Default: 64.", min=1)]
OptimizerName = Annotated[Optimizer | None, typer.Option(help="Optimizer. Default: adam.")]
LearningRate = Annotated[
    float | None,
    typer.Option(help="Learning rate. Default: 0.001; 0.05 for sgd, which has momentum 0.9."),
]
FinalRate = Annotated[
    float | None,
    typer.Option(
        help="Learning rate of the last epoch, for the schedules exponential (then the default) "
        "and cosine."
    ),
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
    typer.Option(help="Stop after this many epochs without a better validation loss.", min=1),
]
MaxSeconds = Annotated[float | None, typer.Option(help="Stop after this many seconds.")]
SaveEvery = Annotated[
    int | None, typer.Option(help="Steps between checkpoints, in addition to each epoch's.", min=1)
]
Resume = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Continue the run of this folder.")
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
    int | None, typer.Option(help="Number of threads. Default: one for each core.", min=1)
]
Processes = Annotated[
    int | None,
    typer.Option(help="Number of processes that share each batch (MPI).", min=1),
]
Timeout = Annotated[
    float, typer.Option(help="Seconds after which a silent process counts as lost.", min=1)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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


def refuse_besides(
    resume: Path,
    model: str | None,
    given: Mapping[str, Any],
    set_: list[str] | None,
    overwrite: bool,
) -> None:
    """Refuse other arguments beside --resume."""
    from fastbn.train.folder import CONFIG

    named = [name for name, value in given.items() if value is not None]
    if model is not None or set_ or overwrite or named:
        raise typer.BadParameter(
            f"--resume continues with the arguments of {resume / CONFIG}; give no others"
        )

"""``fastbn finetune``: a trained network, a new head, one's own data. Nothing heavy is imported."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastbn.cli import options
from fastbn.cli.export import numbers
from fastbn.cli.train import train_as
from fastbn.cli.watch import takes_memory


class NormMode(StrEnum):
    """What ``--bn`` takes."""

    FROZEN = "frozen"
    TRAIN = "train"


@takes_memory
def finetune(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|CONFIG.toml",
            help="An ONNX file; a model.safetensors; a model of `fastbn models` or your own "
            "package.module:factory with --weights; the config.toml of a run.",
        ),
    ] = None,
    *,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the model: .safetensors, or PyTorch's .pth.")
    ] = None,
    data: options.Data = None,
    output: options.Output = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            metavar="backbone|none|N",
            help="What stays as it is: all but the new head, nothing, or the first N convolutions "
            "and Linear layers. Default: backbone.",
        ),
    ] = None,
    bn: Annotated[
        NormMode | None,
        typer.Option(
            help="Statistics of BatchNorm: the running ones, or the batch's. Default: frozen."
        ),
    ] = None,
    head_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs that train the head alone before the others. Default: 0.", min=0),
    ] = None,
    backbone_lr: Annotated[
        float | None,
        typer.Option(help="Learning rate of all but the head, as a share of --lr. Default: 0.1."),
    ] = None,
    size: options.Size = None,
    channels: options.Channels = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Samples become (x - mean) / std of pixels in [0, 1]: 0.485,0.456,0.406. Default: "
            "what the weights expect, as far as that is known."
        ),
    ] = None,
    std: Annotated[str | None, typer.Option(help="See --mean.")] = None,
    val_split: options.ValSplit = None,
    augment: options.Augment = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    optimizer: options.OptimizerName = None,
    lr: options.LearningRate = None,
    final_lr: options.FinalRate = None,
    schedule: options.ScheduleName = None,
    warmup: options.Warmup = None,
    weight_decay: options.WeightDecay = None,
    label_smoothing: options.LabelSmoothing = None,
    balanced: options.Balanced = False,
    early_stopping: options.Stopping = None,
    max_seconds: options.MaxSeconds = None,
    save_every: options.SaveEvery = None,
    set_: options.Set = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    resume: options.Resume = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> int:
    """Give a trained network a new head, train it on your data, export it, prove the file.

    Frozen layers are computed once. The folder holds the same files as that of ``fastbn train``,
    and model.onnx, with BatchNorm folded away and compared with float64.
    """
    if (mean is None) != (std is None):
        raise typer.BadParameter("give both --mean and --std")
    given = {
        "weights": weights and str(weights),
        "data": data,
        "output": output and str(output),
        "freeze": freeze,
        "norms": bn and bn.value,
        "head_epochs": head_epochs,
        "backbone_lr": backbone_lr,
        "size": size,
        "channels": channels,
        "mean": mean and numbers("--mean", mean),
        "std": std and numbers("--std", std),
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
        "early_stopping": early_stopping,
        "max_seconds": max_seconds,
        "save_every": save_every,
        "seed": seed,
    }
    if resume is None and not (model or "").endswith(".toml"):
        given["freeze"] = freeze or "backbone"
    from fastbn.train.folder import find

    if resume is not None:
        options.refuse_besides(resume, model, given, set_, overwrite)
        config = find(resume)
    else:
        config = options.config_of(model, given, set_)
    return train_as(config, None, threads, resume is not None, overwrite, quiet, as_json)

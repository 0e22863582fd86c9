"""``fastbn train``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastbn.cli.errors import DONE
from fastbn.cli.table import show


class Optimizer(StrEnum):
    """What ``--optimizer`` takes."""

    ADAM = "adam"
    ADAMW = "adamw"
    SGD = "sgd"


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="mlp, convnet, resnet20, inception, or your own package.module:factory."
        ),
    ],
    *,
    data: Annotated[
        str, typer.Option(help="digits, mnist, cifar10, or a folder of idx or CIFAR-10 files.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")],
    epochs: Annotated[int, typer.Option(help="Epochs.", min=1)] = 3,
    batch_size: Annotated[int, typer.Option(help="Batch size.", min=1)] = 64,
    optimizer: Annotated[Optimizer, typer.Option(help="Optimizer.")] = Optimizer.ADAM,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate. Default: 0.001; 0.05 for sgd, which has momentum 0.9."),
    ] = None,
    final_lr: Annotated[
        float | None, typer.Option(help="Learning rate of the last epoch. Default: the same.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay. Default: the optimizer's.", min=0)
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
    threads: Annotated[
        int | None, typer.Option(help="Number of threads. Default: one per core.", min=1)
    ] = None,
) -> int:
    """Train a network; write model.safetensors, report.json and training.png."""
    import fastbn
    from fastbn.train import run

    if threads is not None:
        fastbn.set_num_threads(threads)
    report = run.train(
        model,
        data,
        output,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer.value,
        lr=lr,
        final_lr=final_lr,
        weight_decay=weight_decay,
        seed=seed,
    )
    report.pop("history")
    show(f"{model} on {data}", report | {"weights": str(output / run.WEIGHTS)})
    return DONE

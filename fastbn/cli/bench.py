"""The commands ``fastbn bench …``. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from fastbn.cli.measuring import (
    JsonFile,
    in_a_folder,
    names,
    printer,
    showing,
    thread_counts,
    warn_if_busy,
    warn_of,
)
from fastbn.cli.watch import takes_memory

bench_app = typer.Typer(help="Measure against the machine's limits, PyTorch, TensorFlow and JAX.")


@bench_app.callback()
def main() -> None:
    """Measure against the machine's limits, PyTorch, TensorFlow and JAX."""


@bench_app.command()
def accuracy(
    peers: Annotated[
        str, typer.Option(help="none, or torch. Default: torch if installed.")
    ] = "all",
    ops: Annotated[
        str, typer.Option(help="batch_norm, layer_norm, rms_norm, group_norm, instance_norm.")
    ] = "batch_norm",
) -> int:
    """Errors of the normalisations against float64, beside PyTorch's."""
    from fastbn.bench import accuracy as compared
    from fastbn.bench.peers import choose

    torch = "torch" in choose(names(peers))
    for op in names(ops):
        if op not in compared.NORMS:
            raise typer.BadParameter(f"ops: {op!r} is not one of {', '.join(compared.NORMS)}")
    lost = False
    for op in names(ops):
        found = compared.measure(torch, op=op)
        printer().print(compared.accuracy_table(found, op))
        lost = lost or any(map(compared.loses, found))
    return 1 if lost else 0


@bench_app.command()
def kernels(
    threads: Annotated[
        str | None, typer.Option(help="Thread counts, for example 1,2. Default: 1 and all.")
    ] = None,
    shapes: Annotated[
        str,
        typer.Option(help="resnet50, small, norms, or a file of shapes such as 64@56 or 256x1024."),
    ] = "resnet50",
    layouts: Annotated[str, typer.Option(help="Of nchw,nhwc,nc.")] = "nchw,nhwc,nc",
    ops: Annotated[
        str | None,
        typer.Option(
            help="List out of forward,inference,backward …, norms for those of single samples. "
            "Default: all of batch normalisation."
        ),
    ] = None,
    dtypes: Annotated[str, typer.Option(help="List out of float32,float64,bfloat16.")] = "float32",
    peers: Annotated[
        str, typer.Option(help="none, all (installed), or a list out of torch,tensorflow,jax.")
    ] = "all",
    alone: Annotated[
        bool, typer.Option("--alone", help="Check that the peers are as fast alone as in turns.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(help="Rounds, in which every side is timed once.", min=1)
    ] = 7,
    json_file: JsonFile = None,
    plot_file: Annotated[
        Path | None,
        typer.Option(
            "--plot", help="Plot GB/s over tensor size to this file.", callback=in_a_folder
        ),
    ] = None,
) -> int:
    """Normalisation, as multiples of the time of a copy."""
    from fastbn.bench import cases, kernels, rows, sides, table, targets
    from fastbn.bench.peers import choose
    from fastbn.bench.shapes import shapes as shapes_of

    counts = thread_counts(threads)
    rivals = choose(names(peers))
    every: Sequence[str] = cases.BESIDE_PEERS if rivals else cases.ALONE
    if ops:
        groups = {"norms": cases.NORM_OPS}
        every = [op for name in names(ops) for op in groups.get(name, (name,))]
    by_itself: sides.Alone = {}
    found: list[rows.Row] = []

    def tables(machine: dict[str, Any]) -> Iterator[object]:
        yield table.kernels_table(found, machine)
        yield table.results_table(targets.judge(found))
        for peer, ratios in by_itself.items():
            yield table.alone_line(peer, ratios)
        if plot_file is not None:
            from fastbn.bench.plot import roofline

            roofline(found, plot_file, f"batch_norm + ReLU, {machine['isa']}")

    with showing(found, counts, json_file, tables) as progress:
        kernels.run(
            kernels.cases(shapes_of(shapes), names(layouts), names(dtypes)),
            every,
            counts,
            peers=rivals,
            alone=by_itself if alone else None,
            rounds=rounds,
            progress=progress,
            into=found,
        )
    return 0


@bench_app.command()
def conv(
    cases: Annotated[
        str, typer.Option(help='all, or a list of parts of names, for example "3x3 64,depthwise".')
    ] = "all",
    ops: Annotated[
        str,
        typer.Option(help="List out of forward,dx,dweight,block. block adds BatchNorm and ReLU."),
    ] = "forward,dx,dweight,block",
    threads: Annotated[
        str | None, typer.Option(help="Thread counts, for example 1,2. Default: 1 and all.")
    ] = None,
    peers: Annotated[
        str, typer.Option(help="none, or torch. Default: torch if installed.")
    ] = "all",
    rounds: Annotated[
        int, typer.Option(help="Rounds, in which every side is timed once.", min=1)
    ] = 7,
    json_file: JsonFile = None,
) -> int:
    """Channels-last convolutions: forward, dx, dweight, and a block with BatchNorm and ReLU."""
    from fastbn.bench import conv as measuring
    from fastbn.bench import rows, table, targets
    from fastbn.bench.peers import choose

    counts = thread_counts(threads)
    found: list[rows.Row] = []

    def tables(machine: dict[str, Any]) -> Iterator[object]:
        yield table.conv_table(found, machine)
        yield table.results_table(targets.held_against(targets.CONV_TARGETS, found))

    with showing(found, counts, json_file, tables) as progress:
        measuring.run(
            measuring.choose(names(cases)),
            names(ops),
            counts,
            peers=choose(names(peers)),
            rounds=rounds,
            progress=progress,
            into=found,
        )
    return 0


@bench_app.command()
def train(
    network: Annotated[
        str,
        typer.Option(
            help="all (but the large ones), or a list out of mlp,convnet4,resnet20,inception; "
            "large: speedrun, and of 96 px: resnet18,resnet50,mobilenet_v2,densenet121,"
            "efficientnet_lite0."
        ),
    ] = "all",
    batch: Annotated[
        int | None, typer.Option(help="Batch size. Default: the network's own.", min=2)
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="Thread counts, for example 1,2. Default: 1 and all.")
    ] = None,
    peers: Annotated[
        str, typer.Option(help="none, all (installed), or a list out of torch,tensorflow,jax.")
    ] = "all",
    variants: Annotated[
        str,
        typer.Option(
            help='Only the peers\' variants with this in their name, for example "eager".'
        ),
    ] = "",
    rounds: Annotated[
        int, typer.Option(help="Rounds, in which every side is timed once.", min=1)
    ] = 7,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also show the operations of a step.")
    ] = False,
    trainer: Annotated[
        bool,
        typer.Option(
            "--trainer", help="Show only what a Trainer's step costs beyond a bare loop's."
        ),
    ] = False,
    json_file: JsonFile = None,
) -> int:
    """Training steps, against the best variant of every peer."""
    from fastbn.bench import networks, table, train_targets
    from fastbn.bench import train as measuring
    from fastbn.bench.peers import choose

    counts = thread_counts(threads)
    wanted = networks.choose(names(network))
    if trainer:
        if json_file is not None:
            raise typer.BadParameter("--trainer prints lines, and writes no --json file")
        from fastbn.bench import trainer as trainers

        for name, count in product(wanted, counts):
            cost = trainers.cost(name, batch=batch, threads=count, rounds=rounds)
            print(trainers.line(cost), flush=True)
        return 0
    found = measuring.Found()

    def tables(machine: dict[str, Any]) -> Iterator[object]:
        yield table.train_table(found.rows, found.peak_gflops, machine["isa"])
        yield table.results_table(train_targets.judge(found.rows))
        for title, operations in found.profiles.items():
            yield table.profile_table(title, operations)

    try:
        with showing(found.rows, counts, json_file, tables) as progress:
            measuring.run(
                wanted,
                counts,
                batch=batch,
                peers=choose(names(peers)),
                part=variants,
                rounds=rounds,
                profile=profile,
                progress=progress,
                into=found,
            )
    finally:
        warn_of(found.left_out)
    return 0


@bench_app.command()
@takes_memory
def model(
    files: Annotated[list[Path], typer.Argument(metavar="MODEL.onnx...", help="ONNX files.")],
    *,
    batch: Annotated[
        int, typer.Option(help="Samples in a call, where a file leaves it free.", min=1)
    ] = 1,
    free: Annotated[
        int, typer.Option(help="All other sizes that a file leaves free: height, width.", min=1)
    ] = 224,
    threads: Annotated[
        str | None, typer.Option(help="Thread counts, for example 1,2. Default: 1 and all.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Rounds, in which every model is timed once.", min=1)
    ] = 15,
    json_file: JsonFile = None,
) -> int:
    """Latency of ONNX files in onnxruntime: as they are, folded, and quantised to int8."""
    from fastbn.bench import model as measuring
    from fastbn.bench import table

    counts = thread_counts(threads)
    found = measuring.Found()

    def tables(machine: dict[str, Any]) -> Iterator[object]:
        yield table.model_table(found.rows, machine)

    try:
        with showing(found.rows, counts, json_file, tables) as progress:
            measuring.run(
                files,
                batch=batch,
                free=free,
                threads=counts,
                rounds=rounds,
                progress=progress,
                into=found,
            )
    finally:
        warn_of(found.left_out)
    return 0


@bench_app.command()
def install(json_file: JsonFile = None) -> int:
    """Bytes on the disk, import time and memory of a training, beside PyTorch's."""
    import json
    from dataclasses import asdict

    from rich.console import Console

    from fastbn.bench import install as measuring

    with Console(stderr=True).status("") as status:
        costs = measuring.measure(status.update)
    printer().print(measuring.table(costs))
    if json_file is not None:
        told = {name: asdict(cost) for name, cost in costs.items()}
        json_file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0


@bench_app.command()
def scale(
    network: Annotated[
        str, typer.Argument(help="mlp, convnet4, resnet20 or inception.")
    ] = "resnet20",
    *,
    batch: Annotated[
        int, typer.Option(help="Rows of a batch; in weak scaling of each rank.", min=2)
    ] = 64,
    ranks: Annotated[
        str | None, typer.Option(help="Numbers of ranks, for example 1,2. Default: 1 to all cores.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds, in which every job runs once.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Steps of a job.", min=2)] = 10,
    json_file: JsonFile = None,
) -> int:
    """Strong and weak scaling over ranks of one thread, and what a model promises for more."""
    import json
    from dataclasses import asdict

    from rich.console import Console

    from fastbn.bench import networks
    from fastbn.bench import scale as measuring

    [name] = networks.choose(names(network)[:1])
    cores = thread_counts(None)[-1]
    counts = [1, *(range(2, cores + 1) if ranks is None else thread_counts(ranks))]
    console = Console(stderr=True)
    warn_if_busy(console)
    with console.status("") as status:
        rows, wire = measuring.measure(
            name, batch, counts, rounds=rounds, steps=steps, progress=status.update
        )
    printer().print(measuring.scale_table(rows))
    promised: dict[int, float] = {}
    if wire is not None:
        promised = measuring.predicted(name, rows, wire, [2, 4, 8, 16, 32])
        print(
            f"Messages: {1e6 * wire.latency:.0f} µs, {1e-9 * wire.bandwidth:.2f} GB/s. A model "
            "(not measured) promises, in strong scaling over ranks with such a wire:"
        )
        print("  " + ", ".join(f"{n} ranks {speed:,.0f} images/s" for n, speed in promised.items()))
    if json_file is not None:
        told = {
            "network": name,
            "rows": [asdict(row) for row in rows],
            "wire": None if wire is None else asdict(wire),
            "model": promised,
        }
        json_file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0

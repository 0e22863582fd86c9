"""``fastbn bench cifar``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastbn.cli.measuring import names, printer, warn_if_busy


def cifar(
    data: Annotated[
        str | None, typer.Option(help="Folder of CIFAR-10. Default: where downloads are kept.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Times through the images.", min=0.01)] = 9.9,
    batch: Annotated[int, typer.Option(help="Images in a batch.", min=2)] = 1024,
    seeds: Annotated[int, typer.Option(help="Number of runs; seeds from 0 on.", min=1)] = 3,
    images: Annotated[
        int | None, typer.Option(help="Only the first images of the training part.", min=1)
    ] = None,
    activation: Annotated[str, typer.Option(help="gelu, or relu.")] = "gelu",
    peers: Annotated[str, typer.Option(help="none, or torch: time an epoch of it, too.")] = "none",
    variants: Annotated[
        str,
        typer.Option(help="Only PyTorch's variants with this in their name, eager or compile."),
    ] = "eager",
    full_peer: Annotated[
        bool, typer.Option("--full-peer", help="Let PyTorch train to the end.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="2,500 images, one epoch: compare with PyTorch."),
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the runs; those there are kept.")
    ] = Path("fastbn-cifar"),
) -> int:
    """Train CIFAR-10 to 94 % by the fastest known recipe; time, accuracy, arithmetic, energy."""
    from rich.console import Console

    import fastbn
    from fastbn import data as datasets
    from fastbn.bench.cifar import compare, run, show
    from fastbn.bench.cifar.recipe import Recipe, images_of
    from fastbn.bench.peers import choose
    from fastbn.train import plot

    console = Console(stderr=True)
    warn_if_busy(console)
    rivals = choose(["torch"] if quick or full_peer else names(peers))
    if rivals and "torch" not in rivals:
        raise typer.BadParameter(f"--peers: only torch has the recipe, not {', '.join(rivals)}")
    wanted = compare.choose_variants(variants) if rivals else []
    threads = fastbn.get_num_threads()
    if quick:
        with console.status("") as status:
            found = compare.quick(data, threads, status.update)
        for line in show.comparison_lines(found):
            print(line)
        return int(not found.same)
    recipe = Recipe(epochs=epochs, batch=batch)
    dataset = images_of(datasets.load("cifar10", data), images)
    output.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(seeds):
        path = output / f"{activation}-{epochs:g}-{len(dataset.x_train)}-seed{seed}.json"
        if path.is_file():
            console.print(f"seed {seed}: {path} is there", highlight=False)
            runs.append(run.load(path))
            continue
        with console.status("") as status:
            one, net = run.train_once(
                dataset,
                recipe,
                seed,
                activation=activation,
                tell=lambda text, seed=seed: status.update(f"seed {seed}: {text}"),  # type: ignore[misc]
            )
        run.save(one, path)
        runs.append(one)
        run.keep(net, dataset, output / f"{path.stem}.safetensors")
        console.print(f"seed {seed}: {one.seconds:.0f} s, {one.accuracy:.2%}", highlight=False)
    printer().print(show.table(runs))
    for line in show.lines(runs):
        print(line)
    times = []
    if wanted:
        with console.status("") as status:
            times = compare.time_peer(
                data,
                recipe,
                0,
                threads,
                images=images,
                variants=wanted,
                full=full_peer,
                tell=status.update,
            )
    for line in show.peer_lines(runs, times):
        print(line)
    if plot.available():
        show.plot(runs, times, output / "accuracy.png")
    return 0

"""The command line: ``fastbn demo | train | export | fold | validate | info | data | bench``.

Exit codes: 0 done (and agreed), 1 compared and different, 2 wrong use or a bad file. An error is
one line on stderr that says what to do about it; ``--debug`` prints the traceback as well.
Everything but typer is imported inside the commands, so that ``fastbn --help`` is quick.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastbn import cli_onnx
from fastbn.bench.cli import bench_app
from fastbn.cli_onnx import DIFFERENT, DONE, PROOF
from fastbn.table import show

WRONG, INTERRUPTED = 2, 130

app = typer.Typer(
    add_completion=False,
    help="Train batch-normalised networks on the CPU; export them to ONNX with BatchNorm folded.",
    epilog="--debug, anywhere on the line: print the traceback of an error as well.",
)
data_app = typer.Typer(help="Data sets.")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")


class Optimizer(StrEnum):
    """What ``--optimizer`` takes."""

    ADAM = "adam"
    ADAMW = "adamw"
    SGD = "sgd"


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the files that are written.")
    ] = Path("fastbn-demo"),
    epochs: Annotated[int, typer.Option(help="Times through the training images.", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="Of initial weights and order.", min=0)] = 0,
) -> int:
    """Train a convnet on scanned digits, export it, prove the file; under a minute."""
    from fastbn import demo

    report = demo.run(output, epochs=epochs, seed=seed)
    names = ("test_accuracy", "steps", "images_per_second", *PROOF)
    files = sorted(path.name for path in output.iterdir() if path.name in demo.FILES)
    show("fastbn demo", {name: report[name] for name in names} | {str(output): files})
    return DONE


@app.command()
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
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the files that are written.")
    ],
    epochs: Annotated[int, typer.Option(help="Times through the training images.", min=1)] = 3,
    batch_size: Annotated[int, typer.Option(help="Images in a step.", min=1)] = 64,
    optimizer: Annotated[Optimizer, typer.Option(help="How weights move.")] = Optimizer.ADAM,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; 0.001, of sgd (momentum 0.9) 0.05.")
    ] = None,
    final_lr: Annotated[
        float | None, typer.Option(help="Learning rate of the last epoch; the same by default.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay; the optimizer's default.", min=0)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights and order.", min=0)] = 0,
    threads: Annotated[
        int | None, typer.Option(help="Threads; by default as many as there are cores.", min=1)
    ] = None,
) -> int:
    """Train a network; write model.safetensors, report.json and training.png."""
    import fastbn
    from fastbn import runs

    if threads is not None:
        fastbn.set_num_threads(threads)
    report = runs.train(
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
    show(f"{model} on {data}", report | {"weights": str(output / runs.WEIGHTS)})
    return DONE


app.command()(cli_onnx.export)
app.command()(cli_onnx.fold)
app.command()(cli_onnx.validate)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Show versions, instruction set, threads, caches and the data sets that are found."""
    from fastbn.environment import describe

    environment = describe()
    if as_json:
        import json

        print(json.dumps(environment, indent=2))
    else:
        show("fastbn", environment)
    return DONE


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="mnist or cifar10.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; ~/.cache/fastbn by default.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="A mirror: the folder that holds the published files.")
    ] = None,
) -> int:
    """Download a data set, verified against its published hashes."""
    from fastbn import data
    from fastbn.data.progress import DownloadBar

    with DownloadBar() as bar:
        folder = data.fetch(name, root, base_url=base_url, progress=bar)
    print(f"{folder}: {data.load(folder)}")
    return DONE


def one_line(error: Exception) -> str:
    """Say an error in one line; what nobody expected is called so.

    >>> one_line(ValueError("first   second"))
    'first second'
    >>> one_line(KeyError("name"))
    "unexpected KeyError: 'name'; please report it with the traceback that --debug prints"
    """
    # Click's own errors; which package defines their class depends on the version of typer.
    message = getattr(error, "format_message", lambda: str(error))()
    text = " ".join(message.split())
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "fastbn"
        return f"{text.rstrip('.')}; see '{command} --help'"
    if isinstance(error, OSError | ValueError | TypeError | ImportError | RuntimeError):
        return text or type(error).__name__
    return (
        f"unexpected {type(error).__name__}: {text}; "
        "please report it with the traceback that --debug prints"
    )


def exit_code(error: Exception) -> int:
    """Tell models that differ (1) from all other errors (2)."""
    errors = sys.modules.get("fastbn.export.errors")  # not loaded: nothing was compared
    return DIFFERENT if errors and isinstance(error, errors.MismatchError) else WRONG


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and leave the process with its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(args=arguments or ["--help"], prog_name="fastbn", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"fastbn: error: {one_line(error)}", file=sys.stderr)
        code = exit_code(error)
    sys.exit(code)

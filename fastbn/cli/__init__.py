"""The command line: ``fastbn demo | train | predict | export | fold | validate | bench | …``.

A file a group of commands. Exit codes: 0 done (and agreed), 1 compared and different, 2 wrong use
or a bad file, 3 training met a value that is not finite, 4 a rank was lost, 130 and 143
interrupted. An error is one line on stderr that says what to do about it; ``--debug`` prints the
traceback as well. Everything but typer is imported inside the commands, so that ``fastbn --help``
is quick.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from fastbn.cli import (
    bench,
    bench_cifar,
    bench_fold,
    bench_read,
    data,
    demo,
    export,
    finetune,
    info,
    models,
    onnx,
    predict,
    report,
    reproduce,
    train,
    watch,
)
from fastbn.cli.errors import INTERRUPTED, exit_code, one_line

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="--debug, anywhere on the line: print the traceback of an error as well.",
)
for command in (
    demo.demo,
    train.train,
    finetune.finetune,
    report.report,
    report.compare,
    predict.predict,
    export.export,
    onnx.fold,
    onnx.validate,
    reproduce.reproduce,
    models.models,
    info.info,
):
    app.command()(command)
app.command("lr-find")(train.lr_find)
app.add_typer(data.data_app, name="data")
bench.bench_app.command()(bench_cifar.cifar)
bench.bench_app.command("fold")(bench_fold.fold_table)
bench.bench_app.command("read")(bench_read.read_table)
app.add_typer(bench.bench_app, name="bench")


def print_version(wanted: bool) -> None:
    """Print the version and leave, if wanted."""
    if wanted:
        import fastbn

        print(f"fastbn {fastbn.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """Train batch-normalised networks on the CPU; export them to ONNX with BatchNorm folded."""


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
    watch.enabled = argv is None
    try:
        code = app(args=arguments or ["--help"], prog_name="fastbn", standalone_mode=False)
        watch.settle()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        watch.settle()
        if debug:
            traceback.print_exc()
        print(f"fastbn: error: {one_line(error)}", file=sys.stderr)
        code = exit_code(error)
    sys.exit(code)

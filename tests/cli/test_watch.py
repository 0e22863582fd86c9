"""Commands on hostile files, as a user types them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hostile
import onnx
import psutil
import pytest

from fastbn.bench.patterns import PATTERNS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="commands are watched by forking")
Arguments = list[str]


def typed(arguments: Arguments) -> subprocess.CompletedProcess[str]:
    """Run a command as its own process."""
    program = [sys.executable, "-c", "from fastbn.cli import main; main()", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("expand", [], "takes more than 805.3 MB of memory; raise that with --max-memory"),
        ("doubled_by_concat", ["--max-memory", "400MB"], "takes more than 400.0 MB of memory"),
        (
            "loop_whose_condition_is_computed",
            ["--max-seconds", "1"],
            "takes more than 1 seconds; raise that with --max-seconds",
        ),
    ],
)
def test_what_cannot_be_known_beforehand_is_stopped(
    tmp_path: Path, name: str, options: Arguments, message: str
) -> None:
    done = typed(hostile.FILES[name](tmp_path) + options)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"fastbn: error: {tmp_path / 'a.onnx'}")
    assert message in done.stderr
    assert done.stdout == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.onnx"]


def test_a_good_file_comes_through(tmp_path: Path) -> None:
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(PATTERNS["conv-bn"].build(), source)
    options = ["--max-seconds", "200"]
    done = typed(["fold", str(source), "-o", str(target), *options])
    assert (done.returncode, done.stderr) == (0, "")
    assert "bn_before" in done.stdout
    model = onnx.load(target)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, target)
    assert typed(["validate", str(source), str(target), *options]).returncode == 1


def test_a_size_that_is_none(tmp_path: Path) -> None:
    done = typed(["fold", "a.onnx", "-o", str(tmp_path / "b.onnx"), "--max-memory", "lots"])
    assert done.returncode == 2
    assert "--max-memory: expected a size as in 500MB or 4GB, got 'lots'" in done.stderr


CRASH = """
import os, sys
from fastbn.export import io
from fastbn.cli import main
io.read_model = lambda *_, **__: os.abort()
import fastbn.export.fold.api as api
api.read_model = io.read_model
main()
"""


def test_a_crash_is_one_line(tmp_path: Path) -> None:
    source = tmp_path / "a.onnx"
    onnx.save(PATTERNS["conv-bn"].build(), source)
    done = subprocess.run(
        [sys.executable, "-c", CRASH, "fold", str(source), "-o", str(tmp_path / "b.onnx")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"fastbn: error: {source}: the process that read it was ended by SIGABRT\n"
    )


LATE = """
import sys, time
from fastbn import budgets
from fastbn.cli import watch
budgets.allowed_seconds = lambda read: 0.2
watch._go_on_in_a_child("a file")
if "settled" in sys.argv:
    watch.settle()
print("said", file=sys.stderr, flush=True)
while time.process_time() < 1.0:
    pass
"""


@pytest.mark.parametrize(
    ("state", "code", "errors"),
    [
        ("settled", 0, "said\n"),
        (
            "working",
            2,
            "said\nfastbn: error: a file: takes more than 0.2 seconds; "
            "raise that with --max-seconds if you trust the file\n",
        ),
    ],
)
def test_who_has_said_the_last_line_is_not_stopped(state: str, code: int, errors: str) -> None:
    program = [sys.executable, "-c", LATE, state]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, errors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    arguments = hostile.FILES["loop_whose_condition_is_computed"](tmp_path)
    # Whoever runs the tests in the background may have had SIGINT ignored.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = [sys.executable, "-c", f"{heed}; from fastbn.cli import main; main()", *arguments]
    process = subprocess.Popen(
        [*program, "--max-seconds", "600"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not psutil.Process(process.pid).children():  # the one that reads the file
        assert process.poll() is None
        time.sleep(0.05)
    if number == signal.SIGINT:  # a terminal tells the whole group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode in (128 + number, -number)

"""Commands that need no training, and what a user sees of an error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastbn
from fastbn.cli.errors import one_line

Run = Callable[..., int]


def relu_model(path: Path, bias: float) -> Path:
    """Write Relu(Gemm(x)) with a seeded weight."""
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.full(3, bias, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return path


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from fastbn import cli\n"
        "try:\n    cli.main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    *_, loaded = done.stdout.splitlines()
    for command in ("demo", "train", "export", "fold", "validate", "info", "data", "bench"):
        assert f" {command} " in done.stdout
    for name in ("onnx", "onnxruntime", "matplotlib", "sklearn", "scipy", "pooch", "safetensors"):
        assert f"'{name}'" not in loaded


def test_no_arguments_print_the_help(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "Usage: fastbn" in capsys.readouterr().out


def test_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"fastbn {fastbn.__version__}\n"


def test_short_help_of_a_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "fetch", "-h") == 0
    assert "Usage: fastbn data fetch" in capsys.readouterr().out


def test_completion_in_the_shell(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"_FASTBN_COMPLETE": "complete_bash", "COMP_WORDS": "fastbn tra", "COMP_CWORD": "1"}
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    assert run() == 0
    assert capsys.readouterr().out.split() == ["train"]


def test_info(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info") == 0
    printed = capsys.readouterr().out
    assert fastbn.__version__ in printed
    assert run("info", "--json") == 0
    machine = json.loads(capsys.readouterr().out)
    assert machine["isa"] in machine["isa_available"]
    assert machine["isa"] in printed
    assert machine["threads"] == fastbn.get_num_threads()
    assert machine["versions"]["numpy"] == np.__version__


def test_info_finds_data(
    run: Run, capsys: pytest.CaptureFixture[str], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTBN_DATA", str(data_dir))
    assert run("info", "--json") == 0
    assert json.loads(capsys.readouterr().out)["data"]["mnist"] == str(data_dir / "mnist")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["exprot"], "No such command 'exprot'"),
        (["validate"], "Missing argument"),
        (["validate", "--seeds", "many", "a.onnx"], "'--seeds'"),
        (["validate", "nowhere.onnx"], "nowhere.onnx"),
        (["data", "fetch", "digits"], "expected one of mnist, cifar10"),
        (["data"], "Missing command"),
    ],
)
def test_errors_are_one_line_on_stderr(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("fastbn: error: ")
    assert expected in captured.err
    assert run("--debug", *arguments) == 2
    assert capsys.readouterr().err.startswith("Traceback")


def test_wrong_use_says_where_the_help_is(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("data", "fetch")
    assert "see 'fastbn data fetch --help'" in capsys.readouterr().err


def test_a_file_that_is_no_model(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("this is no model")
    assert run("validate", path) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert error.count("\n") == 1


def test_unexpected_errors_are_called_so() -> None:
    line = one_line(ZeroDivisionError("division by zero"))
    assert line.startswith("unexpected ZeroDivisionError: division by zero")


def test_validate_tells_by_its_exit_code(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = relu_model(tmp_path / "first.onnx", 0.5)
    same = relu_model(tmp_path / "same.onnx", 0.5)
    other = relu_model(tmp_path / "other.onnx", 0.501)
    assert run("validate", first) == 0
    assert run("validate", first, same) == 0
    assert "max_abs_f64" in capsys.readouterr().out
    assert run("validate", first, other) == 1
    assert "different" in capsys.readouterr().out


def test_fetch_names_the_mirror_option(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("pooch")
    # port 9 of the loopback address: nobody listens
    code = run("data", "fetch", "mnist", "--root", tmp_path, "--base-url", "http://127.0.0.1:9/")
    assert code == 2
    assert "name a mirror" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

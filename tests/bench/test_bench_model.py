"""``fastbn bench model``: its forms, rows, table and JSON. Nothing here asks how fast."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from fastbn import cli, export, nn
from fastbn.bench import load, model, table
from fastbn.bench.model import AS_IS, FOLDED, INT8
from fastbn.bench.patterns import PATTERNS
from fastbn.bench.rows import machine

Save = Callable[[str, onnx.ModelProto], str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "TRIES", 1)


@pytest.fixture
def net() -> str:
    """An exported network that has kept its two BatchNorms."""
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, rng=0), nn.BatchNorm(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, rng=1), nn.BatchNorm(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 4 * 4, 5, rng=2),
    )  # fmt: skip
    net(np.random.default_rng(0).standard_normal((16, 6, 6, 2), dtype=np.float32))
    export.to_onnx(net, "net.onnx", fold=False)
    return "net.onnx"


def pattern(name: str) -> str:
    onnx.save(PATTERNS[name].build(), f"{name}.onnx")
    return f"{name}.onnx"


def measured(*paths: str, **options: object) -> model.Found:
    return model.run(paths, rounds=2, seconds=1e-5, **options)  # type: ignore[arg-type]


def test_the_forms_of_files_on_several_threads(net: str) -> None:
    told: list[str] = []
    found = measured(net, pattern("conv-bn"), net, batch=3, threads=(1, 2), progress=told.append)
    keys = [(row.threads, row.name, row.op) for row in found.rows]
    names = (net, "conv-bn.onnx")
    assert keys == [
        (threads, name, form)
        for threads in (1, 2)
        for name in names
        for form in (AS_IS, FOLDED, INT8)
        if (name, form) != ("conv-bn.onnx", INT8) or not found.left_out
    ]
    rows = {row.op: row for row in found.rows if (row.threads, row.name) == (1, net)}
    assert [rows[form].batch_norms for form in (AS_IS, FOLDED, INT8)] == [2, 0, 0]
    assert rows[FOLDED].nodes == rows[AS_IS].nodes - 2
    original = onnx.load(net)
    assert rows[AS_IS].size == original.ByteSize()
    assert rows[INT8].size < rows[FOLDED].size < rows[AS_IS].size
    assert {row.shape for row in rows.values()} == {(3, 2, 6, 6)}
    assert [rows[form].dtype for form in (AS_IS, INT8)] == ["float32", "int8"]
    for row in found.rows:
        assert 0.0 < row.us_low <= row.us <= row.us_high
    assert rows[AS_IS].x_before == 1.0
    assert rows[INT8].x_before == pytest.approx(rows[AS_IS].us / rows[INT8].us)
    assert told[0] == "net.onnx: fold and quantise"
    assert told[-1].endswith("models, threads 2: 2 turns")


def test_files_that_have_fewer_forms(net: str) -> None:
    graph = nn.Graph(inputs := [nn.Input((4,)), nn.Input((4,))], nn.BatchNorm(4)(nn.add(*inputs)))
    graph(*np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32))
    export.to_onnx(graph, "two.onnx", fold=False)
    x = np.random.default_rng(1).standard_normal((32, 6, 6, 2), dtype=np.float32)
    model_of = nn.Sequential(nn.Flatten(), nn.Linear(72, 4, rng=0))
    model_of(x)
    export.to_onnx(model_of, "int8.onnx", precision="int8", calibration=x)
    found = measured("two.onnx", "int8.onnx")
    assert [(row.name, row.op) for row in found.rows][-1] == ("int8.onnx", AS_IS)
    assert found.left_out == [
        "two.onnx, int8: only models of one float32 input are quantised",
        "int8.onnx, folded: it has no BatchNorm",
        "int8.onnx, int8: it computes with narrow numbers already",
    ]


def test_sizes_that_a_file_leaves_free_or_does_not(net: str) -> None:
    free = onnx.load(net)
    for value in (*free.graph.input, *free.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(free, "four.onnx")
    assert {row.shape for row in measured("four.onnx", batch=2).rows} == {(4, 2, 6, 6)}
    pooled = nn.Sequential(nn.Conv2d(2, 3, 3, rng=0), nn.GlobalAvgPool2d()).build((6, 6, 2))
    export.to_onnx(pooled, "pooled.onnx")
    model_proto = onnx.load("pooled.onnx")
    for axis in (2, 3):
        dim = model_proto.graph.input[0].type.tensor_type.shape.dim[axis]
        dim.dim_param = f"size{axis}"
    del model_proto.graph.value_info[:]
    onnx.save(model_proto, "free.onnx")
    assert {row.shape for row in measured("free.onnx", free=10).rows} == {(1, 2, 10, 10)}


def test_the_table(net: str) -> None:
    found = measured(net, threads=(1, 2))
    for row in found.rows:
        row.x_before = 1.0
    found.rows[1].x_before = 0.5
    console = Console(width=200, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(table.model_table(found.rows, machine([1, 2])))
    text = capture.get()
    assert "onnxruntime 1." in text
    assert text.count("net.onnx") == 2
    assert text.count("folded") == 2
    red = [line for line in text.splitlines() if "\x1b[31m" in line]
    assert len(red) == 1
    assert "folded" in red[0]


def test_the_command(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "model", net, "--threads", "1", "--rounds", "1", "--json", "rows.json"])
    assert caught.value.code == 0
    shown = capsys.readouterr()
    assert "as it is" in shown.out
    assert "net.onnx: fold and quantise" in shown.err
    told = json.loads(Path("rows.json").read_text(encoding="utf-8"))
    assert told["machine"]["threads"] == [1]
    assert "onnxruntime" in told["machine"]["versions"]
    assert [(row["op"], row["batch_norms"]) for row in told["rows"]] == [
        (AS_IS, 2), (FOLDED, 0), (INT8, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.onnx"], "nowhere.onnx"),
        (["broken.onnx"], "broken.onnx"),
        (["net.onnx", "--batch", "0"], "--batch"),
        (["net.onnx", "--threads", "none"], "threads"),
        (["net.onnx", "--json", "nowhere/rows.json"], "nowhere"),
        ([], "MODEL.onnx"),
    ],
)
def test_wrong_use(
    net: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("broken.onnx").write_bytes(b"no model")
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "model", *arguments])
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert message in shown.err.splitlines()[-1]
    assert not shown.out

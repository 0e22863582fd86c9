"""The benchmark of convolutions: its cases, its rows, its table. Nothing here asks how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastbn import cli
from fastbn.bench import conv, table
from fastbn.bench.peers import installed
from fastbn.bench.rows import machine

SMALL = conv.ConvCase("small", 2, 6, 4, 8, 3, 2)


def test_cases_are_chosen_by_parts_of_their_names() -> None:
    assert conv.choose(["all"]) == list(conv.CASES.values())
    assert {case.groups for case in conv.choose(["depthwise"])} == {64, 128, 256}
    with pytest.raises(ValueError, match="cases: '9x9' is no part of 3x3 32@56, "):
        conv.choose(["1x1", "9x9"])


def test_arithmetic_and_values() -> None:
    assert SMALL.out == 3
    assert SMALL.flops == 2 * (2 * 3 * 3 * 8) * (3 * 3 * 4)
    assert conv.CASES["depthwise 64@28"].flops == 2 * (16 * 28 * 28 * 64) * 9
    for array, again in zip(SMALL.values(), SMALL.values(), strict=True):
        np.testing.assert_array_equal(array, again)
        assert array.ctypes.data % 64 == 0


def test_every_operation_has_its_row() -> None:
    found = conv.run([SMALL], conv.OPS, [1], rounds=1, seconds=1e-5)
    assert [row.op for row in found] == list(conv.OPS)
    for row in found:
        assert row.shape == (2, 6, 6, 4)
        assert row.us > 0
        assert row.gflops == pytest.approx(SMALL.flops / row.us / 1e3)
        assert row.x_torch is None
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table.conv_table(found, machine([1])))
    assert "dweight" in capture.get()
    with pytest.raises(ValueError, match="ops: 'dbias' is not one of forward, dx, dweight"):
        conv.run([SMALL], ["dbias"], [1])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "conv.json"
    options = ["--cases", "3x3 64@7", "--ops", "dx", "--threads", "1", "--peers", "none"]
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "conv", *options, "--rounds", "1", "--json", str(path)])
    assert end.value.code == 0
    assert "3x3 64@7" in capsys.readouterr().out
    (row,) = json.loads(path.read_text("utf-8"))["rows"]
    assert (row["name"], row["op"], row["layout"]) == ("3x3 64@7", "dx", "nhwc")


@pytest.mark.parametrize("peer", [peer for peer in installed() if peer in conv.PEERS])
def test_a_peer_computes_the_same(peer: str) -> None:
    cases = conv.choose(["3x3 64@7", "1x1/2", "depthwise 256@14"])
    for row in conv.run(cases, conv.OPS, [1], peers=[peer], rounds=1, seconds=1e-5):
        assert getattr(row, f"x_{peer}") > 0

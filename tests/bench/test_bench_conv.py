"""The benchmark of convolutions: its cases, its rows, its table. Nothing here asks how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastbn import cli
from fastbn import functional as F
from fastbn.bench import conv, table, targets
from fastbn.bench.peers import installed
from fastbn.bench.rows import Row, machine

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
        assert row.gflops == pytest.approx(SMALL.flops_of(row.op) / row.us / 1e3)
        assert row.x_torch is None
        assert (row.x_conv is None) == (row.op != "block")
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table.conv_table(found, machine([1])))
    assert "dweight" in capture.get()
    with pytest.raises(ValueError, match="ops: 'dbias' is not one of forward, dx, dweight, block"):
        conv.run([SMALL], ["dbias"], [1])


def test_a_block_is_what_its_operations_give_one_by_one() -> None:
    x, storage, dy = SMALL.values()
    weight = storage.transpose(3, 2, 0, 1)
    z, of_conv = F.conv2d(x, weight, stride=2, padding=1, moments=True)
    ones, zeros = np.ones(8, "f"), np.zeros(8, "f")
    y, of_norm = F.batch_norm(
        z, ones, zeros, training=True, activation="relu", moments=of_conv.moments
    )
    dz, *_ = F.batch_norm_backward(dy, of_norm)
    dx, dweight, _ = F.conv2d_backward(dz, of_conv)  # type: ignore[arg-type]
    found = conv.ours(SMALL, ["block"])
    assert list(found) == ["block", conv.ALONE]
    for got, expected in zip(found["block"](), (y, dx, dweight), strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(got, expected)
    assert SMALL.flops_of("block") == 3 * SMALL.flops


def test_targets_are_those_of_3x3_convolutions() -> None:
    def row(name: str, op: str, channels: int = 32, **figures: float) -> Row:
        return Row(name, (1, 1, 1, channels), "nhwc", op, "float32", 1, 1.0, **figures)  # type: ignore[arg-type]

    found = [
        row("3x3 64@7", "dx", x_torch=4.0),
        row("3x3 32@7", "dx", x_torch=0.7),
        row("3x3 3>16@7", "dx", 3, x_torch=0.5),
        row("1x1/2", "dx", x_torch=0.1),
        row("3x3 64@7", "block", x_torch=3.0, x_conv=1.1),
        row("depthwise", "block", x_conv=3.0),
    ]
    every, block, dx, _ = targets.held_against(targets.CONV_TARGETS, found)
    assert (every.label, every.count, every.worst) == ("3×3 dx, × torch", 3, 0.5)
    assert dx.label == "3×3 of 32 channels and more dx, × torch"
    assert (dx.count, dx.worst, dx.wanted, dx.reached) == (2, 0.7, "≥ 1, worst ≥ 0.8", False)
    assert dx.mean == pytest.approx((4.0 * 0.7) ** 0.5)
    assert (block.label, block.count, block.mean) == ("3×3 → BN → ReLU, × conv", 1, 1.1)
    assert (block.wanted, block.reached) == ("≤ 1.15", True)
    assert not targets.held_against(targets.TARGETS, found)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "conv.json"
    options = ["--cases", "3x3 64@7", "--ops", "block", "--threads", "1", "--peers", "none"]
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "conv", *options, "--rounds", "1", "--json", str(path)])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "3x3 64@7" in printed
    assert "≤ 1.15" in printed
    (row,) = json.loads(path.read_text("utf-8"))["rows"]
    assert (row["name"], row["op"], row["layout"]) == ("3x3 64@7", "block", "nhwc")
    assert row["x_conv"] > 0


@pytest.mark.parametrize("peer", [peer for peer in installed() if peer in conv.PEERS])
def test_a_peer_computes_the_same(peer: str) -> None:
    cases = conv.choose(["3x3 64@7", "1x1/2", "depthwise 256@14"])
    for row in conv.run(cases, conv.OPS, [1], peers=[peer], rounds=1, seconds=1e-5):
        assert getattr(row, f"x_{peer}") > 0

"""The benchmark of the kernels: its rows, its JSON, its tables. Nothing here asks how fast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import fastbn
from fastbn import cli
from fastbn.bench import cases, kernels, rows, table, targets
from fastbn.bench.peers import TITLES, choose, installed
from fastbn.bench.rows import Row
from fastbn.bench.shapes import parse, shapes
from fastbn.kernels import yardsticks

FIELDS = [
    "name", "shape", "layout", "op", "dtype", "threads", "us", "gbps", "gflops",
    "x_copy", "x_triad", "x_bare", "x_conv", "x_torch", "x_tensorflow", "x_jax",
]  # fmt: skip


def measured(
    names: Sequence[str], ops: Sequence[str] = cases.ALONE, dtype: str = "float32"
) -> list[Row]:
    wanted = kernels.cases([parse(name) for name in names], cases.LAYOUTS, [dtype])
    return kernels.run(wanted, ops, [1], rounds=1, seconds=1e-5)


def printed(found: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(found)
    return capture.get()


@pytest.mark.parametrize("size", [0, 1, 63, 64, 100, 1000, 4096, 70_001])
@pytest.mark.parametrize("offset", [0, 1, 17])
@pytest.mark.parametrize("stream", [False, True])
def test_yardsticks_do_what_they_say(
    rng: np.random.Generator, size: int, offset: int, stream: bool
) -> None:
    a, b = rng.integers(0, 256, (2, size + offset), dtype=np.uint8)[:, offset:]
    y = np.full(size + offset + 1, 7, np.uint8)
    yardsticks.copy(a, y[offset:-1], stream)
    np.testing.assert_array_equal(y[offset:-1], a)
    yardsticks.triad(a, b, y[offset:-1], stream)
    np.testing.assert_array_equal(y[offset:-1], a ^ b)
    assert (y[:offset] == 7).all()
    assert y[-1] == 7


def test_yardsticks_refuse_what_would_read_beyond_an_array() -> None:
    a = np.zeros(8)
    for call in (
        lambda: yardsticks.copy(a, np.zeros(7)),
        lambda: yardsticks.copy(a[::2], np.zeros(4)),
        lambda: yardsticks.triad(a, np.zeros(9), np.zeros(8)),
        lambda: yardsticks.triad(a, a, np.broadcast_to(0.0, (8,))),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("slab", [0, 64, 1000, 70_000])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_passes_write_all_that_they_should(
    rng: np.random.Generator, number: int, slab: int, stream: bool, threads: int, set_threads: Any
) -> None:
    set_threads(threads)
    a, b, c = rng.integers(0, 256, (3, 3 * 100_001), dtype=np.uint8)
    y, z = np.zeros((2, a.size), np.uint8)
    yardsticks.passes((a, b, c), ((a, b, y), (c, None, z)), number, slab, stream)
    np.testing.assert_array_equal(y, a ^ b)
    np.testing.assert_array_equal(z, c)


def test_passes_refuse_what_would_read_beyond_an_array() -> None:
    a, y = np.zeros((2, 8))
    for reads, moves in (
        ((a,), ((a, None, y[:7]),)),
        ((y[:7],), ((a, None, y),)),
        ((a, y[:7]), ((a, None, y),)),
        ((a,), ((a, y[:7], y),)),
        ((a,), ((a, None, y), (a, None, y[:7]))),
        ((a[::2],), ((a[::2], None, y[:4]),)),
    ):
        with pytest.raises(ValueError, match="must be"):
            yardsticks.passes(reads, moves, 1, 0)
    for reads, moves in (
        ((None,), ((a, None, y),)),
        ((a,), ((None, None, y),)),
        ((a,), ((a, None, None),)),
    ):
        with pytest.raises(TypeError, match="got None"):
            yardsticks.passes(reads, moves, 1, 0)
    for number, slab in ((3, 0), (0, 0), (1, -1)):
        with pytest.raises(ValueError, match="rows"):
            yardsticks.passes((a,), ((a, None, y),), number, slab)
    for reads, moves in (((), ((a, None, y),)), ((a,), ()), ((a,) * 4, ((a, None, y),))):
        with pytest.raises(ValueError, match="expected 1 to 3"):
            yardsticks.passes(reads, moves, 1, 0)


def test_multiply_adds_are_counted(set_threads: object) -> None:
    assert callable(set_threads)
    set_threads(1)
    alone = yardsticks.multiply_adds(10)
    assert alone == 2 * yardsticks.multiply_adds(10, float64=True)
    set_threads(2)
    assert yardsticks.multiply_adds(10) == fastbn.get_num_threads() * alone


def test_every_layout_has_its_rows() -> None:
    found = measured(["2:3@4x5", "6x4"])
    assert {(row.shape, row.layout) for row in found} == {
        ((2, 3, 4, 5), "nchw"),
        ((2, 4, 5, 3), "nhwc"),
        ((6, 4), "nc"),
    }
    for layout in cases.LAYOUTS:
        ops = [row.op for row in found if row.layout == layout]
        assert ops == [*cases.ALONE, *cases.YARDSTICKS]
    for row in found:
        assert row.us > 0
        assert row.gbps is not None
        assert row.gbps > 0
        assert row.x_torch is row.x_tensorflow is row.x_jax is None
        if row.op == "copy":
            assert row.x_copy == 1.0


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_bandwidth_counts_what_has_to_move(dtype: str) -> None:
    (row, *_) = measured(["6x4"], ["backward_residual"], dtype)
    moved = 5 * 24 * cases.dtype_of(dtype).itemsize
    assert row.gbps is not None
    assert row.gbps * row.us == pytest.approx(moved / 1e3)


def test_fresh_operations_return_new_arrays() -> None:
    from fastbn.bench.ours import Ours

    ours = Ours(cases.Case(parse("6x4"), "nc", "float32"), ("forward", "forward_fresh"))
    (first,), (second,) = ours.calls["forward"](), ours.calls["forward"]()
    assert first is second
    (first,), (second,) = ours.calls["forward_fresh"](), ours.calls["forward_fresh"]()
    assert first is not second


def test_threads_are_as_before() -> None:
    before = fastbn.get_num_threads()
    measured(["6x4"])
    assert fastbn.get_num_threads() == before


def test_json_has_the_documented_form(tmp_path: Path) -> None:
    found = measured(["2:3@4x5"], ["forward"])
    rows.write(tmp_path / "bench.json", rows.machine([1]), found)
    document = json.loads((tmp_path / "bench.json").read_text("utf-8"))
    assert list(document) == ["machine", "rows"]
    assert list(document["machine"]) == ["isa", "threads", "caches", "versions"]
    assert document["machine"]["versions"]["fastbn"] == fastbn.__version__
    assert len(document["rows"]) == len(found)
    for row in document["rows"]:
        assert list(row) == FIELDS
        assert row["x_torch"] is row["x_jax"] is row["gflops"] is None
        assert row["shape"] in ([2, 3, 4, 5], [2, 4, 5, 3])


def row(**changes: object) -> Row:
    values = {
        "name": "64@56", "shape": (16, 64, 56, 56), "layout": "nchw", "op": "forward",
        "dtype": "float32", "threads": 1, "us": 10.0, "x_copy": 1.0, "x_triad": 1.0,
    }  # fmt: skip
    return Row(**(values | changes))  # type: ignore[arg-type]


def test_tables_show_every_row_and_only_peers_that_were_there() -> None:
    found = [row(), row(op="backward", x_torch=2.0), row(op="copy")]
    text = printed(table.kernels_table(found, rows.machine([1])))
    assert text.count("64@56") == 2
    assert "× PyTorch" in text
    assert "× JAX" not in text


@pytest.mark.parametrize(
    ("changes", "loses"),
    [
        ({}, False),
        ({"x_copy": 1.49}, False),
        ({"x_copy": 1.51}, True),
        ({"x_torch": 1.1, "x_jax": 0.9}, True),
        ({"x_torch": 1.1, "x_jax": 1.2}, False),
        ({"layout": "nhwc", "x_copy": 1.9}, False),
        ({"op": "backward", "x_triad": 1.7}, True),
    ],
)
def test_a_row_loses_against_a_peer_or_the_limit_of_single_shapes(
    changes: dict[str, object], loses: bool
) -> None:
    found = row(**changes)
    assert targets.loses(found) is loses
    (style,) = (line.style for line in table.kernels_table([found], rows.machine([1])).rows)
    assert (style == "red") is loses


def test_targets_are_held_against_mean_and_worst() -> None:
    found = [row(x_copy=1.0), row(x_copy=1.21, name="64@112"), row(op="inference", x_copy=1.0)]
    forward, inference = targets.judge(found)
    assert (forward.count, forward.worst_name, forward.reached) == (2, "64@112 nchw", True)
    assert forward.mean == pytest.approx(1.1)
    assert inference.reached
    (forward,) = targets.judge([row(x_copy=1.0), row(x_copy=1.6)])
    assert not forward.reached
    text = printed(table.results_table([forward]))
    assert "≤ 1.1, worst ≤ 1.5" in text


def test_targets_between_rows() -> None:
    small = {"name": "512@7", "shape": (16, 512, 7, 7), "x_copy": None}
    large = {"x_copy": None, "shape": (16, 64, 112, 112)}
    found = [
        row(**small, us=20.0),
        row(**small, us=10.0, threads=2),
        row(**large, us=100.0),
        row(**large, us=60.0, dtype="bfloat16"),
        row(name="64x128", shape=(64, 128), layout="nc", us=3.0, x_copy=None),
    ]
    results = {result.label: result for result in targets.judge(found)}
    assert results["2 threads over 1, 1–3 MB"].mean == pytest.approx(2.0)
    assert results["bfloat16 over float32, > 20 MB"].mean == pytest.approx(0.6)
    assert results["(64, 128) forward, µs"].mean == pytest.approx(3.0)
    assert all(result.reached for result in results.values())


def test_shapes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "shapes.txt"
    path.write_text("64@56  # ResNet\n\n8:3@5x7\n32x10\n", "utf-8")
    assert [shape.of("nchw") for shape in shapes(str(path))] == [
        (16, 64, 56, 56),
        (8, 3, 5, 7),
        (32, 10),
    ]
    path.write_text("# nothing\n", "utf-8")
    with pytest.raises(ValueError, match="holds none"):
        shapes(str(path))
    with pytest.raises(ValueError, match="neither a file nor one of resnet50, small"):
        shapes("resnet51")


@pytest.mark.parametrize("text", ["64", "64@", "a@7", "0@7", "64@7x0", "3x"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is none of|is empty"):
        parse(text)


def test_all_named_shapes_are_shapes() -> None:
    assert [len(shapes(name)) for name in ("resnet50", "small")] == [12, 6]
    assert shapes("resnet50")[0].of("nhwc") == (16, 112, 112, 64)


def test_peers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastbn.bench.peers.installed", lambda: ["jax"])
    assert choose(["none"]) == []
    assert choose(["all"]) == ["jax"]
    with pytest.raises(ValueError, match="PyTorch is not installed: pip install torch"):
        choose(["jax", "torch"])
    with pytest.raises(ValueError, match="'numpy' is not one of none, all, torch"):
        choose(["numpy"])


@pytest.mark.parametrize("peer", installed())
def test_a_peer_computes_the_same_and_has_its_column(peer: str) -> None:
    wanted = kernels.cases([parse("2:3@4x5"), parse("6x4")], ["nhwc", "nc"], ["float32"])
    alone: kernels.Alone = {}
    found = kernels.run(
        wanted, cases.BESIDE_PEERS, [1], peers=[peer], rounds=1, seconds=1e-5, alone=alone
    )
    for measured in found:
        value = getattr(measured, f"x_{peer}")
        assert (value is None) == (measured.op in cases.YARDSTICKS)
    assert TITLES[peer] in table.alone_line(peer, alone[peer])


@pytest.mark.parametrize("peers", [[], ["torch"]])
def test_norms_of_samples(peers: list[str]) -> None:
    if peers:
        pytest.importorskip("torch", reason="the comparison with PyTorch needs torch")
    shapes = [parse("2:32@4x5"), parse("2:6@4x5"), parse("6x4")]
    wanted = kernels.cases(shapes, cases.LAYOUTS, ["float32"])
    found = kernels.run(wanted, cases.NORM_OPS, [1], peers=peers, rounds=1, seconds=1e-5)
    seen = {(row.name, row.layout, row.op): row for row in found}
    for (name, layout, op), row in seen.items():
        if op not in cases.YARDSTICKS:
            assert (row.x_bare is None) == op.endswith("step")
            assert (row.x_torch is None) == (not peers)
            assert layout in cases.NORMS[op.rpartition("_")[0]]
            assert name != "2:6@4x5" or not op.startswith("group")  # 6 channels are no 32 groups
    assert sum(op in cases.NORM_OPS for *_, op in seen) == 3 + 2 * 3 * (2 + 1)
    assert "norms" in printed(table.kernels_table(found, rows.machine([1])))
    with pytest.raises(ValueError, match="measured beside torch, not beside jax"):
        kernels.run(wanted, cases.NORM_OPS, [1], peers=["jax"])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shapes.txt").write_text("2:3@4x5\n6x4\n", "utf-8")
    arguments = ["--shapes", str(tmp_path / "shapes.txt"), "--threads", "1", "--peers", "none"]
    arguments += ["--rounds", "1", "--ops", "forward,backward"]
    arguments += ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "kernels", *arguments])
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert "2:3@4x5" in output
    assert "geometric means" in output
    assert len(json.loads((tmp_path / "a.json").read_text("utf-8"))["rows"]) == 12
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "expected positive numbers"),
        (["--threads", "two"], "expected positive numbers"),
        (["--shapes", "no/such/file"], "neither a file"),
        (["--layouts", "nwhc"], "layouts: 'nwhc' is not one of"),
        (["--ops", "sideways"], "ops: 'sideways' is not one of"),
        (["--dtypes", "int8"], "dtypes: 'int8' is not one of"),
        (["--peers", "numpy"], "peers: 'numpy' is not one of"),
        (["--shapes", "small", "--layouts", "nc", "--dtypes", ""], "dtypes: none"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "kernels", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err

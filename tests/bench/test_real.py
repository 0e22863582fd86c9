"""Files that ship in packages: where they are kept, and what tools make of them. No network."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from fastbn import cli
from fastbn.bench import fold_real, read, real
from fastbn.bench.fold import FoldTable, verdict
from fastbn.bench.patterns import PATTERNS
from fastbn.bench.real import NotThereError, RealFile, find

FILE = RealFile("text direction", "some-package", "some/models/net.onnx")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages with one file, and a pip that installs nothing."""

    monkeypatch.setattr(real, "_pip", lambda package, target: "No route to host")
    for module in (real, read, fold_real):
        monkeypatch.setattr(
            module, "FILES", {"text direction": FILE, "gone": RealFile("gone", "other", "a.onnx")}
        )
    model = PATTERNS["conv-mul-add-bn"].build()
    path = tmp_path / "packages" / FILE.package / FILE.path
    path.parent.mkdir(parents=True)
    onnx.save(model, path)
    return tmp_path / "packages"


def test_what_is_kept_is_found(packages: Path) -> None:
    assert find(FILE, packages) == packages / "some-package/some/models/net.onnx"
    with pytest.raises(NotThereError, match=r"of unknown version has no a\.onnx"):
        find(RealFile("a", "some-package", "a.onnx"), packages)
    with pytest.raises(NotThereError, match="cannot be installed: No route to host"):
        find(real.FILES["gone"], packages)
    assert [path.name for path in packages.iterdir()] == ["some-package"]


def test_what_is_installed_is_kept(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(package: str, target: Path) -> str:
        target.mkdir()
        (target / "a.onnx").write_bytes(b"")
        return ""

    monkeypatch.setattr(real, "_pip", pip)
    assert find(real.FILES["gone"], packages) == packages / "other/a.onnx"


def test_tools_on_a_file(packages: Path) -> None:
    told: list[fold_real.RealRow] = []
    table = fold_real.bench_real(
        tools=["fastbn", "onnxruntime-extended"], folder=packages, rounds=1, progress=told.append
    )
    assert table.rows == told
    ours, theirs, gone = told
    assert (ours.bn_before, ours.bn_left, ours.affine_before, ours.affine_after) == (1, 0, 2, 0)
    assert (ours.left, ours.wrong, ours.failure) == (0, False, "")
    assert ours.package == "some-package of unknown version"
    assert ours.seconds is not None
    assert ours.seconds > 0
    assert ours.ratio is not None
    assert (theirs.tool, theirs.wrong) == ("onnxruntime-extended", False)
    assert gone.failure == "skipped: other cannot be installed: No route to host"
    assert "1>0" in fold_real.line(ours)
    assert "skipped" in fold_real.line(gone)
    with pytest.raises(ValueError, match="unknown files"):
        fold_real.bench_real(names=["nothing"])


def test_fewest_are_of_all_there_are() -> None:
    rows = [
        fold_real.RealRow("a", tool, bn_before=1, bn_left=0, affine_before=4, affine_after=left,
                          affine_left=0, wrong=False)
        for tool, left in (("fastbn", 3), ("other", 2))
    ]  # fmt: skip
    assert verdict(FoldTable({}, 1, [*rows])) == ["a: 3 left, another tool leaves 2"]


def test_a_tool_that_fails(tmp_path: Path) -> None:
    told = fold_real._in_a_process("fastbn", tmp_path / "nothing.onnx", tmp_path / "result.onnx")
    assert told == {"failure": "ended with code 1"}


def test_the_command(packages: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--real", "--folder", str(packages), "--tools", "fastbn", "--rounds", "0"]
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "fold", *arguments, "--json", str(tmp_path / "rows.json")])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "fewest left, none wrong" in text
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["text direction", "gone"]


def test_files_that_are_not_there_are_not_read(packages: Path) -> None:
    [row] = read.bench_read(
        source="real", names=["text direction"], folder=packages.parent / "empty"
    )
    assert row.failure.startswith("skipped: some-package cannot be installed")
    assert not read.is_wrong(row)

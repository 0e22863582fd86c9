"""The README keeps its word: its example runs, its commands are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import onnx
import pytest
import typer

from fastbn import cli

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")
    monkeypatch.chdir(tmp_path)
    [program] = blocks("python")
    exec(compile(program, "README.md", "exec"), {})
    found = re.search(r"accuracy ([\d.]+)", capsys.readouterr().out)
    assert found
    assert float(found[1]) > 0.95
    nodes = onnx.load(tmp_path / "digits.onnx").graph.node
    assert "BatchNormalization" not in {node.op_type for node in nodes}
    assert (tmp_path / "digits.safetensors").is_file()


def test_commands_exist() -> None:
    group = typer.main.get_command(cli.app)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("fastbn ")]
    assert len(commands) >= 5
    for words in commands:
        command = group
        while subcommands := getattr(command, "commands", None):
            command = subcommands[words.pop(0)]
        command.make_context(command.name, words)  # parses the arguments, runs nothing


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("https://"):
            assert (Path(__file__).parents[2] / target).is_file(), target

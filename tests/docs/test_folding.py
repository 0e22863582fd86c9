"""docs/folding.md says what the folder does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer

from fastbn import cli
from fastbn.bench.light import LIGHT
from fastbn.bench.patterns import PATTERNS

TEXT = (Path(__file__).parents[2] / "docs/folding.md").read_text(encoding="utf-8")


def test_commands_and_options_exist() -> None:
    commands = typer.main.get_command(cli.app).commands
    lines = re.findall(r"^fastbn (.*)$", TEXT, flags=re.MULTILINE)
    assert len(lines) >= 2
    for line in lines:
        name, *words = shlex.split(line)
        commands[name].make_context(name, words)
    known = {option for parameter in commands["fold"].params for option in parameter.opts}
    known |= {option for p in commands["fold"].params for option in p.secondary_opts}
    options = re.findall(r"^\| `(--[a-z-]+)", TEXT, flags=re.MULTILINE)
    assert len(options) >= 6
    assert set(options) <= known


def test_the_table_has_every_graph() -> None:
    (table,) = re.findall(r"```text\n(.*?)```", TEXT, flags=re.DOTALL)
    rows = {line.split()[0]: line.split() for line in table.splitlines()[1:]}
    assert list(rows) == [*PATTERNS, *LIGHT, "sum"]
    for name, pattern in PATTERNS.items():
        left = sum(int(n) for n in rows[name][3].split("+"))
        assert int(rows[name][2]) == pattern.best == left
    assert f"on {len(PATTERNS)} small graphs" in TEXT

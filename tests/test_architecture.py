"""Who may know whom (docs/architecture.md): read from the imports, those inside functions too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "fastbn": "fastbn",
    "benchmarks": "fastbn.bench",
    "export": "fastbn.export",
    "models": "fastbn.models",
}

# What everybody may use, and what uses nothing itself.
BASE = {"_version", "budgets", "files"}
# The parts of the package, and the other parts that each may import.
MAY_IMPORT: dict[str, set[str]] = {
    **{name: set() for name in BASE},
    "reference": set(),
    "kernels": set(),
    "functional": {"kernels"},
    "nn": {"functional"},
    "optim": {"functional", "nn"},
    "data": set(),
    "models": {"nn"},
    "export": {"functional", "nn"},
    "distributed": {"functional"},
    "train": {"data", "distributed", "functional", "models", "nn", "optim"},
    "sklearn": {"data", "export", "functional", "models", "nn", "optim", "train"},
    "experiments": {"data", "functional", "models", "nn", "optim", "reference", "train"},
}
SEE_EVERYTHING = {"bench": {"cli"}, "cli": set()}  # except these
ONLY_FROM_CLI = "bench"

# Imports that are wrong and still there. Cross out what is gone; add none.
KNOWN = {
    ("fastbn.optim.following", "fastbn.kernels.optim"),
    ("fastbn.optim.group_state", "fastbn.kernels.optim"),
}


def modules() -> dict[str, Path]:
    """Every module written in Python by its import name; the suites are none of the package."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if parts[0] != "suites":
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                found[".".join((package, *parts))] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """Names of ours that a file imports, also inside functions, but not for type checkers alone."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name in visit(tree):
        if name.partition(".")[0] == "fastbn":
            yield name


def module_of(name: str) -> str:
    """Return the module that a dotted name is, or is defined in.

    Compiled modules have no Python file: ``fastbn.kernels.add.add`` lies in ``fastbn.kernels.add``.
    """
    parts = name.split(".")
    if parts[:2] == ["fastbn", "kernels"]:
        return ".".join(parts[:3])
    while ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts)


IMPORTS = {name: {module_of(i) for i in imported(path)} for name, path in MODULES.items()}


def part(module: str) -> str:
    """Return the part of the package that a module belongs to; the package itself is ''."""
    return [*module.split("."), ""][1]


def allowed(importer: str, target: str) -> bool:
    if importer in {"", target} or target in BASE | {""}:
        return True
    if target == ONLY_FROM_CLI:
        return importer == "cli"
    if importer in SEE_EVERYTHING:
        return target not in SEE_EVERYTHING[importer]
    return target in MAY_IMPORT[importer]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_arrows(name: str) -> None:
    wrong = {(name, i) for i in IMPORTS[name] if not allowed(part(name), part(i))}
    assert wrong == {pair for pair in KNOWN if pair[0] == name}


def test_known_exceptions_are_of_modules_that_exist() -> None:
    assert {importer for importer, _ in KNOWN} <= MODULES.keys()


def test_kernels_know_kernels_alone() -> None:
    """Of Python they may know arrays and numbers: NumPy, and their own."""
    for path in (ROOT / "fastbn" / "kernels").rglob("*.p[yx][xdi]"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^(?:from|c?import) (fastbn\S*)", text, re.MULTILINE):
            assert name.startswith("fastbn.kernels"), f"{path.name}: {name}"


def test_no_circles() -> None:
    inside = {name: found & MODULES.keys() - {name} for name, found in IMPORTS.items()}
    del inside["fastbn"]  # imports its parts when they are asked for
    for found in inside.values():
        found.discard("fastbn")
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        pytest.fail(" ← ".join(error.args[1]))

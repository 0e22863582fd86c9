"""Which part of the library may know which: the imports, also those inside functions, say so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "fastbn": "fastbn",
    "models": "fastbn.models",
    "export": "fastbn.export",
    "benchmarks": "fastbn.bench",
}

# Beside itself and the small modules that everybody may use.
EVERYBODY = {"_version", "budgets", "fastbn", "files"}
MAY_KNOW: dict[str, set[str]] = {
    "kernels": set(),
    "reference": set(),
    "budgets": set(),
    "files": set(),
    "functional": {"kernels"},
    "nn": {"functional"},
    "models": {"nn"},
    "export": {"nn", "functional"},
    "optim": {"nn", "functional", "kernels"},
    "data": {"kernels"},
    "distributed": {"functional"},
    "train": {"optim", "data", "nn", "models", "functional"},
    "experiments": {"train", "optim", "data", "models", "nn", "functional"},
    "sklearn": {"train", "optim", "data", "models", "nn", "functional", "export"},
}
ALL = {"bench", "cli"}  # they see everything; nobody but cli sees bench, and nobody cli


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "fastbn" and parts[0] in {"models", "export", "bench"}:
                continue
            if folder == "benchmarks" and parts[0] == "suites":
                continue
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield what a module imports of the library, but for the types it only names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unused = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unused:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastbn":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "fastbn")


def room(module: str) -> str:
    _, *inside = module.split(".")
    return inside[0] if inside else module


def test_arrows_run_one_way() -> None:
    known = modules()
    assert len(known) > 150
    wrong = []
    for module, path in known.items():
        here = room(module)
        if here in ALL or here in EVERYBODY:
            continue
        for other in imported(path, known):
            there = room(other)
            if there not in MAY_KNOW.get(here, set()) | EVERYBODY | {here}:
                wrong.append(f"{module} imports {other}")
    assert wrong == []
    for module, path in known.items():
        for other in imported(path, known):
            assert room(other) != "bench" or room(module) in ALL, f"{module} imports {other}"


def test_there_are_no_circles() -> None:
    known = modules()
    graph = {
        module: {other for other in imported(path, known) if other in known and other != module}
        for module, path in known.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("modules import one another: " + " -> ".join(error.args[1])) from None

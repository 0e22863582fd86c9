"""The page that lists public reports and the tests that stand for them say the same."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "reports.md"
LINK = re.compile(r"\[([^]]+)\]\(https://github\.com/([\w.-]+/[\w.-]+)/(?:issues|pull)/(\d+)\)")


def marks():
    """Every test's reports, and what it says of BatchNorms."""
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "report":
                    (bn,) = (ast.literal_eval(k.value) for k in mark.keywords)
                    yield frozenset(map(ast.literal_eval, mark.args)), bn


def rows():
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| ["):
            continue
        reports, case, bn, result = (cell.strip() for cell in line.strip("|").split(" | "))
        links = LINK.findall(reports)
        assert links, line
        assert all(name == f"{where}#{number}" for name, where, number in links), line
        assert case.strip(), line
        assert result.strip(), line
        yield frozenset(name for name, *_ in links), bn


def test_every_row_has_a_test_and_every_test_a_row():
    assert Counter(rows()) == Counter(marks())


def test_every_report_stands_once():
    names = [name for reports, _ in marks() for name in reports]
    assert len(names) == len(set(names)) >= 60

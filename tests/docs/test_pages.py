"""The pages of the site: their programs run, one after another; the files they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = [  # other pages have tests of their own
    "coming-from.md",
    "index.md",
    "myths.md",
    "training.md",
    "tutorials/batchnorm.md",
    "tutorials/deploy.md",
    "tutorials/fold.md",
    "tutorials/several-machines.md",
    "tutorials/tables.md",
]


def programs(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("name", RUN)
def test_programs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / name
    text = page.read_text(encoding="utf-8")
    if "data.load" in text:
        pytest.importorskip("sklearn", reason="the data are part of scikit-learn")
    if ".csv" in text:
        pytest.importorskip("pandas", reason="tables are read by pandas")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert programs(page)
    for program in programs(page):
        quick = program.replace("epochs=10", "epochs=1")
        exec(compile(quick, name, "exec"), names)


def test_files_that_pages_name_are_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = {n for n in re.findall(r"`([\w./]+/[\w.]*)`", text) if "yours" not in n}
    places = (ROOT, ROOT / "fastbn", ROOT / "benchmarks")
    for name in sorted(named):
        assert any((place / name).exists() for place in places), name

"""docs/sklearn.md: its program runs, and its table has every parameter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="the estimators are scikit-learn's")

from fastbn.sklearn import FastBNClassifier, FastBNRegressor

TEXT = (Path(__file__).parents[2] / "docs/sklearn.md").read_text(encoding="utf-8")


def test_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [program] = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "docs/sklearn.md", "exec"), names)
    assert names["accuracy"] > 0.92
    assert (tmp_path / "breast_cancer.onnx").is_file()


def test_table_has_every_parameter() -> None:
    rows = re.findall(r"^\| (`.*?) \|", TEXT, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    for estimator in (FastBNClassifier(), FastBNRegressor()):
        assert set(estimator.get_params()) == named

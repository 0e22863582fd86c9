"""The scripts in ``examples/`` run, in a short form, and stay short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
NEEDED = re.compile(r"^(?:from|import) (PIL|sklearn|torch)\b", re.MULTILINE)

EPOCHS = "2"


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(script: Path, tmp_path: Path) -> None:
    for module in NEEDED.findall(script.read_text(encoding="utf-8")):
        pytest.importorskip(module, reason=f"the example uses {module}")
    done = subprocess.run(
        [sys.executable, "-W", "error", script, EPOCHS],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "FASTBN_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40

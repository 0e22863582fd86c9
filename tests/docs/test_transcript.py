"""The transcript of the tutorial on images, in a short form: train, kill, resume, predict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs/tutorials/images.py"

pytest.importorskip("PIL", reason="images are written by Pillow")


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_killed_twice(tmp_path: Path) -> None:
    """On CIFAR-10 where FASTBN_DATA has it, else on scikit-learn's digits."""
    if not os.environ.get("FASTBN_DATA"):
        pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")
    page = tmp_path / "page.md"
    options = ("--images", "300", "--epochs", "10", "--output", page)
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"\[exit code (\d+)\]", text) == ["137", "143"]
    epochs = [int(number) for number in re.findall(r"^epoch (\d+):", text, flags=re.MULTILINE)]
    assert epochs[:2] == [1, 2]
    assert 3 <= epochs[-1] <= 10
    assert "fastbn train --resume run continues it" in text
    assert "\nthe same\n" in text
    assert len(re.findall(r"^│ new/\S+ +│ \w+ [\d.]+%, ", text, flags=re.MULTILINE)) == 3
    assert "report.html" in text
    assert str(tmp_path) not in text
    # The page in the docs is what this script writes, of more images.
    kept = SCRIPT.with_suffix(".md").read_text(encoding="utf-8")
    headings = [re.findall(r"^#+ .*", each, flags=re.MULTILINE) for each in (kept, text)]
    assert headings[0] == headings[1]

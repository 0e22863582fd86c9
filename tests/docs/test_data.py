"""docs/data.md: its programs run, one after another, on data as it describes them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

TEXT = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")


def test_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")
    pd = pytest.importorskip("pandas", reason="tables are read by pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTBN_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name in ("rose", "tulip"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
            image.fromarray(pixels).save(tmp_path / f"flowers/{name}/{number}.jpg")
    pd.DataFrame(
        {
            "alcohol": rng.normal(13.0, 1.0, 60),
            "colour": rng.choice(["red", "white"], 60),
            "kind": rng.choice(["barolo", "barbera"], 60),
        }
    ).to_csv("wine.csv", index=False)

    programs = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(programs) == 5
    names: dict[str, object] = {}
    for program in programs:
        exec(compile(program, "docs/data.md", "exec"), names)
    assert np.shape(names["logits"]) == (1, 2)
    assert (tmp_path / "wine.onnx").is_file()

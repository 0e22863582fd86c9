"""What an installation costs: packages, bytes, memory, and the table."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastbn.bench import install


def test_what_is_needed_and_its_size() -> None:
    found = install.needed("fastbn")
    assert {"fastbn", "numpy", "onnx", "onnxruntime"} <= found
    assert not found & {"torch", "pandas", "matplotlib", "mkdocs"}  # of extras
    folder = next(iter(np.__path__))
    assert folder in {str(path.parent) for path in install._files(install.distribution("numpy"))}
    assert 1e6 < install.size("fastbn") < 3e7
    assert install.size("numpy") > 1e7


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_of_a_training() -> None:
    assert 3e7 < install._printed(install.TRAINING["fastbn"]) < 4e8
    seconds = install._printed(install.IMPORT.format(statement=install.STATEMENTS["fastbn"]))
    assert seconds > 0


def test_table() -> None:
    costs = {"fastbn": install.Cost(200_000_000, 10_000_000, 0.1, 90_000_000)}
    shown = install.table(costs)
    assert [column.header for column in shown.columns] == ["", "fastbn"]
    assert shown.row_count == 4

"""The suites of pytest-benchmark have a case for every operation."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastbn import functional as F

SUITE = Path(__file__).parents[2] / "benchmarks" / "suites" / "test_operations.py"


def test_every_operation_has_a_case() -> None:
    spec = importlib.util.spec_from_file_location("suite_of_operations", SUITE)
    assert spec
    assert spec.loader
    suite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite)
    measured = {name.partition("[")[0] for name in suite.OPERATIONS}
    assert {name for name in dir(F) if hasattr(F, f"{name}_backward")} <= measured
    for special in suite.SPECIAL.values():  # the others are those of test_all_operations.py
        for call in special():
            call()

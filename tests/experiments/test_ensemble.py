from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.experiments.ensemble import crops, wrong


def test_directions(verdicts: Callable[[str], dict[str, str]]) -> None:
    assert verdicts("ensemble")["An ensemble is better than its best network."] == "holds"


def test_members_differ(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("ensemble")["numbers"]
    assert [of["dropout"]["mean"] for of in numbers.values()] == [0.0, 0.05, 0.1]
    assert len({of["error"]["mean"] for of in numbers.values()}) > 1
    assert all(of["top_2_error"]["mean"] < of["error"]["mean"] for of in numbers.values())


def test_crops() -> None:
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    forms = crops(x)
    assert len(forms) == 10
    np.testing.assert_array_equal(forms[0], x)
    np.testing.assert_array_equal(forms[5], x[:, :, ::-1])
    np.testing.assert_array_equal(forms[4][0, :2, :3], x[0, 1:, 1:])
    assert len({form.tobytes() for form in forms}) == 10


def test_wrong() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])
    assert wrong(p, np.array([1, 2])) == 0.5
    assert wrong(p, np.array([1, 0]), top=2) == 0.5

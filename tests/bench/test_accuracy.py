"""The table of accuracy: what it measures, and what it has to show."""

from __future__ import annotations

import numpy as np
import pytest

from fastbn import functional as F
from fastbn import reference
from fastbn.bench import accuracy


@pytest.fixture(scope="module")
def alone() -> list[accuracy.Accuracy]:
    return accuracy.measure(torch=False)


def test_every_input_in_every_layout_is_exact(alone: list[accuracy.Accuracy]) -> None:
    assert {(row.name, row.layout) for row in alone} == {
        (name, layout) for name in accuracy.INPUTS for layout in accuracy.LAYOUTS
    }
    for row in alone:
        assert row.y < 1e-6, row
        assert row.dx < 1e-6, row
        assert row.torch_y is row.torch_dx is None


@pytest.mark.parametrize("op", accuracy.NORMS)
def test_no_result_is_twice_as_far_off_as_pytorchs(op: str) -> None:
    pytest.importorskip("torch", reason="the comparison with PyTorch needs torch")
    for seed in (0, 1):
        for row in accuracy.measure(torch=True, seed=seed, op=op):
            assert max(row.y, row.dx) < 1e-6, row
            assert not accuracy.loses(row), row


@pytest.mark.parametrize(
    ("y", "torch_y", "loses"),
    [
        (1e-6, 4e-7, True),
        (1e-6, 6e-7, False),
        (1e-7, 1e-8, False),
        (np.nan, 1e-6, True),
        (1e-6, np.nan, False),
    ],
)
def test_what_loses(y: float, torch_y: float, loses: bool) -> None:
    assert accuracy.loses(accuracy.Accuracy("", "", y, 0.0, torch_y, 0.0)) == loses


@pytest.mark.parametrize("layout", accuracy.LAYOUTS)
def test_finite_inputs_give_finite_results(layout: str) -> None:
    for name, at, x, dy, weight, bias in accuracy.cases(3):
        if at == layout:
            y, saved = F.batch_norm(
                x, weight, bias, training=True, axis=accuracy.LAYOUTS[layout], eps=accuracy.EPS
            )
            for array in (y, *F.batch_norm_backward(dy, saved)):
                assert array is not None
                assert np.isfinite(array).all(), name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", accuracy.LAYOUTS)
def test_what_is_not_finite_stays_in_its_channel(layout: str, bad: float) -> None:
    axis = accuracy.LAYOUTS[layout]
    x, dy, weight, bias = next(case[2:] for case in accuracy.cases(4) if case[1] == layout)
    channels = np.moveaxis(x, axis, -1)  # a view
    place = (1,) * (channels.ndim - 1)
    channels[(*place, 7)] = bad
    call = {"training": True, "axis": axis, "eps": accuracy.EPS}
    y, saved = F.batch_norm(x, weight, bias, **call)
    y64, saved64 = reference.batch_norm(np.where(np.isfinite(x), x, 0), weight, bias, **call)
    dx, dweight, _ = F.batch_norm_backward(dy, saved)
    dx64, dweight64, _ = reference.batch_norm_backward(dy, saved64)
    for found, truth in ((y, y64), (dx, dx64)):
        assert np.isnan(np.take(found, 7, axis)).all()
        np.testing.assert_allclose(
            np.delete(found, 7, axis), np.delete(truth, 7, axis), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(np.delete(dweight, 7), np.delete(dweight64, 7), rtol=1e-3, atol=1e-3)

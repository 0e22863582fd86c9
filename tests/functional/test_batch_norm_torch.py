"""batch_norm against PyTorch: the inputs of its own module tests, results and errors both."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checks import error

from fastbn import functional as F

# The first four are PyTorch's module test inputs; then one spatial position, odd channel counts.
SHAPES = [(4, 10), (4, 5, 3), (2, 3, 6, 6), (2, 3, 4, 4, 4), (3, 5, 1), (4, 7, 1, 1), (5, 17, 3, 3)]
# PyTorch lets an empty batch through, in training too; here that is refused: test_batch_norm.py.
REFUSED_SHAPES = [(1, 10), (1, 3, 1), (1, 3, 1, 1), (1, 5, 1, 1, 1)]
TOLERANCE = {np.dtype(np.float32): 3e-6, np.dtype(np.float64): 1e-12}


class Ours:
    """The part of PyTorch's module that is not the operation: whose statistics, which factor."""

    def __init__(self, c: int, *, affine: bool, tracked: bool, dtype: Any, rng: Any) -> None:
        self.weight, self.bias = (
            rng.standard_normal((2, c)).astype(dtype) if affine else (None,) * 2
        )
        self.running_mean = np.zeros(c, dtype) if tracked else None
        self.running_var = np.ones(c, dtype) if tracked else None
        self.count = np.array(0) if tracked else None

    def forward(self, x: Any, *, training: bool, momentum: float | None, axis: int) -> Any:
        return F.batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=training or self.running_mean is None,
            momentum=momentum,
            axis=axis,
            num_batches_tracked=self.count,
        )


def make_pair(
    torch: ModuleType, shape: tuple[int, ...], rng: Any, dtype: Any, **options: Any
) -> tuple[Ours, Any]:
    ours = Ours(
        shape[1], affine=options["affine"], tracked=options["tracked"], dtype=dtype, rng=rng
    )
    kind = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}[len(shape)]
    theirs = getattr(torch.nn, kind)(
        shape[1],
        affine=options["affine"],
        momentum=options["momentum"],
        track_running_stats=options["tracked"],
        dtype=torch.float32 if dtype == np.float32 else torch.float64,
    )
    if options["affine"]:
        theirs.load_state_dict(
            {"weight": torch.from_numpy(ours.weight), "bias": torch.from_numpy(ours.bias)},
            strict=False,
        )
    return ours, theirs.train(options["training"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results(
    shape: tuple[int, ...],
    affine: bool,
    tracked: bool,
    momentum: float | None,
    training: bool,
    dtype: Any,
    torch: ModuleType,
    rng: np.random.Generator,
) -> None:
    options = {"affine": affine, "tracked": tracked, "momentum": momentum, "training": training}
    ours, theirs = make_pair(torch, shape, rng, dtype, **options)
    tolerance = TOLERANCE[np.dtype(dtype)]
    for axis in (1, -1):
        x = (2 * rng.standard_normal(shape) + 1).astype(dtype)
        dy = rng.standard_normal(shape).astype(dtype)
        leaf = torch.from_numpy(x).requires_grad_()
        y_torch = theirs(leaf)
        theirs.zero_grad()
        y_torch.backward(torch.from_numpy(dy))

        laid = np.ascontiguousarray(np.moveaxis(x, 1, axis))
        y, saved = ours.forward(laid, training=training, momentum=momentum, axis=axis)
        dx, dweight, dbias = F.batch_norm_backward(np.moveaxis(dy, 1, axis), saved)
        assert error(np.moveaxis(y, axis, 1), y_torch.detach().numpy()) < tolerance
        # Few values a channel: dx is what is left of terms of the size of dy * weight / std.
        scale = np.abs(leaf.grad.numpy()).max() + np.abs(dy).max()
        difference = np.abs(np.moveaxis(dx, axis, 1) - leaf.grad.numpy()).max()
        assert difference < 4 * tolerance * scale
        if affine:
            assert error(dweight, theirs.weight.grad.numpy()) < 2 * tolerance
            assert error(dbias, theirs.bias.grad.numpy()) < tolerance
        else:
            assert dweight is None
            assert dbias is None
        if tracked:
            assert error(ours.running_mean, theirs.running_mean.numpy()) < tolerance
            assert error(ours.running_var, theirs.running_var.numpy()) < tolerance
            assert ours.count == theirs.num_batches_tracked


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("shape", REFUSED_SHAPES, ids=str)
def test_errors(
    shape: tuple[int, ...],
    tracked: bool,
    training: bool,
    dtype: Any,
    torch: ModuleType,
    rng: np.random.Generator,
) -> None:
    options = {"affine": True, "tracked": tracked, "momentum": 0.1, "training": training}
    ours, theirs = make_pair(torch, shape, rng, dtype, **options)
    x = rng.standard_normal(shape).astype(dtype)
    if not training and tracked:
        y_torch = theirs(torch.from_numpy(x)).detach().numpy()
        y, _ = ours.forward(x, training=False, momentum=0.1, axis=1)
        assert y.shape == y_torch.shape
        assert error(y, y_torch) < TOLERANCE[np.dtype(dtype)]
        return
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as refused:
        theirs(torch.from_numpy(x))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as ours_refused:
        ours.forward(x, training=training, momentum=0.1, axis=1)
    wording = str(refused.value).replace("torch.Size([", "(").replace("])", ")")
    assert str(ours_refused.value) == wording
    if tracked:
        assert not ours.running_mean.any()
        assert (ours.running_var == 1).all()
        assert ours.count == 0

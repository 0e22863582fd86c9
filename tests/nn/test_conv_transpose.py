"""ConvTranspose2d: shapes, names, what it refuses; its gradients are in test_gradients.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import nn


def test_shapes_and_names(rng: np.random.Generator) -> None:
    layer = nn.ConvTranspose2d(6, 4, (3, 2), 2, 1, (1, 0), groups=2, dilation=(1, 3), rng=0)
    x = rng.standard_normal((2, 5, 4, 6)).astype(np.float32)
    assert layer(x).shape == (2, *layer.output_shape((5, 4, 6)))
    assert {name: value.shape for name, value in layer.state_dict().items()} == {
        "weight": (6, 2, 3, 2),
        "bias": (4,),
    }
    assert repr(layer) == (
        "ConvTranspose2d(6, 4, (3, 2), stride=2, padding=1, output_padding=(1, 0), "
        "dilation=(1, 3), groups=2)"
    )
    assert repr(nn.ConvTranspose2d(1, 1, 2, bias=False)) == "ConvTranspose2d(1, 1, 2, bias=False)"


def test_second_backward_and_pending_forward() -> None:
    layer = nn.ConvTranspose2d(1, 1, 2, rng=0)
    y = layer(np.ones((1, 2, 2, 1), np.float32))
    with pytest.raises(RuntimeError, match="ConvTranspose2d"):
        layer(np.ones((1, 2, 2, 1), np.float32))
    layer.backward(y)
    with pytest.raises(RuntimeError, match="ConvTranspose2d"):
        layer.backward(y)


def test_equals_torch(torch: Any, rng: np.random.Generator) -> None:
    theirs = torch.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    ours = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    ours.load_state_dict(theirs.state_dict())
    x = rng.standard_normal((2, 5, 4, 4)).astype(np.float32)
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(ours(x), expected.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.ConvTranspose2d(3, 4, 3, groups=2), "in_channels must be divisible"),
        (lambda: nn.ConvTranspose2d(4, 3, 3, groups=2), "out_channels must be divisible"),
        (lambda: nn.ConvTranspose2d(4, 3, 3, output_padding=1), "output padding must be smaller"),
        (lambda: nn.ConvTranspose2d(4, 3, 0), "kernel_size"),
        (lambda: nn.ConvTranspose2d(4, 3, 2).output_shape((4, 4, 3)), "to have 4 channels"),
        (lambda: nn.ConvTranspose2d(4, 3, 2).output_shape((4, 4)), "Expected 4D"),
        (lambda: nn.ConvTranspose2d(4, 3, 1, 1, 1).output_shape((2, 9, 4)), "too small"),
    ],
)
def test_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

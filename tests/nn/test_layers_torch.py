"""Layers that rearrange, enlarge and pool, and Conv1d: against PyTorch, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import nn


def first(x: Any) -> Any:
    """Channels first."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


CASES: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "nearest": (lambda: nn.Upsample((2, 3)), "Upsample(scale_factor=(2, 3))", (4, 5, 3)),
    "bilinear": (
        lambda: nn.Upsample((2, 3), "bilinear"),
        "Upsample(scale_factor=(2, 3), mode='bilinear')",
        (4, 5, 3),
    ),
    "bilinear, one row": (
        lambda: nn.Upsample(4, "bilinear"),
        "Upsample(scale_factor=4, mode='bilinear')",
        (1, 2, 3),
    ),
    "pad": (lambda: nn.ZeroPad2d((1, 2, 3, 0)), "ZeroPad2d((1, 2, 3, 0))", (2, 3, 4)),
    "adaptive": (lambda: nn.AdaptiveAvgPool2d((3, 2)), "AdaptiveAvgPool2d((3, 2))", (6, 4, 3)),
    "adaptive, uneven": (
        lambda: nn.AdaptiveAvgPool2d((3, 5)),
        "AdaptiveAvgPool2d((3, 5))",
        (7, 4, 3),
    ),
    "pixels": (lambda: nn.PixelShuffle(3), "PixelShuffle(3)", (2, 3, 18)),
    "channels": (lambda: nn.ChannelShuffle(3), "ChannelShuffle(3)", (2, 3, 12)),
    "softmax": (nn.Softmax, "Softmax(dim=1)", (2, 3, 5)),
    "local response": (
        lambda: nn.LocalResponseNorm(5, 0.5, k=2.0),
        "LocalResponseNorm(5, 0.5, k=2.0)",
        (4, 3, 19),
    ),
    "local response, even": (
        lambda: nn.LocalResponseNorm(4, 0.5, 0.4),
        "LocalResponseNorm(4, 0.5, 0.4)",
        (4, 3, 19),
    ),
    "conv1d": (
        lambda: nn.Conv1d(4, 6, 3, 2, 1, 2, 2, rng=0),
        "Conv1d(4, 6, 3, 2, 1, 2, 2)",
        (11, 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_against_pytorch(name: str, torch: Any, rng: np.random.Generator) -> None:
    make, theirs, shape = CASES[name]
    layer, other = make(), eval(f"torch.nn.{theirs}", {"torch": torch})
    if layer.state_dict():
        other.load_state_dict({k: torch.from_numpy(v) for k, v in layer.state_dict().items()})
    x = rng.standard_normal((3, *shape)).astype(np.float32)
    pixels = torch.from_numpy(first(x)).requires_grad_()
    expected = other(pixels)
    y = layer(x)
    np.testing.assert_allclose(first(y), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    expected.backward(torch.from_numpy(first(dy)))
    dx = layer.backward(dy)
    np.testing.assert_allclose(first(dx), pixels.grad.numpy(), rtol=1e-5, atol=1e-6)
    for key, parameter in layer.named_parameters():
        gradient = other.get_parameter(key).grad.numpy()
        np.testing.assert_allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_sequences_are_normalised_over_all_places(torch: Any, rng: np.random.Generator) -> None:
    net = nn.Sequential(nn.Conv1d(3, 4, 3, rng=0), nn.BatchNorm(4))
    theirs = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3), torch.nn.BatchNorm1d(4))
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in net.state_dict().items()})
    x = rng.standard_normal((5, 8, 3)).astype(np.float32)
    y = net(x)
    expected = theirs(torch.from_numpy(first(x))).detach().numpy()
    np.testing.assert_allclose(first(y), expected, rtol=1e-4, atol=1e-5)
    norm, other = net[1], theirs[1]
    np.testing.assert_allclose(norm.running_var, other.running_var.numpy(), rtol=1e-5)  # type: ignore[attr-defined]


def test_rearranging_by_numpy(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 4, 6))
    np.testing.assert_array_equal(nn.Permute(0, 3, 1, 2)(x), x.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(nn.Reshape(12, -1)(x), x.reshape(2, 12, 6))
    gate = rng.standard_normal((2, 6))
    np.testing.assert_array_equal(nn.Multiply()(x, gate), x * gate[:, None, None])
    np.testing.assert_array_equal(nn.Concatenate()(x, x), np.concatenate([x, x], axis=-1))
    np.testing.assert_array_equal(nn.Add()(x, x, x), x + x + x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Upsample(2, "cubic"), "Upsample: mode should be 'nearest' or 'bilinear'"),
        (lambda: nn.Upsample(1.5), "Upsample: scale_factor should be an int"),  # type: ignore[arg-type]
        (lambda: nn.Upsample(2).output_shape((4, 4)), "Upsample: Expected 4D"),
        (lambda: nn.ZeroPad2d(-1), "ZeroPad2d: padding should be an int or"),
        (lambda: nn.ZeroPad2d((1, 2)), "ZeroPad2d: padding should be an int or"),  # type: ignore[arg-type]
        (lambda: nn.AdaptiveAvgPool2d(0), "AdaptiveAvgPool2d: output_size should be at least 1"),
        (lambda: nn.Conv1d(3, 4, (3, 3)), "Conv1d: kernel_size should be an int"),  # type: ignore[arg-type]
        (lambda: nn.Conv1d(3, 4, 3, padding=-1), "Conv1d: padding should be at least 0"),
        (lambda: nn.Conv1d(3, 4, 3).output_shape((3, 8)), "Conv1d: expected .* last axis here"),
        (lambda: nn.Conv1d(3, 4, 3).output_shape((2, 3)), "Conv1d: a sequence of 2 is too short"),
        (lambda: nn.Reshape(-1, -1), "Reshape: shape should be positive, one may be -1"),
        (lambda: nn.Reshape(4, -1).output_shape((6,)), r"Reshape: shape \(4, -1\) is invalid"),
        (lambda: nn.Permute(1, 0), "Permute: dims should be 0, the batch, and the other axes"),
        (lambda: nn.Permute(0, 1).output_shape((3, 4)), "Permute: expected 2 axes"),
        (lambda: nn.PixelShuffle(2).output_shape((2, 2, 6)), "PixelShuffle: channels must be"),
        (lambda: nn.ChannelShuffle(4).output_shape((6,)), "ChannelShuffle: number of channels"),
        (lambda: nn.Slice(2, 2), "Slice: stop should be at least 3"),
        (lambda: nn.Slice(-1, 2), "Slice: start should be at least 0"),
        (lambda: nn.Slice(1, 5).output_shape((2, 4)), "Slice: there are no channels 1:5"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()

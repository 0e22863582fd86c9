"""The oracle itself: its gradients against finite differences, everything against PyTorch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case
from checks import error, numeric_gradient

from fastbn import reference

OPERATIONS = {case.op for case in CASES}
BY_THEMSELVES = {"batch_moments", "concat", "scale_shift"}  # in tests of their own


def test_every_pair_has_a_case() -> None:
    names = [n for n in dir(reference) if n.endswith("_backward") and not n.startswith("_")]
    backwards = {n.removesuffix("_backward") for n in names}
    assert backwards == OPERATIONS | BY_THEMSELVES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward_is_the_derivative_of_forward(case: Case, rng: np.random.Generator) -> None:
    arrays = case.arrays()
    y, saved = case.forward(reference, arrays)
    dy = 0.7 if isinstance(y, float) else rng.standard_normal(np.shape(y))
    gradients = case.backward(reference, dy, saved)
    assert set(gradients) == set(arrays)
    for name, gradient in gradients.items():

        def of_one(a: Any, name: str = name) -> Any:
            return case.forward(reference, arrays | {name: a})[0]

        numeric = numeric_gradient(of_one, arrays[name], dy)
        assert error(gradient, numeric) < 1e-7, name


def nchw(a: Any, torch: ModuleType) -> Any:
    """A channels-last array as a PyTorch tensor with channels first."""
    return torch.from_numpy(np.moveaxis(a, -1, 1).copy()) if a.ndim > 2 else torch.from_numpy(a)


def nhwc(t: Any) -> Any:
    a = t.detach().numpy()
    return np.moveaxis(a, 1, -1) if a.ndim > 2 else a


def activated(z: Any, f: Any, options: dict[str, Any]) -> Any:
    """What follows a normalisation, in PyTorch."""
    match options.get("activation"):
        case None:
            return z
        case "leaky_relu":
            return f.leaky_relu(z, options.get("negative_slope", 0.01))
        case "gelu_tanh":
            return f.gelu(z, approximate="tanh")
        case name:
            return getattr(f, name)(z)


def torch_forward(case: Case, leaves: dict[str, Any], torch: ModuleType) -> Any:
    """The same operation in PyTorch; x (and residual) with channels first where that matters."""
    f, options = torch.nn.functional, case.options(np.float64)
    x = leaves.get("x")
    match case.op:
        case "batch_norm":
            mean, var = (torch.from_numpy(options[k]) for k in ("running_mean", "running_var"))
            affine = (leaves.get("weight"), leaves.get("bias"))
            z = f.batch_norm(x, mean, var, *affine, training=options["training"])
            return activated(z + leaves.get("residual", 0.0), f, options)
        case "layer_norm" | "rms_norm":
            shape, eps = options["normalized_shape"], options.get("eps")
            parameters = [leaves[k] for k in ("weight", "bias") if k in leaves]
            default = 1e-5 if case.op == "layer_norm" else None
            z = getattr(f, case.op)(x, shape, *parameters, eps=eps or default)
            return activated(z, f, options)
        case "group_norm" | "instance_norm":
            groups = options.get("num_groups", x.shape[1])
            z = f.group_norm(x, groups, leaves.get("weight"), leaves.get("bias"))
            return activated(z, f, options)
        case "global_avg_pool2d":
            return f.adaptive_avg_pool2d(x, 1)[..., 0, 0]
        case "flatten":
            return torch.flatten(x, 1)
        case "local_response_norm" if x.ndim == 2:  # PyTorch wants an axis behind the channels
            return f.local_response_norm(x[:, :, None], **options)[..., 0]
        case "prelu":
            return f.prelu(x, leaves["weight"])
        case "softmax":
            return f.softmax(x, dim=-1)
        case "cross_entropy":
            return torch_cross_entropy(leaves["logits"], options, torch)
        case "mse_loss" | "l1_loss" | "huber_loss" | "binary_cross_entropy_with_logits":
            target, each = torch.from_numpy(options.pop("target")), options.pop("sample_weight", 1)
            reduction = options.pop("reduction", "mean")
            losses = getattr(f, case.op)(leaves["pred"], target, reduction="none", **options)
            each = torch.as_tensor(each).reshape(-1, *[1] * (losses.ndim - 1)).expand(losses.shape)
            return (losses * each).sum() / (each.sum() if reduction == "mean" else 1.0)
        case "linear":
            return f.linear(x, leaves["weight"], leaves.get("bias"))
        case "conv2d":
            return f.conv2d(x, leaves["weight"], leaves.get("bias"), **options)
        case "conv_transpose2d":
            return f.conv_transpose2d(x, leaves["weight"], leaves.get("bias"), **options)
        case _:
            return getattr(f, case.op)(x, **options)


def torch_cross_entropy(logits: Any, options: dict[str, Any], torch: ModuleType) -> Any:
    """PyTorch has no weights of samples: they scale what the rows would count without them."""
    f, labels = torch.nn.functional, torch.from_numpy(options.pop("labels"))
    each, reduction = options.pop("sample_weight", None), options.pop("reduction", "mean")
    options = {k: torch.from_numpy(v) if k == "weight" else v for k, v in options.items()}
    if each is None:
        return f.cross_entropy(logits, labels, reduction=reduction, **options)
    each = torch.from_numpy(each)
    losses = f.cross_entropy(logits, labels, reduction="none", **options)
    counts = options["weight"][labels] if labels.ndim == 1 else 1.0
    return (each * losses).sum() / (each * counts).sum()


IMAGES = {"conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "global_avg_pool2d"}
IMAGES |= {"local_response_norm"}


# PyTorch says that an even kernel with padding="same" costs it a copy.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", [c for c in CASES if c.op != "dropout"], ids=str)
def test_equals_torch(case: Case, torch: ModuleType, rng: np.random.Generator) -> None:
    arrays = case.arrays()
    channels_last = case.op in IMAGES or case.options(np.float64).get("axis") == -1
    to_torch = {"x", "residual"} if channels_last else set()
    leaves = {
        name: (nchw(a, torch) if name in to_torch else torch.from_numpy(a.copy())).requires_grad_()
        for name, a in arrays.items()
    }
    y, saved = case.forward(reference, arrays)
    y_torch = torch_forward(case, leaves, torch)
    expected = nhwc(y_torch) if channels_last else y_torch.detach().numpy()
    assert error(np.asarray(y), expected) < 1e-12

    dy = 0.7 if isinstance(y, float) else rng.standard_normal(np.shape(y))
    dy_torch = torch.tensor(dy, dtype=torch.float64)
    y_torch.backward(nchw(dy, torch) if channels_last else dy_torch)
    for name, gradient in case.backward(reference, dy, saved).items():
        grad = leaves[name].grad
        expected = nhwc(grad) if name in to_torch else grad.numpy()
        tolerance = 1e-7 if case.op == "hardsigmoid" else 1e-12  # PyTorch's 1/6 is a float32
        assert error(gradient, expected) < tolerance, name


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_running_statistics_equal_torch(
    momentum: float | None, torch: ModuleType, rng: np.random.Generator
) -> None:
    module = torch.nn.BatchNorm1d(3, momentum=momentum).double()
    mean, var, count = np.zeros(3), np.ones(3), np.array(0)
    for rows in (4, 2, 9):
        x = rng.standard_normal((rows, 3)) + 2
        module(torch.from_numpy(x))
        reference.batch_norm(
            x, None, None, mean, var, training=True, momentum=momentum, num_batches_tracked=count
        )
    assert error(mean, module.running_mean.numpy()) < 1e-14
    assert error(var, module.running_var.numpy()) < 1e-14
    assert count == module.num_batches_tracked == 3


def test_batch_norm_refuses_one_value_per_channel() -> None:
    mean, var, count = np.zeros(4), np.ones(4), np.array(0)
    with pytest.raises(ValueError, match=r"Expected more than 1 value .* got input size \(1, 4\)"):
        reference.batch_norm(
            np.ones((1, 4)), None, None, mean, var, training=True, num_batches_tracked=count
        )
    assert not mean.any()
    assert (var == 1).all()
    assert count == 0


def test_nan_wins_and_first_maximum_takes_the_gradient() -> None:
    x = np.array([[1.0, 1.0], [np.nan, 0.0]]).reshape(1, 2, 2, 1)
    assert np.isnan(reference.max_pool2d(x, 2)[0]).all()
    x[0, 1, 0, 0] = 1.0
    y, saved = reference.max_pool2d(x, 2)
    assert y == 1.0
    assert reference.max_pool2d_backward(y, saved).ravel().tolist() == [1.0, 0.0, 0.0, 0.0]
    x[...] = -np.inf
    y, saved = reference.max_pool2d(x, 2, padding=1)
    dx = reference.max_pool2d_backward(np.ones_like(y), saved)
    assert dx.ravel().tolist() == [1.0] * 4


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_activations_keep_nan_and_infinities(name: str) -> None:
    y, saved = getattr(reference, name)(np.array([np.nan, np.inf, -np.inf, -0.0]))
    assert np.isnan(y[0])
    assert y[1] == np.inf
    assert y[2] == (0.0 if name == "relu" else -np.inf)
    assert y[3] == 0.0
    dx = getattr(reference, f"{name}_backward")(np.array([1.0, 2.0, np.inf, 1.0]), saved)
    assert dx.tolist() == [1.0, 2.0, *((0.0, 0.0) if name == "relu" else (np.inf, 0.01))]


def test_losses_survive_huge_logits() -> None:
    loss, saved = reference.cross_entropy([[1e4, 0.0], [0.0, 1e4]], [0, 0])
    assert loss == 5e3
    assert reference.cross_entropy_backward(1.0, saved).tolist() == [[0.0, 0.0], [-0.5, 0.5]]
    assert reference.sigmoid([1e4, -1e4])[0].tolist() == [1.0, 0.0]


def test_dropout_keeps_the_expectation() -> None:
    x = np.ones((200, 100))
    y, _ = reference.dropout(x, 0.25, rng=np.random.default_rng(0))
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert abs(y.mean() - 1.0) < 0.02
    assert not reference.dropout(x, 1.0)[0].any()

"""Fusion: what runs as one gives what runs apart, and biases in front of BatchNorm are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import functional as F
from fastbn import models, nn
from fastbn.nn.fusion import Normalised, plan_and_sum, plan_of


class ApartNorm(nn.BatchNorm):
    """A subclass, which is never fused."""


class ApartReLU(nn.ReLU):
    pass


class ApartLeakyReLU(nn.LeakyReLU):
    pass


class ApartGELU(nn.GELU):
    pass


class ApartSiLU(nn.SiLU):
    pass


F64 = np.float64


def nets(kind: str, momentum: float | None = 0.1) -> list[nn.Module]:
    """The same network twice: one that is fused, one that is not."""
    result: list[nn.Module] = []
    for norm, relu, leaky, gelu, silu in (
        (nn.BatchNorm, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU),
        (ApartNorm, ApartReLU, ApartLeakyReLU, ApartGELU, ApartSiLU),
    ):
        acts: dict[str, nn.Module] = {
            "leaky": leaky(0.2), "gelu": gelu(), "gelu with tanh": gelu("tanh"), "silu": silu()
        }  # fmt: skip
        act = acts.get(kind) or relu()
        block = [
            nn.Conv2d(3, 3, 3, padding=1, rng=0, dtype=F64),
            norm(3, momentum=momentum, dtype=F64),
            act,
            nn.Conv2d(3, 3, 1, rng=1, dtype=F64),
            norm(3, momentum=momentum, dtype=F64),
        ]
        if kind.startswith("residual"):
            shortcut = nn.Conv2d(3, 3, 1, rng=2, dtype=F64) if "shortcut" in kind else None
            result.append(nn.Residual(nn.Sequential(*block), shortcut))
        else:
            result.append(nn.Sequential(*block))
    return result


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    "kind",
    ["relu", "leaky", "gelu", "gelu with tanh", "silu", "residual", "residual with shortcut"],
)
def test_fused_equals_apart(kind: str, momentum: float | None, rng: np.random.Generator) -> None:
    fused, apart = nets(kind, momentum)
    for step in range(3):
        x = rng.standard_normal((4, 3, 5, 3)) + step
        y, expected = fused(x), apart(x)
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)
        dy = rng.standard_normal(y.shape)
        dx, expected = fused.backward(dy, need_dx=True), apart.backward(dy, need_dx=True)
        np.testing.assert_allclose(dx, expected, rtol=1e-8, atol=1e-11)
    for (name, p), q in zip(fused.named_parameters(), apart.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-8, atol=1e-10, err_msg=name)
    for name, value in apart.state_dict().items():
        np.testing.assert_allclose(fused.state_dict()[name], value, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(fused.predict(x), apart.predict(x), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(
    "weighted", [lambda: nn.Linear(3, 4, rng=0), lambda: nn.Conv2d(3, 4, 1, rng=0)]
)
def test_a_bias_in_front_of_batchnorm_counts_in_the_running_mean_only(weighted: Any) -> None:
    layer, norm = weighted(), nn.BatchNorm(4)
    net = nn.Sequential(layer, norm)
    layer.bias.data = [100.0, -50.0, 3.0, 0.0]
    shape = (6, 3) if isinstance(layer, nn.Linear) else (2, 3, 4, 3)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    net.backward(net(x).copy())
    assert (layer.bias.grad == 0).all()
    without = layer.predict(x) - layer.bias.data
    mean = without.reshape(-1, 4).mean(axis=0) + layer.bias.data
    np.testing.assert_allclose(norm.running_mean, 0.1 * mean, rtol=1e-5)

    norm.freeze()
    y = net(x)
    np.testing.assert_array_equal(y, net.predict(x))
    net.backward(y.copy())
    assert (layer.bias.grad != 0).any()
    norm.freeze(False)
    net.backward(net(x).copy())
    assert (layer.bias.grad == 0).all()


def test_the_bias_is_left_out_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    linear = F.linear

    def spy(x: Any, weight: Any, bias: Any = None, **options: Any) -> Any:
        seen.append(bias is not None)
        return linear(x, weight, bias, **options)

    monkeypatch.setattr(F, "linear", spy)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4), nn.Linear(4, 2))
    x = np.ones((5, 3), dtype=np.float32)
    net(x)
    net.discard()
    assert seen == [False, True]
    net.predict(x)
    assert seen[2:] == [True, True]


def test_neighbours_are_found_across_nested_sequentials() -> None:
    conv, norm, act, last = nn.Conv2d(3, 4, 1), nn.BatchNorm(4), nn.ReLU(), nn.BatchNorm(4)
    layers = [nn.Sequential(conv), nn.Sequential(nn.Sequential(norm), nn.Sequential()), act, last]
    plan = plan_of(layers)
    first, second = plan.steps
    assert isinstance(first, Normalised)
    assert isinstance(second, Normalised)
    assert (first.weighted, first.norm, first.inside) == (conv, norm, [act])
    assert (second.weighted, second.norm, second.inside) == (None, last, [])
    plan, join = plan_and_sum(layers, act, "relu", 0.01)
    assert len(plan.steps) == 1
    assert isinstance(join, Normalised)
    assert (join.norm, join.kind) == (last, "relu")


def test_subclasses_are_not_fused() -> None:
    plan = plan_of([nn.Linear(3, 3), ApartNorm(3), nn.ReLU(), nn.BatchNorm(3), ApartReLU()])
    assert [[type(layer).__name__ for layer in step.layers] for step in plan.steps] == [
        ["Linear"], ["ApartNorm"], ["ReLU"], ["BatchNorm"], ["ApartReLU"]
    ]  # fmt: skip


def test_functional_runs_once_for_normalisation_sum_and_activation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    batch_norm = F.batch_norm

    def spy(*args: Any, **options: Any) -> Any:
        calls.append((options["activation"], options["residual"] is not None))
        return batch_norm(*args, **options)

    monkeypatch.setattr(F, "batch_norm", spy)
    monkeypatch.setattr(F, "relu", None)
    net = nn.Sequential(
        nn.Residual(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm(3)), activation="leaky_relu"),
        nn.BatchNorm(3),
        nn.ReLU(),
    )
    net(np.ones((4, 3), dtype=np.float32))
    assert calls == [("leaky_relu", True), ("relu", False)]


def test_the_plan_follows_changes_of_structure() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm(3)), nn.ReLU())
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    positive = net(x)
    net.discard()
    assert positive.min() == 0
    net[1] = nn.LeakyReLU(0.5)
    negative = net(x)
    net.discard()
    np.testing.assert_allclose(negative, np.where(negative > 0, positive, negative), rtol=1e-6)
    assert negative.min() < 0
    inner = net[0]
    assert isinstance(inner, nn.Sequential)
    inner.append(nn.ReLU())
    assert net(x).min() == 0


@pytest.mark.parametrize(
    "act", [nn.ReLU, lambda: nn.LeakyReLU(0.2), nn.GELU, nn.SiLU, nn.Hardswish]
)
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.GroupNorm(2, 6),
        lambda: nn.InstanceNorm(6, affine=True),
        lambda: nn.LayerNorm(6),
        lambda: nn.RMSNorm(6),
    ],
)
def test_norms_of_samples_run_with_their_activation(
    norm: Any, act: Any, rng: np.random.Generator
) -> None:
    net = nn.Sequential(norm(), act())
    apart = norm(), act()
    for layer in (net[0], apart[0]):
        layer.weight.data = np.linspace(0.5, 2.0, 6)
        if layer.bias is not None:
            layer.bias.data = np.linspace(-1.0, 1.0, 6)
    x, dy = rng.standard_normal((2, 3, 5, 4, 6)).astype(np.float32)
    y = net(x)
    np.testing.assert_allclose(y, apart[1](apart[0](x)), rtol=0, atol=2e-6)
    dx = net.backward(dy, need_dx=True)
    np.testing.assert_allclose(dx, apart[0].backward(apart[1].backward(dy)), rtol=0, atol=2e-6)
    for ours, theirs in zip(net.parameters(), apart[0].parameters(), strict=True):
        np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    assert "Norm '0'" in net.summary((5, 4, 6)).splitlines()[3]


def test_a_sum_takes_the_activation_along_where_a_batchnorm_runs_it(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    gelu = F.gelu

    def spy(*args: Any, **options: Any) -> Any:
        calls.append("gelu")
        return gelu(*args, **options)

    def net(norm: Any, act: Any) -> nn.Graph:
        x = nn.Input((4, 3))
        h = norm(3, dtype=F64)(nn.Linear(3, 3, rng=0, dtype=F64)(x))
        h = act()(nn.add(h, x))
        return nn.Graph(x, nn.GELU()(nn.add(h, nn.Linear(3, 3, rng=1, dtype=F64)(h))))

    x, dy = rng.standard_normal((2, 5, 4, 3))
    fused, apart = net(nn.BatchNorm, nn.GELU), net(ApartNorm, ApartGELU)
    expected, dx_expected = apart(x), apart.backward(dy, need_dx=True)
    monkeypatch.setattr(nn.GELU, "pair", (spy, F.gelu_backward))
    np.testing.assert_allclose(fused(x), expected, rtol=1e-12, atol=1e-13)
    assert calls == ["gelu"]  # the second one, behind a sum of its own
    np.testing.assert_allclose(fused.backward(dy, need_dx=True), dx_expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(fused.parameters(), apart.parameters(), strict=True):
        np.testing.assert_allclose(ours.grad, theirs.grad, rtol=0, atol=1e-11)


def test_the_recipe_for_cifar_runs_gelu_in_the_pass_of_batchnorm() -> None:
    net = models.speedrun(channels=(8, 8, 8), rng=0)
    inside = [line for line in net.summary().splitlines() if "GELU" in line]
    assert len(inside) == 7
    assert sum("BatchNorm" in line for line in inside) == 6  # the first stands behind a convolution


def test_summary_shows_what_is_fused() -> None:
    net = nn.Sequential(
        nn.Residual(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm(2))), nn.Flatten()
    )
    assert net.summary().splitlines()[0].split() == [
        "Layer", "Output", "shape", "Parameters", "FLOP", "Output", "size", "Fused", "with"
    ]  # fmt: skip
    assert "?" in net.summary()
    lines = net.summary((4, 4, 2)).splitlines()
    assert [line.split()[0] for line in lines[2:-3]] == ["0", "0.body.0", "0.body.1", "1"]
    assert lines[3].endswith("BatchNorm '0.body.1' (bias, statistics)  direct")
    assert lines[4].endswith("Residual '0' (sum, relu)")
    assert lines[-2] == "Input shape: (4, 4, 2). Parameters: 10, 40 B. Buffers: 5."
    assert lines[-1] == "A sample: 256 FLOP, outputs of 512 B."


def test_summary_shows_how_convolutions_are_computed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3), nn.ReLU())
    lines = net.summary((8, 8, 3)).splitlines()
    assert lines[0].split()[-1] == "Convolution"
    assert lines[2].endswith("direct")
    assert lines[3].endswith("Winograd")
    assert lines[4].split()[-2:] == ["4.61", "kB"]
    transposed = nn.Sequential(
        nn.ConvTranspose2d(32, 16, 3, padding=1), nn.ConvTranspose2d(16, 8, 4, stride=2)
    )
    lines = transposed.summary((8, 8, 32)).splitlines()
    assert lines[2].endswith("Winograd")
    assert lines[3].endswith("direct")

"""The contract of modules: calls, pending backwards, modes, ownership, checks before changes."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from itertools import product
from typing import Any

import numpy as np
import pytest

from fastbn import functional as F
from fastbn import nn


def mlp(**options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 5, rng=0, **options),
        nn.BatchNorm(5, **options),
        nn.ReLU(),
        nn.Linear(5, 3, rng=1, **options),
    )


def batch(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def state_of(net: nn.Module) -> dict[str, Any]:
    return net.state_dict()


def assert_unchanged(net: nn.Module, before: dict[str, Any]) -> None:
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


# --- pending backwards ------------------------------------------------------------------------


def test_forward_while_a_backward_is_pending_names_the_layer() -> None:
    net = mlp()
    net(batch(4, 6))
    before = state_of(net)
    with pytest.raises(RuntimeError, match=r"Linear '0': forward .* while a backward is pending"):
        net(batch(4, 6))
    assert_unchanged(net, before)


def test_a_pending_layer_deep_inside_is_found_before_anything_changes() -> None:
    net = mlp()
    net[3](batch(4, 5))
    before = state_of(net)
    with pytest.raises(RuntimeError, match=r"Linear '3': forward"):
        net(batch(4, 6))
    assert_unchanged(net, before)


def test_second_backward_names_the_layer() -> None:
    net = mlp()
    dy = net(batch(4, 6)).copy()
    net.backward(dy)
    with pytest.raises(RuntimeError, match=r"Linear '3': backward without a forward"):
        net.backward(dy)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 4),
        nn.BatchNorm(4),
        nn.ReLU(),
        nn.LeakyReLU(),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Residual(nn.Linear(4, 4)),
        nn.Residual(nn.BatchNorm(4)),
    ],
    ids=repr,
)
def test_every_layer_refuses_a_second_forward_and_a_second_backward(layer: nn.Module) -> None:
    x = batch(3, 4)
    dy = layer(x).copy()
    with pytest.raises(RuntimeError, match="while a backward is pending"):
        layer(x)
    layer.backward(dy)
    with pytest.raises(RuntimeError, match="backward without a forward"):
        layer.backward(dy)
    layer(x)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(2, 2, 1), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.GlobalAvgPool2d(), nn.BatchNorm(2)],
    ids=repr,
)
def test_every_image_layer_does_so_too(layer: nn.Module) -> None:
    x = batch(2, 4, 4, 2)
    dy = layer(x).copy()
    with pytest.raises(RuntimeError, match="while a backward is pending"):
        layer(x)
    layer.backward(dy)
    with pytest.raises(RuntimeError, match="backward without a forward"):
        layer.backward(dy)


def test_validation_between_forward_and_backward() -> None:
    x, other = batch(4, 6), batch(7, 6, seed=1)
    plain, interrupted = mlp(), mlp()
    dy = batch(4, 3, seed=2)
    plain(x)
    plain.backward(dy)
    interrupted(x)
    with interrupted.evaluating():
        interrupted(other)
        interrupted(x)
    interrupted.predict(other)
    interrupted.backward(dy)
    for p, q in zip(plain.parameters(), interrupted.parameters(), strict=True):
        np.testing.assert_array_equal(p.grad, q.grad)


def test_eval_saves_nothing() -> None:
    net = mlp().eval()
    dy = net(batch(4, 6))
    net(batch(4, 6))
    with pytest.raises(RuntimeError, match="backward without a forward"):
        net.backward(dy)


def test_discard_gives_a_pending_backward_up() -> None:
    net = mlp()
    net(batch(4, 6))
    net.discard()
    net(batch(4, 6))


def test_a_wrong_dy_changes_nothing_and_can_be_mended() -> None:
    net = mlp()
    y = net(batch(4, 6))
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        net.backward(batch(4, 2))
    assert all(parameter.grad is None for parameter in net.parameters())
    net.backward(y)
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_failing_forward_leaves_nothing_pending() -> None:
    class Fails(nn.Module):
        fail = True

        def forward(self, x: Any) -> Any:
            if self.fail:
                raise MemoryError("on purpose")
            return x, None

        def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
            return dy

    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), Fails())
    with pytest.raises(MemoryError):
        net(batch(4, 6))
    Fails.fail = False
    net.backward(net(batch(4, 6)))


@pytest.mark.parametrize(
    "last", [nn.ReLU(), nn.LeakyReLU(), nn.Sigmoid(), nn.Tanh(), nn.Flatten(), nn.Dropout(0.0),
             nn.Residual(nn.Linear(3, 3, rng=2)), nn.Sequential(nn.Tanh(), nn.Flatten())],
    ids=repr,
)  # fmt: skip
def test_callers_may_write_into_what_they_get(last: nn.Module) -> None:
    nets = [nn.Sequential(nn.Linear(4, 3, rng=0), nn.Tanh(), copy.deepcopy(last)) for _ in range(2)]
    x, target = batch(5, 4), batch(5, 3, seed=1)
    y = nets[0](x)
    nets[0].backward(y - target)
    y = nets[1](x)
    y -= target
    nets[1].backward(y)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        np.testing.assert_array_equal(p.grad, q.grad)


def test_a_layer_of_ones_own_that_saves_its_output_is_safe_too() -> None:
    class Exp(nn.Module):
        def forward(self, x: Any) -> Any:
            y = np.exp(x)
            return y, y

        def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
            return dy * saved

    layer, x = Exp(), batch(2, 3)
    y = layer(x)
    y[...] = 0
    np.testing.assert_array_equal(layer.backward(np.ones_like(x)), np.exp(x))


def test_a_forward_that_forgets_what_backward_needs_is_told() -> None:
    class Forgets(nn.Module):
        def forward(self, x: Any) -> Any:
            return x

    for net in (Forgets(), nn.Sequential(nn.ReLU(), Forgets())):
        with pytest.raises(TypeError, match=r"Forgets.*: forward should return \(y, saved\)"):
            net(batch(2, 3))
        net.discard()


def test_layers_can_be_run_without_being_called() -> None:
    layer, x = nn.Linear(4, 3, rng=0), batch(5, 4)
    first, second = layer.forward(x), layer.forward(-x)
    dx = layer.backward(np.ones_like(first[0]), second[1])
    np.testing.assert_allclose(layer.weight.grad, -np.tile(x.sum(axis=0), (3, 1)), rtol=1e-5)
    layer.backward(np.ones_like(first[0]), first[1], False)
    np.testing.assert_allclose(layer.weight.grad, np.tile(x.sum(axis=0), (3, 1)), rtol=1e-5)
    assert dx.shape == x.shape
    with pytest.raises(RuntimeError, match="backward without a forward"):
        layer.backward(first[0])


# --- gradients --------------------------------------------------------------------------------


def test_backward_overwrites_gradients_in_place() -> None:
    net = mlp()
    net.backward(net(batch(4, 6)).copy())
    first = [parameter.grad for parameter in net.parameters()]
    net.backward(net(batch(4, 6, seed=1)).copy())
    alone = mlp()
    alone(batch(4, 6))
    for parameter, array in zip(net.parameters(), first, strict=True):
        assert parameter.grad is array


def test_outermost_container_returns_dx_only_when_asked() -> None:
    net = mlp()
    y = net(batch(4, 6)).copy()
    assert net.backward(y) is None
    net(batch(4, 6))
    dx = net.backward(y, need_dx=True)
    assert dx is not None
    assert dx.shape == (4, 6)
    layer = nn.Linear(6, 3)
    assert layer.backward(layer(batch(4, 6)).copy()) is not None


# --- running statistics -----------------------------------------------------------------------


def test_frozen_and_eval_batchnorm_keep_their_statistics_and_go_backward() -> None:
    for prepare in (lambda norm: norm.eval(), lambda norm: norm.freeze()):
        net = mlp()
        norm = net[1]
        assert isinstance(norm, nn.BatchNorm)
        norm.running_mean[...] = 0.5  # type: ignore[index]
        prepare(norm)
        before = state_of(net)
        x = batch(4, 6)
        y = net(x)
        net.backward(y.copy())
        assert_unchanged(net, before)
        assert net[0].bias.grad.any()  # type: ignore[attr-defined]
        np.testing.assert_array_equal(y, net.predict(x))


def test_freeze_outlasts_train() -> None:
    net = mlp()
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm)
    norm.freeze()
    net.eval().train()
    assert not norm.uses_batch_statistics
    norm.freeze(False)
    assert norm.uses_batch_statistics
    with pytest.raises(ValueError, match="freeze\\(\\) needs running statistics"):
        nn.BatchNorm(3, track_running_stats=False).freeze()


def test_momentum_none_averages_all_batches() -> None:
    norm = nn.BatchNorm(3, momentum=None)
    means = []
    for seed in range(4):
        x = batch(8, 3, seed=seed)
        norm(x)
        norm.discard()
        means.append(x.mean(axis=0))
    np.testing.assert_allclose(norm.running_mean, np.mean(means, axis=0), rtol=1e-5, atol=1e-7)
    assert norm.num_batches_tracked == 4


# --- ownership --------------------------------------------------------------------------------


def test_one_layer_object_stands_in_one_place() -> None:
    relu = nn.ReLU()
    with pytest.raises(ValueError, match=r"ReLU object is used twice, it is ReLU '0' already"):
        nn.Sequential(relu, nn.Linear(2, 2), relu)
    shared = nn.Linear(2, 2)
    first = nn.Sequential(shared)
    with pytest.raises(ValueError, match="one layer object stands in one place"):
        nn.Sequential(shared)
    with pytest.raises(ValueError, match="one layer object stands in one place"):
        nn.Residual(shared)
    with pytest.raises(ValueError, match="one layer object stands in one place"):
        first.append(shared)
    body = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="used twice"):
        nn.Residual(body, body)
    del first
    nn.Sequential(shared)  # the network it belonged to is gone


def test_a_failed_construction_frees_its_layers() -> None:
    relu, linear = nn.ReLU(), nn.Linear(2, 2)
    with pytest.raises(ValueError, match="used twice"):
        nn.Sequential(linear, relu, relu)
    gc.collect()  # the exception's traceback held the half-made container
    nn.Sequential(linear, relu)


def test_replaced_layers_are_free_again() -> None:
    net = mlp()
    old = net[2]
    net[2] = nn.LeakyReLU(0.2)
    nn.Sequential(old)
    x = batch(4, 6)
    y = net.predict(x)
    assert y.shape == (4, 3)
    net.append(nn.Sigmoid())
    np.testing.assert_allclose(net.predict(x), 1 / (1 + np.exp(-y)), rtol=1e-5)
    assert len(net) == 5
    assert [type(layer).__name__ for layer in net][-1] == "Sigmoid"


def test_networks_die_with_their_last_user() -> None:
    net = mlp()
    net.backward(net(batch(4, 6)).copy())
    gone = weakref.ref(net)
    gc.disable()
    try:
        del net
        assert gone() is None
    finally:
        gc.enable()


def test_paths() -> None:
    body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm(3))
    net = nn.Sequential(nn.ReLU(), nn.Residual(body))
    assert body[1].where == "BatchNorm '1.body.1'"
    assert net.where == "Sequential"
    assert [name for name, _ in net.named_modules()] == [
        "", "0", "1", "1.body", "1.body.0", "1.body.1"
    ]  # fmt: skip


# --- checks -----------------------------------------------------------------------------------


def test_shape_errors_name_the_layer_and_change_nothing() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 2),
    )  # fmt: skip
    net(batch(2, 6, 6, 3))
    net.discard()
    before = state_of(net)
    with pytest.raises(ValueError, match=r"Linear '5': .* expected .*\(N, ..., 16\), got \(N, 36"):
        net(batch(2, 8, 8, 3))
    with pytest.raises(ValueError, match=r"Conv2d '0': .* to have 3 channels, but got 1 channels"):
        net(batch(2, 6, 6, 1))
    with pytest.raises(ValueError, match=r"but got 6 channels .* images are \(N, H, W, C\) here"):
        net(batch(2, 3, 6, 6))
    with pytest.raises(ValueError, match=r"Conv2d '0': Calculated padded input size per channel"):
        net(batch(2, 2, 2, 3))
    with pytest.raises(ValueError, match=r"Conv2d '0': Expected 4D"):
        net(batch(2, 3))
    assert_unchanged(net, before)
    net(batch(2, 6, 6, 3))


def test_one_value_per_channel_is_refused_before_anything_changes() -> None:
    net = nn.Sequential(nn.BatchNorm(4), nn.Linear(4, 3), nn.BatchNorm(3))
    before = state_of(net)
    pattern = r"BatchNorm '0': Expected more than 1 value per channel when training, .*\(1, 4\)"
    with pytest.raises(ValueError, match=pattern):
        net(batch(1, 4))
    deep = nn.Sequential(nn.BatchNorm(4), nn.GlobalAvgPool2d(), nn.BatchNorm(4))
    before_deep = state_of(deep)
    with pytest.raises(ValueError, match=r"BatchNorm '2': Expected more than 1 value"):
        deep(batch(1, 3, 3, 4))
    assert_unchanged(net, before)
    assert_unchanged(deep, before_deep)
    net.eval()
    assert net(batch(1, 4)).shape == (1, 3)
    net.train()
    with pytest.raises(ValueError, match=pattern):
        net(batch(1, 4))


def test_types_are_checked() -> None:
    net = mlp()
    with pytest.raises(TypeError, match=r"expected input of dtype float32, got float64"):
        net(np.zeros((4, 6)))
    with pytest.raises(TypeError, match=r"expected input of dtype float32 or float64, got uint8"):
        nn.ReLU()(np.zeros((4, 6), dtype=np.uint8))
    with pytest.raises(TypeError, match=r"expected a NumPy array, got list"):
        net([[0.0] * 6])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected input of shape \(N, ...\)"):
        net(np.zeros(6, dtype=np.float32))
    with pytest.raises(TypeError, match="is not a Module subclass"):
        nn.Sequential(nn.ReLU(), np.tanh)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(0, 3), "Linear: in_features should be positive"),
        (lambda: nn.Linear(3, 2.0), "Linear: out_features should be an int"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "in_channels must be divisible by groups"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), "out_channels must be divisible by groups"),
        (lambda: nn.Conv2d(3, 4, 0), "Conv2d: kernel_size should be at least 1"),
        (lambda: nn.Conv2d(3, 4, (1, 2, 3)), "Conv2d: kernel_size should be an int or a pair"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), "Conv2d: padding should be"),
        (
            lambda: nn.Conv2d(3, 4, 3, stride=2, padding="same"),
            "padding='same' is not supported for strided convolutions",
        ),
        (lambda: nn.MaxPool2d(2, padding=2), "pad should be at most half"),
        (lambda: nn.AvgPool2d(2, 1.5), "AvgPool2d: stride should be an int"),
        (lambda: nn.BatchNorm(3, eps=-1.0), "BatchNorm: eps should not be negative"),
        (lambda: nn.Dropout(1.5), "dropout probability has to be between 0 and 1, but got 1.5"),
        (lambda: nn.Residual(nn.ReLU(), activation="gelu"), "Residual: activation should be"),
        (lambda: nn.Residual(None), "Residual: body is not a Module"),
    ],
)
def test_arguments_are_checked(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize("layer", [nn.Residual(nn.Linear(3, 2)), nn.Residual(nn.Flatten())])
def test_residual_needs_branches_of_one_shape(layer: nn.Module) -> None:
    shape = (2, 3) if isinstance(layer.body, nn.Linear) else (2, 2, 3)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="body and shortcut should have one output shape"):
        layer(batch(*shape))


# --- dtypes, modes, copies --------------------------------------------------------------------


def test_float64_networks() -> None:
    made, cast = mlp(dtype=np.float64), mlp().astype(np.float64)
    x = np.random.default_rng(0).standard_normal((5, 6))
    np.testing.assert_allclose(made(x), cast(x), rtol=1e-5, atol=1e-6)
    assert cast.dtype == np.float64
    with pytest.raises(RuntimeError, match="while a backward is pending"):
        cast.astype(np.float32)
    cast.backward(np.ones((5, 3)))
    assert all(p.grad is not None and p.grad.dtype == np.float64 for p in cast.parameters())
    with pytest.raises(TypeError, match="expected dtype float32 or float64, got int32"):
        cast.astype(np.int32)


def test_evaluating_gives_every_layer_its_mode_back() -> None:
    net = mlp()
    net[1].eval()
    with net.evaluating():
        assert not any(module.training for module in net.modules())
    assert net.training
    assert not net[1].training
    with pytest.raises(KeyError), net.evaluating():
        raise KeyError
    assert net.training


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_whole_and_independent(copied: Any) -> None:
    net = nn.Sequential(mlp(), nn.Residual(nn.Sequential(nn.Linear(3, 3, rng=0), nn.BatchNorm(3))))
    x = batch(5, 6)
    y = net(x)  # a pending backward is not copied
    twin = copied(net)
    assert twin[0][0].where == "Linear '0.0'"
    before = state_of(net)
    np.testing.assert_array_equal(twin(x), y)
    twin.backward(np.ones_like(y))
    for parameter in twin.parameters():
        parameter.data += 1.0
    assert_unchanged(net, before)
    net.backward(np.ones_like(y))
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(p.grad, q.grad)
        assert p.data.strides == q.data.strides


@pytest.mark.parametrize("rows", [(256, 300), (0, 3), (3, 0)])
def test_predict_refuses_inputs_of_other_lengths(rows: tuple[int, int]) -> None:
    a, b = nn.Input((2,)), nn.Input((2,))
    net = nn.Graph([a, b], nn.add(a, b))
    with pytest.raises(ValueError, match="expected inputs of one N"):
        net.predict(tuple(np.zeros((n, 2), np.float32) for n in rows))


@pytest.mark.parametrize("layer", [nn.MaxPool2d, nn.AvgPool2d])
def test_pools_take_the_sizes_that_the_operation_takes(layer: Any) -> None:
    """With ceil mode a last window may be larger than what is left of the image."""
    operation = F.max_pool2d if layer is nn.MaxPool2d else F.avg_pool2d
    for size, kernel, stride, ceil_mode in product(range(1, 6), (2, 3), (1, 2, 3), (False, True)):
        x = np.random.default_rng(0).standard_normal((2, size, size, 1)).astype(np.float32)
        try:
            expected, _ = operation(x, kernel, stride, ceil_mode=ceil_mode)
        except ValueError:
            with pytest.raises(ValueError, match="too small"):
                layer(kernel, stride, ceil_mode=ceil_mode)(x)
            continue
        y = layer(kernel, stride, ceil_mode=ceil_mode).eval()(x)
        np.testing.assert_array_equal(y, expected)


def test_predict_takes_any_number_of_rows() -> None:
    net = mlp()
    before = state_of(net)
    x = batch(10, 6)
    whole = net.predict(x)
    np.testing.assert_allclose(net.predict(x, batch_size=3), whole, rtol=1e-5, atol=1e-6)
    assert net.predict(x[:0]).shape == (0, 3)
    assert net.predict(x[:1]).shape == (1, 3)
    assert net.training
    assert_unchanged(net, before)
    with pytest.raises(ValueError, match="batch_size should be a positive integer"):
        net.predict(x, batch_size=0)


def test_memory_maps_are_arrays(tmp_path: Any) -> None:
    x = batch(4, 6)
    mapped = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=x.shape)
    mapped[:] = x
    net = mlp()
    np.testing.assert_array_equal(net.predict(mapped), net.predict(x))


def test_parameter_assignments_copy() -> None:
    parameter = nn.Parameter(np.zeros((2, 3)), order=(1, 0))
    data, values = parameter.data, np.arange(6.0).reshape(2, 3)
    parameter.data = values
    values[0, 0] = 100.0
    assert parameter.data is data
    np.testing.assert_array_equal(parameter.storage, [0, 3, 1, 4, 2, 5])
    with pytest.raises(ValueError, match=r"expected data of shape \(2, 3\), got \(3, 2\)"):
        parameter.data = np.zeros((3, 2))
    assert parameter.grad is None
    parameter.grad = values
    assert parameter.grad is not values
    with pytest.raises(ValueError, match=r"expected grad of shape"):
        parameter.grad = np.zeros(6)
    parameter.grad = None
    assert parameter.grad is None
    with pytest.raises(TypeError, match="expected floating point data"):
        nn.Parameter([1, 2])
    with pytest.raises(ValueError, match="does not name the axes"):
        nn.Parameter(np.zeros((2, 3)), order=(0, 0))


def test_repr_shows_the_tree() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, (3, 1), 2, (1, 0), bias=False), nn.Residual(nn.ReLU()))
    assert repr(net).splitlines() == [
        "Sequential(",
        "  (0): Conv2d(3, 4, (3, 1), stride=2, padding=(1, 0), bias=False)",
        "  (1): Residual(",
        "    (body): ReLU()",
        "  )",
        ")",
    ]

"""Graph: the same numbers as the short forms give, forks and joins, names, what it refuses."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from fastbn import functional as F
from fastbn import models, nn, optim

F64 = np.float64


def conv_bn(seen: int, count: int, size: int, stride: int = 1, *, rng: Any, **options: Any) -> Any:
    return (
        nn.Conv2d(seen, count, size, stride, size // 2, bias=False, rng=rng, **options),
        nn.BatchNorm(count, **options),
    )


def through(layers: Any, x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def resnet(shape: tuple[int, ...], classes: int, rng: Any, **options: Any) -> nn.Graph:
    """``models.resnet20`` with channels (4, 8) and one block a stage, drawn."""
    rng = np.random.default_rng(rng)
    x = nn.Input(shape)
    h = nn.ReLU()(through(conv_bn(shape[-1], 4, 3, rng=rng, **options), x))
    for stage, (seen, count) in enumerate(((4, 4), (4, 8))):
        first = conv_bn(seen, count, 3, 1 + stage, rng=rng, **options)
        second = conv_bn(count, count, 3, rng=rng, **options)
        shortcut = h
        if stage:
            shortcut = through(conv_bn(seen, count, 1, 2, rng=rng, **options), h)
        body = through(second, nn.ReLU()(through(first, h)))
        h = nn.ReLU()(nn.add(body, shortcut))
    return nn.Graph(x, nn.Linear(8, classes, rng=rng, **options)(nn.GlobalAvgPool2d()(h)))


def test_a_drawn_network_trains_as_the_short_form_does_to_the_bit(rng: Any) -> None:
    short = models.resnet20((9, 8, 3), 4, channels=(4, 8), blocks=1, rng=0)
    drawn = resnet((9, 8, 3), 4, 0)
    loss = nn.CrossEntropyLoss()
    optimizers = [optim.Adam(net.parameters()) for net in (short, drawn)]
    for step in range(4):
        x = rng.standard_normal((6, 9, 8, 3)).astype(np.float32)
        found = []
        for net, optimizer in zip((short, drawn), optimizers, strict=True):
            _, dlogits = loss(net(x), np.arange(6) % 4)
            found.append(net.backward(dlogits, need_dx=step == 2))
            optimizer.step()
        if step == 2:
            np.testing.assert_array_equal(*found)
    for ours, theirs in zip(
        drawn.state_dict().values(), ordered_as(drawn, short).values(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(drawn.predict(x), short.predict(x))
    assert drawn._pool.allocations <= short._pool.allocations + 2


def ordered_as(drawn: nn.Graph, short: nn.Module) -> dict[str, Any]:
    """The state of the short form, whose shortcuts come behind the bodies."""
    state = short.state_dict()
    shapes = [value.shape for value in drawn.state_dict().values()]
    assert sorted(shapes) == sorted(value.shape for value in state.values())
    return state


def test_steps_in_their_steady_state_allocate_nothing(rng: Any) -> None:
    net = resnet((8, 8, 3), 4, 0)
    x = rng.standard_normal((8, 8, 8, 3)).astype(np.float32)
    counts = []
    for _ in range(5):
        y = net(x)
        net.backward(y)
        counts.append(net._pool.allocations)
    assert counts[-1] == counts[2]


def test_sums_run_with_the_normalisation_in_front_and_the_activation_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    batch_norm = F.batch_norm

    def spy(*args: Any, **options: Any) -> Any:
        calls.append((options["activation"], options["residual"] is not None))
        return batch_norm(*args, **options)

    monkeypatch.setattr(F, "batch_norm", spy)
    monkeypatch.setattr(F, "relu", None)
    net = resnet((8, 8, 3), 4, 0)
    net(np.ones((2, 8, 8, 3), dtype=np.float32))
    plain = ("relu", False)
    assert sorted(calls, key=str) == sorted(
        [plain, plain, ("relu", True), plain, ("relu", True), (None, False)], key=str
    )
    text = net.summary()
    assert "Add()" in text
    assert text.count("BatchNorm '7'") == 3


X, IMAGE = (3,), (4, 4, 2)


def forked() -> nn.Graph:
    """One value with three uses, one of them twice in a sum, and sums of three."""
    x = nn.Input(X)
    h = nn.Tanh()(nn.Linear(3, 4, rng=0, dtype=F64)(x))
    a = nn.BatchNorm(4, dtype=F64)(nn.Linear(4, 4, rng=1, dtype=F64)(h))
    b = nn.Sigmoid()(h)
    c = nn.Add()(h, nn.add(a, b), nn.add(h, h))
    return nn.Graph(x, nn.Linear(4, 2, rng=2, dtype=F64)(nn.LeakyReLU(0.2)(c)))


def two_by_two() -> nn.Graph:
    """Two inputs, of images and of rows, and three outputs; one is used inside, too."""
    image, row = nn.Input(IMAGE), nn.Input(X)
    h = nn.ReLU()(through(conv_bn(2, 3, 3, rng=0, dtype=F64), image))
    gate = nn.Sigmoid()(nn.Linear(3, 3, rng=1, dtype=F64)(row))
    gated = nn.multiply(h, gate)
    pooled = nn.GlobalAvgPool2d()(gated)
    both = nn.concat(pooled, row)
    return nn.Graph([image, row], [pooled, nn.Linear(6, 2, rng=2, dtype=F64)(both), gated])


def squeezed() -> nn.Graph:
    """Squeeze-and-excitation beside a product of images, and norms that no sum can take along."""
    x = nn.Input(IMAGE)
    h = nn.BatchNorm(2, dtype=F64)(x)
    gate = nn.Sigmoid()(nn.Linear(2, 2, rng=0, dtype=F64)(nn.GlobalAvgPool2d()(h)))
    y = nn.multiply(nn.multiply(h, gate), nn.Tanh()(x))
    z = nn.BatchNorm(2, dtype=F64)(nn.Sequential()(y))
    return nn.Graph(x, nn.add(nn.ReLU()(nn.add(x, z)), nn.Residual(nn.BatchNorm(2, dtype=F64))(z)))


def nested() -> nn.Graph:
    """Graphs as layers, one of two inputs."""
    a, b = nn.Input(X), nn.Input(X)
    inner = nn.Graph([a, b], nn.Linear(3, 3, rng=0, dtype=F64)(nn.multiply(a, b)))
    x = nn.Input(X)
    h = nn.Tanh()(x)
    return nn.Graph(x, nn.Sequential(nn.ReLU(), forked())(inner(h, x)))


def identity() -> nn.Graph:
    x = nn.Input(X)
    return nn.Graph(x, [x, nn.Sequential()(x)])


GRAPHS = {
    "forked": (forked, X),
    "two by two": (two_by_two, (IMAGE, X)),
    "squeezed": (squeezed, IMAGE),
    "nested": (nested, X),
    "identity": (identity, X),
    "resnet": (lambda: resnet((4, 4, 2), 3, 0, dtype=F64), (4, 4, 2)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_gradients_are_finite_differences(name: str) -> None:
    make, shape = GRAPHS[name]
    assert nn.check_gradients(make(), shape, rows=4) < 1e-7


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_whole(name: str, again: Any) -> None:
    make, shape = GRAPHS[name]
    net = make()
    twin = again(net)
    shapes = shape if isinstance(shape[0], tuple) else (shape,)
    xs = [np.random.default_rng(i).standard_normal((3, *each)) for i, each in enumerate(shapes)]
    ys, others = net.predict(tuple(xs)), twin.predict(tuple(xs))
    for y, other in zip(*((v if type(v) is tuple else (v,)) for v in (ys, others)), strict=True):
        np.testing.assert_array_equal(y, other)
    assert list(net.state_dict()) == list(twin.state_dict())


def test_several_inputs_and_outputs(rng: Any) -> None:
    net = two_by_two()
    image, row = rng.standard_normal((5, *IMAGE)), rng.standard_normal((5, *X))
    assert net.output_shape(IMAGE, X) == ((3,), (2,), (4, 4, 3))
    ys = net(image, row)
    assert [y.shape for y in ys] == [(5, 3), (5, 2), (5, 4, 4, 3)]
    dys = tuple(rng.standard_normal(y.shape) for y in ys)
    dimage, drow = net.backward(dys, need_dx=(False, True))
    assert dimage is None
    assert drow.shape == (5, 3)
    net(image, row)
    assert net.backward(dys) == (None, None)
    parts = net.predict((image, row), batch_size=2)
    for part, whole in zip(parts, net.predict((image, row)), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-12)
    assert [part.shape for part in net.predict((image[:0], row[:0]))] == [
        (0, 3), (0, 2), (0, 4, 4, 3)
    ]  # fmt: skip
    net(image, row)
    with pytest.raises(ValueError, match=r"expected dy for 3 outputs, got 1"):
        net.backward(dys[0])
    net.discard()
    with pytest.raises(ValueError, match=r"expected inputs of one N"):
        net(image, row[:3])
    with pytest.raises(ValueError, match=r"expected 2 inputs, got 1"):
        net(image)
    assert "Input shape: ((4, 4, 2), (3,))" in net.summary()
    ys = net(image, row)
    ys[0][...] = 0  # the caller's own, though it is used inside
    net.backward(dys)


def test_frozen_parts_are_left_out(rng: Any) -> None:
    net = resnet((8, 8, 3), 4, 0)
    net.requires_grad_(False)
    last = net.nodes[-1][0].requires_grad_()
    y = net(rng.standard_normal((4, 8, 8, 3)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "batch_norm_backward", None)
        net.backward(y)
    assert all(parameter.grad is not None for parameter in last.parameters())


# --- names ------------------------------------------------------------------------------------


class Named(nn.Graph):
    """Names from attributes."""

    def __init__(self) -> None:
        self.conv1 = nn.Conv2d(2, 3, 3, rng=0)
        self.bn1 = nn.BatchNorm(3)
        self.fc = nn.Linear(12, 2, rng=1)
        x = nn.Input(IMAGE)
        super().__init__(x, self.fc(nn.Flatten()(nn.ReLU()(self.bn1(self.conv1(x))))))


def test_names_come_from_attributes_or_are_given() -> None:
    keys = list(Named().state_dict())
    assert keys[:3] == ["conv1.weight", "conv1.bias", "bn1.weight"]
    assert keys[-1] == "fc.bias"
    x = nn.Input(X)
    h = nn.Linear(3, 3)(x)
    y = nn.Linear(3, 2)(h)
    net = nn.Graph(x, y)
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert net.name(h, "layer1.0.conv1") is net
    assert next(iter(net.state_dict())) == "layer1.0.conv1.weight"
    assert h.layer.where == "Linear 'layer1.0.conv1'"
    net.load_state_dict(net.state_dict())
    with pytest.raises(ValueError, match="is empty or taken"):
        net.name(y, "layer1.0.conv1")
    with pytest.raises(ValueError, match="not made by a layer of this graph"):
        net.name(x, "input")
    assert list(copy.deepcopy(net).state_dict()) == list(net.state_dict())


def test_the_order_behind_a_flatten_is_followed() -> None:
    net = Named()
    order = np.arange(12).reshape(2, 2, 3).transpose(2, 0, 1).reshape(-1)
    theirs, ours = net.state_dict("NCHW"), net.state_dict()
    np.testing.assert_array_equal(theirs["fc.weight"], ours["fc.weight"][:, order])
    x = nn.Input(IMAGE)
    mixed = nn.Graph(x, nn.add(nn.Flatten()(x), nn.Linear(32, 32)(nn.Flatten()(x))))
    with pytest.raises(ValueError, match=r"Add '3': the inputs have .* in different orders"):
        mixed.state_dict("NCHW")


# --- what is refused --------------------------------------------------------------------------


def test_joins_take_a_list_as_other_libraries_do() -> None:
    x, y = nn.Input((3,)), nn.Input((3,))
    assert nn.add([x, y]).inputs == nn.add(x, y).inputs == (x, y)
    assert nn.concat((x, y)).shape == nn.concat(x, y).shape == (6,)


def test_what_is_no_graph_is_refused() -> None:
    x, other = nn.Input(X), nn.Input(X)
    layer = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"Linear object is used twice"):
        nn.Graph(x, layer(layer(x)))
    with pytest.raises(ValueError, match=r"depends on <Input: \(3,\)>, which is no input given"):
        nn.Graph(x, nn.add(x, other))
    with pytest.raises(ValueError, match="no output depends on one of the inputs"):
        nn.Graph([x, other], nn.ReLU()(x))
    with pytest.raises(TypeError, match="outputs should be one symbolic value or several"):
        nn.Graph(x, [])
    with pytest.raises(ValueError, match=r"inputs should be what nn.Input returns"):
        nn.Graph(nn.ReLU()(x), nn.ReLU()(x))
    with pytest.raises(ValueError, match=r"Linear: mat1 and mat2 .* got \(N, 5\)"):
        nn.Linear(3, 3)(nn.Input((5,)))
    with pytest.raises(ValueError, match=r"Add: expected two inputs or more of one shape"):
        nn.add(x, nn.Input((5,)))
    with pytest.raises(ValueError, match=r"Multiply: expected two inputs of one shape, or"):
        nn.multiply(nn.Input((4, 4, 2)), x)
    with pytest.raises(ValueError, match=r"Concatenate: expected two inputs or more that agree"):
        nn.concat(nn.Input((4, 4, 2)), x)
    with pytest.raises(TypeError, match="symbolic values and on others at once"):
        nn.Add()(x, np.zeros((1, 3)))
    with pytest.raises(TypeError, match="Input: shape should be a tuple of ints"):
        nn.Input((2.5,))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Input: shape should be a tuple of ints, got 4"):
        nn.Input(4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Input: shape should hold positive sizes"):
        nn.Input((0,))
    with pytest.raises(ValueError, match="several outputs is no layer of a graph"):
        two_by_two()(nn.Input(IMAGE), x)
    owned = nn.Linear(3, 3)
    nets = [nn.Sequential(owned)]
    with pytest.raises(ValueError, match="used twice"):
        nn.Graph(x, owned(x))
    del nets


def test_the_drawing_names_layers_and_edges() -> None:
    text = two_by_two().to_dot()
    assert text.count("Input") == 2
    assert text.count("Output") == 3
    assert "v0 -> v2;" in text
    assert text.startswith("digraph {")

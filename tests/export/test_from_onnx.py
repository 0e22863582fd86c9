"""Files read back: the same function as onnxruntime's, trained, and written again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests
from read_cases import channels_last, predicted, samples, shapes_of, worst_error

from fastbn import models, nn, optim
from fastbn.bench.light import LIGHT, light_model
from fastbn.bench.patterns import PATTERNS
from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import ModelError, from_onnx, to_onnx
from fastbn.export.read.node import READERS

IMAGE = (32, 32, 3)
# Patterns that are no networks of samples, and what is said of them.
NO_NETWORKS = {
    "gemm-column-bias-bn": r"ReduceMean .* mixes the samples of a batch",
    "training-mode": r"BatchNormalization 'bn': it is in training mode",
    "parameters-from-input": r"input 'gamma' .* is no batch",
    "if-branches": r"no layer does what Greater does; If .*: no layer does what If does",
}


@pytest.mark.parametrize("name", [n for n in PATTERNS if n not in NO_NETWORKS])
def test_patterns(name: str) -> None:
    model = PATTERNS[name].build()
    # onnxruntime computes with half numbers, this library does not
    limit = 2e-3 if PATTERNS[name].dtype == "float16" else 1e-5
    assert worst_error(from_onnx(model), model) < limit


@pytest.mark.parametrize("name", NO_NETWORKS)
def test_what_is_no_network(name: str) -> None:
    with pytest.raises(ModelError, match=NO_NETWORKS[name]):
        from_onnx(PATTERNS[name].build())


@pytest.mark.parametrize("name", [n for n in LIGHT if "densenet" not in n])
def test_light_models(name: str) -> None:
    model = light_model(name)
    assert worst_error(from_onnx(model), model, rows=1) < 1e-5


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", ["convnet", "inception", "mlp", "resnet20"])
def test_round_trip(tmp_path: Any, name: str, layout: str, fold: bool) -> None:
    net = models.build(name, input_shape=IMAGE, classes=10, rng=0)
    x = np.random.default_rng(0).standard_normal((6, *IMAGE)).astype(np.float32)
    net(x)
    to_onnx(net, tmp_path / "a.onnx", input_layout=layout, fold=fold, verify=False)
    again = from_onnx(tmp_path / "a.onnx")
    assert again.input_shape == IMAGE
    y, found = net.predict(x), again.predict(x)
    assert np.abs(y - found).max() <= (1e-5 if fold else 1e-6) * np.abs(y).max()
    if not fold:
        assert again.state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2", "unet"])
def test_round_trip_of_the_zoo(tmp_path: Any, name: str) -> None:
    """Layer for layer the same network, under the same names."""
    net = models.build(name, input_shape=IMAGE, classes=10, rng=0)
    to_onnx(net, tmp_path / "a.onnx", fold=False, verify=False, allow_untrained=True)
    again = from_onnx(tmp_path / "a.onnx")
    assert again.state_dict().keys() == net.state_dict().keys()
    [x] = samples(net, 2)
    y = net.predict(x)
    assert np.abs(y - again.predict(x)).max() <= 1e-6 * np.abs(y).max()


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "ELU": lambda: nn.ELU(0.7),
    "SELU": nn.SELU,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "GELU, tanh": lambda: nn.GELU("tanh"),
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "ReLU6": nn.ReLU6,
    "Softplus": nn.Softplus,
    "Mish": nn.Mish,
    "PReLU": lambda: nn.PReLU(8),
    "Clamp": lambda: nn.Clamp(np.linspace(-1, 0, 8), np.linspace(0.1, 1, 8)),
    "Softmax": nn.Softmax,
    "LogSoftmax": nn.LogSoftmax,
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "InstanceNorm": lambda: nn.InstanceNorm(8, affine=True),
    "LayerNorm": lambda: nn.LayerNorm(8),
    "LayerNorm, image": lambda: nn.LayerNorm((6, 6, 8)),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "ChannelShuffle": lambda: nn.ChannelShuffle(4),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "Slice": lambda: nn.Slice(2, 5),
    "Upsample": lambda: nn.Upsample(2),
    "Upsample, bilinear": lambda: nn.Upsample((2, 3), "bilinear"),
    "ZeroPad2d": lambda: nn.ZeroPad2d((1, 2, 3, 0)),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d((4, 3)),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, rng=0),
    "Reshape": lambda: nn.Reshape(9, 4, 8),
    "Permute": lambda: nn.Permute(0, 3, 1, 2),
    "Flatten": nn.Flatten,
}


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("name", LAYERS)
def test_round_trip_of_layers(tmp_path: Any, name: str, opset: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, rng=0), LAYERS[name]()).build((8, 8, 3))
    to_onnx(net, tmp_path / "a.onnx", opset=opset, verify=False)
    again = from_onnx(tmp_path / "a.onnx")
    [x] = samples(net, 3)
    y, found = net.predict(x), again.predict(x)
    assert np.abs(y - found).max() <= 1e-5 * np.abs(y).max()


def test_activations_that_are_spelled_out_are_one_layer(tmp_path: Any) -> None:
    """What opset 11 needs several nodes for, and what PyTorch and Paddle write."""
    for layer in (nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Mish(), nn.GroupNorm(2, 8)):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, rng=0), layer).build((8, 8, 3))
        to_onnx(net, tmp_path / "a.onnx", opset=11, verify=False)
        again = from_onnx(tmp_path / "a.onnx")
        assert type(layer) in {type(found) for found in again.modules()}, layer
    g = Sketch(opset=11)
    x = g.conv(g.input(3, 6, 6), 4)
    three, six = g.constant(3.0), g.constant(6.0)
    h = g.op("Clip", [g.op("Add", [x, three]), g.constant(0.0), six])
    h = g.op("Div", [g.op("Mul", [x, h]), six])
    erf = g.op("Erf", [g.op("Div", [h, g.constant(2.0**0.5)])])
    erf = g.op("Add", [erf, g.constant(1.0)])
    model = g.model(g.op("Mul", [g.op("Mul", [h, erf]), g.constant(0.5)]))
    net = from_onnx(model)
    assert [type(layer) for layer, _ in net.nodes] == [nn.Conv2d, nn.Hardswish, nn.GELU]
    assert worst_error(net, model) < 1e-5


def network(
    draw: Callable[[Sketch], Any], opset: int = 18, dtype: str = "float32"
) -> onnx.ModelProto:
    g = Sketch(opset=opset, dtype=dtype)
    ends = draw(g)
    return g.model(*(ends if isinstance(ends, tuple) else (ends,)))


def torch_head(g: Sketch) -> str:
    """Flatten as PyTorch writes it for a dynamic batch."""
    h = g.conv(g.input(3, 6, 6), 4)
    batch = g.op("Gather", [g.op("Shape", [h]), g.constant(0, np.int64)], axis=0)
    shape = g.op("Concat", [g.op("Unsqueeze", [batch, g.integers(0)]), g.integers(-1)], axis=0)
    return g.gemm(g.op("Reshape", [h, shape]), 5, features=64, bias=g.normal(5))


def torch_upsample(g: Sketch) -> str:
    """Resize to the size of another value."""
    x = g.input(3, 8, 8)
    small = g.conv(x, 4, strides=[2, 2], pad=1)
    sizes = g.op("Slice", [g.op("Shape", [x]), g.integers(2), g.integers(4), g.integers(0)])
    first = g.op("Slice", [g.op("Shape", [small]), g.integers(0), g.integers(2), g.integers(0)])
    sizes = g.op("Concat", [first, sizes], axis=0)
    return g.op("Resize", [small, "", "", sizes], mode="linear")


def attention(g: Sketch) -> str:
    """One block of a transformer, heads split off by Reshape, LayerNorm spelled out."""
    x = g.input(10, 8)
    mean = g.op("ReduceMean", [x, g.integers(-1)])
    d = g.op("Sub", [x, mean])
    var = g.op("ReduceMean", [g.op("Pow", [d, g.constant(2.0)]), g.integers(-1)])
    root = g.op("Sqrt", [g.op("Add", [var, g.constant(1e-5)])])
    h = g.op("Add", [g.op("Mul", [g.op("Div", [d, root]), g.constant(g.normal(8))]),
                     g.constant(g.normal(8))])  # fmt: skip
    heads = []
    for _ in range(3):
        part = g.op("Add", [g.matmul(h, 8, features=8), g.constant(g.normal(8))])
        part = g.op("Reshape", [part, g.integers(0, -1, 2, 4)])
        heads.append(g.op("Transpose", [part], perm=[0, 2, 1, 3]))
    keys = g.op("Transpose", [heads[1]], perm=[0, 1, 3, 2])
    weights = g.op("Mul", [g.op("MatMul", [heads[0], keys]), g.constant(0.5)])
    h = g.op("MatMul", [g.op("Softmax", [weights], axis=-1), heads[2]])
    h = g.op("Reshape", [g.op("Transpose", [h], perm=[0, 2, 1, 3]), g.integers(0, 0, 8)])
    return g.op("Add", [x, g.matmul(h, 8, features=8)])


def detector(g: Sketch) -> tuple[str, str]:
    """Two heads of two scales, joined along their places."""
    x = g.relu(g.conv(g.input(3, 12, 12), 8, pad=1))
    small = g.op("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    ends = []
    for width in (2, 4):
        parts = []
        for source in (x, small):
            h = g.op("Transpose", [g.conv(source, 3 * width, pad=1)], perm=[0, 2, 3, 1])
            parts.append(g.op("Reshape", [h, g.integers(0, -1, width)]))
        ends.append(g.op("Concat", parts, axis=1))
    return g.op("Softmax", [ends[0]], axis=2), ends[1]


def odd_pools(g: Sketch) -> tuple[str, ...]:
    h = g.conv(g.input(3, 9, 9), 4)
    same: dict[str, Any] = {
        "kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 1, 1, 1],
    }  # fmt: skip
    return (
        g.op("MaxPool", [h], **same),
        g.op("AveragePool", [h], **same),
        g.op("AveragePool", [h], count_include_pad=1, **same),
        g.op("AveragePool", [h], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
        g.op("GlobalMaxPool", [h]),
    )


def sequences(g: Sketch) -> tuple[str, ...]:
    h = g.conv(g.input(4, 20), 6, rank=1, pad=1)
    pooled = g.op("MaxPool", [h], kernel_shape=[2], strides=[2])
    wide = g.conv_transpose(pooled, 5, 3, rank=1, strides=[2])
    return wide, g.op("AveragePool", [h], kernel_shape=[3]), g.op("GlobalAveragePool", [h])


def parts(g: Sketch) -> tuple[str, ...]:
    h = g.conv(g.input(3, 8, 8), 6)
    left, right = "left", "right"
    g.nodes.append(helper.make_node("Split", [h, g.integers(2, 4)], [left, right], axis=1))
    g.channels.update(left=2, right=4)
    odd = g.op("Slice", [h, g.integers(5), g.integers(-7), g.integers(1), g.integers(-2)])
    return (
        g.op("Concat", [right, left], axis=1),
        odd,
        g.op("Gather", [h, g.constant(2, np.int64)], axis=1),
        g.op("Gather", [h, g.integers(3, 0, 3)], axis=2),
        g.op("Pad", [h, g.integers(0, 0, 1, -1, 0, 0, 2, 0)], mode="edge"),
        g.op("Pad", [h, g.integers(0, 1, 0, 0, 0, 2, 0, 1), g.constant(0.5)]),
        g.op("DepthToSpace", [g.conv(h, 8)], blocksize=2, channels=2),
        g.op("SpaceToDepth", [h], blocksize=2, channels=24),
        g.op("Tile", [h, g.integers(1, 2, 1, 1)]),
    )


def numbers(g: Sketch) -> tuple[str, ...]:
    h = g.conv(g.input(3, 8, 8), 6)
    gate = g.op("Sigmoid", [g.op("ReduceMean", [h, g.integers(1)])])  # one for each place
    positive = g.op("Exp", [h])
    return (
        g.op("Mul", [h, gate]),
        g.op("Sub", [g.constant(1.0), h]),
        g.op("Div", [g.constant(g.normal(6, 1, 1)), positive]),
        g.op("Add", [h, g.constant(g.normal(1, 6, 6, 6))]),
        g.op("Div", [h, positive]),
        g.op("Sub", [h, gate]),
        g.op("Max", [h, g.constant(g.normal(6, 1, 1))]),
        g.op("Min", [h, gate]),
        g.op("Log", [g.op("Sqrt", [g.op("Add", [g.op("Abs", [h]), g.constant(0.1)])])]),
        g.op("Reciprocal", [g.op("Pow", [positive, g.constant(1.5)])]),
        g.op("PRelu", [h, g.constant(g.rng.uniform(0, 1, (6, 6, 6)))]),
        g.op("ReduceL2", [h, g.integers(2, 3)], keepdims=0),
        g.op("Celu", [h], alpha=0.5),
        g.op("LRN", [h], size=3),
        g.op("HardSigmoid", [h], alpha=0.3, beta=0.4),
        g.op("Expand", [gate, g.integers(1, 6, 6, 6)]),
    )


def resized(g: Sketch) -> tuple[str, ...]:
    h = g.conv(g.input(3, 8, 7), 6)
    found = []
    for mode in ("nearest", "linear", "cubic"):
        for where in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
            scales = ["", g.constant([1.0, 1.0, 1.7, 2.0])]
            found.append(
                g.op("Resize", [h, *scales], mode=mode, coordinate_transformation_mode=where)
            )
    return tuple(found)


def flat(g: Sketch) -> tuple[str, ...]:
    """Features of an image on their way to a product."""
    h = g.op("Flatten", [g.conv(g.input(3, 5, 5), 4)])
    h = g.op("Dropout", [g.relu(g.bn(h, channels=36))])
    h = g.op("Mul", [h, g.constant(g.normal(36))])
    return g.gemm(h, 5, features=36), g.op("Softmax", [h], axis=1)


DRAWN = {
    f.__name__: f
    for f in (
        torch_head, torch_upsample, attention, detector, odd_pools, sequences, parts, numbers,
        resized, flat,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_networks(name: str, tmp_path: Any) -> None:
    model = network(DRAWN[name])
    net = from_onnx(model)
    assert worst_error(net, model) < 1e-5
    steps(net, 1)
    to_onnx(net, tmp_path / "again.onnx", verify=name not in ("numbers", "resized"))


VIEWS: dict[str, Callable[[Sketch, str], str]] = {
    "Identity": lambda g, y: g.op("Identity", [y]),
    "Cast": lambda g, y: g.op("Cast", [y], to=TensorProto.FLOAT),
    "Reshape": lambda g, y: g.op("Reshape", [y, g.integers(-1, 3)]),
    "Unsqueeze": lambda g, y: g.op("Unsqueeze", [y, g.integers(1)]),
    "Transpose, twice": lambda g, y: g.op(
        "Transpose", [g.op("Transpose", [y], perm=[1, 0])], perm=[1, 0]
    ),
    "Dropout": lambda g, y: g.op("Dropout", [y, g.constant(0.0)]),
    "Pad of nothing": lambda g, y: g.op("Pad", [y, g.integers(0, 0, 0, 0)]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_bias_reaches_only_those_who_read_it(name: str) -> None:
    """A value under another name has the same layer; whoever reads the first sees no bias."""

    def draw(g: Sketch) -> tuple[str, ...]:
        y = g.matmul(g.input(4), 3)
        views = [VIEWS[name](g, y) for _ in range(2)]
        sums = [g.op("Add", [view, g.constant(g.normal(3))]) for view in views]
        return (*sums, g.relu(g.op("Add", [y, g.constant(g.normal(1, 3))])))

    model = network(draw)
    assert worst_error(from_onnx(model), model) < 1e-5


@pytest.mark.parametrize("name", VIEWS)
def test_a_bias_behind_a_view(name: str) -> None:
    def draw(g: Sketch) -> str:
        y = VIEWS[name](g, g.matmul(g.input(4), 3))
        return g.op("Add", [y, g.constant(g.normal(3))])

    model = network(draw)
    net = from_onnx(model)
    assert worst_error(net, model) < 1e-5
    if name != "Pad of nothing":
        [linear] = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
        assert linear.bias is not None


def test_older_opsets() -> None:
    def draw(g: Sketch) -> str:
        h = g.op("Clip", [g.bn(g.conv(g.input(3, 8, 8), 4))], min=0.0, max=6.0)
        h = g.op("Upsample", [h], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
        h = g.op("Slice", [h], axes=[1], starts=[1], ends=[4])
        h = g.op("Squeeze", [g.op("ReduceMean", [h], axes=[2, 3])], axes=[2, 3], channels=3)
        return g.op("Softmax", [g.gemm(h, 5, bias=g.normal(5))], axis=1)

    model = network(draw, opset=8)
    assert worst_error(from_onnx(model), model) < 1e-5


def test_a_double_model() -> None:
    model = network(lambda g: g.op("Sigmoid", [g.gemm(g.input(7), 5)]), dtype="float64")
    net = from_onnx(model)
    assert net.dtype == np.float64
    assert worst_error(net, model) < 1e-14


# --- training, and being written again --------------------------------------------------------


def steps(net: nn.Module, count: int) -> list[float]:
    """Losses of steps towards random targets."""
    rng = np.random.default_rng(1)
    xs = samples(net.train(), 6)
    targets = [rng.standard_normal(y.shape).astype(np.float32) for y in predicted(net, xs)]
    adam = optim.Adam(net.parameters(), lr=1e-3) if net.parameters() else None
    losses = []
    for _ in range(count):
        y = net(*xs)
        ys = y if isinstance(y, tuple) else (y,)
        dys = tuple((a - t) / a.size for a, t in zip(ys, targets, strict=True))
        losses.append(float(sum(((a - t) ** 2).mean() for a, t in zip(ys, targets, strict=True))))
        net.backward(dys if isinstance(y, tuple) else dys[0])
        if adam is not None:
            adam.step()
    return losses


@pytest.mark.parametrize(
    "name", ["mlp", "residual-bn-bn-add", "squeeze-excite", "dense-block", "conv-transpose-bn"]
)
def test_training(name: str, tmp_path: Any) -> None:
    net = from_onnx(PATTERNS[name].build())
    losses = steps(net, 20)
    assert losses[-1] < losses[0]
    report = to_onnx(net, tmp_path / "again.onnx")
    assert report.bn_left <= PATTERNS[name].best
    [x] = samples(net, 3)
    again = from_onnx(tmp_path / "again.onnx")
    y = net.predict(x)
    assert np.abs(y - again.predict(x)).max() <= 1e-5 * np.abs(y).max()


def test_not_trainable() -> None:
    net = from_onnx(PATTERNS["mlp"].build(), trainable=False)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    before = net.state_dict()
    net.train()(samples(net, 5)[0])
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_names_are_those_of_the_weights() -> None:
    g = Sketch()
    h = g.op("Conv", [g.input(3, 6, 6), g.constant(g.normal(4, 3, 3, 3), name="layer1.0.c.weight")])
    h = g.op("Flatten", [g.op("GlobalAveragePool", [h])])
    weight = g.constant(g.normal(5, 4), name="7.weight")  # a number that nodes have, too
    net = from_onnx(g.model(g.op("Gemm", [h, weight], transB=1)))
    assert sorted(net.state_dict()) == ["7.weight", "layer1.0.c.weight"]


# --- sizes that are open, inputs, outputs -----------------------------------------------------


def test_open_sizes() -> None:
    def draw(g: Sketch) -> str:
        h = g.op("GlobalAveragePool", [g.conv(g.input(3, "H", "W"), 4)])
        return g.gemm(g.op("Flatten", [h]), 5)

    model = network(draw)
    net = from_onnx(model)
    assert net.predict(np.ones((2, 9, 7, 3), np.float32)).shape == (2, 5)
    assert from_onnx(model, input_shape=(20, 30, 3)).input_shape == (20, 30, 3)
    with pytest.raises(ModelError, match=r"takes samples of shape \('\?', '\?', 3\)"):
        from_onnx(model, input_shape=(20, 30, 4))
    with pytest.raises(ModelError, match="of 2 inputs, the file has 1"):
        from_onnx(model, input_shape=[(20, 30, 3), (3,)])


def test_open_sizes_are_searched() -> None:
    """Only images of 64 pixels have as many features as the matrix has rows."""

    def draw(g: Sketch) -> str:
        h = g.conv(g.input(3, "H", "W"), 2, strides=[32, 32])
        return g.gemm(g.op("Flatten", [h]), 5, features=8)

    assert from_onnx(network(draw)).input_shape == (64, 64, 3)


def test_one_sample_written_down() -> None:
    """An open batch, but a Reshape for one sample."""

    def draw(g: Sketch) -> str:
        h = g.op("Reshape", [g.conv(g.input(3, 6, 6), 4), g.integers(1, 64)], channels=64)
        return g.gemm(h, 5)

    model = network(draw)
    net = from_onnx(model)
    assert worst_error(net, model, rows=1) < 1e-5
    assert net.predict(samples(net, 4)[0]).shape == (4, 5)


def test_several_inputs_and_outputs() -> None:
    g = Sketch()
    a, b, unused = g.input(3, 6, 6), g.input(5), g.input(2)
    h = g.op("Flatten", [g.op("GlobalAveragePool", [g.conv(a, 4)])])
    model = g.model(g.op("Concat", [h, b], axis=1), g.op("Sigmoid", [h]), g.op("Identity", [b]))
    net = from_onnx(model)
    assert shapes_of(net) == [(6, 6, 3), (5,)]
    xs = samples(net, 3)
    found = predicted(net, xs)
    assert [y.shape for y in found] == [(3, 9), (3, 4), (3, 5)]
    np.testing.assert_array_equal(found[2], xs[1])
    assert unused


def test_functions_are_inlined() -> None:
    model = network(lambda g: g.relu(g.conv(g.input(3, 6, 6), 4)))
    twice = helper.make_function(
        "own", "Twice", ["a"], ["c"],
        [helper.make_node("Add", ["a", "a"], ["c"])], [helper.make_opsetid("", 18)],
    )  # fmt: skip
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("own", 1))
    output = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Twice", [output], ["z"], domain="own"))
    model.graph.output[0].name = "z"
    assert worst_error(from_onnx(model), model) < 1e-5


# --- what is not read -------------------------------------------------------------------------


def test_all_unknown_nodes_are_in_one_error() -> None:
    g = Sketch()
    h = g.op("Relu", [g.conv(g.input(3, 6, 6), 4)])
    model = g.model(g.op("Det", [g.op("Sigmoid", [h])]))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Cumsum2", "elsewhere"
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(ModelError) as caught:
        from_onnx(model)
    text = str(caught.value)
    assert "Cumsum2 'n_relu_" in text
    assert "no layer does what elsewhere.Cumsum2 does" in text
    assert "no layer does what Det does" in text
    assert "Sigmoid" not in text
    assert "\n" not in text


MORE_OUTPUTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "its indices": ("MaxPool", TensorProto.INT64, {"kernel_shape": [2, 2]}),
    "its mask": ("Dropout", TensorProto.BOOL, {}),
    "its statistics": ("LayerNormalization", TensorProto.FLOAT, {}),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("used", ["as an output", "by a node"])
@pytest.mark.parametrize("name", MORE_OUTPUTS)
def test_outputs_that_no_layer_has_are_named(name: str, used: str, first: bool) -> None:
    """Whether the file gives them away or reads them, and whether beside the first one or not."""
    operator, kind, attributes = MORE_OUTPUTS[name]
    g = Sketch()
    inputs = [g.input(3, 4, 4)]
    if operator == "LayerNormalization":
        inputs.append(g.constant(np.ones(4)))
    g.nodes.append(helper.make_node(operator, inputs, ["y", "more"], name="n", **attributes))
    ends = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)] if first else []
    if used == "by a node":
        g.nodes.append(helper.make_node("Cast", ["more"], ["z"], to=TensorProto.FLOAT))
        ends.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    else:
        ends.append(helper.make_tensor_value_info("more", kind, None))
    graph = helper.make_graph(g.nodes, "g", g.inputs, ends, g.weights)
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    with pytest.raises(ModelError, match=f"{operator} 'n': its output 'more' is used"):
        from_onnx(model)


def test_parts_without_a_name_are_left_out() -> None:
    """The others keep their places (onnxruntime crashes on such a file)."""
    g = Sketch()
    x = g.input(6)
    g.nodes.append(helper.make_node("Split", [x, g.integers(1, 2, 3)], ["", "b", "c"], axis=1))
    net = from_onnx(g.model("b", "c"))
    [x] = samples(net, 3)
    for found, expected in zip(predicted(net, (x,)), (x[:, 1:3], x[:, 3:]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_slice_of_nothing_is_named() -> None:
    """An end before the first place is no open end."""
    g = Sketch()
    bounds = [g.integers(n) for n in (1, -9, 1)]
    with pytest.raises(ModelError, match="it takes nothing"):
        from_onnx(g.model(g.op("Slice", [g.input(6, 4, 4), *bounds])))


def test_weights_that_are_computed_are_named() -> None:
    g = Sketch()
    x = g.input(3, 6, 6)
    weight = g.op("Reshape", [g.op("ReduceMean", [x, g.integers(0)]), g.integers(4, 3, 3, 3)])
    with pytest.raises(ModelError, match="mixes the samples of a batch"):
        from_onnx(g.model(g.op("Conv", [x, weight])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 7), "is no batch"),
        (lambda m: setattr(m.opset_import[0], "version", 6), "opset 6: files of opset 7 to 26"),
    ],
)
def test_other_files_that_are_not_read(change: Any, message: str) -> None:
    model = network(lambda g: g.relu(g.input(4)))
    change(model)
    with pytest.raises(ModelError, match=message):
        from_onnx(model)


def test_a_missing_file(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match=r"no such file|does not exist|No such file"):
        from_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("scales", [(2.0**37, 1.0), (2.0**28, 2.0**28), (0.5, 1e6)])
def test_a_file_of_huge_sizes_is_refused_at_once(scales: tuple[float, float]) -> None:
    def draw(g: Sketch) -> str:
        factors = g.constant([1.0, 1.0, *scales])
        return g.op("Resize", [g.input(3, 8, 8), "", factors], mode="linear")

    model = network(draw)
    with pytest.raises(ModelError, match=r"Resize .*(memory|at most)"):
        from_onnx(model)


def test_the_node_tests_of_onnx() -> None:
    """Every one that can be read gives what is expected."""
    read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        model = case.model
        if "scales" in case.name and "align_corners" in case.name:
            continue  # onnxruntime takes the corners of the image that is made, and so do we
        if model is None or {node.op_type for node in model.graph.node} - READERS.keys():
            continue
        read += agrees(case.name, model, *case.data_sets[0])
    assert read > 200


def agrees(name: str, source: onnx.ModelProto, inputs: Any, outputs: Any) -> bool:
    """Whether a case could be read; all inputs but the first become constants."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    model.opset_import[0].version = min(model.opset_import[0].version, 26)
    arrays = [np.asarray(x) if isinstance(x, np.ndarray) else to_array(x) for x in inputs]
    if not arrays or any(a is None for a in arrays) or "_to_" in name:
        return False
    for value, array in list(zip(model.graph.input, arrays, strict=True))[1:]:
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
    del model.graph.input[1:]
    try:
        net = from_onnx(model)
    except ModelError:
        return False
    x = arrays[0].astype(net.dtype or np.float32)
    if not name.startswith("test_transpose"):  # which gets what it makes channels-last as it is
        x = channels_last(x)
    for y, expected in zip(predicted(net, (x,)), outputs, strict=False):
        wanted = np.asarray(expected if isinstance(expected, np.ndarray) else to_array(expected))
        if not (name.startswith("test_transpose") and wanted.shape == y.shape):
            wanted = channels_last(wanted)
        size = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0))
        limit = 1e-3 if wanted.dtype == np.float16 else 1e-4
        np.testing.assert_allclose(y, wanted, rtol=limit, atol=limit * size, err_msg=name)
    return True


def to_array(tensor: Any) -> Any:
    return numpy_helper.to_array(tensor) if isinstance(tensor, TensorProto) else None

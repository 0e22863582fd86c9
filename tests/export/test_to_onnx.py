"""Networks of the library as ONNX files: every layer, both layouts, and everything refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fastbn import models, nn
from fastbn.export import (
    MismatchError,
    build,
    build_model,
    compare_predictions,
    fold_batch_norm,
    predictions,
    to_onnx,
)
from fastbn.export.runtime import Session


def data(shape, n=16, seed=0):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def trained(net, shape):
    """Move the running statistics, and make scales of both signs, as training would."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        net.train()
        net(data(shape))
        net.eval()
        net.train()
        discard(net)
    for layer in dict(net.named_modules()).values():
        if isinstance(layer, nn.BatchNorm) and layer.weight is not None:
            size = layer.num_features
            layer.weight.data = rng.uniform(0.5, 1.5, size) * np.where(
                rng.random(size) < 0.3, -1, 1
            )
            layer.bias.data = rng.standard_normal(size) * 0.3
    net.eval()
    return net


def discard(net):
    for layer in dict(net.named_modules()).values():
        layer.discard()


def conv_bn(channels=3, out=6, **options):
    return nn.Sequential(nn.Conv2d(channels, out, 3, rng=0, **options), nn.BatchNorm(out))


IMAGE = (8, 8, 3)


def drawn():
    """A residual block with squeeze-and-excitation, drawn, and a pyramid behind it."""
    x = nn.Input(IMAGE)
    h = nn.ReLU()(nn.BatchNorm(6)(nn.Conv2d(3, 6, 3, padding=1)(x)))
    body = nn.BatchNorm(6)(nn.Conv2d(6, 6, 3, padding=1, bias=False)(h))
    gate = nn.Sigmoid()(nn.Linear(6, 6)(nn.GlobalAvgPool2d()(body)))
    y = nn.ReLU()(nn.add(nn.multiply(body, gate), h))
    deep = nn.Upsample(2)(nn.MaxPool2d(2)(y))
    both = nn.concat(deep, y)
    return nn.Graph(x, nn.Conv2d(12, 2, 1)(nn.Add()(both, both, nn.Tanh()(both))))


def drawn_flat():
    """Branches of flattened features in one order, in another, and side by side."""
    x = nn.Input((2, 3, 3))
    left, right = nn.Flatten()(nn.Conv2d(3, 3, 1)(x)), nn.Flatten()(x)
    same = nn.add(left, right)
    other = nn.multiply(same, nn.Sigmoid()(nn.Linear(18, 18)(right)))
    return nn.Graph(x, nn.Linear(54, 3)(nn.concat(nn.concat(left, same), other)))


NETWORKS = {
    "mlp": ((7,), lambda: nn.Sequential(nn.Linear(7, 9), nn.BatchNorm(9), nn.ReLU(),
                                        nn.Dropout(0.5), nn.Linear(9, 4)), 0),
    "no-bias": ((7,), lambda: nn.Sequential(nn.Linear(7, 9, bias=False), nn.BatchNorm(9)), 0),
    "bn-first": ((7,), lambda: nn.Sequential(nn.BatchNorm(7), nn.Linear(7, 4)), 0),
    "bn-alone": ((7,), lambda: nn.Sequential(nn.BatchNorm(7)), 1),
    "not-affine": ((7,), lambda: nn.Sequential(nn.Linear(7, 5), nn.BatchNorm(5, affine=False)), 0),
    "padded": (IMAGE, lambda: conv_bn(padding=1), 0),
    "same-even": (IMAGE, lambda: nn.Sequential(nn.Conv2d(3, 5, (4, 2), padding="same"),
                                               nn.BatchNorm(5)), 0),
    "strided-dilated": (IMAGE, lambda: conv_bn(stride=2, dilation=2, padding=(2, 1)), 0),
    "grouped": ((8, 8, 4), lambda: conv_bn(4, 6, groups=2, bias=False), 0),
    "depthwise": ((8, 8, 4), lambda: conv_bn(4, 8, groups=4), 0),
    "activations": (IMAGE, lambda: nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 1), nn.Sigmoid(),
        nn.Conv2d(4, 4, 1), nn.BatchNorm(4), nn.Tanh()), 0),
    "pools": (IMAGE, lambda: nn.Sequential(
        conv_bn(padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.GlobalAvgPool2d(), nn.Linear(6, 4)), 0),
    "ceil": ((9, 7, 3), lambda: nn.Sequential(
        conv_bn(padding=1), nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.Flatten(), nn.Linear(3 * 3 * 6, 3)), 0),
    "flatten": ((5, 4, 3), lambda: nn.Sequential(
        conv_bn(), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 2 * 6, 8), nn.BatchNorm(8)), 0),
    "flatten-bn-relu": ((5, 4, 3), lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Flatten(), nn.BatchNorm(36), nn.ReLU(), nn.Linear(36, 4)), 0),
    "flatten-last": ((5, 4, 3), lambda: nn.Sequential(conv_bn(), nn.Flatten()), 0),
    "flatten-residual": ((2, 2, 3), lambda: nn.Sequential(nn.Flatten(), nn.Residual(
        nn.Sequential(nn.Linear(12, 12), nn.BatchNorm(12))), nn.Linear(12, 3)), 0),
    "residual": (IMAGE, lambda: nn.Sequential(conv_bn(padding=1), nn.ReLU(), nn.Residual(
        nn.Sequential(conv_bn(6, 6, padding=1), nn.ReLU(), conv_bn(6, 6, padding=1)))), 0),
    "residual-shortcut": (IMAGE, lambda: nn.Sequential(nn.Residual(
        conv_bn(3, 6, padding=1, stride=2),
        nn.Sequential(nn.Conv2d(3, 6, 1, stride=2, bias=False), nn.BatchNorm(6)),
        activation="leaky_relu", negative_slope=0.1)), 0),
    "residual-linear": (IMAGE, lambda: nn.Residual(conv_bn(3, 3, padding=1), activation=None), 0),
    "pre-activation": (IMAGE, lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Residual(nn.Sequential(
        nn.BatchNorm(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.BatchNorm(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1)), activation=None), nn.BatchNorm(6), nn.ReLU(),
        nn.GlobalAvgPool2d(), nn.Linear(6, 3)), 1),
    "linear-on-image": (IMAGE, lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm(5)), 0),
    "linear-on-sequence": ((6, 3), lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm(5)), 0),
    "transposed": (IMAGE, lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.BatchNorm(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2, dilation=2, groups=2, bias=False), nn.BatchNorm(6)), 0),
    "concat": (IMAGE, lambda: nn.Sequential(nn.Concat(
        nn.Sequential(conv_bn(padding=1), nn.ReLU()), nn.MaxPool2d(3, 1, 1)),
        conv_bn(9, 5), nn.ReLU()), 0),
    "concat-bn": (IMAGE, lambda: nn.Sequential(
        nn.Concat(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 3, padding=1)), nn.BatchNorm(6)), 0),
    "concat-flattened": ((2, 2, 3), lambda: nn.Sequential(nn.Flatten(), nn.Concat(
        nn.Sequential(), nn.Linear(12, 5), nn.ReLU()), nn.Linear(29, 3)), 0),
    "concat-of-flattens": ((4, 3, 3), lambda: nn.Sequential(nn.Concat(
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), nn.Flatten()), nn.Linear(40, 3)), 0),
    "inception": ((8, 8, 2), lambda: models.inception((8, 8, 2), 4, width=2), 0),
    "inception-sigmoid": ((4, 4, 2), lambda: models.inception(
        (4, 4, 2), 4, width=2, stages=2, activation="sigmoid", local_response=True,
        dropout=0.4), 0),
    "resnet20": ((8, 8, 2), lambda: models.resnet20((8, 8, 2), 4, channels=(4, 6, 8)), 0),
    "local-response": (IMAGE, lambda: nn.Sequential(
        conv_bn(padding=1), nn.ReLU(), nn.LocalResponseNorm(3, 0.5), conv_bn(6, 5),
        nn.LocalResponseNorm(5, 0.7, 0.6, 2.0), nn.Flatten(), nn.Linear(180, 3)), 0),
    "conv1d": ((9, 4), lambda: nn.Sequential(
        nn.Conv1d(4, 6, 3, 2, 1, groups=2), nn.BatchNorm(6), nn.ReLU(), nn.Conv1d(6, 2, 1),
        nn.Flatten(), nn.Linear(10, 3)), 0),
    "upsample": (IMAGE, lambda: nn.Sequential(
        conv_bn(padding=1), nn.Upsample(2), nn.Upsample((1, 3), "bilinear"), conv_bn(6, 2)), 0),
    "pad-pool": ((8, 6, 3), lambda: nn.Sequential(
        nn.ZeroPad2d((1, 0, 2, 3)), conv_bn(), nn.ReLU(), nn.ZeroPad2d((0, 1, 1, 0)),
        nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(36, 3)), 0),
    "adaptive-one": (IMAGE, lambda: nn.Sequential(
        conv_bn(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3), nn.Softmax()), 0),
    "adaptive-uneven": (IMAGE, lambda: nn.Sequential(
        conv_bn(), nn.AdaptiveAvgPool2d((4, 7)), nn.Flatten(), nn.Linear(168, 3)), 0),
    "slices": ((4, 4, 8), lambda: nn.Sequential(
        nn.Concat(nn.Slice(3, 8), nn.Slice(0, 4)), conv_bn(9, 6)), 0),
    "shuffles": ((4, 4, 8), lambda: nn.Sequential(
        nn.ChannelShuffle(4), conv_bn(8, 12, padding=1), nn.PixelShuffle(2), nn.Softmax()), 0),
    "reshape-permute": ((4, 3, 2), lambda: nn.Sequential(
        conv_bn(2, 4), nn.Permute(0, 3, 1, 2), nn.Reshape(4, 2), nn.Linear(2, 3),
        nn.Reshape(-1), nn.Linear(12, 6), nn.Reshape(3, 2), nn.Permute(0, 2, 1)), 0),
    "graph": (IMAGE, drawn, 0),
    "graph-flattened": ((2, 3, 3), drawn_flat, 0),
    "image-out": (IMAGE, lambda: conv_bn(padding=1), 0),
}  # fmt: skip


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", NETWORKS)
def test_network(name, layout, tmp_path):
    shape, make, left = NETWORKS[name]
    net = trained(make(), shape)
    path = tmp_path / "net.onnx"
    report = to_onnx(net, path, input_layout=layout)
    assert report.bn_after == report.bn_left == left
    assert report.affine_left == 0
    assert report.max_rel_f64 < 1e-5
    model = onnx.load(path)
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == left
    found = compare_predictions(net, path, data(shape, 5, 7), input_layout=layout)
    assert found.samples == 5
    assert found.max_rel < 1e-5
    assert found.argmax_agreement == 1.0


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 18, 21, 25])
def test_opsets(opset, tmp_path):
    shape, make, _ = NETWORKS["pools"]
    report = to_onnx(trained(make(), shape), tmp_path / "a.onnx", opset=opset)
    assert (report.opset, report.bn_after) == (opset, 0)
    assert report.ir_version >= 8


def test_layer_raises_the_opset(tmp_path):
    shape, make, _ = NETWORKS["ceil"]
    report = to_onnx(trained(make(), shape), tmp_path / "a.onnx", opset=7)
    assert report.opset == 10
    assert report.notes == ["opset 7 became 10: ceil_mode needs it"]


def test_header_and_metadata(tmp_path):
    net = trained(NETWORKS["mlp"][1](), (7,))
    to_onnx(net, tmp_path / "a.onnx", classes=["a", "b", "c", "d"])
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (18, 8)
    assert model.producer_name == "fastbn"
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties["classes"] == '["a", "b", "c", "d"]'
    assert properties["batch_norms_before"] == "1"
    assert properties["batch_norms_after"] == "0"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


def test_without_folding(tmp_path):
    net = trained(NETWORKS["mlp"][1](), (7,))
    report = to_onnx(net, tmp_path / "a.onnx", fold=False)
    assert (report.bn_before, report.bn_after) == (1, 1)
    folded, second = fold_batch_norm(tmp_path / "a.onnx")
    assert second.bn_left == 0
    assert len(folded.graph.node) == report.nodes_after - 1


def test_without_verification(tmp_path):
    net = trained(NETWORKS["mlp"][1](), (7,))
    report = to_onnx(net, tmp_path / "a.onnx", verify=False)
    assert report.max_abs_ort is None
    assert (tmp_path / "a.onnx").exists()


def test_mode_and_state_stay(tmp_path):
    net = trained(NETWORKS["residual"][1](), IMAGE).train()
    before = net.state_dict()
    to_onnx(net, tmp_path / "a.onnx")
    assert net.training
    assert all(np.array_equal(before[key], value) for key, value in net.state_dict().items())


def test_untrained_is_refused(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4))
    with pytest.raises(ValueError, match="BatchNorm '1': running statistics were never updated"):
        to_onnx(net, tmp_path / "a.onnx", input_shape=(3,))
    assert not list(tmp_path.iterdir())
    report = to_onnx(net, tmp_path / "a.onnx", input_shape=(3,), allow_untrained=True)
    assert report.bn_after == 0


def test_no_running_statistics(tmp_path):
    net = nn.Sequential(nn.BatchNorm(3, track_running_stats=False))
    with pytest.raises(ValueError, match="batch's own statistics"):
        to_onnx(net, tmp_path / "a.onnx", input_shape=(3,))


def test_arguments(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4))
    path = tmp_path / "a.onnx"
    with pytest.raises(ValueError, match="input shape is unknown"):
        to_onnx(net, path)
    with pytest.raises(ValueError, match="input_layout"):
        to_onnx(net, path, input_shape=(3,), input_layout="CHWN")
    with pytest.raises(ValueError, match="opset should be from 7"):
        to_onnx(net, path, input_shape=(3,), opset=6)
    with pytest.raises(ValueError, match="positive sizes"):
        to_onnx(net, path, input_shape=(0,))
    with pytest.raises(ValueError, match=r"4|5"):
        to_onnx(net, path, input_shape=(5,))
    with pytest.raises(TypeError, match="should be a Module"):
        to_onnx(lambda x: x, path, input_shape=(3,))
    assert not path.exists()


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [(IMAGE, 4, "no such window of an even size 4"), ((6, 3), 3, "LRN for images alone")],
)
def test_local_responses_that_onnx_has_not(shape, size, message, tmp_path):
    net = nn.Sequential(nn.LocalResponseNorm(size))
    with pytest.raises(ValueError, match=rf"LocalResponseNorm '0': ONNX (has )?{message}"):
        to_onnx(net, tmp_path / "a.onnx", input_shape=shape)


def test_what_onnxruntime_is_coarse_at_is_no_difference(tmp_path):
    """Its Sigmoid is off by 1e-7, and these results are 3e-4."""
    head = nn.Conv2d(4, 1, 1, rng=1)
    head.bias.data = [-8.0]
    net = nn.Sequential(nn.Conv2d(3, 4, 3, rng=0), head, nn.Sigmoid()).build((8, 8, 3))
    report = to_onnx(net, tmp_path / "a.onnx")
    assert report.max_abs_ort < 2e-7


def test_own_forward_is_refused(tmp_path):
    class Twice(nn.ReLU):
        def forward(self, x):
            y, saved = super().forward(x)
            return 2 * y, saved

    net = nn.Sequential(nn.Linear(3, 4), Twice())
    with pytest.raises(TypeError, match="Twice '1' cannot be exported"):
        to_onnx(net, tmp_path / "a.onnx", input_shape=(3,))


class Scale(nn.Module):
    """A layer of one's own, feature by feature."""

    def __init__(self, features):
        super().__init__()
        self.scale = nn.Parameter(np.linspace(0.5, 2.0, features), dtype=np.float32)

    def forward(self, x):
        return x * self.scale.data, x

    def backward(self, dy, saved, need_dx=True):
        self.scale.grad = (dy * saved).reshape(-1, dy.shape[-1]).sum(axis=0)
        return dy * self.scale.data

    def output_shape(self, input_shape):
        return input_shape

    def onnx(self, build, flow):
        spatial = (1,) * (len(flow.shape) - 1)
        scale = build.weight("scale", self.scale.data.reshape(-1, *spatial))
        return flow.to(build.node("Mul", [flow.value, scale]))


class FollowedScale(Scale):
    def follow_order(self, found, *orders):
        found.permute(self.scale.data, 0, orders[0])
        return orders[0]

    def onnx(self, build, flow):
        return flow.to(build.node("Mul", [flow.value, build.weight("scale", self.scale.data)]))


class Gate(nn.Module):
    """A network of one's own wiring, with a Flatten inside."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Flatten(), nn.Linear(36, 5, rng=0))
        self.right = nn.Sequential(Scale(4), nn.GlobalAvgPool2d(), nn.Linear(4, 5, rng=1))

    def forward(self, x):
        (a, of_a), (b, of_b) = self.left.forward(x), self.right.forward(x)
        return a * b, (a, b, of_a, of_b)

    def backward(self, dy, saved, need_dx=True):
        a, b, of_a, of_b = saved
        return self.left.backward(dy * b, of_a) + self.right.backward(dy * a, of_b)

    def output_shape(self, input_shape):
        self.right.output_shape(input_shape)
        return self.left.output_shape(input_shape)

    def onnx(self, build, flow):
        a, b = build.aligned(build.layer(self.left, flow), build.layer(self.right, flow))
        return a.to(build.node("Mul", [a.value, b.value]))


@pytest.mark.parametrize(
    ("net", "gathers"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 1, rng=0), nn.BatchNorm(4), Scale(4), nn.ReLU()), 0),
        (nn.Sequential(nn.Flatten(), Scale(36), nn.Linear(36, 2, rng=0)), 1),
        (nn.Sequential(nn.Flatten(), FollowedScale(36), nn.Linear(36, 2, rng=0)), 0),
        (nn.Sequential(Scale(4), Gate(), nn.Linear(5, 2, rng=0)), 0),
    ],
    ids=["images", "behind a Flatten", "followed behind a Flatten", "own wiring"],
)
def test_layers_of_ones_own_say_what_their_nodes_are(net, gathers, tmp_path):
    assert nn.check_gradients(net, (3, 3, 4)) < 1e-6
    report = to_onnx(trained(net, (3, 3, 4)), tmp_path / "a.onnx")
    assert report.argmax_agreement == 1.0
    nodes = onnx.load(tmp_path / "a.onnx").graph.node
    assert sum(node.op_type == "Gather" for node in nodes) == gathers
    assert any(node.name.endswith(("1", "right.0", "2", "0")) for node in nodes)


def test_a_flatten_inside_own_wiring_has_no_nchw_state(tmp_path):
    net = nn.Sequential(Scale(4), Gate()).build((3, 3, 4))
    with pytest.raises(ValueError, match=r"Gate '1': cannot tell how the order"):
        net.state_dict(layout="NCHW")


def test_subclass_without_forward_is_accepted(tmp_path):
    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(3, 4), nn.ReLU())

    to_onnx(Net(), tmp_path / "a.onnx", input_shape=(3,))
    assert onnx.load(tmp_path / "a.onnx").graph.name == "Net"


def test_wrong_layout_is_noticed(tmp_path, monkeypatch):
    """Columns behind a Flatten in the wrong order: folding agrees, the network does not."""
    shape, make, _ = NETWORKS["flatten"]
    net = trained(make(), shape)
    path = tmp_path / "a.onnx"
    path.write_text("old")
    monkeypatch.setattr(nn.Flatten, "follow_order", lambda layer, found, order: None)
    with pytest.raises(MismatchError, match=r"differs from net\.predict"):
        to_onnx(net, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_fold_is_noticed(tmp_path, monkeypatch):
    from fastbn.export.fold import backward

    honest = backward.add_bias

    def careless(plan, node, index, scale, shift):
        honest(plan, node, index, scale, shift * 1.01)

    monkeypatch.setattr(backward, "add_bias", careless)
    net = trained(conv_bn(), IMAGE)
    with pytest.raises(MismatchError, match="differs from float64"):
        to_onnx(net, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    path = tmp_path / "a.onnx"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        to_onnx(trained(NETWORKS["mlp"][1](), (7,)), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_float64_network_is_written_as_float32(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4, rng=0), nn.ReLU()).astype(np.float64)
    report = to_onnx(net, tmp_path / "a.onnx", input_shape=(3,))
    assert report.max_rel_ort < 1e-6


def test_build_model_is_unfolded():
    built = build_model(trained(NETWORKS["residual"][1](), IMAGE))
    operators = [node.op_type for node in built.proto.graph.node]
    assert operators.count("BatchNormalization") == 3
    assert built.input_shape == IMAGE
    assert built.proto.ir_version == build.OLDEST_IR


MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("padding", "operators"), [(0, ["Conv"]), (1, ["Sub", "Conv"])])
def test_normalization_inside(padding, operators, layout, tmp_path):
    """The scale goes into the weights; the mean has to stay in front of padding."""
    net = trained(conv_bn(padding=padding), IMAGE)
    path = tmp_path / "a.onnx"
    report = to_onnx(net, path, normalization=(MEAN, STD), input_layout=layout)
    assert report.bn_after == 0
    model = onnx.load(path)
    found = [n.op_type for n in model.graph.node if n.op_type != "Transpose"]
    assert found == operators
    x = np.random.default_rng(0).random((4, *IMAGE), dtype=np.float32)
    expected = net.predict(((x - np.float32(MEAN)) / np.float32(STD)).astype(np.float32))
    (y,) = Session(model).run({"input": x if layout == "NHWC" else np.moveaxis(x, -1, 1)})
    y = y if layout == "NHWC" else np.moveaxis(y, 1, -1)
    np.testing.assert_allclose(y, expected, atol=2e-5 * np.abs(expected).max())
    properties = {p.key: p.value for p in model.metadata_props}
    assert properties["normalization"] == '{"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3]}'


def test_normalization_of_features(tmp_path):
    net = trained(NETWORKS["mlp"][1](), (7,))
    report = to_onnx(net, tmp_path / "a.onnx", normalization=(0.5, 0.25))
    assert report.bn_after == 0
    with pytest.raises(ValueError, match="positive standard deviation"):
        to_onnx(net, tmp_path / "a.onnx", normalization=(0.5, 0.0))


def test_softmax_inside(tmp_path):
    net = trained(NETWORKS["mlp"][1](), (7,))
    to_onnx(net, tmp_path / "a.onnx", softmax=True)
    (y,) = Session(tmp_path / "a.onnx").run({"input": data((7,))})
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)


def test_float16(tmp_path):
    net = trained(NETWORKS["residual"][1](), IMAGE)
    wide = to_onnx(net, tmp_path / "a.onnx")
    report = to_onnx(net, tmp_path / "b.onnx", precision="float16")
    assert wide.narrowing is None
    assert 0 < report.narrowing.max_rel < 0.01
    assert report.narrowing.bytes_after < 0.7 * report.narrowing.bytes_before
    model = onnx.load(tmp_path / "b.onnx")
    assert {t.data_type for t in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_float16_keeps_what_has_to_be_float32(mode, opset, tmp_path):
    """Resize takes its factors in float32 alone."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Upsample(2, mode))
    path = tmp_path / "a.onnx"
    report = to_onnx(net, path, input_shape=IMAGE, precision="float16", opset=opset)
    assert 0 < report.narrowing.max_rel < 0.01
    kinds = {t.name: t.data_type for t in onnx.load(path).graph.initializer}
    scales = [name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT]
    assert len(scales) == 1
    assert "scales" in scales[0]


def test_float16_takes_infinite_bounds(tmp_path):
    """Some channels have a lower bound, the others an upper one."""
    shape, make, _ = NETWORKS["flatten-bn-relu"]
    report = to_onnx(trained(make(), shape), tmp_path / "a.onnx", precision="float16")
    assert 0 < report.narrowing.max_rel < 0.01
    arrays = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "a.onnx").graph.initializer]
    assert any(np.isinf(a).any() for a in arrays)


def test_int8(tmp_path):
    net = trained(NETWORKS["pools"][1](), IMAGE)
    x = data(IMAGE, 100)
    labels = net.predict(x).argmax(axis=1)
    path = tmp_path / "a.onnx"
    report = to_onnx(net, path, precision="int8", calibration=x, labels=labels)
    assert report.narrowing.samples == 100
    assert report.narrowing.accuracy_before == 1.0
    assert report.narrowing.accuracy_after == report.narrowing.argmax_agreement > 0.8
    model = onnx.load(path)
    assert any(n.op_type == "QuantizeLinear" for n in model.graph.node)
    assert model.producer_name == "fastbn"
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    scales = {t.name: t.dims for t in model.graph.initializer if t.name.endswith("_scale")}
    assert weights
    assert any(list(dims) == [6] for dims in scales.values()), "one scale for every channel"


def test_precision_arguments(tmp_path):
    net, path = nn.Sequential(nn.Linear(3, 4)), tmp_path / "a.onnx"
    with pytest.raises(ValueError, match="precision should be one of"):
        to_onnx(net, path, input_shape=(3,), precision="int4")
    with pytest.raises(ValueError, match="needs calibration"):
        to_onnx(net, path, input_shape=(3,), precision="int8")
    one = np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match="as many classes"):
        to_onnx(net, path, input_shape=(3,), test=(one, np.zeros(2, np.int64)))
    with pytest.raises(ValueError, match="one each"):
        to_onnx(net, path, input_shape=(3,), labels=np.zeros(3))
    assert not path.exists()


def two_by_two():
    image, row = nn.Input(IMAGE), nn.Input((5,))
    h = nn.ReLU()(nn.BatchNorm(4)(nn.Conv2d(3, 4, 3, padding=1)(image)))
    gate = nn.Sigmoid()(nn.BatchNorm(4)(nn.Linear(5, 4)(row)))
    gated = nn.multiply(h, gate)
    return nn.Graph([image, row], [nn.Linear(4, 3)(nn.GlobalAvgPool2d()(gated)), gated, row])


def test_nan_is_no_agreement():
    """Neither at one of two levels, nor in the network."""
    y = np.ones((2, 3), np.float32)
    nan = np.where(np.eye(2, 3), np.float32(np.nan), y)
    for expected, found in ((y, [y, nan]), (y, [nan, y]), (nan, [y, y])):
        assert predictions._compare(expected, found).max_rel == np.inf
    assert predictions._compare(y, [y, y]).max_rel == 0


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_several_inputs_and_outputs(layout, tmp_path, rng):
    net = two_by_two()
    for _ in range(3):
        net(data(IMAGE, 9), rng.standard_normal((9, 5)).astype(np.float32))
        net.discard()
    path = tmp_path / "net.onnx"
    report = to_onnx(net, path, input_layout=layout)
    assert report.bn_after == 0
    assert report.max_rel_ort < 1e-5
    model = onnx.load(path)
    assert [value.name for value in model.graph.input] == ["input_0", "input_1"]
    assert [value.name for value in model.graph.output] == ["output_0", "output_1", "output_2"]
    xs = (data(IMAGE, 5, 7), rng.standard_normal((5, 5)).astype(np.float32))
    assert compare_predictions(net, path, xs, input_layout=layout).max_rel < 1e-5
    with pytest.raises(ValueError, match="normalization is for networks of one input"):
        to_onnx(net, path, normalization=(0.5, 0.5))
    with pytest.raises(ValueError, match="is for networks of one input and one output"):
        to_onnx(net, path, precision="float16")

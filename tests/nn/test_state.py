"""state_dict and load_state_dict: names, shapes, strictness, image layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import nn


def convnet(rng: int = 0, **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, rng=rng),
        nn.BatchNorm(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3 * 4 * 5, 6, rng=rng + 1),
    )


def randomised(net: nn.Module, seed: int = 3) -> nn.Module:
    rng = np.random.default_rng(seed)
    net.load_state_dict(
        {
            name: rng.uniform(0.5, 1.5, value.shape) if value.ndim else np.array(7)
            for name, value in net.state_dict().items()
        }
    )
    return net


def test_names_and_shapes_are_pytorchs() -> None:
    shapes = {name: value.shape for name, value in convnet().state_dict().items()}
    assert shapes == {
        "0.weight": (3, 2, 3, 3),
        "0.bias": (3,),
        "1.weight": (3,),
        "1.bias": (3,),
        "1.running_mean": (3,),
        "1.running_var": (3,),
        "1.num_batches_tracked": (),
        "4.weight": (6, 60),
        "4.bias": (6,),
    }
    assert list(shapes)[2:7] == [
        "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"
    ]  # fmt: skip
    residual = nn.Residual(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2, bias=False))
    assert list(residual.state_dict()) == ["body.0.weight", "body.0.bias", "shortcut.weight"]
    plain = nn.BatchNorm(3, affine=False, track_running_stats=False)
    assert plain.state_dict() == {}


def test_copies_and_round_trip() -> None:
    net = convnet()
    state = net.state_dict()
    for value in state.values():
        assert value.flags.c_contiguous
        value[...] = 9
    assert not any((value == 9).all() for value in net.state_dict().values())
    other = randomised(convnet(rng=5))
    assert net.load_state_dict(other.state_dict()) == ([], [])
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[name])
    assert net.state_dict()["1.num_batches_tracked"] == 7


def test_strict_loading_lists_everything_and_changes_nothing() -> None:
    net = convnet()
    before = net.state_dict()
    state = randomised(convnet()).state_dict()
    del state["0.bias"], state["1.running_var"]
    state["4.weight"] = np.zeros((6, 61))
    state["5.weight"] = np.zeros(3)
    with pytest.raises(ValueError, match="Error") as caught:
        net.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "Error(s) in loading state_dict for Sequential:",
        '    Missing key(s) in state_dict: "0.bias", "1.running_var"',
        '    Unexpected key(s) in state_dict: "5.weight"',
        "    size mismatch for 4.weight: copying a param with shape (6, 61) from checkpoint, "
        "the shape in current model is (6, 60)",
    ]
    del state["4.weight"]
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert missing == ["0.bias", "1.running_var", "4.weight"]
    assert unexpected == ["5.weight"]
    np.testing.assert_array_equal(net.state_dict()["0.bias"], before["0.bias"])
    np.testing.assert_array_equal(net.state_dict()["0.weight"], state["0.weight"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("4.bias", np.zeros(6, dtype=complex)),
        ("4.bias", np.array(list("abcdef"))),
        ("1.num_batches_tracked", np.array(1.5)),
    ],
)
def test_values_of_a_wrong_type_change_nothing(name: str, value: Any) -> None:
    net = convnet()
    before = net.state_dict()
    state: dict[str, Any] = randomised(convnet()).state_dict()
    state[name] = value
    with pytest.raises(TypeError, match=f"{name}: expected values of dtype"):
        net.load_state_dict(state)
    for key, kept in net.state_dict().items():
        np.testing.assert_array_equal(kept, before[key])


def test_loading_keeps_memory_in_place() -> None:
    net = convnet()
    arrays = [parameter.data for parameter in net.parameters()]
    randomised(net)
    for parameter, array in zip(net.parameters(), arrays, strict=True):
        assert parameter.data is array


def test_nchw_permutes_the_linear_behind_a_flatten() -> None:
    net = randomised(convnet())
    with pytest.raises(ValueError, match="needs the shape of the input"):
        net.state_dict(layout="NCHW")
    with pytest.raises(ValueError, match="layout should be 'NHWC' or 'NCHW', got 'CHWN'"):
        net.state_dict(layout="CHWN")
    net.build((4, 5, 2))
    ours, theirs = net.state_dict(), net.state_dict(layout="NCHW")
    for name in ours:
        if name != "4.weight":
            np.testing.assert_array_equal(ours[name], theirs[name])
    image = np.random.default_rng(0).standard_normal((4, 5, 3))
    flat_ours, flat_theirs = image.reshape(-1), image.transpose(2, 0, 1).reshape(-1)
    assert not np.allclose(ours["4.weight"], theirs["4.weight"])
    np.testing.assert_allclose(
        ours["4.weight"] @ flat_ours, theirs["4.weight"] @ flat_theirs, rtol=1e-5
    )
    other = convnet(rng=9).build((4, 5, 2))
    other.load_state_dict(theirs, layout="NCHW")
    np.testing.assert_array_equal(other.state_dict()["4.weight"], ours["4.weight"])


def test_the_order_goes_through_layers_that_work_feature_by_feature() -> None:
    def make(rng: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Sequential(nn.Flatten(), nn.BatchNorm(12)),
            nn.Dropout(0.1),
            nn.Residual(nn.Sequential(nn.ReLU(), nn.BatchNorm(12)), nn.BatchNorm(12)),
            nn.Flatten(),
            nn.Linear(12, 2, rng=rng),
            nn.Linear(2, 2, rng=rng),
        ).build((2, 2, 3))

    net = make(0)
    randomised(net)
    ours, theirs = net.state_dict(), net.state_dict("NCHW")
    order = np.arange(12).reshape(2, 2, 3).transpose(2, 0, 1).reshape(-1)
    for name in ("0.1.running_var", "2.body.1.weight", "2.shortcut.bias"):
        np.testing.assert_array_equal(theirs[name], ours[name][order])
    np.testing.assert_array_equal(theirs["4.weight"], ours["4.weight"][:, order])
    np.testing.assert_array_equal(theirs["5.weight"], ours["5.weight"])
    other = make(1)
    other.load_state_dict(theirs, layout="NCHW")
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value, ours[name])


def test_orders_that_cannot_be_followed_are_refused() -> None:
    class Roll(nn.Module):
        def output_shape(self, input_shape: Any) -> Any:
            return input_shape

    net = nn.Sequential(nn.Flatten(), Roll(), nn.Linear(12, 2)).build((2, 2, 3))
    with pytest.raises(ValueError, match=r"Roll '1': cannot tell how the order"):
        net.state_dict(layout="NCHW")
    mixed = nn.Sequential(nn.Flatten(), nn.Residual(nn.Linear(12, 12))).build((2, 2, 3))
    with pytest.raises(ValueError, match=r"Residual '1': .* in different orders"):
        mixed.load_state_dict(mixed.state_dict(), layout="NCHW")


def test_without_a_flatten_no_shape_is_needed() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm(2))
    for name, value in net.state_dict(layout="NCHW").items():
        np.testing.assert_array_equal(value, net.state_dict()[name])


def test_against_pytorch(torch: Any) -> None:
    """PyTorch's weights give PyTorch's results, in both directions."""
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, padding=1),
        torch.nn.BatchNorm2d(3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(60, 6),
    )
    x = np.random.default_rng(0).standard_normal((7, 4, 5, 2)).astype(np.float32)
    pixels = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    theirs(pixels)  # moves the running statistics
    ours = convnet().build((4, 5, 2))
    assert ours.load_state_dict(theirs.state_dict(), layout="NCHW") == ([], [])
    expected = theirs.eval()(pixels).detach().numpy()
    np.testing.assert_allclose(ours.predict(x), expected, rtol=1e-4, atol=1e-6)

    randomised(ours)
    state = ours.state_dict(layout="NCHW")
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    expected = theirs(pixels).detach().numpy()
    np.testing.assert_allclose(ours.predict(x), expected, rtol=1e-4, atol=1e-5)

"""Weights of PyTorch's files: layouts, prefixes, types, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from fastbn import models, nn, train


def net(rng: int = 0) -> nn.Sequential:
    return models.convnet((8, 12, 3), 4, channels=(4, 6), hidden=5, rng=rng)


def theirs(torch: ModuleType) -> Any:
    layers = []
    seen = 3
    for count in (4, 6):
        layers += [torch.nn.Conv2d(seen, count, 3, padding=1), torch.nn.BatchNorm2d(count)]
        layers += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        seen = count
    layers += [torch.nn.Flatten(), torch.nn.Linear(36, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4)]
    torch.manual_seed(0)
    made = torch.nn.Sequential(*layers)
    made(torch.randn(16, 3, 8, 12))  # running statistics
    return made.eval()


def assert_same_outputs(torch: ModuleType, ours: nn.Module, their: Any, atol: float) -> None:
    x = np.random.default_rng(0).standard_normal((5, 8, 12, 3)).astype(np.float32)
    with torch.no_grad():
        y = their.float()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(ours.predict(x), y, atol=atol)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_pt_files(torch: ModuleType, tmp_path: Path, wrap: str | None, prefix: str) -> None:
    their = theirs(torch)
    state = {prefix + name: value for name, value in their.state_dict().items()}
    path = tmp_path / "model.pt"
    torch.save(state if wrap is None else {wrap: state, "epoch": 3}, path)
    ours = net()
    assert models.load_torch(ours, path, layout="NCHW") == ([], [])
    assert_same_outputs(torch, ours, their, 1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_types_are_converted(
    torch: ModuleType, tmp_path: Path, dtype: str, suffix: str
) -> None:
    their = theirs(torch).to(getattr(torch, dtype))
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save(their.state_dict(), path)
    else:
        from safetensors.torch import save_file as save_tensors

        save_tensors(their.state_dict(), path)
    ours = net()
    models.load_torch(ours, path, layout="NCHW")
    assert ours.dtype == np.float32
    assert_same_outputs(torch, ours, their, 1e-5)


def test_bfloat16_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    linear = nn.Sequential(nn.Linear(2, 3, rng=0))
    weight = np.arange(6.0).reshape(3, 2).astype(ml_dtypes.bfloat16)
    save_file({"0.weight": weight, "0.bias": np.zeros(3, np.float16)}, path)
    models.load_torch(linear, path)
    np.testing.assert_array_equal(linear.state_dict()["0.weight"], weight.astype(np.float32))


def test_a_flatten_asks_for_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    other = net(1)
    save_file(other.state_dict("NCHW"), path)
    ours = net()
    before = ours.state_dict()
    with pytest.raises(ValueError, match=r"behind Flatten '8'.*layout='NCHW'.*layout='NHWC'"):
        models.load_torch(ours, path)
    np.testing.assert_equal(before, ours.state_dict())
    models.load_torch(ours, path, layout="NCHW")
    np.testing.assert_equal(other.state_dict(), ours.state_dict())
    save_file(other.state_dict(), path)
    ours = net()
    models.load_torch(ours, path, layout="NHWC")
    np.testing.assert_equal(other.state_dict(), ours.state_dict())
    with pytest.raises(ValueError, match="shape of the input is needed"):
        models.load_torch(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), path)


def test_where_it_does_not_matter_nobody_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    other, ours = models.mlp((28, 28, 1), rng=1), models.mlp((28, 28, 1), rng=0)
    save_file(other.state_dict("NCHW"), path)
    models.load_torch(ours, path)
    np.testing.assert_equal(other.state_dict(), ours.state_dict())


def test_own_files_know_their_layout(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    other, ours = net(1), net()
    train.Trainer(other).save(path)
    models.load_torch(ours, path)
    np.testing.assert_equal(other.state_dict(), ours.state_dict())


def test_counts_that_old_files_lack(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    other = net(1)
    state = {n: v for n, v in other.state_dict().items() if "num_batches" not in n}
    save_file(state, path)
    assert models.load_torch(net(), path, layout="NHWC") == ([], [])


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    ours = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    state = ours.state_dict()
    before = ours.state_dict()
    save_file({name: np.ascontiguousarray(value.T) for name, value in state.items()}, path)
    with pytest.raises(ValueError, match=r"size mismatch for 0\.weight(?s:.*)Keras or JAX"):
        models.load_torch(ours, path)
    save_file({**state, "3.weight": np.ones(2, np.float32)}, path)
    with pytest.raises(ValueError, match=r'model\.safetensors: (?s:.*)Unexpected.*"3\.weight"'):
        models.load_torch(ours, path)
    assert models.load_torch(ours, path, strict=False) == ([], ["3.weight"])
    save_file({**state, "0.weight": np.ones((3, 2), np.int8)}, path)
    with pytest.raises(ValueError, match=r"0\.weight has values of dtype int8"):
        models.load_torch(ours, path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        models.load_torch(ours, path)
    np.testing.assert_equal(before, ours.state_dict())


def test_a_whole_module_is_refused_with_the_remedy(torch: ModuleType, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"^[^\n\x1b]*torch.save\(module.state_dict\(\), path\)$"):
        models.load_torch(nn.Sequential(nn.Linear(2, 2)), tmp_path / "model.pt")


def test_code_in_a_file_does_not_run(torch: ModuleType, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "model.pt"
    torch.save({"0.weight": Evil()}, path)
    with pytest.raises(ValueError, match="torch cannot read it as weights"):
        models.load_torch(nn.Sequential(nn.Linear(2, 2)), path)
    assert not (tmp_path / "ran").exists()

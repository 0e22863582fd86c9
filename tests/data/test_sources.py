from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fastbn.data import Dataset, load

WriteIdx = Callable[[Path, bool], Path]


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds the user's own data."""
    monkeypatch.delenv("FASTBN_DATA", raising=False)
    monkeypatch.delenv("FASTBN_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")


def check(data: Dataset, arrays: dict[str, NDArray[np.uint8]]) -> None:
    for part in ("x_train", "x_test"):
        images = getattr(data, part)
        assert images.dtype == np.float32
        assert images.flags.c_contiguous
        np.testing.assert_array_equal(images[..., 0], arrays[part].astype(np.float32) / 255)
    for part in ("y_train", "y_test"):
        assert getattr(data, part).dtype == np.int64
        np.testing.assert_array_equal(getattr(data, part), arrays[part])


def test_digits() -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    data = load("digits")
    digits = sklearn_datasets.load_digits()
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(data.y_test, digits.target[order[-360:]])
    np.testing.assert_array_equal(data.x_train[..., 0], digits.images[order[:-360]] / 16)
    assert data.x_train.dtype == np.float32
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert data.y_train.dtype == np.int64
    assert data.input_shape == (8, 8, 1)
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("packed", [False, True])
def test_directory_of_idx_files(
    tmp_path: Path, write_idx: WriteIdx, packed: bool, idx_arrays: dict[str, NDArray[np.uint8]]
) -> None:
    data = load(write_idx(tmp_path / "fashion", packed))
    check(data, idx_arrays)
    assert data.classes == ("0", "1", "2", "3")
    assert repr(data) == "Dataset(fashion: 7 training and 4 test images of 5×3×1, 4 classes)"


def test_dotted_names_are_read_too(
    tmp_path: Path, write_idx: WriteIdx, idx_arrays: dict[str, NDArray[np.uint8]]
) -> None:
    for path in write_idx(tmp_path, False).glob("*ubyte"):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    check(load(str(tmp_path)), idx_arrays)


def test_search_order(
    tmp_path: Path,
    write_idx: WriteIdx,
    idx_arrays: dict[str, NDArray[np.uint8]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    idx_arrays["y_train"][0] = 1
    write_idx(tmp_path / "home/.cache/fastbn/mnist", True)
    assert load("mnist").y_train[0] == 1
    idx_arrays["y_train"][0] = 2
    write_idx(tmp_path / "env/mnist", False)
    monkeypatch.setenv("FASTBN_DATA", str(tmp_path / "env"))
    assert load("mnist").y_train[0] == 2
    idx_arrays["y_train"][0] = 3
    write_idx(tmp_path / "root/mnist", False)
    assert load("mnist", tmp_path / "root").y_train[0] == 3
    assert load("mnist", tmp_path / "elsewhere").y_train[0] == 2


def test_cifar_takes_the_files_that_are_there(
    cifar_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fastbn"):
        data = load(cifar_folder)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "found 2 of 5 training files, 6 training and 2 test images" in record.getMessage()
    # data_batch_2 before data_batch_10
    assert data.y_train.tolist() == [2, 2, 2, 9, 9, 9]
    images = np.concatenate(
        [np.load(cifar_folder / f"data_batch_{i}.npz")["images"] for i in (2, 10)]
    )
    np.testing.assert_array_equal(data.x_train, images.astype(np.float32) / 255)
    assert data.x_train.flags.c_contiguous
    assert data.x_test.shape == (2, 32, 32, 3)
    assert data.classes[:2] == ("airplane", "automobile")


@pytest.mark.parametrize("length", [0, 1, 3072, 3074, 3 * 3073 - 1])
def test_truncated_cifar(cifar_folder: Path, length: int) -> None:
    path = cifar_folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:length])
    whole = length // 3073 * 3073
    expected = f"{path}: offset {whole}: expected a record of 3073 bytes"
    with pytest.raises(ValueError, match=re.escape(expected)):
        load(cifar_folder)


def test_wrong_cifar_label(cifar_folder: Path) -> None:
    path = cifar_folder / "test_batch.bin"
    raw = bytearray(path.read_bytes())
    raw[3073] = 10
    path.write_bytes(raw)
    expected = re.escape(f"{path}: offset 3073: expected a label from 0 to 9, got 10")
    with pytest.raises(ValueError, match=expected):
        load(cifar_folder)


@pytest.mark.parametrize(
    ("removed", "expected"),
    [("test_batch.bin", "expected test_batch.bin"), ("data_batch_*.bin", "data_batch_1.bin")],
)
def test_missing_cifar_file(cifar_folder: Path, removed: str, expected: str) -> None:
    for path in cifar_folder.glob(removed):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{cifar_folder}: ") + ".*" + expected):
        load(cifar_folder)


def test_missing_idx_file(tmp_path: Path, write_idx: WriteIdx) -> None:
    (write_idx(tmp_path, True) / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="expected t10k-labels-idx1-ubyte"):
        load(tmp_path)


def test_as_many_labels_as_images(
    tmp_path: Path, write_idx: WriteIdx, idx_arrays: dict[str, NDArray[np.uint8]]
) -> None:
    idx_arrays["y_test"] = idx_arrays["y_test"][:-1]
    with pytest.raises(ValueError, match=r"t10k-labels.*: offset 4: expected 4 labels.*got 3"):
        load(write_idx(tmp_path, False))


def test_no_images(
    tmp_path: Path, write_idx: WriteIdx, idx_arrays: dict[str, NDArray[np.uint8]]
) -> None:
    idx_arrays["x_train"] = idx_arrays["x_train"][:0]
    with pytest.raises(ValueError, match=r"train-images.*: offset 4: expected at least one image"):
        load(write_idx(tmp_path, False))


def test_test_images_of_another_size(
    tmp_path: Path, write_idx: WriteIdx, idx_arrays: dict[str, NDArray[np.uint8]]
) -> None:
    idx_arrays["x_test"] = idx_arrays["x_test"][:, :-1]
    with pytest.raises(ValueError, match=r"expected test images of shape \(5, 3, 1\).*\(4, 3, 1\)"):
        load(write_idx(tmp_path, False))


def test_nothing_found_tells_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load("cifar10", tmp_path / "root")
    message = str(caught.value)
    assert str(tmp_path / "root/cifar10/cifar-10-batches-bin") in message
    assert str(tmp_path / "home/.cache/fastbn/cifar10/cifar-10-batches-bin") in message
    assert "`fastbn data fetch cifar10`" in message


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"'minst': expected one of digits, mnist, cifar10, or a"):
        load("minst")


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found none of them"):
        load(tmp_path)


def test_real_mnist(data_dir: Path) -> None:
    data = load("mnist", data_dir)
    assert data.x_train.shape == (60_000, 28, 28, 1)
    assert data.x_test.shape == (10_000, 28, 28, 1)
    assert np.bincount(data.y_test).tolist()[:3] == [980, 1135, 1032]
    # the known mean of the training set's pixels
    assert abs(data.x_train.mean(dtype=np.float64) - 0.1307) < 1e-4


def test_real_cifar10(data_dir: Path) -> None:
    data = load("cifar10", data_dir)
    assert len(data.x_train) % 10_000 == 0
    assert data.x_test.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    # red, green, blue in this order: the known means of the three planes
    means = data.x_train.mean(axis=(0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=3e-3)

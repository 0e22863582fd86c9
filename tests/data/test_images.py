"""Folders of image files, as people have them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastbn.data import Rows, folder, images, load

Image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")

Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FASTBN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


def save(path: Path, pixels: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(pixels, np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, **options)
    return path


def random_pixels(seed: int, height: int = 6, width: int = 8, channels: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def fill(root: Path, counts: dict[str, int], **shape: int) -> dict[str, list[NDArray[np.uint8]]]:
    """Write PNG files ``class/0.png`` …; return their pixels."""
    written: dict[str, list[NDArray[np.uint8]]] = {}
    for number, (name, count) in enumerate(counts.items()):
        written[name] = [random_pixels(100 * number + i, **shape) for i in range(count)]
        for i, pixels in enumerate(written[name]):
            save(root / name / f"{i:03}.png", pixels)
    return written


def test_hidden_folders_above_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / ".cache" / "pictures"
    fill(root, {"cat": 2, "dog": 2})
    monkeypatch.chdir(root)
    for path in (root, Path("../pictures")):
        assert load(path).classes == ("cat", "dog")


def test_a_folder_for_each_class(root: Path) -> None:
    written = fill(root, {"dog": 10, "cat": 5, "bird": 20})
    data = load(root)
    assert data.classes == ("bird", "cat", "dog")
    assert repr(data) == "Dataset(pictures: 28 training and 7 test images of 6×8×3, 3 classes)"
    assert np.bincount(data.y_test).tolist() == [4, 1, 2]
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == np.int64
    known = {
        (pixels.astype(np.float32) / 255).tobytes(): name
        for name, all_pixels in written.items()
        for pixels in all_pixels
    }
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        for image, label in zip(np.asarray(x), y, strict=True):
            assert known.pop(image.tobytes()) == data.classes[label]
    assert not known


def test_split_by_seed_and_fraction(root: Path) -> None:
    fill(root, {"a": 10, "b": 10})
    default, same, other = load(root), load(root, split=0), load(root, split=3)
    np.testing.assert_array_equal(default.x_test, same.x_test)
    assert not np.array_equal(default.x_test, other.x_test)
    assert len(load(root, split=0.1).x_test) == 2
    np.testing.assert_array_equal(load(root, split=(0.2, 3)).x_test, other.x_test)
    for wrong in (1.5, 0.0, -1, True, "half", (2, 0.1)):
        with pytest.raises(ValueError, match="split should be the fraction"):
            load(root, split=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("validation", [None, "val", "valid", "validation"])
def test_parts_of_their_own(root: Path, validation: str | None) -> None:
    fill(root / "train", {"a": 4, "b": 3})
    test = fill(root / "test", {"b": 2})
    if validation:
        fill(root / validation, {"a": 1, "b": 1})
    data = load(root)
    assert data.y_train.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert data.y_test.tolist() == [1, 1]
    np.testing.assert_array_equal(data.x_test, np.array(test["b"], np.float32) / 255)
    if validation:
        assert data.y_val is not None
        assert data.y_val.tolist() == [0, 1]
    else:
        assert data.x_val is None
    with pytest.raises(ValueError, match="has a test part, so there is nothing to split"):
        load(root, split=0.1)


def test_training_part_alone_is_split(root: Path) -> None:
    fill(root / "train", {"a": 5, "b": 5})
    assert len(load(root).x_test) == 2


def test_a_class_that_training_does_not_have(root: Path) -> None:
    fill(root / "train", {"a": 4, "b": 3})
    fill(root / "test", {"c": 2})
    with pytest.raises(ValueError, match=r"test: classes c are not in the training part.*a, b"):
        load(root)


@pytest.mark.parametrize(
    ("suffix", "options", "close"),
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("JPG", {"quality": 95, "subsampling": 0}, 0.06),
        ("jpeg", {"quality": 95, "subsampling": 0}, 0.06),
    ],
)
def test_formats(root: Path, suffix: str, options: dict[str, Any], close: float) -> None:
    ramp = np.stack([np.add.outer(np.arange(16) * 4, np.arange(24) * 4)] * 3, axis=-1)
    ramp[..., 1] = 255 - ramp[..., 1]
    for name in ("a", "b"):
        for i in range(2):
            save(root / name / f"{i}.{suffix}", ramp, **options)
    data = load(root, split=0.5)
    assert data.x_train.shape == (2, 16, 24, 3)
    np.testing.assert_allclose(np.asarray(data.x_train)[0], ramp / np.float32(255), atol=close)


def test_sizes_must_agree_or_be_given(root: Path) -> None:
    fill(root, {"a": 3, "b": 3})
    save(root / "b/large.png", random_pixels(9, 12, 30))
    with pytest.raises(
        ValueError,
        match=r"differ in size.*000.png has 6×8 and .*large.png 12×30.*"
        r"size=6 or size=\(height, width\)",
    ):
        load(root)
    assert load(root, size=4).x_train.shape[1:] == (4, 4, 3)
    assert load(root, size=(5, 10)).x_train.shape[1:] == (5, 10, 3)
    for wrong in (0, (3,), (3, -1), 2.5):
        with pytest.raises(ValueError, match="size should be a positive number or"):
            load(root, size=wrong)  # type: ignore[arg-type]


def test_proportions_are_kept(root: Path) -> None:
    """The middle of a wide image, not all of it squeezed."""
    stripes = np.zeros((10, 40, 3), np.uint8)
    stripes[:, 15:25] = 255
    path = save(root / "wide.png", stripes)
    assert (images.read_image(path, (10, 10)) == 255).all()
    large = images.read_image(path, (20, 20))
    assert large.shape == (20, 20, 3)
    assert large[:, 8:12].min() > 250


def test_large_jpegs_are_as_if_fully_decoded(root: Path) -> None:
    smooth = np.stack([np.add.outer(np.arange(400) / 4, np.arange(600) / 5)] * 3, axis=-1)
    path = save(root / "big.jpg", smooth, quality=95)
    small = images.read_image(path, (40, 60))
    np.testing.assert_allclose(small, smooth[5::10, 5::10], atol=4)


def test_grey_and_colour(root: Path) -> None:
    fill(root, {"a": 3, "b": 3}, channels=1)
    assert load(root).input_shape == (6, 8, 1)
    assert load(root, channels=3).input_shape == (6, 8, 3)
    save(root / "a/colour.png", random_pixels(7))
    assert load(root).input_shape == (6, 8, 3)
    assert load(root, channels=1).input_shape == (6, 8, 1)
    with pytest.raises(ValueError, match=r"channels should be 1 \(grey\) or 3"):
        load(root, channels=4)


def test_modes(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    deep = (grey.astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(tmp_path / "sixteen.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "sixteen.png")[..., 0], grey)
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(
        images.read_image(tmp_path / "bits.png")[..., 0], np.where(grey > 100, 255, 0)
    )
    palette = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) // 8).convert("P")
    palette.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    palette.save(tmp_path / "palette.png", transparency=bytes(range(48)))
    pixels = images.read_image(tmp_path / "palette.png")
    assert pixels.shape == (6, 8, 3)
    assert pixels[1, 0].tolist() == [1, 254, 7]
    transparent = np.dstack([random_pixels(3), np.full((6, 8), 9, np.uint8)])
    Image.fromarray(transparent).save(tmp_path / "transparent.png")
    np.testing.assert_array_equal(
        images.read_image(tmp_path / "transparent.png"), transparent[..., :3]
    )


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda x: x),
        (3, lambda x: x[::-1, ::-1]),
        (6, lambda x: np.rot90(x, -1)),
        (8, np.rot90),
        (2, lambda x: x[:, ::-1]),
    ],
)
def test_exif_rotation(root: Path, orientation: int, upright: Callable[[Any], Any]) -> None:
    pixels = random_pixels(4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(root / "a/0.png", pixels, exif=exif)
    np.testing.assert_array_equal(images.read_image(path), upright(pixels))
    header = images.read_header(path)
    assert (header.height, header.width) == upright(pixels).shape[:2]


def test_damaged_files_are_named_together(root: Path, cache: Path) -> None:
    fill(root, {"a": 12, "b": 3}, height=20, width=20)
    cut = root / "a/003.png"
    cut.write_bytes(cut.read_bytes()[:300])
    (root / "a/004.png").write_bytes(b"")
    (root / "b/001.png").write_text("no image at all")
    with pytest.raises(ValueError, match="images cannot be read; repair or remove them") as caught:
        load(root, size=8, channels=3)
    message = str(caught.value)
    assert message.startswith("3 of 15 images")
    assert all(name in message for name in ("a/003.png", "a/004.png", "b/001.png"))
    for path in sorted((root / "a").glob("*"))[5:10]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"8 of 15 images[\s\S]*… and 3 more"):
        load(root, size=8, channels=3)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_what_is_no_image_is_left_alone(root: Path) -> None:
    fill(root, {"a": 3, "b": 3})
    (root / "readme.txt").write_text("these are pictures")
    (root / "a/notes.txt").write_text("of cats")
    (root / ".thumbnails").mkdir()
    save(root / ".thumbnails/0.png", random_pixels(0, 2, 2))
    save(root / "a/.hidden.png", random_pixels(0, 2, 2))
    save(root / "a/deeper/more.png", random_pixels(5))
    data = load(root, split=0.25)
    assert len(data.x_train) + len(data.x_test) == 7


@pytest.mark.parametrize(
    "make",
    [lambda root: fill(root, {"a": 3}), lambda root: fill(root, {"a": 3}) and (root / "b").mkdir()],
)
def test_too_few_classes(root: Path, make: Callable[[Path], Any]) -> None:
    make(root)
    with pytest.raises(ValueError, match=r"at least two classes, found a|found none in b"):
        load(root)


def test_pixels_are_decoded_once(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, {"a": 4, "b": 4})
    first = load(root)
    [kept] = (cache / "images").glob("*.npy")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "decode", lambda *_: pytest.fail("decoded again"))
        again = load(root)
        load(root, split=5)  # another choice of the same pixels
    np.testing.assert_array_equal(first.x_train, again.x_train)

    changed = save(root / "a/000.png", random_pixels(77))
    os.utime(changed, (1, 1))
    after = load(root)
    assert not np.array_equal(after.x_train, first.x_train) or not np.array_equal(
        after.x_test, first.x_test
    )
    [newer] = (cache / "images").glob("*.npy")  # the old one is gone
    assert newer != kept
    load(root, size=4)
    assert len(list((cache / "images").glob("*.npy"))) == 2


def test_a_damaged_cache_is_made_again(root: Path, cache: Path) -> None:
    fill(root, {"a": 4, "b": 4})
    first = np.array(load(root).x_train)
    [kept] = (cache / "images").glob("*.npy")
    for damage in (b"", b"nonsense", kept.read_bytes()[:-10]):
        kept.write_bytes(damage)
        np.testing.assert_array_equal(load(root).x_train, first)


def test_a_cache_that_cannot_be_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = fill(root / "train", {"a": 2, "b": 2})
    fill(root / "test", {"a": 1, "b": 1})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTBN_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "fastbn"):
        data = load(root)
    np.testing.assert_array_equal(np.asarray(data.x_train)[0] * 255, written["a"][0])
    assert "FASTBN_CACHE" in caplog.text


def test_large_sets_stay_on_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, {"a": 10, "b": 10})
    small = load(root)
    monkeypatch.setattr(folder, "_memory", lambda: 1000)
    large = load(root)
    assert isinstance(large.x_train, Rows)
    assert large.x_train.on_disk
    assert large.x_train.base.dtype == np.uint8
    np.testing.assert_array_equal(large.x_train, small.x_train)
    for one, other in zip(large.batches(4, rng=0), small.batches(4, rng=0), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    split = large.split(0.25, rng=0)
    assert isinstance(split.x_val, Rows)
    np.testing.assert_array_equal(split.x_val, np.asarray(small.split(0.25, rng=0).x_val))


def test_memory_holds_one_image_a_thread(tmp_path: Path) -> None:
    """The files together are far larger than what decoding them may add."""
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from fastbn.data import load
root = Path(sys.argv[1])
for name in "ab":
    (root / name).mkdir(parents=True)
    for i in range(40):
        Image.new("RGB", (1500, 1000), (i, 0, 0)).save(root / name / f"{i}.png", compress_level=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = load(root, size=8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "pictures")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    decoded = 80 * 1500 * 1000 * 3 // 1024
    if sys.platform == "linux":
        assert int(done.stdout) < decoded / 5


@pytest.mark.parametrize("argument", [{"target": "x"}])
def test_arguments_of_other_kinds(root: Path, argument: dict[str, Any]) -> None:
    fill(root, {"a": 3, "b": 3})
    with pytest.raises(ValueError, match="does not take target: size and channels are for folders"):
        load(root, **argument)


def test_named_sets_take_no_size() -> None:
    with pytest.raises(ValueError, match="mnist: does not take size, split"):
        load("mnist", size=3, split=0.1)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastbn.data import augment
from fastbn.data.batches import Batches
from fastbn.data.samples import Stream

SHAPE = (64, 12, 10, 3)
FUNCTIONS = {
    "flip": augment.flip(),
    "shift": augment.shift(2),
    "shift by default": augment.shift(),
    "shift at the edge": augment.shift(2, border="edge"),
    "crop": augment.crop(),
    "cutout": augment.cutout(),
    "brightness": augment.brightness(),
    "all": augment.compose(augment.flip(), augment.crop(2), augment.cutout(3)),
}


@pytest.fixture
def images(rng: np.random.Generator) -> Any:
    return rng.random(SHAPE, dtype=np.float32) + 1.0  # no zeros


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_generator_same_images(name: str, dtype: type, images: Any) -> None:
    images = images.astype(dtype)
    changed = [FUNCTIONS[name](images.copy(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert changed[0].dtype == dtype
    assert changed[0].shape == SHAPE
    np.testing.assert_array_equal(changed[0], changed[1])
    assert not np.array_equal(changed[0], changed[2])


def test_flip_mirrors_whole_images(images: Any) -> None:
    flipped = augment.flip()(images.copy(), np.random.default_rng(0))
    same = np.array([np.array_equal(a, b) for a, b in zip(images, flipped, strict=True)])
    np.testing.assert_array_equal(flipped[~same], images[~same][:, :, ::-1])
    assert 16 < same.sum() < 48
    np.testing.assert_array_equal(
        augment.flip(0.0)(images.copy(), np.random.default_rng(0)), images
    )


def test_alternating_flip_shows_every_image_both_ways_round(images: Any) -> None:
    numbers = np.arange(len(images))
    batches = Batches(images, numbers, 10, rng=3, augment=augment.alternating_flip())
    epochs = []
    for epoch in range(4):
        parts = list(batches.epoch(epoch))
        order = np.concatenate([y for _, y in parts])
        epochs.append(np.concatenate([x for x, _ in parts])[np.argsort(order)])
    same = np.array([np.array_equal(a, b) for a, b in zip(images, epochs[0], strict=True)])
    assert 16 < same.sum() < 48
    np.testing.assert_array_equal(epochs[0][~same], images[~same][:, :, ::-1])
    np.testing.assert_array_equal(epochs[1], epochs[0][:, :, ::-1])
    np.testing.assert_array_equal(epochs[2], epochs[0])
    np.testing.assert_array_equal(epochs[3], epochs[1])
    for (x, _), (again, _) in zip(
        batches.epoch(1, start=2), list(batches.epoch(1))[2:], strict=True
    ):
        np.testing.assert_array_equal(x, again)


def test_compose_hands_on_which_samples_these_are(images: Any) -> None:
    both = augment.compose(augment.alternating_flip(), augment.shift(1))
    walks = [
        [x for x, _ in Batches(images, images, 7, rng=1, shuffle=False, augment=both).epoch(1)]
        for _ in range(2)
    ]
    for one, other in zip(*walks, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="augment: what it does depends on the number of a sample"):
        Stream([(images, images)], augment=both)


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (lambda: augment.crop(3), "constant"),
        (lambda: augment.crop(3, border="reflect"), "reflect"),
        (lambda: augment.shift(3), "reflect"),
        (lambda: augment.shift(3, border="edge"), "edge"),
    ],
)
def test_moved_images_are_windows_of_the_padded_one(
    make: Callable[[], Any], mode: Any, images: Any
) -> None:
    moved = make()(images.copy(), np.random.default_rng(0))
    places = set()
    for image, result in zip(images, moved, strict=True):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode=mode)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (12, 10, 3))[:, :, 0]
        found = np.argwhere((windows == result).all(axis=(2, 3, 4)))
        assert len(found) == 1
        places.add(tuple(found[0]))
    assert {row for row, _ in places} == {column for _, column in places} == set(range(7))


def test_cutout_blanks_a_square_inside(images: Any) -> None:
    blanked = augment.cutout(4, fill=0.5)(images.copy(), np.random.default_rng(0))
    sizes = set()
    for image, result in zip(images, blanked, strict=True):
        gone = (result == 0.5).all(axis=2)
        np.testing.assert_array_equal(result[~gone], image[~gone])
        rows, columns = gone.any(axis=1).sum(), gone.any(axis=0).sum()
        assert gone.sum() == rows * columns
        sizes.add((int(rows), int(columns)))
    assert max(sizes) == (4, 4)
    assert min(sizes) < (4, 4)  # some centres are near the border


def test_brightness(images: Any) -> None:
    brighter = augment.brightness(0.3)(images.copy(), np.random.default_rng(0))
    factor = brighter / images
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1, :1], SHAPE), rtol=1e-5)
    assert 0.7 <= factor.min() < 0.8
    assert 1.2 < factor.max() <= 1.3
    cut = augment.brightness(0.3, limits=(0.0, 1.5))(images.copy(), np.random.default_rng(0))
    np.testing.assert_array_equal(cut, np.minimum(brighter, np.float32(1.5)))


def test_own_functions_compose() -> None:
    def noise(images: Any, rng: np.random.Generator) -> Any:
        return images + rng.normal(size=images.shape)

    both = augment.compose(noise, augment.flip(1.0))
    images = np.zeros((2, 3, 3, 1))
    expected = np.random.default_rng(5).normal(size=images.shape)[:, :, ::-1]
    np.testing.assert_array_equal(both(images.copy(), np.random.default_rng(5)), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.flip(1.5), "flip: p should be between 0 and 1, but got 1.5"),
        (lambda: augment.shift(-1), "shift: expected pixels of 0 or more, but got -1"),
        (lambda: augment.crop(2, border="wrap"), "crop: border should be one of reflect, edge, z"),
        (lambda: augment.cutout(0), "cutout: size should be a positive integer, but got 0"),
        (lambda: augment.brightness(2.0), "brightness: amount should be between 0 and 1"),
    ],
)
def test_wrong_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_are_no_images(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected images \(N, H, W, C\), got shape \(5, 4\)"):
        FUNCTIONS[name](np.zeros((5, 4)), np.random.default_rng(0))


def test_too_small_to_be_reflected() -> None:
    with pytest.raises(ValueError, match="shift: 4 pixels cannot be reflected from images of 4×9"):
        augment.shift(4)(np.zeros((1, 4, 9, 1)), np.random.default_rng(0))

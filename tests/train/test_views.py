"""Predictions averaged over views of the images."""

from __future__ import annotations

import numpy as np

from fastbn import nn, train


def test_the_views_are_six_windows_of_the_reflected_image(rng: np.random.Generator) -> None:
    images = rng.standard_normal((7, 5, 6, 3))
    views = train.mirrored_and_moved(2)
    assert sum(weight for weight, _ in views) == 1.0
    expected = []
    for mirror in (images, images[:, :, ::-1]):
        padded = np.pad(mirror, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
        expected += [(0.25, mirror), (0.125, padded[:, :5, :6]), (0.125, padded[:, 4:, 4:])]
    for (weight, view), (share, window) in zip(views, expected, strict=True):
        assert weight == share
        np.testing.assert_array_equal(view(images), window)


def test_outputs_are_averaged(rng: np.random.Generator) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(30, 4, rng=0, dtype=np.float64)).eval()
    images = rng.standard_normal((7, 5, 6, 1))
    views = train.mirrored_and_moved()
    expected = sum(weight * net.predict(view(images)) for weight, view in views)
    for batch_size in (3, 256):
        got = train.predict_views(net, images, batch_size=batch_size)
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    whole = train.predict_views(net, images, [(1.0, lambda x: x)])
    np.testing.assert_array_equal(whole, net.predict(images))

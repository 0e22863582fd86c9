"""Whether a layer's backward is right: its gradients against finite differences."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.module import Module

Array = NDArray[Any]

STEP = 1e-6
MOST = 200  # elements of an array that are tried


def check_gradients(
    layer: Module,
    input_shape: tuple[int, ...],
    *,
    rows: int = 3,
    rng: np.random.Generator | int | None = 0,
    tolerance: float = 1e-6,
) -> float:
    """Hold the gradients of a layer, or a network, against central differences in float64.

    A copy of the layer is run forwards and backwards on random x and dy. Every element of dx and of
    the parameters' gradients, or 200 of each drawn at random, is compared with
    ``(f(x + h) - f(x - h)) / 2h`` of ``f = sum(dy * y)``.

    Parameters
    ----------
    layer : Module
        It stays as it is.
    input_shape : tuple of int
        Shape of one sample, without the batch dimension; a tuple of such shapes where there are
        several inputs.
    rows : int, default 3
        Samples in the batch.
    rng : numpy.random.Generator or int, optional
        Source of x and dy.
    tolerance : float, default 1e-6
        Largest error allowed, as a share of the largest gradient of the same array, or of 1 where
        that is smaller.

    Returns
    -------
    float
        The largest error found.

    Raises
    ------
    AssertionError
        If a gradient is wrong; the message names the worst element. Also if backward changes dy, or
        does not give a parameter its gradient.

    Examples
    --------
    >>> from fastbn import nn
    >>> nn.check_gradients(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm(3)), (5, 5, 2)) < 1e-7
    True
    >>> class Wrong(nn.Tanh):
    ...     def backward(self, dy, saved, need_dx=True):
    ...         return 2 * super().backward(dy, saved)
    >>> nn.check_gradients(Wrong(), (2,))
    Traceback (most recent call last):
    AssertionError: Wrong: dx[0, 0] should be 1.284, got 2.567: off by 1, 1e-06 is allowed
    """
    rng = np.random.default_rng(rng)
    layer = copy.deepcopy(layer).train().astype(np.float64)
    several = bool(input_shape) and isinstance(input_shape[0], tuple)
    shapes: Any = input_shape if several else (input_shape,)
    xs = [rng.standard_normal((rows, *shape)) for shape in shapes]
    generators = [
        (value.bit_generator, value.bit_generator.state)
        for module in layer.modules()
        for value in vars(module).values()
        if isinstance(value, np.random.Generator)
    ]

    def forward() -> Any:
        for generator, state in generators:  # the same elements are dropped every time
            generator.state = state
        return layer(*xs)

    y = forward()
    single = type(y) is not tuple
    dy = tuple(rng.standard_normal(part.shape) for part in ([y] if single else y))
    kept = [part.copy() for part in dy]
    dx = layer.backward(dy[0] if single else dy, need_dx=True)
    for part, old in zip(dy, kept, strict=True):
        assert np.array_equal(part, old), f"{layer.where}: backward has changed dy"

    def value() -> float:
        y = forward()
        layer.discard()
        return float(sum((a * b).sum() for a, b in zip(dy, [y] if single else y, strict=True)))

    dxs = dx if type(dx) is tuple else (dx,)
    names = [f"dx{i}" for i in range(len(xs))] if len(xs) > 1 else ["dx"]
    pairs: list[tuple[str, Array, Any]] = list(zip(names, xs, dxs, strict=True))
    pairs += [
        (f"{name}.grad", parameter.data, parameter.grad)
        for name, parameter in layer.named_parameters()
        if parameter.requires_grad
    ]
    worst = 0.0
    for name, array, given in pairs:
        assert given is not None, f"{layer.where}: backward gives no {name}"
        gradient = np.array(given)
        assert gradient.shape == array.shape, (
            f"{layer.where}: {name} should have shape {array.shape}, got {gradient.shape}"
        )
        places = list(np.ndindex(*array.shape))
        if len(places) > MOST:
            places = [places[i] for i in sorted(rng.choice(len(places), MOST, replace=False))]
        expected = [_slope(value, array, place) for place in places]
        found = np.array([gradient[place] for place in places])
        if not places:
            continue
        scale = max(1.0, float(np.abs(expected).max()))
        errors = np.abs(found - expected) / scale
        at = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
        if not errors[at] <= tolerance:
            place = "[" + ", ".join(map(str, places[at])) + "]" if places[at] else ""
            raise AssertionError(
                f"{layer.where}: {name}{place} should be {expected[at]:.4g}, got {found[at]:.4g}: "
                f"off by {errors[at]:.2g}, {tolerance:.2g} is allowed"
            )
        worst = max(worst, float(errors[at]))
    return worst


def _slope(value: Any, array: Array, place: tuple[int, ...]) -> float:
    """Return the derivative of ``value()`` by an element of the array it reads."""
    centre = array[place]
    array[place] = centre + STEP
    above = value()
    array[place] = centre - STEP
    below = value()
    array[place] = centre
    return float((above - below) / (2 * STEP))

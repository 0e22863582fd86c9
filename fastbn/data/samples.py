"""What a user has, as what the loop takes: arrays, lists, tensors, files, streams of batches.

Everything is checked here, before anything is trained, and a message says what to do about it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn.data.batches import Augment, Batch, Batches, Rng, keyed, seed_of
from fastbn.data.dataset import Dataset
from fastbn.data.rows import Rows, Samples, on_disk


class Expected(NamedTuple):
    """What a network and its loss take; None where it is not known.

    Attributes
    ----------
    input_shape : tuple of int or None
        Of one sample, channels last.
    outputs : int or None
        Size of the network's output, the number of classes of a classifier.
    labels : bool or None
        Whether targets are labels of classes (True) or numbers (False). None leaves integers
        integers and floats floats.
    dtype : data-type, default float32
        Of the network.
    ignored : int, default -100
        Label of samples that have none; see `fastbn.nn.CrossEntropyLoss`.

    Examples
    --------
    >>> as_targets([[0, 1], [1, 0]], Expected(labels=True))
    array([1, 0])
    >>> as_targets([[0, 1], [1, 0]], Expected(labels=False))
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """

    input_shape: tuple[int, ...] | None = None
    outputs: int | None = None
    labels: bool | None = None
    dtype: DTypeLike = np.float32
    ignored: int = -100


ANYTHING = Expected()


def as_samples(x: Any, expected: Expected = ANYTHING) -> Samples:
    """Return samples that can be cut into batches.

    Parameters
    ----------
    x : array_like
        ``(N, ...)``, channels last: an array of any real type, nested lists, a data frame, a
        PyTorch tensor. Bytes (uint8) are pixels: they are divided by 255. Every other type keeps
        its values.
    expected : Expected
        What the network takes. Images without an axis of channels get one where it has size 1.

    Returns
    -------
    ndarray or Rows
        Of `expected.dtype`. Memory-mapped arrays and bytes are `Rows`, which are converted batch
        by batch; other arrays are converted at once, or taken as they are.

    Raises
    ------
    TypeError
        If these are no real numbers.
    ValueError
        If samples differ in shape, have none, or are channels-first images.

    Examples
    --------
    >>> as_samples([[1, 2], [3, 4]])
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    >>> as_samples(np.zeros((5, 28, 28), np.uint8), Expected(input_shape=(28, 28, 1)))
    Rows(uint8 (5, 28, 28, 1), read as float32)
    """
    array = _array(x, "x")
    if array.ndim < 2:
        raise ValueError(
            f"x: expected samples (N, ...), got shape {array.shape}: for one feature each, "
            "x.reshape(-1, 1)"
        )
    shape = _input_shape(array.shape, expected.input_shape)
    if shape != array.shape:
        array = array.reshape(shape)
    if array.dtype == np.uint8 or on_disk(array):
        return Rows(array, expected.dtype)
    return array.astype(expected.dtype, copy=False)


def as_targets(y: Any, expected: Expected = ANYTHING) -> NDArray[Any]:
    """Return the targets of samples in the form a loss takes.

    Parameters
    ----------
    y : array_like, shape (N,), (N, 1) or (N, K)
        For labels (``expected.labels``): numbers of classes from 0, whole numbers of any type;
        one-hot rows, which become numbers; rows of probabilities, which stay. For numbers: one or
        several for every sample.
    expected : Expected
        What network and loss take.

    Returns
    -------
    ndarray
        Labels ``(N,)`` of int64, or numbers of `expected.dtype`, ``(N, 1)`` where there is one
        for every sample.

    Raises
    ------
    TypeError
        If these are no real numbers.
    ValueError
        If labels are not whole numbers or out of range, or a number is not finite.

    Examples
    --------
    >>> as_targets([0.0, 2.0, 1.0], Expected(labels=True))
    array([0, 2, 1])
    >>> as_targets([0, 2, 1], Expected(labels=False)).ravel()
    array([0., 2., 1.], dtype=float32)
    """
    array = _array(y, "y")
    if array.ndim == 0:
        raise ValueError("y: expected one target for every sample, got a single number")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        raise ValueError(f"y: {len(rows)} targets are not finite, the first in row {rows[0]}")
    if expected.labels is None:
        wanted = expected.dtype if array.dtype.kind == "f" else np.int64
        return np.asarray(array).astype(wanted, copy=False)
    return _labels(array, expected) if expected.labels else _numbers(array, expected)


def _labels(y: NDArray[Any], expected: Expected) -> NDArray[Any]:
    if y.ndim == 2 and y.shape[1] > 1 and expected.outputs in (None, y.shape[1]):
        return _rows_of_classes(y, expected)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    whole = np.asarray(y).astype(np.int64)
    if y.dtype.kind == "f" and not np.array_equal(whole, y):
        row = np.argwhere(whole != y)[0]
        raise ValueError(
            f"y: expected labels, which are whole numbers, got {y[tuple(row)]} in row {row[0]}: "
            "for regression take another loss, such as MSELoss"
        )
    counted = whole[whole != expected.ignored]
    if counted.size and expected.outputs is not None:
        least, most = int(counted.min()), int(counted.max())
        if least == 1 and most == expected.outputs:
            raise ValueError(f"y: labels run from 1 to {most}, classes count from 0: pass y - 1")
        if least < 0 or most >= expected.outputs:
            raise ValueError(
                f"y: labels should be in [0, {expected.outputs - 1}], one for every output of the "
                f"network, got [{least}, {most}]: number the classes with "
                "`classes, y = np.unique(y, return_inverse=True)`"
            )
    elif counted.size and counted.min() < 0:
        raise ValueError(f"y: labels count from 0, got {counted.min()}")
    return whole


def _rows_of_classes(y: NDArray[Any], expected: Expected) -> NDArray[Any]:
    """Numbers of the classes for one-hot rows, probabilities as they are."""
    ones: NDArray[np.bool_] = np.equal(y, 1)
    if ((y == 0) | ones).all() and (ones.sum(axis=1) == 1).all():
        return np.asarray(ones.argmax(axis=1), np.int64)
    if y.dtype.kind != "f" or (y < 0).any() or (abs(y.sum(axis=1) - 1.0) > 1e-3).any():
        raise ValueError(
            f"y: of shape {y.shape}, expected labels (N,), one-hot rows, or probabilities that "
            "sum to 1 in every row"
        )
    return y.astype(expected.dtype, copy=False)


def _numbers(y: NDArray[Any], expected: Expected) -> NDArray[Any]:
    if y.ndim == 1:
        y = y[:, None]
    if expected.outputs is not None and y.ndim == 2 and y.shape[1] != expected.outputs:
        raise ValueError(
            f"y: expected {expected.outputs} numbers for every sample, one for every output of "
            f"the network, got {y.shape[1]}"
        )
    return y.astype(expected.dtype, copy=False)


def _array(values: Any, name: str) -> NDArray[Any]:
    """Return values as an array of real numbers; nothing is copied that need not be."""
    detach = getattr(values, "detach", None)
    if callable(detach):  # a PyTorch tensor that requires gradients refuses to be an array
        values = detach().cpu()
    try:
        array: NDArray[Any] = np.asanyarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: samples differ in shape or are no numbers: {error}") from None
    if array.dtype.kind not in "biuf" and not _is_bfloat16(array.dtype):
        remedy = {
            "U": "number the classes with `classes, y = np.unique(y, return_inverse=True)`"
            if name == "y"
            else "a file of numbers and words is read by `fastbn.data.load(path, target=...)`",
        }.get(array.dtype.kind, "convert it to numbers first")
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}: {remedy}")
    return array


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    return dtype.name == "bfloat16"


def _input_shape(shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the shape to give samples, or say that they are channels-first images."""
    if wanted is not None and shape[1:] != wanted:
        if (*shape[1:], 1) == wanted:
            return (*shape, 1)
        if len(shape) == 4 and (shape[2], shape[3], shape[1]) == tuple(wanted):
            _refuse_nchw(shape)
    if wanted is None and len(shape) == 4:
        _, first, second, last = shape
        if first in (1, 3) and second == last and last > 4:
            _refuse_nchw(shape)
    return shape


def _refuse_nchw(shape: tuple[int, ...]) -> None:
    raise ValueError(
        f"x: images of shape {shape} have their channels first (NCHW), fastbn takes them last "
        "(NHWC): x.transpose(0, 2, 3, 1), of a tensor x.permute(0, 2, 3, 1)"
    )


class Stream:
    """Batches that somebody else makes, checked and converted one by one.

    Parameters
    ----------
    source : iterable or callable
        Gives ``(x, y)``, or ``(x, y, weight)``, of any length each. An iterable that can be
        walked again (a list, an object with ``__iter__``) serves any number of epochs, a generator
        one. A function makes the iterable of an epoch; if it takes an argument, it gets the
        epoch's number, from 0.
    expected : Expected
        What network and loss take.
    rng : numpy.random.Generator or int, optional
        Where augmentation comes from.
    augment : callable, optional
        As of `Batches`.

    Attributes
    ----------
    steps : int or None
        Batches in an epoch, None where the source does not say.

    Examples
    --------
    >>> stream = Stream(lambda epoch: [(np.full((2, 3), epoch), [0, 1])])
    >>> [float(x[0, 0]) for number in range(3) for x, y in stream.epoch(number)]
    [0.0, 1.0, 2.0]
    """

    def __init__(
        self,
        source: Iterable[Any] | Callable[..., Iterable[Any]],
        expected: Expected = ANYTHING,
        *,
        rng: Rng = None,
        augment: Augment | None = None,
    ) -> None:
        if getattr(augment, "located", False):
            raise ValueError(
                "augment: what it does depends on the number of a sample, which a stream of "
                "batches does not tell"
            )
        self.source = source
        self.expected = expected
        self.augment = augment
        self.seed = seed_of(rng)
        self.used_up = False
        try:
            self.steps: int | None = len(source)  # type: ignore[arg-type]
        except TypeError:
            self.steps = None

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch; those before `start` are drawn and dropped.

        Raises
        ------
        ValueError, TypeError
            If a batch is not what network and loss take, or the source can be walked only once
            and was.
        """
        batches = islice(enumerate(self._walk(number)), start, None)
        return (self._convert(batch, number, step) for step, batch in batches)

    def _walk(self, number: int) -> Iterator[Any]:
        if callable(self.source):
            takes_number = bool(inspect.signature(self.source).parameters)
            return iter(self.source(number) if takes_number else self.source())
        walk = iter(self.source)
        if walk is self.source:
            if self.used_up:
                raise ValueError(
                    "A generator of batches serves one epoch and is used up: pass the function "
                    "that makes it, or an object with __iter__"
                )
            self.used_up = True
        return walk

    def _convert(self, batch: Any, number: int, step: int) -> Batch:
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise TypeError(
                f"Expected batches (x, y) or (x, y, weight), got {type(batch).__name__}"
                + (f" of length {len(batch)}" if isinstance(batch, tuple | list) else "")
            )
        x = np.asarray(as_samples(batch[0], self.expected))
        y, *weight = _targets_and_weight(x, *batch[1:], expected=self.expected)
        if self.augment is not None:
            x = self.augment(x.copy(), keyed(self.seed, number, step))
        return (x, y, *weight)


def _targets_and_weight(
    x: Samples, y: Any, weight: Any = None, *, expected: Expected
) -> tuple[NDArray[Any], ...]:
    targets = as_targets(y, expected)
    if len(targets) != len(x):
        raise ValueError(
            f"Expected as many labels as samples, got {len(x)} samples and {len(targets)} labels"
        )
    if weight is None:
        return (targets,)
    weights = _array(weight, "weight")
    if weights.shape != (len(x),):
        raise ValueError(
            f"weight: expected one number for every sample, shape ({len(x)},), got {weights.shape}"
        )
    weights = weights.astype(expected.dtype, copy=False)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("weight: expected finite numbers that are not negative")
    return targets, weights


def as_batches(
    data: Any,
    batch_size: int,
    expected: Expected = ANYTHING,
    *,
    part: str = "train",
    rng: Rng = None,
    shuffle: bool = True,
    drop_last: bool = False,
    augment: Augment | None = None,
) -> Batches | Stream:
    """Return batches of whatever holds samples; this is what ``Trainer`` does with its data.

    Parameters
    ----------
    data : Dataset, (x, y), (x, y, weight), iterable of batches, or callable
        Of a Dataset one part; of a tuple what `as_samples` and `as_targets` make of it; anything
        else is a `Stream` of batches, which `batch_size`, `shuffle` and `drop_last` leave alone.
    batch_size : int
        Rows in a batch.
    expected : Expected
        What network and loss take.
    part : {"train", "val", "test"}
        Which part of a Dataset.
    rng, shuffle, drop_last, augment
        As of `Batches`.

    Returns
    -------
    Batches or Stream
        Both have ``epoch(number, start=0)``, ``steps`` and ``seed``.

    Raises
    ------
    ValueError, TypeError
        If the data are not what network and loss take, or a Dataset has no such part.

    Examples
    --------
    >>> batches = as_batches(([[0, 1], [2, 3], [4, 5]], [0, 1, 1]), 2, rng=0)
    >>> batches.steps, [x.shape for x, y in batches.epoch(0)]
    (2, [(2, 2), (1, 2)])
    """
    if isinstance(data, Dataset):
        x, y = data.part(part)
        data = (x, y)
    if isinstance(data, tuple):
        if len(data) not in (2, 3):
            raise TypeError(f"Expected (x, y) or (x, y, weight), got a tuple of {len(data)}")
        samples = data[0] if isinstance(data[0], Rows) else as_samples(data[0], expected)
        targets, *weight = _targets_and_weight(samples, *data[1:], expected=expected)
        return Batches(
            samples,
            targets,
            batch_size,
            rng=rng,
            shuffle=shuffle,
            drop_last=drop_last,
            weight=weight[0] if weight else None,
            augment=augment,
        )
    if not callable(data) and not isinstance(data, Iterable):
        raise TypeError(
            "Expected a Dataset, (x, y), an iterable of batches or a function that makes one, "
            f"got {type(data).__name__}"
        )
    return Stream(data, expected, rng=rng, augment=augment)

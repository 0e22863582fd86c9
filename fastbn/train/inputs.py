"""What `Trainer` is given, checked as a whole before the first step."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from operator import index
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn import nn
from fastbn.data import Batches, Dataset, Expected, Stream, as_batches, as_samples, as_targets
from fastbn.data.batches import Augment
from fastbn.data.rows import Rows
from fastbn.data.samples import ANYTHING
from fastbn.data.split import split_rows

Array = NDArray[Any]
Source = Batches | Stream
ClassWeight = Mapping[int, float] | Sequence[float] | Array | str | None

VALIDATION_ROWS = 256  # at a time: enough for all threads, few for the caches


class Inputs(NamedTuple):
    """Checked samples of a fit.

    Attributes
    ----------
    batches : Batches or Stream
        Of an epoch of training.
    validation : Batches, Stream or None
    samples : int or None
        Training samples; None where only batches are known.
    steps : int or None
        Batches of an epoch, without a last one of a single sample; None where not known.
    """

    batches: Source
    validation: Source | None
    samples: int | None
    steps: int | None


def checked(
    net: nn.Module,
    loss: Any,
    data: Any,
    validation: Any,
    *,
    batch_size: int,
    seed: int,
    drop_last: bool,
    augment: Augment | None,
    class_weight: ClassWeight = None,
) -> Inputs:
    """Return the batches of a fit; see `fastbn.train.Trainer.fit`.

    Raises
    ------
    ValueError, TypeError
        If samples and labels do not fit network and loss, or there is not one step to do.
    """
    expected = expected_by(net, loss, samples_of(data, "train"))
    data, validation = training_and_validation(data, validation, seed, expected)
    batches = as_batches(data, batch_size, expected, rng=seed, drop_last=drop_last, augment=augment)
    check_shape(net, batches)
    if class_weight is not None:
        weigh_classes(batches, class_weight, expected)
    if getattr(batches, "weight", None) is not None and not _takes_weights(loss):
        raise ValueError(
            f"{getattr(loss, '__name__', type(loss).__name__)} takes no weights of samples: a loss "
            "for them is called loss(pred, target, sample_weight=...)"
        )
    held_out = None
    if validation is not None:
        held_out = as_batches(validation, VALIDATION_ROWS, expected, part="val", shuffle=False)
        check_shape(net, held_out)
    samples, steps = None, batches.steps
    if isinstance(batches, Batches):
        samples = len(batches.x)
        single = batch_size > 1 and not drop_last and samples % batch_size == 1
        steps = len(batches) - single
    if steps == 0:
        raise ValueError(
            f"there is nothing to train on: {samples or 0} samples in batches of {batch_size}"
        )
    return Inputs(batches, held_out, samples, steps)


def require_object(name: str, given: Any, method: str | None = None) -> None:
    """Raise TypeError if an argument is a class, or has not this method."""
    if isinstance(given, type):
        raise TypeError(f"{name}: expected an object, got the class: {given.__name__}(...)")
    if method is not None and not callable(getattr(given, method, None)):
        wanted = "a function" if method == "__call__" else f"an object with {method}()"
        raise TypeError(f"{name}: expected {wanted}, got {given!r}")


def listed(name: str, given: Any, method: str | None = None) -> tuple[Any, ...]:
    """Return several objects as a tuple; TypeError if they are none."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name}: expected a list of them, got {given!r}")
    found = tuple(given)
    for each in found:
        require_object(name, each, method)
    return found


def whole(name: str, number: Any) -> int:
    """Return a whole number; TypeError if it is none."""
    try:
        return index(number)
    except TypeError:
        raise TypeError(f"{name} should be a whole number, but got {number!r}") from None


def expected_by(net: nn.Module, loss: Any, x: Any = None) -> Expected:
    """Return what a network and its loss take, as far as they tell.

    Parameters
    ----------
    net : Module
    loss : callable
        Losses of `fastbn.nn` tell whether targets are labels.
    x : optional
        Samples, whose shape the network is asked about where it does not know one.

    Raises
    ------
    ValueError
        If the network cannot take samples of this shape; the message names the layer.
    """
    labels = isinstance(loss, nn.CrossEntropyLoss)
    numbers = type(loss).__module__.startswith("fastbn.nn") and not labels
    dtype = net.dtype or np.dtype(np.float32)
    shape = net.input_shape
    if shape is None and x is not None:
        shape = tuple(np.shape(x))[1:] or None
    outputs = None
    if shape is not None:
        try:
            outputs = net.output_shape(tuple(shape))[-1]
        except NotImplementedError:
            shape = None
    return Expected(
        input_shape=None if net.input_shape is None else shape,
        outputs=outputs,
        labels=True if labels else False if numbers else None,
        dtype=dtype,
        ignored=getattr(loss, "ignore_index", ANYTHING.ignored),
    )


def _takes_weights(loss: Any) -> bool:
    parameters = inspect.signature(loss).parameters.values()
    return any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters)


def check_shape(net: nn.Module, batches: Source) -> None:
    """Raise what the network says of samples of this shape; the message names the layer."""
    if isinstance(batches, Batches):
        with suppress(NotImplementedError):  # after a layer without output_shape
            net.output_shape(batches.x.shape[1:])


def samples_of(data: Any, part: str) -> Any:
    """Return the samples of a part, to ask their shape; None where only batches are known."""
    if isinstance(data, Dataset):
        return data.part(part)[0]
    return data[0] if isinstance(data, tuple) and data else None


def training_and_validation(
    data: Any, validation: Any, seed: int, expected: Expected
) -> tuple[Any, Any]:
    """Return the training data and what to validate on, or None; a fraction is held out.

    Raises
    ------
    ValueError
        If a fraction is asked of data that cannot be cut, or a Dataset has no validation part.
    """
    if isinstance(validation, Dataset):
        validation.part("val")  # raises, with the remedy: the test set is for the end
    if not isinstance(validation, int | float | np.number) or isinstance(validation, bool):
        return data, validation
    fraction, rng = float(validation), np.random.default_rng(seed)
    if isinstance(data, Dataset):
        cut = data.split(fraction, rng=rng)
        return cut, cut
    if not isinstance(data, tuple):
        raise ValueError(
            f"validation={validation} needs samples that can be cut in two, got "
            f"{type(data).__name__}: pass validation=(x, y)"
        )
    x = data[0] if isinstance(data[0], Rows) else as_samples(data[0], expected)
    y = as_targets(data[1], expected)
    kept, held_out = split_rows(y, fraction, rng, stratify=y.ndim == 1 and y.dtype.kind == "i")
    arrays = (x, y, *map(np.asarray, data[2:]))
    return tuple(_take(a, kept) for a in arrays), tuple(_take(a, held_out) for a in arrays)


def _take(x: Any, rows: Array) -> Any:
    return x.take(rows) if isinstance(x, Rows) else x[rows]


def weigh_classes(batches: Source, class_weight: ClassWeight, expected: Expected) -> None:
    """Multiply the weights of samples by those of their classes.

    Parameters
    ----------
    batches : Batches
    class_weight : dict, array_like or "balanced"
        By class; those that a dictionary leaves out have 1. "balanced" gives every class the same
        share of the loss: N / (classes · samples of the class).

    Raises
    ------
    ValueError
        If targets are not labels, or the weights are not one for every class.
    """
    if not isinstance(batches, Batches):
        raise ValueError("class_weight needs arrays, but fit got batches")
    y = batches.y
    if y.ndim != 1 or y.dtype.kind != "i":
        raise ValueError("class_weight needs targets that are labels of classes")
    labelled = (y >= 0) & (y != expected.ignored)
    counted = y[labelled]
    classes = int(max(expected.outputs or 0, counted.max(initial=-1) + 1))
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight should be 'balanced' or numbers, got {class_weight!r}")
        counts = np.bincount(counted, minlength=classes)
        table = len(counted) / (np.count_nonzero(counts) * np.maximum(counts, 1.0))
    elif isinstance(class_weight, Mapping):
        table = np.ones(classes)
        unknown = [label for label in class_weight if label not in range(classes)]
        if unknown:
            raise ValueError(f"class_weight has classes {unknown}, there are 0 to {classes - 1}")
        for label, value in class_weight.items():
            table[label] = value
    else:
        table = np.asarray(class_weight, dtype=np.float64)
        if table.shape != (classes,):
            raise ValueError(
                f"class_weight should have one number for each of {classes} classes, "
                f"got shape {table.shape}"
            )
    if not (np.isfinite(table).all() and (table >= 0.0).all()):
        raise ValueError("class_weight: expected finite numbers that are not negative")
    weight = np.where(labelled, table[np.where(labelled, y, 0)], 1.0).astype(expected.dtype)
    batches.weight = weight if batches.weight is None else batches.weight * weight

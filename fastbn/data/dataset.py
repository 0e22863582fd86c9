"""What `fastbn.data.load` returns: samples for training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn.data.batches import Augment, Batches, Rng
from fastbn.data.normalization import Normalization
from fastbn.data.rows import Rows, Samples
from fastbn.data.split import split_rows

if TYPE_CHECKING:
    from fastbn.data.columns import Columns
    from fastbn.distributed import Communicator

PARTS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples with labels or numbers to predict, in up to three parts.

    Parameters
    ----------
    x_train, x_test : ndarray of float32 or Rows
        Images ``(N, H, W, C)``, values in [0, 1], or rows of a table ``(N, F)``. `Rows` where
        they lie on the disk.
    y_train, y_test : ndarray
        Labels ``(N,)`` of int64, indices into `classes`; where there are no classes, numbers
        ``(N, K)`` of float32.
    classes : tuple of str
        Names of the classes; empty for regression.
    name : str, optional
        What the data set is called in messages.
    x_val, y_val : optional
        What training is watched on: chosen by `split`, or brought along. None where there is none.
    normalization : Normalization, optional
        What was done to the samples; see `normalized`.
    columns : Columns, optional
        How rows of a table became numbers, for new rows.

    Raises
    ------
    ValueError
        If samples and labels differ in number, the parts differ in the shape of a sample, or a
        label has no class.

    Examples
    --------
    >>> from fastbn import data
    >>> digits = data.load("digits")
    >>> digits
    Dataset(digits: 1,437 training and 360 test images of 8×8×1, 10 classes)
    >>> images, labels = next(iter(digits.batches(32, rng=0)))
    >>> images.shape, images.dtype, labels.dtype
    ((32, 8, 8, 1), dtype('float32'), dtype('int64'))
    >>> digits.split(0.1, rng=0)
    Dataset(digits: 1,293 training, 144 validation and 360 test images of 8×8×1, 10 classes)
    """

    x_train: Samples
    y_train: NDArray[Any]
    x_test: Samples
    y_test: NDArray[Any]
    classes: tuple[str, ...]
    name: str = ""
    x_val: Samples | None = None
    y_val: NDArray[Any] | None = None
    normalization: Normalization | None = None
    columns: Columns | None = None

    def __post_init__(self) -> None:
        name = self.name or "Dataset"
        if (self.x_val is None) != (self.y_val is None):
            raise ValueError(f"{name}: x_val and y_val belong together, got one of them")
        for part, x, y in self._parts():
            what = "labels" if self.classes else "targets"
            if len(x) != len(y):
                raise ValueError(
                    f"{name}: expected as many {PARTS[part]} {what} as {self._rows()}, "
                    f"got {len(x)} {self._rows()} and {len(y)} {what}"
                )
            if self.classes and len(y) and not 0 <= y.min() <= y.max() < len(self.classes):
                raise ValueError(
                    f"{name}: {PARTS[part]} labels should be in "
                    f"[0, {len(self.classes) - 1}], got [{y.min()}, {y.max()}]"
                )
            if x.shape[1:] != self.input_shape:
                raise ValueError(
                    f"{name}: expected {PARTS[part]} {self._rows()} of shape "
                    f"{self.input_shape} like the training {self._rows()}, got {x.shape[1:]}"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, ``(H, W, C)`` or ``(F,)``."""
        return self.x_train.shape[1:]

    @property
    def outputs(self) -> int:
        """Outputs that a network for these data has: one for every class, or for every number."""
        return len(self.classes) or int(np.prod(self.y_train.shape[1:]))

    def part(self, name: str) -> tuple[Samples, NDArray[Any]]:
        """Return samples and labels of one part.

        Parameters
        ----------
        name : {"train", "val", "test"}
            Which one.

        Raises
        ------
        ValueError
            If there is no such part.
        """
        if name not in PARTS:
            raise ValueError(f"Expected a part of {', '.join(PARTS)}, got {name!r}")
        for part, x, y in self._parts():
            if part == name:
                return x, y
        raise ValueError(
            f"{self.name or 'Dataset'} has no validation part, and its test part is for the end: "
            "hold one out of the training part, data.split(0.1, rng=0) or validation=0.1"
        )

    def split(self, fraction: float, rng: Rng = None) -> Dataset:
        """Hold out a part of the training set for validation.

        Parameters
        ----------
        fraction : float
            Share of the training set, the same of every class.
        rng : numpy.random.Generator or int, optional
            Where the choice comes from.

        Returns
        -------
        Dataset
            With `x_val` and `y_val`; rows keep their order. The test set is the same.

        Raises
        ------
        ValueError
            If there is a validation part already, or the fraction leaves a part empty.
        """
        if self.x_val is not None:
            raise ValueError(f"{self.name or 'Dataset'} has a validation part already")
        kept, held_out = split_rows(self.y_train, fraction, rng, stratify=bool(self.classes))
        return replace(
            self,
            x_train=_take(self.x_train, kept),
            y_train=self.y_train[kept],
            x_val=_take(self.x_train, held_out),
            y_val=self.y_train[held_out],
        )

    def normalized(
        self,
        normalization: Normalization | None = None,
        *,
        communicator: Communicator | None = None,
    ) -> Dataset:
        """Return the same data with samples ``(x - mean) / std``.

        Parameters
        ----------
        normalization : Normalization, optional
            By default it is fitted on the training part: call `split` before.
        communicator : Communicator, optional
            Other ranks, who all call this: each reads a share of the samples to fit it, and all
            get the bits that one process does.

        Returns
        -------
        Dataset
            Its `normalization` goes into ``fastbn.train.save(..., input_normalization=
            data.normalization.as_dict())`` or ``to_onnx(..., normalization=...)``.

        Raises
        ------
        ValueError
            If the data are normalised already, or the samples are not finite.
        """
        if self.normalization is not None:
            raise ValueError(f"{self.name or 'Dataset'} is normalised already")
        fitted = normalization
        if fitted is None:
            fitted = Normalization.fit(self.x_train, communicator=communicator)
        parts = {
            f"x_{part}": x.normalized(fitted) if isinstance(x, Rows) else fitted.apply(x)
            for part, x, _ in self._parts()
        }
        return replace(self, **parts, normalization=fitted)  # type: ignore[arg-type]

    def batches(
        self,
        batch_size: int,
        *,
        rng: Rng = None,
        shuffle: bool = True,
        drop_last: bool = False,
        augment: Augment | None = None,
    ) -> Batches:
        """Mini-batches of the training set; see `Batches`.

        Parameters
        ----------
        batch_size : int
            Samples in a batch.
        rng : numpy.random.Generator or int, optional
            Generator of the order, or its seed.
        shuffle : bool, default True
            Whether every epoch has a new order.
        drop_last : bool, default False
            Whether a last, smaller batch is left out.
        augment : callable, optional
            ``augment(images, rng) -> images``; see `fastbn.data.augment`.

        Returns
        -------
        Batches
            Iterable, any number of times, over ``(samples, labels)``.
        """
        return Batches(
            self.x_train,
            self.y_train,
            batch_size,
            rng=rng,
            shuffle=shuffle,
            drop_last=drop_last,
            augment=augment,
        )

    def _parts(self) -> list[tuple[str, Samples, NDArray[Any]]]:
        """Return the parts that are there: name, samples, labels."""
        parts = [("train", self.x_train, self.y_train)]
        if self.x_val is not None and self.y_val is not None:
            parts.append(("val", self.x_val, self.y_val))
        return [*parts, ("test", self.x_test, self.y_test)]

    def _rows(self) -> str:
        return "images" if len(self.input_shape) == 3 else "rows"

    def __repr__(self) -> str:
        *first, last = (f"{len(x):,} {PARTS[part]}" for part, x, _ in self._parts())
        label = f"{self.name}: " if self.name else ""
        shape = "×".join(map(str, self.input_shape))
        target = f"{len(self.classes)} classes" if self.classes else f"{self.outputs} targets"
        return (
            f"Dataset({label}{', '.join(first)} and {last} {self._rows()} of {shape}, "
            f"{target.removesuffix('s') if target == '1 targets' else target})"
        )


def _take(x: Samples, rows: NDArray[np.intp]) -> Samples:
    return x.take(rows) if isinstance(x, Rows) else x[rows]

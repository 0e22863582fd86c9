"""What `fastbn.data.load` returns: a training set and a test set of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastbn.data.batches import Batches


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled images, cut into a training set and a test set.

    Parameters
    ----------
    x_train, x_test : ndarray of float32
        Images ``(N, H, W, C)``, values in [0, 1].
    y_train, y_test : ndarray of int64
        Labels ``(N,)``, indices into `classes`.
    classes : tuple of str
        Names of the classes.
    name : str, optional
        What the data set is called in messages.

    Raises
    ------
    ValueError
        If images and labels differ in number, the test images differ from the training images in
        shape, or a label has no class.

    Examples
    --------
    >>> from fastbn import data
    >>> digits = data.load("digits")
    >>> digits
    Dataset(digits: 1,437 training and 360 test images of 8×8×1, 10 classes)
    >>> images, labels = next(iter(digits.batches(32, rng=0)))
    >>> images.shape, images.dtype, labels.dtype
    ((32, 8, 8, 1), dtype('float32'), dtype('int64'))
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    classes: tuple[str, ...]
    name: str = ""

    def __post_init__(self) -> None:
        for part, x, y in (
            ("training", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            if len(x) != len(y):
                raise ValueError(
                    f"{self.name or 'Dataset'}: expected as many {part} labels as images, "
                    f"got {len(x)} images and {len(y)} labels"
                )
            if len(y) and not 0 <= y.min() <= y.max() < len(self.classes):
                raise ValueError(
                    f"{self.name or 'Dataset'}: {part} labels should be in "
                    f"[0, {len(self.classes) - 1}], got [{y.min()}, {y.max()}]"
                )
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"{self.name or 'Dataset'}: expected test images of shape "
                f"{self.x_train.shape[1:]} like the training images, got {self.x_test.shape[1:]}"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, ``(H, W, C)``."""
        return self.x_train.shape[1:]

    def batches(
        self,
        batch_size: int,
        *,
        rng: np.random.Generator | int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> Batches:
        """Mini-batches of the training set; see `Batches`.

        Parameters
        ----------
        batch_size : int
            Images in a batch.
        rng : numpy.random.Generator or int, optional
            Generator of the order, or its seed.
        shuffle : bool, default True
            Whether every walk has a new order.
        drop_last : bool, default False
            Whether a last, smaller batch is left out.

        Returns
        -------
        Batches
            Iterable, any number of times, over ``(images, labels)``.
        """
        return Batches(
            self.x_train, self.y_train, batch_size, rng=rng, shuffle=shuffle, drop_last=drop_last
        )

    def __repr__(self) -> str:
        label = f"{self.name}: " if self.name else ""
        shape = "×".join(map(str, self.input_shape))
        return (
            f"Dataset({label}{len(self.x_train):,} training and {len(self.x_test):,} test images "
            f"of {shape}, {len(self.classes)} classes)"
        )

"""A second copy of what training changes, which follows it slowly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.kernels.optim import Sweep
from fastbn.nn import Module

Array = NDArray[Any]


def statistics(net: Module) -> dict[str, Array]:
    """Return the running statistics of normalisation layers, by name."""
    return {name: array for name, array in net.named_buffers() if array.dtype.kind == "f"}


class Following:
    """Base class of what keeps such a copy: `copies`, by the names that `trained` gives."""

    def __init__(self) -> None:
        self.copies = {name: _laid_as(array, array) for name, array in self.trained().items()}
        self._sweep: Sweep | None = None

    def trained(self) -> dict[str, Array]:
        """Return the arrays that training changes; they may be others after ``net.astype``."""
        raise NotImplementedError

    def follow(self, alpha: float) -> None:
        """Go `alpha` of the way: ``copy += alpha · (trained - copy)``."""
        trained = self.trained()
        if any(trained[name].dtype != copy.dtype for name, copy in self.copies.items()):
            self._sweep = None
        if self._sweep is None:
            self.copies = {
                name: _laid_as(trained[name], copy) for name, copy in self.copies.items()
            }
            self._sweep = Sweep(list(self.copies.values()))
        # what SGD does at the rate -alpha, where the penalty makes of "gradient" trained - copy
        self._sweep.sgd_step(list(trained.values()), lr=-alpha, weight_decay=-1.0)

    def hand_over(self) -> None:
        """Put the copies into the trained arrays."""
        for name, array in self.trained().items():
            array[...] = self.copies[name]

    def saved_copies(self) -> dict[str, Array]:
        """Return the copies, copied, for a state."""
        return {name: np.array(copy, order="C") for name, copy in self.copies.items()}

    def checked_copies(self, loaded: Mapping[str, Any]) -> dict[str, Array]:
        """Return what a state has for `copies`; ValueError where it does not fit."""
        found = {name: np.shape(values) for name, values in loaded.items()}
        for name in {**self.copies, **found}:
            expected = self.copies[name].shape if name in self.copies else None
            if found.get(name) != expected:
                raise ValueError(
                    f"loaded average of {name} has shape {found.get(name)}, expected {expected}"
                )
        return {name: np.asarray(loaded[name]) for name in self.copies}

    def load_copies(self, checked: Mapping[str, Array]) -> None:
        """Take over what `checked_copies` returned."""
        for name, copy in self.copies.items():
            copy[...] = checked[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sweep": None}


def _laid_as(array: Array, values: Array) -> Array:
    """Return the values as a new array with dtype and order in memory of `array`."""
    laid = np.empty_like(array)
    laid[...] = values
    return laid

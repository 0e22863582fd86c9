"""What an optimizer keeps for the parameters of one group, and the compiled sweep over both."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.kernels.optim import Sweep
from fastbn.nn import Parameter

Array = NDArray[Any]


class GroupState:
    """Arrays beside the parameters of a group, all zeros before the first step.

    Parameters
    ----------
    params : tuple of Parameter
    names : tuple of str
        What the arrays are called in the state, in the order in which the sweep takes them.

    Attributes
    ----------
    steps : ndarray of int64
        The steps that each parameter has made, where an optimizer counts them.
    arrays : dict of str to list of ndarray
        For each name as many arrays as there are parameters, laid in memory as these are.
    """

    def __init__(self, params: tuple[Parameter, ...], names: tuple[str, ...]) -> None:
        self.params = params
        self.steps = np.zeros(len(params), dtype=np.int64)
        self.arrays = {name: [parameter.zeros() for parameter in params] for name in names}
        self._sweep: Sweep | None = None

    def add(self, name: str) -> None:
        """Begin to keep arrays of this name, unless there are some."""
        if name not in self.arrays:
            self.arrays[name] = [parameter.zeros() for parameter in self.params]
            self._sweep = None

    def gradients(self) -> list[Array | None]:
        """Return all gradients, None for parameters to pass over."""
        return [parameter.grad for parameter in self.params]

    def sweep(self) -> Sweep:
        """Return the sweep over the arrays where they are now."""
        data = [parameter.data for parameter in self.params]
        if self._sweep is None or not self._sweep.holds(data):
            # after net.astype the dtype is another, after unpickling the order in memory
            for name, arrays in self.arrays.items():
                self.arrays[name] = [
                    _laid_as(parameter, array)
                    for parameter, array in zip(self.params, arrays, strict=True)
                ]
            self._sweep = Sweep(data, *self.arrays.values())
        return self._sweep

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sweep": None}


def _laid_as(parameter: Parameter, values: Array) -> Array:
    """Return the values with dtype and order in memory of the parameter's."""
    array = parameter.zeros()
    array[...] = values
    return array

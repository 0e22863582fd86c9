"""What all optimizers have in common: their parameters, their state, and the sweep over both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastbn.kernels.optim import Sweep
from fastbn.nn import Parameter

Array = NDArray[Any]


class Optimizer:
    """Base class: `step` moves every parameter that has a gradient.

    Parameters
    ----------
    params : iterable of Parameter
        What ``net.parameters()`` returns.

    Raises
    ------
    TypeError
        If something else than parameters is given.
    ValueError
        If there are none, or one appears twice.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    counts_steps: ClassVar[bool] = False

    def __init__(self, params: Iterable[Parameter], state_names: tuple[str, ...]) -> None:
        if isinstance(params, Parameter):
            raise TypeError(
                "params argument should be an iterable of Parameters, got one Parameter"
            )
        self.params = list(params)
        for parameter in self.params:
            if not isinstance(parameter, Parameter):
                raise TypeError(
                    f"optimizer can only optimize Parameters, got {type(parameter).__name__}"
                )
        if not self.params:
            raise ValueError("optimizer got an empty parameter list")
        if len(set(map(id, self.params))) < len(self.params):
            raise ValueError("some parameters appear more than once in the parameter list")
        self._state_names = state_names
        self._steps = np.zeros(len(self.params), dtype=np.int64)
        self._states = [[parameter.zeros() for parameter in self.params] for _ in state_names]
        self._sweep = Sweep([parameter.data for parameter in self.params], *self._states)

    def step(self) -> None:
        """Move the parameters by their gradients, in place.

        One without a gradient, or whose ``grad`` was set to None, is passed over.
        """
        raise NotImplementedError

    def _gradients(self) -> list[Array | None]:
        """Return all gradients, after a look whether the values are where they were."""
        if not self._sweep.holds([parameter.data for parameter in self.params]):
            self._follow()
        return [parameter.grad for parameter in self.params]

    def _follow(self) -> None:
        """Give the state the dtype that the parameters have taken in ``net.astype``."""
        moved = [[parameter.zeros() for parameter in self.params] for _ in self._state_names]
        for old_arrays, new_arrays in zip(self._states, moved, strict=True):
            for old, new in zip(old_arrays, new_arrays, strict=True):
                new[...] = old
        self._states = moved
        self._sweep = Sweep([parameter.data for parameter in self.params], *moved)

    def state_dict(self) -> dict[str, Any]:
        """Return settings and copies of the state, laid out as PyTorch does.

        Returns
        -------
        dict
            ``"state"``: for the index of every parameter the arrays of its shape, and "step" where
            it counts; ``"param_groups"``: one dictionary with the settings.
        """
        state: dict[int, dict[str, Any]] = {}
        for index in range(len(self.params)):
            state[index] = {"step": int(self._steps[index])} if self.counts_steps else {}
            for name, arrays in zip(self._state_names, self._states, strict=True):
                state[index][name] = np.array(arrays[index], order="C")
        group = {name: getattr(self, name) for name in self.settings}
        return {
            "state": state,
            "param_groups": [{**group, "params": list(range(len(self.params)))}],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over settings and state, all or nothing.

        Parameters
        ----------
        state_dict : mapping
            As `state_dict` returns it.

        Raises
        ------
        ValueError
            If it belongs to other parameters, or to another optimizer.
        """
        groups = state_dict["param_groups"]
        if len(groups) != 1 or len(groups[0]["params"]) != len(self.params):
            raise ValueError(
                f"loaded state dict has {[len(group['params']) for group in groups]} parameters "
                f"in its groups, the optimizer has one group of {len(self.params)}"
            )
        missing = [name for name in self.settings if name not in groups[0]]
        if missing:
            raise ValueError(f"loaded state dict has no {', '.join(missing)}")
        state = state_dict["state"]
        for index, values in state.items():
            for name in self._state_names:
                shape = np.shape(values[name]) if name in values else None
                if not 0 <= index < len(self.params) or shape != self.params[index].shape:
                    raise ValueError(
                        f"loaded {name} of parameter {index} has shape {shape}, "
                        f"the parameters have {[parameter.shape for parameter in self.params]}"
                    )
        for name in self.settings:
            setattr(self, name, groups[0][name])
        self._gradients()
        for index in range(len(self.params)):
            values = state.get(index, {})
            self._steps[index] = int(values.get("step", 0))
            for name, arrays in zip(self._state_names, self._states, strict=True):
                arrays[index][...] = values.get(name, 0)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)
        return f"{type(self).__name__}({shown})"


def check(name: str, value: float, valid: bool) -> float:
    """Return `value`, or raise ValueError in PyTorch's words if it is not valid."""
    if not valid:
        raise ValueError(f"Invalid {name}: {value}")
    return value

"""What all optimizers have in common: groups of parameters, their settings and their state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastbn.nn import Parameter
from fastbn.optim.group_state import GroupState
from fastbn.optim.settings import at_step, described, number_or_schedule, undescribed

Array = NDArray[Any]
Group = dict[str, Any]

# of PyTorch's groups: how it computes, and what its schedulers leave behind
PASSED_OVER = {
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "param_names",
    "initial_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
}


class Optimizer:
    """Base class: `step` moves every parameter that has a gradient.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What ``net.parameters()`` returns; or groups, each a dictionary with "params" and those
        settings that are to differ from `defaults`.
    defaults : dict
        All settings, checked.

    Attributes
    ----------
    param_groups : list of dict
        The groups: "params", a tuple, and all settings. Settings may be changed between steps.
    steps : int
        The calls of `step` so far: what callable settings are called with.

    Raises
    ------
    TypeError
        If something else than parameters is given.
    ValueError
        If there are none, one appears twice, or a setting is unknown or out of range.

    Examples
    --------
    >>> from fastbn import nn, optim
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    >>> groups = [{"params": net[0].parameters(), "lr": 0.01}, {"params": net[1].parameters()}]
    >>> optimizer = optim.SGD(groups, lr=0.1)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.01, 0.1]
    """

    settings: ClassVar[tuple[str, ...]] = ()
    """Names of the settings of a group."""
    scheduled: ClassVar[tuple[str, ...]] = ()
    """Those of them that may be callables of the step."""
    buffers: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays that the state of a parameter may have."""
    fixed: ClassVar[Mapping[str, Any]] = {}
    """PyTorch's options that have one value here; all others must be False, None or 0."""
    counts_steps: ClassVar[bool] = False

    def __init__(self, params: Iterable[Parameter] | Iterable[Group], **defaults: Any) -> None:
        if isinstance(params, Parameter | Mapping):
            raise TypeError(
                "params argument should be an iterable of Parameters or of groups, "
                f"got one {type(params).__name__}"
            )
        self.defaults = self.checked(defaults)
        self.param_groups: list[Group] = []
        self.steps = 0
        self._states: list[GroupState] = []
        given: list[Any] = list(params)
        if not any(isinstance(entry, Mapping) for entry in given):
            given = [{"params": given}]
        for group in given:
            self.add_param_group(group)
        if not any(group["params"] for group in self.param_groups):
            raise ValueError("optimizer got an empty parameter list")

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters, as when layers are unfrozen during training.

        Parameters
        ----------
        group : dict
            "params", and those settings that differ from the ones the optimizer was made with.
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"expected a group, a dictionary with 'params', got {group!r}")
        given = group["params"]
        params = (given,) if isinstance(given, Parameter) else tuple(given)
        for parameter in params:
            if not isinstance(parameter, Parameter):
                raise TypeError(
                    f"optimizer can only optimize Parameters, got {type(parameter).__name__}"
                )
        unknown = [name for name in group if name != "params" and name not in self.settings]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no {', '.join(unknown)}; "
                f"a group can have {', '.join(self.settings)}"
            )
        everybody = [*params, *(p for other in self.param_groups for p in other["params"])]
        if len(set(map(id, everybody))) < len(everybody):
            raise ValueError("some parameters appear more than once in the parameter list")
        checked = self.checked({**self.defaults, **group})
        state = GroupState(params, self.needed_buffers(checked))
        self.param_groups.append({**checked, "params": params})
        self._states.append(state)

    def checked(self, group: Mapping[str, Any]) -> Group:
        """Return the group with its settings as step takes them, or raise what is wrong."""
        read = {name: number_or_schedule(name, group[name]) for name in self.scheduled}
        return {**group, **read}

    def needed_buffers(self, group: Group) -> tuple[str, ...]:
        """Return which of `buffers` a group with these settings needs."""
        return self.buffers

    # --- steps ------------------------------------------------------------------------------

    def step(self) -> None:
        """Move the parameters by their gradients, in place.

        One without a gradient, or whose ``grad`` was set to None, is passed over.

        Raises
        ------
        ValueError, TypeError
            If a setting is out of range at this step; nothing was moved then.
        RuntimeError
            If a group was given other parameters than it began with.
        """
        moves = []
        for group, state in zip(self.param_groups, self._states, strict=True):
            if group["params"] is not state.params:
                raise RuntimeError("the params of a group were replaced: use add_param_group")
            now = [at_step(name, group[name], self.steps) for name in self.scheduled]
            moves.append((group, state, now))
        for group, state, now in moves:
            self.move(group, state, *now)
        self.steps += 1

    def move(self, group: Group, state: GroupState, *now: float) -> None:
        """Do a step of one group; `now` are the values of `scheduled` at this step."""
        raise NotImplementedError

    # --- state ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return settings and copies of the state, laid out as PyTorch does.

        Returns
        -------
        dict
            ``"state"``: for the index of every parameter the arrays of its shape, and "step" where
            it counts; ``"param_groups"``: for every group its settings and the indices of its
            parameters; ``"steps"``. But for the arrays it is what JSON can hold: a schedule of
            `fastbn.optim.schedules` as its description, any other function as its name.
        """
        state: dict[int, dict[str, Any]] = {}
        groups = []
        for group, kept in zip(self.param_groups, self._states, strict=True):
            first = len(state)
            for index in range(len(kept.params)):
                entry: dict[str, Any] = (
                    {"step": int(kept.steps[index])} if self.counts_steps else {}
                )
                for name, arrays in kept.arrays.items():
                    entry[name] = np.array(arrays[index], order="C")
                state[first + index] = entry
            shown = {name: described(group[name]) for name in self.settings}
            groups.append({**shown, "params": list(range(first, len(state)))})
        return {"state": state, "param_groups": groups, "steps": self.steps}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over settings and state, all or nothing.

        Parameters
        ----------
        state_dict : mapping
            As `state_dict` returns it, or PyTorch's of the same optimizer. It may have gone through
            JSON: lists for arrays, text for indices.

        Raises
        ------
        ValueError
            If it belongs to other parameters or to another optimizer, or has options of PyTorch's
            that are unknown here.
        """
        for part in ("state", "param_groups"):
            if part not in state_dict:
                raise ValueError(f"loaded state dict has no {part!r}")
        loaded = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in loaded]
        own = [len(group["params"]) for group in self.param_groups]
        if sizes != own:
            raise ValueError(
                f"loaded state dict has {sizes} parameters in its groups, the optimizer has {own}"
            )
        groups = [
            self._loaded_group(group, new)
            for group, new in zip(self.param_groups, loaded, strict=True)
        ]
        entries = self._loaded_entries(state_dict["state"], loaded)

        first = 0
        for group, kept, new in zip(self.param_groups, self._states, groups, strict=True):
            group.update(new)
            mine = entries[first : first + len(kept.params)]
            first += len(kept.params)
            for name in self.buffers:
                if name in self.needed_buffers(group) or any(name in entry for entry in mine):
                    kept.add(name)
            kept.sweep()  # the arrays have the parameters' dtype
            for index, entry in enumerate(mine):
                kept.steps[index] = entry.get("step", 0)
                for name, arrays in kept.arrays.items():
                    arrays[index][...] = entry.get(name, 0)
        most = max((entry.get("step", 0) for entry in entries), default=0)
        self.steps = int(state_dict.get("steps", most))

    def _loaded_group(self, own: Group, new: Mapping[str, Any]) -> Group:
        missing = [name for name in self.settings if name not in new]
        if missing:
            raise ValueError(f"loaded state dict has no {', '.join(missing)}")
        for name, value in new.items():
            if name == "params" or name in self.settings or name in PASSED_OVER:
                continue
            if value != self.fixed[name] if name in self.fixed else value:
                raise ValueError(
                    f"loaded state dict has {name}={value!r}, which {type(self).__name__} of "
                    "fastbn does not know"
                )
        read = {name: undescribed(name, new[name], own[name]) for name in self.settings}
        return self.checked(read)

    def _loaded_entries(
        self, state: Mapping[Any, Mapping[str, Any]], groups: list[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the loaded arrays and steps of every parameter, in the order of the groups."""
        params = [parameter for kept in self._states for parameter in kept.params]
        places = {int(name): i for i, name in enumerate(n for g in groups for n in g["params"])}
        entries: list[dict[str, Any]] = [{} for _ in params]
        known = (*self.buffers, "step") if self.counts_steps else self.buffers
        for key, values in state.items():
            place = places.get(int(key))
            if place is None:
                raise ValueError(
                    f"loaded state dict has a parameter {key}, which is in none of its groups"
                )
            given = {name: value for name, value in values.items() if value is not None}
            unknown = [name for name in given if name not in known]
            if unknown:
                raise ValueError(
                    f"loaded state of parameter {key} has {', '.join(unknown)}, which "
                    f"{type(self).__name__} of fastbn does not know"
                )
            if not given:  # no step was made
                continue
            if self.counts_steps:
                entries[place]["step"] = int(given.get("step", 0))
            for name in self.buffers:
                shape = np.shape(given[name]) if name in given else None
                if shape != params[place].shape:
                    raise ValueError(
                        f"loaded {name} of parameter {key} has shape {shape}, "
                        f"expected {params[place].shape}"
                    )
                entries[place][name] = given[name]
        return entries

    def __repr__(self) -> str:
        names = self.settings
        groups = self.param_groups
        shown = [", ".join(f"{name}={group[name]!r}" for name in names) for group in groups]
        if len(shown) == 1:
            return f"{type(self).__name__}({shown[0]})"
        counted = (
            f"  {len(group['params'])} parameters: {text}"
            for group, text in zip(groups, shown, strict=True)
        )
        return "\n".join([f"{type(self).__name__}(", *counted, ")"])

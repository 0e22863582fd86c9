"""SGD: stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastbn.nn import Parameter
from fastbn.optim.group_state import GroupState
from fastbn.optim.optimizer import Group, Optimizer
from fastbn.optim.settings import Scheduled, Setting


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum, Nesterov's momentum and weight decay.

    With ``g = grad + weight_decay · p`` and ``b = momentum · b + g``: ``p -= lr · b``, or with
    Nesterov ``p -= lr · (g + momentum · b)`` (Sutskever et al. 2013, as PyTorch writes it).

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What ``net.parameters()`` returns; or groups, each a dictionary with "params" and the
        settings that are its own.
    lr : float or callable, default 1e-3
        Learning rate; a callable gets the number of steps made. The attribute may be changed
        between steps.
    momentum : float or callable, default 0
    weight_decay : float or callable, default 0
        Factor of the L2 penalty's gradient.
    nesterov : bool, default False
        Needs momentum.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    Examples
    --------
    >>> weight = Parameter([1.0])
    >>> sgd = SGD([weight], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     weight.grad = [1.0]
    ...     sgd.step()
    >>> weight.data.round(6)
    array([0.71])

    Groups, and a rate that falls:

    >>> from fastbn.optim import schedules
    >>> bias = Parameter([1.0])
    >>> groups = [{"params": [weight]}, {"params": [bias], "lr": 1.0}]
    >>> sgd = SGD(groups, lr=schedules.cosine(0.1, steps=100))
    >>> [group["lr"] for group in sgd.param_groups]
    [cosine(start=0.1, steps=100, end=0.0), 1.0]
    """

    settings = ("lr", "momentum", "weight_decay", "nesterov")
    scheduled = ("lr", "momentum", "weight_decay")
    buffers = ("momentum_buffer",)
    lr, momentum, weight_decay, nesterov = Setting(), Setting(), Setting(), Setting()

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: Scheduled = 1e-3,
        momentum: Scheduled = 0.0,
        weight_decay: Scheduled = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )

    def checked(self, group: Mapping[str, Any]) -> Group:
        """Return the group with its settings as step takes them, or raise what is wrong."""
        group = super().checked(group)
        group["nesterov"] = bool(group["nesterov"])
        if group["nesterov"] and group["momentum"] == 0.0:
            raise ValueError("Nesterov momentum requires a momentum")
        return group

    def needed_buffers(self, group: Group) -> tuple[str, ...]:
        """Return "momentum_buffer" if there is momentum."""
        return () if group["momentum"] == 0.0 else self.buffers

    def move(self, group: Group, state: GroupState, *now: float) -> None:
        """Do a step of one group."""
        lr, momentum, weight_decay = now
        if momentum:
            state.add("momentum_buffer")  # it may have been set just now
        nesterov = group["nesterov"] and momentum != 0.0
        state.sweep().sgd_step(state.gradients(), lr, momentum, weight_decay, nesterov)

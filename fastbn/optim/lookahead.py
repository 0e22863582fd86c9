"""Lookahead: slow weights that an optimizer's fast ones start from, again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastbn.nn import Module
from fastbn.optim.following import Array, Following, statistics
from fastbn.optim.optimizer import Group, Optimizer
from fastbn.optim.settings import (
    Scheduled,
    Setting,
    at_step,
    described,
    number_or_schedule,
    undescribed,
)


class Lookahead(Following):
    """An optimizer with slow weights (Zhang et al. 2019, Algorithm 1).

    After every `k` steps of `optimizer` the slow weights go a part of the way to its weights,
    ``slow += alpha · (fast - slow)``, and it continues from there: ``fast = slow``.

    Parameters
    ----------
    optimizer : Optimizer
        Does the steps.
    k : int, default 5
        Its steps for one of the slow weights.
    alpha : float or callable, default 0.5
        Part of the way, in [0, 1]; a callable gets the number of steps made.
    net : Module, optional
        Let this network's running statistics be slow, too, which belong to its weights.

    Examples
    --------
    >>> from fastbn import nn, optim
    >>> weight = nn.Parameter([0.0])
    >>> lookahead = optim.Lookahead(optim.SGD([weight], lr=1.0), k=2, alpha=0.5)
    >>> for _ in range(4):
    ...     weight.grad = [-1.0]
    ...     lookahead.step()
    ...     print(weight.data)
    [1.]
    [1.]
    [2.]
    [2.]
    """

    lr, weight_decay = Setting(), Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        k: int = 5,
        alpha: Scheduled = 0.5,
        net: Module | None = None,
    ) -> None:
        if isinstance(k, bool) or int(k) != k or k < 1:
            raise ValueError(f"Lookahead: k should be a positive integer, but got {k}")
        self.optimizer = optimizer
        self.net = net
        self.k = int(k)
        self.alpha = number_or_schedule("alpha", alpha, 1.0)
        super().__init__()

    @property
    def param_groups(self) -> list[Group]:
        """The groups of the optimizer inside."""
        return self.optimizer.param_groups

    @property
    def steps(self) -> int:
        """The steps of the optimizer inside."""
        return self.optimizer.steps

    def checked(self, group: Mapping[str, Any]) -> Group:
        """Check settings as the optimizer inside does."""
        return self.optimizer.checked(group)

    def trained(self) -> dict[str, Array]:
        """Return the weights, by their numbers, and the statistics."""
        params = [parameter for group in self.param_groups for parameter in group["params"]]
        weights = {str(index): parameter.data for index, parameter in enumerate(params)}
        return weights if self.net is None else weights | statistics(self.net)

    def step(self) -> None:
        """Do a step of the optimizer inside, and after every `k`-th one of the slow weights."""
        self.optimizer.step()
        if self.steps % self.k == 0:
            self.follow(at_step("alpha", self.alpha, self.steps, 1.0))
            self.hand_over()

    def finish(self) -> None:
        """Put the slow weights into the network, for good: training is over."""
        self.hand_over()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer inside, the settings, and the slow weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "k": self.k,
            "alpha": described(self.alpha),
            "slow": self.saved_copies(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, all or nothing.

        Raises
        ------
        ValueError
            If it belongs to other parameters or another optimizer.
        """
        missing = [key for key in ("optimizer", "k", "alpha", "slow") if key not in state_dict]
        if missing:
            raise ValueError(f"loaded state dict of Lookahead has no {', '.join(missing)}")
        alpha = undescribed("alpha", state_dict["alpha"], self.alpha)
        alpha = number_or_schedule("alpha", alpha, 1.0)
        slow = self.checked_copies(state_dict["slow"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.k, self.alpha = int(state_dict["k"]), alpha
        self.load_copies(slow)

    def __repr__(self) -> str:
        return f"Lookahead({self.optimizer!r}, k={self.k}, alpha={self.alpha!r})"

"""Adam and AdamW: steps scaled by running means of the gradient and of its square."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from fastbn.nn import Parameter
from fastbn.optim.group_state import GroupState
from fastbn.optim.optimizer import Group, Optimizer
from fastbn.optim.settings import Scheduled, Setting, number


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, Algorithm 1), with PyTorch's formulas.

    With ``g = grad + weight_decay · p``, ``m = β₁ m + (1 - β₁) g``, ``v = β₂ v + (1 - β₂) g²``:
    ``p -= lr / (1 - β₁ᵗ) · m / (√(v / (1 - β₂ᵗ)) + eps)`` at step t of this parameter.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What ``net.parameters()`` returns; or groups, each a dictionary with "params" and the
        settings that are its own.
    lr : float or callable, default 1e-3
        Learning rate; a callable gets the number of steps made. The attribute may be changed
        between steps.
    betas : pair of float, default (0.9, 0.999)
        β₁ and β₂, in [0, 1).
    eps : float, default 1e-8
    weight_decay : float or callable, default 0
        Factor of the L2 penalty's gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    Examples
    --------
    >>> weight = Parameter([1.0, 1.0])
    >>> adam = Adam([weight], lr=0.1)
    >>> weight.grad = [100.0, -0.01]
    >>> adam.step()
    >>> weight.data.round(6)
    array([0.9, 1.1])
    """

    settings = ("lr", "betas", "eps", "weight_decay")
    scheduled = ("lr", "weight_decay")
    buffers = ("exp_avg", "exp_avg_sq")
    fixed: ClassVar[Mapping[str, Any]] = {"decoupled_weight_decay": False}
    counts_steps = True
    decoupled: ClassVar[bool] = False
    lr, betas, eps, weight_decay = Setting(), Setting(), Setting(), Setting()

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: Scheduled = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def checked(self, group: Mapping[str, Any]) -> Group:
        """Return the group with its settings as step takes them, or raise what is wrong."""
        group = super().checked(group)
        group["eps"] = number("eps", group["eps"])
        first, second = group["betas"]
        for index, beta in enumerate((first, second)):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        group["betas"] = (float(first), float(second))
        return group

    def move(self, group: Group, state: GroupState, *now: float) -> None:
        """Do a step of one group."""
        lr, weight_decay = now
        beta1, beta2 = group["betas"]
        grads, steps, eps = state.gradients(), state.steps, group["eps"]
        state.sweep().adam_step(grads, steps, lr, beta1, beta2, eps, weight_decay, self.decoupled)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2).

    ``p -= lr · weight_decay · p`` instead of a gradient of the penalty; PyTorch's formulas.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What ``net.parameters()`` returns; or groups, each a dictionary with "params" and the
        settings that are its own.
    lr : float or callable, default 1e-3
        Learning rate; a callable gets the number of steps made. The attribute may be changed
        between steps.
    betas : pair of float, default (0.9, 0.999)
        β₁ and β₂, in [0, 1).
    eps : float, default 1e-8
    weight_decay : float or callable, default 1e-2

    Examples
    --------
    >>> weight = Parameter([1.0])
    >>> adamw = AdamW([weight], lr=0.1, weight_decay=0.5)
    >>> weight.grad = [0.0]
    >>> adamw.step()
    >>> weight.data
    array([0.95])
    """

    fixed: ClassVar[Mapping[str, Any]] = {"decoupled_weight_decay": True}
    decoupled = True

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: Scheduled = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

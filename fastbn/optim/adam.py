"""Adam and AdamW: steps scaled by running means of the gradient and of its square."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from fastbn.nn import Parameter
from fastbn.optim.optimizer import Optimizer, check


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, Algorithm 1), with PyTorch's formulas.

    With ``g = grad + weight_decay · p``, ``m = β₁ m + (1 - β₁) g``, ``v = β₂ v + (1 - β₂) g²``:
    ``p -= lr / (1 - β₁ᵗ) · m / (√(v / (1 - β₂ᵗ)) + eps)`` at step t of this parameter.

    Parameters
    ----------
    params : iterable of Parameter
        What ``net.parameters()`` returns.
    lr : float, default 1e-3
        Learning rate; the attribute may be changed between steps.
    betas : pair of float, default (0.9, 0.999)
        β₁ and β₂, in [0, 1).
    eps : float, default 1e-8
    weight_decay : float, default 0
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
    counts_steps = True
    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.lr = check("learning rate", lr, lr >= 0.0)
        self.eps = check("epsilon value", eps, eps >= 0.0)
        for index, beta in enumerate(betas):
            check(f"beta parameter at index {index}", beta, 0.0 <= beta < 1.0)
        self.betas = (betas[0], betas[1])
        self.weight_decay = check("weight_decay value", weight_decay, weight_decay >= 0.0)
        super().__init__(params, ("exp_avg", "exp_avg_sq"))

    def step(self) -> None:
        """Move the parameters by their gradients, in place.

        One without a gradient, or whose ``grad`` was set to None, is passed over.
        """
        gradients = self._gradients()
        self._sweep.adam_step(
            gradients,
            self._steps,
            self.lr,
            *self.betas,
            self.eps,
            self.weight_decay,
            self.decoupled,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2).

    ``p -= lr · weight_decay · p`` instead of a gradient of the penalty; PyTorch's formulas.

    Parameters
    ----------
    params : iterable of Parameter
        What ``net.parameters()`` returns.
    lr : float, default 1e-3
        Learning rate; the attribute may be changed between steps.
    betas : pair of float, default (0.9, 0.999)
        β₁ and β₂, in [0, 1).
    eps : float, default 1e-8
    weight_decay : float, default 1e-2

    Examples
    --------
    >>> weight = Parameter([1.0])
    >>> adamw = AdamW([weight], lr=0.1, weight_decay=0.5)
    >>> weight.grad = [0.0]
    >>> adamw.step()
    >>> weight.data
    array([0.95])
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

"""SGD: stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

from fastbn.nn import Parameter
from fastbn.optim.optimizer import Optimizer, check


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum, Nesterov's momentum and weight decay.

    With ``g = grad + weight_decay · p`` and ``b = momentum · b + g``: ``p -= lr · b``, or with
    Nesterov ``p -= lr · (g + momentum · b)`` (Sutskever et al. 2013, as PyTorch writes it).

    Parameters
    ----------
    params : iterable of Parameter
        What ``net.parameters()`` returns.
    lr : float, default 1e-3
        Learning rate; the attribute may be changed between steps.
    momentum : float, default 0
    weight_decay : float, default 0
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
    """

    settings = ("lr", "momentum", "weight_decay", "nesterov")

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.lr = check("learning rate", lr, lr >= 0.0)
        self.momentum = check("momentum value", momentum, momentum >= 0.0)
        self.weight_decay = check("weight_decay value", weight_decay, weight_decay >= 0.0)
        if nesterov and momentum == 0.0:
            raise ValueError("Nesterov momentum requires a momentum")
        self.nesterov = nesterov
        super().__init__(params, ("momentum_buffer",) if momentum else ())

    def step(self) -> None:
        """Move the parameters by their gradients, in place.

        One without a gradient, or whose ``grad`` was set to None, is passed over.
        """
        self._sweep.sgd_step(
            self._gradients(), self.lr, self.momentum, self.weight_decay, self.nesterov
        )

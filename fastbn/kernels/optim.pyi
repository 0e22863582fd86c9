from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Sweep:
    """The values and states of many parameters, which one call updates together.

    Built once for the parameters of an optimizer, and again when an array of values or of state
    is replaced by another (`holds` tells).

    Parameters
    ----------
    data : sequence of array
        The values: float32 or float64, writeable and dense, the axes in any order of memory (as
        a transposed view of contiguous storage is).
    *states : sequence of array
        As many arrays as `data` each, of the same shapes, dtypes and strides: the momentum
        buffers for `sgd_step` with momentum, first and second moments for `adam_step`.
        All zeros before the first step.

    Raises
    ------
    TypeError, ValueError
        If an array does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.kernels.optim import Sweep
    >>> weight, bias = np.ones((2, 3)).T, np.ones(2)
    >>> sweep = Sweep([weight, bias], [np.zeros_like(weight), np.zeros_like(bias)])
    >>> sweep.sgd_step([np.full_like(weight, 2.0), None], lr=0.25, momentum=0.9)
    >>> weight.tolist(), bias.tolist()  # no gradient: passed over
    ([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], [1.0, 1.0])
    """

    @property
    def data(self) -> tuple[NDArray[Any], ...]: ...
    @property
    def states(self) -> tuple[tuple[NDArray[Any], ...], ...]: ...
    def __init__(
        self, data: Sequence[NDArray[Any]], *states: Sequence[NDArray[Any]]
    ) -> None: ...
    def holds(self, data: Sequence[NDArray[Any]]) -> bool:
        """Tell whether these very arrays are the ones that steps update."""

    def sgd_step(
        self,
        grads: Sequence[NDArray[Any] | None],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        """Update in place: PyTorch's SGD without dampening.

        ``g += weight_decay * p``; ``b = momentum * b + g``; ``g = g + momentum * b`` (Nesterov)
        or ``b``; ``p -= lr * g``.

        Parameters
        ----------
        grads : sequence of array or None
            The gradients, strides as of `data`. None leaves parameter and state as they are.
        lr, momentum, weight_decay : float
            Momentum needs one sequence of states.
        nesterov : bool
            Look ahead (Sutskever et al. 2013, as PyTorch writes it).

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit; nothing was changed then.
        """

    def adam_step(
        self,
        grads: Sequence[NDArray[Any] | None],
        steps: NDArray[np.int64],
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        """Update in place: Adam (Kingma & Ba 2015, Algorithm 1), or AdamW with `decoupled`.

        ``g += weight_decay * p`` (or, decoupled, ``p *= 1 - lr * weight_decay``, Loshchilov &
        Hutter 2019); ``m += (1 - beta1) * (g - m)``; ``v = beta2 * v + (1 - beta2) * g²``;
        ``p -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)``.

        Parameters
        ----------
        grads : sequence of array or None
            As in `sgd_step`.
        steps : int64 array of shape (len(data),)
            The steps t that each parameter has made; raised by one where there is a gradient.
        lr, beta1, beta2, eps, weight_decay : float
            As in PyTorch.
        decoupled : bool
            AdamW's weight decay.

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit; nothing was changed then.
        """

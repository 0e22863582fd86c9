"""Activations with more to them than one comparison: ELU to Mish, element by element.

All keep x for their backward: `out` must not be x. Their arguments are those of
:func:`fastbn.functional.relu`, and what the layer of `fastbn.nn` of that name has.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from numpy.typing import NDArray

from fastbn.kernels import activation as _kernels
from fastbn.kernels.activation import ActivationSaved

Array = NDArray[Any]
Approximate = Literal["none", "tanh"]


def elu(x: Array, alpha: float = 1.0, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    """Return x where x > 0, else ``alpha (exp(x) - 1)``.

    Clevert et al. (2016), Eq. 16.

    Examples
    --------
    >>> import numpy as np
    >>> elu(np.array([-1.0, 2.0]))[0].round(4)
    array([-0.6321,  2.    ])
    """
    return _kernels.smooth(x, "elu", alpha, out)


def elu_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return dy where x > 0, else ``dy alpha exp(x)``.

    Examples
    --------
    >>> import numpy as np
    >>> elu_backward(np.array([1.0, 1.0]), elu(np.array([-1.0, 2.0]))[1]).round(4)
    array([0.3679, 1.    ])
    """
    return _kernels.smooth_backward(dy, saved, "elu", out)


def selu(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    """Return :func:`elu` with alpha 1.6733, times 1.0507.

    Klambauer et al. (2017), Eq. 2: keeps mean 0 and variance 1.

    Examples
    --------
    >>> import numpy as np
    >>> selu(np.array([-1.0, 2.0]))[0].round(4)
    array([-1.1113,  2.1014])
    """
    return _kernels.smooth(x, "selu", 0.0, out)


def selu_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return ``dy`` times the derivative at x.

    Examples
    --------
    >>> import numpy as np
    >>> selu_backward(np.array([1.0, 1.0]), selu(np.array([-1.0, 2.0]))[1]).round(4)
    array([0.6468, 1.0507])
    """
    return _kernels.smooth_backward(dy, saved, "selu", out)


def silu(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    """Return x σ(x), also called swish.

    Elfwing et al. (2018), Eq. 2.

    Examples
    --------
    >>> import numpy as np
    >>> silu(np.array([-1.0, 2.0]))[0].round(4)
    array([-0.2689,  1.7616])
    """
    return _kernels.smooth(x, "silu", 0.0, out)


def silu_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return ``dy σ (1 + x (1 - σ))``.

    Examples
    --------
    >>> import numpy as np
    >>> silu_backward(np.array([1.0, 1.0]), silu(np.array([-1.0, 2.0]))[1]).round(4)
    array([0.0723, 1.0908])
    """
    return _kernels.smooth_backward(dy, saved, "silu", out)


def gelu(
    x: Array, approximate: Approximate = "none", *, out: Array | None = None
) -> tuple[Array, ActivationSaved]:
    """Return x Φ(x), where Φ is the normal distribution's integral.

    Hendrycks & Gimpel (2016), Section 2. ``approximate="tanh"`` is their
    ``x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2``, as in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> gelu(np.array([-1.0, 2.0]))[0].round(4), gelu(np.array([-1.0, 2.0]), "tanh")[0].round(4)
    (array([-0.1587,  1.9545]), array([-0.1588,  1.9546]))
    """
    if approximate not in {"none", "tanh"}:
        raise ValueError(f"approximate should be 'none' or 'tanh', but got {approximate!r}")
    return _kernels.smooth(x, "gelu" if approximate == "none" else "gelu_tanh", 0.0, out)


def gelu_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return ``dy (Φ(x) + x Φ'(x))``, or dy times the derivative of the form with tanh.

    Examples
    --------
    >>> import numpy as np
    >>> gelu_backward(np.array([1.0, 1.0]), gelu(np.array([-1.0, 2.0]))[1]).round(4)
    array([-0.0833,  1.0852])
    """
    return _kernels.gelu_backward(dy, saved, out)


def hardsigmoid(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    """Return ``min(max(x + 3, 0), 6) / 6``.

    Howard et al. (2019), Section 5.2.

    Examples
    --------
    >>> import numpy as np
    >>> hardsigmoid(np.array([-4.0, 0.0, 1.5]))[0]
    array([0.  , 0.5 , 0.75])
    """
    return _kernels.smooth(x, "hardsigmoid", 0.0, out)


def hardsigmoid_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return ``dy / 6`` where |x| < 3, else 0.

    Examples
    --------
    >>> import numpy as np
    >>> hardsigmoid_backward(np.array([1.0, 1.0]), hardsigmoid(np.array([-4.0, 2.0]))[1]).round(4)
    array([0.    , 0.1667])
    """
    return _kernels.smooth_backward(dy, saved, "hardsigmoid", out)


def hardswish(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    """Return ``x min(max(x + 3, 0), 6) / 6``.

    Howard et al. (2019), Section 5.2.

    Examples
    --------
    >>> import numpy as np
    >>> hardswish(np.array([-4.0, 1.5, 4.0]))[0]
    array([-0.   ,  1.125,  4.   ])
    """
    return _kernels.smooth(x, "hardswish", 0.0, out)


def hardswish_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return 0 up to x = -3, dy from 3 on, ``dy (2 x + 3) / 6`` between.

    Examples
    --------
    >>> import numpy as np
    >>> hardswish_backward(np.array([1.0, 1.0]), hardswish(np.array([-1.0, 2.0]))[1]).round(4)
    array([0.1667, 1.1667])
    """
    return _kernels.smooth_backward(dy, saved, "hardswish", out)


def relu6(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    """Return ``min(max(x, 0), 6)``.

    Krizhevsky (2010).

    Examples
    --------
    >>> import numpy as np
    >>> relu6(np.array([-4.0, 1.5, 8.0]))[0]
    array([0. , 1.5, 6. ])
    """
    return _kernels.smooth(x, "relu6", 0.0, out)


def relu6_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return dy where 0 < x < 6, else 0.

    Examples
    --------
    >>> import numpy as np
    >>> relu6_backward(np.array([1.0, 1.0, 1.0]), relu6(np.array([-1.0, 2.0, 7.0]))[1])
    array([0., 1., 0.])
    """
    return _kernels.smooth_backward(dy, saved, "relu6", out)


def softplus(
    x: Array, beta: float = 1.0, *, out: Array | None = None
) -> tuple[Array, ActivationSaved]:
    """Return ``log(1 + exp(beta x)) / beta``, exactly for every x.

    `beta` is positive. PyTorch returns x itself from ``beta x = 20`` on.

    Examples
    --------
    >>> import numpy as np
    >>> softplus(np.array([-800.0, 0.0, 800.0]))[0].round(4).tolist()
    [0.0, 0.6931, 800.0]
    """
    if not 0.0 < beta < math.inf:
        raise ValueError(f"beta should be finite and > 0, but got {beta}")
    return _kernels.smooth(x, "softplus", beta, out)


def softplus_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return ``dy σ(beta x)``.

    Examples
    --------
    >>> import numpy as np
    >>> softplus_backward(np.array([1.0, 1.0]), softplus(np.array([-1.0, 2.0]))[1]).round(4)
    array([0.2689, 0.8808])
    """
    return _kernels.smooth_backward(dy, saved, "softplus", out)


def mish(x: Array, *, out: Array | None = None) -> tuple[Array, ActivationSaved]:
    """Return ``x tanh(log(1 + exp(x)))``.

    Misra (2020), Eq. 1.

    Examples
    --------
    >>> import numpy as np
    >>> mish(np.array([-1.0, 2.0]))[0].round(4)
    array([-0.3034,  1.944 ])
    """
    return _kernels.smooth(x, "mish", 0.0, out)


def mish_backward(dy: Array, saved: ActivationSaved, *, out: Array | None = None) -> Array:
    """Return ``dy`` times the derivative at x.

    Examples
    --------
    >>> import numpy as np
    >>> mish_backward(np.array([1.0, 1.0]), mish(np.array([-1.0, 2.0]))[1]).round(4)
    array([0.0592, 1.0693])
    """
    return _kernels.smooth_backward(dy, saved, "mish", out)

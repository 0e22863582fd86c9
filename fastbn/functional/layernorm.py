"""Layer normalisation and root-mean-square normalisation: every sample by itself."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn.kernels import layernorm as _kernels
from fastbn.kernels.layernorm import LayerNormSaved

Array = NDArray[Any]


def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    normalized_shape: int | tuple[int, ...],
    eps: float = 1e-5,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Array | None = None,
    total: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, LayerNormSaved]:
    r"""Normalise every sample to mean 0 and variance 1 over its last axes, scale, shift, activate.

    .. math:: y = act\left(\frac{h - \mu}{\sqrt{\sigma^2 + \epsilon}}\,\gamma + \beta\right),
              \quad h = x + r

    with the mean and the biased variance of the sample itself (Ba, Kiros & Hinton 2016,
    equation 4): training and inference are the same. With a residual r the sum h is kept as
    `total`, for the rest of a Transformer block.

    Parameters
    ----------
    x : array
        Shape (..., *normalized_shape); float32, float64 or bfloat16.
    weight, bias : array or None
        γ and β, shape `normalized_shape`, of x's dtype (float32 for bfloat16). None is 1 and 0.
    normalized_shape : int or tuple of int
        The last axes of x.
    activation : {None, "relu", "leaky_relu", "silu", "gelu", "gelu_tanh", ...}
        What follows; `negative_slope` is leaky ReLU's. The names are those of :func:`batch_norm`.
    residual : array or None
        Added to x first, in the same pass; shape and dtype of x.
    total : array or None
        Where x + residual goes; may be x or `residual`. A new array where None: ``saved.x``.
    out : array or None
        Where y goes; it must not share memory with x or the sum, which backward needs.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : LayerNormSaved
        For :func:`layer_norm_backward`. It refers to x, `weight` and `bias` and does not copy them;
        with a residual its x is the sum.

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = layer_norm(np.array([[1.0, 3.0], [10.0, 30.0]]), normalized_shape=(2,), eps=0.0)
    >>> y
    array([[-1.,  1.],
           [-1.,  1.]])

    A branch's result is added to what went around it, and the sum normalised for the next branch:

    >>> x, branch = np.array([[1.0, 3.0]]), np.array([[2.0, 4.0]])
    >>> y, saved = layer_norm(x, normalized_shape=(2,), eps=0.0, residual=branch, total=x)
    >>> x, y
    (array([[3., 7.]]), array([[-1.,  1.]]))
    """
    return _kernels.forward(
        x, weight, bias, normalized_shape, eps, False, activation, negative_slope, residual, total,
        out,
    )  # fmt: skip


def layer_norm_backward(
    dy: Array,
    saved: LayerNormSaved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
    out: Array | None = None,
    dweight: Array | None = None,
    dbias: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Gradients of :func:`layer_norm`.

    With :math:`d` the gradient of the activation's input, :math:`g = \gamma\,d`, and means over a
    sample's last axes:

    .. math::
        dx = \frac{g - \overline{g} - \hat x\,\overline{g\,\hat x}}{\sqrt{\sigma^2 + \epsilon}},
        \quad d\gamma = \sum d\,\hat x, \quad d\beta = \sum d

    Where there was a residual, dx is its gradient, too: that of the sum by this use of it.

    Parameters
    ----------
    dy : array
        Shape and dtype of x.
    saved : LayerNormSaved
        What :func:`layer_norm` returned.
    need_dx, need_dweight, need_dbias : bool
        What is not needed is not computed, and None is returned for it.
    out, dweight, dbias : array or None
        Where dx and the others go; new arrays where None. `out` may be dy.

    Returns
    -------
    dx, dweight, dbias : array or None
        None also where forward had no weight or bias.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = layer_norm(np.array([[1.0, 2.0, 6.0]]), normalized_shape=(3,))
    >>> layer_norm_backward(np.array([[1.0, 0.0, 0.0]]), saved)[0].round(3)
    array([[ 0.176, -0.22 ,  0.044]])
    """
    if not isinstance(saved, LayerNormSaved) or saved.rms:
        raise TypeError("saved is not what layer_norm returned")
    return _kernels.backward(dy, saved, need_dx, need_dweight, need_dbias, out, dweight, dbias)


def rms_norm(
    x: Array,
    weight: Array | None = None,
    *,
    normalized_shape: int | tuple[int, ...],
    eps: float | None = None,
    activation: str | None = None,
    negative_slope: float = 0.01,
    residual: Array | None = None,
    total: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, LayerNormSaved]:
    r"""Divide every sample by the root of its mean square over its last axes, scale and activate.

    .. math:: y = act\left(\frac{h}{\sqrt{\overline{h^2} + \epsilon}}\,\gamma\right),
              \quad h = x + r

    Zhang & Sennrich 2019, equation 4. Parameters, results and errors are those of
    :func:`layer_norm`; `eps` None is the spacing of x's dtype at 1, as in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> rms_norm(np.array([[1.0, 7.0]]), normalized_shape=(2,), eps=0.0)[0]
    array([[0.2, 1.4]])
    """
    return _kernels.forward(
        x, weight, None, normalized_shape, eps, True, activation, negative_slope, residual, total,
        out,
    )  # fmt: skip


def rms_norm_backward(
    dy: Array,
    saved: LayerNormSaved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    out: Array | None = None,
    dweight: Array | None = None,
) -> tuple[Array | None, Array | None]:
    r"""Gradients of :func:`rms_norm`: dx and dweight.

    As of :func:`layer_norm_backward`, without :math:`\overline{g}`.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = rms_norm(np.array([[3.0, 4.0]]), np.ones(2), normalized_shape=(2,))
    >>> dx, dweight = rms_norm_backward(np.array([[1.0, 0.0]]), saved)
    >>> dx.round(3), dweight.round(3)
    (array([[ 0.181, -0.136]]), array([0.849, 0.   ]))
    """
    if not isinstance(saved, LayerNormSaved) or not saved.rms:
        raise TypeError("saved is not what rms_norm returned")
    return _kernels.backward(dy, saved, need_dx, need_dweight, False, out, dweight, None)[:2]

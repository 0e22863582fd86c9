from typing import Any

from numpy.typing import NDArray

class ActivationSaved:
    values: NDArray[Any]
    negative_slope: float

class PreluSaved:
    x: NDArray[Any]
    weight: NDArray[Any]

def relu(x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], ActivationSaved]: ...
def relu_backward(
    dy: NDArray[Any], saved: ActivationSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def leaky_relu(
    x: NDArray[Any], negative_slope: float, out: NDArray[Any] | None
) -> tuple[NDArray[Any], ActivationSaved]: ...
def leaky_relu_backward(
    dy: NDArray[Any], saved: ActivationSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def sigmoid(x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], ActivationSaved]: ...
def sigmoid_backward(
    dy: NDArray[Any], saved: ActivationSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def tanh(x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], ActivationSaved]: ...
def tanh_backward(
    dy: NDArray[Any], saved: ActivationSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def softmax(x: NDArray[Any], out: NDArray[Any] | None) -> tuple[NDArray[Any], ActivationSaved]: ...
def softmax_backward(
    dy: NDArray[Any], saved: ActivationSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def smooth(
    x: NDArray[Any], name: str, parameter: float, out: NDArray[Any] | None
) -> tuple[NDArray[Any], ActivationSaved]: ...
def smooth_backward(
    dy: NDArray[Any], saved: ActivationSaved, name: str, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def gelu_backward(
    dy: NDArray[Any], saved: ActivationSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def prelu(
    x: NDArray[Any], weight: NDArray[Any], out: NDArray[Any] | None
) -> tuple[NDArray[Any], PreluSaved]: ...
def prelu_backward(
    dy: NDArray[Any],
    saved: PreluSaved,
    out: NDArray[Any] | None,
    dweight: NDArray[Any] | None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...

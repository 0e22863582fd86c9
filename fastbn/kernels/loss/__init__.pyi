from typing import Any

from numpy.typing import NDArray

class CrossEntropySaved:
    logits: NDArray[Any]

class MSESaved:
    pred: NDArray[Any]
    target: NDArray[Any]

def cross_entropy(
    logits: NDArray[Any], labels: NDArray[Any]
) -> tuple[float, CrossEntropySaved]: ...
def cross_entropy_backward(
    dloss: float, saved: CrossEntropySaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def mse_loss(pred: NDArray[Any], target: NDArray[Any]) -> tuple[float, MSESaved]: ...
def mse_loss_backward(dloss: float, saved: MSESaved, out: NDArray[Any] | None) -> NDArray[Any]: ...

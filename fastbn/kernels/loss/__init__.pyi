from typing import Any

from numpy.typing import ArrayLike, NDArray

class CrossEntropySaved:
    logits: NDArray[Any]
    probabilities: NDArray[Any] | None
    weight: NDArray[Any] | None

class PairsSaved:
    pred: NDArray[Any]
    target: NDArray[Any]
    sample_weight: NDArray[Any] | None

def cross_entropy(
    logits: NDArray[Any],
    labels: NDArray[Any],
    weight: NDArray[Any] | None,
    label_smoothing: float,
    ignore_index: int,
    sample_weight: ArrayLike | None,
    mean: bool,
) -> tuple[float, CrossEntropySaved]: ...
def cross_entropy_backward(
    dloss: float, saved: CrossEntropySaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def mse_loss(
    pred: NDArray[Any], target: NDArray[Any], sample_weight: ArrayLike | None, mean: bool
) -> tuple[float, PairsSaved]: ...
def mse_loss_backward(
    dloss: float, saved: PairsSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def l1_loss(
    pred: NDArray[Any], target: NDArray[Any], sample_weight: ArrayLike | None, mean: bool
) -> tuple[float, PairsSaved]: ...
def l1_loss_backward(dloss: float, saved: PairsSaved, out: NDArray[Any] | None) -> NDArray[Any]: ...
def huber_loss(
    pred: NDArray[Any],
    target: NDArray[Any],
    delta: float,
    sample_weight: ArrayLike | None,
    mean: bool,
) -> tuple[float, PairsSaved]: ...
def huber_loss_backward(
    dloss: float, saved: PairsSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...
def binary_cross_entropy_with_logits(
    pred: NDArray[Any], target: NDArray[Any], sample_weight: ArrayLike | None, mean: bool
) -> tuple[float, PairsSaved]: ...
def binary_cross_entropy_with_logits_backward(
    dloss: float, saved: PairsSaved, out: NDArray[Any] | None
) -> NDArray[Any]: ...

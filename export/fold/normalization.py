"""Reading an inference BatchNormalization, and letting one take in another affine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Array, Refused, fits, from_batch_norm
from fastbn.export.fold.moves import backward_rule, forward_rule, only_input
from fastbn.export.fold.plan import Plan, attribute, label

PARAMETERS = ("scale", "bias", "mean", "var")
OLDEST_OPSET = 7
# ONNX attributes are float32, defaults too.
DEFAULT_EPSILON = float(np.float32(1e-5))
# Of float64, after a handful of operations.
LEFT_BY_ROUNDING = 1e-14


def is_batch_norm(node: ir.Node) -> bool:
    """Whether a node is a BatchNormalization of the default domain."""
    return node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx")


def read_batch_norm(plan: Plan, node: ir.Node) -> tuple[Array, Array]:
    """Scale and shift vectors (C,) of an inference BatchNorm.

    Raises
    ------
    Refused
        In training mode, with parameters that are not constant, or values that are not usable.
    """
    if node in plan.norms:
        return plan.norms[node]
    if node not in plan.context.read:
        plan.context.read[node] = _read(plan, node)
    return plan.context.read[node]


def _read(plan: Plan, node: ir.Node) -> tuple[Array, Array]:
    opset = plan.context.opset
    if opset < OLDEST_OPSET:
        raise Refused(f"opset {opset} is older than {OLDEST_OPSET}")
    if attribute(node, "training_mode", 0):
        raise Refused("it is in training mode")
    if opset < 14 and len(node.outputs) > 1:
        raise Refused("it is in training mode: it lists more than one output")
    if opset < 9 and attribute(node, "spatial", 1) == 0:
        raise Refused("its statistics are per place (spatial=0)")
    values = []
    for index, name in enumerate(PARAMETERS, start=1):
        value = plan.context.constants.floats(node.inputs[index])
        if value is None:
            value = plan.context.constants.dequantised(node.inputs[index])
        if value is None:
            raise Refused(f"its {name} is not constant")
        if value.ndim != 1:
            raise Refused(f"its {name} is not a vector")
        values.append(value)
    if len({v.size for v in values}) != 1:
        raise Refused("its parameters have different lengths")
    gamma, beta, mean, var = values
    epsilon = float(attribute(node, "epsilon", DEFAULT_EPSILON))
    return from_batch_norm(gamma, beta, mean, var, epsilon)


def rank_of(plan: Plan, node: ir.Node) -> int:
    """Rank of what a BatchNorm normalises."""
    for value in (node.inputs[0], node.outputs[0]):
        dims = plan.context.dims(value)
        if dims is not None:
            return max(len(dims), 2)
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if producer is not None and producer.op_type in ("Conv", "ConvTranspose"):
        weight = plan.constant(producer, 1)
        if weight is not None:
            return weight.ndim
    if producer is not None and producer.op_type == "Gemm":
        return 2
    raise Refused("the rank of its input is not known")


def affine_of(plan: Plan, node: ir.Node) -> Affine:
    """Affine of an inference BatchNorm at the rank of its input."""
    scale, shift = read_batch_norm(plan, node)
    return Affine.along(scale, shift, axis=1, rank=rank_of(plan, node))


def store_affine(plan: Plan, node: ir.Node, scale: Array, shift: Array) -> None:
    """Plan that a BatchNorm does scale · x + shift from now on."""
    dtype = plan.dtype(node, 1)
    for values in (scale, shift):
        fits(values, dtype, f"a parameter of {label(node)}")
    plan.norms[node] = (scale, shift)
    plan.taken(node)


@backward_rule("BatchNormalization")
def norm_back(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """s·(a·x + b) + t = (s·a)·x + (s·b + t)."""
    a, b = read_batch_norm(plan, node)
    scale, shift = affine.vector(1, a.size)
    store_affine(plan, node, scale * a, scale * b + shift)


@forward_rule("BatchNormalization")
def norm_forth(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """a·(s·x + t) + b = (a·s)·x + (a·t + b)."""
    only_input(node, indices)
    a, b = read_batch_norm(plan, node)
    scale, shift = affine.vector(1, a.size)
    after, constant = a * scale, a * shift + b
    # Where this undoes what another took in, rounding must not leave a BatchNorm that does nothing.
    after = np.where(np.abs(after - 1.0) < LEFT_BY_ROUNDING, 1.0, after)
    terms = np.abs(a * shift) + np.abs(b)
    constant = np.where(np.abs(constant) < LEFT_BY_ROUNDING * terms, 0.0, constant)
    store_affine(plan, node, after, constant)


def stored_parameters(
    scale: Array, shift: Array, epsilon: float
) -> tuple[Array, Array, Array, Array]:
    """Parameters (γ, β, μ, σ²) of a BatchNorm that does scale · x + shift with the given ε."""
    ones = np.ones_like(scale)
    return scale * np.sqrt(1.0 + epsilon), shift.copy(), np.zeros_like(scale), ones

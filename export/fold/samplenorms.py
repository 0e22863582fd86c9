"""Norms of single samples: their weight and bias go into what is linear after them.

    W (γ·x̂ + β) + b = (W·γ) x̂ + (b + W β)

What cannot take the whole of it (a padded convolution a β, an addition of something else) refuses,
and the norm stays as it is. GroupNormalization of older opsets is an InstanceNormalization of the
groups between two Reshapes, and γ and β are a Mul and an Add after it: these are removed.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import MALFORMED, Affine, Refused
from fastbn.export.fold.chains import affines_behind, only_consumer
from fastbn.export.fold.cleanup import bypass, graphs_of
from fastbn.export.fold.commit import commit
from fastbn.export.fold.context import Context
from fastbn.export.fold.moves import push_forward
from fastbn.export.fold.normalization import is_batch_norm
from fastbn.export.fold.plan import Plan, label

OF_LAST_AXES = ("LayerNormalization", "RMSNormalization")
OF_CHANNELS = ("InstanceNormalization", "GroupNormalization")
WEIGHT, BIAS = 1, 2


def fold_sample_norms(model: ir.Model, context: Context) -> dict[ir.Node, list[str]]:
    """Fold what can be; return the norms whose weight and bias went on, and into which nodes."""
    folded = {}
    for graph in graphs_of(model):
        for node in list(graph):
            known = node.op_type in (*OF_LAST_AXES, *OF_CHANNELS)
            if known and node.domain in ("", "ai.onnx"):
                try:
                    into = _fold(context, node)
                except (Refused, RecursionError, *MALFORMED):
                    continue
                if into:
                    folded[node] = into
    return folded


def _fold(context: Context, node: ir.Node) -> list[str]:
    plan = Plan(context)
    own = _own_affine(plan, node)
    last = _ungrouped(node) if own.is_identity else node
    rank = own.rank if last is node else len(context.need_dims(last.outputs[0]))
    behind, more = affines_behind(plan, last, rank)
    if any(is_batch_norm(member) for member in behind):
        raise Refused("a BatchNormalization is behind it")
    affine = own.then(more) if last is node else more
    if affine.is_identity:
        return []
    values = [last.outputs[0], *(member.outputs[0] for member in behind)]
    with plan.rewriting(node, *behind):
        push_forward(plan, values[-1], affine)
    if own.scales:
        weight = plan.constant(node, WEIGHT)
        assert weight is not None
        plan.set_constant(node, WEIGHT, np.ones_like(weight))
    drops_bias = own.shifts and node.op_type in OF_LAST_AXES
    if own.shifts and not drops_bias:
        bias = plan.constant(node, BIAS)
        assert bias is not None
        plan.set_constant(node, BIAS, np.zeros_like(bias))
    commit(plan)
    if drops_bias:
        node.resize_inputs(BIAS)
    for member, value in zip(reversed(behind), reversed(values[:-1]), strict=True):
        bypass(member, value)
    return list(plan.into)


def _own_affine(plan: Plan, node: ir.Node) -> Affine:
    """Weight and bias of a norm, at its rank."""
    dims = plan.context.need_dims(node.inputs[0])  # ONNX infers no shape after a GroupNormalization
    weight = plan.constant(node, WEIGHT)
    if weight is None:
        raise Refused(f"the weight of {label(node)} is not constant")
    bias = plan.constant(node, BIAS) if plan.has_input(node, BIAS) else np.zeros_like(weight)
    if bias is None:
        raise Refused(f"the bias of {label(node)} is not constant")
    if node.op_type in OF_LAST_AXES:
        lead = (1,) * (len(dims) - weight.ndim)
        return Affine.of(weight.reshape(lead + weight.shape), bias.reshape(lead + bias.shape))
    if weight.ndim != 1 or (dims[1] != weight.size and weight.size != 1):
        raise Refused(f"the weight of {label(node)} is not one of channels")  # opset 18: of groups
    return Affine.along(weight, bias, axis=1, rank=len(dims))


def _ungrouped(node: ir.Node) -> ir.Node:
    """Return the Reshape after an InstanceNormalization of groups, else the node itself."""
    use = only_consumer(node.outputs[0])
    if node.op_type != "InstanceNormalization" or use is None or use[0].op_type != "Reshape":
        return node
    return use[0]

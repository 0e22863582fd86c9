"""What a plan costs at run time.

Folding into weights is free. Turning a Relu into Max or Min is not always. onnxruntime's CPU
provider fuses a Relu into the convolution or product in front of it, and keeps images in a layout
of blocked channels, in which a BatchNorm with the Relu after it is one pass; Max and Min do not
know that layout, so that the image is rearranged for them. The times below are estimates for one
thread, fitted to graphs of 256 to 200,000 numbers; only their ratios matter.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Refused
from fastbn.export.fold.chains import Chain
from fastbn.export.fold.context import Context
from fastbn.export.fold.plan import Bounds, Plan

# The runtime runs these together with a Relu or Clip right after them.
_FUSES = ("Conv", "Gemm", "ConvTranspose")
# These stay in the layout of blocked channels if all they read is in it.
_KEEPS_BLOCKS = (
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "Concat",
    "MaxPool",
    "Relu",
    "Sum",
)
_DEPTH = 50
READ_AND_WRITE = 2

# Nanoseconds of a node: for being there, for a number, and for a channel of an image.
TIMES = {
    "BatchNormalization": (850.0, 0.12, 6.0),
    "Relu": (800.0, 0.115, 0.0),
    "Max": (1300.0, 0.16, 14.0),
    "reorder": (800.0, 0.12, 0.0),
}
# In a row of features every number is a channel.
ROW_TIMES = {
    "BatchNormalization": (900.0, 2.2, 0.0),
    "Relu": (800.0, 0.8, 0.0),
    "Max": (850.0, 0.6, 0.0),
    "reorder": (800.0, 0.12, 0.0),
}
# What an open dimension counts as.
OPEN = 28


def require_no_cost(plan: Plan, chain: Chain) -> None:
    """Refuse a plan whose new bounds take more time than the chain it removes."""
    if not plan.bounds:
        return
    spared = _chain_time(plan, chain)
    added = sum(_added(plan.context, node, b, chain) for node, b in plan.bounds.items())
    if added > max(spared, 0.0):
        raise Refused(
            "Max or Min in place of a Relu would take more time than it does (allow_slower folds)"
        )


def _time(context: Context, operator: str, value: ir.Value) -> float:
    """Estimate one node on a value of one sample."""
    dims = [d if isinstance(d, int) else OPEN for d in context.need_dims(value)[1:]]
    per_node, per_number, per_channel = (TIMES if len(dims) > 1 else ROW_TIMES)[operator]
    return per_node + per_number * math.prod(dims) + per_channel * (dims[0] if dims else 1)


def _chain_time(plan: Plan, chain: Chain) -> float:
    """Estimate what the end of the chain spares."""
    context, value = plan.context, chain.source
    total = 0.0
    for node in chain.nodes:
        norm = node.op_type == "BatchNormalization"
        total += _time(context, "BatchNormalization" if norm else "Max", value)
    if _is_one_pass(context, chain):
        # The Relu after it was done in the same pass, and takes one of its own if it stays.
        total -= _time(context, "Relu", value)
    return total


def _is_one_pass(context: Context, chain: Chain) -> bool:
    """Whether the chain is a BatchNorm that the runtime does together with the Relu after it."""
    readers = [use.node.op_type for use in chain.result.uses()]
    with_relu = len(readers) == 1 and readers[0] in ("Relu", "Clip")
    return len(chain.nodes) == 1 and with_relu and is_blocked(context, chain.source)


def _added(context: Context, node: ir.Node, bounds: Bounds, chain: Chain) -> float:
    """Estimate what new bounds cost beyond the node that is there."""
    if bounds.low.size == 1 and bounds.high.size == 1:
        return 0.0  # a Relu or Clip stays one
    source = node.inputs[0] if node.op_type in ("Relu", "Clip") else node.outputs[0]
    if source is None:
        return math.inf
    behind = source is chain.result
    passes = int(not np.isneginf(bounds.low).all()) + int(not np.isposinf(bounds.high).all())
    time = passes * _time(context, "Max", source)
    if node.op_type in ("Max", "Min"):
        time -= _time(context, "Max", source)
    elif not _fuses(source):
        time -= _time(context, "Relu", source)
    # A Mul or an Add in the chain does not know the layout of blocked channels, either.
    if (not behind or len(chain.nodes) == 1) and is_blocked(context, source, chain=chain):
        time += 2 * _time(context, "reorder", source)
    return time


def require_cheap_maps(plan: Plan, chain: Chain) -> None:
    """Refuse to add maps unless that moves less memory than the chain did."""
    if not plan.maps:
        return
    spared = _numbers(plan.context, chain.source) * READ_AND_WRITE * len(chain.nodes)
    spent = 0
    for node in plan.maps:
        result = node.outputs[0]
        passes = READ_AND_WRITE + 1  # the map is read, too
        readers = [use.node for use in result.uses()]
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
            passes += READ_AND_WRITE  # it was done by the convolution
        if len(node.outputs[0].shape or ()) == 4 and readers:
            passes += 2 * READ_AND_WRITE  # the layout of blocked channels has no such sum
        spent += _numbers(plan.context, result) * passes
    if spent >= spared:
        raise Refused("it would take more time than the BatchNorm does")


def _numbers(context: Context, value: ir.Value) -> int:
    """Numbers of one sample."""
    return math.prod(d for d in context.need_dims(value)[1:] if isinstance(d, int))


def _fuses(source: ir.Value) -> bool:
    """Whether the runtime does a Relu on this value in the node that makes it."""
    producer = source.producer()
    if producer is None or len(source.uses()) != 1 or source.is_graph_output():
        return False
    if producer.op_type == "Add":
        makers = [v.producer() for v in producer.inputs if v is not None]
        return any(maker is not None and maker.op_type in _FUSES for maker in makers)
    return producer.op_type in _FUSES


def is_blocked(
    context: Context, value: ir.Value, depth: int = 0, *, chain: Chain | None = None
) -> bool:
    """Whether the runtime has an image in its layout of blocked channels here.

    A chain that is going to be removed is seen through.
    """
    if chain is not None and value is chain.result:
        value = chain.source
    dims = context.dims(value)
    producer = value.producer()
    if producer is None or dims is None or len(dims) != 4 or depth > _DEPTH:
        return False
    if producer.op_type == "Conv":
        return True
    if producer.op_type not in _KEEPS_BLOCKS:
        return False
    count = len(producer.inputs) if producer.op_type in ("Add", "Concat", "Sum") else 1
    read = [v for v in producer.inputs[:count] if v is not None]
    return all(is_blocked(context, v, depth + 1, chain=chain) for v in read)

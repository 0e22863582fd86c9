"""What a plan costs at run time, in passes over memory.

Folding into weights is free. Turning a Relu into Max or Min is not always. onnxruntime's CPU
provider fuses a Relu into the convolution or product in front of it, and keeps images in a layout
of blocked channels, in which a BatchNorm with the Relu behind it is one pass; Max and Min do not
know that layout, so that the image is rearranged for them. Measured on whole networks: from a
graph input or a Gemm one Max is as fast as BatchNorm and Relu, inside a chain of convolutions it
costs up to 40 % of the network's time.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Refused
from fastbn.export.fold.chains import Chain
from fastbn.export.fold.context import Context
from fastbn.export.fold.plan import Bounds, Plan

# The runtime runs these together with a Relu or Clip right behind them.
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


def require_no_cost(plan: Plan, chain: Chain) -> None:
    """Refuse a plan whose new bounds take more passes than the chain it removes."""
    added = sum(_added(plan.context, node, b, chain) for node, b in plan.bounds.items())
    if added > max(_spared(plan.context, chain), 0):
        raise Refused(
            "Max or Min in place of a Relu would take more time than it does (allow_slower folds)"
        )


def _spared(context: Context, chain: Chain) -> int:
    """Count the passes that end with the chain."""
    readers = [use.node.op_type for use in chain.result.uses()]
    with_relu = len(readers) == 1 and readers[0] in ("Relu", "Clip")
    if len(chain.nodes) == 1 and with_relu and is_blocked(context, chain.source):
        return 0  # the Relu behind it was done in the same pass, and now takes one of its own
    return len(chain.nodes)


def _added(context: Context, node: ir.Node, bounds: Bounds, chain: Chain) -> int:
    if bounds.low.size == 1 and bounds.high.size == 1:
        return 0  # a Relu or Clip stays one
    passes = 1 + int(not np.isneginf(bounds.low).all() and not np.isposinf(bounds.high).all())
    source = node.inputs[0]
    free = source is not None and _fuses(source) and node.op_type in ("Relu", "Clip")
    if source is chain.result:
        source = chain.source
    blocked = source is not None and is_blocked(context, source)
    return passes + int(blocked) - (0 if free else 1)


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


def is_blocked(context: Context, value: ir.Value, depth: int = 0) -> bool:
    """Whether the runtime has an image in its layout of blocked channels here."""
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
    return all(is_blocked(context, v, depth + 1) for v in read)

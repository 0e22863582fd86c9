"""The search: which BatchNorm goes where.

Every BatchNorm, alone and together with the constant neighbours it has, is tried with every way
of sharing its affine (:mod:`strategies`), first without changing what the other nodes are, then
letting Relu become Max or Min. The first plan nobody refuses is committed. This repeats until
nothing changes: a fold can make room for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from fastbn.export.errors import one_line

# Importing the rules registers them.
from fastbn.export.fold import (
    backward,
    clipping,
    elementwise,
    forward,
    joins,
    passthrough,
    quantised,
)
from fastbn.export.fold.affine import MALFORMED, Refused
from fastbn.export.fold.alone import fold_alone
from fastbn.export.fold.chains import Chain, longest, single
from fastbn.export.fold.cleanup import (
    all_values,
    bypass,
    drop_neutral,
    graphs_of,
    remove_dead,
    settle_constants,
    used_initializers,
)
from fastbn.export.fold.commit import commit
from fastbn.export.fold.constants import Constants
from fastbn.export.fold.context import Context
from fastbn.export.fold.cost import require_cheap_maps, require_no_cost
from fastbn.export.fold.counting import copied_weights, count_affine, count_nodes
from fastbn.export.fold.moves import is_far, push_back, push_forward
from fastbn.export.fold.normalization import is_batch_norm, store_affine
from fastbn.export.fold.plan import Plan
from fastbn.export.fold.reparameterise import merge_convolutions
from fastbn.export.fold.report import FoldReport, NodeEntry
from fastbn.export.fold.samplenorms import fold_sample_norms
from fastbn.export.fold.strategies import Shares, shares

RULES = (backward, clipping, elementwise, forward, joins, passthrough, quantised)


@dataclass(frozen=True, slots=True)
class Boldness:
    """What a fold may do; the verification falls back to less where rounding suffers."""

    name: str = "all"
    forwards: bool = True
    bounds: bool = True
    changes: bool = True
    others: bool = True  # affines without a BatchNorm, and convolutions that can be one


STEPS = (
    Boldness(),
    Boldness("without changes of variable", changes=False),
    Boldness("without bounds per channel", bounds=False, changes=False),
    Boldness("backwards only", forwards=False, bounds=False, changes=False, others=False),
)


def name_of(node: ir.Node) -> str:
    """Name of a node, or of its output where it has none."""
    return node.name or (node.outputs[0].name or "")


def fold_in_place(
    model: ir.Model,
    boldness: Boldness = STEPS[0],
    not_copied: frozenset[str] = frozenset(),
    *,
    allow_slower: bool = False,
    allow_negative_scales: bool = False,
    sample_norms: bool = False,
) -> tuple[FoldReport, dict[str, int]]:
    """Fold a model that belongs to the caller.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place. What is not annotated with a shape folds less: `shapes.infer_shapes`.
    boldness : Boldness
        What is allowed.
    not_copied : frozenset of str
        Names of shared weights that have to stay shared.
    allow_slower : bool
        Whether to fold even where the runtime then takes longer.
    allow_negative_scales : bool
        Whether the scales of quantised weights may become negative.
    sample_norms : bool
        Whether weight and bias of LayerNormalization and its like are folded, too.

    Returns
    -------
    report : FoldReport
    copied : dict
        Names of shared weights of which there are more copies than before -> bytes added.
    """
    constants = Constants(model)
    opset = model.opset_imports.get("", 1)
    context = Context(
        model,
        constants,
        opset,
        allow_slower=allow_slower,
        allow_negative_scales=allow_negative_scales,
    )
    values = {v.name: v for v in all_values(model) if v.name is not None}
    context.names.update(values)
    context.names.update(n.name for g in graphs_of(model) for n in g if n.name)
    context.not_copied.update(values[name] for name in not_copied if name in values)
    alive = used_initializers(model)
    shared = {v: len(v.uses()) for v in values.values() if len(v.uses()) > 1}
    report = FoldReport()
    report.nodes_before = count_nodes(model)
    affine_before = count_affine(model, context)
    norms = [n for g in graphs_of(model) for n in g if is_batch_norm(n)]
    inside = [n for f in model.functions.values() for n in f.all_nodes() if is_batch_norm(n)]
    report.bn_before = len(norms) + len(inside)
    entries = {node: NodeEntry(name_of(node), "kept") for node in norms}
    report.nodes = list(entries.values())
    report.nodes += [
        NodeEntry(name_of(n), "kept", reason="it is inside a function, which is left as it is")
        for n in inside
    ]
    remove_dead(model, alive)  # a reader that nobody reads would stand in the way
    for node in norms:
        if node.graph is None:
            entries[node].action = "removed"
    norms = [node for node in norms if node.graph is not None]
    _fold_all(context, norms, entries, boldness)
    while boldness.others:
        report.affines_folded += (alone := fold_alone(context, model, products=report.changed))
        merged = merge_convolutions(context, model)
        report.convolutions_merged += len(merged)
        for gone, into in merged:
            if gone in entries:
                entries[gone].action, entries[gone].reason = "folded", ""
                entries[gone].into = [name_of(into)]
        if not alone and not merged:
            break
        remove_dead(model, alive)
        _fold_all(context, norms, entries, boldness)
    for node in norms:
        if node.graph is not None and is_batch_norm(node):
            _merge(context, node, entries)
    if sample_norms and boldness.others:
        went_on = fold_sample_norms(model, context)
        report.sample_norms = [NodeEntry(name_of(n), "folded", to) for n, to in went_on.items()]
    drop_neutral(context, model)
    remove_dead(model, alive)
    settle_constants(context, model)
    report.bn_left = len(inside) + sum(is_batch_norm(n) for g in graphs_of(model) for n in g)
    report.nodes_after = count_nodes(model)
    report.affine_left = (count_affine(model, context) - affine_before).total()
    return report, copied_weights(context, shared)


def _fold_all(
    context: Context,
    norms: list[ir.Node],
    entries: dict[ir.Node, NodeEntry],
    boldness: Boldness,
) -> None:
    """Fold every BatchNorm that some plan suits, until nothing changes."""
    pending = [n for n in norms if n.graph is not None and entries[n].action == "kept"]
    while pending:
        left = [node for node in pending if not _fold_one(context, node, entries, boldness)]
        if len(left) == len(pending):
            break
        pending = [n for n in left if n.graph is not None and entries[n].action == "kept"]


def _fold_one(
    context: Context,
    node: ir.Node,
    entries: dict[ir.Node, NodeEntry],
    boldness: Boldness,
) -> bool:
    """Fold one BatchNorm if some plan succeeds; say in its entry what happened."""
    entry = entries[node]
    if entry.action != "kept":
        return True
    try:
        first = Plan(context)
        chains = [longest(first, node)]
        if len(chains[0].nodes) > 1:
            chains.append(single(first, node))
    except Refused as refusal:
        entry.reason = str(refusal)
        return False
    except MALFORMED as error:
        entry.reason = f"the graph is malformed ({one_line(error)})"
        return False
    if chains[-1].affine.is_identity:
        bypass(node, chains[-1].source)
        entry.action, entry.reason = "removed", ""
        return True
    reasons: dict[str, str] = {}
    for plan, chain, way in _attempts(context, chains, boldness):
        try:
            _plan(plan, chain, way)
        except MALFORMED as error:
            reasons[way.name] = f"the graph is malformed ({one_line(error)})"
        except RecursionError:
            reasons[way.name] = "too many nodes would have to change"
        except Refused as refusal:
            _remember(reasons, plan, way, str(refusal))
        else:
            _carry_out(plan, chain, entries)
            return True
    entry.reason = "; ".join(f"{way}: {reason}" for way, reason in reasons.items())
    return False


def _remember(reasons: dict[str, str], plan: Plan, way: Shares, reason: str) -> None:
    """Keep the last word on either direction, which is the most permissive attempt's."""
    # A change of variable is no news unless it was other consumers that stood in the way.
    is_news = not plan.allow_changes or "consumers" in reasons.get(way.name, "")
    if plan.allow_maps:
        reasons |= {"with a bias map": reason} if plan.maps else {}
    elif way.name in ("backwards", "forwards") and is_news:
        reasons[way.name] = reason


def _attempts(
    context: Context, chains: list[Chain], boldness: Boldness
) -> Iterator[tuple[Plan, Chain, Shares]]:
    """Everything that may be tried, what changes least first."""
    for changes in (False, True)[: 1 + boldness.changes]:
        # Undoing an affine after a Relu would cost what it spares elsewhere.
        bounded = boldness.bounds and (context.allow_slower or not changes)
        for chain in chains:
            ways: Iterable[tuple[bool, Shares]] = (
                (bounds, way)
                for bounds in (False, True)[: 1 + bounded]
                for way in shares(chain.affine)
                if boldness.forwards or way.forth.is_identity
            )
            if is_far(chain.source):  # the next one may be close; in a long row all would go far
                ways = sorted(ways, key=lambda pair: pair[1].name != "forwards")
            for bounds, way in ways:
                yield Plan(context, allow_bounds=bounds, allow_changes=changes), chain, way
    if boldness.forwards:
        for chain in chains:
            for way in shares(chain.affine):
                if way.name in ("forwards", "scale backwards"):
                    yield Plan(context, allow_maps=True), chain, way


def _plan(plan: Plan, chain: Chain, way: Shares) -> None:
    """Plan both shares; what goes to the consumers first, because a Relu refuses it at once."""
    with plan.rewriting(*chain.nodes):
        push_forward(plan, chain.result, way.forth)
        push_back(plan, chain.nodes[0], chain.entry, way.back)
    if not plan.context.allow_slower:
        require_no_cost(plan, chain)
    require_cheap_maps(plan, chain)


def _carry_out(plan: Plan, chain: Chain, entries: dict[ir.Node, NodeEntry]) -> None:
    commit(plan)
    source = chain.source
    for member in chain.nodes:
        if member in entries:
            entries[member].action = "folded"
            entries[member].into = list(plan.into)
            entries[member].reason = ""
    for member in reversed(chain.nodes[1:]):
        # Everything but the first is bypassed onto its own predecessor's result, last first.
        bypass(member, chain.nodes[chain.nodes.index(member) - 1].outputs[0])
    bypass(chain.nodes[0], source)
    for node in plan.idle:
        mask_used = any(v.uses() or v.is_graph_output() for v in node.outputs[1:])
        value = node.inputs[0] if node.graph is not None else None
        if value is not None and not mask_used:
            bypass(node, value)


def _merge(context: Context, node: ir.Node, entries: dict[ir.Node, NodeEntry]) -> None:
    """Let a BatchNorm that stays take in the constant neighbours it has."""
    plan = Plan(context)
    try:
        chain = longest(plan, node)
        size = plan.context.constants.floats(node.inputs[1])
        if len(chain.nodes) == 1 or size is None:
            return
        scale, shift = chain.affine.vector(1, size.size)
        store_affine(plan, node, scale, shift)
    except (Refused, *MALFORMED):
        return
    # What a member refused for its training mode is not in the chain; all others dissolve.
    commit(plan)
    position = chain.nodes.index(node)
    for member in reversed(chain.nodes[position + 1 :]):
        bypass(member, chain.nodes[chain.nodes.index(member) - 1].outputs[0])
    if position:
        node.replace_input_with(0, chain.source)
        for member in reversed(chain.nodes[:position]):
            assert member.graph is not None
            member.graph.remove(member, safe=True)
    for member in chain.nodes:
        if member is not node and member in entries:
            entries[member].action = "folded"
            entries[member].into = [name_of(node)]
            entries[member].reason = ""
    entries[node].action = "merged"


__all__ = ["STEPS", "Boldness", "fold_in_place"]

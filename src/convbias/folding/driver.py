"""Law after law, where it pays, until none applies."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch.fx import Node

from ..affine import constant_padding
from ..errors import FoldRefused
from . import borders
from .activations import ShiftedReLU
from .channels import ConstantChannels
from .convolutions import KINDS, OURS, POOLS, is_uneven, uncounted
from .costs import Cost, Target, alone_read, cost, cost_of_cast, cost_of_convolution, cost_of_operation
from .elementwise import read
from .evaluation import ROUNDING, disagreement
from .graph import Network
from .laws import (
    AffineAfter,
    AffineBefore,
    ConstantPadding,
    Cropping,
    Law,
    Refused,
    Site,
    apply,
    input_of,
)
from .layouts import IntoLinear, TokenBias
from .merging import Composition, ParallelBranches
from .picking import PickedChannels
from .report import Fold
from .rewrite import bias_of, for_a_layer, parts_of

# In the order in which they are tried: what costs nothing first.
LAWS: Final[dict[str, Law]] = {
    law.name: law
    for law in (
        *(AffineAfter(), TokenBias(), ConstantChannels(), ParallelBranches(), ShiftedReLU()),
        *(AffineBefore(), ConstantPadding(), Cropping(), PickedChannels(), Composition(), IntoLinear()),
    )
}


def rewrite(
    network: Network,
    target: Target,
    laws: Sequence[str] = tuple(LAWS),
    forced: Sequence[str] = (),
    on_fold: Callable[[Fold], None] = lambda fold: None,
    bugs: Collection[tuple[str, str]] = (),
    most: float = math.inf,
) -> tuple[list[Fold], list[Refused]]:
    """Apply ``laws`` where they are legal and, but for the ``forced``, lower the price on ``target``.

    At most ``most`` of them, and none at a place in ``bugs``. The folds in their order, and the places that
    were refused in the end.
    """
    folds: list[Fold] = []
    network.forbidden = frozenset(LAWS) - {*laws}
    if borders.LAW in laws:
        _take_up_uneven_zeros(network)
    while True:
        before, refused = len(folds), _beyond(network)
        for place in (place for law in laws for place in LAWS[law].find(network)):
            if isinstance(place, Refused):
                refused.append(place)
                continue
            name = network.label(next(iter((*place.becomes, *place.rewritten))))
            if (place.law, name) in bugs:
                continue
            if len(folds) >= most:
                return folds, list(dict.fromkeys(refused))
            done = _decided(network, place, name, target, place.law in forced)
            if isinstance(done, Refused):
                refused.append(done)
            else:
                folds.append(done)
                on_fold(done)
        if len(folds) == before:
            return folds, list(dict.fromkeys(refused))


def _take_up_uneven_zeros(network: Network) -> None:
    """Zeros that no layer can pad with, as its sides differ, become the convolution's.

    They are written before it again, so that this is no fold; but what stands before them then stands before
    the convolution.
    """
    for node, conv in list(network.convolutions.items()):
        pad = input_of(node)
        if pad.target not in borders.PADS or len(pad.users) > 1:
            continue
        try:
            x, around, value, _ = borders.border(network, pad)
            padded = constant_padding(conv, around, value)
        except FoldRefused:
            continue
        if is_uneven(padded) and not is_uneven(conv) and not value.any():
            network.convolutions[node] = padded
            network.padded.add(node)
            node.replace_input_with(pad, x)
            network.forget(pad)


def _beyond(network: Network) -> list[Refused]:
    """The convolutions, and poolings beside something to fold, which no law is made for."""
    found: list[Refused] = []
    for node in network.nodes:
        reason = None
        if node.target in KINDS and node.meta["val"].is_complex():
            reason = "it computes in complex numbers"
        elif node.target in KINDS and len(network.shape(node)) == KINDS[node.target][0] + 1:
            reason = "its image has no batch"
        elif node.target is OURS and node not in network.convolutions and read(input_of(node), network):
            reason = (
                "what it does after its convolution is inside of it: make the activation a layer of its own"
            )
        elif node.target in POOLS and node not in network.convolutions:
            beside = (other for user in node.users for other in user.all_input_nodes)
            near = (input_of(node), *node.users, *beside)
            if any(one in network.convolutions or read(one, network) for one in near):
                reason = f"it is no convolution: {uncounted(node)}"
        if reason is not None:
            found.append(Refused("every law", network.label(node), reason))
    return found


def _decided(network: Network, site: Site, name: str, target: Target, forced: bool) -> Fold | Refused:
    """``site`` applied; or refused, and why."""
    for node in (*site.becomes, *(node for node in site.gone if node in network.convolutions)):
        others = network.shares(node)
        if others:
            return Refused(site.law, network.label(node), f"its weight is shared with {', '.join(others)}")
    becomes = {
        node: (for_a_layer(conv, network.space(source)), source)
        for node, (conv, source) in site.becomes.items()
    }
    site = replace(site, becomes=becomes)
    for node, (conv, _) in site.becomes.items():
        dtype = node.meta["val"].dtype
        if not all(part.isfinite().all() for part in (conv.weight, *parts_of(conv))):
            return Refused(site.law, network.label(node), "its constants are not all finite")
        if conv.weight.numel() and conv.weight.abs().max() > torch.finfo(dtype).max:
            return Refused(site.law, network.label(node), f"the weight would leave the range of {dtype}")
    going = site.nodes | alone_read(network, site.gone)
    before, after = cost(network, going, target), _afterwards(network, site, target)
    if not forced and not after.price < before.price:
        return Refused(
            site.law,
            name,
            f"it would cost {after.price / before.price - 1:+.0%}" if before.price else "it saves nothing",
        )
    apart = disagreement(network, site)
    if apart > ROUNDING:
        return Refused(
            site.law,
            name,
            f"a bug in convbias, please report it: the rewriting is {apart:.2g} off and was not made",
        )
    # What is free is named where nothing else goes.
    taken = [node for node in site.gone if cost(network, [node], target).nodes] or site.gone
    gone = tuple(dict.fromkeys(map(network.label, taken)))
    apply(network, site)
    fields = {network.label(node): _field(network, node) for node in site.becomes}
    return Fold(
        site.law,
        name,
        gone,
        {label: tying for label, (tying, _) in fields.items()},
        sum(numbers for _, numbers in fields.values()),
        before,
        after,
    )


def _afterwards(network: Network, site: Site, target: Target) -> Cost:
    total = cost(network, site.between, target)
    for node, operation in site.rewritten.items():
        total += cost_of_operation(network, node, operation, target)
    for node, (conv, source) in site.becomes.items():
        total += cost_of_convolution(network, node, conv, source, target)
    for source in {source for _, source in site.becomes.values()}:
        total += cost_of_cast(network, source, target)
    return total


def _field(network: Network, node: Node) -> tuple[str, int]:
    """The tying of a convolution's bias, and how many numbers it has."""
    conv = network.convolutions[node]
    tying, parameters = bias_of(conv, network.space(input_of(node)), node.meta["val"].dtype)
    return repr(tying), sum(math.prod(parameter.shape) for parameter in parameters)

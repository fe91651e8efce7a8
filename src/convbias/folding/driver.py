"""Law after law, until none applies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .graph import Network
from .laws import AffineAfter, AffineBefore, ConstantChannels, ConstantPadding, Law, Refused, Site, apply
from .merging import Composition, ParallelBranches

ALL: Final[Sequence[Law]] = (
    *(AffineAfter(), AffineBefore(), ConstantChannels(), ConstantPadding()),
    *(ParallelBranches(), Composition()),
)


def rewrite(network: Network, laws: Sequence[Law] = ALL) -> tuple[list[str], list[Refused]]:
    """Apply every legal law; the names of those applied, in order, and the places that were refused."""
    applied: list[str] = []
    while (site := _next(network, laws)) is not None:
        apply(network, site)
        applied.append(site.law)
    found = [place for law in laws for place in law.find(network)]
    return applied, [place for place in found if isinstance(place, Refused)]


def _next(network: Network, laws: Sequence[Law]) -> Site | None:
    places = (place for law in laws for place in law.find(network))
    return next((place for place in places if isinstance(place, Site)), None)

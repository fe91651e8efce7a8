"""Splits that the source has already made."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..samples import S, count, part


def with_validation(given: Mapping[str, S]) -> dict[str, S]:
    """The splits, with an eighth of the training split, at random, for validation where there is none.

    A training split with fewer than eight samples has none to spare.
    """
    train = given["train"]
    order = torch.randperm(count(train), generator=torch.Generator().manual_seed(0))
    held, kept = order.tensor_split([len(order) // 8])
    if "validation" in given or not len(held):
        return dict(given)
    return {"train": part(train, kept), "validation": part(train, held), "test": given["test"]}

"""Splits that the source has already made."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..data import Pair


def with_validation(given: Mapping[str, Pair]) -> dict[str, Pair]:
    """The splits, with an eighth of the training split, at random, for validation where there is none."""
    if "validation" in given:
        return dict(given)
    inputs, targets = given["train"]
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    held, kept = order.tensor_split([len(order) // 8])
    return {
        "train": (inputs[kept], targets[kept]),
        "validation": (inputs[held], targets[held]),
        "test": given["test"],
    }

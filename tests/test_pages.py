"""Large arrays that kernels write come in large pages, where the system has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import convbias
from convbias.ops import native, own

pytestmark = [
    pytest.mark.skipif(native.absence() is not None, reason=f"no own kernels: {native.absence()}"),
    pytest.mark.skipif(
        not Path("/sys/kernel/mm/transparent_hugepage").is_dir() or not Path("/proc/self/smaps").is_file(),
        reason="the system has no large pages that a program can ask for",
    ),
]


def asked_for_large_pages(tensor: Tensor) -> bool:
    """Whether the middle of it lies where a program did."""
    middle, inside = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and ":" not in first:
            begin, end = (int(place, 16) for place in first.split("-"))
            inside = begin <= middle < end
        elif inside and first == "VmFlags:":
            return "hg" in rest.split()
    raise AssertionError("it lies nowhere")


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_outputs_and_gradients(kernel: int, channels_last: bool) -> None:
    form = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(1, 16, 750, 750).to(memory_format=form).requires_grad_()
    layer = convbias.Conv2d(16, 16, kernel, padding=kernel // 2, bias="untied", output_size=(750, 750))
    layer.to(memory_format=form)  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        y = layer(x)
    with torch.no_grad():
        by_own = convbias.explain_route(layer, x)[0].convolution in own.WAYS
    assert by_own == (channels_last or kernel == 3)
    assert asked_for_large_pages(y) == by_own
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert asked_for_large_pages(gradient) == by_own
    assert not asked_for_large_pages(x)


def test_small_outputs_lie_as_they_would() -> None:
    layer, x = convbias.Conv2d(16, 16, 1, bias="tied"), torch.randn(1, 16, 64, 64)
    with torch.no_grad():
        assert not asked_for_large_pages(layer(x.to(memory_format=torch.channels_last)))

"""How tensors lie in memory: what torch says of them, and outputs that lie as torch's."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.nn import functional as F

import convbias
from convbias.ops.layout import is_channels_last

FORMS = (torch.contiguous_format, torch.channels_last)


def views(x: Tensor, form: torch.memory_format) -> list[Tensor]:
    """``x`` and what users make of it: every second place, one channel for all, other axes in front."""
    other = x.to(memory_format=form)
    apart = [view[..., ::2] for view in (x, other)] + [view[:, ::2] for view in (x, other)]
    turned = [x.transpose(a, b) for a, b in itertools.combinations(range(x.dim()), 2)]
    return [x, other, *apart, *turned, x[:, :1].expand_as(x), other[:1].expand_as(x), other[:0]]


@pytest.mark.parametrize("dims", [2, 3])
def test_torch_and_we_agree_on_what_lies_how(dims: int) -> None:
    form = torch.channels_last if dims == 2 else torch.channels_last_3d
    found = set[bool]()
    for sizes in itertools.product((1, 2, 3), repeat=dims + 2):
        for x in views(torch.zeros(sizes), form):
            wanted = suggest_memory_format(x) == form
            assert is_channels_last(x) == wanted, (x.shape, x.stride())
            found.add(wanted)
    assert found == {False, True}


@pytest.mark.parametrize("channels", [1, 2, 16])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect"])
def test_outputs_lie_as_torchs(channels: int, kernel: int, padding_mode: str) -> None:
    for filters, large, *forms in itertools.product((1, 3, 16), (False, True), FORMS, FORMS):
        # With nothing around them, torch.nn turns images to a circle all the same, and we do not.
        words = {"kernel_size": kernel, "padding": 1, "padding_mode": padding_mode}
        theirs = nn.Conv2d(channels, filters, **words).to(memory_format=forms[1])  # pyright: ignore
        size = convbias.Conv2d(channels, filters, **words).geometry().output_size((12, 9))
        ours = convbias.Conv2d(channels, filters, bias="untied", output_size=size, **words)
        ours.load_state_dict(theirs.state_dict())
        ours.to(memory_format=forms[1])  # pyright: ignore[reportCallIssue]
        x = torch.randn(200 if large else 2, channels, 12, 9).to(memory_format=forms[0])
        wanted = theirs(x)
        for recording in (False, True):
            with torch.set_grad_enabled(recording):
                y = ours(x)
            assert y.stride() == wanted.stride(), (filters, large, forms, recording)
            torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
        assert F.conv2d(x, theirs.weight).stride() == convbias.functional.conv2d(x, theirs.weight).stride()

"""Outputs written to memory that is there already: the same numbers, or a refusal."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import convbias
from convbias import functional
from convbias.ops import convolve, native
from convbias.ops.activations import ACTIVATIONS

BIASES: dict[str, Any] = {
    "none": None,
    "tied": torch.randn(6),
    "untied": torch.randn(6, 7, 9),
    "c h": torch.randn(6, 7, 1),
    "tap": ("tap", torch.randn(6, 3, 3)),
    "sum": ("c + h w", [torch.randn(6), torch.randn(1, 7, 9)]),
}


def poisoned(like: Tensor) -> Tensor:
    return torch.full_like(like, math.nan)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "tanh"])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_the_output_is_the_same_in_a_place_of_ones_own(
    bias: str, activation: str | None, form: torch.memory_format, batch: int
) -> None:
    x = torch.randn(batch, 4, 7, 9).contiguous(memory_format=form)
    w = torch.randn(6, 2, 3, 3)
    words: dict[str, Any] = {"padding": 1, "groups": 2, "activation": activation}
    wanted = functional.conv2d(x, w, BIASES[bias], **words)
    for out in (poisoned(wanted), poisoned(wanted.contiguous()), poisoned(wanted.mT).mT):
        assert functional.conv2d(x, w, BIASES[bias], **words, out=out) is out
        assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def test_every_dimension_takes_one() -> None:
    for name, size in (("conv1d", (5,)), ("conv3d", (3, 4, 5)), ("conv_transpose2d", (4, 5))):
        run, dims = getattr(functional, name), len(size)
        x, w = torch.randn(2, 3, *size), torch.randn(3, 3, *[2] * dims)
        for input in (x, x[0]):
            wanted = run(input, w, torch.randn(3) * 0 + 1)
            out = poisoned(wanted)
            assert run(input, w, torch.ones(3), out=out) is out
            assert_close(out, wanted)


@pytest.mark.skipif(convolve.missing() is not None, reason=str(convolve.missing()))
@pytest.mark.parametrize("activation", ["relu", *ACTIVATIONS])
def test_onednn_adds_to_it(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 4, 7, 9).to(memory_format=torch.channels_last)
    w, b, added = torch.randn(6, 4, 3, 3), torch.randn(6, 5, 7), []
    monkeypatch.setattr(convolve, "add_into", lambda *call, into=convolve.add_into: added.append(into(*call)))
    wanted = functional.conv2d(x, w, b, activation=activation)
    out = poisoned(wanted)
    functional.conv2d(x, w, b, activation=activation, out=out)
    assert_close(out, wanted, rtol=1e-5, atol=1e-5)
    assert added == [None]
    (told,) = convbias.explain_route(functional.conv2d, x, w, b, activation=activation, out=out)
    assert (told.convolution, told.epilogue) == ("onednn", "in_place")
    (told,) = convbias.explain_route(functional.conv2d, x, w, b, out=out)
    assert (told.convolution, told.epilogue) == ("onednn", "onednn")


@pytest.mark.skipif(native.absence() is not None, reason=str(native.absence()))
def test_it_is_told_what_wrote_it() -> None:
    x, w = (
        torch.randn(*size).to(memory_format=torch.channels_last) for size in ((2, 32, 32, 32), (32, 32, 3, 3))
    )
    out = torch.empty(2, 32, 32, 32)
    (told,) = convbias.explain_route(functional.conv2d, x, w, padding=1, activation="relu", out=out)
    assert (told.convolution, told.epilogue) == ("winograd", "winograd")


# As other libraries see it: to torch, these are two memories.
SHARED = numpy.zeros(60, numpy.float32)


@pytest.mark.parametrize(
    ("channels", "kernel", "padding"), [((32, 40), 3, 1), ((24, 50), 1, 0), ((4, 8), 3, 1), ((64, 64), 3, 0)]
)
@pytest.mark.parametrize("part", ["samples", "channels", "columns", "turned"])
def test_what_lies_between_its_numbers_stays(
    channels: tuple[int, int], kernel: int, padding: int, part: str
) -> None:
    into, out = channels
    x = torch.randn(2, into, 32, 31).to(memory_format=torch.channels_last)
    w = (torch.randn(out, into, kernel, kernel) / into).to(memory_format=torch.channels_last)
    wanted = functional.conv2d(x, w, padding=padding, activation="gelu")
    h, v = wanted.shape[2:]
    whole = torch.full((4, out + 3, h, v + 2), 7.0).to(memory_format=torch.channels_last)
    where = {
        "samples": lambda: whole[::2, :out, :, :v],
        "channels": lambda: whole[:2, 2:-1, :, :v],
        "columns": lambda: whole[1:3, :out, :, 1:-1],
        "turned": lambda: torch.full((2, out, v, h), 7.0).mT,
    }[part]()
    version = where._version
    functional.conv2d(x, w, padding=padding, activation="gelu", out=where)
    assert_close(where, wanted, rtol=1e-5, atol=1e-5)
    assert where._version > version
    where.fill_(7)
    assert (whole == 7).all()


def test_torch_is_told_of_the_change() -> None:
    x = torch.randn(1, 24, 40, 40).to(memory_format=torch.channels_last)
    w = torch.randn(50, 24, 1, 1)
    out = torch.zeros(1, 50, 40, 40).to(memory_format=torch.channels_last)
    scale = torch.ones((), requires_grad=True)
    product = (out * scale).sum()
    with torch.no_grad():
        functional.conv2d(x, w, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with torch.inference_mode():
        functional.conv2d(x, w, out=torch.zeros_like(out))


def test_one_room_for_all() -> None:
    room = torch.randn(2000)
    x, out = room[:400].view(1, 4, 10, 10), room[400:1000].view(1, 6, 10, 10)
    w = torch.randn(6, 4, 1, 1)
    wanted = functional.conv2d(x, w)
    assert_close(functional.conv2d(x, w, out=out), wanted)


def refusals() -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    x, w = torch.randn(2, 4, 7, 9), torch.randn(6, 4, 3, 3)
    call = {"input": x, "weight": w}
    return {
        "shape": (
            {**call, "out": torch.zeros(2, 6, 7, 9)},
            ValueError,
            r"out=\[2, 6, 7, 9\].*\[2, 6, 5, 7\]",
        ),
        "type": ({**call, "out": torch.zeros(2, 6, 5, 7).double()}, ValueError, "float64.*float32"),
        "list": ({**call, "out": [1.0]}, TypeError, "must be a tensor, not list"),
        "gradient": (
            {"input": x, "weight": w.clone().requires_grad_(), "out": torch.zeros(2, 6, 5, 7)},
            ValueError,
            "no gradient can be recorded",
        ),
        "itself": (
            {**call, "out": torch.zeros(400).as_strided((2, 6, 5, 7), (6, 1, 7, 6))},
            ValueError,
            r"out= of strides \(6, 1, 7, 6\): some of its numbers share memory",
        ),
        "next": (
            {
                "input": torch.from_numpy(SHARED[:16]).view(1, 1, 4, 4),
                "weight": w[:1, :1, :1, :1],
                "out": torch.from_numpy(SHARED[9:25]).view(1, 1, 4, 4),
            },
            ValueError,
            "shares memory with an argument",
        ),
        "overlap": (
            {"input": torch.randn(1, 1, 4, 4), "weight": torch.ones(1, 1, 1, 1)},
            ValueError,
            "shares memory with an argument",
        ),
    }


@pytest.mark.parametrize("case", refusals())
def test_what_cannot_be_written_to_is_refused(case: str) -> None:
    words, kind, message = refusals()[case]
    words.setdefault("out", words["input"])
    with pytest.raises(kind, match=message):
        convbias.functional.conv2d(**words)

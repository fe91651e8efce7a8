"""Fields that are written out once: the same numbers, whatever happens to the parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import convbias
from convbias.ops import convolve

TYINGS = ["tap", "c + tap", "rank:2", "grid:3", "sym:flip_w", "c h + c w"]


def layer(tying: str) -> convbias.Conv2d:
    made = convbias.Conv2d(2, 3, 3, padding=1, bias=tying, output_size=(5, 6))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.requires_grad_(False)


def expected(made: convbias.Conv2d, x: Tensor) -> Tensor:
    size = (x.shape[2], x.shape[3])
    y = torch.nn.functional.conv2d(x, made.weight, None, 1, 1)
    return (y + made.bias_field(size, input_size=size)).detach()


def replaced(made: convbias.Conv2d) -> None:
    made.bias = Parameter(torch.randn_like(made.get_parameter("bias")), requires_grad=False)


def written_to_data(made: convbias.Conv2d) -> None:
    made.get_parameter("bias").data.mul_(2)
    made.repack()


def given_other_data(made: convbias.Conv2d) -> None:
    made.get_parameter("bias").data = torch.randn_like(made.get_parameter("bias"))


CHANGES: dict[str, Callable[[convbias.Conv2d], object]] = {
    "in place": lambda made: made.get_parameter("bias").detach().add_(1),
    "loaded": lambda made: made.load_state_dict({k: v + 1 for k, v in made.state_dict().items()}),
    "replaced": replaced,
    "other data": given_other_data,
    "written to .data, and said so": written_to_data,
}


@pytest.mark.parametrize("tying", TYINGS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_parameter_changes_the_field(tying: str, change: str) -> None:
    made, x = layer(tying), torch.randn(2, 2, 5, 6)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(made(x), expected(made, x))
        before = made(x)
        CHANGES[change](made)
        assert not torch.equal(made(x), before)
        torch.testing.assert_close(made(x), expected(made, x))


def test_the_field_is_computed_once_and_follows_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made, computed = layer("tap"), list[tuple[int, ...]]()
    field = convbias.nn.convnd.field_of

    def counted(bias: list[Tensor], tying: str, site: convbias.Site) -> Tensor:
        computed.append(site.sized())
        return field(bias, tying, site)

    monkeypatch.setattr(convbias.nn.convnd, "field_of", counted)
    with torch.no_grad():
        for size in ((5, 6), (5, 6), (7, 4), (7, 4)):
            x = torch.randn(1, 2, *size)
            torch.testing.assert_close(made(x), expected(made, x))
    assert computed == [(5, 6), (7, 4)]


WEIGHT_CHANGES: dict[str, Callable[[convbias.Conv2d], object]] = {
    "in place": lambda made: made.weight.detach().mul_(2),
    "loaded": lambda made: made.load_state_dict({k: v + 1 for k, v in made.state_dict().items()}),
    "replaced": lambda made: setattr(made, "weight", Parameter(torch.randn_like(made.weight))),
    "other data": lambda made: setattr(made.weight, "data", torch.randn_like(made.weight)),
    "written to .data, and said so": lambda made: (made.weight.data.mul_(2), made.repack()),
}


@pytest.mark.skipif(convolve.missing() is not None, reason=str(convolve.missing()))
@pytest.mark.parametrize("change", WEIGHT_CHANGES)
def test_a_changed_weight_is_packed_anew(change: str) -> None:
    made, x = convbias.Conv2d(64, 48, 3, bias=False), torch.randn(1, 64, 4, 5)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(made(x), torch.conv2d(x, made.weight), rtol=1e-4, atol=1e-4)
        assert made._settled is not None
        assert made._settled.value.call.packed is not None
        before = made(x)
        WEIGHT_CHANGES[change](made)
        assert not torch.allclose(made(x), before)
        torch.testing.assert_close(made(x), torch.conv2d(x, made.weight), rtol=1e-4, atol=1e-4)
        other = copy.deepcopy(made)
        assert other._settled is None
        torch.testing.assert_close(other(x), made(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizers_step_counts(fused: bool) -> None:
    """Fused ones do not count their writes, whatever is computed between backward and step."""
    made = convbias.Conv2d(64, 48, 3, padding=1, bias="tap").eval()
    x = torch.randn(1, 64, 5, 6)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1, fused=fused)
    for _ in range(2):
        made(x).sum().backward()
        with torch.no_grad():
            made(x)
            optimizer.step()
            torch.testing.assert_close(made(x), expected(made, x), rtol=1e-4, atol=1e-4)


def test_training_and_copies_are_not_concerned() -> None:
    made, x = layer("tap").requires_grad_(True), torch.randn(1, 2, 5, 6)
    with torch.no_grad():
        made(x)
    made(x).sum().backward()
    assert made.get_parameter("bias").grad is not None
    other = copy.deepcopy(made).double()
    with torch.no_grad():
        other.get_parameter("bias").mul_(3)
        torch.testing.assert_close(other(x.double()), expected(other, x.double()))
        torch.testing.assert_close(made(x), expected(made, x))
    with torch.inference_mode():
        torch.testing.assert_close(layer("tap")(x).shape, made(x).shape)


@pytest.mark.skipif(convolve.missing() is not None, reason=str(convolve.missing()))
@pytest.mark.parametrize("bias", ["untied", "tap"])
def test_a_field_lies_as_the_output(bias: str) -> None:
    """To read it across takes as long as the convolution."""
    layer = convbias.Conv2d(48, 48, 3, stride=2, padding=1, groups=8, bias=bias, output_size=(13, 13))
    torch.nn.init.normal_(layer.get_parameter("bias"))
    x = torch.randn(1, 48, 25, 25).to(memory_format=torch.channels_last)
    wanted = layer(x).detach()
    with torch.no_grad():
        assert convbias.explain_route(layer, x)[0].epilogue == "onednn"
        for _ in range(2):
            torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("size", [5, 40])
def test_what_is_settled_serves_all_calls(size: int, activation: str | None) -> None:
    layer = convbias.Conv2d(
        9, 10, 3, padding=1, bias="c + h", output_size=(size, size), activation=activation
    )
    x, residual = torch.randn(2, 9, size, size), torch.randn(2, 10, size, size)
    for given in (None, residual, None, residual):
        wanted = layer(x, given).detach()
        with torch.no_grad():
            torch.testing.assert_close(layer(x, given), wanted, rtol=1e-4, atol=1e-5)

"""Fields that are written out once: the same numbers, whatever happens to the parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import Parameter
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

import convbias
from convbias.ops import convolve, native, own, ways
from convbias.ops.kept import Recent
from convbias.tying import NoBias
from own_layers import using

TYINGS = ["tap", "c + tap", "rank:2", "grid:3", "sym:flip_w", "c h + c w"]


def layer(tying: str) -> convbias.Conv2d:
    made = convbias.Conv2d(2, 3, 3, padding=1, bias=tying, output_size=(5, 6))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.requires_grad_(False)


def expected(made: convbias.Conv2d, x: Tensor) -> Tensor:
    y = torch.nn.functional.conv2d(x, made.weight, None, made.stride, made.padding)
    return (y + made.bias_field((y.shape[2], y.shape[3]), input_size=(x.shape[2], x.shape[3]))).detach()


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
    made, x = convbias.Conv2d(64, 350, 3, bias=False), torch.randn(1, 64, 4, 5)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(made(x), torch.conv2d(x, made.weight), rtol=1e-4, atol=1e-4)
        assert made._settled.values()[0].call.packed is not None
        before = made(x)
        WEIGHT_CHANGES[change](made)
        assert not torch.allclose(made(x), before)
        torch.testing.assert_close(made(x), torch.conv2d(x, made.weight), rtol=1e-4, atol=1e-4)
        other = copy.deepcopy(made)
        assert not other._settled.values()
        torch.testing.assert_close(other(x), made(x), rtol=1e-4, atol=1e-4)


# Sizes in turn, and how often the weight is put in order for them.
IN_TURN: dict[str, tuple[dict[str, Any], list[tuple[int, ...]], int]] = {
    "winograd": ({"in_channels": 32, "out_channels": 32}, [(2, 32, 32), (1, 33, 31), (2, 40, 24)], 1),
    # Filled up with neighbours, as many as a row has.
    "direct": ({"in_channels": 4, "out_channels": 3}, [(2, 64, 64), (2, 40, 72)], 2),
    "winograd, gathered": ({"in_channels": 256, "out_channels": 256}, [(1, 16, 16), (1, 8, 8)], 2),
}


@pytest.mark.skipif(native.absence() is not None, reason=str(native.absence()))
@pytest.mark.parametrize("name", IN_TURN)
@pytest.mark.parametrize("compiled", [False, True])
def test_images_of_several_sizes_in_turn(name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    options, sizes, times = IN_TURN[name]
    made = convbias.Conv2d(kernel_size=3, padding=1, activation="relu", **options).requires_grad_(False)
    packed = list[str]()
    pack = own.pack
    monkeypatch.setattr(own, "pack", lambda way, *given: packed.append(way) or pack(way, *given))
    torch._dynamo.reset()
    call: Any = torch.compile(made, backend="aot_eager", dynamic=True) if compiled else made
    images = [
        torch.randn(n, made.in_channels, *size).to(memory_format=torch.channels_last) for n, *size in sizes
    ]
    for _ in range(3):
        for x in images:
            torch.testing.assert_close(call(x), expected(made, x).relu(), rtol=1e-3, atol=1e-3)
    assert len(packed) == times
    made.weight.mul_(2)
    for x in images:
        torch.testing.assert_close(call(x), expected(made, x).relu(), rtol=1e-3, atol=1e-3)
    assert len(packed) == 2 * times


def test_no_more_than_a_few_sizes_are_kept() -> None:
    made = layer("tap")
    for size in range(5, 5 + 2 * Recent.MOST):
        made(torch.randn(1, 2, size, size))
    assert len(made._settled.values()) == Recent.MOST


@pytest.mark.skipif(native.absence() is not None, reason=str(native.absence()))
def test_a_weight_that_is_computed_at_every_call_is_not_put_in_order_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: Any = weight_norm(convbias.Conv2d(64, 64, 3, padding=1)).requires_grad_(False)
    monkeypatch.setattr(ways, "worth_packing", lambda call: pytest.fail("it is"))
    x = torch.randn(1, 64, 20, 20)
    torch.testing.assert_close(made(x), expected(made, x), rtol=1e-3, atol=1e-3)


def test_layers_with_parametrisations_are_copied() -> None:
    made, x = (
        weight_norm(convbias.Conv2d(64, 64, 3, padding=1, bias="c h", output_size=(32, 32))),
        torch.randn(2, 64, 32, 32),
    )
    with torch.no_grad():
        wanted = made(x)
    made(x).sum().backward()
    for twin in (copy.deepcopy(made), AveragedModel(made)):
        with torch.no_grad():
            torch.testing.assert_close(twin(x), wanted)


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


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("backend", ["auto", "aten", "native"])
@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # what flags() says of a torch without it
def test_torch_lays_an_output_otherwise_at_another_call(
    backend: str, activation: str, recording: bool
) -> None:
    last = torch.channels_last_3d
    made = convbias.Conv3d(
        24, 48, 3, padding=1, bias="untied", output_size=(8, 14, 14), activation=activation
    )
    torch.nn.init.normal_(made.get_parameter("bias"))
    made = made.to(memory_format=last).requires_grad_(recording)  # pyright: ignore[reportCallIssue]
    x = torch.randn(2, 24, 8, 14, 14).to(memory_format=last)
    bare = torch.nn.functional.conv3d(x, made.weight, padding=1)
    act = torch.relu if activation == "relu" else torch.nn.functional.gelu
    wanted = act(bare + made.get_parameter("bias"))
    with convbias.backend(backend):
        for enabled in (True, False, True):
            with torch.backends.mkldnn.flags(enabled=enabled):
                again = torch.nn.functional.conv3d(x, made.weight, padding=1)
                assert (again.stride() == bare.stride()) == enabled
                for _ in range(2):
                    torch.testing.assert_close(made(x), wanted, rtol=1e-4, atol=1e-4)


# The way of convolving, and a layer with an input that takes it.
KEEPERS: dict[str, tuple[dict[str, object], tuple[int, ...]]] = {
    "winograd": ({"in_channels": 32, "out_channels": 32, "bias": False}, (2, 32, 32, 32)),
    "direct": ({"in_channels": 4, "out_channels": 8, "bias": "c + tap"}, (2, 4, 64, 64)),
    "onednn": ({"in_channels": 32, "out_channels": 24, "stride": 2, "bias": "untied"}, (1, 32, 31, 31)),
    "torch": ({"in_channels": 2, "out_channels": 3, "bias": "tap"}, (1, 2, 5, 5)),
}


def keeper(name: str) -> tuple[convbias.Conv2d, Tensor]:
    options, size = KEEPERS[name]
    made: convbias.Conv2d = convbias.Conv2d(kernel_size=3, padding=1, output_size=(16, 16), **options)  # type: ignore
    return made.requires_grad_(False), torch.randn(size).to(memory_format=torch.channels_last)


def offloaded(made: convbias.Conv2d) -> None:
    for parameter in made.parameters():
        shape, parameter.data = parameter.shape, torch.empty(0)
        parameter.data = torch.randn(shape)


CHANGES_OF_ALL: dict[str, Callable[[convbias.Conv2d], object]] = {
    "offloaded": offloaded,
    "another type, and back": lambda made: (
        [p.mul_(-1.5) for p in made.bfloat16().parameters()] and made.float()
    ),
    "from a vector": lambda made: [
        torch.nn.utils.vector_to_parameters(
            torch.randn(sum(p.numel() for p in made.parameters())), made.parameters()
        )
        for _ in range(2)
    ],
}


@pytest.mark.parametrize("name", KEEPERS)
@pytest.mark.parametrize("change", CHANGES_OF_ALL)
def test_memory_that_is_used_again_is_not_taken_for_what_was_there(name: str, change: str) -> None:
    made, x = keeper(name)
    for _ in range(12):
        made(x)
        CHANGES_OF_ALL[change](made)
        torch.testing.assert_close(made(x), expected(made, x), rtol=1e-3, atol=1e-3)


def test_a_compiled_node_does_not_either() -> None:
    x, weight = torch.randn(2, 32, 32, 32), Parameter(torch.randn(32, 32, 3, 3), requires_grad=False)
    for _ in range(12):
        y = torch.ops.convbias.whole(x, weight, None, [1, 1], [1, 1], [1, 1], 1, "")
        torch.testing.assert_close(y, torch.conv2d(x, weight, None, 1, 1), rtol=1e-3, atol=1e-3)
        weight.data = torch.empty(0)
        weight.data = torch.randn(32, 32, 3, 3)


@pytest.mark.parametrize("name", KEEPERS)
def test_what_other_processes_can_write_to_is_not_kept(name: str) -> None:
    made, x = keeper(name)
    made(x)
    made.share_memory()
    made(x)
    for parameter in made.parameters():
        parameter.data.mul_(3)
    torch.testing.assert_close(made(x), expected(made, x), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(native.absence() is not None, reason=str(native.absence()))
@pytest.mark.parametrize("name", KEEPERS)
def test_another_instruction_set_packs_anew(name: str) -> None:
    made, x = keeper(name)
    for instructions in native.known_instructions():
        with using(instructions):
            torch.testing.assert_close(made(x), expected(made, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", KEEPERS)
def test_a_layer_that_ran_does_not_take_other_devices_for_its_own(name: str) -> None:
    made, x = keeper(name)
    y = made(x)
    if isinstance(made.tying, NoBias):
        assert made(x.to("meta")).device.type == "meta"
    else:
        with pytest.raises(RuntimeError, match="is not on the expected device meta"):
            made(x.to("meta"))
    with pytest.raises(ValueError, match="residual on meta: must be on the input's device, cpu"):
        made(x, torch.empty_like(y, device="meta"))


@pytest.mark.parametrize("name", KEEPERS)
def test_modes_see_the_steps_of_a_layer_that_ran(name: str) -> None:
    made, x = keeper(name)
    wanted = made(x)
    traced = make_fx(made, tracing_mode="real")(x)
    torch.testing.assert_close(traced(2 * x), made(2 * x), rtol=1e-3, atol=1e-3)
    with FlopCounterMode(display=False) as counter:
        made(x)
    # A tap bias is a convolution too.
    assert counter.get_total_flops() >= 2 * wanted.numel() * made.weight[0].numel()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert made(x).shape == wanted.shape


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("name", KEEPERS)
def test_numbers_whose_sign_is_turned_when_they_are_read(name: str, recording: bool) -> None:
    made, x = keeper(name)
    turned = Parameter(torch.complex(made.weight, made.weight).conj().imag, requires_grad=False)
    assert turned.is_neg()
    field = expected(made, x) - torch.conv2d(x, made.weight, None, made.stride, made.padding)
    for weight, input in ((turned, x), (made.weight, torch.complex(x, x).conj().imag)):
        given = input.detach().requires_grad_(recording)
        y = convbias.functional.conv2d(given, weight, field[0], padding=made.padding, stride=made.stride)
        wanted = torch.conv2d(input, weight, None, made.stride, made.padding) + field
        torch.testing.assert_close(y.detach(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(4, 2000), (2, 4000)])
def test_an_image_smaller_than_the_kernel_is_refused_as_by_torch(size: tuple[int, int]) -> None:
    x = torch.randn(4, 3, *size).to(memory_format=torch.channels_last)
    with torch.no_grad(), pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        convbias.Conv2d(3, 8, 5)(x)


@pytest.mark.parametrize("recording", [False, True])
def test_a_sum_of_more_terms_than_a_kernel_takes(recording: bool) -> None:
    made = convbias.Conv2d(32, 32, 3, padding=1, bias="c + h + w + c h + c w", output_size=(32, 32))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 32, 32, 32)
    with torch.set_grad_enabled(recording):
        y = made(x)
        plain = convbias.functional.conv2d(x, made.weight, (made.tying, made._bias_parameters()), padding=1)
    for found in (y, plain):
        torch.testing.assert_close(found.detach(), expected(made, x), rtol=1e-3, atol=1e-3)

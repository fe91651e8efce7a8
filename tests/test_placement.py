"""Where a layer lives and how its numbers are kept: devices, dtypes, memory formats, copies, wrappers."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from convbias import Bias
from layer_cases import SOME, Case, as_function, expected, gradients, over, plain

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@over(SOME)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # torch's own layer
def test_autocast_gives_torchs_dtype_in_and_out_of_training(case: Case) -> None:
    layer, theirs = case.make(torch.float32), case.torchs(torch.float32)
    x = case.input(dtype=torch.float32)
    for recording in (True, False):
        with torch.set_grad_enabled(recording), torch.autocast("cpu", torch.bfloat16):
            y, wanted = layer(x), theirs(x)
        assert y.dtype == wanted.dtype == torch.bfloat16
        assert_close(y.float(), expected(layer, x), rtol=0.05, atol=0.1)


def test_autocast_trains_parameters_in_their_own_dtype() -> None:
    layer = plain("rank:2").make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        layer(plain("rank:2").input(dtype=torch.float32)).sum().backward()
    assert {p.grad.dtype for p in layer.parameters() if p.grad is not None} == {torch.float32}
    assert all(p.grad is not None for p in layer.parameters())


@over([case for case in SOME if case.layer.dims > 1])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # torch's own layer
@pytest.mark.parametrize("recording", [True, False])
def test_channels_last_stays_so_where_torchs_does(case: Case, recording: bool) -> None:
    layer, theirs = case.make(torch.float32), case.torchs(torch.float32)
    memory_format = FORMATS[case.layer.dims + 2]
    x = case.input(dtype=torch.float32).to(memory_format=memory_format)
    for one in (layer, theirs):
        one.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]: torch's stub has 4D alone
    with torch.set_grad_enabled(recording):
        y, wanted = layer(x), theirs(x)
    assert y.stride() == wanted.stride()
    assert_close(y, expected(layer, x.contiguous()), rtol=1e-4, atol=1e-5)


class Sums(TorchDispatchMode):
    """The tensors that are summed over their first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.summed: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.sum.dim_IntList and 0 in args[1]:
            self.summed.append(args[0])
        return func(*args, **(kwargs or {}))


@over([case for case in SOME if case.layer.dims > 1])
@pytest.mark.usefixtures("no_small_images", "small_steps")
def test_channels_last_gradients_are_those_of_any_layout_and_summed_by_rows(case: Case) -> None:
    layer = case.make()
    x = case.input()
    assert len(x) > 1
    upstream = torch.randn_like(layer(x))
    wanted = torch.autograd.grad(layer(x), list(layer.parameters()), upstream)
    memory_format = FORMATS[case.layer.dims + 2]
    layer.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]: torch's stub has 4D alone
    y = layer(x.to(memory_format=memory_format))
    with Sums() as sums:
        given = torch.autograd.grad(y, list(layer.parameters()), upstream.to(memory_format=memory_format))
    for one, other in zip(given, wanted, strict=True):
        assert_close(one, other, rtol=1e-12, atol=1e-12)
    large = [s for s in sums.summed if s.numel() == y.numel()]
    rows = y.is_contiguous(memory_format=memory_format) and not y.is_contiguous()
    if rows and repr(case.tying) not in ("none", "tied"):
        assert large
        assert all(s.dim() == 2 and s.is_contiguous() for s in large)


@over(SOME)
def test_input_of_any_layout_gives_the_same(case: Case) -> None:
    layer = case.make()
    x = case.input()
    wanted = expected(layer, x)
    spaced = torch.stack([x, x], -1)[..., 0]
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    for given in (spaced, turned, x[:, :].expand_as(x)):
        with torch.no_grad():
            assert_close(layer(given), wanted)
        assert_close(layer(given), wanted)
    assert layer(x[:0]).shape == (0, *wanted.shape[1:])
    assert_close(layer(x[0]), wanted[0])


@over(SOME)
def test_what_is_written_in_place_is_nobodys(case: Case) -> None:
    """Without gradients the bias goes onto the convolution's own output: never onto input or parameters."""
    layer = case.make()
    x = case.input()
    kept = [t.clone() for t in (x, *layer.parameters())]
    recorded = layer(x)
    with torch.no_grad():
        first, second = layer(x), layer(x)
    with torch.inference_mode():
        third = layer(x)
    assert all(torch.equal(now, before) for now, before in zip((x, *layer.parameters()), kept, strict=True))
    assert first.data_ptr() not in (
        x.data_ptr(),
        second.data_ptr(),
        *(p.data_ptr() for p in layer.parameters()),
    )
    for y in (first, second, third):
        assert_close(y, recorded.detach(), rtol=1e-13, atol=1e-13)
    first.zero_()
    assert_close(second, recorded.detach(), rtol=1e-13, atol=1e-13)


@over(SOME)
def test_meta_to_empty_and_reset_is_a_layer(case: Case) -> None:
    layer = case.make(torch.float32, device="meta")
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    x = case.input(dtype=torch.float32)
    for recording in (True, False):
        with torch.set_grad_enabled(recording):
            assert layer(x.to("meta")).shape == expected(case.make(torch.float32), x).shape
    real = layer.to_empty(device="cpu")
    real.load_state_dict(case.make(torch.float32).state_dict())
    assert_close(real(x), expected(real, x), rtol=1e-4, atol=1e-5)
    torch.manual_seed(3)
    real.reset_parameters()
    torch.manual_seed(3)
    with torch.device("cpu"):
        wanted = type(real)(
            *case.layer.channels,
            case.layer.kernel_size,
            bias=case.tying,
            output_size=case.layer.output_size,
            **case.layer.options,
        )
    assert_close(dict(real.named_parameters()), dict(wanted.named_parameters()))


def test_the_device_context() -> None:
    case = plain("Regions")
    with torch.device("meta"):
        layer = case.make(torch.float32)
        assert layer.weight.is_meta
        assert layer(torch.empty(2, 2, 6, 6)).is_meta


@over(SOME)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(case: Case, dtype: torch.dtype) -> None:
    layer = case.make().to(dtype)
    x = case.input(dtype=dtype)
    wanted = expected(copy.deepcopy(layer).double(), x.double())
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for recording in (True, False):
        with torch.set_grad_enabled(recording):
            y = layer(x)
        assert y.dtype == dtype
        assert_close(y.double(), wanted, rtol=tolerance, atol=tolerance)


def _saved_and_loaded(layer: nn.Module) -> nn.Module:
    content = io.BytesIO()
    torch.save(layer.state_dict(), content)
    content.seek(0)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(content, weights_only=True))
    return other


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "state dict": _saved_and_loaded,
}


@over(SOME)
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_the_same_and_another(case: Case, name: str) -> None:
    layer, x = case.make(), case.input()
    other = COPIES[name](layer)
    wanted = layer(x).detach()
    assert repr(other) == repr(layer)
    assert torch.equal(other(x), wanted)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    assert torch.equal(other(x), wanted)
    assert not torch.equal(layer(x), wanted)


@over(SOME)
def test_functional_call_takes_other_parameters(case: Case) -> None:
    layer, other, x = case.make(), case.make(), case.input()
    function, _ = as_function(layer)
    assert torch.equal(function(x, *other.parameters()), other(x))
    assert torch.equal(functional_call(layer, other.state_dict(), (x,)), other(x))


def test_an_average_of_weights() -> None:
    for tying in ("untied", "rank:2", "Regions"):
        layer, x = plain(tying).make(), plain(tying).input()
        average = AveragedModel(layer)
        first = [p.detach().clone() for p in layer.parameters()]
        average.update_parameters(layer)
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(2)
        average.update_parameters(layer)
        for mean, start in zip(average.module.parameters(), first, strict=True):
            assert_close(mean, start + 1)
        assert_close(average(x), average.module(x))


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights(wrap: Any) -> None:
    case = plain("untied")
    layer = wrap(case.make())
    x = case.input().requires_grad_()
    y = layer(x)
    assert_close(y, expected(layer, x))
    assert len(gradients(y, layer, x)) == 1 + len(list(layer.parameters()))


def test_a_parametrised_bias() -> None:
    class Doubled(nn.Module):
        def forward(self, bias: Tensor) -> Tensor:
            return 2 * bias

    for tying in ("tied", "untied", "tap", "Regions"):
        case = plain(tying)
        layer, x = case.make(), case.input()
        without = layer(x)
        field = layer.bias_field((6, 6), input_size=(6, 6))
        parametrize.register_parametrization(layer, "bias", Doubled())
        assert_close(layer(x), without + field)


def test_the_additive_layer_is_as_movable() -> None:
    layer = Bias(3, (4, 5), "rank:2", device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(layer(x), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    last = x.to(memory_format=torch.channels_last)
    assert layer(last).stride() == last.stride()
    assert pickle.loads(pickle.dumps(layer))(x).shape == x.shape

"""torch.compile in one graph, forward and backward, at any batch; and what torch asks of an operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck
from torch.testing import assert_close

import convbias
from layer_cases import SOME, Case, expected, gradients, over, plain

# What the tyings add to a convolution takes these forms in a graph: nothing, an addition, a convolution
# over ones, a product of matrices, a gather.
FORMS = [
    plain(tying, activation="gelu") for tying in ("tied", "untied", "tap", "rank:2", "c + h w", "Regions")
]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def any_batch(x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    torch._dynamo.mark_dynamic(x, 0)
    return x


def holds(compiled: Any, layer: Any, x: Tensor, tolerance: float) -> None:
    y, wanted = compiled(x), expected(layer, x)
    assert_close(y, wanted, rtol=tolerance, atol=tolerance)
    assert_close(gradients(y, layer, x), gradients(wanted, layer, x), rtol=tolerance, atol=tolerance)


@over(SOME)
def test_one_graph_for_every_batch(case: Case) -> None:
    layer, counter = case.make(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for batch in (2, 5, 7):
        holds(compiled, layer, any_batch(case.input(batch)), 1e-12)
    assert counter.frame_count == 1


@over(SOME)
def test_without_gradients_too(case: Case) -> None:
    layer = case.make()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        x = case.input()
        kept = x.clone()
        assert_close(compiled(x), expected(layer, x))
        assert torch.equal(x, kept)
    with torch.inference_mode():
        assert_close(compiled(case.input(4)).shape, expected(layer, case.input(4)).shape)


@over(FORMS)
def test_by_the_compiler_that_is_there(case: Case, compile_backend: str) -> None:
    layer = case.make()
    compiled = torch.compile(layer, backend=compile_backend, fullgraph=True)
    for batch in (2, 5):
        holds(compiled, layer, any_batch(case.input(batch)), 1e-10)
    with torch.no_grad():
        x = case.input(4)
        for _ in range(3):
            assert_close(compiled(x), expected(layer, x))


def test_a_network_whose_images_have_any_size() -> None:
    net = nn.Sequential(
        convbias.Conv2d(2, 4, 3, padding=1, bias="tap", activation="relu"),
        convbias.Conv2d(4, 4, 3, stride=2, padding=1, bias="grid:3"),
        convbias.ConvTranspose2d(4, 2, 4, stride=2, padding=1, bias="tap"),
    ).double()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter, fullgraph=True, dynamic=True)
    for size in ((8, 10), (12, 14), (9, 7)):
        x = torch.randn(3, 2, *size, dtype=torch.float64)
        assert_close(compiled(x), net(x))
    assert counter.frame_count <= 2


@over(SOME)
def test_opcheck(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = case.make()
    arguments: list[Any] = []
    real = torch.ops.convbias.convolution

    class Keep(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (real, real.default):
                arguments.append(args)
            return func(*args, **(kwargs or {}))

    # The op is for tracers; what runs at once takes its body.
    with Keep(), monkeypatch.context() as patched:
        for module in ("functional", "ops.followers"):
            patched.setattr(f"convbias.{module}.is_compiling", lambda: True)
        layer(case.input().requires_grad_())
    (args,) = arguments
    # test_autograd_registration asks for an Autograd kernel, which a composite op has no need of.
    opcheck(real.default, args, test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"))

"""Inside torch.compile a large call is one node, which runs what eager mode runs, forward and back."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch.fx import GraphModule
from torch.library import opcheck
from torch.nn import functional as F
from torch.testing import assert_close

import convbias
from convbias.ops import compiled, native, packing, route
from convbias.ops.layout import field_as
from layer_cases import expected, gradients

pytestmark = pytest.mark.skipif(native.absence() is not None, reason=f"no own kernels: {native.absence()}")

LAST = torch.channels_last
WHOLE = torch.ops.convbias.whole.default
RECORDED = torch.ops.convbias.whole_recorded.default
BACK = torch.ops.convbias.whole_backward.default

Options = dict[str, Any]
REGIONS = convbias.Regions(torch.arange(1600).reshape(40, 40) // 100)
# What a layer is made of, and the sides of its images.
LAYERS: dict[str, tuple[Options, tuple[int, ...]]] = {
    "winograd": ({"channels": (32, 40), "padding": 1, "bias": "untied", "activation": "relu"}, (26, 22)),
    "winograd circular": (
        {"channels": (32, 33), "padding": 1, "padding_mode": "circular", "bias": "c h + c w"},
        (26, 22),
    ),
    "depthwise": (
        {
            "channels": (40, 40),
            "kernel_size": 7,
            "padding": 3,
            "groups": 40,
            "bias": "tap",
            "activation": "gelu",
        },
        (26, 22),
    ),
    "direct": ({"channels": (4, 8), "padding": 1, "bias": "tied", "activation": "silu"}, (61, 70)),
    "uneven padding": (
        {"channels": (32, 32), "kernel_size": 4, "padding": "same", "bias": "rank:2", "activation": "tanh"},
        (24, 23),
    ),
    "regions": ({"channels": (16, 16), "padding": 1, "bias": REGIONS, "activation": "relu"}, (40, 40)),
    "strided": ({"channels": (12, 34), "stride": 2, "padding": 1, "bias": "none"}, (51, 60)),
    "volumes": (
        {"channels": (8, 9), "padding": 1, "bias": "c h", "activation": "hardswish"},
        (9, 16, 17),
    ),
    "rows": ({"channels": (20, 16), "padding": 1, "bias": "untied", "activation": "sigmoid"}, (900,)),
}


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def made(name: str, last: bool = True) -> tuple[Any, Tensor]:
    options, sides = LAYERS[name]
    (into, out), dims = options["channels"], len(sides)
    kind = (convbias.Conv1d, convbias.Conv2d, convbias.Conv3d)[dims - 1]
    more = {"kernel_size": 3, **{key: value for key, value in options.items() if key != "channels"}}
    bare = {key: value for key, value in more.items() if key not in ("bias", "activation")}
    size = kind(into, out, bias=False, **bare).geometry().output_size(sides)
    layer = kind(into, out, output_size=size, **more)
    for key, parameter in layer.named_parameters():
        if key != "weight":
            nn.init.normal_(parameter)
    x = torch.randn(2, into, *sides)
    if dims == 1 or not last:
        return layer, x
    form: Any = (LAST, torch.channels_last_3d)[dims - 2]
    return layer.to(memory_format=form), x.to(memory_format=form)  # pyright: ignore[reportCallIssue]


class Graphs:
    """A compiler that runs what it is given, and remembers what was called in it."""

    def __init__(self) -> None:
        self.called: list[Any] = []

    def __call__(self, graph: GraphModule, _: Any) -> Any:
        self.called += [node.target for node in graph.graph.nodes if node.op == "call_function"]
        return make_boxed_func(graph.forward)

    def compile(self, function: Any) -> Any:
        backend = aot_autograd(fw_compiler=self, bw_compiler=self)
        return torch.compile(function, backend=backend, fullgraph=True)


def exact(layer: Any, x: Tensor) -> Tensor:
    return expected(copy.deepcopy(layer).double(), x.double())


def near(a: Tensor, b: Tensor) -> None:
    assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "last"), [*((name, True) for name in LAYERS), ("winograd", False), ("volumes", False)]
)
def test_one_node_forward_and_one_back(name: str, last: bool) -> None:
    layer, x = made(name, last)
    graphs = Graphs()
    call = graphs.compile(layer)
    with torch.no_grad():
        near(call(x), exact(layer, x))
        assert call(x).stride() == layer(x).stride()
    assert graphs.called.count(WHOLE) == 1
    # A tap's field is made by a convolution over ones, of one image.
    assert graphs.called.count(torch.ops.aten.convolution.default) == (layer.tying == convbias.parse("tap"))
    x = x.requires_grad_()
    double, twin = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    y = call(x)
    near(y, expected(double, twin))
    for ours, right in zip(
        gradients(y, layer, x), gradients(expected(double, twin), double, twin), strict=True
    ):
        assert_close(ours.double(), right, rtol=1e-3, atol=1e-3)
    assert (graphs.called.count(RECORDED), graphs.called.count(BACK)) == (1, 1)


@pytest.mark.parametrize("name", ["winograd", "depthwise", "volumes"])
def test_by_the_compiler_that_is_there(name: str, compile_backend: str) -> None:
    layer, x = made(name)
    call = torch.compile(nn.Sequential(nn.Identity(), layer), backend=compile_backend, fullgraph=True)
    with torch.no_grad():
        for _ in range(3):
            near(call(x), exact(layer, x))
        (route,) = convbias.explain_route(call, x)
        assert route.epilogue == convbias.explain_route(layer, x)[0].epilogue
    x = x.requires_grad_()
    y = call(x)
    for ours, right in zip(gradients(y, layer, x), gradients(layer(x), layer, x), strict=True):
        assert_close(ours, right, rtol=1e-3, atol=1e-3)


def test_every_batch_in_one_graph() -> None:
    layer, x = made("winograd")
    counter = CompileCounterWithBackend("aot_eager")
    call = torch.compile(layer, backend=counter, fullgraph=True)
    for batch in (2, 3, 5):
        images = torch.randn(batch, *x.shape[1:]).to(memory_format=LAST)
        torch._dynamo.mark_dynamic(images, 0)
        near(call(images), exact(layer, images))
    assert counter.frame_count == 1


def test_what_is_kept_of_a_weight_follows_it() -> None:
    layer, x = made("winograd")
    call = torch.compile(layer, backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def step() -> None:
        for parameter in layer.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    def written() -> None:
        layer.weight.data.mul_(2)
        layer.repack()

    def loaded() -> None:
        layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})

    def fresh() -> None:
        layer.weight = nn.Parameter(torch.randn_like(layer.weight))

    with torch.no_grad():
        near(call(x), exact(layer, x))
        assert layer.weight in compiled._kept
        for change in (step, written, loaded, fresh, lambda: layer.bias.zero_(), lambda: None):
            change()
            near(call(x), exact(layer, x))
        small = x[:, :, :24].contiguous(memory_format=LAST)
        layer.resize_((24, 22))
        near(call(small), exact(layer, small))


@pytest.mark.parametrize("name", ["winograd", "depthwise", "direct"])
@pytest.mark.parametrize("first", [LAST, torch.contiguous_format], ids=str)
def test_images_in_both_layouts_in_turn(name: str, first: torch.memory_format) -> None:
    layer, x = made(name, last=False)
    layer.requires_grad_(False)
    call = torch.compile(layer, backend="aot_eager")
    for form in (first, LAST, torch.contiguous_format, first):
        near(call(x.contiguous(memory_format=form)), exact(layer, x))


def test_a_weight_with_a_field_and_without() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = convbias.Conv2d(16, 16, 3, padding=1, bias="untied", output_size=(192, 192))
            self.b = convbias.Conv2d(16, 16, 3, padding=1, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    two = Two().requires_grad_(False).to(memory_format=LAST)  # pyright: ignore[reportCallIssue]
    x = torch.randn(4, 16, 192, 192).to(memory_format=LAST)
    assert_close(torch.compile(two, backend="aot_eager")(x), two(x), rtol=1e-4, atol=1e-4)


def test_what_is_ready_for_a_field_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made("winograd")
    readied, ready = [], packing.ready
    monkeypatch.setattr(packing, "ready", lambda call, packed: readied.append(packed) or ready(call, packed))
    monkeypatch.setattr(route, "run", lambda call: pytest.fail("it is ready"))
    field = field_as(LAST, torch.randn(layer.bias.shape))
    for _ in range(3):
        y = torch.ops.convbias.whole(x, layer.weight, field, [1, 1], [1, 1], [1, 1], 1, "relu")
        near(y, torch.relu(F.conv2d(x.double(), layer.weight.double(), padding=1) + field.double()))
    assert len(readied) == 1
    field.mul_(2)
    y = torch.ops.convbias.whole(x, layer.weight, field, [1, 1], [1, 1], [1, 1], 1, "relu")
    near(y, torch.relu(F.conv2d(x.double(), layer.weight.double(), padding=1) + field.double()))


def test_what_is_kept_goes_with_the_weight() -> None:
    layer, x = made("winograd")
    before = len(compiled._kept)
    with torch.no_grad():
        torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
    assert len(compiled._kept) == before + 1
    del layer
    torch._dynamo.reset()
    gc.collect()
    assert len(compiled._kept) == before


def test_a_training_step_keeps_nothing() -> None:
    layer, x = made("winograd")
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x).sum().backward()
    assert layer.weight not in compiled._kept


def test_steps_where_others_look_into_them() -> None:
    layer, x = made("winograd")

    def called(function: Any, *inputs: Tensor) -> list[Any]:
        graphs = Graphs()
        torch._dynamo.reset()
        graphs.compile(function)(*inputs)
        return graphs.called

    with torch.no_grad():
        assert WHOLE in called(layer, x)
        assert WHOLE not in called(convbias.Conv2d(32, 32, 3), x[:, :, :4, :4])
        assert WHOLE not in called(copy.deepcopy(layer).double(), x.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert WHOLE not in called(layer, x)
        one, field = x[0], layer.bias
        free = lambda image: convbias.functional.conv2d(image, layer.weight, field, padding=1)  # noqa: E731
        assert WHOLE not in called(torch.func.vmap(free), x[:, None])
        assert WHOLE not in called(free, one)
        slope = torch.func.grad(lambda image: free(image).square().sum())
        assert_close(torch.compile(slope, backend="aot_eager")(x), slope(x), rtol=1e-3, atol=1e-3)
    program = torch.export.export(layer, (x,)).run_decompositions()
    assert WHOLE not in [node.target for node in program.graph.nodes]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    layer, x = made("winograd")
    layer, x = layer.to(dtype), x.to(dtype)
    graphs = Graphs()
    with torch.no_grad():
        y = graphs.compile(layer)(x)
        assert_close(y.double(), exact(layer, x), rtol=0.02, atol=0.05)
    assert y.dtype == dtype
    assert WHOLE in graphs.called


@pytest.mark.parametrize("name", ["winograd", "depthwise", "rows"])
def test_opcheck(name: str) -> None:
    layer, x = made(name)
    geometry = layer.geometry()
    given, padding = geometry.padded(x)
    field = layer.bias_field(geometry.output_size(x.shape[2:])).detach().clone().requires_grad_()
    where = (geometry.stride, padding, geometry.dilation, layer.groups)
    for activation in ("", "relu"):
        opcheck(RECORDED, (given.clone().requires_grad_(), layer.weight, field, *where, activation))
        opcheck(WHOLE, (given, layer.weight.detach(), None, *where, activation))

"""Layers that are called as one give what they give one by one, to the bit, and nobody misses a call."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook as everywhere
from torch.testing import assert_close

import convbias
from convbias.nn.chained import Chained, Turn
from convbias.ops import native
from convbias.ops.chain import Chain

BUILT = native.absence() is None
needs_kernels = pytest.mark.skipif(not BUILT, reason=f"no own kernels: {native.absence()}")

# Layers of a network: what they are made of, the value that each is called with, and the one that it adds.
Made = tuple[dict[str, Any], int, int | None]


def conv(into: int, out: int, kernel: int, **words: Any) -> dict[str, Any]:
    return {"in_channels": into, "out_channels": out, "kernel_size": kernel, "padding": kernel // 2, **words}


def depthwise(channels: int, kernel: int, **words: Any) -> dict[str, Any]:
    return conv(channels, channels, kernel, groups=channels, **words)


# Of images of 32 channels and 20×22 numbers; and which values are wanted.
NETWORKS: dict[str, tuple[list[Made], list[int]]] = {
    "a line": ([(conv(32, 40, 1), 0, None), (conv(40, 36, 3), 1, None), (depthwise(36, 5), 2, None)], [3]),
    "a block": (
        [
            (conv(32, 24, 1), 0, None),
            (depthwise(24, 3), 1, None),
            (conv(24, 32, 1), 2, 0),
            (conv(32, 16, 1), 3, None),
        ],
        [4],
    ),
    "over the residual": (
        [
            (conv(32, 40, 1), 0, None),
            (conv(40, 32, 1), 1, None),
            (conv(32, 40, 1), 2, 1),
            (conv(40, 40, 1), 3, None),
            (conv(40, 40, 3), 4, 3),
            (depthwise(40, 3), 5, 4),
            (conv(40, 40, 1), 6, 6),
            (conv(40, 20, 1), 7, None),
        ],
        [8],
    ),
    "several wanted": (
        [
            (conv(32, 32, 1), 0, None),
            (conv(32, 32, 3), 1, 0),
            (conv(32, 32, 1), 2, 1),
            (conv(32, 17, 1), 3, None),
        ],
        [1, 3, 4],
    ),
    "one of another size": (
        [
            (conv(32, 64, 3), 0, None),
            (conv(64, 48, 1, stride=2), 1, None),
            (depthwise(48, 3, stride=2), 2, None),
        ],
        [2, 3],
    ),
    "torch's between": (
        [
            (conv(32, 32, 1), 0, None),
            (conv(32, 32, 1), 1, None),
            (conv(32, 40, 5), 2, None),
            (conv(40, 40, 1), 3, None),
            (conv(40, 40, 1), 4, 3),
        ],
        [5],
    ),
    "a reflection between": (
        [
            (conv(32, 32, 1), 0, None),
            (conv(32, 32, 1), 1, None),
            (conv(32, 32, 3, padding_mode="reflect"), 2, None),
            (conv(32, 32, 1), 3, 1),
            (conv(32, 32, 1), 4, None),
        ],
        [5],
    ),
    "one that nobody reads": (
        [(conv(32, 32, 1), 0, None), (conv(32, 32, 1), 0, None), (conv(32, 9, 1), 1, None)],
        [3],
    ),
}
over_networks = pytest.mark.parametrize("name", NETWORKS)


class Net(nn.Module):
    """The network of a row, its layers called as one, each in a part of its own."""

    def __init__(self, name: str, bias: str = "tied", activation: str | None = "relu") -> None:
        super().__init__()
        made, wanted = NETWORKS[name]
        sizes: dict[int, tuple[int, ...]] = {0: (20, 22)}
        layers: list[nn.Module] = []
        for i, (words, source, _) in enumerate(made):
            sizes[i + 1] = convbias.Conv2d(**words).geometry().output_size(sizes[source])
            layer = convbias.Conv2d(**words, bias=bias, output_size=sizes[i + 1], activation=activation)
            for parameter in layer.parameters():
                nn.init.normal_(parameter, std=0.2)
            layers.append(nn.Sequential(layer) if i % 2 else layer)
        self.layers, self.numbers = nn.ModuleList(layers), wanted
        turns = [Turn(i, ("0",) * (i % 2), x, residual) for i, (_, x, residual) in enumerate(made)]
        self.chained = Chained(turns, 1, wanted)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.chained((x,), tuple(self.layers))

    def one(self, i: int) -> convbias.Conv2d:
        found: Any = self.layers[i]
        return found[0] if i % 2 else found

    def one_by_one(self, x: Tensor) -> list[Tensor]:
        values = {0: x}
        for i, turn in enumerate(self.chained.turns):
            values[i + 1] = self.one(i)(*(x for x in turn.of(values) if x is not None))
        return [values[number] for number in self.numbers]

    @property
    def joined(self) -> int:
        """How many layers the library calls."""
        kept: Any = self.chained._kept
        chains = [part.args[0] for part in kept.values()[-1] if isinstance(part.args[0], Chain)]
        return sum(chain._count for chain in chains)


def image(n: int = 4) -> Tensor:
    return torch.randn(n, 32, 20, 22).to(memory_format=torch.channels_last)


def same(net: Net, x: Tensor) -> bool:
    found, wanted = net(x), net.one_by_one(x)
    assert [y.stride() for y in found] == [y.stride() for y in wanted]
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


@needs_kernels
@over_networks
@pytest.mark.parametrize("bias", ["none", "tied", "untied", "c h + c w", "tap"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_together_as_one_by_one(name: str, bias: str, activation: str | None) -> None:
    net, x = Net(name, bias, activation), image()
    with torch.no_grad():
        for _ in range(3):
            assert same(net, x)
            x = image()
        between = "between" in name
        assert net.joined == len(net.layers) - between
        # What was given is as it was.
        before = x.clone()
        first = net(x)
        held = [y.clone() for y in first]
        net(image())
    assert torch.equal(x, before)
    assert all(map(torch.equal, first, held))


@over_networks
def test_whatever_runs_it(name: str) -> None:
    net = Net(name, "untied")
    for x in (
        image(),
        image(1),
        torch.randn(2, 32, 20, 22),
        image()[:, :, ::1].double().float(),
        image()[:0],
    ):
        with torch.no_grad():
            assert same(net, x)
            with convbias.backend("aten"):
                assert same(net, x)
            with convbias.backend(winograd=False):
                assert same(net, x)
    double, x = copy.deepcopy(net).double(), image()
    with torch.no_grad():
        for found, wanted in zip(net(x), double(x.double()), strict=True):
            assert_close(found.double(), wanted, rtol=1e-4, atol=1e-3)


def test_gradients_are_recorded() -> None:
    net, x = Net("a block"), image().requires_grad_()
    gradients = torch.autograd.grad(net(x)[0].sum(), [x, *net.parameters()])
    wanted = torch.autograd.grad(net.one_by_one(x)[0].sum(), [x, *net.parameters()])
    assert all(map(torch.equal, gradients, wanted))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    assert net(x)[0].requires_grad
    assert not net(x.detach())[0].requires_grad
    if BUILT:
        assert net.joined == len(net.layers)
    net.one(1).weight.requires_grad_()
    assert net(x.detach())[0].requires_grad


CHANGES: dict[str, Callable[[Any], object]] = {
    "a weight": lambda net: net.one(0).weight.mul_(-1),
    "a bias": lambda net: net.one(2).bias.add_(1),
    "another parameter": lambda net: setattr(net.one(1), "weight", nn.Parameter(net.one(1).weight * 2)),
    "a state": lambda net: net.load_state_dict(Net("a block").state_dict()),
    "an activation": lambda net: setattr(net.one(3), "activation", "silu"),
    "a padding": lambda net: setattr(net.one(1), "padding_mode", "circular"),
    "another layer": lambda net: net.layers[3].__setitem__(0, convbias.Conv2d(32, 16, 1)),
    "torch's layer": lambda net: net.layers[3].__setitem__(0, nn.Conv2d(32, 16, 1)),
    "its forward": lambda net: setattr(net.one(0), "forward", lambda x: torch.zeros_like(x[:, :24])),
    "to float64": lambda net: net.double(),
    "the optimizer": lambda net: step(net),
    "a subclass": lambda net: setattr(net.one(0), "weight", nn.Parameter(Other(net.one(0).weight * -3))),
    "turned when it is read": lambda net: setattr(
        *(net.one(0), "weight"),
        nn.Parameter(torch._neg_view(net.one(0).weight.detach())),  # pyright: ignore
    ),
    "a plain attribute": lambda net: plainly(net.one(0)),
    "written to .data, and said so": lambda net: (net.one(0).weight.data.mul_(2), net.one(0).repack()),
}


class Other(Tensor):
    """What others make of parameters."""


def plainly(layer: convbias.Conv2d) -> None:
    weight = layer.weight * -3
    del layer.weight
    layer.weight = weight  # pyright: ignore[reportAttributeAccessIssue]


def step(net: Net) -> None:
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(net.parameters(), 0.1).step()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str) -> None:
    net, x = Net("a block"), image()
    with torch.no_grad():
        before = net(x)[0]
        CHANGES[change](net)
        x = x.to(next(net.parameters()).dtype)
        assert same(net, x)
        assert not torch.equal(net(x)[0], before.to(x.dtype))
        CHANGES[change](net)
        assert same(net, x)


def test_a_plain_attribute_keeps_its_gradient() -> None:
    net, x = Net("a block"), image()
    scale = torch.ones((), requires_grad=True)
    with torch.no_grad():
        net(x)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    weight = net.one(0).weight
    del net.one(0).weight
    net.one(0).weight = weight * scale  # pyright: ignore[reportAttributeAccessIssue]
    assert net(x)[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_what_is_added_may_be_of_another_type(dtype: torch.dtype) -> None:
    layers = convbias.Conv2d(32, 32, 1), convbias.Conv2d(32, 32, 1)
    chained, x, r = Chained([Turn(0, (), 0), Turn(1, (), 2, 1)], 2, [3]), image(), image()
    with torch.no_grad():
        chained((x, r), layers)
        (found,), wanted = chained((x, r.to(dtype)), layers), layers[1](layers[0](x), r.to(dtype))
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="must have the output's shape"):
        chained((x, r[:, :16]), layers)


def test_a_layer_may_have_several_turns() -> None:
    one, half = convbias.Conv2d(32, 32, 3, padding=1), convbias.Conv2d(32, 32, 1, stride=2)
    chained = Chained([Turn(0, (), 0), Turn(1, (), 1), Turn(0, (), 2)], 1, [3])
    x = torch.randn(2, 32, 64, 64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(chained((x,), (one, half))[0], one(half(one(x))))


def test_threads_call_at_once() -> None:
    net, sizes = Net("a line"), (1, 2, 3)
    images = {n: image(n) for n in sizes}
    wrong, interval = list[int](), sys.getswitchinterval()

    def work(first: int) -> None:
        with torch.no_grad():
            for i in range(100):
                n = sizes[(first + i) % 3]
                if not torch.equal(net(images[n])[0], wanted[n]):
                    wrong.append(n)

    with torch.no_grad():
        wanted = {n: net.one_by_one(x)[0] for n, x in images.items()}
    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    try:
        sys.setswitchinterval(1e-6)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_hooks_are_called() -> None:
    net, x, seen = Net("a line"), image(), list[str]()

    def of_a_layer(layer: nn.Module, *_: object) -> None:
        if isinstance(layer, convbias.Conv2d):
            seen.append("any")

    with torch.no_grad():
        net(x)
        kinds: list[Callable[[], Any]] = [
            lambda: net.one(1).register_forward_hook(lambda *_: seen.append("after")),
            lambda: net.one(1).register_forward_pre_hook(lambda *_: seen.append("before")),
            lambda: everywhere(of_a_layer),
        ]
        for kind in kinds:
            handle = kind()
            net(x)
            assert seen
            handle.remove()
            seen.clear()
            net(x)
            assert not seen
        assert len(convbias.explain_route(net, x)) == 3


def test_others_follow_the_calls() -> None:
    net, x = Net("a block"), image()
    with torch.no_grad():
        wanted = net(x)[0]
        assert_close(torch.vmap(lambda x: net(x[None])[0])(x)[:, 0], wanted, rtol=1e-4, atol=1e-3)
        with torch.autocast("cpu", torch.bfloat16):
            assert net(x)[0].dtype == torch.bfloat16
    along = torch.func.jvp(lambda x: net(x)[0], (x,), (torch.ones_like(x),))[1]
    assert along.any()
    exported = torch.export.export(net, (x,))
    assert_close(exported.module()(x)[0], wanted, rtol=1e-4, atol=1e-3)


def test_copies_and_files() -> None:
    net, x = Net("several wanted"), image()
    with torch.no_grad():
        wanted = net(x)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert not other.chained._kept.values()
            assert all(map(torch.equal, other(x), wanted))


def bottleneck() -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(64, 32, 1), nn.Conv2d(32, 64, 1)
            self.norm, self.last = nn.BatchNorm2d(32), nn.BatchNorm2d(64)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.last(self.up(torch.relu(self.norm(self.down(x))))) + x)

    class Skipping(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            first, *inner = self
            x = y = first(input)
            for block in inner:
                y = block(y)
            return x[..., ::2, ::2] - y

    return Skipping(nn.Conv2d(32, 64, 3, padding=1), Block(), Block(), nn.AvgPool2d(2), Block())


@needs_kernels
def test_a_folded_network_calls_its_layers_together() -> None:
    net, x = bottleneck().eval(), torch.randn(1, 32, 40, 44).to(memory_format=torch.channels_last)
    folded = convbias.fold(net, x, target="convbias")
    model: Any = folded.model
    found = [len(part.turns) for part in model.modules() if isinstance(part, Chained)]
    assert found == [5, 2]
    names = {name for name, part in model.named_modules() if isinstance(part, convbias.Conv2d)}
    assert names == {"0", "1.down", "1.up", "2.down", "2.up", "4.down", "4.up"}
    with torch.no_grad():
        y, wanted = model(x), net(x)
        assert_close(y, wanted, rtol=1e-4, atol=1e-4)
        # A copy has its own layers, under the same names, and so has a file.
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other.state_dict().keys() == model.state_dict().keys()
            assert torch.equal(other(x), y)
            other.get_submodule("2.up").weight.zero_()
            assert not torch.equal(other(x), y)
        assert torch.equal(model(x), y)
        again = convbias.fold(model, x, target="convbias").model
        assert_close(again(x), wanted, rtol=1e-4, atol=1e-4)
        compiled = torch.compile(model, fullgraph=True)
        assert_close(compiled(x), wanted, rtol=1e-4, atol=1e-4)

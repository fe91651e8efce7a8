"""Layers in the place of torch.nn's: arguments, numbers, attributes, errors, tools and state dicts alike."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval, parametrizations, parametrize, prune, skip_init

import convbias
from convbias import Regions, Site, parse, refines
from convbias.tying.tap import holds_tied
from layer_cases import ALL, LAYERS, TYINGS, Case, over, plain, tying_of

CONV, UP = [f"Conv{d}d" for d in (1, 2, 3)], [f"ConvTranspose{d}d" for d in (1, 2, 3)]
KINDS = [*CONV, *UP]
SIZES = {"1": (9,), "2": (7, 6), "3": (5, 6, 4)}
BASE = {"in_channels": 4, "out_channels": 4, "kernel_size": 3}
BOTH: list[dict[str, Any]] = [
    {}, {"bias": False}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"kernel_size": 1},
    {"groups": 2, "stride": 2}, {"groups": 4, "out_channels": 8}, {"out_channels": 1}, {"bias": 1},
    {"dtype": torch.float16}, {"dtype": torch.bfloat16}, {"dtype": torch.float64}, {"dtype": torch.complex64},
    {"bias": 0}, {"bias": None}, {"bias": np.True_}, {"bias": np.False_}, {"bias": torch.tensor(True)},
]  # fmt: skip
FORWARD: list[dict[str, Any]] = [
    *BOTH, {"padding": "same"}, {"padding": "same", "kernel_size": 4}, {"padding": "valid", "stride": 2},
    {"padding": "same", "kernel_size": 2, "dilation": 3}, {"padding": 2, "padding_mode": "reflect"},
    {"padding_mode": "reflect"}, {"padding": "same", "kernel_size": 2, "padding_mode": "circular"},
    {"padding": "valid", "padding_mode": "circular"}, {"padding": 5, "padding_mode": "replicate"},
]  # fmt: skip
TRANSPOSED: list[dict[str, Any]] = [
    *BOTH, {"stride": 2, "output_padding": 1}, {"dilation": 3, "output_padding": 2}, {"padding": 2},
]  # fmt: skip


def image(kind: str = "Conv2d", dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 4, *SIZES[kind[-2]], dtype=dtype)


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """torch.nn's layer and ours from the same arguments and seed; the generator has to end up the same."""
    made, states = [], []
    for source in (nn, convbias):
        torch.manual_seed(1)
        made.append(getattr(source, kind)(**BASE | options))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    return made[0], made[1]


def assert_same(found: Any, wanted: Any) -> None:
    """To the bit: a tied layer runs torch's own kernels."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True, check_stride=True)


def assert_same_layer(ours: Any, theirs: Any) -> None:
    assert repr(ours) == repr(theirs)
    assert_same(dict(ours.state_dict()), dict(theirs.state_dict()))
    for name, wanted in vars(theirs).items():
        if not name.startswith("_"):
            found = getattr(ours, name)
            assert (found, type(found)) == (wanted, type(wanted)), name


def outcome(run: Callable[[Any], Any], source: Any) -> Any:
    """What ``run(source)`` gives, or the error that it raises. What torch alone warns of is not compared."""
    torch.manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return run(source)
        except Exception as error:
            return error


def assert_same_outcome(run: Callable[[Any], Any]) -> None:
    """``run(convbias)`` gives what ``run(torch.nn)`` gives, or an error that its callers would catch."""
    wanted, found = outcome(run, nn), outcome(run, convbias)
    if isinstance(wanted, Exception):
        assert isinstance(found, type(wanted)), (found, wanted)
    else:
        assert not isinstance(found, Exception), found
        assert_same(found, wanted)


@pytest.mark.parametrize("kind", [*KINDS, *(f"Lazy{kind}" for kind in KINDS)])
def test_signatures(kind: str) -> None:
    def listed(function: Any) -> list[Any]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    theirs, ours = getattr(nn, kind), getattr(convbias, kind)
    more = [(name, inspect.Parameter.KEYWORD_ONLY, None) for name in ("output_size", "activation")]
    assert listed(ours) == listed(theirs) + more
    residual = [] if "Transpose" in kind else [("residual", inspect.Parameter.POSITIONAL_OR_KEYWORD, None)]
    assert listed(ours.forward) == listed(theirs.forward) + residual


OPTIONS = [(k, o) for kinds, table in ((CONV, FORWARD), (UP, TRANSPOSED)) for k in kinds for o in table]


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding")
def test_the_same_layer(kind: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(kind, **options)
    assert_same_layer(ours, theirs)
    with convbias.backend("aten"):
        assert_same_numbers(ours, theirs, image(kind, theirs.weight.dtype))


def assert_same_numbers(ours: Any, theirs: Any, x: Tensor) -> None:
    for input in (x, x[0], x[:0], x.transpose(1, -1).contiguous().transpose(1, -1)):
        results = []
        for layer in (ours, theirs):
            leaves = [input.detach().requires_grad_(), *layer.parameters()]
            y = layer(leaves[0])
            first = torch.autograd.grad(y.abs().pow(3).sum(), leaves, create_graph=True)
            scalar = torch.stack([g.abs().pow(2).sum() for g in first]).sum()
            second = torch.autograd.grad(scalar, leaves, allow_unused=True)
            with torch.no_grad():
                results.append([y, layer(leaves[0]), *first, *second])
        assert_same(*results)


BAD_ARGUMENTS: list[dict[str, Any]] = [
    {"groups": 0}, {"groups": -1}, {"groups": 3}, {"groups": "2"}, {"groups": 2.0}, {"in_channels": -4},
    {"out_channels": 3, "groups": 2}, {"in_channels": 4.0}, {"in_channels": None}, {"out_channels": "4"},
    {"kernel_size": 0}, {"kernel_size": -1}, {"kernel_size": 3.5}, {"kernel_size": None}, {"dilation": 0},
    {"kernel_size": (3, 3, 3, 3)}, {"stride": 0}, {"stride": -1}, {"stride": 1.5}, {"stride": (1, 1, 1, 1)},
    {"stride": None}, {"padding": -1}, {"padding": None}, {"padding": 0.5}, {"filters": 3}, {"device": "no"},
    {"padding_mode": "zero"}, {"padding_mode": 3}, {"padding_mode": "reflect", "padding": 40},
    {"padding_mode": "circular", "padding": 40}, {"dtype": torch.int64}, {"dtype": "float32"},
    {"kernel_size": "3"}, {"output_padding": 9}, {"padding": "same", "stride": 2}, {"padding": "SAME"},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_bad_raises_what_torchs_callers_catch(kind: str) -> None:
    x = image(kind)
    small = x[(..., *(slice(1),) * int(kind[-2]))] if kind in CONV else x[:, :2]
    bad = [None, [1.0], "x", x.numpy(), x.long(), x.double(), x[:, :3], x[0, 0], x[None], x.sum(), small]
    calls = [({"bias": b}, given) for b in (True, False) for given in [(), (x, x, x), *zip(bad, strict=True)]]
    for options, given in calls + [(options, (x,)) for options in BAD_ARGUMENTS]:
        if kind in UP and isinstance(options.get("padding"), str):
            continue  # torch takes the letters for a sequence, and fails when it runs

        def run(source: Any, options: Any = options, given: Any = given) -> Any:
            return getattr(source, kind)(**BASE | options)(*given)

        assert isinstance(outcome(run, nn), Exception), (options, given)
        assert_same_outcome(run)


@pytest.mark.parametrize("kind", KINDS)
def test_spellings_of_integers(kind: str) -> None:
    dims, x, wanted = int(kind[-2]), image(kind), getattr(nn, kind)(4, 4, 3, 2, 1)
    several = [lambda n: [n] * dims, lambda n: torch.Size([n] * dims), lambda n: np.full(dims, n)]
    for spell in (np.int64, *several):
        ours = getattr(convbias, kind)(4, 4, spell(3), spell(2), spell(1), dilation=spell(1))
        ours.load_state_dict(wanted.state_dict())
        assert_same_layer(ours, wanted)
        assert_same(ours(x), wanted(x))


@pytest.mark.parametrize("kind", ["ConvTranspose2d", "LazyConvTranspose2d"])
def test_the_output_size_that_is_asked_for(kind: str) -> None:
    x, channels = image(), (4,) if kind in UP else ()
    asked: list[Any] = [(h, w) for h in range(14, 18) for w in (12, 13, 14, 15)]
    asked += [[15, 13], torch.Size((2, 4, 16, 14)), (4, 16, 14), (16,), (), 16, "ab", torch.tensor([16, 14])]
    for size in asked:
        assert_same_outcome(lambda s, size=size: getattr(s, kind)(*channels, 4, 3, 2)(x, size))
        assert_same_outcome(lambda s, size=size: getattr(s, kind)(*channels, 4, 3, 2)(x[0], output_size=size))


CHANGES: list[dict[str, Any]] = [
    {"stride": (2, 1)}, {"stride": 2}, {"stride": [2, 2]}, {"padding": (0, 2)}, {"padding": "same"},
    {"dilation": 2}, {"padding_mode": "circular"}, {"in_channels": 9, "out_channels": 9}, {"bias": None},
    {"weight": nn.Parameter(torch.ones(6, 4, 5, 1)), "bias": nn.Parameter(torch.ones(6))},
    {"groups": 2, "weight": nn.Parameter(torch.ones(4, 2, 3, 3))}, {"bias": nn.Parameter(torch.arange(4.0))},
]  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: ", ".join(changes))
def test_attributes_that_are_changed(changes: dict[str, Any], bias: bool) -> None:
    def run(source: Any) -> Any:
        x, layer = image(), source.Conv2d(4, 4, 3, padding=1, bias=bias)
        layer(x)
        for name, value in changes.items():
            setattr(layer, name, value)
        return layer(x), dict(layer.state_dict())

    assert_same_outcome(run)


def folded(source: Any, kind: str, bias: bool) -> Any:
    layer, norm = getattr(source, kind)(**BASE, bias=bias).eval(), nn.BatchNorm2d(4).eval()
    nn.init.normal_(norm.bias)
    x, fused = image(), fuse_conv_bn_eval(layer, norm, transpose=kind in UP)
    torch.testing.assert_close(fused(x), norm(layer(x)), rtol=1e-4, atol=1e-5)
    return fused(x), dict(fused.state_dict())


def rewired(source: Any) -> Any:
    layer, x = source.Conv2d(4, 8, 3).to(memory_format=torch.channels_last), image()
    layer.reset_parameters()
    prune.l1_unstructured(layer, "bias", 0.5)
    seen = [layer(x.to(memory_format=torch.channels_last)), dict(layer.state_dict())]
    prune.remove(layer, "bias")
    for name in ("weight", "bias"):
        # It draws anew each time that it is computed.
        parametrize.register_parametrization(layer, name, nn.Dropout(0.5))
    seen += [layer(x), layer(x), dict(layer.state_dict())]
    parametrize.remove_parametrizations(layer, "bias")
    return [*seen, layer(x), dict(layer.state_dict())]


def loaded(source: Any, state: dict[str, Any], **options: Any) -> Any:
    layer = source.Conv2d(4, 4, 3, **options)
    layer.load_state_dict({"weight": torch.ones(4, 4, 3, 3), **state})
    return layer(image())


TOOLS: dict[str, Callable[[Any], Any]] = {
    "fuse": lambda source: folded(source, "Conv2d", True),
    "fuse without bias": lambda source: folded(source, "ConvTranspose2d", False),
    "channels_last, prune, parametrize": rewired,
    "spectral_norm": lambda source: parametrizations.spectral_norm(source.Conv2d(**BASE))(image()),
    "autocast": torch.autocast("cpu", torch.bfloat16)(lambda source: source.Conv2d(**BASE)(image())),
    "torch.fx": lambda source: torch.fx.symbolic_trace(nn.Sequential(source.Conv2d(**BASE)))(image()),
    "a state of integers": lambda source: loaded(source, {"bias": torch.arange(4)}),
    "a state of numbers": lambda source: loaded(source, {"bias": 1.0}),
    "a state without bias": lambda source: loaded(source, {}),
    "a state with a bias too many": lambda source: loaded(source, {"bias": torch.ones(4)}, bias=False),
    "a bias too long": lambda source: loaded(source, {"bias": torch.zeros(5)}),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_torchs_tools(tool: str) -> None:
    assert_same_outcome(TOOLS[tool])


@pytest.mark.parametrize("tying", TYINGS)
def test_tools_with_every_tying(tying: str) -> None:
    case = plain(tying)
    layer: Any = case.make()
    x = case.input().to(memory_format=torch.channels_last)
    y = layer.to(memory_format=torch.channels_last)(x)
    with torch.no_grad():
        assert all(z.is_contiguous(memory_format=torch.channels_last) for z in (y, layer(x)))
    assigned, state = case.make(device="meta"), pickle.loads(pickle.dumps(layer.state_dict()))
    assigned.load_state_dict(state, assign=True)
    assert all(p.requires_grad and isinstance(p, nn.Parameter) for p in assigned.parameters())
    options = {"bias": case.tying, "output_size": 6, "dtype": torch.float64}
    skipped = skip_init(convbias.Conv2d, 2, 4, 3, 1, 1, **options)
    skipped.load_state_dict(state)
    traced = torch.fx.symbolic_trace(nn.Sequential(layer))
    for one in (assigned, skipped, traced, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same(one(x), y)
    layer.bias = None
    assert (repr(layer.tying), list(layer.state_dict())) == ("none", ["weight"])
    assert_same(layer(x[..., 1:]), F.conv2d(x[..., 1:], layer.weight, padding=1))


def holds(case: Case, layer: Any) -> bool:
    """Whether the tying of ``layer`` can be any tied bias, whatever the size of the image."""
    site = Site.of(layer.out_channels, layer.geometry(), case.layer.size)
    always = repr(case.tying) != "tap" or holds_tied(layer.geometry())
    return always and refines(case.tying, parse("tied"), site)


@over(ALL)
@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own layer, once in a process
def test_every_layer_starts_as_torchs_and_loads_its_state(case: Case) -> None:
    size, options = case.layer.output_size, {k: v for k, v in case.layer.options.items() if k != "activation"}
    theirs_has = {"bias": repr(case.tying) != "none"}
    sized, unsized = {"bias": case.tying, "output_size": size}, {"bias": case.tying}
    made, states = [], []
    for source, prefix, more in ((nn, "", theirs_has), (convbias, "", sized), (convbias, "Lazy", unsized)):
        torch.manual_seed(3)
        kind, channels = getattr(source, prefix + case.layer.kind), case.layer.channels
        layer = kind(*channels[bool(prefix) :], case.layer.kernel_size, **options, **more)
        layer(torch.zeros(0, channels[0], *case.layer.size))
        made.append(layer)
        states.append(torch.get_rng_state())
    theirs, ours, lazy = made
    assert (repr(lazy), type(lazy)) == (repr(ours), type(ours))
    assert_same(dict(lazy.state_dict()), dict(ours.state_dict()))
    assert_same([ours.weight, *states[1:]], [theirs.weight, states[0], states[0]])
    whole = {"weight": theirs.weight, "bias": torch.arange(ours.out_channels) + 1}
    if theirs.bias is None or not holds(case, ours):
        with pytest.raises(RuntimeError, match=r"is not a|no tap bias|Unexpected"):
            ours.load_state_dict(whole)
        return
    # The field of a tap or a grid is a sum, and sums are rounded.
    error = 1e-6 if "tap" in repr(case.tying) or "grid" in repr(case.tying) else 0
    for state in ({}, theirs.state_dict(), whole):
        if state:
            ours.load_state_dict(state)
        field = ours.bias_field(size, input_size=case.layer.size).detach()
        level = (state or theirs.state_dict())["bias"].to(field).reshape(-1, *(1,) * case.layer.dims)
        torch.testing.assert_close(field, level.expand_as(field), rtol=error, atol=error)


# No state dict shows the size that symmetries are for, or the labels of regions; and taps bend at the border.
FREE = ("tied", "", "grid:3", "tap", "c + tap")
HIDDEN = {(s, t) for s in TYINGS for t in FREE if s.startswith("sym") or s in ("tap", "c + tap")}
HIDDEN |= {("Regions", t) for t in TYINGS}


@pytest.mark.parametrize("name", ["2d square", "2d dilated", "2d transposed grouped", "2d same replicate"])
@pytest.mark.parametrize("source", TYINGS)
@pytest.mark.parametrize("constant", [True, False])
def test_a_state_loads_into_another_tying_exactly_or_not(name: str, source: str, constant: bool) -> None:
    cases = {t: Case(t, LAYERS[name], tying) for t in TYINGS if (tying := tying_of(t, LAYERS[name]))}
    if source not in cases:
        return
    saved, x = cases[source].make(), cases[source].input()
    if constant and source != "none":
        saved._start_from(torch.arange(1.0, saved.out_channels + 1, dtype=torch.float64))
    site = Site.of(saved.out_channels, saved.geometry(), LAYERS[name].size)
    for target, case in cases.items():
        layer = case.make()
        result = outcome(lambda _, layer=layer: layer.load_state_dict(saved.state_dict()), None)
        if isinstance(result, Exception):
            assert isinstance(result, RuntimeError)
            finer = "none" not in (source, target) and refines(case.tying, saved.tying, site)
            flat = constant and holds(cases[source], saved) and holds(case, layer)
            assert (source, target) in HIDDEN or not (finer or flat), (target, result)
        else:
            torch.testing.assert_close(layer(x), saved(x), rtol=1e-12, atol=1e-12)


def test_what_a_state_dict_does_not_show() -> None:
    one, other = (convbias.Conv1d(1, 1, 1, bias=Regions(torch.tensor(n))) for n in ([0, 0, 1], [0, 1, 1]))
    with pytest.raises(RuntimeError, match="a state dict holds no labels"):
        other.load_state_dict(one.state_dict())
    grid, tap = (convbias.Conv1d(1, 1, 5, padding=2, bias=bias) for bias in ("grid:3", "tap"))
    grid.load_state_dict({"weight": grid.weight, "bias": torch.randn(1, 3)})
    with pytest.raises(RuntimeError, match="follow the image in different ways"):
        tap.load_state_dict(grid.state_dict())
    ramp, flat = (convbias.Conv2d(1, 1, 1, bias=b, output_size=(5, 6)) for b in ("c h", "grid:3"))
    flat.load_state_dict({**ramp.state_dict(), "bias": torch.arange(5.0).reshape(1, 5, 1)})
    assert flat.bias_field((5, 6))[0].allclose(torch.arange(5.0)[:, None].expand(5, 6), atol=1e-6)


@pytest.mark.parametrize("tying", ["tied", "untied", "c h", "sym:d4", "tap"])
def test_a_lazy_layer_refuses_and_goes_on(tying: str) -> None:
    lazy: Any = convbias.LazyConv2d(4, 3, groups=2, bias=tying)
    fresh = copy.deepcopy(lazy)
    theirs, x = nn.Conv2d(2, 4, 3, groups=2), torch.ones(1, 2, 6, 6)
    fresh.load_state_dict(lazy.state_dict())
    assert fresh.has_uninitialized_params()
    with pytest.raises(RuntimeError, match="shape of an uninitialized"):
        theirs.load_state_dict(lazy.state_dict())
    for bad in (torch.zeros(1, 3, 8, 8), torch.zeros(2, 2), torch.zeros(1, 2, 5, 1)):
        with pytest.raises(RuntimeError):
            lazy(bad)
    assert lazy(x).shape == (1, 4, 4, 4)
    if parse(tying).size_bound:
        with pytest.raises(RuntimeError, match="output_size=None: a tied bias becomes"):
            fresh.load_state_dict(theirs.state_dict())
    else:
        fresh.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(fresh(x), theirs(x))


# README's table for four filters, a kernel of 3, and an output of 7, of 5 by 6, or of 2 by 5 by 6.
SHAPES: dict[int, dict[Any, list[tuple[int, ...]]]] = {
    1: {
        "none": [], "tied": [(4,)], "": [(1, 1)], "l": [(1, 7)], "c l": [(4, 7)], "tap": [(4, 3)],
        "untied": [(4, 7)], "c + l": [(4,), (1, 7)], "rank:2": [(4,), (4, 2), (2, 7)], "grid:5": [(4, 5)],
        "sym:flip_l": [(4, 4)], Regions(torch.arange(7) % 3): [(4, 3)],
    },
    2: {
        False: [], True: [(4,)], "": [(1, 1, 1)], "c h": [(4, 5, 1)], "c w": [(4, 1, 6)], "h w": [(1, 5, 6)],
        "untied": [(4, 5, 6)], "c + h w": [(4,), (1, 5, 6)], "c h + c w": [(4, 5, 1), (4, 1, 6)],
        "tap": [(4, 3, 3)], "c + tap": [(4,), (4, 3, 3)], "rank:2": [(4,), (4, 2), (2, 5, 6)],
        "grid:8": [(4, 8, 8)], "grid:2x3": [(4, 2, 3)], "sym:flip_w": [(4, 15)], "sym:flip_h": [(4, 18)],
    },
    3: {
        "": [(1, 1, 1, 1)], "c d w": [(4, 2, 1, 6)], "untied": [(4, 2, 5, 6)], "grid:4x8x8": [(4, 4, 8, 8)],
        "tap": [(4, 3, 3, 3)], "c + d + h w": [(4,), (1, 2, 1, 1), (1, 1, 5, 6)], "sym:flip_d": [(4, 30)],
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_of_the_parameters(kind: str) -> None:
    for tying, shapes in SHAPES[dims := int(kind[-2])].items():
        size = {1: (7,), 2: (5, 6), 3: (2, 5, 6)}[dims]
        layer = getattr(convbias, kind)(2, 4, 3, padding=1, bias=tying, output_size=size)
        names = ("bias", "bias_u", "bias_v") if tying == "rank:2" else ("bias", "bias_1", "bias_2")
        weight = ("weight", (*((2, 4) if kind in UP else (4, 2)), *layer.kernel_size))
        found = [(name, tuple(value.shape)) for name, value in layer.state_dict().items()]
        assert found == [weight, *zip(names, shapes, strict=False)]

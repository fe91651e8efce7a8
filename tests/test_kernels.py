"""Kernels: whichever runs, it is the definition, in every layout, type, size and number of threads."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.testing import assert_close

import convbias
from convbias.ops import aten, convolve, native, ways
from convbias.ops.activations import ACTIVATIONS, CHEAP
from convbias.ops.epilogue import KEEPING, finish
from convbias.ops.layout import memory_order
from convbias.tying.base import Summand
from layer_cases import ALL, SOME, Case, expected, gradients, over

FORMATS = {3: None, 4: torch.channels_last, 5: torch.channels_last_3d}
# Of one rounding to the type, and of float32 arithmetic over the small sums here.
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
BUILT = native.absence() is None
needs_library = pytest.mark.skipif(not BUILT, reason=f"no own kernels: {native.absence()}")


SETS = native.known_instructions() if BUILT else []


@pytest.fixture(params=SETS or [pytest.param("none", marks=needs_library)])
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has."""
    before = native.instructions()
    native.use(request.param)
    yield request.param
    native.use(before)


def check_layer(case: Case, channels_last: bool, name: str, dtype: torch.dtype, tolerance: float) -> None:
    """One case, forward and with gradients, beside the definition in float64."""
    layer, x = case.make(dtype), case.input(dtype=dtype)
    form = FORMATS[x.dim()] if channels_last else None
    if form is not None:
        layer, x = layer.to(memory_format=form), x.to(memory_format=form)  # pyright: ignore[reportCallIssue]
    exact, exact_x = case.make(), x.double().clone().requires_grad_()
    exact.load_state_dict(layer.state_dict())
    wanted = expected(exact, exact_x)
    for input in (x, x.clone().requires_grad_()):
        with torch.set_grad_enabled(input.requires_grad):
            (taken,) = convbias.explain_route(layer, input)
            y = layer(input)
        # A relu alone is torch's.
        alone = name == "aten" and layer.activation in CHEAP and repr(layer.tying) in ("none", "tied")
        if case.layer.options.get("activation") or taken.epilogue != "nothing":
            assert taken.epilogue == ("in_place" if alone else name), taken
        assert_close(y.double(), wanted, rtol=tolerance, atol=tolerance)
        if input.requires_grad:
            found = gradients(y, layer, input)
            for one, other in zip(found, gradients(wanted, exact, exact_x), strict=True):
                assert_close(one.double(), other, rtol=10 * tolerance, atol=10 * tolerance)


@needs_library
@over(ALL)
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_layer_by_the_own_kernels(case: Case, channels_last: bool) -> None:
    with convbias.backend("native"):
        check_layer(case, channels_last, "native", torch.float32, TOLERANCES[torch.float32])


@over(ALL)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.usefixtures("no_small_images", "small_steps")
def test_every_layer_by_torchs_kernels_in_place(case: Case, channels_last: bool) -> None:
    with convbias.backend("aten"):
        check_layer(case, channels_last, "aten", torch.float64, 1e-10)


@over(SOME)
@pytest.mark.usefixtures("no_small_images", "small_steps")
def test_the_gradient_of_the_gradient(case: Case) -> None:
    layer, x = case.make(), case.input(batch=2).requires_grad_()
    parameters = tuple(layer.parameters())

    def function(input: Tensor, *given: Tensor) -> Tensor:
        names = [name for name, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, given, strict=True)), (input,))

    if layer.activation or layer._computed:
        assert convbias.explain_route(layer, x)[0].epilogue in ("aten", "in_place", "nothing")
    assert gradcheck(function, (x, *parameters), fast_mode=True)
    assert gradgradcheck(function, (x, *parameters), fast_mode=True)


@needs_library
@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
def test_the_gradient_of_a_kernels_gradient(activation: str) -> None:
    x, w, b = torch.randn(2, 3, 6, 5), torch.randn(4, 3, 3, 3), torch.randn(4, 4, 3)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    found = []
    for backend in ("native", "aten"):
        with convbias.backend(backend):
            y = convbias.functional.conv2d(x, w, b, activation=activation or None)
        first = torch.autograd.grad((y * y).sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(torch.stack([(g * g).sum() for g in first]).sum(), leaves))
    assert_close(*found, rtol=1e-3, atol=1e-3)


def guarded(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> tuple[Tensor, Tensor]:
    """A tensor at an odd place in memory with walls on both sides, and the walls."""
    count = math.prod(shape)
    memory = torch.full((count + 2 * 67,), 77.0, dtype=dtype)
    form = torch.channels_last if channels_last else torch.contiguous_format
    strides = torch.empty(shape, device="meta").contiguous(memory_format=form).stride()
    # As a fresh output is, it is no view to autograd.
    return torch.empty(0, dtype=dtype).set_(memory.untyped_storage(), 67, shape, strides), memory


def check_walls(memory: Tensor) -> None:
    assert (memory[:67] == 77).all()
    assert (memory[-67:] == 77).all()


def exact(activation: str, z: Tensor) -> Tensor:
    return ACTIVATIONS[activation](z) if activation else z


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_activation_and_type(
    instructions: str, activation: str, dtype: torch.dtype, channels_last: bool
) -> None:
    shape = (3, 5, 31, 29)
    field, start = torch.randn(shape[1:]), 4 * torch.randn(shape)
    z, walls = guarded(shape, dtype, channels_last)
    z.copy_(start)
    before = z.double()
    for keep in (False, True):
        z.copy_(start)
        order = memory_order(z)
        assert order is not None
        y = native.Epilogue(tuple(z.shape[1:]), order, [Summand(field)], activation)(z, keep)
        assert (y is z) is not keep
        wanted = exact(activation, before + field)
        tolerance = TOLERANCES[dtype]
        assert_close(y.double(), wanted, rtol=tolerance, atol=tolerance)
        if keep:
            assert_close(z.double(), before + field, rtol=tolerance, atol=tolerance)
        check_walls(walls)
    gy = torch.randn(shape).to(dtype).as_strided(shape, z.stride())
    leaf = (before + field).to(dtype).double().requires_grad_()
    kept = leaf if activation in KEEPING else exact(activation, leaf)
    form = torch.channels_last if channels_last else torch.contiguous_format
    given = kept.detach().to(dtype).contiguous(memory_format=form)
    (wanted,) = torch.autograd.grad(exact(activation, leaf), leaf, gy.double())
    gz, sums = native.backward(given, gy, order, activation, True)
    # Where the saved output is rounded, its derivative is that of a neighbour.
    tolerance = 20 * TOLERANCES[dtype]
    assert_close(gz.double(), wanted, rtol=tolerance, atol=tolerance)
    assert sums is not None
    assert_close(sums.double(), gz.double().sum(0), rtol=tolerance, atol=tolerance)


@needs_library
@pytest.mark.parametrize("activation", KEEPING)
def test_the_gradient_of_nothing_is_nothing(activation: str) -> None:
    saved, gy = torch.full((1, 1, 4, 8), torch.nan), torch.ones(1, 1, 4, 8)
    assert native.backward(saved, gy, (0, 1, 2), activation, False)[0].isnan().all()


shapes = st.tuples(
    st.integers(0, 5), st.integers(1, 9), *(st.integers(1, 12) for _ in range(2))
)  # a batch, channels, a height and a width


@st.composite
def epilogues(draw: st.DrawFn) -> dict[str, Any]:
    """An output of any size and layout, and one to four terms of any tying by axes or by index."""
    shape = draw(shapes)
    terms = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            kinds = [draw(st.integers(1, n)) for n in shape[2:]]
            index = tuple(
                torch.tensor(draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)), dtype=torch.int32)
                for k, n in zip(kinds, shape[2:], strict=True)
            )
            values = torch.randn(draw(st.sampled_from([1, shape[1]])), *kinds)
        else:
            index = ()
            values = torch.randn([n if draw(st.booleans()) else 1 for n in shape[1:]])
            if draw(st.booleans()):
                values = values.transpose(1, 2).contiguous().transpose(1, 2)
        terms.append((values, index))
    return {
        "shape": shape,
        "terms": terms,
        "activation": draw(st.sampled_from(["", *ACTIVATIONS])),
        "channels_last": draw(st.booleans()),
    }


KERNELS = [aten, *([native] if BUILT else [])]


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda module: module.__name__.split(".")[-1])
@hypothesis.given(case=epilogues())
@hypothesis.settings(max_examples=150)
def test_any_terms_on_any_output(kernels: ModuleType, case: dict[str, Any]) -> None:
    shape, activation = case["shape"], case["activation"]
    if kernels is native and not math.prod(shape):
        return
    z, walls = guarded(shape, torch.float32, case["channels_last"])
    z.copy_(torch.randn(shape))
    leaves = [values.double().requires_grad_() for values, _ in case["terms"]]
    field = sum(Summand(leaf, index).field() for leaf, (_, index) in zip(leaves, case["terms"], strict=True))
    source = z.double().requires_grad_()
    wanted = exact(activation, source + field)
    gy = torch.randn(shape)
    wanted_grads = torch.autograd.grad(wanted, [source, *leaves], gy.double())
    values = [values.clone().requires_grad_() for values, _ in case["terms"]]
    summands = [Summand(v, index) for v, (_, index) in zip(values, case["terms"], strict=True)]
    y = finish(z, summands, activation, kernels)
    check_walls(walls)
    assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(y, values, gy)
    for one, other in zip(found, wanted_grads[1:], strict=True):
        assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@needs_library
@pytest.mark.parametrize("tying", ["untied", "c + h w", "tap", "h w", "c h"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_numbers_are_the_same_for_any_number_of_threads(
    instructions: str, tying: str, channels_last: bool
) -> None:
    x = torch.randn(5, 3, 41, 39)
    layer = convbias.Conv2d(3, 17, 3, padding=1, bias=tying, output_size=(41, 39), activation="gelu")
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
        layer = layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    y = F.conv2d(x, layer.weight.detach(), None, 1, 1)
    order = memory_order(y)
    assert order is not None
    geometry = layer.geometry()
    site = convbias.Site.of(17, geometry, (41, 39))
    summands = layer.tying.summands([p.detach() for p in layer._bias_parameters()], site)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            z = y.clone()
            out = native.Epilogue(tuple(z.shape[1:]), order, summands, "gelu")(z, True)
            gz, sums = native.backward(z, out, order, "gelu", True)
            assert sums is not None
            results.append([out, gz, sums, *(native.reduce(sums, order, s) for s in summands)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_close(other, results[0], rtol=0, atol=0)


@needs_library
def test_sums_over_many_samples_keep_their_digits(instructions: str) -> None:
    gy = 1 + 1e-3 * torch.randn(20000, 1, 3, 5)
    _, sums = native.backward(None, gy, (0, 1, 2), "", True)
    assert sums is not None
    assert_close(sums.double(), gy.double().sum(0), rtol=1e-7, atol=0)
    tied = native.reduce(sums, (0, 1, 2), Summand(torch.zeros(1, 1, 1)))
    assert_close(tied.double().flatten(), gy.double().sum().flatten(), rtol=1e-7, atol=0)


@needs_library
@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_nan_and_infinity_are_where_torch_has_them(
    instructions: str, activation: str, dtype: torch.dtype
) -> None:
    start = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e4, -1e4, 88.0, -88.0, 300.0, 1e-8] * 5)
    z = start.to(dtype).view(1, 1, 5, 11).clone()
    wanted = exact(activation, z.double()).to(dtype)
    field = torch.zeros(1, 5, 11)
    y = native.Epilogue(tuple(z.shape[1:]), (0, 1, 2), [Summand(field)], activation)(z)
    torch.testing.assert_close(y, wanted, rtol=1e-2, atol=1e-6, equal_nan=True)


@needs_library
@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_slopes_far_out(instructions: str, activation: str, dtype: torch.dtype) -> None:
    far = torch.tensor([20.0, 88.0, 300.0, 1e4, 1e19, 1e30, 1e36, 3e38])
    leaf = torch.cat([far, -far]).to(dtype).double().requires_grad_()
    y = exact(activation, leaf)
    (wanted,) = torch.autograd.grad(y.sum(), leaf)
    saved = (leaf if activation in KEEPING else y).detach().to(dtype).view(1, 1, 2, -1)
    gz, _ = native.backward(saved, torch.ones_like(saved), (0, 1, 2), activation, False)
    assert_close(gz.flatten(), wanted.to(dtype), rtol=1e-2, atol=1e-6)


def test_what_cannot_be_called_has_no_route() -> None:
    with pytest.raises(TypeError, match="function=3: must be a layer, a model or a function"):
        convbias.explain_route(3)  # type: ignore[arg-type]


needs_onednn = pytest.mark.skipif(convolve.missing() is not None, reason=str(convolve.missing()))
VOLUMES: list[dict[str, Any]] = [
    {}, {"groups": 2}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2}, {"padding": "same"},
    {"kernel_size": (1, 2, 3), "padding": (0, 1, 1), "groups": 2}, {"bias": "tap", "padding": 1},
    {"padding": 1, "padding_mode": "circular"}, {"kernel_size": 2, "padding": "same"}, {"bias": False},
]  # fmt: skip


@needs_onednn
@pytest.mark.parametrize("options", VOLUMES, ids=str)
def test_volumes_one_by_one_are_convolved_by_onednn(options: dict[str, Any]) -> None:
    layer = convbias.Conv3d(4, 6, **{"kernel_size": 3, **options})
    for form in (torch.contiguous_format, torch.channels_last_3d):
        x = torch.randn(1, 4, 5, 6, 7).contiguous(memory_format=form)
        wanted = expected(copy.deepcopy(layer).double(), x.double())
        with torch.no_grad():
            for input, image in ((x, wanted), (x[0], wanted[0])):
                (taken,) = convbias.explain_route(layer, input)
                assert taken.convolution == "onednn"
                assert_close(layer(input), image.float(), rtol=1e-5, atol=1e-5)
    (recorded,) = convbias.explain_route(layer, x)
    assert recorded.convolution == "torch"


def no_own_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "plan_for", lambda *_: None)


def images(layer: convbias.Conv2d, batch: int, size: int) -> Tensor:
    return torch.randn(batch, layer.in_channels, size, size).to(memory_format=torch.channels_last)


@needs_onednn
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("groups", [1, 4, 48])
@pytest.mark.parametrize("padding", [0, 1, "same"])
def test_onednn_adds_an_untied_field_to_one_image(
    activation: str | None, groups: int, padding: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_own_convolutions(monkeypatch)
    size = 23 if padding == 0 else 25
    layer = convbias.Conv2d(
        *(48, 48, 3),
        padding=padding,
        groups=groups,
        bias="untied",
        output_size=(size, size),
        activation=activation,
    )
    torch.nn.init.normal_(layer.get_parameter("bias"))
    layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = images(layer, 1, 25)
    with torch.no_grad():
        (taken,) = convbias.explain_route(layer, x)
        assert taken.convolution == "onednn"
        if activation is None:
            assert taken.epilogue == "onednn"
        else:
            assert taken.not_epilogue["onednn"] == "it leaves the activation to others"
        y = layer(x)
        assert_close(y, expected(layer, x), rtol=1e-4, atol=1e-5)
        assert memory_order(y) == (1, 2, 0)
        for other in (images(layer, 2, 25), x.contiguous()):
            (taken,) = convbias.explain_route(layer, other)
            assert taken.epilogue != "onednn"


@needs_onednn
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_large_weight_is_packed_and_the_output_lies_as_torchs(batch: int, channels_last: bool) -> None:
    layer = convbias.Conv2d(96, 240, 3, bias="c h", output_size=(3, 3), activation="silu")
    x = torch.randn(batch, 96, 5, 5)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        (taken,) = convbias.explain_route(layer, x)
        assert taken.convolution == "onednn"
        assert layer._settled.values()[0].call.packed is not None
        y = layer(x)
        assert_close(y, expected(layer, x), rtol=1e-4, atol=1e-5)
        assert y.stride() == F.conv2d(x, layer.weight).stride()
    assert convbias.explain_route(layer, x)[0].convolution == "torch"


def test_without_the_private_operators_torchs_own_convolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolve, "missing", lambda: "they are gone")
    layer, x = convbias.Conv3d(2, 3, 3), torch.randn(1, 2, 4, 4, 4)
    with torch.no_grad():
        (taken,) = convbias.explain_route(layer, x)
        assert taken.convolution == "torch"
        assert taken.not_convolution["onednn"] == "they are gone"
        assert torch.equal(layer(x), F.conv3d(x, layer.weight, layer.get_parameter("bias")))


def in_a_process(program: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


LARGE_CALL = """
import os, sys, torch, convbias
torch.manual_seed(0)
x, w, b = torch.randn(2, 8, 64, 64), torch.randn(40, 8, 3, 3), torch.randn(40, 62, 62)
def run():
    return convbias.functional.conv2d(x, w, b, activation="relu")
wanted = torch.relu(torch.nn.functional.conv2d(x, w) + b)
"""


@needs_library
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_process_does_not_wait_for_its_parents_threads() -> None:
    # In the child torch's own kernels would wait for them: it calls none over so many numbers.
    program = """
import os, torch
from convbias.ops import native
from convbias.tying.base import Summand
torch.set_num_threads(2)
z, ones = torch.zeros(2, 8, 64, 64), torch.ones(8, 64, 64)
native.Epilogue(tuple(z.shape[1:]), (0, 1, 2), [Summand(ones)], "relu")(z)
child = os.fork()
if child == 0:
    native.Epilogue(tuple(z.shape[1:]), (0, 1, 2), [Summand(ones)], "relu")(z)
    os._exit(int(z[1, 7, 63, 63]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert in_a_process(program).strip() == "2"


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="the files mapped into a process are read from /proc")
def test_the_own_kernels_use_torchs_openmp() -> None:
    program = (
        LARGE_CALL
        + """
assert convbias.explain_route(run)[0].epilogue == "native"
print(len({line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.rpartition("/")[2]}))
"""
    )
    assert in_a_process(program).strip() == "1"


def test_without_the_library_torchs_kernels_run(tmp_path: Any) -> None:
    program = (
        LARGE_CALL
        + """
assert torch.allclose(run(), wanted, atol=1e-5)
print(convbias.explain_route(run)[0])
"""
    )
    told = in_a_process(program, CONVBIAS_LIBRARY=str(tmp_path / "none.so"))
    assert "by aten" in told
    assert "cannot be loaded" in told
    (tmp_path / "empty.so").write_text("no library")
    assert "cannot be loaded" in in_a_process(program, CONVBIAS_LIBRARY=str(tmp_path / "empty.so"))


def test_the_environment_chooses_the_backend() -> None:
    program = LARGE_CALL + "print(convbias.explain_route(run)[0].epilogue)"
    assert in_a_process(program, CONVBIAS_BACKEND="aten").strip() == "aten"
    if BUILT:
        assert in_a_process(program, CONVBIAS_BACKEND="native").strip() == "native"
    with pytest.raises(AssertionError, match=r"CONVBIAS_BACKEND='fast': must be one of auto, aten, native"):
        in_a_process(program, CONVBIAS_BACKEND="fast")


def test_an_unknown_backend_or_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="backend='gpu': must be one of"), convbias.backend("gpu"):
        pass
    if BUILT:
        with pytest.raises(ValueError, match="instructions='mmx'"):
            native.use("mmx")


@pytest.mark.usefixtures("small_steps")
def test_a_route_tells_what_ran_and_why_not_the_others() -> None:
    layer = convbias.Conv2d(3, 8, 3, bias="untied", output_size=(62, 62), activation="relu")
    x = torch.randn(2, 3, 64, 64)
    (trained,) = convbias.explain_route(layer, x)
    assert (trained.shape, trained.convolution) == ((2, 8, 62, 62), "torch")
    assert trained.epilogue == ("native" if BUILT else "aten")
    with torch.autocast("cpu"):
        (cast,) = convbias.explain_route(layer, x)
    assert cast.epilogue == "steps"
    assert "autocast is on" in str(cast)
    with convbias.backend("aten"), torch.no_grad():
        (chosen,) = convbias.explain_route(layer, x)
    assert chosen.epilogue == "aten"
    assert chosen.not_epilogue["native"] == "the backend 'aten' is chosen"
    assert convbias.explain_route(torch.nn.Conv2d(3, 8, 3), x) == []
    double = layer.double()
    assert "float32" in convbias.explain_route(double, x.double())[0].not_epilogue["native"]

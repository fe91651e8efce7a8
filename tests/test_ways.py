"""Own convolutions: each is the definition, forward and in its gradients, wherever it is chosen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

import convbias
from convbias.ops import native, own, ways
from convbias.ops.activations import ACTIVATIONS
from convbias.ops.layout import is_channels_last
from layer_cases import ALL, Case, expected, over
from own_layers import Made, assert_gradients, assert_second_gradients, exact, made, named, using

BUILT = native.absence() is None
needs_library = pytest.mark.skipif(not BUILT, reason=f"no own kernels: {native.absence()}")
pytestmark = [needs_library, pytest.mark.usefixtures("small_steps")]


def depthwise(channels: int, size: tuple[int, int], **options: Any) -> Made:
    return "depthwise", {"channels": (channels, channels), "groups": channels, **options}, size


# A way, what a layer is made of, and the sides of its image.
LAYERS: list[Made] = [
    ("winograd", {"channels": (32, 40), "padding": 1}, (13, 22)),
    ("winograd", {"channels": (33, 32), "padding": 0}, (26, 15)),
    ("winograd", {"channels": (36, 35), "padding": 2}, (14, 17)),
    ("winograd", {"channels": (32, 32), "padding": 1, "padding_mode": "circular"}, (18, 16)),
    ("winograd", {"channels": (170, 160), "padding": 1}, (24, 13)),
    ("winograd", {"channels": (16, 19), "padding": 1}, (27, 31)),
    ("direct", {"channels": (4, 8), "padding": 1}, (40, 61)),
    ("direct", {"channels": (9, 6), "padding": (2, 14)}, (40, 48)),
    ("direct", {"channels": (11, 8), "padding": 0}, (41, 45)),
    ("direct", {"channels": (3, 5), "padding": (0, 2), "kernel_size": (2, 5)}, (50, 61)),
    ("direct", {"channels": (5, 17), "padding": 1, "stride": 2}, (40, 61)),
    ("direct", {"channels": (5, 1), "dilation": (2, 1), "padding": 2}, (41, 60)),
    ("direct", {"channels": (150, 7), "padding": 1}, (11, 20)),
    ("direct", {"channels": (3, 4), "padding": 1, "padding_mode": "reflect"}, (50, 62)),
    ("direct", {"channels": (24, 9), "kernel_size": 1}, (21, 20)),
    ("pointwise", {"channels": (24, 50), "kernel_size": 1}, (21, 20)),
    ("pointwise", {"channels": (130, 17), "kernel_size": 1, "stride": 2}, (21, 13)),
    ("pointwise", {"channels": (500, 290), "kernel_size": 1}, (7, 9)),
    ("gathered", {"channels": (80, 100), "padding": 1, "stride": 2}, (21, 30)),
    ("gathered", {"channels": (260, 257), "padding": (3, 2), "dilation": (2, 1)}, (6, 6)),
    ("gathered", {"channels": (1030, 512), "kernel_size": 1}, (6, 7)),
    ("gathered", {"channels": (520, 136), "padding": 1}, (7, 8)),
    depthwise(16, (28, 29), padding=1),
    depthwise(70, (9, 18), padding=3, kernel_size=7),
    depthwise(37, (12, 20), padding=2, kernel_size=5),
    depthwise(20, (30, 31), padding=1, stride=2),
    depthwise(20, (30, 31), padding=4, dilation=3),
    depthwise(17, (33, 32), padding=4, kernel_size=9, stride=2),
]
# Where there is no field to add, torch's step is as fast.
SHALLOW = next(case for case in LAYERS if case[1]["channels"] == (5, 17))
WINOGRAD, SEVEN = LAYERS[0], next(case for case in LAYERS if case[1].get("kernel_size") == 7)
TYINGS = ["none", "tied", "untied", "c w", "c h + c w", "tap"]


over_layers = pytest.mark.parametrize("case", LAYERS, ids=named)


@over_layers
@pytest.mark.parametrize("bias", TYINGS)
@pytest.mark.parametrize("instructions", native.known_instructions() if BUILT else ["none"])
def test_the_whole_layer(case: Made, bias: str, instructions: str) -> None:
    layer, x = made(case, bias, "relu")
    with using(instructions), torch.no_grad():
        for input in (x, x.contiguous()):
            (taken,) = convbias.explain_route(layer, input)
            assert (taken.convolution, taken.epilogue) == (case[0], case[0]), taken
            assert_close(layer(input).double(), exact(layer, x), rtol=1e-5, atol=2e-5)


@over_layers
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_every_activation(case: Made, activation: str | None) -> None:
    layer, x = made(case, "untied", activation)
    with torch.no_grad():
        assert_close(layer(x).double(), exact(layer, x), rtol=1e-5, atol=2e-5)


@over_layers
@pytest.mark.parametrize("instructions", native.known_instructions() if BUILT else ["none"])
def test_relu6_cuts_off(case: Made, instructions: str) -> None:
    layer, x = made(case, "untied", "relu6")
    with using(instructions), torch.no_grad():
        layer.get_parameter("bias").mul_(10)
        y = layer(x)
        assert (y == 6).any()
        assert_close(y.double(), exact(layer, x), rtol=1e-5, atol=2e-5)


@over_layers
def test_images_whose_channels_do_not_lie_last(case: Made) -> None:
    """To turn them round and back takes longer than any way but Winograd's saves."""
    layer, x = made(case, "untied", "relu")
    layer.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        (taken,) = convbias.explain_route(layer, x.contiguous())
        assert (taken.convolution == "winograd") == (case[0] == "winograd"), taken
        y = layer(x.contiguous())
        assert y.is_contiguous()
        assert_close(y.double(), exact(layer, x), rtol=1e-5, atol=2e-5)


@over(ALL)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.usefixtures("no_small_images")
def test_every_small_layer(case: Case, channels_last: bool) -> None:
    layer: Any = case.make(torch.float32)
    x = case.input(dtype=torch.float32)
    if channels_last and x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        (taken,) = convbias.explain_route(layer, x)
        circle = layer.padding_mode == "circular"
        last = (is_channels_last(x) and not circle) or is_channels_last(layer.weight)
        if type(layer) is convbias.Conv2d and layer.groups == 1 and layer.dilation[1] == 1 and x.dim() == 4:
            assert (taken.convolution == "direct") == last, taken
        y = layer(x)
        assert_close(y.double(), exact(layer, x), rtol=1e-5, atol=1e-5)
        with convbias.backend("aten"):
            assert y.stride() == layer(x).stride()


@over_layers
@pytest.mark.parametrize("activation", [None, "relu", "tanh", "silu"])
@pytest.mark.parametrize("bias", TYINGS)
def test_gradients(case: Made, activation: str | None, bias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "_WORTH_PACKING", 1)
    layer, x = made(case, bias, activation)
    (taken,) = convbias.explain_route(layer, x.clone().requires_grad_())
    own = layer.padding_mode == "zeros" and case[0] != "gathered"
    own = own and not (case is SHALLOW and bias in ("none", "tied"))
    assert (taken.convolution == case[0]) == own, taken
    assert_gradients(layer, x, atol=2e-5)


@pytest.mark.parametrize("case", [WINOGRAD, SEVEN], ids=named)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_gradient_of_the_gradient(case: Made, activation: str) -> None:
    assert_second_gradients(*made(case, "untied", activation))


@pytest.mark.parametrize("needed", ["input", "weight", "bias"])
def test_a_gradient_that_is_wanted_alone(needed: str) -> None:
    layer, x = made(WINOGRAD, "untied", "relu")
    leaves = {"input": x, "weight": layer.weight, "bias": layer.get_parameter("bias")}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == needed)
    with convbias.backend("aten"):
        wanted = torch.autograd.grad(layer(x).square().sum(), leaves[needed])
    assert convbias.explain_route(layer, x)[0].convolution == "winograd"
    assert_close(torch.autograd.grad(layer(x).square().sum(), leaves[needed]), wanted, rtol=1e-4, atol=1e-3)


# Of one image that is no small one; torch's convolutions are one step with what follows them.
SINGLE: list[Made] = [
    ("winograd", {"channels": (32, 40), "padding": 1}, (26, 22)),
    depthwise(70, (16, 18), padding=3, kernel_size=7),
    depthwise(20, (40, 24), padding=1),
    depthwise(20, (40, 24), padding=2, dilation=2),
    depthwise(20, (40, 24), padding=1, kernel_size=5, stride=2),
    ("pointwise", {"channels": (24, 50), "kernel_size": 1}, (32, 22)),
    ("torch", {"channels": (20, 24), "padding": 2, "dilation": 2}, (31, 28)),
    ("torch", {"channels": (36, 48), "padding": 1, "groups": 4}, (20, 24)),
    ("torch", {"channels": (20, 24), "padding": 1, "padding_mode": "reflect"}, (31, 28)),
]


@pytest.mark.parametrize("case", SINGLE, ids=named)
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_bias_gradient_that_is_changed_as_soon_as_it_is_there(
    case: Made, activation: str | None, batch: int
) -> None:
    """Of one image it may be the gradient before the activation, which others need: they have had it."""
    layer, x = made(case, "untied", activation)
    double, x = copy.deepcopy(layer).double(), x[:batch].requires_grad_()
    assert convbias.explain_route(layer, x)[0].convolution == case[0]
    wide = x.detach().double().requires_grad_()
    upstream = torch.randn(batch, *expected(double, wide).shape[1:])
    wanted = torch.autograd.grad(expected(double, wide), [wide, *double.parameters()], upstream.double())
    seen: list[Tensor] = []

    def change(parameter: Tensor) -> None:
        assert parameter.grad is not None
        seen.append(parameter.grad.clone())
        parameter.grad.fill_(100)

    handles = [
        parameter.register_post_accumulate_grad_hook(change)
        for name, parameter in layer.named_parameters()
        if name != "weight"
    ]
    layer(x).backward(upstream)
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert len(seen) == len(handles)
    for mine, theirs in zip((x.grad, layer.weight.grad, *seen), wanted, strict=True):
        assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("case", "least"),
    [
        (("direct", {"channels": (3, 16), "padding": 1}, (450, 223)), 3 << 20),
        (("direct", {"channels": (3, 8), "padding": 1}, (450, 446)), 3 << 20),
        (("pointwise", {"channels": (16, 48), "kernel_size": 1}, (180, 184)), 3 << 20),
        (depthwise(64, (160, 155), padding=1), 3 << 20),
    ],
)
def test_outputs_that_are_written_past_the_caches(case: Made, least: int) -> None:
    layer, x = made(case, "untied", "relu")
    with torch.no_grad():
        assert convbias.explain_route(layer, x)[0].convolution == case[0]
        y = layer(x)
        assert y.numel() >= least
        with convbias.backend("aten"):
            assert_close(y, layer(x), rtol=1e-5, atol=2e-5)


# What is gathered wants its weight packed before.
@pytest.mark.parametrize(
    "case", [c for c in LAYERS if "padding_mode" not in c[1] and c[0] != "gathered"], ids=named
)
def test_an_output_that_is_given(case: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(case, "untied", "relu")
    words = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    words |= {"groups": layer.groups, "activation": "relu"}
    monkeypatch.setattr(ways, "_WORTH_PACKING", 1)
    with torch.no_grad():
        y = layer(x)
        for out in (torch.full_like(y, torch.nan), torch.full_like(y, torch.nan).contiguous()):
            given = convbias.functional.conv2d(x, layer.weight, layer.get_parameter("bias"), **words, out=out)
            assert given is out
            assert torch.equal(out, y)


def test_winograd_can_be_switched_off() -> None:
    layer, x = made(WINOGRAD, "untied", "relu")
    with torch.no_grad():
        y = layer(x)
        with convbias.backend(winograd=False):
            assert convbias.explain_route(layer, x)[0].convolution != "winograd"
            assert not torch.equal(layer(x), y)
            with convbias.backend("native"):
                assert convbias.explain_route(layer, x)[0].convolution != "winograd"
            with convbias.backend(winograd=True):
                assert torch.equal(layer(x), y)
        assert torch.equal(layer(x), y)
    with pytest.raises(ValueError, match="give one of auto, aten, native, or winograd=False"):
        convbias.backend().__enter__()
    with pytest.raises(TypeError, match=r"winograd='no'\): must be True, False or None"):
        convbias.backend(winograd="no").__enter__()  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [12, 16, 32, 64, 256])
def test_winograds_errors_are_at_most_three_times_the_direct_ones(channels: int) -> None:
    if channels < 16 and native.instructions() != "avx2":
        pytest.skip("where vectors are longer so few channels are convolved as they are written")
    x, w = torch.randn(4, channels, 24, 24), torch.randn(channels, channels, 3, 3) / (3 * channels**0.5)
    x, w = (t.to(memory_format=torch.channels_last) for t in (x, w))
    truth = F.conv2d(x.double(), w.double(), padding=1)
    with torch.no_grad():
        (taken,) = convbias.explain_route(convbias.functional.conv2d, x, w, padding=1)
        assert taken.convolution == "winograd"
        error = (convbias.functional.conv2d(x, w, padding=1) - truth).abs().max()
    assert error <= 3 * (F.conv2d(x, w, padding=1) - truth).abs().max()


@pytest.mark.parametrize(
    ("channels", "batch", "size"), [(16, 4, 56), (32, 4, 56), (64, 2, 24), (256, 2, 8), (512, 1, 7)]
)
def test_winograds_errors_of_a_weights_gradient_do_not_grow(channels: int, batch: int, size: int) -> None:
    torch.manual_seed(0)
    x, up = (torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last) for _ in range(2))
    w = torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    layer = convbias.Conv2d(channels, channels, 3, padding=1, bias="none")
    layer.weight = torch.nn.Parameter(w)
    (found,) = torch.autograd.grad(layer(x), layer.weight, up)
    with convbias.backend("aten"):
        (torchs,) = torch.autograd.grad(layer(x), layer.weight, up)
    assert not torch.equal(found, torchs)
    exact = w.detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(F.conv2d(x.double(), exact, padding=1), exact, up.double())
    assert (found - truth).norm() <= 7e-7 * truth.norm()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_tiles(bad: float) -> None:
    layer, x = made(WINOGRAD, "untied")
    x[1, 5, 6, 9] = bad
    with torch.no_grad():
        y, wanted = layer(x), exact(layer, x)
    reached = ~wanted.isfinite()
    assert reached.any()
    assert not y[reached].isfinite().any()
    # It is in the middle of the tile of rows 4 to 7 and columns 8 to 11, and in no other's window.
    far = torch.ones_like(reached)
    far[1, :, 4:8, 8:12] = False
    assert_close(y[far].double(), wanted[far], rtol=1e-5, atol=2e-5)


def test_the_packed_weight_follows_the_weight() -> None:
    layer, x = made(WINOGRAD, "untied", "relu")
    other, _ = made(WINOGRAD, "untied", "relu")
    changes = [
        lambda: layer.weight.mul_(2),
        lambda: layer.load_state_dict(other.state_dict()),
        lambda: layer.to(torch.float64).to(torch.float32),
        lambda: (layer.weight.data.add_(1), layer.repack()),
    ]
    with torch.no_grad():
        (taken,) = convbias.explain_route(layer, x)
        assert taken.packed_bytes >= 4 * layer.weight.nbytes
        # How many vectors' zeros it has behind its filters is the machine's.
        assert f"weight kept in its order: {taken.packed_bytes / 2**20:.2f} MiB" in str(taken)
        for change in changes:
            change()
            assert_close(layer(x).double(), exact(layer, x), rtol=1e-5, atol=2e-4)


@over_layers
def test_torchs_defaults_are_for_new_tensors(case: Made) -> None:
    layer, x = made(case, "tied", "relu")
    with torch.no_grad():
        wanted = layer(x)
        layer.repack()
        for dtype in (torch.float64, torch.float16):
            torch.set_default_dtype(dtype)
            try:
                assert torch.equal(layer(x), wanted)
            finally:
                torch.set_default_dtype(torch.float32)
        with torch.device("meta"):
            assert torch.equal(layer(x), wanted)


def test_so_many_channels_that_no_slice_of_weights_is_small() -> None:
    layer, x = convbias.Conv2d(9000, 40, 1, activation="tanh"), torch.randn(1, 9000, 2, 3)
    x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        (taken,) = convbias.explain_route(layer, x)
        assert taken.convolution == "pointwise"
        assert_close(layer(x).double(), exact(layer, x), rtol=1e-5, atol=2e-5)


def test_samples_that_take_turns_in_groups_of_which_the_last_is_smaller() -> None:
    """So wide are the rows that the second cache holds those of two samples alone."""
    layer = convbias.Conv2d(
        *(256, 256, 3), padding=1, groups=256, bias="untied", output_size=(4, 150), activation="relu"
    )
    x = torch.randn(3, 256, 4, 150).to(memory_format=torch.channels_last)
    with torch.no_grad():
        (route,) = convbias.explain_route(layer, x)
        assert route.convolution == "depthwise"
        wanted = torch.relu(F.conv2d(x, layer.weight, None, 1, 1, 1, 256) + layer.bias_field((4, 150)))
        assert_close(layer(x), wanted)


def test_few_outputs_and_large_weights_keep_torchs_way() -> None:
    with torch.no_grad():
        for channels, side in ((64, 4), (512, 7)):
            layer = convbias.Conv2d(channels, channels, 3, padding=1, bias=False)
            (taken,) = convbias.explain_route(layer, torch.randn(1, channels, side, side))
            assert taken.convolution != "winograd"
            assert taken.not_convolution["own"]


def test_shapes_know_their_tiles() -> None:
    geometry = convbias.Geometry.of(2, 3, padding=1)
    shape = own.Shape.of((3, 8, 9, 4), 8, geometry)
    assert shape is not None
    assert shape.tiles == 3 * 3 * 1


@pytest.mark.parametrize(
    "case",
    [
        ("winograd", {"channels": (12, 8), "padding": 1}, (30, 41)),
        ("winograd", {"channels": (13, 30), "padding": 1}, (30, 41)),
        ("winograd", {"channels": (50, 9), "padding": 1}, (30, 41)),
        ("pointwise", {"channels": (1024, 64), "kernel_size": 1}, (14, 14)),
    ],
    ids=named,
)
@pytest.mark.parametrize("bias", ["tied", "untied"])
@pytest.mark.parametrize("instructions", native.known_instructions() if BUILT else ["none"])
def test_what_is_faster_by_avx2_alone(case: Made, bias: str, instructions: str) -> None:
    """Few channels, whose vectors are short, and deep rows, of which few are multiplied at once."""
    layer, x = made(case, bias, "relu")
    with using(instructions):
        assert convbias.explain_route(layer, x)[0].convolution != case[0]
        with torch.no_grad():
            (taken,) = convbias.explain_route(layer, x)
            assert (taken.convolution == case[0]) == (instructions == "avx2"), taken
            assert_close(layer(x).double(), exact(layer, x), rtol=1e-5, atol=2e-5)

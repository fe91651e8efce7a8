"""Own convolutions of volumes and of single rows: each is the definition, however its inputs lie."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

import convbias
from convbias import functional as CF
from convbias.geometry import Geometry
from convbias.ops import convolve, native, own, volumes, ways
from convbias.ops.call import Call
from convbias.ops.layout import channels_last, last_strides
from layer_cases import gradients
from own_layers import KINDS, Made, assert_gradients, assert_second_gradients, exact, made, named, using

BUILT = native.absence() is None
needs_library = pytest.mark.skipif(not BUILT, reason=f"no own kernels: {native.absence()}")
pytestmark = [needs_library, pytest.mark.usefixtures("small_steps")]

# A way, what a layer is made of, and the sides of its input.
LAYERS: list[Made] = [
    ("winograd", {"channels": (33, 40), "padding": 1}, (303,)),
    ("winograd", {"channels": (130, 128), "padding": 2}, (74,)),
    ("winograd", {"channels": (32, 32), "padding": 1, "padding_mode": "circular"}, (301,)),
    ("winograd", {"channels": (400, 390), "padding": 0}, (61,)),
    ("winograd", {"channels": (33, 36), "kernel_size": (1, 3), "padding": (0, 1)}, (13, 22)),
    ("winograd", {"channels": (40, 32), "kernel_size": (1, 3), "padding": (2, 0)}, (11, 19)),
    ("winograd", {"channels": (16, 19), "padding": 1}, (5, 11, 13)),
    ("winograd", {"channels": (35, 17), "padding": (2, 1, 0)}, (3, 9, 10)),
    ("winograd", {"channels": (18, 20), "kernel_size": (2, 3, 3), "padding": (0, 2, 1)}, (7, 10, 9)),
    ("winograd", {"channels": (16, 33), "kernel_size": (1, 3, 3), "padding": (0, 1, 1)}, (4, 12, 14)),
    ("winograd", {"channels": (17, 16), "kernel_size": (5, 3, 3), "padding": (4, 1, 1)}, (3, 12, 14)),
    ("winograd", {"channels": (20, 24), "padding": 1, "padding_mode": "replicate"}, (4, 9, 9)),
    ("winograd", {"channels": (100, 96), "padding": 1}, (3, 10, 7)),
]
ONE_TAP: Made = ("pointwise", {"channels": (24, 50), "kernel_size": 1}, (5, 9, 11))
SEVEN: Made = ("depthwise", {"channels": (40, 40), "groups": 40, "kernel_size": 7, "padding": 3}, (30, 18))
OUTER = {1: "l", 2: "h", 3: "d"}


def formed(layers: list[Made]) -> pytest.MarkDecorator:
    """In both of torch's layouts, if there are two."""
    pairs = [(case, last) for case in layers for last in (False, True) if len(case[2]) > 1 or not last]
    names = [f"{named(case)}-{'last' if last else 'first'}" for case, last in pairs]
    return pytest.mark.parametrize(("case", "last"), pairs, ids=names)


over_forms = pytest.mark.parametrize("last", [False, True], ids=["first", "last"])


def lying(x: Tensor) -> list[int]:
    """The strides that say something."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]


@formed(LAYERS)
@pytest.mark.parametrize("bias", ["none", "tied", "untied", "c outer", "tap"])
@pytest.mark.parametrize("instructions", native.known_instructions() if BUILT else ["none"])
def test_the_whole_layer(case: Made, last: bool, bias: str, instructions: str) -> None:
    layer, x = made(case, bias.replace("outer", OUTER[len(case[2])]), "relu", last)
    with using(instructions), torch.no_grad():
        (taken,) = convbias.explain_route(layer, x)
        assert (taken.convolution, taken.epilogue) == (case[0], case[0]), taken
        y = layer(x)
        assert_close(y.double(), exact(layer, x), rtol=1e-5, atol=3e-5)
        with convbias.backend("aten"):
            assert y.stride() == layer(x).stride()


@pytest.mark.parametrize("case", [LAYERS[0], LAYERS[6]], ids=named)
@pytest.mark.parametrize("activation", ["relu6", "gelu", "tanh", "hardswish"])
def test_activations_and_residuals(case: Made, activation: str) -> None:
    layer, x = made(case, "untied", activation, last=False)
    with torch.no_grad():
        assert_close(layer(x).double(), exact(layer, x), rtol=1e-5, atol=2e-5)
        residual = torch.randn_like(layer(x))
        layer.activation = None
        bare = exact(layer, x)
        layer.activation = activation
        apply = {"relu6": F.relu6, "gelu": F.gelu, "tanh": torch.tanh, "hardswish": F.hardswish}[activation]
        assert_close(layer(x, residual).double(), apply(bare + residual), rtol=1e-5, atol=2e-5)


@formed([*LAYERS, ONE_TAP, SEVEN])
@pytest.mark.parametrize(
    ("bias", "activation"),
    [("tied", "relu"), ("untied", None), ("untied", "relu"), ("c outer", "relu"), ("c outer", "silu")],
)
def test_gradients(
    case: Made, last: bool, bias: str, activation: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "_WORTH_PACKING", 1)
    layer, x = made(case, bias.replace("outer", OUTER[len(case[2])]), activation, last)
    (taken,) = convbias.explain_route(layer, x.clone().requires_grad_())
    in_a_row = case[0] == "winograd" and tuple(layer.kernel_size[-2:-1]) in ((), (1,))
    lies = last and len(case[2]) > 1
    turned = case[0] == "winograd" and not (in_a_row and min(case[1]["channels"]) < 128)
    own = layer.padding_mode == "zeros" and (lies or turned or case is SEVEN)
    assert (taken.convolution == case[0]) == own, taken
    found = assert_gradients(layer, x, atol=3e-5)
    assert found[0].stride() == x.stride()
    assert lying(found[1]) == lying(layer.weight)


@pytest.mark.parametrize("case", [LAYERS[1], LAYERS[6], SEVEN], ids=named)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_gradient_of_the_gradient(case: Made, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of outputs that were turned round too."""
    monkeypatch.setattr(ways, "_WORTH_PACKING", 1)
    layer, x = made(case, "untied", activation, last=False)
    assert convbias.explain_route(layer, x.requires_grad_())[0].convolution == case[0]
    assert_second_gradients(layer, x)


@formed([LAYERS[0], LAYERS[6]])
def test_an_output_that_is_given(case: Made, last: bool) -> None:
    layer, x = made(case, "untied", "relu", last)
    run: Any = {1: CF.conv1d, 3: CF.conv3d}[len(case[2])]
    with torch.no_grad():
        y = layer(x)
        for lie in (last_strides(y.shape), torch.empty(y.shape).stride()):
            out = torch.empty_strided(y.shape, lie).fill_(torch.nan)
            words = {"padding": layer.padding, "activation": "relu"}
            assert run(x, layer.weight, layer.get_parameter("bias"), **words, out=out) is out
            assert torch.equal(out, y)


@formed([LAYERS[1], LAYERS[6]])
def test_compiled_it_is_the_same(case: Made, last: bool) -> None:
    layer, x = made(case, "untied", "relu", last)
    compiled = torch.compile(layer, fullgraph=True)
    with torch.no_grad():
        y = layer(x)
        assert torch.equal(compiled(x), y)
        assert compiled(x).stride() == y.stride()
    input = x.requires_grad_()
    found = gradients(compiled(input), layer, input)
    for mine, theirs in zip(found, gradients(layer(input), layer, input), strict=True):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("run", [F.conv1d, F.conv3d])
@pytest.mark.parametrize("channels", [32, 128])
def test_errors_are_at_most_three_times_the_direct_ones(run: Any, channels: int) -> None:
    torch.manual_seed(0)
    dims = 1 if run is F.conv1d else 3
    x = torch.randn(2, channels, *((500,) if dims == 1 else (6, 16, 16)))
    w = torch.randn(channels, channels, *(3,) * dims) / math.sqrt(channels * 3**dims)
    truth, own = run(x.double(), w.double(), padding=1), getattr(CF, run.__name__)
    with torch.no_grad():
        (taken,) = convbias.explain_route(own, x, w, padding=1)
        assert taken.convolution == "winograd"
        error = (own(x, w, padding=1) - truth).abs().max()
    assert error <= 3 * (run(x, w, None, 1, 1) - truth).abs().max()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_the_tiles_of_the_slices_around_it(bad: float) -> None:
    layer, x = made(LAYERS[6], "untied", last=False)
    x[1, 5, 1, 6, 5] = bad
    with torch.no_grad():
        y, wanted = layer(x), exact(layer, x)
    reached = ~wanted.isfinite()
    assert reached.any()
    assert not y[reached].isfinite().any()
    # Rows 5 to 7 and columns 4 to 6 are of the tile of rows 4 to 7 and columns 4 to 7; three slices read it.
    far = torch.ones_like(reached)
    far[1, :, 0:3, 4:8, 4:8] = False
    assert_close(y[far].double(), wanted[far], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("options", [{"stride": (2, 1, 1)}, {"dilation": (2, 1, 1)}, {"stride": (1, 2, 1)}])
def test_what_leaves_slices_or_rows_out_is_torchs(options: dict[str, Any]) -> None:
    layer = convbias.Conv3d(16, 16, 3, padding=2, bias="tied", **options)
    x = torch.randn(2, 16, 9, 11, 13)
    with torch.no_grad():
        assert convbias.explain_route(layer, x)[0].convolution == "torch"
        assert_close(layer(x).double(), exact(layer, x), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("channels", "recorded", "own"), [(31, False, 0), (32, False, 1), (127, True, 0), (128, True, 1)]
)
def test_taps_in_a_row_want_more_channels(channels: int, recorded: bool, own: bool) -> None:
    """And more again for a step in which all that is recorded has to be turned."""
    layer, x = convbias.Conv1d(channels, 128, 3, bias="tied"), torch.randn(2, channels, 600)
    with torch.set_grad_enabled(recorded):
        assert (convbias.explain_route(layer, x)[0].convolution == "winograd") == own


def test_depthwise_kernels_of_three_are_torchs_where_channels_lie_first() -> None:
    layer, x = convbias.Conv2d(40, 40, 3, padding=1, groups=40), torch.randn(2, 40, 30, 30)
    assert convbias.explain_route(layer, x)[0].convolution == "torch"
    x = x.to(memory_format=torch.channels_last)
    assert convbias.explain_route(layer, x)[0].convolution == "depthwise"


def test_many_weights_are_not_turned_for_a_small_volume() -> None:
    for channels, sides, slow in ((2, (3, 104, 100), True), (512, (2, 7, 7), False)):
        x, w = torch.randn(1, channels, *sides), torch.randn(channels, channels, 3, 3, 3)
        assert volumes.is_slow(Call(x, w, (), "none", Geometry.of(3, 3, padding=1), 1, "")) == slow


@pytest.mark.skipif(convolve.missing() is not None, reason="torch lacks the private operators")
@pytest.mark.parametrize(("batch", "packed"), [(1, True), (8, False)])
def test_weights_are_packed_where_channels_lie_first_if_they_are_many_times_more(
    batch: int, packed: bool
) -> None:
    layer, x = convbias.Conv2d(512, 2048, 1), torch.randn(batch, 512, 7, 7)
    with torch.no_grad():
        (taken,) = convbias.explain_route(layer, x)
        assert (taken.convolution == "onednn") == packed
        assert layer(x).is_contiguous()
        assert_close(layer(x).double(), exact(layer, x), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("sides", [(1, 1), (1, 1, 1)])
@over_forms
def test_single_places_lie_as_torchs(sides: tuple[int, ...], last: bool) -> None:
    """Later calls go by their strides, though there is but one place."""
    kind: Any = KINDS[len(sides)]
    layer, x = kind(256, 32, 3, padding=1), torch.randn(64, 256, *sides)
    if last:
        layer, x = layer.to(memory_format=channels_last(x)), x.to(memory_format=channels_last(x))
    with torch.no_grad():
        y = layer(x)
        assert convbias.explain_route(layer, x)[0].convolution == "winograd"
        convolve: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(sides)]
        assert y.stride() == convolve(x, layer.weight, None, 1, 1).stride()
        assert_close(y.double(), exact(layer, x), rtol=1e-5, atol=2e-5)


def test_why_no_own_convolution_runs() -> None:
    strided, point = convbias.Conv3d(24, 16, 3, stride=(2, 1, 1)), convbias.Conv3d(24, 50, 1)
    volume = torch.randn(2, 24, 8, 9, 9)
    with torch.no_grad():

        def why(layer: Any, x: Tensor) -> str:
            return convbias.explain_route(layer, x)[0].not_convolution["own"]

        assert why(strided, volume) == "no own convolution of such a shape is faster than torch's"
        assert "to turn them takes longer than pointwise saves" in why(point, volume)
        with convbias.backend(winograd=False):
            assert why(*made(LAYERS[6], "tied", last=False)) == "Winograd's algorithm is switched off"
            assert why(strided, volume) == "no own convolution of such a shape is faster than torch's"


def test_one_tap_of_a_volume_is_a_row_of_places() -> None:
    layer, x = made(ONE_TAP, "untied", "gelu")
    with torch.no_grad():
        assert convbias.explain_route(layer, x)[0].convolution == "pointwise"
        assert_close(layer(x).double(), exact(layer, x), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 3, 5), (3, 17, 4, 4), (1, 40, 300), (2, 16, 16, 16), (0, 4, 9), (2, 33, 3, 5, 7)]
)
def test_numbers_are_turned_round(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for instructions in native.known_instructions():
        with using(instructions):
            last = native.laid_last(x)
            assert last.movedim(1, -1).is_contiguous()
            assert torch.equal(last, x)
            assert native.laid_last(last) is last
            first = native.laid_first(last)
            assert first.is_contiguous()
            assert torch.equal(first, x)
            # Others are made dense first.
            assert torch.equal(native.laid_last(x.flip(-1).transpose(1, -1)), x.flip(-1).transpose(1, -1))


def test_shapes_know_their_tiles_and_what_turns_them() -> None:
    line = own.Shape.of((3, 8, 9), 8, Geometry.of(1, 3, padding=1))
    assert line is not None
    assert (line.tiles, line.outputs, line.is_of_images) == (3 * 3, 27, True)
    volume = own.Shape.of((2, 8, 5, 9, 4), 6, Geometry.of(3, 3, padding=(0, 1, 1)))
    assert volume is not None
    assert (volume.tiles, volume.outputs, volume.is_of_images) == (2 * 3 * 3, 2 * 3 * 36, False)
    back = volume.turned()
    assert (back.channels, back.filters) == (6, 8)
    assert (back.slices.size, back.slices.out, back.slices.kernel, back.slices.before) == (3, 5, 3, 2)
    assert own.Shape.of((2, 8, 5, 9, 4), 6, Geometry.of(3, 3, stride=(2, 1, 1))) is None

"""The functional convolutions against the plain definition, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import convbias
from convbias import Geometry, Regions, ShapeError, Site, TyingError, parse
from convbias import functional as C
from convbias.geometry import PADDING_MODES
from convbias.ops import native, reference
from convbias.ops.activations import ACTIVATIONS

CONV = (C.conv1d, C.conv2d, C.conv3d)
UP = (C.conv_transpose1d, C.conv_transpose2d, C.conv_transpose3d)
TYINGS = ["none", "tied", "", "tap", "c + tap", "grid:2", "rank:2", "untied", "c + untied", "sym:flip_{last}"]


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """One convolution of a random shape with a random bias: arguments, geometry and site."""
    dims, transposed = draw(st.integers(1, 3)), draw(st.booleans())

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(dims))

    stride, dilation = each(1, 3), each(1, 2)
    kernel, size = each(1, 3 if dims > 1 else 5), each(1, 6 if dims < 3 else 4)
    options: dict[str, Any] = {"stride": stride, "padding": each(0, 2), "dilation": dilation}
    geometry_options = dict(options)
    if transposed:
        options["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        geometry_options = {**options, "transposed": True}
    else:
        options["padding_mode"] = draw(st.sampled_from(PADDING_MODES))
        if set(stride) == {1}:
            options["padding"] = draw(st.sampled_from([options["padding"], "same", "valid"]))
        geometry_options = dict(options)
    geometry = Geometry.of(dims, kernel, **geometry_options)
    mode = geometry.padding_mode
    assume(mode == "zeros" or all(max(p) < n for p, n in zip(geometry.pads, size, strict=True)))
    assume(min(geometry.output_size(size)) >= 1)
    # torch refuses a kernel that is larger than the padded input.
    groups, per_group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    options["groups"] = groups
    options["activation"] = draw(st.sampled_from([None, *ACTIVATIONS]))
    wide, narrow = groups * per_group, draw(st.integers(1, 2))
    if transposed:
        weight, channels_in = torch.randn(wide, narrow, *kernel, dtype=torch.float64), wide
    else:
        weight, channels_in = torch.randn(wide, narrow, *kernel, dtype=torch.float64), narrow * groups
    site = Site.of(narrow * groups if transposed else wide, geometry, size)
    last = {1: "l", 2: "w", 3: "w"}[dims]
    tying = parse(draw(st.sampled_from(TYINGS)).format(last=last))
    batch = draw(st.sampled_from([(), (0,), (2,)]))
    x = torch.randn(*batch, channels_in, *size, dtype=torch.float64)
    bias = [torch.randn(shape, dtype=torch.float64) for shape in tying.shapes(site).values()]
    return {"x": x, "weight": weight, "tying": tying, "bias": bias, "options": options, "site": site}


def check(case: dict[str, Any], gradient: bool) -> None:
    x, site, options = case["x"], case["site"], case["options"]
    field = case["tying"].expand(case["bias"], site)
    batched = x if x.dim() == site.dims + 2 else x[None]
    expected = reference.convolution(
        batched, case["weight"], field, site.geometry, options["groups"], options["activation"] or ""
    )
    run = (UP if site.geometry.transposed else CONV)[site.dims - 1]
    found = run(x.requires_grad_(gradient), case["weight"], (case["tying"], case["bias"]), **options)
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=0, atol=1e-12 * max(largest, 1))


@given(calls())
def test_every_call_is_the_definition(case: dict[str, Any]) -> None:
    check(case, gradient=False)
    check(case, gradient=True)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_what_a_bias_may_be(dims: int, transposed: bool) -> None:
    run = (UP if transposed else CONV)[dims - 1]
    x, weight = torch.randn(2, 3, *(5,) * dims), torch.randn(3, 3, *(3,) * dims)
    plain = run(x, weight)
    size = plain.shape[2:]
    ones = (1,) * dims
    for bias in (torch.randn(3), torch.randn(3, *size), torch.randn(1, *size), torch.randn(3, *ones)):
        shape = (3, *ones) if bias.dim() == 1 else bias.shape
        torch.testing.assert_close(run(x, weight, bias), plain + bias.reshape(shape))
    taps = torch.randn(3, *(3,) * dims)
    for spec, parameters in (("tap", taps), (parse("tap"), [taps])):
        entries = torch.ones_like(x[:1, :1])
        tap_field = run(entries, taps.unsqueeze(0 if transposed else 1))
        torch.testing.assert_close(run(x, weight, (spec, parameters)), plain + tap_field)
    labels = torch.arange(size.numel()).reshape(size) % 3
    by_label = torch.randn(3, 3)
    found = run(x, weight, (Regions(labels), by_label))
    torch.testing.assert_close(found, plain + by_label[:, labels])


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_an_activation_follows_the_bias(activation: str) -> None:
    theirs: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
        "silu": F.silu,
        "relu6": lambda y: y.clamp(0, 6),
        "leaky_relu": lambda y: F.leaky_relu(y, 0.01),
        "hardswish": F.hardswish,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    x, weight, bias = torch.randn(2, 3, 7), torch.randn(4, 3, 3), torch.randn(4, 5)
    before = C.conv1d(x, weight, bias)
    expected = theirs[activation](before)
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(C.conv1d(x, weight, bias, activation=activation), expected)
    x.requires_grad_()
    torch.testing.assert_close(C.conv1d(x, weight, bias, activation=activation), expected)


X, W = torch.zeros(1, 3, 5, 6), torch.zeros(4, 3, 3, 3)
BAD: dict[str, Any] = {
    "array": numpy.zeros(4),
    "large": numpy.zeros((9, 9)),
    "tap": ["tap"],
    "half": [1.5],
    "word": "untied",
    "none": None,
}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: C.conv2d(X, W, torch.zeros(3)), ShapeError, r"bias=\[3\]: must be \(4,\), or .*\(4, 3, 4\)"),
        (lambda: C.conv2d(X, W, torch.zeros(1)), ShapeError, r"bias=\[1\]: must be \(4,\)"),
        (lambda: C.conv2d(X, W, torch.zeros(4, 3)), ShapeError, r"bias=\[4, 3\]: must be \(4,\)"),
        (lambda: C.conv2d(X, W, torch.zeros(4, 5, 6)), ShapeError, r"bias=\[4, 5, 6\]: must be"),
        (lambda: C.conv2d(X, W, torch.zeros(1, 4, 3, 4)), ShapeError, r"bias=\[1, 4, 3, 4\]: must be"),
        (lambda: C.conv2d(X, W, ("tap", torch.zeros(4, 3))), ShapeError, r"tap has .*\[\(4, 3, 3\)\]"),
        (lambda: C.conv2d(X, W, ("h c", torch.zeros(4))), TyingError, "write 'c h'"),
        (lambda: C.conv2d(X, W, ("c l", torch.zeros(4))), TyingError, "a 2D bias has the axes"),
        (lambda: C.conv2d(X[0, 0], W), ShapeError, r"Expected 3D \(unbatched\) or 4D \(batched\) input"),
        (lambda: C.conv2d(X[:, :2], W), ShapeError, "to have 3 channels, but got 2 channels instead"),
        (lambda: C.conv_transpose2d(X, W), ShapeError, "transposed=1.*to have 4 channels, but got 3"),
        (lambda: C.conv2d(X, W[0]), ShapeError, r"weight=\[3, 3, 3\]: needs 4 axes, for 2D kernels"),
        (lambda: C.conv2d(X, W, BAD["array"]), TypeError, "bias of type ndarray: must be None, a tensor, or"),
        (lambda: C.conv2d(X, W, BAD["tap"]), TypeError, "bias of type list: must be None, a tensor, or"),
        (lambda: C.conv2d(X, W, ("tap", BAD["word"])), TypeError, r"bias\[1\]='u': must be a tensor"),
        (lambda: C.conv2d(X, W, ("tap", BAD["none"])), TypeError, r"bias\[1\]=None: must be a tensor, not"),
        (lambda: C.conv2d(BAD["large"], W), TypeError, r"(?s)input=array\(.{54}…: must be a tensor"),
        (lambda: C.conv2d(X, W, stride=BAD["half"]), TypeError, r"stride=\(1.5,\): needs one integer"),
        (lambda: C.conv2d(X, W, None, BAD["word"]), TypeError, "stride=.untied.: needs one integer, or one"),
        (lambda: C.conv2d(X, W, groups=0), ShapeError, "groups=0: groups must be a positive integer"),
        (lambda: C.conv2d(X, W, groups=BAD["half"][0]), TypeError, "groups=1.5: must be a positive int"),
        (lambda: C.conv2d(X, W, groups=True), ShapeError, "groups=True: groups must be a positive integer"),
        (lambda: C.conv2d(X, W, activation="swish"), ValueError, "='swish': must be None or one of relu"),
        (lambda: convbias.Conv2d(1, 1, 1, activation=BAD["tap"]), ValueError, "'tap'.: must be None or one"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    call: Callable[[], Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_errors_carry_their_data_and_survive_pickling() -> None:
    import pickle

    errors = [
        (TyingError("h c", "h c", "wrong order"), ("spelling", "part", "rule")),
        (ShapeError("bias", [3], "must be (4,)"), ("name", "value", "rule")),
        (convbias.SurgeryError("stem", "is lazy"), ("layer", "rule")),
    ]
    for error, names in errors:
        copied = pickle.loads(pickle.dumps(error))
        assert str(copied) == str(error)
        assert [getattr(copied, name) for name in names] == [getattr(error, name) for name in names]
        assert isinstance(error, ValueError)


@pytest.mark.skipif(native.absence() is not None, reason=f"no own kernels: {native.absence()}")
@pytest.mark.parametrize("batched", [True, False])
def test_own_kernels_run_what_is_not_small(batched: bool) -> None:
    # Rounding differs between Winograd's algorithm and torch's, which small images and "aten" go by.
    def differs(size: int) -> bool:
        x = torch.randn(*[1] * batched, 64, size, size)
        with torch.no_grad(), convbias.backend("aten"):
            torchs = C.conv2d(x, weight, torch.ones(64, size, size), padding=1)
        with torch.no_grad():
            return not torch.equal(C.conv2d(x, weight, torch.ones(64, size, size), padding=1), torchs)

    torch.manual_seed(0)
    weight = torch.randn(64, 64, 3, 3)
    assert differs(28)
    assert not differs(7)


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(32, (4, 4)), (32, (64, 64)), (16, (16, 56, 56))])
def test_a_tied_bias_of_another_type_is_refused_whatever_convolves(
    channels: int, size: tuple[int, ...], recording: bool
) -> None:
    dims = len(size)
    form = torch.channels_last if dims == 2 else torch.channels_last_3d
    x = torch.randn(1, channels, *size).to(memory_format=form)
    w = torch.randn(channels, channels, *[3] * dims).requires_grad_(recording)
    run = C.conv2d if dims == 2 else C.conv3d
    with pytest.raises(RuntimeError, match="type"):
        run(x, w, torch.zeros(channels, dtype=torch.float64), padding=1)

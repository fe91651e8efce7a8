"""The laws hold to rounding, in the middle of the image and at its border, for every geometry."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from convbias import Geometry, Site, parse
from convbias.affine import (
    AffineConv,
    Field,
    absorbed_by_linear,
    after,
    average_pool,
    before,
    compose,
    constant_channels,
    constant_padding,
    cropping,
    identity,
    parallel,
    relu_floor,
    through_max_pool,
    tied,
)
from convbias.affine.parallel import evened
from convbias.errors import FoldRefused, ShapeError
from convbias.geometry import PADDING_MODES
from convbias.tying import Untied


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def same(found: Tensor, wanted: Tensor) -> None:
    """Equal to rounding, and what is compared is not zero."""
    assert found.shape == wanted.shape
    assert wanted.numel() == 0 or wanted.abs().max() > 1e-3
    error = (found - wanted).abs()
    assert not error.numel() or error.max() <= 1e-12 * max(1.0, float(wanted.abs().max()))


@st.composite
def geometries(draw: st.DrawFn, dims: int | None = None, transposed: bool | None = None) -> Geometry:
    dims = dims or draw(st.integers(1, 3))
    several = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    kernel, stride, dilation = several(1, 4 if dims < 3 else 2), several(1, 3), several(1, 2)
    padding = several(0, 3)
    mode = draw(st.sampled_from(PADDING_MODES))
    if draw(st.booleans()) if transposed is None else transposed:
        extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
        return Geometry.of(dims, kernel, stride, padding, dilation, transposed=True, output_padding=extra)
    return Geometry.of(dims, kernel, stride, padding, dilation, padding_mode=mode)


def fields(site: Site, which: str) -> Field:
    """A random field of the tying ``which`` at ``site``."""
    tying = parse(which)
    parameters = tuple(randn(*shape) for shape in tying.shapes(site).values())
    return Field.of(tying, parameters, site.dims)


@st.composite
def cases(draw: st.DrawFn, geometry: st.SearchStrategy[Geometry] | None = None) -> tuple[AffineConv, Tensor]:
    """A convolution with a tied and a tap bias, and an image whose output is not empty."""
    g = draw(geometries() if geometry is None else geometry)
    groups, ins, outs = (draw(st.integers(1, 3)) for _ in range(3))
    torch.manual_seed(draw(st.integers(0, 99)))
    size = tuple(draw(st.integers(4, 7)) for _ in range(g.dims))
    assume(min(g.output_size(size)) > 0)
    assume(g.padding_mode == "zeros" or all(a < n for (a, _), n in zip(g.pads, size, strict=True)))
    first, second = (ins * groups, outs) if g.transposed else (outs * groups, ins)
    conv = AffineConv(randn(first, second, *g.kernel_size), g, groups)
    site = conv.site(size)
    conv = conv.with_bias(fields(site, "tied") + fields(site, "tap"))
    return conv, randn(2, conv.in_channels, *size)


def over(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (x.dim() - 2))


@given(cases())
def test_affine_after(case: tuple[AffineConv, Tensor]) -> None:
    conv, x = case
    y = conv(x)
    scale, shift = randn(conv.out_channels), randn(*y.shape[1:])
    level = randn(conv.out_channels)
    same(after(conv, scale)(x), y * over(scale, y))
    found = after(conv, scale, tied(level, conv.geometry.dims))
    same(found(x), y * over(scale, y) + over(level, y))
    assert "untied" not in repr(found.smallest(x.shape[2:])[0])
    same(after(conv, None, Field(maps=(shift,)))(x), y + shift)


@given(cases())
def test_affine_before(case: tuple[AffineConv, Tensor]) -> None:
    conv, x = case
    scale, shift = randn(conv.in_channels), randn(conv.in_channels)
    found = before(conv, scale, tied(shift, conv.geometry.dims))
    same(found(x), conv(x * over(scale, x) + over(shift, x)))
    # It follows the image: nothing in it knows the size.
    bigger = torch.cat([x, randn(*x.shape)], -1)
    same(found(bigger), conv(bigger * over(scale, x) + over(shift, x)))
    if conv.geometry.covers:
        assert repr(found.smallest()[0]) == "tied"


@given(cases(), st.booleans())
def test_a_map_before(case: tuple[AffineConv, Tensor], partial: bool) -> None:
    conv, x = case
    shift = randn(*((1,) * (x.dim() - 2)), x.shape[-1]) if partial else randn(*x.shape[1:])
    found = before(conv, None, Field(maps=(shift,)), x.shape[2:])
    same(found(x), conv(x + shift))


@given(cases(), st.data())
def test_constant_channels(case: tuple[AffineConv, Tensor], data: st.DataObject) -> None:
    conv, x = case
    each = conv.in_channels // conv.groups
    assume(each > 1)
    count = data.draw(st.integers(1, each - 1))
    chosen = [
        group * each + c
        for group in range(conv.groups)
        for c in data.draw(st.permutations(range(each)))[:count]
    ]
    constants = {c: randn() if data.draw(st.booleans()) else randn(*x.shape[2:]) for c in chosen}
    full = x.clone()
    for channel, value in constants.items():
        full[:, channel] = value
    rest = [c for c in range(conv.in_channels) if c not in constants]
    same(constant_channels(conv, constants)(x[:, rest]), conv(full))


@given(cases(geometries(transposed=False)), st.sampled_from(["number", "each", "zero"]), st.data())
def test_constant_padding(case: tuple[AffineConv, Tensor], kind: str, data: st.DataObject) -> None:
    conv, x = case
    g = conv.geometry
    # Zeros join the zeros that the convolution pads with; another value needs one that does not pad.
    own = g.pads if kind == "zero" and g.padding_mode == "zeros" else ((0, 0),) * g.dims
    bias = tied(randn(conv.out_channels), g.dims)
    if not any(a or b for a, b in own):
        bias = bias + Field(tap=randn(conv.out_channels, *g.kernel_size))
    conv = AffineConv(conv.weight, replace(g, pads=own), conv.groups, bias)
    pads = [(data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))) for _ in range(g.dims)]
    value = {"number": randn(), "each": randn(conv.in_channels), "zero": torch.zeros(()).double()}[kind]
    around = [p for pair in reversed(pads) for p in pair]
    inside = F.pad(torch.ones_like(x), around)
    padded = F.pad(x, around) + (1 - inside) * over(value.expand(conv.in_channels), x)
    assume(min(conv.geometry.output_size(padded.shape[2:])) > 0)
    found = constant_padding(conv, pads, value)
    same(found(x), conv(padded))
    assert repr(found.smallest()[0]) in ("tied", "tap", "c + tap")


@given(cases(geometries(transposed=False)), st.data())
def test_cropping(case: tuple[AffineConv, Tensor], data: st.DataObject) -> None:
    conv, x = case
    g = conv.geometry
    crops = [(data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in range(g.dims)]
    # A side that is cropped is not padded; what repeats entries pads neither side then.
    whole = g.padding_mode != "zeros"
    pads = [
        ((0 if a or (whole and b) else p), (0 if b or (whole and a) else q))
        for (a, b), (p, q) in zip(crops, g.pads, strict=True)
    ]
    conv = AffineConv(conv.weight, replace(g, pads=tuple(pads)), conv.groups, conv.bias)
    assume(min(conv.geometry.output_size(x.shape[2:])) > 0)
    wide = randn(*x.shape[:2], *(n + a + b for n, (a, b) in zip(x.shape[2:], crops, strict=True)))
    inside = (..., *(slice(a, n - b) for n, (a, b) in zip(wide.shape[2:], crops, strict=True)))
    found = cropping(conv, crops)
    assert min(map(min, found.geometry.pads)) >= 0
    same(found(wide), conv(wide[inside]))


@given(cases(geometries(transposed=False)), st.data())
def test_sides_padded_alike(case: tuple[AffineConv, Tensor], data: st.DataObject) -> None:
    conv, x = case
    pads = tuple((data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))) for _ in range(x.dim() - 2))
    geometry = replace(conv.geometry, pads=pads, padding_mode="zeros")
    assume(min(geometry.output_size(x.shape[2:])) > 0)
    taps = Field(tap=randn(conv.out_channels, *geometry.kernel_size))
    conv = AffineConv(conv.weight, geometry, conv.groups, taps)
    found = evened(conv)
    assert all(before == after for before, after in found.geometry.pads)
    same(found(x), conv(x))


def pointwise(
    ins: int, outs: int, dims: int, groups: int = 1, stride: int | tuple[int, ...] = 1
) -> AffineConv:
    conv = AffineConv(randn(outs, ins // groups, *(1,) * dims), Geometry.of(dims, 1, stride), groups)
    return conv.with_bias(tied(randn(outs), dims))


@given(cases(), st.data())
def test_a_pointwise_after(case: tuple[AffineConv, Tensor], data: st.DataObject) -> None:
    conv, x = case
    groups = data.draw(st.sampled_from([g for g in (1, 2, 3) if conv.out_channels % g == 0]))
    stride = 1 if conv.geometry.transposed else data.draw(st.integers(1, 2))
    second = pointwise(conv.out_channels, 2 * groups, conv.geometry.dims, groups, stride)
    extra = randn(conv.out_channels, *conv.geometry.output_size(x.shape[2:]))
    same(compose(conv, second)(x), second(conv(x)))
    conv = conv.with_bias(conv.bias + Field(maps=(extra,)))
    same(compose(conv, second)(x), second(conv(x)))


@given(cases(), st.data())
def test_a_pointwise_before(case: tuple[AffineConv, Tensor], data: st.DataObject) -> None:
    conv, x = case
    g = conv.geometry
    groups = data.draw(st.sampled_from([n for n in (1, 2, 3) if conv.in_channels % n == 0]))
    free = not g.transposed and g.padding_mode == "zeros" and g.kernel_size != (1,) * g.dims
    stride = data.draw(st.integers(1, 2)) if free else 1
    first = pointwise(2 * groups, conv.in_channels, g.dims, groups, stride)
    image = randn(
        2, first.in_channels, *(n * stride - data.draw(st.integers(0, stride - 1)) for n in x.shape[2:])
    )
    found = compose(first, conv)
    same(found(image), conv(first(image)))
    mapped = first.with_bias(Field(maps=(randn(first.out_channels, *x.shape[2:]),)))
    same(compose(mapped, conv, image.shape[2:])(image), conv(mapped(image)))


@given(cases(geometries(transposed=False)), st.data())
def test_parallel_branches(case: tuple[AffineConv, Tensor], data: st.DataObject) -> None:
    conv, x = case
    g = conv.geometry
    # A second kernel that reads around the same entry: inside, outside or aside of the first.
    kernel, dilation, pads = [], [], []
    for axis in range(g.dims):
        (before_, after_), span = g.pads[axis], g.dilation[axis] * (g.kernel_size[axis] - 1)
        k, d = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
        total = before_ + after_ - span + d * (k - 1)
        assume(total >= 0)
        left = data.draw(st.integers(0, total))
        kernel.append(k)
        dilation.append(d)
        pads.append((left, total - left))
    other = Geometry(tuple(kernel), g.stride, tuple(pads), tuple(dilation), g.padding_mode)
    assume(g.padding_mode == "zeros" or all(max(p) < n for p, n in zip(pads, x.shape[2:], strict=True)))
    assume(g.padding_mode == "zeros" or all(max(p) < n for p, n in zip(g.pads, x.shape[2:], strict=True)))
    branch = AffineConv(randn(conv.out_channels, conv.in_channels, *kernel), other)
    branch = branch.with_bias(fields(branch.site(x.shape[2:]), "tap"))
    found = parallel(conv, branch)
    same(found(x), conv(x) + branch(x))
    same(parallel(branch, conv)(x), conv(x) + branch(x))


def test_repvgg_becomes_one_convolution_with_a_tied_bias() -> None:
    x = randn(2, 6, 7, 8)
    for groups in (1, 2, 6):
        big = AffineConv(randn(6, 6 // groups, 3, 3), Geometry.of(2, 3, padding=1), groups)
        small = AffineConv(randn(6, 6 // groups, 1, 1), Geometry.of(2, 1), groups)
        branches = [
            after(conv, randn(6), tied(randn(6), 2))
            for conv in (big, small, identity(6, 2, groups, torch.float64))
        ]
        found = parallel(*branches)
        same(found(x), torch.stack([branch(x) for branch in branches]).sum(0))
        assert (found.geometry, found.groups) == (big.geometry, groups)
        assert repr(found.smallest()[0]) == "tied"


def test_a_tap_bias_that_meets_no_border_is_tied_in_a_sum_too() -> None:
    branch = pointwise(3, 4, 2)
    branch = branch.with_bias(Field(tap=randn(4, 1, 1)))
    big, x = AffineConv(randn(4, 3, 3, 3), Geometry.of(2, 3, padding=1)), randn(2, 3, 5, 4)
    found = parallel(big, branch)
    same(found(x), big(x) + branch(x))
    assert repr(found.smallest()[0]) == "tied"


def test_a_diverse_branch_block() -> None:
    """1×1 and its BatchNorm, then a padded k×k; and 1×1, then average pooling: the padding's bias counts."""
    x = randn(2, 4, 7, 6)
    squeeze = after(pointwise(4, 4, 2), randn(4), tied(randn(4), 2))
    big = AffineConv(randn(4, 4, 3, 3), Geometry.of(2, 3, padding=1))
    pool = average_pool(4, 2, 3, 1, padding=1, dtype=torch.float64)
    wanted = big(squeeze(x)) + F.avg_pool2d(squeeze(x), 3, 1, 1)
    found = parallel(compose(squeeze, big), compose(squeeze, pool))
    same(found(x), wanted)
    assert repr(found.smallest()[0]) == "tap"


@pytest.mark.parametrize(
    ("dims", "kernel", "stride", "padding"), [(1, 3, None, 1), (2, (2, 3), 1, (1, 1)), (3, 2, 2, 0)]
)
def test_average_pooling(dims: int, kernel: Any, stride: Any, padding: Any) -> None:
    x = randn(2, 3, *(6,) * dims)
    pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1](kernel, stride, padding)
    same(average_pool(3, dims, kernel, stride, padding, torch.float64)(x), pool(x))


def test_a_linear_layer_absorbs_a_field() -> None:
    x, field = randn(5, 2, 3, 4), randn(2, 3, 4)
    weight, bias = randn(7, 24), randn(7)
    wanted = F.linear((x + field).flatten(1), weight, bias)
    same(F.linear(x.flatten(1), weight, absorbed_by_linear(weight, bias, field)), wanted)
    same(
        F.linear(x.flatten(1), weight, absorbed_by_linear(weight, None, field)),
        F.linear((x + field).flatten(1), weight),
    )


@given(cases(geometries(dims=2)))
def test_an_affine_map_passes_a_relu_and_a_padding(case: tuple[AffineConv, Tensor]) -> None:
    conv, x = case
    scale = randn(conv.in_channels)
    scale = scale + scale.sign() * 0.1
    shift = randn(conv.in_channels)
    floor = over(relu_floor(scale, shift), x)
    wanted = conv(F.relu(x) * over(scale, x) + over(shift, x))
    # The shift stays with the ReLU; only the scale crosses, and padding's zeros are not shifted by it.
    inner = torch.maximum(x + floor, floor)
    same(inner * over(scale, x), F.relu(x) * over(scale, x) + over(shift, x))
    same(before(conv, scale)(inner), wanted)
    relu6 = torch.minimum(torch.maximum(x + floor, floor), 6 + floor)
    same(relu6 * over(scale, x), F.relu6(x) * over(scale, x) + over(shift, x))


def test_max_pooling_lets_a_positive_scale_through() -> None:
    x, shift = randn(2, 3, 6, 6), randn(3)
    scale = randn(3).abs() + 0.1
    through_max_pool(scale)
    pooled = F.max_pool2d(x * over(scale, x) + over(shift, x), 3, 2, 1)
    same(F.max_pool2d(x, 3, 2, 1) * over(scale, x) + over(shift, x), pooled)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(FoldRefused, match="max pooling: a scale of 0 or less"):
            through_max_pool(torch.tensor([1.0, bad]))


KEPT = {
    **{name: name for name in ("none", "tied", "c h", "c w", "untied", "tap", "c h + c w", "c + tap")},
    **{name: name for name in ("rank:2", "grid:3", "sym:d4", "sym:flip_w")},
    **{"": "tied", "h w": "rank:1", "h": "c h", "c + h w": "rank:1", "h + c w": "c h + c w"},
}


@pytest.mark.parametrize("spelling", KEPT)
def test_an_affine_after_keeps_the_smallest_tying(spelling: str) -> None:
    g = Geometry.of(2, 2, padding=1)
    conv = AffineConv(randn(4, 3, 2, 2), g)
    site = conv.site((5, 5))
    conv = conv.with_bias(fields(site, spelling))
    scale, x = randn(4), randn(2, 3, 5, 5)
    found = after(conv, scale)
    tying, parameters = found.smallest((5, 5))
    assert repr(tying) == KEPT[spelling]
    same(found(x), conv(x) * over(scale, x))
    if parameters:
        same(tying.expand(parameters, site), conv.bias.at(site) * over(scale, x))
    shifted = after(conv, scale, tied(randn(4), 2))
    tying, parameters = shifted.smallest((5, 5))
    assert repr(tying) == {"none": "tied", "tap": "c + tap"}.get(spelling, KEPT[spelling])
    same(tying.expand(parameters, site), shifted.bias.at(site))


@pytest.mark.parametrize(
    ("first", "second", "sum_"),
    [
        ("tied", "tied", "tied"),
        ("none", "none", "none"),
        ("tied", "untied", "untied"),
        ("c h", "c w", "c h + c w"),
        ("c h", "untied", "untied"),
        ("tap", "tap", "tap"),
        ("tap", "c h", "untied"),
        ("rank:1", "rank:2", "rank:3"),
        ("rank:1", "tied", "rank:1"),
        ("grid:2", "grid:2", "grid:2"),
        ("grid:2", "grid:3", "untied"),
        ("grid:2", "tied", "grid:2"),
        ("sym:d4", "tied", "sym:d4"),
        ("rank:1", "tap", "untied"),
    ],
)
def test_sums_of_fields(first: str, second: str, sum_: str) -> None:
    site = Site.of(4, Geometry.of(2, 3, padding=1), (6, 6))
    for a, b in ((first, second), (second, first)):
        one, other = fields(site, a), fields(site, b)
        tying, parameters = (one + other).smallest(site)
        assert repr(tying) == sum_
        if parameters:
            same(tying.expand(parameters, site), one.at(site) + other.at(site))


def test_a_map_that_does_not_bend_is_no_map() -> None:
    site = Site.of(3, Geometry.of(2, 3, padding=1), (4, 5))
    level, rows = randn(3, 1, 1), randn(3, 4, 1)
    for part, tying in ((level, "tied"), (rows, "c h"), (torch.zeros(3, 1, 1), "none")):
        assert repr(Field(maps=(part.expand(3, 4, 5).contiguous(),)).smallest(site)[0]) == tying
    assert repr(Field(tap=torch.zeros(3, 3, 3)).smallest(site)[0]) == "none"
    covered = Site(3, 2, Geometry.of(2, 3))
    tying, (bias,) = Field(tap=randn(3, 3, 3)).smallest(covered)
    assert (repr(tying), bias.shape) == ("tied", (3,))


def test_one_column_or_one_filter_is_no_trap() -> None:
    for shape in ((1, 4, 5), (3, 4, 1), (3, 1, 1), (1, 1, 1)):
        site = Site(shape[0], 2, output_size=shape[1:])
        field = Field.of(Untied(), (randn(*shape),), 2)
        tying, parameters = field.mapped(lambda p: 2 * p, shape[0]).smallest(site)
        same(tying.expand(parameters, site), 2 * field.at(site))


BAD: list[tuple[str, Any, str]] = [
    ("scale too short", lambda c: after(c, randn(3)), r"affine after: scale is \(3,\), not .* 4"),
    ("scale of the image", lambda c: before(c, randn(7)), r"affine before: scale is \(7,\), not .* 2"),
    ("all constant", lambda c: constant_channels(c, {0: randn(), 1: randn()}), "nothing is left"),
    ("no such channel", lambda c: constant_channels(c, {5: randn()}), "constant channels"),
    ("pads twice", lambda c: constant_padding(c, [(1, 1)] * 2, randn()), "pads once more"),
    (
        "pads twice, once by repeating",
        lambda c: constant_padding(
            replace(c, geometry=replace(c.geometry, padding_mode="circular")), [(1, 1)] * 2, torch.zeros(())
        ),
        "pads once more",
    ),
    (
        "a tap bias of the padded image",
        lambda c: constant_padding(c.with_bias(Field(tap=randn(4, 3, 3))), [(1, 1)] * 2, torch.zeros(())),
        "tap bias counts the constant",
    ),
    (
        "map of unknown size",
        lambda c: before(c, None, Field(maps=(randn(1, 7, 1),))),
        "needs the image's size",
    ),
    ("tap before", lambda c: before(c, None, Field(tap=randn(2, 3, 3))), "write it out at its site"),
    (
        "cropped before",
        lambda c: cropping(c, [(1, 0), (0, 0)]),
        "cropping: the convolution pads where the image is cropped",
    ),
    (
        "cropped behind",
        lambda c: cropping(c, [(0, 0), (0, 2)]),
        "cropping: the convolution pads where the image is cropped",
    ),
    (
        "cropped on the other side of what repeats",
        lambda c: cropping(
            replace(c, geometry=replace(c.geometry, pads=((1, 0), (0, 0)), padding_mode="circular")),
            [(0, 1), (0, 0)],
        ),
        "cropping: the convolution pads where the image is cropped",
    ),
    ("channels", lambda c: compose(c, pointwise(3, 3, 2)), "compose: 4 filters into 3 channels"),
    (
        "two kernels",
        lambda c: compose(c, AffineConv(randn(2, 4, 2, 2), Geometry.of(2, 2))),
        "neither is a 1×1",
    ),
    (
        "padded pointwise",
        lambda c: compose(AffineConv(randn(2, 2, 1, 1), Geometry.of(2, 1, padding=1)), c),
        "neither is a 1×1 convolution without padding",
    ),
    (
        "other size",
        lambda c: parallel(c, AffineConv(c.weight, Geometry.of(2, 3))),
        "differ in size along axis 0",
    ),
    (
        "other stride",
        lambda c: parallel(c, AffineConv(c.weight, Geometry.of(2, 3, 2, 1))),
        "parallel: strides",
    ),
    (
        "other padding",
        lambda c: parallel(c, AffineConv(c.weight, Geometry.of(2, 3, padding=1, padding_mode="circular"))),
        r"paddings \['circular', 'zeros'\] differ",
    ),
    ("other channels", lambda c: parallel(c, pointwise(2, 3, 2)), "different channels"),
    (
        "zero scale",
        lambda c: relu_floor(torch.tensor([0.0]), torch.tensor([1.0])),
        "shifted ReLU: a scale of 0",
    ),
    ("overflow", lambda c: relu_floor(torch.tensor([1e-30]), torch.tensor([1e20])), "overflows"),
]


@pytest.mark.parametrize(("rewrite", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_refusals_name_the_law_and_the_reason(rewrite: Any, said: str) -> None:
    conv = AffineConv(randn(4, 2, 3, 3), Geometry.of(2, 3, padding=1))
    with pytest.raises(FoldRefused, match=said):
        rewrite(conv)


def test_uneven_constant_channels_and_bad_weights() -> None:
    grouped = AffineConv(randn(4, 2, 3, 3), Geometry.of(2, 3), groups=2)
    with pytest.raises(FoldRefused, match="different numbers"):
        constant_channels(grouped, {0: randn()})
    with pytest.raises(ShapeError, match="needs the kernel"):
        AffineConv(randn(4, 2, 3, 2), Geometry.of(2, 3))
    with pytest.raises(ShapeError, match="must divide"):
        AffineConv(randn(4, 2, 3, 3), Geometry.of(2, 3), groups=3)
    turned = AffineConv(randn(2, 4, 3, 3), Geometry.of(2, 3, transposed=True))
    with pytest.raises(FoldRefused, match="padding crops"):
        constant_padding(turned, [(1, 1)] * 2, randn())
    with pytest.raises(FoldRefused, match="transposed branches"):
        parallel(turned, AffineConv(turned.weight, Geometry.of(2, 3, 2, transposed=True)))


def test_the_border_is_tested_at_all() -> None:
    """Folding with a tied bias, as others do, is right inside and wrong at the border: these laws are not."""
    conv = AffineConv(randn(4, 3, 3, 3), Geometry.of(2, 3, padding=1))
    shift, x = randn(3), randn(1, 3, 8, 8)
    wanted = conv(x + over(shift, x))
    naive = conv.with_bias(tied((conv.weight.sum((2, 3)) @ shift), 2))
    error = (naive(x) - wanted).abs()
    assert error[..., 1:-1, 1:-1].max() < 1e-12
    ring = torch.ones(8, 8, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    assert error[..., ring].max() > 0.5
    exact = (before(conv, None, tied(shift, 2))(x) - wanted).abs()
    assert max(exact[..., ring].max(), exact[..., ~ring].max()) < 1e-12


def test_grouped_order_is_torchs() -> None:
    for transposed, groups in product((False, True), (1, 2)):
        shape = (4, 3) if transposed else (6, 4 // groups)
        conv = AffineConv(randn(*shape, 3), Geometry.of(1, 3, transposed=transposed), groups)
        x = randn(1, conv.in_channels, 9)
        run = F.conv_transpose1d if transposed else F.conv1d
        same(conv(x), run(x, conv.weight, groups=groups))
        same(conv.with_grouped(conv.grouped, conv.bias)(x), conv(x))

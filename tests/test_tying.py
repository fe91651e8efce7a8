"""Tyings: spellings, parameters, and the laws of expand, project, lift and refine."""

from __future__ import annotations

import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from convbias import Geometry, Regions, ShapeError, Site, Tying, TyingError, parse, refines
from convbias.tying import Grid, Rank, Sum, convert
from convbias.tying.tap import holds_tied

LAND = Regions(torch.arange(30).reshape(5, 6) % 4)
CONV1 = Site.of(3, Geometry.of(1, 4, 2, 1, 2), (13,))
CONV2 = Site.of(3, Geometry.of(2, 3, padding=1), (5, 6))
SQUARE = Site.of(2, Geometry.of(2, (2, 3), padding=(1, 0)), (5, 8))
UP2 = Site.of(3, Geometry.of(2, 3, 2, 1, transposed=True, output_padding=1), (3, 3))
CONV3 = Site.of(2, Geometry.of(3, (1, 2, 3), (1, 2, 1), 1), (3, 4, 3))

# spelling, site, the parameters' shapes in order
CASES: list[tuple[str | Tying, Site, list[tuple[int, ...]]]] = [
    ("none", CONV2, []),
    ("tied", CONV2, [(3,)]),
    ("", CONV2, [(1, 1, 1)]),
    ("c h", CONV2, [(3, 5, 1)]),
    ("c w", CONV2, [(3, 1, 6)]),
    ("h w", CONV2, [(1, 5, 6)]),
    ("h", CONV2, [(1, 5, 1)]),
    ("c h w", CONV2, [(3, 5, 6)]),
    ("untied", CONV2, [(3, 5, 6)]),
    ("c + h w", CONV2, [(3,), (1, 5, 6)]),
    ("c h + c w", CONV2, [(3, 5, 1), (3, 1, 6)]),
    ("h + w", CONV2, [(1, 5, 1), (1, 1, 6)]),
    ("c + c h w", CONV2, [(3,), (3, 5, 6)]),
    ("h w + c + c h", CONV2, [(1, 5, 6), (3,), (3, 5, 1)]),
    ("tap", CONV2, [(3, 3, 3)]),
    ("c + tap", CONV2, [(3,), (3, 3, 3)]),
    ("tap", SQUARE, [(2, 2, 3)]),
    ("c + tap", SQUARE, [(2,), (2, 2, 3)]),
    ("tap", UP2, [(3, 3, 3)]),
    ("tap + c", UP2, [(3, 3, 3), (3,)]),
    ("grid:2", CONV2, [(3, 2, 2)]),
    ("grid:7x1", CONV2, [(3, 7, 1)]),
    ("rank:1", CONV2, [(3,), (3, 1), (1, 5, 6)]),
    ("rank:5", CONV2, [(3,), (3, 5), (5, 5, 6)]),
    ("sym:flip_w", CONV2, [(3, 15)]),
    ("sym:flip_h", CONV2, [(3, 18)]),
    ("sym:d4", UP2, [(3, 6)]),
    (LAND, CONV2, [(3, 4)]),
    ("c l", CONV1, [(3, 5)]),
    ("l", CONV1, [(1, 5)]),
    ("tap", CONV1, [(3, 4)]),
    ("c + tap", CONV1, [(3,), (3, 4)]),
    ("grid:3", CONV1, [(3, 3)]),
    ("rank:1", CONV1, [(3,), (3, 1), (1, 5)]),
    ("sym:flip_l", CONV1, [(3, 3)]),
    ("c d h w", CONV3, [(2, 5, 3, 3)]),
    ("c d + h w", CONV3, [(2, 5, 1, 1), (1, 1, 3, 3)]),
    ("tap", CONV3, [(2, 1, 2, 3)]),
    ("c + tap", CONV3, [(2,), (2, 1, 2, 3)]),
    ("grid:2x3x1", CONV3, [(2, 2, 3, 1)]),
    ("sym:flip_d", CONV3, [(2, 27)]),
    ("sym:d4", CONV3, [(2, 15)]),
]
IDS = [f"{spec!r}-{site.dims}d-{i}" for i, (spec, site, _) in enumerate(CASES)]
LINEAR = [case for case in CASES if not isinstance(parse(case[0]), Rank)]
table = pytest.mark.parametrize(("spec", "site", "shapes"), CASES, ids=IDS)
linear = pytest.mark.parametrize(("spec", "site"), [case[:2] for case in LINEAR])


def draw(tying: Tying, site: Site) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in tying.shapes(site).values()]


def dense(tying: Tying, site: Site) -> Tensor:
    """The matrix of ``expand``: a column for each parameter, found by expanding unit vectors."""
    shapes = list(tying.shapes(site).values())
    sizes = [math.prod(shape) for shape in shapes]
    columns = [
        tying.expand([p.reshape(s) for p, s in zip(unit.split(sizes), shapes, strict=True)], site).flatten()
        for unit in torch.eye(sum(sizes), dtype=torch.float64)
    ]
    return torch.stack(columns, 1) if columns else torch.zeros(math.prod(site.field_shape), 0).double()


def flat(parameters: list[Tensor]) -> Tensor:
    return torch.cat([p.flatten() for p in parameters]) if parameters else torch.zeros(0).double()


@table
def test_parameters_have_the_promised_names_shapes_and_count(
    spec: str | Tying, site: Site, shapes: list[tuple[int, ...]]
) -> None:
    tying = parse(spec)
    names = ["bias", "bias_u", "bias_v"] if isinstance(tying, Rank) else ["bias", "bias_1", "bias_2"]
    assert tying.shapes(site) == dict(zip(names, shapes, strict=False))
    assert tying.count(site) == sum(map(math.prod, shapes))
    assert tying.expand(draw(tying, site), site).shape == site.field_shape


@linear
def test_project_is_the_smallest_least_squares_solution(spec: str | Tying, site: Site) -> None:
    tying = parse(spec)
    field = torch.randn(site.field_shape, dtype=torch.float64)
    expected = torch.linalg.pinv(dense(tying, site)) @ field.flatten()
    torch.testing.assert_close(flat(tying.project(field, site)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3, 7])
def test_rank_projects_to_the_best_low_rank_field(rank: int) -> None:
    field = torch.randn(CONV2.field_shape, dtype=torch.float64)
    nearest = Rank(rank).expand(Rank(rank).project(field, CONV2), CONV2)
    centred = field.flatten(1) - field.flatten(1).mean(1, keepdim=True)
    lost = torch.linalg.svdvals(centred)[rank:].square().sum().sqrt()
    torch.testing.assert_close((field - nearest).norm(), lost, rtol=0, atol=1e-12)


def test_rank_leaves_unused_directions_able_to_learn() -> None:
    one = Rank(1).expand(draw(Rank(1), CONV2), CONV2)
    _, u, v = Rank(3).project(one, CONV2)
    assert torch.all(v[1:] == 0)
    assert torch.all(u[:, 1:].abs().sum(0) > 0.01)


def test_the_tap_field_is_the_sum_over_the_entries_that_exist() -> None:
    (taps,) = draw(parse("tap"), CONV2)
    field = parse("tap").expand([taps], CONV2)
    for o in itertools.product(range(5), range(6)):
        inside = [
            t
            for t in itertools.product(range(3), range(3))
            if all(0 <= a + b - 1 < n for a, b, n in zip(o, t, (5, 6), strict=True))
        ]
        total = sum(taps[(slice(None), *t)] for t in inside)
        torch.testing.assert_close(field[(slice(None), *o)], total, rtol=0, atol=1e-14)


def test_a_transposed_tap_field_has_one_number_per_phase_inside() -> None:
    site = Site.of(1, Geometry.of(1, 5, 2, transposed=True), (9,))
    taps = torch.tensor([[1.0, 10, 100, 1000, 10000]])
    inside = parse("tap").expand([taps], site)[0, 4:-4]
    assert inside.unique().tolist() == [1010.0, 10101.0]


@given(st.integers(1, 9), st.integers(1, 12))
def test_grid_is_torchs_interpolation_with_corners_aligned(points: int, size: int) -> None:
    control = torch.randn(2, points, dtype=torch.float64)
    expected = F.interpolate(control[None], size, mode="linear", align_corners=True)[0]
    found = Grid((points,)).expand([control], Site(2, 1, output_size=(size,)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_square_has_as_many_orbits_as_a_go_board_has_kinds_of_points() -> None:
    assert parse("sym:d4").count(Site(1, 2, output_size=(19, 19))) == 55
    field = parse("sym:d4").expand([torch.randn(1, 55)], Site(1, 2, output_size=(19, 19)))
    for same in (field.flip(1), field.flip(2), field.mT, field.rot90(1, (1, 2))):
        assert torch.equal(field, same)


@table
def test_lift_is_the_tied_field_wherever_the_tying_can_hold_it(
    spec: str | Tying, site: Site, shapes: list[tuple[int, ...]]
) -> None:
    tying, tied = parse(spec), torch.randn(site.channels, dtype=torch.float64)
    field = parse("tied").expand([tied], site)
    lifted = tying.lift(tied, site) if shapes else []
    if refines(tying, parse("tied"), site):
        torch.testing.assert_close(tying.expand(lifted, site), field, rtol=0, atol=1e-14)
    elif "tap" not in repr(tying):
        nearest = tying.expand(tying.project(field, site), site)
        torch.testing.assert_close(tying.expand(lifted, site), nearest, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("geometry", "holds"),
    [
        (Geometry.of(1, 3, 1, 1), True),
        (Geometry.of(1, 5, 2, 2, 3), True),
        (Geometry.of(1, 3, 1, 2), False),
        (Geometry.of(1, 4), True),
        (Geometry.of(1, 4, 1, "same"), True),
        (Geometry.of(1, 2, 1, 1), False),
        (Geometry.of(1, 4, 1, 2), False),
        (Geometry.of(1, 4, 1, 2, padding_mode="circular"), True),
        (Geometry.of(1, 4, 2, 0, transposed=True), False),
        (Geometry.of(1, 4, 2, 1, transposed=True), True),
        (Geometry.of(1, 2, 2, transposed=True), True),
        (Geometry.of(1, 2, 3, transposed=True), False),
    ],
)
def test_where_a_tied_bias_is_a_tap_bias(geometry: Geometry, holds: bool) -> None:
    assert holds_tied(geometry) is holds
    tap, tied = parse("tap"), torch.ones(1, dtype=torch.float64)
    for n in range(9, 14):
        site = Site.of(1, geometry, (n,))
        assert refines(tap, parse("tied"), site) is holds
        field = tap.expand(tap.lift(tied, site), site)
        inside = field[:, 6:-6] if geometry.kernel_size[0] * geometry.stride[0] < 8 else field[:, 8:-8]
        if holds:
            torch.testing.assert_close(field, torch.ones_like(field), rtol=0, atol=1e-12)
        elif geometry.kernel_size[0] >= geometry.stride[0]:
            torch.testing.assert_close(inside, torch.ones_like(inside), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("coarser", "finer", "expected"),
    [
        ("none", "tied", True),
        ("tied", "none", False),
        ("", "tied", True),
        ("tied", "c h", True),
        ("c h", "tied", False),
        ("c h", "c h + c w", True),
        ("c + h w", "rank:1", True),
        ("c h + c w", "rank:1", False),
        ("rank:1", "rank:2", True),
        ("rank:2", "rank:1", False),
        ("untied", "rank:3", True),
        ("untied", "rank:2", False),
        ("grid:2", "grid:3", True),
        ("grid:3", "grid:4", False),
        ("grid:2", "untied", True),
        ("tied", "tap", True),
        ("tap", "c + tap", True),
        ("tap", "untied", True),
        ("h w", "c + h w", True),
        ("sym:flip_w", "untied", True),
        ("untied", "c h w", True),
        ("c h w", "untied", True),
        ("h w", "tied", False),
    ],
)
def test_the_order_of_refinement(coarser: str, finer: str, expected: bool) -> None:
    assert refines(parse(finer), parse(coarser), CONV2) is expected


@table
def test_convert_to_a_finer_tying_and_back_loses_nothing(
    spec: str | Tying, site: Site, shapes: list[tuple[int, ...]]
) -> None:
    tying, untied = parse(spec), parse("untied")
    parameters = draw(tying, site)
    finer, error = convert(parameters, tying, untied, site)
    assert error == 0
    _, back = convert(finer, untied, tying, site)
    assert back < 1e-12
    other = [torch.randn(site.field_shape, dtype=torch.float64)]
    converted, error = convert(other, untied, tying, site)
    largest = (tying.expand(converted, site) - other[0]).abs().max()
    assert error == pytest.approx(float(largest))


@table
def test_a_spelling_is_read_back(spec: str | Tying, site: Site, shapes: list[tuple[int, ...]]) -> None:
    tying = parse(spec)
    if not isinstance(tying, Regions):
        assert parse(repr(tying)) == tying
        assert hash(parse(repr(tying))) == hash(tying)
    assert pickle.loads(pickle.dumps(tying)) == tying


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        (True, "tied"),
        (False, "none"),
        ("c", "tied"),
        (" c   h ", "c h"),
        ("tied+h  w", "c + h w"),
        ("tied + untied", "c + untied"),
        ("grid:04x8", "grid:4x8"),
        ("", ""),
    ],
)
def test_other_spellings_mean_the_same(spec: bool | str, canonical: str) -> None:
    assert repr(parse(spec)) == canonical


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("h c", r"tying 'h c': axes go in the order 'c h w', each once; write 'c h'"),
        ("c c", r"tying 'c c': axes go in the order .*; write 'c'"),
        ("c x", r"tying 'c x', at 'x': unknown; a tying is one of none, tied"),
        ("c l h", r"1D has 'c l', 2D 'c h w'"),
        ("c + ", r"at ' ': a term of the sum is missing"),
        ("c + c", "each of them once"),
        ("c h + tap", "tap can be added to 'c' only"),
        ("c + rank:2", r"at 'rank:2': a sum is made of axis sets"),
        ("rank:", r"at '': must be a positive integer, as in 'rank:4'"),
        ("rank:0", "the rank must be at least 1"),
        ("rank:-1", "at '-1': must be a positive integer"),
        ("grid:8xx8", "at '': must be a positive integer, as in 'grid:8x8'"),
        ("grid:0", "at least 1 point"),
        ("sym:d5", r"tying .sym:d5., at 'd5': must be one of d4, flip_l"),
        ("block:2", r"at 'block': unknown"),
        ("Regions(shape=(2,), labels=2, digest='0')", r"pass the Regions\(labels\) object"),
        (3, "must be a bool, a string or a Tying"),
        (None, "must be a bool, a string or a Tying"),
    ],
)
def test_a_spelling_that_cannot_be_read_says_which_part(spec: object, message: str) -> None:
    with pytest.raises(TyingError, match=message):
        parse(spec)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1], [-1, 1]], r"at 'labels\[1, 0\] = -1': every place needs a label of 0 or more; 1 have none"),
        ([[0, 2], [0, 2]], "at 'label 1': no place has it"),
        ([[0.0, 1.0]], "labels must be integers or booleans"),
        (0, "one to three axes"),
        ([[[[0]]]], "one to three axes"),
    ],
)
def test_labels_that_leave_something_out_are_refused(labels: object, message: str) -> None:
    with pytest.raises(TyingError, match=message):
        Regions(labels)


def test_regions_are_values() -> None:
    labels = torch.tensor([[0, 1], [1, 0]])
    assert Regions(labels) == Regions(labels.bool()) == Regions(labels.tolist())
    assert hash(Regions(labels)) == hash(Regions(labels.clone()))
    assert Regions(labels) != Regions(1 - labels)
    assert Regions(labels) != Regions([0, 1, 1, 0])
    with pytest.raises(ShapeError, match=r"labels=\(2, 2\): must have the output's shape \(2, 3\)"):
        Regions(labels).shapes(Site(1, 2, output_size=(2, 3)))


@pytest.mark.parametrize(
    ("spec", "site", "message"),
    [
        ("c l", CONV2, "at 'l': a 2D bias has the axes 'c h w'"),
        ("c h", CONV1, "at 'h': a 1D bias has the axes 'c l'"),
        ("grid:2x2", CONV1, r"1 spatial axes: give 1 or 1 numbers, such as 'grid:8'"),
        ("sym:d4", CONV2, r"at \(5, 6\): the square's symmetries need h equal to w"),
        ("sym:d4", CONV1, "need h equal to w"),
        ("sym:flip_l", CONV2, "a 2D bias has the axes 'h w'"),
        ("tap", Site(3, 2, output_size=(5, 6)), "belongs to a convolution's kernel"),
    ],
)
def test_a_tying_that_cannot_be_had_here_says_why(spec: str, site: Site, message: str) -> None:
    with pytest.raises(TyingError, match=message):
        parse(spec).shapes(site)


def test_a_sum_of_values_is_checked_as_its_spelling_is() -> None:
    with pytest.raises(TyingError, match="two terms or more"):
        Sum((parse("c"),))  # pyright: ignore[reportArgumentType]


def test_parameters_of_other_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"bias=\[\(3, 6, 1\)\]: the tying c h has .*\[\(3, 5, 1\)\]"):
        parse("c h").expand([torch.zeros(3, 6, 1)], CONV2)

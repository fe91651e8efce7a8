"""``convbias.verify``: what is the same function passes, and every way to be another one is found."""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convbias
from convbias.errors import DataError
from convbias.folding.archive import load_program
from convbias.verifying import randomised

C = 4


def conv(**more: Any) -> nn.Conv2d:
    return nn.Conv2d(C, C, 3, padding=1, **more)


def folded_plainly(model: nn.Module) -> nn.Module:
    """BatchNorm before a padded convolution, folded into a tied bias: the error of many tools."""
    norm, layer = copy.deepcopy(model[0]), copy.deepcopy(model[1])  # pyright: ignore
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    with torch.no_grad():
        layer.bias += (layer.weight * shift[:, None, None]).sum((1, 2, 3))
        layer.weight *= scale[:, None, None]
    return layer


class Run(nn.Module):
    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, *x: Tensor) -> Any:
        return self.run(*x)


class Drifting(nn.Module):
    """Right once only: what a compiler was found to do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x) + (self.calls > 1)


class Overwriting(nn.Module):
    """Every result is in the same memory."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.memory = inner, torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.memory.shape != y.shape or self.memory.dtype != y.dtype:
            self.memory = torch.empty_like(y)
        return self.memory.copy_(y)


def test_the_same_function() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(C), nn.ReLU()).eval()
    verdict = convbias.verify(model, copy.deepcopy(model), [torch.randn(2, C, 6, 7)])
    assert verdict
    assert verdict.worst.apart == 0
    assert verdict.dtype == "float64"
    assert "the same function" in str(verdict)
    names = {case.name for case in verdict.cases}
    assert {
        "example",
        "random",
        "zeros",
        "ones",
        "impulse at first last",
        "impulse at middle middle",
    } <= names


def test_a_border_that_is_wrong_and_an_interior_that_is_right() -> None:
    model, x = nn.Sequential(nn.BatchNorm2d(C), conv()).eval(), torch.randn(1, C, 8, 8)
    # Fresh statistics hide it.
    assert convbias.verify(model, folded_plainly, [x])
    verdict = convbias.verify(model, folded_plainly, [x], random_statistics=True)
    assert not verdict
    random = next(case for case in verdict.cases if case.name == "random")
    assert random.border > 0.01
    assert random.interior < 1e-6
    _, row, column = (int(i) for i in random.worst.split("[")[1].rstrip("]").split(",")[1:])
    assert row in (0, 7) or column in (0, 7)
    assert "not the same function" in str(verdict)
    assert "border" in str(verdict)
    assert verdict.to_dict()["same"] is False


def test_the_input_is_not_touched_by_random_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm2d(C), conv()).eval()
    kept = copy.deepcopy(model.state_dict())
    convbias.verify(model, folded_plainly, [torch.randn(1, C, 8, 8)], random_statistics=True)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


layer = conv()
DIFFERENT: dict[str, tuple[nn.Module, str]] = {
    "drifting": (Drifting(layer), "again.*the next call gives another result|border|interior"),
    "overwriting": (Overwriting(layer), "its result is overwritten later"),
    "another size": (nn.Conv2d(C, C, 3), r"output is \(1, 4, 8, 8\), and \(1, 4, 6, 6\)"),
    "several outputs": (
        Run(lambda x: (layer(x), x)),
        r"1 outputs \(output\), and 2 outputs \(output\[0\], output\[1\]\)",
    ),
    "failing": (Run(lambda x: x.no_such_thing()), "the second network fails, AttributeError"),
    "not a number": (Run(lambda x: layer(x) * float("nan")), "inf"),
    "at zero only": (Run(lambda x: layer(x) + (x == 0).all()), "zeros"),
    "at a corner only": (Run(lambda x: layer(x) + F.pad(x[..., -1:, :1], (0, 7, 7, 0))), "border"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_another_function_is_found(case: str) -> None:
    other, said = DIFFERENT[case]
    verdict = convbias.verify(layer, other, [torch.randn(1, C, 8, 8)])
    assert not verdict
    assert any(__import__("re").search(part, str(verdict)) for part in said.split("|")), str(verdict)


def test_sizes_and_batches_that_are_dynamic() -> None:
    def wrong_when_small(x: Tensor) -> Tensor:
        return layer(x) + (x.shape[2] < 4)

    def wrong_in_batches(x: Tensor) -> Tensor:
        return layer(x) + torch.arange(len(x)).reshape(-1, 1, 1, 1) * (len(x) == 3)

    def wrong_when_uneven(x: Tensor) -> Tensor:
        return layer(x) + (x.shape[2] != x.shape[3])

    def wrong_at_seven(x: Tensor) -> Tensor:
        return layer(x) + (x.shape[3] == 7)

    def wrong_when_small_and_uneven(x: Tensor) -> Tensor:
        return layer(x) + (x.shape[2] != x.shape[3] and max(x.shape[2:]) < 8)

    axes = [{0: "n", 2: "h", 3: "w"}]
    x = torch.randn(2, C, 8, 8)
    for other in (
        *(wrong_when_small, wrong_in_batches, wrong_when_uneven, wrong_at_seven),
        wrong_when_small_and_uneven,
    ):
        assert convbias.verify(layer, Run(other), [x])
        assert not convbias.verify(layer, Run(other), [x], dynamic_shapes=axes)
    sizes = {tuple(case.sizes[0]) for case in convbias.verify(layer, layer, [x], dynamic_shapes=axes).cases}
    assert {(2, C, 8, 8), (1, C, 8, 8), (3, C, 8, 8), (2, C, 1, 1)} <= sizes
    kernel = nn.Conv2d(C, C, 3)
    smallest = convbias.verify(kernel, kernel, [x], dynamic_shapes=axes).cases
    assert (2, C, 3, 3) in {tuple(case.sizes[0]) for case in smallest}


def test_no_image_is_much_larger_than_the_example() -> None:
    seen: list[int] = []
    cube = nn.Conv3d(1, 1, 1)
    watched = Run(lambda x: (seen.append(x.numel()), cube(x))[1])
    axes = [{2: "d", 3: "h", 4: "w"}]
    assert convbias.verify(watched, cube, [torch.randn(1, 1, 8, 8, 8)], dynamic_shapes=axes)
    assert max(seen) <= 2**16
    blocks = Run(lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 32), 32))
    x = torch.randn(1, 1, 64, 64)
    verdict = convbias.verify(blocks, Run(lambda x: x + 0), [x], dynamic_shapes=[{2: "h", 3: "w"}])
    assert verdict
    assert len({tuple(case.sizes[0]) for case in verdict.cases}) > 3


class Patches(nn.Module):
    """Takes multiples of the patch alone."""

    def __init__(self, turned: int, patch: int = 14) -> None:
        super().__init__()
        self.turned, self.patch = turned, patch

    def forward(self, x: Tensor) -> Tensor:
        torch._check(x.shape[2] % self.patch == 0)
        torch._check(x.shape[3] % self.patch == 0)
        return F.avg_pool2d(x.roll(self.turned, 2), self.patch)


def turned(by: int) -> Run:
    return Run(lambda x: x.roll(by, 2))


def ranged(least: int, most: int, places: str = "hw") -> list[Any]:
    return [{2 + i: torch.export.Dim(name, min=least, max=most) for i, name in enumerate(places)}]


def multiples(of: int) -> list[Any]:
    return [{2: of * torch.export.Dim("h", max=64), 3: of * torch.export.Dim("w", max=64)}]


AUTO = [{2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}]
# Two networks alike at the example's size alone, the example, its sizes, and some at which they are compared.
CONSTRAINED: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...], list[Any], set[tuple[int, int]]]] = {
    "declared multiples": (Patches(0), Patches(28), (1, 3, 28, 28), multiples(14), {(14, 14), (42, 28)}),
    "multiples": (Patches(0), Patches(28), (1, 3, 28, 28), AUTO, {(14, 14), (42, 28)}),
    "multiples that are primes": (Patches(0, 37), Patches(74, 37), (1, 3, 74, 74), AUTO, {(37, 37)}),
    "declared multiples of all": (turned(0), turned(28), (1, 3, 28, 28), multiples(14), {(14, 14), (42, 28)}),
    "a range from the example": (turned(0), turned(65), (1, 1, 65, 65), ranged(65, 90), {(66, 65)}),
    "a range around the example": (turned(0), turned(78), (1, 1, 78, 80), ranged(65, 90), {(65, 65)}),
    "a range of one axis": (turned(0), turned(78), (1, 1, 78, 80), ranged(65, 90, "h"), {(65, 80)}),
    "squares": (
        Run(lambda x: (torch._check(x.shape[2] == x.shape[3] > 64), x)[1]),
        turned(80),
        (1, 1, 80, 80),
        AUTO,
        {(65, 65), (81, 81)},
    ),
    "twice as wide": (
        Run(lambda x: (torch._check(2 * x.shape[2] == x.shape[3]), x)[1]),
        turned(8),
        (1, 1, 8, 16),
        AUTO,
        {(1, 2), (32, 64)},
    ),
}


@pytest.mark.parametrize("case", CONSTRAINED)
def test_sizes_that_are_constrained(case: str) -> None:
    one, other, size, axes, expected = CONSTRAINED[case]
    x = torch.randn(size)
    assert convbias.verify(one, other, [x])
    verdict = convbias.verify(one, other, [x], dynamic_shapes=axes)
    assert not verdict
    assert not verdict.at_one_size
    assert expected <= {case.sizes[0][2:] for case in verdict.cases}


def test_batches_and_inputs_that_are_constrained() -> None:
    n, k = torch.export.Dim("n", min=4), torch.export.Dim("k")
    verdict = convbias.verify(layer, layer, [torch.randn(6, C, 8, 8)], dynamic_shapes=[{0: n}])
    assert {case.sizes[0][0] for case in verdict.cases} == {4, 5, 6, 7}
    both = Run(lambda x, y: x + F.interpolate(y, scale_factor=2))
    inputs = [torch.randn(1, 1, 8, 16), torch.randn(1, 1, 4, 8)]
    verdict = convbias.verify(both, both, inputs, dynamic_shapes=[{3: 2 * k}, {3: k}])
    assert {(8, 2), (8, 16), (8, 18)} <= {case.sizes[0][2:] for case in verdict.cases}
    assert not verdict.at_one_size


def test_axes_of_which_one_size_was_compared_are_named() -> None:
    x = torch.randn(1, C, 8, 8)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(C * 64, 2))
    axes: list[Any] = [{0: torch.export.Dim("n"), **AUTO[0]}]
    verdict = convbias.verify(flat, flat, [x], dynamic_shapes=axes)
    assert verdict
    assert verdict.at_one_size == ("axis 2 of input 0", "axis 3 of input 0")
    assert "compared at the example's size alone: axis 2 of input 0, axis 3 of input 0" in str(verdict)
    assert verdict.to_dict()["at_one_size"] == verdict.at_one_size
    # What torch.export is told to leave as it is needs no other size.
    fixed: list[Any] = [{0: 1, 2: torch.export.Dim.STATIC, 3: None}]
    assert not convbias.verify(flat, flat, [x], dynamic_shapes=fixed).at_one_size


def test_a_fold_is_checked_at_other_sizes_or_says_so() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), Patches(0), nn.Conv2d(3, 4, 1)).eval()
    folded = convbias.fold(model, torch.randn(1, 3, 28, 28), dynamic_shapes=AUTO, force="all")
    assert folded.report.folded
    assert folded.verdict is not None
    assert len({case.sizes[0] for case in folded.verdict.cases}) > 3
    flat = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2)).eval()
    folded = convbias.fold(flat, torch.randn(1, 3, 8, 8), dynamic_shapes=AUTO, force="all")
    assert "compared at the example's size alone: axis 2 of input 0" in str(folded.verdict)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_sizes_that_a_program_does_not_declare_are_left_out() -> None:
    x, h = torch.randn(2, C, 8, 8), torch.export.Dim("h", min=4, max=10)
    program = torch.export.export(conv(), (x,), dynamic_shapes=({2: h},), strict=False)
    verdict = convbias.verify(program, program, [x], dynamic_shapes=({2: h},))
    assert verdict
    assert verdict.dtype == "float64"
    assert {case.sizes[0][2] for case in verdict.cases} == set(range(4, 11))


NUMBERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "imaginary parts": (lambda x: torch.complex(x, x), lambda x: torch.complex(x, -x)),
    "numbers": (lambda x: 1, lambda x: 2),
    "numbers beside tensors": (lambda x: (x, 1.0), lambda x: (x, 2.0)),
    "words": (lambda x: (x, "a"), lambda x: (x, "b")),
    "none and a tensor": (lambda x: (x, None), lambda x: (x, x)),
    "large whole numbers": (lambda x: x.long() * 0 + 2**60, lambda x: x.long() * 0 + 2**60 + 1),
    "places in a dict": (lambda x: {"a": x, "b": 2 * x}, lambda x: {"b": x, "a": 2 * x}),
    "places in tuples": (lambda x: (x, (x,)), lambda x: ((x, x),)),
    "a dict and a tuple": (lambda x: {"a": x}, lambda x: (x,)),
    "whole numbers and others": (lambda x: (x > 0).long(), lambda x: (x > 0).float()),
    "shorter whole numbers": (lambda x: (x > 0).long(), lambda x: (x > 0).int()),
    "whole numbers of Python's": (lambda x: 3, lambda x: 3.0),
    "half the precision": (lambda x: x, lambda x: x.half()),
    "truths": (lambda x: x > 0, lambda x: x >= x.max()),
    "truths without space": (lambda x: (x > 0).any(), lambda x: (x > 9).any()),
    "whole numbers without arithmetic": (
        lambda x: (x > 0).to(torch.uint16),
        lambda x: (x > 1).to(torch.uint16),
    ),
    "numbers of eight bits": (
        lambda x: x.to(torch.float8_e4m3fn),
        lambda x: (2 * x).to(torch.float8_e4m3fn),
    ),
    "dense and sparse": (lambda x: x, lambda x: x.to_sparse()),
    "one of many pixels": (lambda x: (x * 0 + 255).byte(), lambda x: (x * 0 + 254).byte()),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_outputs_of_every_kind_are_compared(case: str) -> None:
    one, other = map(Run, NUMBERS[case])
    x = torch.randn(1, C, 8, 8)
    assert convbias.verify(one, one, [x])
    assert not convbias.verify(one, other, [x])
    if case != "dense and sparse":
        assert not convbias.verify(other, one, [x])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_outputs_that_are_no_plain_numbers_are_refused() -> None:
    x = torch.randn(1, C, 8, 8)
    packed = Run(lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8))
    for run, said in (
        (packed, r"a: its output is of torch.quint8, which is not compared; let it give \.dequantize\(\)"),
        (Run(lambda x: (x, x.to_sparse())), r"a: its output\[1\] is of torch.sparse_coo.*\.to_dense\(\)"),
    ):
        with pytest.raises(ValueError, match=said):
            convbias.verify(run, run, [x])
    assert "output is of torch.float32, and of torch.quint8" in str(convbias.verify(layer, packed, [x]))


def test_the_order_of_a_dict_means_nothing() -> None:
    x = torch.randn(1, C, 8, 8)
    one, other = Run(lambda x: {"a": layer(x), "b": x}), Run(lambda x: {"b": x, "a": layer(x)})
    assert convbias.verify(one, other, [x])


class Off(nn.Module):
    """Another module's output, changed."""

    def __init__(self, inner: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.inner(x))


def column(y: Tensor, by: float) -> Tensor:
    return y + by * F.pad(torch.ones_like(y[..., :1]), (y.shape[3] - 1, 0))


high = conv()
nn.init.constant_(high.get_parameter("bias"), 1e5)
SLIGHTLY: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
    "a border by a hundredth of a thousandth": (layer, lambda y: column(y, 5e-5 * y.abs().max().item())),
    "a border beside a large bias": (high, lambda y: column(y, 1.0)),
    "a quiet channel": (
        Off(conv(), lambda y: torch.cat([1e5 * y[:, :2], y[:, 2:]], 1)),
        lambda y: torch.cat([y[:, :2], 1.1 * y[:, 2:]], 1),
    ),
    "four in a hundred of numbers of half the precision": (conv().bfloat16(), lambda y: 1.04 * y),
    "double": (conv().double(), lambda y: y * (1 + 1e-7)),
    "beside half a number that nobody reads": (
        layer,
        lambda y: (y.mean().half(), column(y, 0.01 * y.abs().max().item()))[1],
    ),
    "beside one in both": (
        Off(layer, lambda y: (y.half(), y)[1]),
        lambda y: column(y, 0.01 * y.abs().max().item()),
    ),
    "in coarser numbers than the first": (layer, lambda y: y.bfloat16().to(y)),
}


@pytest.mark.parametrize("case", SLIGHTLY)
def test_slight_differences_are_found(case: str) -> None:
    model, change = SLIGHTLY[case]
    x = torch.randn(1, C, 8, 8, dtype=next(model.parameters()).dtype)
    assert convbias.verify(model, Off(model, lambda y: y), [x])
    assert not convbias.verify(model, Off(model, change), [x])


def test_rounding_on_the_way_is_no_difference() -> None:
    """Numbers that a network itself casts to a coarser type differ by that type's rounding."""
    one, other = (
        Off(layer, lambda y: (y.float() / 3).to(y)),
        Off(layer, lambda y: (y.float() * (1 / 3)).to(y)),
    )
    verdict = convbias.verify(one, other, [torch.randn(1, C, 8, 8)])
    assert verdict
    assert verdict.worst.apart > 1e-9
    assert not convbias.verify(one, Off(layer, lambda y: (y.float() / 3.01).to(y)), [torch.randn(1, C, 8, 8)])
    halves = (
        Off(layer, lambda y: (y.half() / 3).to(y)),
        Off(layer, lambda y: (y.half() * 5 / 15).to(y)),
    )
    assert convbias.verify(*halves, [torch.randn(1, C, 8, 8)])


def test_a_cast_that_does_nothing_is_no_difference() -> None:
    """In float64, where networks are compared, it does something."""
    assert convbias.verify(layer, Run(lambda x: layer(x).float()), [torch.randn(1, C, 8, 8)])
    assert convbias.verify(Run(lambda x: layer(x).float()), layer, [torch.randn(1, C, 8, 8)])


def test_what_is_random_is_the_same_at_every_call() -> None:
    noisy = Run(lambda x: F.dropout(layer(x)) + torch.randn(1, C, 1, 1))
    other = Run(lambda x: F.dropout(layer(x)) - torch.randn(1, C, 1, 1))
    x = torch.randn(1, C, 8, 8)
    state = torch.get_rng_state()
    assert convbias.verify(noisy, noisy, [x])
    assert torch.equal(torch.get_rng_state(), state)
    assert not convbias.verify(noisy, other, [x])
    with pytest.raises(ValueError, match="a: is no function of its input"):
        convbias.verify(Drifting(layer), layer, [x])


def test_rounding_is_not_measured_by_what_cancels() -> None:
    even = conv(bias=False).double()
    with torch.no_grad():
        even.weight -= even.weight.mean((1, 2, 3), keepdim=True) - 1e-7
    noisy = Off(even, lambda y: y + 1e-10)
    assert convbias.verify(even, noisy, [torch.randn(1, C, 8, 8).double()])


def test_random_statistics_of_two_modules() -> None:
    model, x = nn.Sequential(nn.BatchNorm2d(C), conv()).eval(), torch.randn(1, C, 8, 8)
    other = copy.deepcopy(model)
    programs = [torch.export.export(one, (x,), strict=False) for one in (model, other)]
    assert convbias.verify(model, other, [x], random_statistics=True)
    assert convbias.verify(programs[0], programs[1], [x], random_statistics=True)
    with torch.no_grad():
        other[1].weight *= 1.1  # pyright: ignore
    assert not convbias.verify(model, other, [x], random_statistics=True)
    with pytest.raises(ValueError, match="random_statistics: both networks need the same normalisations"):
        convbias.verify(model, model[1], [x], random_statistics=True)


def test_negative_numbers_and_rows_that_the_example_does_not_name() -> None:
    x = torch.randn(1, C, 8, 8)
    wrong = Run(lambda x: layer(x) + (x == -1).all())
    assert not convbias.verify(layer, wrong, [x])
    table = nn.Embedding(37, 3)
    other = copy.deepcopy(table)
    with torch.no_grad():
        other.weight[36] += 1
    assert convbias.verify(table, copy.deepcopy(table), [torch.arange(5)])
    assert not convbias.verify(table, other, [torch.arange(5)])


def test_nothing_to_compare_is_no_agreement() -> None:
    x = torch.randn(1, C, 8, 8)
    for run in (lambda x: None, lambda x: x * float("nan"), lambda x: x[:0]):
        with pytest.raises(ValueError, match="nothing can be compared"):
            convbias.verify(Run(run), Run(run), [x])
    with pytest.raises(ValueError, match=r"example_inputs\[0\]: is empty, \(0, 4, 8, 8\)"):
        convbias.verify(layer, layer, [x[:0]])


def test_an_optimizer_that_works_in_place_gets_a_copy() -> None:
    def wiped(model: nn.Module) -> nn.Module:
        nn.init.zeros_(model.weight)  # pyright: ignore
        return model

    kept = layer.weight.clone()
    assert not convbias.verify(layer, wiped, [torch.randn(1, C, 8, 8)])
    assert torch.equal(layer.weight, kept)


def test_networks_that_work_in_place_on_their_input() -> None:
    x = torch.randn(2, C, 8, 8)
    kept = x.clone()
    normed = Run(lambda x: layer(x.sub_(0.3).div_(0.2)))
    plain = Run(lambda x: layer((x - 0.3) / 0.2))
    for one, other in ((nn.ReLU(inplace=True), nn.ReLU()), (normed, normed), (normed, plain)):
        assert convbias.verify(one, other, [x])
        assert convbias.verify(other, one, [x])
        assert torch.equal(x, kept)
    assert not convbias.verify(normed, layer, [x])


def test_inputs_that_the_first_network_does_not_take_are_named() -> None:
    table = nn.Embedding(10, 3)
    few = Run(lambda i: table(i.int()))
    verdict = convbias.verify(few, few, [torch.randint(0, 9, (1, 4), dtype=torch.uint8)])
    assert verdict
    assert set(verdict.skipped) == {"random", "large"}
    assert "the first network fails: random, large" in str(verdict)
    other = Run(lambda i: table(i.int()) + (i == 1)[..., None])
    assert not convbias.verify(few, other, [torch.zeros(1, 4, dtype=torch.uint8)])


def test_wrong_arguments_of_verify() -> None:
    x = torch.randn(2, C, 8, 8)
    assert convbias.verify(layer, layer, x)
    for tolerance in (float("nan"), -1.0, float("inf")):
        with pytest.raises(ValueError, match=f"tolerance={tolerance}: must be a number, 0 or more"):
            convbias.verify(layer, layer, x, tolerance=tolerance)
    words: Any = "a"
    with pytest.raises(ValueError, match="tolerance='a': must be a number, 0 or more"):
        convbias.verify(layer, layer, x, tolerance=words)
    axes: Any
    for axes, said in (
        (3, "dynamic_shapes=3: must be a sequence of dicts"),
        ((3,), "its entry 3 must be one of a sequence of dicts"),
        (({"a": 1},), "axis 'a' is none of an input"),
        (({2: 1.5},), "the size 1.5 must be a Dim, a name, or None"),
    ):
        with pytest.raises(ValueError, match=said):
            convbias.verify(layer, layer, x, dynamic_shapes=axes)
    with pytest.raises(ValueError, match=r"example_inputs\[0\]: is on the device meta, without numbers"):
        convbias.verify(layer, layer, x.to("meta"))
    with pytest.raises(ValueError, match="needs one entry for each of the 1 inputs"):
        convbias.verify(layer, layer, x, dynamic_shapes=[{0: "n"}, {0: "n"}])
    with pytest.raises(ValueError, match=r"axis 7 is none of an input \(2, 4, 8, 8\)"):
        convbias.verify(layer, layer, x, dynamic_shapes=[{7: "n"}])
    with pytest.raises(ValueError, match=r"example_inputs=3: must be a tensor"):
        convbias.verify(layer, layer, 3)  # pyright: ignore
    with pytest.raises(ValueError, match=r"load a \.pt2 with convbias") as told:
        convbias.verify(layer, "d.pt2", x)
    assert pkgutil.resolve_name(str(told.value).split()[-1]) is load_program
    wide = Run(lambda x: layer(x) * (1 if x.shape[3] == 8 else 2))
    for axes in ([{-1: "w"}], {"x": {3: "w"}}, [[None, None, None, "w"]]):
        assert not convbias.verify(layer, wide, x, dynamic_shapes=axes)


def test_programs_and_structures() -> None:
    model = Run(lambda x: {"a": layer(x), "b": [x.sum(), layer(x).relu()]})
    x = torch.randn(2, C, 8, 8)
    program = torch.export.export(model, (x,), strict=False)
    assert convbias.verify(model, program, [x])
    assert convbias.verify(program, model, [x])
    wrong = Run(lambda x: {"a": layer(x), "b": [x.sum(), layer(x)]})
    assert "output['b'][1]" in str(convbias.verify(program, wrong, [x]))


def test_whole_numbers() -> None:
    table = nn.Embedding(10, 3)
    assert convbias.verify(table, copy.deepcopy(table), [torch.randint(0, 10, (2, 5))])
    pixels = Run(lambda x: layer(x.float()))
    off = Run(lambda x: layer(x.float() / 255 * 256))
    x = torch.randint(0, 256, (1, C, 8, 8), dtype=torch.uint8)
    assert convbias.verify(pixels, pixels, [x])
    assert not convbias.verify(pixels, off, [x])


def test_half_precision_has_its_own_rounding() -> None:
    half = copy.deepcopy(layer).bfloat16()
    assert convbias.verify(layer, half.float(), [torch.randn(1, C, 8, 8)], tolerance=0.05)
    assert not convbias.verify(layer, half.float(), [torch.randn(1, C, 8, 8)])


def test_what_cannot_be_compared() -> None:
    with pytest.raises(
        ValueError, match=r"example_inputs=\[\(1, 5, 8, 8\)\]: the network does not take them"
    ):
        convbias.verify(layer, layer, [torch.randn(1, 5, 8, 8)])
    with pytest.raises(TypeError, match="model=int: must be a module, an exported program or an ONNX model"):
        convbias.verify(layer, 3, [torch.randn(1, C, 8, 8)])


def test_random_statistics_hide_nothing() -> None:
    model = randomised(nn.Sequential(nn.BatchNorm2d(C, affine=False), nn.BatchNorm2d(C)))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_mean.abs().min() > 0
    assert torch.equal(randomised(model)[1].weight, randomised(model)[1].weight)  # pyright: ignore


def onnx_file(model: nn.Module, path: Path, x: Tensor) -> Path:
    program = torch.onnx.export(
        model, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: "n", 2: "h", 3: "w"},)
    )
    assert program is not None
    program.save(path)
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_onnx_files(tmp_path: Path) -> None:
    model, x = randomised(nn.Sequential(nn.BatchNorm2d(C), conv())).eval(), torch.randn(2, C, 8, 9)
    right = onnx_file(model, tmp_path / "right.onnx", x)
    wrong = onnx_file(folded_plainly(model), tmp_path / "wrong.onnx", x)
    assert convbias.verify(model, right, [x])
    axes = [{0: "n", 2: "h", 3: "w"}]
    verdict = convbias.verify(right, wrong, [x], dynamic_shapes=axes)
    assert not verdict
    assert verdict.dtype == "float32"
    assert len({tuple(case.sizes[0]) for case in verdict.cases}) > 3
    # A difference that only rounding in float32 explains, and float64 does not.
    near = copy.deepcopy(model)
    with torch.no_grad():
        near[1].weight *= 1 + 3e-5  # pyright: ignore
    assert convbias.verify(right, onnx_file(near, tmp_path / "near.onnx", x), [x])
    assert not convbias.verify(model, near, [x])
    # A difference that only rounding in float32 explains, and float64 does not.
    near = copy.deepcopy(model)
    with torch.no_grad():
        near[1].weight *= 1 + 3e-5  # pyright: ignore
    assert convbias.verify(right, onnx_file(near, tmp_path / "near.onnx", x), [x])
    assert not convbias.verify(model, near, [x])
    for name, content in {"empty": b"", "text": b"hello", "cut": right.read_bytes()[:300]}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.onnx: ONNX Runtime cannot load it"):
            convbias.verify(path, model, [x])
    with pytest.raises(DataError, match="there is no such file"):
        convbias.verify(tmp_path / "none.onnx", model, [x])
    with pytest.raises(DataError, match=r"must be an .onnx file"):
        convbias.verify(tmp_path / "none.pb", model, [x])


def test_onnx_files_in_bfloat16() -> None:
    from onnx import TensorProto, helper

    def cast(ins: int, outs: int) -> Any:
        values = (
            helper.make_tensor_value_info(name, kind, [1, 3]) for name, kind in (("x", ins), ("y", outs))
        )
        x, y = values
        nodes = [helper.make_node("Cast", ["x"], ["y"], to=outs)]
        graph = helper.make_graph(nodes, "graph", [x], [y])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    for kinds, place in (("BFLOAT16", "FLOAT"), "input x"), (("FLOAT", "BFLOAT16"), "output y"):
        model = cast(*(getattr(TensorProto, kind) for kind in kinds))
        with pytest.raises(ValueError, match=rf"model: its {place} is a tensor\(bfloat16\)"):
            convbias.verify(model, model, [torch.randn(1, 3)])

"""Where the windows fall: against what torch's own convolutions do to planes of ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from convbias import Geometry, ShapeError, Site
from convbias.geometry import PADDING_MODES


@st.composite
def lines(draw: st.DrawFn) -> tuple[Geometry, int]:
    """A geometry in one axis, and an input size that it can take."""
    k, s, d = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    n = draw(st.integers(1, 9))
    transposed = draw(st.booleans())
    mode = "zeros" if transposed else draw(st.sampled_from(PADDING_MODES))
    padding: str | int = draw(st.integers(0, 5))
    if not transposed and s == 1:
        padding = draw(st.sampled_from(["same", "valid", padding]))
    extra = draw(st.integers(0, max(s, d) - 1)) if transposed else 0
    geometry = Geometry.of(
        1, k, s, padding, d, padding_mode=mode, transposed=transposed, output_padding=extra
    )
    most = max(geometry.pads[0])
    assume(mode == "zeros" or most < n)
    assume(geometry.output_size((n,))[0] >= 1)
    return geometry, n


def taps_seen(geometry: Geometry, n: int) -> Tensor:
    """What each tap contributes to each output when the image is all ones: (out, k)."""
    k = geometry.kernel_size[0]
    one_hot = torch.eye(k, dtype=torch.float64)[:, None, :]
    weight = one_hot.transpose(0, 1) if geometry.transposed else one_hot
    return geometry.convolve(torch.ones(1, 1, n, dtype=torch.float64), weight)[0].T


@given(lines())
def test_sizes_and_valid_taps_are_those_of_torch(line: tuple[Geometry, int]) -> None:
    geometry, n = line
    seen = taps_seen(geometry, n)
    (valid,) = geometry.valid_taps((n,))
    assert geometry.output_size((n,)) == (len(seen),)
    assert torch.equal(valid.double(), seen)
    assert not geometry.covers or bool(valid.all())


@given(lines())
def test_input_sizes_inverts_output_size(line: tuple[Geometry, int]) -> None:
    geometry, n = line
    out = geometry.output_size((n,))
    (sizes,) = geometry.input_sizes(out)
    assert n in sizes
    assert all(geometry.output_size((m,)) == out for m in sizes)
    assert all(geometry.output_size((m,)) != out for m in (sizes[0] - 1, sizes[-1] + 1) if m > 0)


@pytest.mark.parametrize("output_size", [9, 10, 11])
def test_with_output_size_is_torchs_output_padding(output_size: int) -> None:
    geometry = Geometry.of(1, 4, 3, 1, transposed=True)
    layer = torch.nn.ConvTranspose1d(1, 1, 4, 3, 1)
    x = torch.zeros(1, 1, 3)
    if output_size > 10:
        with pytest.raises(ShapeError, match=r"output_size=\(11,\).*valid sizes range from \[8\] to \[10\]"):
            geometry.with_output_size((3,), (output_size,))
    else:
        found = geometry.with_output_size((3,), (output_size,))
        assert found.output_size((3,)) == tuple(layer(x, output_size=[output_size]).shape[2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, r"kernel_size=\(0, 0\): must be at least 1"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size=\(3, 3, 3\): needs one integer, or one for each of 2"),
        ({"kernel_size": 3, "stride": 0}, r"stride=\(0, 0\): must be at least 1"),
        ({"kernel_size": 3, "padding": -1}, r"padding=-1: must not be negative; crop"),
        ({"kernel_size": 3, "padding": "full"}, r"padding='full': Invalid padding string; give integers"),
        ({"kernel_size": 3, "padding": "same", "stride": 2}, "not supported for strided"),
        (
            {"kernel_size": 3, "padding_mode": "mirror"},
            r"padding_mode='mirror': padding_mode must be one of zeros",
        ),
        ({"kernel_size": 3, "padding_mode": "circular", "transposed": True}, "Only .zeros. padding"),
    ],
)
def test_what_no_convolution_can_have_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Geometry.of(2, **arguments)  # pyright: ignore[reportArgumentType]


def test_wrong_sizes_are_refused() -> None:
    geometry = Geometry.of(2, 3)
    with pytest.raises(ShapeError, match=r"input_size=\(5,\): needs 2 axes"):
        geometry.output_size((5,))
    with pytest.raises(ShapeError, match=r"output_size=\(5,\): needs 2 axes"):
        geometry.input_sizes((5,))
    with pytest.raises(ShapeError, match="output_size=None: this needs the output's size"):
        _ = Site(3, 2, geometry).field_shape
